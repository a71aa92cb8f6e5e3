"""Translation in time and frequency."""

from typing import NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import resample_mels, uniform


class TranslationDraw(NamedTuple):
    """``later`` [B], the shift in time in frames, and ``higher`` [B], the shift in frequency in mel bands."""

    later: torch.Tensor
    higher: torch.Tensor


class Translation(Deformation[TranslationDraw]):
    """Shift each example in time and in frequency (Jansen et al. 2017, section 3.2).

    The shift in time is circular. The shift in frequency fills the empty bands with silence.

    Arguments
    ---------
    max_frames : int, the shift in time is a whole number of frames from ``[-max_frames, max_frames]``
    max_bands : float, the shift in mel bands is drawn uniformly from ``[-max_bands, max_bands]``
    """

    strengths = ("max_frames", "max_bands")

    def __init__(self, max_frames: int = 48, max_bands: float = 4.0) -> None:
        super().__init__()
        self.max_frames, self.max_bands = max_frames, max_bands

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> TranslationDraw:
        later = uniform(-self.max_frames, self.max_frames, energies, generator).round().long()
        return TranslationDraw(later, uniform(-self.max_bands, self.max_bands, energies, generator))

    def deform(self, energies: torch.Tensor, draw: TranslationDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        n_frames, n_mels = energies.shape[1:]
        frames = (torch.arange(n_frames, device=energies.device) - draw.later[:, None]) % n_frames
        examples = torch.arange(len(energies), device=energies.device)[:, None]
        bands = torch.arange(n_mels, device=energies.device) - draw.higher[:, None]
        return resample_mels(energies[examples, frames], bands)
