"""Temporal proximity."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation


class NoDraw(NamedTuple):
    """An empty draw."""


class TemporalProximity(Deformation[NoDraw]):
    """Change nothing: the positive is another crop of the anchor's sound (Jansen et al. 2017, section 3.5).

    `cochlea_sb.training.pairs` chooses the crops. This class lets a list of deformations contain temporal proximity.
    """

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> NoDraw:
        return NoDraw()

    def deform(self, energies: torch.Tensor, draw: NoDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        return energies
