"""Losses over a matrix of distances, what is pulled together and what is pushed apart; and one over frames.

The former are modules ``loss(distances, positives, allowed) -> scalar``:

    distances [A, C]   of each anchor to each candidate, with gradients
    positives [A]      column of each anchor's positive
    allowed   [A, C]   True where the candidate may be a negative (see `cochlea_sb.training.mining.disjoint`)

Axes: A anchors, C candidates, n windows, T frames, M values in a frame.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from cochlea_sb.errors import UserError
from cochlea_sb.training.mining import semi_hard


class TripletLoss(nn.Module):
    """Hinge on how much closer the positive is than a mined negative (Jansen et al. 2017, equation 1).

    Arguments
    ---------
    margin : float
        By how much the negative should be farther, in the unit of the distances (the paper: 0.1, squared Euclidean).
    miner : callable
        Which negative: one of `cochlea_sb.training.mining`.

    Example
    -------
    >>> distances = torch.tensor([[0.5, 0.4], [0.2, 0.9]])
    >>> TripletLoss(margin=0.1)(distances, torch.tensor([0, 0]), torch.tensor([[False, True], [False, True]]))
    tensor(0.1000)
    """

    def __init__(
        self, margin: float = 0.1, miner: Callable[..., tuple[torch.Tensor, torch.Tensor]] = semi_hard
    ) -> None:
        super().__init__()
        self.margin, self.miner = margin, miner

    def forward(self, distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Mean hinge over the anchors that have a negative; with none, a zero that still backpropagates."""
        negatives, found = self.miner(distances.detach(), positives, allowed)
        positive, negative = distances.gather(1, torch.stack([positives, negatives], dim=1)).unbind(1)
        hinge = (positive - negative + self.margin).relu() * found
        return hinge.sum() / found.sum().clamp(min=1)


class InfoNCE(nn.Module):
    """Cross-entropy of picking the positive out of all candidates (NT-Xent: Chen et al. 2020, SimCLR, equation 1).

    Every allowed candidate is a negative, weighted by how close it is: a soft miner.

    Arguments
    ---------
    temperature : float, above 0
        Distance at which a candidate's weight falls by e; SimCLR's tau, with `cochlea_sb.training.mining.cosine`.

    Example
    -------
    >>> distances = torch.tensor([[0.0, 1.0]])
    >>> InfoNCE(temperature=1.0)(distances, torch.tensor([0]), torch.tensor([[False, True]]))
    tensor(0.3133)
    """

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature is {temperature}: expected more than 0, such as 0.2.")
        self.temperature = temperature

    def forward(self, distances: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over the anchors."""
        candidates = allowed.scatter(1, positives[:, None], True)
        return F.cross_entropy((-distances / self.temperature).masked_fill(~candidates, -torch.inf), positives)


class MaskedSquaredError(nn.Module):
    """Mean squared error over the frames that are sound rather than padding.

    Example
    -------
    >>> frames = torch.tensor([[[1.0], [9.0]]])
    >>> MaskedSquaredError()(torch.zeros(1, 2, 1), frames, torch.tensor([[True, False]]))
    tensor(1.)
    """

    def forward(self, written: torch.Tensor, frames: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Compare.

        Arguments
        ---------
        written, frames : torch.Tensor [n, T, M]
        real : torch.Tensor [n, T], bool
            Which frames count; at least one.

        Returns
        -------
        torch.Tensor, scalar
        """
        errors = (written.float() - frames).square().mean(2)
        return (errors * real).sum() / real.sum()
