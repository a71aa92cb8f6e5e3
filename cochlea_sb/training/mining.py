"""Which negative for which anchor: one matrix of distances in, indices out.

A miner is a function ``miner(distances, positives, allowed, generator=None)``:

    distances [A, C]   of each anchor to each candidate
    positives [A]      column of each anchor's positive
    allowed   [A, C]   True where the candidate may be a negative (see `disjoint`)
    generator          for the miner that draws

It returns `Negatives`, one for each anchor; `every` returns ``allowed`` for the loss that takes them all. Time and
memory are O(A x C), and nothing is read back from the device.

Axes: A anchors, C candidates, D embedding dimensions, P groups that a crop may contain.
"""

from typing import NamedTuple

import torch
from torch import nn


class Negatives(NamedTuple):
    """One negative for each anchor.

    columns : torch.Tensor [A], int64
        The candidate.
    found : torch.Tensor [A], bool
        False where no candidate was allowed; the column then means nothing.
    semi_hard : torch.Tensor [A], bool, or None
        True where the negative is semi-hard; False for a fallback, or where none was found. Only `semi_hard` tells it.
    """

    columns: torch.Tensor
    found: torch.Tensor
    semi_hard: torch.Tensor | None = None


def squared_euclidean(anchors: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances of unit vectors, ``2 - 2 cos``: in [0, 4].

    Arguments
    ---------
    anchors : torch.Tensor [A, D], unit norm
    candidates : torch.Tensor [C, D], unit norm

    Returns
    -------
    torch.Tensor [A, C]
    """
    return 2 - 2 * anchors @ candidates.T


def cosine(anchors: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Cosine distances of unit vectors, ``1 - cos``: in [0, 2]; shapes as in `squared_euclidean`."""
    return 1 - anchors @ candidates.T


@torch.no_grad()
def disjoint(anchor_groups: torch.Tensor, candidate_groups: torch.Tensor) -> torch.Tensor:
    """Which candidates have no group in common with an anchor, and so may be its negatives.

    Crops of one sound are never each other's negatives. Nor is a mixture a negative of either of its two sounds.

    Arguments
    ---------
    anchor_groups : torch.Tensor [A, P], int
        Numbers of the groups that each anchor may contain.
    candidate_groups : torch.Tensor [C, P], int

    Returns
    -------
    torch.Tensor [A, C], bool
    """
    allowed = torch.ones(len(anchor_groups), len(candidate_groups), dtype=torch.bool, device=anchor_groups.device)
    for ours in anchor_groups.T:
        for theirs in candidate_groups.T:
            allowed &= ours[:, None] != theirs
    return allowed


@torch.no_grad()
def semi_hard(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> Negatives:
    """The closest allowed candidate that is farther than the positive (FaceNet, Schroff et al. 2015, section 3.2).

    Fallback where no allowed candidate is farther than the positive: the farthest of them. It asks for the smallest
    correction, so that bad embeddings do not collapse. Arguments as in `cochlea_sb.training.mining`.
    """
    farther = allowed & (distances > distances.gather(1, positives[:, None]))
    closest, columns = distances.masked_fill(~farther, torch.inf).min(1)
    farthest, fallback = distances.masked_fill(~allowed, -torch.inf).max(1)
    is_semi_hard = closest < torch.inf
    return Negatives(torch.where(is_semi_hard, columns, fallback), farthest > -torch.inf, is_semi_hard)


@torch.no_grad()
def hardest(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> Negatives:
    """The closest allowed candidate, even if it is closer than the positive."""
    closest, columns = distances.masked_fill(~allowed, torch.inf).min(1)
    return Negatives(columns, closest < torch.inf)


@torch.no_grad()
def random(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> Negatives:
    """Any allowed candidate, each with the same probability."""
    draws = torch.rand(distances.shape, generator=generator, device=distances.device)
    drawn, columns = draws.masked_fill(~allowed, -1).max(1)
    return Negatives(columns, drawn >= 0)


def every(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """All allowed candidates: ``allowed`` itself, [A, C] bool."""
    return allowed


class MiningTally(nn.Module):
    """Counts, on the device, how many anchors had a semi-hard negative. A module, so that checkpoints hold the counts.

    Example
    -------
    >>> tally = MiningTally()
    >>> distances, allowed = torch.tensor([[0.5, 0.4], [0.2, 0.9]]), torch.tensor([[False, True], [False, True]])
    >>> tally.add(semi_hard(distances, torch.tensor([0, 0]), allowed))
    >>> tally.shares()
    {'semi-hard': 0.5, 'fallback': 0.5}
    """

    counts: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(3, dtype=torch.int64))  # semi-hard, fallback, all anchors

    def add(self, negatives: Negatives | torch.Tensor) -> None:
        """Count the anchors of a step; nothing where the miner knows no semi-hard negatives."""
        if isinstance(negatives, Negatives) and negatives.semi_hard is not None:
            found, is_semi_hard = negatives.found, negatives.semi_hard
            self.counts += torch.stack([is_semi_hard, found & ~is_semi_hard, torch.ones_like(found)]).sum(1)

    def shares(self) -> dict[str, float]:
        """Shares of all anchors since the last call, in [0, 1]; empty where nothing was counted."""
        n_semi_hard, n_fallback, n_anchors = self.counts.tolist()
        self.counts.zero_()
        return {"semi-hard": n_semi_hard / n_anchors, "fallback": n_fallback / n_anchors} if n_anchors else {}
