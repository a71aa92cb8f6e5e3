"""Time stretch."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import resample_frames, uniform
from cochlea_sb.errors import UserError


class StretchDraw(NamedTuple):
    """``rate`` [B]: 2 plays twice as fast."""

    rate: torch.Tensor


class TimeStretch(Deformation[StretchDraw]):
    """Play faster or slower without change of pitch; the first frame stays where it is.

    At a rate above 1 the end of the crop comes from beyond it, which is silence: give longer crops than needed and cut
    afterwards, as `cochlea_sb.training` does.

    Arguments
    ---------
    max_rate : float, at least 1
        Rates are drawn log-uniformly from ``[1 / max_rate, max_rate]``; 2 halves or doubles the duration.

    Raises
    ------
    UserError
        If ``max_rate`` is below 1.
    """

    strengths = ("max_rate",)

    def __init__(self, max_rate: float = 1.5) -> None:
        super().__init__()
        if max_rate < 1:
            raise UserError(f"max_rate is {max_rate}: expected at least 1, which changes nothing.")
        self.max_rate = max_rate

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> StretchDraw:
        """See `Deformation.draw`."""
        return StretchDraw(self.max_rate ** uniform(-1, 1, energies, generator))

    def deform(self, energies: torch.Tensor, draw: StretchDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        """See `Deformation.deform`."""
        frames = torch.arange(energies.shape[1], device=energies.device)
        return resample_frames(energies, frames * draw.rate[:, None])
