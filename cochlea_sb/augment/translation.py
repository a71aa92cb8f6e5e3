"""Translation in time and frequency."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import resample_mels, uniform


class TranslationDraw(NamedTuple):
    """``later`` [B] in whole frames, ``higher`` [B] in mel bands; both may be negative."""

    later: torch.Tensor
    higher: torch.Tensor


class Translation(Deformation[TranslationDraw]):
    """Shift in time, circularly, and in frequency, where silence enters (Jansen et al. 2017, section 3.2).

    Arguments
    ---------
    max_frames : int
        Largest shift in time, either way; the shift is a whole number of frames.
    max_bands : float
        Largest shift in mel bands, either way.
    """

    strengths = ("max_frames", "max_bands")

    def __init__(self, max_frames: int = 48, max_bands: float = 4.0) -> None:
        super().__init__()
        self.max_frames, self.max_bands = max_frames, max_bands

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> TranslationDraw:
        """See `Deformation.draw`."""
        later = uniform(-self.max_frames, self.max_frames, energies, generator).round().long()
        return TranslationDraw(later, uniform(-self.max_bands, self.max_bands, energies, generator))

    def deform(self, energies: torch.Tensor, draw: TranslationDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        """See `Deformation.deform`."""
        n_frames, n_mels = energies.shape[1:]
        frames = (torch.arange(n_frames, device=energies.device) - draw.later[:, None]) % n_frames
        examples = torch.arange(len(energies), device=energies.device)[:, None]
        bands = torch.arange(n_mels, device=energies.device) - draw.higher[:, None]
        return resample_mels(energies[examples, frames], bands)
