"""Pitch shift."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import resample_mels, uniform
from cochlea_sb.features import hz_to_mel, mel_edges


class PitchDraw(NamedTuple):
    """``semitones`` [B]: 12 semitones double all frequencies."""

    semitones: torch.Tensor


class PitchShift(Deformation[PitchDraw]):
    """Multiply all frequencies of an example by one ratio, without a change of duration.

    Arguments
    ---------
    max_semitones : float, the shift is drawn uniformly from ``[-max_semitones, max_semitones]``
    n_mels, low_hz, high_hz : as in `cochlea_sb.features.LogMel`
    """

    strengths = ("max_semitones",)
    centres_hz: torch.Tensor

    def __init__(
        self, max_semitones: float = 4.0, n_mels: int = 64, low_hz: float = 60.0, high_hz: float = 7800.0
    ) -> None:
        super().__init__()
        self.max_semitones = max_semitones
        edges = mel_edges(n_mels, low_hz, high_hz)
        mels = hz_to_mel(edges)
        self.first_mel, self.band_mels = float(mels[1]), float(mels[1] - mels[0])
        self.register_buffer("centres_hz", edges[1:-1].float(), persistent=False)

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> PitchDraw:
        return PitchDraw(uniform(-self.max_semitones, self.max_semitones, energies, generator))

    def weaken(self, draw: PitchDraw, strength: torch.Tensor) -> PitchDraw:
        return PitchDraw(draw.semitones * strength)

    def deform(self, energies: torch.Tensor, draw: PitchDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        ratio = 2 ** (draw.semitones[:, None] / 12)
        came_from = (hz_to_mel(self.centres_hz / ratio) - self.first_mel) / self.band_mels  # [B, M]
        return resample_mels(energies, came_from)
