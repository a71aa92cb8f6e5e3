"""Retrieval figures against loops."""

import pytest
import torch
from torch.nn import functional as F

from cochlea_sb.errors import UserError
from cochlea_sb.evaluation.retrieval import neighbour_recall, query_by_example


def naive(embeddings, labels, sources, k):
    precisions, at_k = [], []
    for query in range(len(labels)):
        if labels[query] is None:
            continue
        others = [j for j in range(len(labels)) if j != query and (sources[j] is None or sources[j] != sources[query])]
        others.sort(key=lambda j: -float(embeddings[query] @ embeddings[j]))
        right = [labels[j] == labels[query] for j in others]
        if any(right):
            hits = [sum(right[: rank + 1]) / (rank + 1) for rank in range(len(right)) if right[rank]]
            precisions.append(sum(hits) / len(hits))
            at_k.append(sum(right[:k]) / k)
    return sum(precisions) / len(precisions), sum(at_k) / len(at_k), len(precisions)


@pytest.mark.parametrize("seed", range(3))
def test_equals_loops_with_missing_labels_and_sources(seed):
    generator = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn(40, 8, generator=generator), dim=1)
    labels = [None if i == 9 else "abcde"[i] if i < 5 else "xyz"[i % 3] for i in range(40)]
    sources = [None if i == 8 else str(i // 4) for i in range(40)]
    result = query_by_example(embeddings, labels, sources, ks=(4,))
    wanted = naive(embeddings, labels, sources, 4)
    assert (result["mAP"], result["P@4"], result["queries"]) == pytest.approx(wanted)


def test_perfect_and_hopeless():
    embeddings = torch.eye(2).repeat_interleave(3, 0)
    assert query_by_example(embeddings, list("aaabbb"), ks=(2,)) == {"mAP": 1.0, "P@2": 1.0, "queries": 6}
    with pytest.raises(UserError, match="can't be measured"):
        query_by_example(embeddings, list("abcdef"))


def test_neighbours_find_their_own_sound():
    anchors = torch.eye(4)
    assert neighbour_recall(anchors, anchors, torch.arange(4)) == 1
    assert neighbour_recall(anchors, anchors.roll(1, 0), torch.arange(4)) == 0
    assert neighbour_recall(anchors, anchors.roll(2, 0), torch.tensor([7, 8, 7, 8])) == 1  # two pairs of one sound
