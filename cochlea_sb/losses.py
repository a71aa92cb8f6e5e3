"""Losses over mined distances. Each takes what `cochlea_sb.mining` found and is a few lines."""

from torch import nn


class TripletLoss(nn.Module):
    """Hinge on how much closer the positive is than the negative (Jansen et al. 2017, equation 1).

    Arguments
    ---------
    margin : float
        By how much the negative should be farther, in the unit of the distances (the paper: 0.1, squared Euclidean).

    Example
    -------
    >>> import torch
    >>> TripletLoss(margin=0.1)(torch.tensor([0.5, 0.2]), torch.tensor([0.4, 0.9]), torch.tensor([True, True]))
    tensor(0.1000)
    """

    def __init__(self, margin=0.1):
        super().__init__()
        self.margin = margin

    def forward(self, positive_distances, negative_distances, found):
        """Mean hinge over the triplets that were found; with none, a zero that still backpropagates.

        Arguments
        ---------
        positive_distances, negative_distances : torch.Tensor [anchors]
        found : torch.Tensor [anchors], bool
            Where an anchor has a negative at all.

        Returns
        -------
        torch.Tensor, scalar
        """
        hinge = (positive_distances - negative_distances + self.margin).relu() * found
        return hinge.sum() / found.sum().clamp(min=1)
