"""The multiplicative noise of Jansen et al. 2017."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation


class SpectralNoiseDraw(NamedTuple):
    """``normal`` [B, T, M]: standard normal numbers."""

    normal: torch.Tensor


class SpectralNoise(Deformation[SpectralNoiseDraw]):
    """Multiply each energy by ``1 + |e|``, where e is normal with mean 0 (Jansen et al. 2017, section 3.1).

    Arguments
    ---------
    spread : float, standard deviation of e; 0.5 in Jansen et al. 2017
    """

    strengths = ("spread",)

    def __init__(self, spread: float = 0.5) -> None:
        super().__init__()
        self.spread = spread

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> SpectralNoiseDraw:
        return SpectralNoiseDraw(torch.randn(energies.shape, generator=generator, device=energies.device))

    def deform(
        self, energies: torch.Tensor, draw: SpectralNoiseDraw, others: torch.Tensor | None = None
    ) -> torch.Tensor:
        return energies * (draw.normal * self.spread).abs_().add_(1)
