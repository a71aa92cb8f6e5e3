#!/usr/bin/env python3
"""Compare a `RandomProjectionIndex` after additions and removals with an index built from the same vectors at once.

    python benchmarks/index_changes.py [--vectors 200000]

The vectors are clustered as in benchmarks/index.py. The first index is built from n vectors. Then n / 2 vectors are
added in ten parts, and three tenths of all vectors are removed. Times are CPU seconds on one core. Each round times the
queries of both indexes; medians are printed.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402

import index  # noqa: E402
import numpy as np  # noqa: E402

from cochlea_sb.index.random_projection import RandomProjectionIndex  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    n, rng = arguments.vectors, np.random.default_rng(0)
    vectors, _, queries = index.clustered(n + n // 2, rng)
    ids = rng.permutation(len(vectors))
    gone = ids[: 3 * len(ids) // 10]
    left = np.setdiff1d(ids, gone)

    changed = RandomProjectionIndex.build(vectors[:n], ids[:n])
    add_s = index.timed(lambda: [changed.add(vectors[part], ids[part]) for part in parts(n, len(vectors))])[0]
    one_s = index.timed(lambda: changed.add(vectors[:1], [-1]))[0]
    remove_s = index.timed(lambda: changed.remove([*gone, -1]))[0]
    row_of = np.argsort(ids)
    fresh = RandomProjectionIndex.build(vectors[row_of[left]], left)

    kth = index.kth_cosines(queries, vectors[row_of[left]])
    print(f"{n:,} vectors; {len(vectors) - n:,} added in {add_s:.2f} s, one in {1000 * one_s:.1f} ms; ", end="")
    print(f"{len(gone):,} removed in {remove_s:.2f} s\n")
    print("| index | effort | recall@10 | queries/s |\n|---|---|---|---|")
    for effort in (0.9, 0.98, 0.999):
        kinds = {"changed": changed, "built at once": fresh}
        rates = {name: [] for name in kinds}
        for _ in range(arguments.rounds):
            for name, kind in kinds.items():
                start = time.process_time()
                scores = [kind.query(query, effort=effort)[0] for query in queries]
                rates[name].append(len(queries) / (time.process_time() - start))
                rates[name + " recall"] = (np.array(scores) >= kth[:, None] - 1e-6).mean()
        for name in kinds:
            print(f"| {name} | {effort} | {rates[name + ' recall']:.4f} | {statistics.median(rates[name]):,.0f} |")


def parts(first, last):
    """Ten slices that cover first to last - 1."""
    ends = np.linspace(first, last, 11).astype(int)
    return [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]


if __name__ == "__main__":
    main()
