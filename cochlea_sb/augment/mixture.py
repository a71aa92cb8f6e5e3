"""Mixture of two sounds."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import uniform
from cochlea_sb.errors import UserError


class MixtureDraw(NamedTuple):
    """``ratio`` [B]: energy of the added sound / energy of the example."""

    ratio: torch.Tensor


class Mixture(Deformation[MixtureDraw]):
    """Add another sound to each example (Jansen et al. 2017, section 3.3).

    Without ``others``, the added sound is the previous example of the batch.

    Arguments
    ---------
    max_ratio : float, ``energy of the added sound / energy of the example`` is drawn uniformly from ``[0, max_ratio]``

    Raises
    ------
    UserError
        If ``max_ratio`` is below 0.
    """

    strengths = ("max_ratio",)

    def __init__(self, max_ratio: float = 0.5) -> None:
        super().__init__()
        if max_ratio < 0:
            raise UserError(f"max_ratio is {max_ratio}: expected at least 0, which changes nothing.")
        self.max_ratio = max_ratio

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> MixtureDraw:
        return MixtureDraw(uniform(0, self.max_ratio, energies, generator))

    def deform(self, energies: torch.Tensor, draw: MixtureDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        others = energies.roll(1, 0) if others is None else others
        own, theirs = energies.sum((1, 2), keepdim=True), others.sum((1, 2), keepdim=True)
        scale = torch.where(theirs > 0, draw.ratio[:, None, None] * own / theirs, 0)
        return torch.addcmul(energies, others, scale)
