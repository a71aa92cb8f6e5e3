"""Distances, and miners, which choose a negative for each anchor.

A miner is a function ``miner(distances, positives, allowed, generator=None)`` that returns `Negatives`:

    distances [A, C]   from each anchor to each candidate
    positives [A]      column of the positive of each anchor
    allowed   [A, C]   True if the candidate may be a negative of the anchor (see `disjoint`)
    generator          random generator, used only by `random`

The miners `every` and `every_semi_hard` return bool [A, C]: several negatives for each anchor. Time and memory of all
miners are O(A x C).

Axes: A anchors, C candidates, D embedding dimensions, P groups that a crop may contain.
"""

from typing import NamedTuple

import torch
from torch import nn


class Negatives(NamedTuple):
    """One negative for each anchor.

    columns : torch.Tensor [A], int64
        Columns of the negatives in the matrix of distances.
    found : torch.Tensor [A], bool
        False if no candidate was allowed. The column is then arbitrary.
    semi_hard : torch.Tensor [A], bool, or None
        True if the negative is semi-hard. Only the miner `semi_hard` sets it.
    """

    columns: torch.Tensor
    found: torch.Tensor
    semi_hard: torch.Tensor | None = None


def squared_euclidean(anchors: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances ``2 - 2 cos`` of unit vectors [A, D] and [C, D]: [A, C], in [0, 4]."""
    return 2 - 2 * anchors @ candidates.T


def cosine(anchors: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Cosine distances ``1 - cos`` of unit vectors [A, D] and [C, D]: [A, C], in [0, 2]."""
    return 1 - anchors @ candidates.T


@torch.no_grad()
def disjoint(anchor_groups: torch.Tensor, candidate_groups: torch.Tensor) -> torch.Tensor:
    """Tell which candidates share no group with an anchor: groups [A, P] and [C, P], int, to bool [A, C].

    Only such candidates may be negatives of the anchor. A mixture contains the groups of two sounds.
    """
    allowed = torch.ones(len(anchor_groups), len(candidate_groups), dtype=torch.bool, device=anchor_groups.device)
    for anchor_group in anchor_groups.T:
        for candidate_group in candidate_groups.T:
            allowed &= anchor_group[:, None] != candidate_group
    return allowed


@torch.no_grad()
def semi_hard(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> Negatives:
    """Choose the closest allowed candidate that is farther than the positive (Schroff et al. 2015, section 3.2).

    If no allowed candidate is farther than the positive, the farthest allowed candidate is chosen. Harder negatives
    would have larger losses, and could make the embeddings of an untrained encoder collapse to one point.
    """
    farther = allowed & (distances > distances.gather(1, positives[:, None]))
    closest, columns = distances.masked_fill(~farther, torch.inf).min(1)
    farthest, fallback = distances.masked_fill(~allowed, -torch.inf).max(1)
    is_semi_hard = closest < torch.inf
    return Negatives(torch.where(is_semi_hard, columns, fallback), farthest > -torch.inf, is_semi_hard)


@torch.no_grad()
def every_semi_hard(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return bool [A, C]: all allowed candidates that are farther than the positive."""
    return allowed & (distances > distances.gather(1, positives[:, None]))


@torch.no_grad()
def hardest(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> Negatives:
    """Choose the closest allowed candidate, even if it is closer than the positive."""
    closest, columns = distances.masked_fill(~allowed, torch.inf).min(1)
    return Negatives(columns, closest < torch.inf)


@torch.no_grad()
def random(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> Negatives:
    """Draw an allowed candidate. All allowed candidates have the same probability."""
    draws = torch.rand(distances.shape, generator=generator, device=distances.device)
    drawn, columns = draws.masked_fill(~allowed, -1).max(1)
    return Negatives(columns, drawn >= 0)


def every(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return ``allowed``, bool [A, C]: all allowed candidates are negatives."""
    return allowed


class MiningTally(nn.Module):
    """Counts the anchors that had a semi-hard negative. It is a module, so checkpoints store the counts.

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
        """Count the anchors of a step. Only negatives of the miner `semi_hard` count."""
        if isinstance(negatives, Negatives) and negatives.semi_hard is not None:
            found, is_semi_hard = negatives.found, negatives.semi_hard
            self.counts += torch.stack([is_semi_hard, found & ~is_semi_hard, torch.ones_like(found)]).sum(1)

    def shares(self) -> dict[str, float]:
        """Fractions of the anchors counted since the last call, in [0, 1]; ``{}`` if none were counted."""
        n_semi_hard, n_fallback, n_anchors = self.counts.tolist()
        self.counts.zero_()
        return {"semi-hard": n_semi_hard / n_anchors, "fallback": n_fallback / n_anchors} if n_anchors else {}
