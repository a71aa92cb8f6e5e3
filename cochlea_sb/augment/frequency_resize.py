"""Another size of the sounding body."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import resample_mels, uniform
from cochlea_sb.errors import UserError


class ResizeDraw(NamedTuple):
    """``scale`` [B]: above 1 the spectrum shrinks towards the middle of the mel axis. ``shift`` [B]: its share by which
    the spectrum then moves down."""

    scale: torch.Tensor
    shift: torch.Tensor


class FrequencyResize(Deformation[ResizeDraw]):
    """Stretch and move the mel axis itself: formants and bandwidths change, as between bodies of different size.

    Not from the paper. BYOL-A (Niizuma et al. 2021) crops and resizes at random along both axes; along frequency alone
    it helped more than any other single deformation on ESC-10 (docs/experiments.md).

    Arguments
    ---------
    max_change : float in [0, 1)
        The axis is scaled about its middle by a factor drawn from ``[1 - max_change, 1 + max_change]`` and moved by
        up to ``max_change / 4`` of its length.

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
        """See `Deformation.draw`."""
        scale = 1 + uniform(-self.max_change, self.max_change, energies, generator)
        return ResizeDraw(scale, uniform(-self.max_change, self.max_change, energies, generator) / 4)

    def deform(self, energies: torch.Tensor, draw: ResizeDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        """See `Deformation.deform`."""
        n_mels = energies.shape[2]
        middle = (n_mels - 1) / 2
        from_middle = torch.arange(n_mels, device=energies.device) - middle
        return resample_mels(energies, from_middle * draw.scale[:, None] + middle + draw.shift[:, None] * n_mels)
