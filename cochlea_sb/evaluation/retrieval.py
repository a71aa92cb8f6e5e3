"""Retrieval figures, computed from embeddings."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from cochlea_sb.errors import NothingToMeasure


@torch.no_grad()
def query_by_example(
    embeddings: torch.Tensor,
    labels: Sequence[str | None],
    sources: Sequence[str | None] | None = None,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Query by example: each sound with a label is a query, and all other sounds are ranked by their cosine to it.

    A ranked sound is relevant if it has the query's label. Sounds from the query's own source are left out of the
    ranking. A query without a relevant sound is not counted.

    Arguments
    ---------
    embeddings : torch.Tensor [sounds, dimensions]
    labels, sources : list of str or None, [sounds]
        None is an unknown label or source.
    ks : tuple of int
        Values of k for the precision at rank k.

    Returns
    -------
    dict
        ``mAP`` (average precision, averaged over the queries) and ``P@k`` for each k, in [0, 1]; and ``queries``, the
        number of queries.

    Raises
    ------
    NothingToMeasure
        If no query has a relevant sound.

    Example
    -------
    >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> query_by_example(embeddings, ["dog", "dog", "rain", "rain"], ks=(1,))
    {'mAP': 1.0, 'P@1': 1.0, 'queries': 4}
    """
    device = embeddings.device
    label_ids, source_ids = ids_of(labels, device), ids_of(sources or [None] * len(labels), device)
    unit = F.normalize(embeddings.float(), dim=-1)
    blocks: list[torch.Tensor] = []
    at_k: dict[int, list[torch.Tensor]] = {k: [] for k in ks}
    for block in torch.arange(len(unit), device=device).split(1024):
        scores = unit[block] @ unit.T  # [queries, sounds]
        own_source = (source_ids[block, None] == source_ids) & (source_ids[block, None] >= 0)
        left_out = own_source | (block[:, None] == torch.arange(len(unit), device=device))
        order = scores.masked_fill(left_out, -torch.inf).argsort(dim=1, descending=True, stable=True)
        same = (label_ids[block, None] == label_ids) & (label_ids[block, None] >= 0) & ~left_out
        right = same.gather(1, order).double()  # the sounds left out stand at the end, marked as not relevant
        asks = right.any(1)
        hits = right[asks].cumsum(1)
        ranks = torch.arange(1, len(unit) + 1, device=device)
        blocks.append((hits / ranks * right[asks]).sum(1) / hits[:, -1])
        for k in ks:
            at_k[k].append(hits[:, min(k, len(unit)) - 1] / k)
    precisions = torch.cat(blocks)
    if not len(precisions):
        raise NothingToMeasure("No two sounds share a label and differ in source: retrieval can't be measured.")
    result = {"mAP": float(precisions.mean())}
    result |= {f"P@{k}": float(torch.cat(values).mean()) for k, values in at_k.items()}
    return result | {"queries": len(precisions)}


@torch.no_grad()
def neighbour_recall(anchors: torch.Tensor, neighbours: torch.Tensor, sounds: torch.Tensor) -> float:
    """Recall@1, in [0, 1]: the share of ``neighbours`` whose nearest anchor comes from the same sound or group.

    ``anchors`` and ``neighbours`` are embeddings [pairs, dimensions] of unit norm. ``sounds`` [pairs] identifies the
    sound, or the group of sounds, that both crops of a pair come from.
    """
    nearest = torch.cat([(block @ anchors.T).argmax(1) for block in neighbours.split(1024)])
    return float((sounds[nearest] == sounds).float().mean())


def ids_of(names: Sequence[str | None], device: torch.device | str) -> torch.Tensor:
    """An integer for each name [names]: equal names have equal integers, and None is -1."""
    table: dict[str | None, int] = {
        name: number for number, name in enumerate(dict.fromkeys(names)) if name is not None
    }
    return torch.tensor([table.get(name, -1) for name in names], device=device)
