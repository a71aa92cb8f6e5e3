#!/usr/bin/env python3
"""Compare searches among allowed ids with searches among all: microseconds of a query, one at a time, on one core.

    python benchmarks/index_filters.py [--audio windows.npz] [--rounds 7]

The allowed ids are a random part of the vectors, prepared once by `allow`. Two ways to find the nearest of them are
timed beside the way that the index chooses: comparing all of them, and searching. The data are those of
benchmarks/index.py. The recall is against the exact result.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402

import index  # noqa: E402
import numpy as np  # noqa: E402

from cochlea_sb.index import random_projection  # noqa: E402

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001)
CHOSEN = random_projection.compared_up_to
WAYS = {"chosen": CHOSEN, "compared": lambda n_vectors: n_vectors, "searched": lambda n_vectors: 0}


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
    own = random_projection.RandomProjectionIndex.build(vectors)
    print(f"{len(vectors):,} vectors; default effort\n\n| allowed | ids | {' | '.join(WAYS)} | recall, as chosen |")
    print("|---" * (3 + len(WAYS)) + "|")
    for share in SHARES:
        ids = np.sort(rng.choice(len(vectors), int(share * len(vectors)), replace=False))
        prepared = {}
        for way, random_projection.compared_up_to in WAYS.items():
            prepared[way] = None if share == 1 else own.allow(ids)
        micros = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way, allowed in prepared.items():
                start = time.process_time()
                scores = [own.query(query, allowed=allowed)[0] for query in queries]
                micros[way].append(1e6 * (time.process_time() - start) / len(queries))
                if way == "chosen":
                    found = np.array(scores)
        exact = own.query(queries, effort=1, allowed=prepared["chosen"])[0]
        recall = (found >= exact[:, -1:] - 1e-6).mean()
        times = " | ".join(f"{statistics.median(micros[way]):.0f}" for way in WAYS)
        print(f"| {100 * share:g} % | {len(ids):,} | {times} | {recall:.3f} |", flush=True)


if __name__ == "__main__":
    main()
