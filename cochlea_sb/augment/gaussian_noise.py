"""Additive noise."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import uniform
from cochlea_sb.errors import UserError
from cochlea_sb.features import mel_edges


class NoiseDraw(NamedTuple):
    """``snr_db`` [B], and ``normal`` [B, T, M]: standard normal numbers, from which the noise is computed."""

    snr_db: torch.Tensor
    normal: torch.Tensor


class GaussianNoise(Deformation[NoiseDraw]):
    """Add white Gaussian noise.

    The mean energy of white noise in a mel band is proportional to the width of the band in Hz. The energy is a gamma
    variable with the shape ``max(1, width / resolution_hz)``. It is computed from a normal variable (Wilson and
    Hilferty 1931).

    Arguments
    ---------
    snr_low_db, snr_high_db : float, the signal-to-noise ratio is drawn uniformly from this range
    n_mels, low_hz, high_hz : as in `cochlea_sb.features.LogMel`
    resolution_hz : float, distance of two frequencies whose noise is independent
        For a Hann window it is about ``1.5 / window_seconds``: 60 Hz for 25 ms.

    Raises
    ------
    UserError
        If ``snr_low_db`` is above ``snr_high_db``.

    Example
    -------
    >>> GaussianNoise(snr_low_db=10, snr_high_db=40)
    GaussianNoise(snr_low_db=10, snr_high_db=40)
    """

    strengths = ("snr_low_db", "snr_high_db")
    share: torch.Tensor
    shape: torch.Tensor

    def __init__(
        self,
        snr_low_db: float = 0.0,
        snr_high_db: float = 60.0,
        n_mels: int = 64,
        low_hz: float = 60.0,
        high_hz: float = 7800.0,
        resolution_hz: float = 60.0,
    ) -> None:
        super().__init__()
        if snr_low_db > snr_high_db:
            raise UserError(
                f"snr_low_db is {snr_low_db} and snr_high_db is {snr_high_db}: expected snr_low_db <= snr_high_db."
            )
        self.snr_low_db, self.snr_high_db = snr_low_db, snr_high_db
        edges = mel_edges(n_mels, low_hz, high_hz)
        width = (edges[2:] - edges[:-2]) / 2
        self.register_buffer("share", (width / width.sum()).float(), persistent=False)  # of the noise energy
        self.register_buffer("shape", (width / resolution_hz).clamp(min=1).float(), persistent=False)

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> NoiseDraw:
        snr_db = uniform(self.snr_low_db, self.snr_high_db, energies, generator)
        return NoiseDraw(snr_db, torch.randn(energies.shape, generator=generator, device=energies.device))

    def deform(self, energies: torch.Tensor, draw: NoiseDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        signal = energies.sum(2).mean(1)  # [B], mean energy of a frame
        level = signal * 10 ** (-draw.snr_db / 10)
        spread = 1 / (3 * self.shape.sqrt())
        # A gamma variable with mean 1 and variance 1 / shape.
        gamma = torch.addcmul(1 - spread.square(), draw.normal, spread).clamp_(min=0).pow_(3)
        return torch.addcmul(energies, gamma, level[:, None, None] * self.share)
