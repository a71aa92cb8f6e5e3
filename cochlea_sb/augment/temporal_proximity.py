"""Temporal proximity."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation


class NoDraw(NamedTuple):
    """Nothing is drawn."""


class TemporalProximity(Deformation[NoDraw]):
    """Leave a crop as it is: the positive is another crop of the same sound (Jansen et al. 2017, section 3.5).

    The crops are chosen in `cochlea_sb.training.pairs`. This class stands for them among other deformations.
    """

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> NoDraw:
        """See `Deformation.draw`."""
        return NoDraw()

    def deform(self, energies: torch.Tensor, draw: NoDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        """See `Deformation.deform`."""
        return energies
