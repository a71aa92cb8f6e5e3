"""The paper's noise."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation


class SpectralNoiseDraw(NamedTuple):
    """``normal`` [B, T, M]: standard normal numbers."""

    normal: torch.Tensor


class SpectralNoise(Deformation[SpectralNoiseDraw]):
    """Multiply each energy by ``1 + |e|``, e drawn from a normal distribution (Jansen et al. 2017, section 3.1).

    Arguments
    ---------
    spread : float
        Standard deviation of e (the paper: 0.5).
    """

    strengths = ("spread",)

    def __init__(self, spread: float = 0.5) -> None:
        super().__init__()
        self.spread = spread

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> SpectralNoiseDraw:
        """See `Deformation.draw`."""
        return SpectralNoiseDraw(torch.randn(energies.shape, generator=generator, device=energies.device))

    def deform(
        self, energies: torch.Tensor, draw: SpectralNoiseDraw, others: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Deformation.deform`."""
        return energies * (draw.normal * self.spread).abs_().add_(1)
