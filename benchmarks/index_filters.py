#!/usr/bin/env python3
"""Compare searches among allowed ids with searches among all: microseconds of a query, one at a time, on one core.

    python benchmarks/index_filters.py [--audio windows.npz] [--rounds 7]

The allowed ids are a random part of the vectors, or those on one side of all: the nearest ones to a vector. They are
given to each search as they are, or prepared once by `allow`, whose milliseconds are in the last column. The data are
those of benchmarks/index.py. The recall is against the exact result.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse  # noqa: E402
import statistics  # noqa: E402
from itertools import product  # noqa: E402

import index  # noqa: E402
import numpy as np  # noqa: E402

from cochlea_sb.index.random_projection import RandomProjectionIndex  # noqa: E402

SHARES = (1.0, 0.5, 0.2, 0.1, 0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", metavar="FILE", help="windows of real sounds; default: clustered vectors")
    parser.add_argument("--vectors", type=int, default=200_000, help="number of clustered vectors")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    data = index.audio(arguments.audio, rng) if arguments.audio else index.clustered(arguments.vectors, rng)
    vectors, queries = data[0], np.ascontiguousarray(data[2][: arguments.queries])
    own = RandomProjectionIndex.build(vectors)
    print(f"{len(vectors):,} vectors; default effort\n")
    print("| allowed | ids | prepared, µs | recall@10 | not prepared, µs | recall@10 | allow, ms |")
    print("|---" * 7 + "|")
    orders = {"random": rng.permutation(len(vectors)), "one side": np.argsort(-(vectors @ vectors[0]))}
    for share, kind in [(1.0, "random"), *product(SHARES[1:], orders)]:
        ids = np.sort(orders[kind][: int(share * len(vectors))])
        prepare_s, prepared = index.timed(own.allow, ids)
        ways = (None, None) if share == 1 else (prepared, ids)
        exact = own.query(queries, effort=1, allowed=ways[0])[0]
        micros, recalls = ([], []), []
        for turn in range(arguments.rounds):
            for way, times in zip(ways, micros, strict=True):
                some = queries[: 30 if way is ids else len(queries)]
                seconds, scores = index.timed(one_by_one, own, some, way)
                times.append(1e6 * seconds / len(some))
                if turn == 0:
                    recalls.append((np.array(scores) >= exact[: len(some), -1:] - 1e-6).mean())
        times = [statistics.median(values) for values in micros]
        cells = [f"{micro:.0f} | {recall:.3f}" for micro, recall in zip(times, recalls, strict=True)]
        print(
            f"| {100 * share:g} %, {kind} | {len(ids):,} | {' | '.join(cells)} | {1000 * prepare_s:.1f} |", flush=True
        )


def one_by_one(own, queries, allowed):
    return [own.query(query, allowed=allowed)[0] for query in queries]


if __name__ == "__main__":
    main()
