#!/usr/bin/env python3
"""Semi-hard mining among 1,024 pairs: ours against pytorch-metric-learning's `TripletMarginMiner`.

    pip install -e '.[bench]'
    python benchmarks/mining.py [--device cuda] [--pairs 1024]

Both get anchors, positives and labels, and give indices; timed in turns, medians. Ours includes the distances and the
mask, as the peer's does.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from cochlea_sb import mining


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    from pytorch_metric_learning.miners import TripletMarginMiner

    generator = torch.Generator().manual_seed(0)
    n, device = arguments.pairs, arguments.device
    anchors, positives = F.normalize(torch.randn(2, n, 128, generator=generator), dim=2).to(device)
    sounds = torch.arange(n, device=device)
    peer = TripletMarginMiner(margin=0.1, type_of_triplets="semihard")

    def ours(anchors, candidates, sounds):
        distances = mining.squared_euclidean(anchors, candidates)
        columns = torch.arange(len(anchors), device=device)
        return mining.semi_hard(distances, columns, mining.disjoint(sounds[:, None], sounds[:, None]))

    both = torch.cat([anchors, positives])
    jobs = {
        "pytorch-metric-learning": lambda: peer(anchors, sounds, ref_emb=positives, ref_labels=sounds),
        "ours": lambda: ours(anchors, positives, sounds),
        "ours, all 2 B as candidates": lambda: ours(both, both, sounds.repeat(2)),
    }
    seconds = {name: [] for name in jobs}
    for _ in range(arguments.rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print(f"device {device}, {n} pairs, {torch.get_num_threads()} threads\n")
    print("| miner | ms | peer's time over it |")
    print("|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {1000 * median:.1f} | {medians['pytorch-metric-learning'] / median:.0f} x |")


if __name__ == "__main__":
    main()
