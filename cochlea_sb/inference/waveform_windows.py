"""Cut waveforms of any lengths into windows, without a loop over sounds or windows. Axes: S sounds, W windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch


class WaveformWindows:
    """Windows that cover all sounds. The last window of a sound may reach beyond it, into silence.

    Arguments
    ---------
    wavs : list of np.ndarray or torch.Tensor [samples], float32
    size : int, samples of a window
    hop : int, samples between the starts of two windows of a sound

    Attributes
    ----------
    lengths, counts : torch.Tensor [S], int64, numbers of samples and of windows
    sounds, starts : torch.Tensor [W], int64, the sound and the first sample of each window
    """

    def __init__(self, wavs: Sequence[np.ndarray | torch.Tensor], size: int, hop: int) -> None:
        self.size = size
        self.lengths = torch.tensor([len(wav) for wav in wavs])
        self.counts = 1 + ((self.lengths - size).clamp(min=0) + hop - 1) // hop
        self.sounds = torch.repeat_interleave(torch.arange(len(wavs)), self.counts)
        first = (self.counts.cumsum(0) - self.counts)[self.sounds]
        self.starts = (torch.arange(len(self.sounds)) - first) * hop
        self.joined = torch.cat([*(torch.as_tensor(wav).cpu() for wav in wavs), torch.zeros(size)])

    def blocks(self, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield up to ``count`` windows at a time: [W, size], and the number of samples inside the sound, [W]."""
        everywhere, within = self.joined.unfold(0, self.size, 1), torch.arange(self.size)
        firsts = (self.lengths.cumsum(0) - self.lengths)[self.sounds] + self.starts
        inside = (self.lengths[self.sounds] - self.starts).clamp(max=self.size)
        for first, length in zip(firsts.split(count), inside.split(count), strict=True):
            yield everywhere[first].masked_fill_(within >= length[:, None], 0), length
