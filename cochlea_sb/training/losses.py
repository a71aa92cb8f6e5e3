"""Losses: two for embeddings (`TripletLoss`, `InfoNCE`), and `MaskedSquaredError` for reconstructed frames.

The losses for embeddings are modules ``loss(distances, positives, negatives) -> scalar``:

    distances [A, C]   from each anchor to each candidate, with gradients
    positives [A]      column of the positive of each anchor
    negatives          result of a miner of `cochlea_sb.training.mining`

Axes: A anchors, C candidates, n windows, T frames, M values in a frame.
"""

import torch
from torch import nn
from torch.nn import functional as F

from cochlea_sb.errors import UserError
from cochlea_sb.training.mining import Negatives


class TripletLoss(nn.Module):
    """``max(0, distance to positive - distance to negative + margin)`` (Jansen et al. 2017, equation 1).

    ``margin`` has the unit of the distances. The paper uses 0.1 with squared Euclidean distances.

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

    def forward(
        self, distances: torch.Tensor, positives: torch.Tensor, negatives: Negatives | torch.Tensor
    ) -> torch.Tensor:
        """Mean over the anchors that have a negative. If no anchor has a negative, 0 with gradients of 0.

        If ``negatives`` is bool [A, C], the loss of an anchor is the mean over its negatives whose loss is above 0, and
        the mean is over all anchors.
        """
        if not isinstance(negatives, Negatives):
            hinges = (distances.gather(1, positives[:, None]) - distances + self.margin).relu() * negatives
            return (hinges.sum(1) / (hinges > 0).sum(1).clamp(min=1)).mean()
        columns = torch.stack([positives, negatives.columns], dim=1)
        positive, negative = distances.gather(1, columns).unbind(1)
        hinge = (positive - negative + self.margin).relu() * negatives.found
        return hinge.sum() / negatives.found.sum().clamp(min=1)


class InfoNCE(nn.Module):
    """Cross-entropy of the positive among all candidates (NT-Xent: Chen et al. 2020, SimCLR, equation 1).

    The logit of a candidate is ``-distance / temperature``. All allowed candidates are negatives: use the miner
    `every`. With the distance `cochlea_sb.training.mining.cosine`, ``temperature`` (above 0) is SimCLR's tau.

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
        """Mean over the anchors; ``negatives`` is bool [A, C]."""
        if not isinstance(negatives, torch.Tensor):
            raise UserError("InfoNCE needs all negatives of an anchor: set miner to every.")
        candidates = negatives.scatter(1, positives[:, None], True)
        return F.cross_entropy((-distances / self.temperature).masked_fill(~candidates, -torch.inf), positives)


class MaskedSquaredError(nn.Module):
    """Mean squared error over all frames except padding.

    Example
    -------
    >>> frames = torch.tensor([[[1.0], [9.0]]])
    >>> MaskedSquaredError()(torch.zeros(1, 2, 1), frames, torch.tensor([[True, False]]))
    tensor(1.)
    """

    def forward(self, written: torch.Tensor, frames: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Compare two tensors [n, T, M]. ``real``, bool [n, T], is False for padding, and True for 1 frame or more."""
        errors = (written.float() - frames).square().mean(2)
        return (errors * real).sum() / real.sum()
