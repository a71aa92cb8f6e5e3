"""Additive noise."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import uniform
from cochlea_sb.errors import UserError
from cochlea_sb.features import mel_edges


class NoiseDraw(NamedTuple):
    """``snr_db`` [B], and ``normal`` [B, T, M], standard normal numbers from which the noise is made."""

    snr_db: torch.Tensor
    normal: torch.Tensor


class GaussianNoise(Deformation[NoiseDraw]):
    """Add white Gaussian noise at a signal-to-noise ratio drawn for each example.

    White noise gives a band energy in proportion to its width in Hz. The energy fluctuates less the more independent
    frequency bins the band spans: it is a gamma variable, computed here from a normal one (Wilson and Hilferty 1931).

    Arguments
    ---------
    snr_low_db, snr_high_db : float
        Range of the ratio of the example's energy to the noise's.
    n_mels, low_hz, high_hz :
        As in `cochlea_sb.features.LogMel`.
    resolution_hz : float
        Width of one independent frequency bin: about 1.5 / window length for a Hann window (60 Hz for 25 ms).

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
        self.register_buffer("share", (width / width.sum()).float(), persistent=False)  # of the noise, by band
        self.register_buffer("shape", (width / resolution_hz).clamp(min=1).float(), persistent=False)

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> NoiseDraw:
        """See `Deformation.draw`."""
        snr_db = uniform(self.snr_low_db, self.snr_high_db, energies, generator)
        return NoiseDraw(snr_db, torch.randn(energies.shape, generator=generator, device=energies.device))

    def deform(self, energies: torch.Tensor, draw: NoiseDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        """See `Deformation.deform`."""
        signal = energies.sum(2).mean(1)  # [B], energy of a frame
        level = signal * 10 ** (-draw.snr_db / 10)
        spread = 1 / (3 * self.shape.sqrt())
        # Mean 1, variance 1 / shape.
        gamma = torch.addcmul(1 - spread.square(), draw.normal, spread).clamp_(min=0).pow_(3)
        return torch.addcmul(energies, gamma, level[:, None, None] * self.share)
