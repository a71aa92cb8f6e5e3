"""Which negative for which anchor: one distance matrix, one pass, indices out.

A miner is a function ``miner(distances, positives, allowed, generator=None) -> (negatives, found)``:

    distances [A, C]   of each anchor to each candidate
    positives [A]      column of each anchor's positive
    allowed   [A, C]   True where the candidate may be a negative (see `disjoint`)
    negatives [A]      column of the chosen negative; found [A] is False where none was allowed

Memory and time are O(A x C); nothing is read back from the device.

Axes: A anchors, C candidates, D embedding dimensions, P parents of a mixture.
"""

import torch


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
def disjoint(anchor_sounds: torch.Tensor, candidate_sounds: torch.Tensor) -> torch.Tensor:
    """Which candidates have no sound in common with an anchor.

    Two crops of one sound are never each other's negatives, nor is a mixture the negative of its parents.

    Arguments
    ---------
    anchor_sounds : torch.Tensor [A, P], int
        Ids of the sounds that each anchor contains.
    candidate_sounds : torch.Tensor [C, P], int

    Returns
    -------
    torch.Tensor [A, C], bool
    """
    allowed = torch.ones(len(anchor_sounds), len(candidate_sounds), dtype=torch.bool, device=anchor_sounds.device)
    for ours in anchor_sounds.T:
        for theirs in candidate_sounds.T:
            allowed &= ours[:, None] != theirs
    return allowed


@torch.no_grad()
def semi_hard(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The closest allowed negative that is farther than the positive (FaceNet, Schroff et al. 2015, section 3.2).

    Where every allowed negative is closer than the positive, the farthest of them is taken: it asks for the smallest
    correction, so a batch of bad embeddings cannot collapse them.

    Arguments and returns as in `cochlea_sb.training.mining`.
    """
    farther = allowed & (distances > distances.gather(1, positives[:, None]))
    closest, negatives = distances.masked_fill(~farther, torch.inf).min(1)
    farthest, fallback = distances.masked_fill(~allowed, -torch.inf).max(1)
    return torch.where(closest < torch.inf, negatives, fallback), farthest > -torch.inf


@torch.no_grad()
def hardest(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The closest allowed negative, even if it is closer than the positive. See `cochlea_sb.training.mining`."""
    closest, negatives = distances.masked_fill(~allowed, torch.inf).min(1)
    return negatives, closest < torch.inf


@torch.no_grad()
def random(
    distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Any allowed negative, uniformly. See `cochlea_sb.training.mining`."""
    draws = torch.rand(distances.shape, generator=generator, device=distances.device)
    drawn, negatives = draws.masked_fill(~allowed, -1).max(1)
    return negatives, drawn >= 0
