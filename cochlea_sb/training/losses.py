"""Losses: two over a matrix of distances, which pull positives closer and push negatives away, and one over frames.

The first two are modules ``loss(distances, positives, negatives) -> scalar``:

    distances [A, C]   of each anchor to each candidate, with gradients
    positives [A]      column of each anchor's positive
    negatives          what a miner of `cochlea_sb.training.mining` returned

Axes: A anchors, C candidates, n windows, T frames, M values in a frame.
"""

import torch
from torch import nn
from torch.nn import functional as F

from cochlea_sb.errors import UserError
from cochlea_sb.training.mining import Negatives


class TripletLoss(nn.Module):
    """Hinge on how much closer the positive is than the negative (Jansen et al. 2017, equation 1).

    Arguments
    ---------
    margin : float
        By how much the negative should be farther, in the unit of the distances (the paper: 0.1, squared Euclidean).

    Example
    -------
    >>> distances = torch.tensor([[0.5, 0.4], [0.2, 0.9]])
    >>> negatives = Negatives(columns=torch.tensor([1, 1]), found=torch.tensor([True, True]))
    >>> TripletLoss(margin=0.1)(distances, torch.tensor([0, 0]), negatives)
    tensor(0.1000)
    """

    def __init__(self, margin: float = 0.1) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, distances: torch.Tensor, positives: torch.Tensor, negatives: Negatives) -> torch.Tensor:
        """Mean hinge over the anchors that have a negative; with none, a zero that still backpropagates."""
        if not isinstance(negatives, Negatives):
            raise UserError(
                "TripletLoss needs one negative for each anchor: set miner to semi_hard, hardest or random."
            )
        columns = torch.stack([positives, negatives.columns], dim=1)
        positive, negative = distances.gather(1, columns).unbind(1)
        hinge = (positive - negative + self.margin).relu() * negatives.found
        return hinge.sum() / negatives.found.sum().clamp(min=1)


class InfoNCE(nn.Module):
    """Cross-entropy of picking the positive out of all candidates (NT-Xent: Chen et al. 2020, SimCLR, equation 1).

    Every allowed candidate is a negative, weighted by how close it is. Goes with the miner `every`.

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

    def forward(self, distances: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over the anchors; ``negatives`` is bool [A, C]."""
        if not isinstance(negatives, torch.Tensor):
            raise UserError("InfoNCE needs all negatives of an anchor: set miner to every.")
        candidates = negatives.scatter(1, positives[:, None], True)
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
            True for the frames that count; at least one.

        Returns
        -------
        torch.Tensor, scalar
        """
        errors = (written.float() - frames).square().mean(2)
        return (errors * real).sum() / real.sum()
