#!/usr/bin/env python3
"""Measure a copy of a library in Milvus: the time to make it, to renew it, and to search it; and its size.

    python benchmarks/milvus.py [--sounds 1000 10000] [--windows 10] [--uri http://host:19530]

The libraries are generated, as in benchmarks/library.py. Without --uri, Milvus Lite is measured. The collection
``cochlea_benchmark`` is replaced.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from library import generate

from cochlea_sb.library.milvus import MilvusCopy
from cochlea_sb.library.sound_library import SoundLibrary

COLLECTION = "cochlea_benchmark"
N_QUERIES = 10


def seconds(function):
    """How long a call takes, and what it returns."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def searches(library, **options):
    """The median time of a search, and the matches of all searches."""
    queries = np.random.default_rng(1).normal(size=(N_QUERIES, 128))
    times, matches = zip(
        *(seconds(lambda query=query: library.search(query, **options)) for query in queries), strict=True
    )
    return float(np.median(times)), [[match[:3] for match in found] for found in matches]


def measure(n_sounds, n_windows, uri):
    with tempfile.TemporaryDirectory() as folder:
        place = uri or str(Path(folder, "copy.db"))
        generate(Path(folder, "a.library"), n_sounds, n_windows)
        target = {"milvus": place, "collection": COLLECTION}
        library = SoundLibrary.open(Path(folder, "a.library"))
        client = MilvusCopy(folder, place, COLLECTION, new=True).client
        client.drop_collection(COLLECTION)
        made, total = seconds(lambda: library.export(progress=False, **target))
        library.remove(library.sounds["path"].to_pylist()[: n_sounds // 100])
        renewed, _ = seconds(lambda: library.export(progress=False, **target))
        opened, copy = seconds(lambda: SoundLibrary.open(Path(folder, "a.library"), **target))
        row = [f"{total:,}", f"{made:.1f}", f"{renewed:.1f}", f"{opened:.2f}"]
        for options in ({}, {"path": "kind7/"}, {"path": "pack 1"}):
            took, matches = searches(copy, **options)
            assert matches == searches(library, effort=1.0, **options)[1], options
            row.append(f"{1000 * took:.0f}")
        size = sum(file.stat().st_size for file in Path(folder).glob("copy.db/**/*") if file.is_file())
        client.drop_collection(COLLECTION)
        return [*row, f"{size / 1e6:.0f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sounds", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--windows", type=int, default=10, help="windows of each sound")
    parser.add_argument("--uri", help="address of a cluster")
    arguments = parser.parse_args()
    print("| windows | make (s) | renew (s) | open (s) | search (ms) | a few sounds (ms) | a tenth (ms) | MB |")
    print("|---|---|---|---|---|---|---|---|")
    for n_sounds in arguments.sounds:
        print(f"| {' | '.join(measure(n_sounds, arguments.windows, arguments.uri))} |", flush=True)


if __name__ == "__main__":
    main()
