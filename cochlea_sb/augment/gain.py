"""Gain."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import uniform


class GainDraw(NamedTuple):
    """``gain_db`` [B]."""

    gain_db: torch.Tensor


class Gain(Deformation[GainDraw]):
    """Multiply all energies of an example by one gain.

    Arguments
    ---------
    max_db : float, the gain is drawn uniformly from ``[-max_db, max_db]``
    """

    strengths = ("max_db",)

    def __init__(self, max_db: float = 20.0) -> None:
        super().__init__()
        self.max_db = max_db

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> GainDraw:
        return GainDraw(uniform(-self.max_db, self.max_db, energies, generator))

    def deform(self, energies: torch.Tensor, draw: GainDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        return energies * 10 ** (draw.gain_db[:, None, None] / 10)
