"""Another microphone."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation

KNOTS = 5


class EqualizationDraw(NamedTuple):
    """``gains_db`` [B, 5]: at knots evenly spaced along the mel axis."""

    gains_db: torch.Tensor


class Equalization(Deformation[EqualizationDraw]):
    """A smooth gain over frequency, the same for all frames of an example, as of another microphone.

    Not from the paper. It hides what identifies a recording and is not part of the sound.

    Arguments
    ---------
    spread_db : float
        Standard deviation of the gain at each of five knots along the mel axis, with straight lines between them.
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
        """See `Deformation.draw`."""
        normal = torch.randn(len(energies), KNOTS, generator=generator, device=energies.device)
        return EqualizationDraw(self.spread_db * normal)

    def deform(
        self, energies: torch.Tensor, draw: EqualizationDraw, others: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Deformation.deform`."""
        return energies * (10 ** (draw.gains_db @ self.hats / 10))[:, None]
