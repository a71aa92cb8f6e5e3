#!/usr/bin/env python3
"""Measure the page of `cochlea serve` with a library of 100,000 sounds, as a browser asks for it.

    python benchmarks/page.py [--sounds 100000] [--windows 5] [--folder kept]

The vectors are generated in clusters. The files are 2,000 bursts of noise, hard links to them, and three recordings of
two hours. The script prints a Markdown table of times, and the memory of the server (Linux only). Most questions are
asked 20 times, each time for another sound.
"""

import argparse
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from cochlea_sb import AudioEncoder, SoundLibrary
from cochlea_sb.data.sounds import Source
from cochlea_sb.inference.batch import Encoded

AT_ONCE, FILES, TIMES, SAMPLE_RATE = 10_000, 2000, 20, 16_000
HOURS = 2
LONG = {"16-bit WAV": ("wav", "PCM_16"), "FLAC": ("flac", "PCM_16"), "24-bit WAV, decoded": ("wav", "PCM_24")}
COCHLEA = [sys.executable, "-c", "from cochlea_sb.cli import cochlea; cochlea()"]


def burst(rng, seconds):
    samples = round(seconds * SAMPLE_RATE)
    wav = rng.standard_normal(samples, np.float32) * np.exp(-np.arange(samples) * rng.uniform(1, 20) / samples)
    return 0.2 * wav


def write_files(folder, n_sounds, seconds):
    """Write the bursts and the links to them; yields the path of each sound."""
    rng, written = np.random.default_rng(0), []
    for number in range(n_sounds):
        path = folder / f"pack {number % 97}" / f"kind{number % 2000} sound {number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < FILES:
            soundfile.write(path, burst(rng, seconds), SAMPLE_RATE)
            written.append(path)
        else:
            os.link(written[number % FILES], path)
        yield path


def write_long(folder):
    """Write a recording of two hours in several formats; yields their paths."""
    noise = burst(np.random.default_rng(1), 60)
    for number, (suffix, encoding) in enumerate(LONG.values()):
        path = folder / "long" / f"recording {number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, encoding) as file:
            for _ in range(60 * HOURS):
                file.write(noise)
        yield path


def generate(folder, n_sounds, n_windows):
    """Make the library and its files. The windows of a sound lie around a centre, which lies near one of many kinds."""
    encoder = AudioEncoder.from_hparams(run_opts={"device": "cpu"})
    size, rng = encoder.embedding_size, np.random.default_rng(0)
    kinds = rng.standard_normal((2000, size), np.float32)
    library = SoundLibrary.create(folder / "page.library", encoder)
    seconds = library.hop_seconds * (n_windows + 1)
    lengths = [(path, seconds) for path in tqdm(write_files(folder / "sounds", n_sounds, seconds), desc="files")]
    lengths += [(path, 3600.0 * HOURS) for path in write_long(folder / "sounds")]
    with library._writer() as writer:
        for first in tqdm(range(0, len(lengths), AT_ONCE), desc="library"):
            part = lengths[first : first + AT_ONCE]
            centres = kinds[rng.integers(len(kinds), size=len(part))] + 0.6 * rng.standard_normal((len(part), size))
            vectors = centres[:, None] + 0.4 * rng.standard_normal((len(part), n_windows, size))
            vectors = (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)
            writer.commit(
                [
                    Encoded(Source(str(path), None, f"kind{number % 50}", 1, number), own, long, f"{number:032x}", None)
                    for number, ((path, long), own) in enumerate(zip(part, vectors, strict=True), first)
                ]
            )
        writer.merge()


class Page:
    """Asks a server, and collects a row of the table for each kind of question."""

    def __init__(self, address):
        self.address, self.rows = address, []

    def ask(self, path, data=None, **headers):
        """Returns the answer of the server, or None if it knows no such address, and the time in seconds."""
        request = urllib.request.Request(self.address + path, data, headers)
        start = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise RuntimeError(f"{path}: {error.read().decode()}") from error
            content = None
        return content, time.perf_counter() - start

    def measure(self, name, paths, **headers):
        """Ask for each path; adds a row with the first and the median time."""
        answers = [self.ask(path, **headers) for path in paths]
        if answers[0][0] is None:
            self.rows.append((name, None, None))
        else:
            self.add(name, [seconds for _, seconds in answers])
        return [content for content, _ in answers]

    def add(self, name, times):
        self.rows.append((name, times[0], statistics.median(times[1:] or times)))


def examples(count):
    """WAV files of 5 s."""
    rng = np.random.default_rng(2)
    for _ in range(count):
        file = io.BytesIO()
        soundfile.write(file, burst(rng, 5), SAMPLE_RATE, format="WAV")
        yield file.getvalue()


def name_of(path):
    """The name of a sound in an address."""
    return hashlib.sha256(path.encode()).hexdigest()[:16]


def measure(page, paths):
    """Ask for everything that the page needs. The last of ``paths`` are the long recordings."""
    page.measure("the page", ["/"] * TIMES)
    page.measure("the facts of the library", ["/api/library"] * 5)
    page.measure("random sounds", ["/api/random?k=24"] * TIMES)
    page.measure("sounds to browse", ["/api/browse?k=24"] * TIMES)
    long = {kind: name_of(paths.pop()) for kind in reversed(LONG)}
    names = [name_of(path) for path in np.random.default_rng(3).choice(paths, TIMES)]
    like = [f"/api/search?like={name}&k=24" for name in names]
    page.measure("search by a sound", like)
    for text in ("words=pack+3", "words=SOUND+-kind7", "min_seconds=1", "label=kind7", "per_folder=2", "fold_copies=1"):
        page.measure(f"search with `{text}`", [f"{path}&{text}" for path in like])
    upload, query = [], []
    for content in examples(TIMES):
        answer, seconds = page.ask("/api/examples", content)
        upload.append(seconds)
        query.append(page.ask(f"/api/search?like={json.loads(answer)['id']}&k=24")[1])
    page.add("upload of 5 s", upload)
    page.add("upload of 5 s, and its search", [sum(both) for both in zip(upload, query, strict=True)])
    page.measure("outline of a sound", [f"/api/sounds/{name}/outline" for name in names])
    page.measure("audio of a sound", [f"/api/sounds/{name}/audio" for name in names])
    for kind, name in long.items():
        path = f"/api/sounds/{name}/audio"
        request = urllib.request.Request(page.address + path, headers={"Range": "bytes=0-99"})
        with urllib.request.urlopen(request) as response:
            size = int(response.headers["Content-Range"].rpartition("/")[2])
        times = [
            page.ask(path, Range=f"bytes={size - back}-{size - back + (1 << 18)}")[1] for back in (10**6, 2 * 10**6)
        ]
        page.add(f"256 KiB near the end of {HOURS} hours, {kind}", times)
        page.measure(f"outline of {HOURS} hours, {kind}", [f"/api/sounds/{name}/outline"])
    page.measure("the map", ["/api/map"] * 3)
    page.measure("the points of the map", ["/api/map/points"] * 3)


def search_by_command(library, folder):
    """Seconds of `cochlea search` of a sound of 5 s, each time in a new process."""
    file, times = Path(folder, "example.wav"), []
    file.write_bytes(next(examples(1)))
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([*COCHLEA, "search", str(library), str(file), "-k", "24"], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return times


def peak_megabytes(process):
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sounds", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=5, help="number of windows of each sound")
    parser.add_argument("--folder", help="keep the library and its files in this folder, and reuse them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.folder or scratch).absolute()
        library = folder / "page.library"
        if not library.exists():
            generate(folder, arguments.sounds, arguments.windows)
        start = time.perf_counter()
        command = [*COCHLEA, "serve", str(library), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                page = Page(process.stdout.readline().strip().rstrip("/"))
                page.ask("/")
                page.add("start of the server", [time.perf_counter() - start])
                measure(page, SoundLibrary.open(library).sounds["path"].to_pylist())
                peak = peak_megabytes(process)
            finally:
                process.terminate()
        page.add("`cochlea search` of 5 s, a new process", search_by_command(library, scratch))
    print("| what | first, ms | then, median, ms |\n|---|---|---|")
    for name, *times in page.rows:
        shown = ["not served (404)", ""] if times[0] is None else [f"{1e3 * seconds:,.1f}" for seconds in times]
        print(f"| {name} | {shown[0]} | {shown[1]} |")
    print(f"\nmost memory of the server: {peak:,.0f} MB")


if __name__ == "__main__":
    main()
