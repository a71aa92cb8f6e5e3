#!/usr/bin/env python3
"""Measure the memory of reading a stream of many rows, and the time of drawing batches from it.

    python benchmarks/streaming.py FOLDER --rows 10000 --buffer_hours 0.2

FOLDER holds Parquet or WebDataset shards. The memory is that of this process and of the processes that read, each with
the pages that they share. Drawing is timed with and without new sounds, in seconds of the processor: the processes that
read run meanwhile.
"""

import argparse
import resource
import time
from pathlib import Path

import torch

from cochlea_sb.data.stream_bank import StreamBank
from cochlea_sb.data.streams import SoundStream
from cochlea_sb.features import LogMel
from cochlea_sb.training.pairs import PairBatches
from cochlea_sb.training.streamed_pairs import StreamedPairs


def megabytes(process="self"):
    """Resident memory of a process, in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1000


def readers():
    """Ids of the processes that read the stream."""
    return Path("/proc/self/task", str(Path("/proc/self").resolve().name), "children").read_text().split()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--buffer_hours", type=float, default=0.2)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--draws_per_sound", type=float, default=10.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stream = SoundStream(arguments.folder, valid_folds=[], valid_share=0.0)
    bank = StreamBank(stream, round(arguments.buffer_hours * 360_000), LogMel())
    batch_size, rows, report = arguments.batch_size, 0, 0
    pairs = StreamedPairs(bank, batch_size, 10**9, draws_per_sound=arguments.draws_per_sound)
    print(f"{bank}, {bank.readers} readers")
    start, start_cpu, steps = time.perf_counter(), time.process_time(), 0
    while rows < arguments.rows:
        pairs[steps]
        steps += 1
        rows = round(steps * batch_size / arguments.draws_per_sound)
        if rows >= report:
            each = ", ".join(f"{megabytes(reader):.0f}" for reader in readers())
            print(f"{rows:6} rows: RSS {megabytes():.0f} MB, of the readers {each} MB", flush=True)
            report += max(1000, arguments.rows // 10)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    print(f"{seconds / steps * 1000:.0f} ms a batch, {rows / seconds:.0f} rows/s, {seconds:.0f} s in all")
    start_cpu = time.process_time()
    for step in range(steps):
        PairBatches.__getitem__(pairs, step)
    alone = time.process_time() - start_cpu
    print(f"of this process {cpu / steps * 1000:.1f} ms a batch; without new sounds {alone / steps * 1000:.1f} ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"highest RSS {peak:.0f} MB")


if __name__ == "__main__":
    main()
