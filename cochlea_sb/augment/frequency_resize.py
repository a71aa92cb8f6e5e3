"""Frequency resize: the spectrum of a larger or smaller source of sound."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import resample_mels, uniform
from cochlea_sb.errors import UserError


class ResizeDraw(NamedTuple):
    """``scale`` and ``shift`` [B]: output band x is input band ``middle + (x - middle) * scale + n_mels * shift``."""

    scale: torch.Tensor
    shift: torch.Tensor


class FrequencyResize(Deformation[ResizeDraw]):
    """Scale and shift the mel axis, which changes formants and bandwidths.

    BYOL-A (Niizuma et al. 2021) crops and resizes spectrograms along time and frequency. This deformation resizes them
    along frequency only.

    Arguments
    ---------
    max_change : float in [0, 1)
        The scale is drawn from ``[1 - max_change, 1 + max_change]``, and the shift, as a fraction of the length of the
        mel axis, from ``[-max_change / 4, max_change / 4]``.

    Raises
    ------
    UserError
        If ``max_change`` is out of range.
    """

    strengths = ("max_change",)

    def __init__(self, max_change: float = 0.4) -> None:
        super().__init__()
        if not 0 <= max_change < 1:
            raise UserError(f"max_change is {max_change}: expected 0, which changes nothing, to less than 1.")
        self.max_change = max_change

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> ResizeDraw:
        scale = 1 + uniform(-self.max_change, self.max_change, energies, generator)
        return ResizeDraw(scale, uniform(-self.max_change, self.max_change, energies, generator) / 4)

    def weaken(self, draw: ResizeDraw, strength: torch.Tensor) -> ResizeDraw:
        return ResizeDraw(1 + (draw.scale - 1) * strength, draw.shift * strength)

    def deform(self, energies: torch.Tensor, draw: ResizeDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        n_mels = energies.shape[2]
        middle = (n_mels - 1) / 2
        from_middle = torch.arange(n_mels, device=energies.device) - middle
        return resample_mels(energies, from_middle * draw.scale[:, None] + middle + draw.shift[:, None] * n_mels)
