#!/usr/bin/env python3
"""Measure what a command costs before it answers, in times of the import of torch.

    python benchmarks/start.py [--sounds 2000] [--windows 4] [--times 7]

The library holds generated vectors, and the query is a file of 2 s. The commands run in turn, each in a new process.
The script prints a Markdown table: the processor time (user and system) and the largest memory of each command, as
medians, and the median of the ratios to the import of torch in the same turn.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

COCHLEA = ["-c", "from cochlea_sb.cli import cochlea; cochlea()"]


class Cost(NamedTuple):
    seconds: float  # of all cores
    megabytes: float  # most in memory at one time


def generate(folder, n_sounds, n_windows):
    """Make a library; the windows of a sound lie around a centre."""
    from cochlea_sb import AudioEncoder, SoundLibrary
    from cochlea_sb.data.sounds import Source
    from cochlea_sb.inference.batch import Encoded

    encoder, rng = AudioEncoder.from_hparams(run_opts={"device": "cpu"}), np.random.default_rng(0)
    library = SoundLibrary.create(folder, encoder)
    centres = rng.standard_normal((n_sounds, 1, encoder.embedding_size))
    vectors = centres + 0.4 * rng.standard_normal((n_sounds, n_windows, encoder.embedding_size))
    vectors = (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)
    seconds = library.hop_seconds * (n_windows + 1)
    with library._writer() as writer:
        writer.commit(
            [
                Encoded(Source(f"/sounds/{number}.wav", None, None, 1, number), own, seconds, f"{number:032x}", None)
                for number, own in enumerate(vectors)
            ]
        )
        writer.merge()


def cost(arguments):
    """Run Python with these arguments to its end."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sounds", type=int, default=2000)
    parser.add_argument("--windows", type=int, default=4, help="number of windows of each sound")
    parser.add_argument("--times", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        library, query = Path(scratch, "start.library"), Path(scratch, "query.wav")
        # In a process of its own, because a new process inherits the peak of the memory of the process that starts it.
        maker = multiprocessing.get_context("spawn").Process(
            target=generate, args=(library, arguments.sounds, arguments.windows)
        )
        maker.start()
        maker.join()
        soundfile.write(query, 0.1 * np.random.default_rng(1).standard_normal(32_000), 16_000)
        commands = {
            'python -c "import torch"': ["-c", "import torch"],
            "cochlea search LIBRARY FILE": [*COCHLEA, "search", library, query],
            "cochlea info LIBRARY": [*COCHLEA, "info", library],
            "cochlea --help": [*COCHLEA, "--help"],
        }
        for command in commands.values():  # fills the caches of the disk and of compiled functions
            cost(command)
        costs = [[cost(command) for command in commands.values()] for _ in range(arguments.times)]
    print("| command | seconds | times the import of torch | MB |\n|---|---:|---:|---:|")
    for name, of_one in zip(commands, zip(*costs, strict=True), strict=True):
        ratio = statistics.median(one.seconds / turn[0].seconds for one, turn in zip(of_one, costs, strict=True))
        seconds, megabytes = (statistics.median(values) for values in zip(*of_one, strict=True))
        print(f"| `{name}` | {seconds:.2f} | {ratio:.2f} | {megabytes:.0f} |")


if __name__ == "__main__":
    main()
