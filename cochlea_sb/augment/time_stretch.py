"""Time stretch."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import resample_frames, uniform
from cochlea_sb.errors import UserError


class StretchDraw(NamedTuple):
    """``rate`` [B]: a rate of 2 halves the duration."""

    rate: torch.Tensor


class TimeStretch(Deformation[StretchDraw]):
    """Change the speed of a crop without a change of pitch. The number of frames does not change.

    A rate above 1 shortens the sound, and silence fills the end of the crop. `cochlea_sb.training` therefore deforms
    longer crops, and cuts them afterwards.

    Arguments
    ---------
    max_rate : float, at least 1, the rate is drawn log-uniformly from ``[1 / max_rate, max_rate]``

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
        return StretchDraw(self.max_rate ** uniform(-1, 1, energies, generator))

    def weaken(self, draw: StretchDraw, strength: torch.Tensor) -> StretchDraw:
        return StretchDraw(draw.rate**strength)

    def deform(self, energies: torch.Tensor, draw: StretchDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        frames = torch.arange(energies.shape[1], device=energies.device)
        return resample_frames(energies, frames * draw.rate[:, None])
