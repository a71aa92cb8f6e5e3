"""All frames of many sounds in one tensor, so that crops and windows need only index arithmetic.

Training draws crops from the bank of a corpus. Inference makes a small bank from waveforms.

Axes: B batch, T frames of the longest sound or of a crop, M mel bands.
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
    """The frames of many sounds, joined.

    Arguments
    ---------
    frames : torch.Tensor [all_frames, mels], float16 or float32
    lengths : torch.Tensor [sounds], int64
        Number of frames of each sound, at least 1; their sum is ``all_frames``.
    silence : float
        Value of frames beyond the ends of a sound.
    level : callable
        The front end's `level`, from frames to their loudness; by default that of log-mel frames.

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
                "sound, at least one frame in each, and the number of frames as the sum."
            )
        self.frames = frames
        self.lengths = lengths.to(frames.device)
        self.ends = self.lengths.cumsum(0)
        self.silence, self.level = silence, level

    @classmethod
    def from_dataset(
        cls, frames: datasets.Dataset, front_end: FrontEnd, device: str = "cpu", *, max_bytes: int | None = None
    ) -> FrameBank:
        """Copy a dataset of frames into a bank.

        Arguments
        ---------
        frames : datasets.Dataset
            From `cochlea_sb.data.frames.split_readable`.
        front_end : FrontEnd
            The one that computed them.
        device : str
            The bank is on this CUDA device; for any other device it is on the CPU.
        max_bytes : int, optional
            Most memory for the frames; by default half of the GPU's free memory, or half of the machine's memory. The
            frames of a larger corpus are memory-mapped from a file in the cache.

        Returns
        -------
        FrameBank
        """
        device = device if torch.device(device).type == "cuda" else "cpu"  # pairs need float64, which other GPUs lack
        lengths = torch.tensor(frames["n_frames"], dtype=torch.int64)
        shape = (int(lengths.sum()), front_end.frame_size)
        n_bytes = 2 * shape[0] * shape[1]
        fits = n_bytes <= (half_of_memory(device) if max_bytes is None else max_bytes)
        if fits:
            tensor = torch.empty(shape, dtype=torch.float16, device=device)
            copy_rows(frames, tensor)
        else:
            tensor = torch.from_numpy(map_rows(frames, shape))
        return cls(tensor, lengths, front_end.silence, front_end.level)

    @classmethod
    def from_waveforms(
        cls, wavs: Sequence[np.ndarray | torch.Tensor], front_end: FrontEnd, device: str | torch.device = "cpu"
    ) -> FrameBank:
        """Compute the frames of waveforms of any lengths, in one pass of the front end.

        Arguments
        ---------
        wavs : list of np.ndarray or torch.Tensor [samples], float in [-1, 1]
            At least one, at the front end's sample rate. Memory grows with their total length.
        front_end : FrontEnd
        device : str or torch.device
            For the computation and the frames.

        Returns
        -------
        FrameBank
            Its frames are float32.
        """
        hop, gap = front_end.hop, -(-front_end.window // front_end.hop)
        lengths = torch.tensor([front_end.frames_in(len(wav)) for wav in wavs])
        # A gap as long as an analysis window after each sound: no frame sees two sounds.
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
        """Copy a padded batch into a bank, without its padding.

        Arguments
        ---------
        frames : torch.Tensor [B, T, M]
        lengths : torch.Tensor [B], int64, 1 to T
            Number of frames of each sound.
        silence, level :
            As in `FrameBank`.

        Returns
        -------
        FrameBank
        """
        within = torch.arange(frames.shape[1], device=frames.device) < lengths.to(frames.device)[:, None]
        return cls(frames[within], lengths, silence, level)

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        n_bytes = self.frames.numel() * self.frames.element_size()
        return f"FrameBank({len(self)} sounds, {len(self.frames)} frames, {n_bytes / 2**20:.1f} MiB on {self.device})"

    @property
    def device(self) -> torch.device:
        """torch.device: that of the frames."""
        return self.frames.device

    def crops(self, sounds: torch.Tensor, starts: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Cut a crop for each pair of sound and start. Beyond the ends of its sound, a crop is silent.

        Arguments
        ---------
        sounds : torch.Tensor [batch], int64
        starts : torch.Tensor [batch], int64
            First frame of the crop, relative to the first frame of the sound; it may be negative.
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
        """Windows that cover all sounds: one every ``hop`` frames of each sound.

        Returns
        -------
        sounds : torch.Tensor [windows], int64
        starts : torch.Tensor [windows], int64
            First frame within the sound.
        """
        counts = 1 + ((self.lengths - n_frames).clamp(min=0) + hop - 1) // hop
        sounds = torch.repeat_interleave(torch.arange(len(self), device=self.device), counts)
        first = (counts.cumsum(0) - counts)[sounds]
        return sounds, (torch.arange(len(sounds), device=self.device) - first) * hop

    def peaks(self, sounds: torch.Tensor, starts: torch.Tensor, n_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels of the loudest frame of each window, and of the loudest frame of its sound.

        Arguments
        ---------
        sounds, starts : torch.Tensor [windows], int64
            From `windows`.
        n_frames : int

        Returns
        -------
        peaks, loudest : torch.Tensor [windows], float32
            In the unit of `cochlea_sb.features.level`.
        """
        levels = torch.cat([self.level(block) for block in self.frames.split(1 << 16)])
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

    def mean(self) -> torch.Tensor:
        """Mean frame of the corpus, torch.Tensor [mels] float32."""
        total = torch.zeros(self.frames.shape[1], dtype=torch.float64, device=self.device)
        for block in self.frames.split(1 << 16):
            total += block.sum(0, dtype=torch.float64)
        return (total / len(self.frames)).float()


def half_of_memory(device: str) -> int:
    """Half of a GPU's free memory, or half of the machine's memory, in bytes."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return memory_bytes() // 2


def copy_rows(frames: datasets.Dataset, out: torch.Tensor | np.ndarray) -> None:
    """Copy the frames of all rows into ``out`` [all_frames, mels], a batch of rows at a time."""
    done = 0
    for table in frames.select_columns(["frames"]).with_format("arrow").iter(batch_size=64):
        for chunk in table.column("frames").chunks:
            values = chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, out.shape[1])
            if isinstance(out, np.ndarray):
                out[done : done + len(values)] = values
            else:  # torch warns about read-only memory such as Arrow's, so it gets a copy
                out[done : done + len(values)].copy_(torch.from_numpy(values.copy()))
            done += len(values)


def map_rows(frames: datasets.Dataset, shape: tuple[int, int]) -> np.ndarray:
    """Memory-map the frames of all rows, from a file that is written once and stays in the cache."""
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / "cochlea_sb"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"bank-{frames._fingerprint}.npy"
    if not file.is_file():
        with whole_file(file) as partial:
            copy_rows(frames, np.lib.format.open_memmap(partial, "w+", np.float16, shape))
    # Copy on write: torch wants writable memory, and the file must not change.
    array: np.ndarray = np.load(file, mmap_mode="c")
    return array
