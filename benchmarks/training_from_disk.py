#!/usr/bin/env python3
"""Compare training on a corpus that is on the disk with training on one that is in memory.

    python benchmarks/training_from_disk.py FOLDER [--gigabytes 8] [--channels 16 32 64 128]

Start it with a memory limit below the size of the corpus, for example by `systemd-run --scope -p MemoryMax=4G`. FOLDER
gets a file of random frames, which is used again. All pairs come from the corpus. Each round times steps of both.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from cochlea_sb.data.disk_bank import DiskBank
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.files import whole_file
from cochlea_sb.training.brain import EmbeddingBrain
from cochlea_sb.training.loader import make_loader
from cochlea_sb.training.pairs import PairBatches
from cochlea_sb.training.recipe import load_experiment

LENGTH = 1000  # frames of a sound: 10 s, as in AudioSet


def write_frames(path, n_sounds):
    shape = (n_sounds * LENGTH, 64)
    generator = np.random.default_rng(0)
    with whole_file(path) as partial:
        array = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
        for first in range(0, len(array), 100 * LENGTH):
            part = array[first : first + 100 * LENGTH]
            part[:] = generator.standard_normal(part.shape, np.float32) - 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=8, help="of the corpus on the disk")
    parser.add_argument("--in_memory", type=float, default=0.25, help="gigabytes of the corpus in memory")
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="steps in a round")
    arguments = parser.parse_args()
    hparams, _ = load_experiment("hparams/cnn.yaml", {"channels": arguments.channels})
    hparams["checkpointer"] = None
    front_end = hparams["compute_features"]
    brain = EmbeddingBrain(hparams["modules"], hparams["opt_class"], hparams, {"device": arguments.device})
    brain.init_optimizers()
    brain.modules.train()

    iterators = {}
    for name, gigabytes in (("memory", arguments.in_memory), ("disk", arguments.gigabytes)):
        n_sounds = int(gigabytes * 1e9 / (2 * 64 * LENGTH))
        file = arguments.folder / f"frames-{n_sounds}.npy"
        if not file.is_file():
            write_frames(file, n_sounds)
        facts = torch.full((n_sounds,), LENGTH), front_end.silence, front_end.level
        if name == "disk":
            bank = DiskBank(file, *facts)
        else:
            bank = FrameBank(torch.from_numpy(np.load(file)).to(arguments.device), *facts)
        start = time.perf_counter()
        batches = PairBatches(bank, hparams["batch_size"], 10**6, crop_frames=hparams["crop_frames"])
        print(f"{bank}: prepared in {time.perf_counter() - start:.1f} s")
        iterators[name] = iter(make_loader(batches, arguments.device))

    times = {name: [] for name in iterators}
    for number in range(arguments.rounds + 1):
        for name, batches in iterators.items():
            start = time.perf_counter()
            for _ in range(arguments.steps):
                brain.step += 1
                brain.update_average(brain.fit_batch(next(batches)), 0.0)
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - start) / arguments.steps)
    memory, disk = (float(np.median(times[name])) for name in ("memory", "disk"))
    for name, seconds in (("memory", memory), ("disk", disk)):
        print(f"{name:8}{1000 * seconds:8.1f} ms a step {2 * hparams['batch_size'] / seconds:8,.0f} windows/s")
    ratios = sorted(a / b for a, b in zip(*times.values(), strict=True))
    print(f"speed from disk / speed from memory: {memory / disk:.3f} (rounds: {ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
