"""A `FrameBank` holds all frames of many sounds in one tensor, so that cropping needs only index arithmetic.

Training draws crops from the bank of a corpus. Inference makes a small bank from waveforms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cochlea_sb.errors import UserError
from cochlea_sb.features import FrontEnd, level
from cochlea_sb.files import whole_file
from cochlea_sb.machine import memory_bytes

if TYPE_CHECKING:
    import datasets


class FrameBank:
    """The frames of many sounds, one sound after another.

    Arguments
    ---------
    frames : torch.Tensor [all_frames, mels], float16 or float32
    lengths : torch.Tensor [sounds], int64, number of frames of each sound, at least 1; their sum is ``all_frames``
    silence : float, the value that crops have beyond the start or end of a sound
    level : callable, the `level` of the front end, which computes the loudness of frames

    Example
    -------
    >>> bank = FrameBank(torch.arange(6).half()[:, None], torch.tensor([2, 4]), silence=-1)
    >>> bank.crops(torch.tensor([1, 0]), torch.tensor([2, 1]), 3)[..., 0].float()
    tensor([[ 4.,  5., -1.],
            [ 1., -1., -1.]])
    """

    def __init__(
        self,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        silence: float,
        level: Callable[[torch.Tensor], torch.Tensor] = level,
    ) -> None:
        if int(lengths.sum()) != len(frames) or not len(lengths) or int(lengths.min()) < 1:
            raise UserError(
                f"lengths have the sum {int(lengths.sum())}, and there are {len(frames)} frames: expected at least one "
                "sound, at least one frame in each sound, and a sum that equals the number of frames."
            )
        self.frames = frames
        self.lengths = lengths.to(frames.device)
        self.ends = self.lengths.cumsum(0)
        self.silence, self.level = silence, level
        self.on_disk = False  # True for a `DiskBank`

    @classmethod
    def from_dataset(
        cls, frames: datasets.Dataset, front_end: FrontEnd, device: str = "cpu", *, max_bytes: int | None = None
    ) -> FrameBank:
        """Copy a dataset of frames into a bank.

        Arguments
        ---------
        frames : datasets.Dataset, from `cochlea_sb.data.frames.split_readable`
        front_end : FrontEnd, the front end that computed the frames
        device : str, a CUDA device for the bank; with another device, the bank is on the CPU
        max_bytes : int, optional
            Maximum size of the frames in memory, by default half of the GPU's free memory or half of the machine's
            memory. A larger corpus becomes a `cochlea_sb.data.disk_bank.DiskBank`, whose frames are in a file in the
            cache.
        """
        device = device if torch.device(device).type == "cuda" else "cpu"  # pairs need float64, which other GPUs lack
        lengths = torch.tensor(frames["n_frames"], dtype=torch.int64)
        shape = (int(lengths.sum()), front_end.frame_size)
        n_bytes = 2 * shape[0] * shape[1]
        fits = n_bytes <= (half_of_memory(device) if max_bytes is None else max_bytes)
        if not fits:
            from cochlea_sb.data.disk_bank import DiskBank

            return DiskBank(file_of_rows(frames, shape), lengths, front_end.silence, front_end.level)
        tensor = torch.empty(shape, dtype=torch.float16, device=device)
        copy_rows(frames, tensor)
        return cls(tensor, lengths, front_end.silence, front_end.level)

    @classmethod
    def from_waveforms(
        cls, wavs: Sequence[np.ndarray | torch.Tensor], front_end: FrontEnd, device: str | torch.device = "cpu"
    ) -> FrameBank:
        """Compute the float32 frames of waveforms of any lengths, in one pass of the front end.

        Arguments
        ---------
        wavs : list of np.ndarray or torch.Tensor [samples], float in [-1, 1], at the sample rate of the front end
        front_end : FrontEnd
        device : str or torch.device, for the computation and the frames
        """
        hop, gap = front_end.hop, -(-front_end.window // front_end.hop)
        lengths = torch.tensor([front_end.frames_in(len(wav)) for wav in wavs])
        # After each sound there is a gap as long as an analysis window, so that no frame includes two sounds.
        firsts = (lengths + gap).cumsum(0) - lengths - gap
        joined = torch.zeros(int((lengths + gap).sum()) * hop)
        for wav, first in zip(wavs, (firsts * hop).tolist(), strict=True):
            joined[first : first + len(wav)] = torch.as_tensor(wav)
        frames = front_end(joined[None].to(device))[0]
        kept = [frames[first : first + n] for first, n in zip(firsts.tolist(), lengths.tolist(), strict=True)]
        return cls(torch.cat(kept), lengths, front_end.silence, front_end.level)

    @classmethod
    def from_padded(
        cls,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        silence: float,
        level: Callable[[torch.Tensor], torch.Tensor] = level,
    ) -> FrameBank:
        """Copy a padded batch into a bank, without the padding.

        Arguments
        ---------
        frames : torch.Tensor [batch, frames, mels]
        lengths : torch.Tensor [batch], int64, number of frames of each sound that are not padding, at least 1
        silence, level : as in `FrameBank`
        """
        within = torch.arange(frames.shape[1], device=frames.device) < lengths.to(frames.device)[:, None]
        return cls(frames[within], lengths, silence, level)

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        n_bytes = self.frames.numel() * self.frames.element_size()
        where = "disk" if self.on_disk else self.device
        return f"FrameBank({len(self)} sounds, {len(self.frames)} frames, {n_bytes / 2**20:.1f} MiB on {where})"

    @property
    def device(self) -> torch.device:
        """torch.device: device of the frames."""
        return self.frames.device

    def crops(self, sounds: torch.Tensor, starts: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Cut crops. A crop is silent before the start and after the end of its sound.

        Arguments
        ---------
        sounds : torch.Tensor [batch], int64, the sound of each crop
        starts : torch.Tensor [batch], int64, the first frame of each crop, counted from the start of the sound
        n_frames : int

        Returns
        -------
        torch.Tensor [batch, n_frames, mels], of the type of the frames
        """
        ends = self.ends[sounds, None]
        firsts = ends - self.lengths[sounds, None]
        rows = firsts + starts[:, None] + torch.arange(n_frames, device=self.device)
        crops = self.frames[rows.clamp(0, len(self.frames) - 1)]
        return crops.masked_fill_(((rows < firsts) | (rows >= ends))[..., None], self.silence)

    def windows(self, n_frames: int, hop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ``sounds`` and ``starts``, for `crops`, of windows every ``hop`` frames that cover all sounds."""
        counts = 1 + ((self.lengths - n_frames).clamp(min=0) + hop - 1) // hop
        sounds = torch.repeat_interleave(torch.arange(len(self), device=self.device), counts)
        first = (counts.cumsum(0) - counts)[sounds]
        return sounds, (torch.arange(len(sounds), device=self.device) - first) * hop

    def peaks(self, sounds: torch.Tensor, starts: torch.Tensor, n_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two tensors [windows]: the `level` of the loudest frame of each window, and of its sound.

        ``sounds`` and ``starts`` must be all windows, as `windows` returns them.
        """
        levels = self.frame_levels()
        last = self.ends[sounds] - 1
        first = last + 1 - self.lengths[sounds] + starts
        within = torch.arange(n_frames, device=self.device)
        peaks = [
            levels[torch.minimum(start[:, None] + within, end[:, None])].amax(1)
            for start, end in zip(first.split(1 << 14), last.split(1 << 14), strict=True)
        ]
        all_peaks = torch.cat(peaks)
        loudest = torch.full((len(self),), -torch.inf, device=self.device)
        return all_peaks, loudest.scatter_reduce(0, sounds, all_peaks, "amax")[sounds]

    def frame_levels(self) -> torch.Tensor:
        """Return the `level` of each of ``self.frames``, [all_frames]."""
        return torch.cat([self.level(block) for block in self.frames.split(1 << 16)])

    def mean(self) -> torch.Tensor:
        """Return the mean of all frames, [mels] float32."""
        total = torch.zeros(self.frames.shape[1], dtype=torch.float64, device=self.device)
        for block in self.frames.split(1 << 16):
            total += block.sum(0, dtype=torch.float64)
        return (total / len(self.frames)).float()


def half_of_memory(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return memory_bytes() // 2


def copy_rows(frames: datasets.Dataset, out: torch.Tensor | np.ndarray) -> None:
    """Copy the frames of all rows into ``out`` [all_frames, mels]."""
    done = 0
    for table in frames.select_columns(["frames"]).with_format("arrow").iter(batch_size=64):
        for chunk in table.column("frames").chunks:
            values = chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, out.shape[1])
            if isinstance(out, np.ndarray):
                out[done : done + len(values)] = values
            else:  # the copy avoids a warning of torch, because the memory of Arrow is read-only
                out[done : done + len(values)].copy_(torch.from_numpy(values.copy()))
            done += len(values)


def file_of_rows(frames: datasets.Dataset, shape: tuple[int, int]) -> Path:
    """Return the file in the cache that has the frames of all rows. It is written once."""
    from cochlea_sb.data.frames import own_cache

    folder = own_cache()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"bank-{frames._fingerprint}.npy"
    if not file.is_file():
        with whole_file(file) as partial:
            copy_rows(frames, np.lib.format.open_memmap(partial, "w+", np.float16, shape))
    return file
