"""Equalization: the frequency response of another microphone."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation

KNOTS = 5


class EqualizationDraw(NamedTuple):
    """``gains_db`` [B, 5]: the gains at five knots, which are evenly spaced along the mel axis."""

    gains_db: torch.Tensor


class Equalization(Deformation[EqualizationDraw]):
    """Apply a gain that depends on frequency, like the frequency response of a microphone.

    The gains are drawn at five knots along the mel axis, and interpolated linearly between the knots. This deformation
    is not part of Jansen et al. 2017. It teaches the encoder to ignore the frequency response of a microphone.

    Arguments
    ---------
    spread_db : float, standard deviation of the gain at each knot
    n_mels : int
    """

    strengths = ("spread_db",)
    hats: torch.Tensor

    def __init__(self, spread_db: float = 6.0, n_mels: int = 64) -> None:
        super().__init__()
        self.spread_db = spread_db
        places = torch.linspace(0, KNOTS - 1, n_mels)
        hats = (1 - (places - torch.arange(KNOTS)[:, None]).abs()).clamp(min=0)  # [KNOTS, M]
        self.register_buffer("hats", hats, persistent=False)

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> EqualizationDraw:
        normal = torch.randn(len(energies), KNOTS, generator=generator, device=energies.device)
        return EqualizationDraw(self.spread_db * normal)

    def weaken(self, draw: EqualizationDraw, strength: torch.Tensor) -> EqualizationDraw:
        return EqualizationDraw(draw.gains_db * strength[:, None])

    def deform(
        self, energies: torch.Tensor, draw: EqualizationDraw, others: torch.Tensor | None = None
    ) -> torch.Tensor:
        return energies * (10 ** (draw.gains_db @ self.hats / 10))[:, None]
