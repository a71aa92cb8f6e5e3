#!/usr/bin/env python3
"""Semi-hard mining among 1,024 pairs: ours against pytorch-metric-learning's `TripletMarginMiner`.

    pip install -e '.[bench]'
    python benchmarks/mining.py [--device cuda] [--pairs 1024]

Both get embeddings and labels and give indices: of the pairs' second halves, or of all embeddings as candidates (the
peer then takes 9 GB at 1,024 pairs). Timed in turns, medians; ours includes the distances and the mask, as the peer's.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from cochlea_sb.training import mining


def timed(job, device):
    """Seconds that a call takes, the device's work included."""
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
