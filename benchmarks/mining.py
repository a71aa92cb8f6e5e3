#!/usr/bin/env python3
"""Time semi-hard mining among 1,024 pairs, in cochlea_sb and in `TripletMarginMiner` of pytorch-metric-learning.

    pip install -e '.[bench]'
    python benchmarks/mining.py [--device cuda] [--pairs 1024]

Both get embeddings and labels, and return indices of negatives. The candidates are the second halves of the pairs, or
all embeddings; with all embeddings, `TripletMarginMiner` needs 9 GB for 1,024 pairs. Both times include the distances
and the mask. Each round times both; medians are printed.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from cochlea_sb.training import mining


def timed(job, device):
    """Wall-clock seconds of a call, including its work on the device."""
    start = time.perf_counter()
    job()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
        columns = (torch.arange(len(anchors), device=device) + n) % len(candidates)
        return mining.semi_hard(distances, columns, mining.disjoint(sounds[:, None], sounds[:, None]))

    both = torch.cat([anchors, positives])
    labels = sounds.repeat(2)
    cases = {
        f"{n:,} anchors, {n:,} candidates": (
            lambda: ours(anchors, positives, sounds),
            lambda: peer(anchors, sounds, ref_emb=positives, ref_labels=sounds),
        ),
        f"{2 * n:,} anchors, {2 * n:,} candidates": (lambda: ours(both, both, labels), lambda: peer(both, labels)),
    }
    print(f"device {device}, {n} pairs, {torch.get_num_threads()} threads\n")
    print("| case | ours, ms | pytorch-metric-learning, ms | ratio |")
    print("|---|---|---|---|")
    for name, jobs in cases.items():
        rounds = [[1000 * timed(job, device) for job in jobs] for _ in range(arguments.rounds + 1)][1:]
        our_ms, peer_ms = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"| {name} | {our_ms:.1f} | {peer_ms:.1f} | {peer_ms / our_ms:.0f} x |")


if __name__ == "__main__":
    main()
