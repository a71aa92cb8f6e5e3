"""All frames of a corpus as one tensor, so that drawing a batch is index arithmetic.

Axes: N sounds, F frames of the whole corpus, B batch, T frames of a crop, M mel bands.
"""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch

from cochlea_sb.errors import UserError
from cochlea_sb.features import FrontEnd, level
from cochlea_sb.files import whole_file
from cochlea_sb.machine import memory_bytes


class FrameBank:
    """The frames of a corpus, one sound after the other.

    Arguments
    ---------
    frames : torch.Tensor [all_frames, mels], float16
    lengths : torch.Tensor [sounds], int64
        Number of frames of each sound, at least 1; they sum up to ``all_frames``.
    silence : float
        Value that stands beyond a sound's end.
    level : callable
        From frames to their loudness: the front end's, `cochlea_sb.features.level` by default.

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
                f"lengths sum up to {int(lengths.sum())} and frames are {len(frames)}: expected at least one sound, "
                "each of at least one frame, lying one after the other."
            )
        self.frames = frames
        self.lengths = lengths.to(frames.device)
        self.ends = self.lengths.cumsum(0)
        self.silence, self.level = silence, level

    @classmethod
    def from_dataset(
        cls, frames: datasets.Dataset, front_end: FrontEnd, device: str = "cpu", *, max_bytes: int | None = None
    ) -> "FrameBank":
        """Lay the rows of a dataset of frames out as one tensor.

        Arguments
        ---------
        frames : datasets.Dataset
            From `cochlea_sb.data.frames.split_readable`.
        front_end : FrontEnd
            The one that computed them.
        device : str
            Where the tensor should lie: a CUDA device, or else the CPU.
        max_bytes : int, optional
            What the tensor may occupy there; by default half of the GPU's free memory, or half of the machine's. A
            larger corpus stays in a memory-mapped file beside the cache, and crops travel to the device instead.

        Returns
        -------
        FrameBank
        """
        device = device if torch.device(device).type == "cuda" else "cpu"  # other GPUs lack the float64 that pairs use
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

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        n_bytes = self.frames.numel() * self.frames.element_size()
        return f"FrameBank({len(self)} sounds, {len(self.frames)} frames, {n_bytes / 2**20:.1f} MiB on {self.device})"

    @property
    def device(self) -> torch.device:
        """torch.device: where the frames lie."""
        return self.frames.device

    def crops(self, sounds: torch.Tensor, starts: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Cut one crop for each pair of sound and start; silence where a sound ends before its crop does.

        Arguments
        ---------
        sounds : torch.Tensor [batch], int64
        starts : torch.Tensor [batch], int64
            First frame within the sound.
        n_frames : int

        Returns
        -------
        torch.Tensor [batch, n_frames, mels], float16
        """
        ends = self.ends[sounds, None]
        rows = ends - self.lengths[sounds, None] + starts[:, None] + torch.arange(n_frames, device=self.device)
        crops = self.frames[rows.clamp(max=len(self.frames) - 1)]
        return crops.masked_fill_((rows >= ends)[..., None], self.silence)

    def windows(self, n_frames: int, hop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All windows of all sounds: from a sound's start on, every ``hop`` frames, until the sound is covered.

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
        """Loudest frame of windows, and of the whole sounds that they are in.

        Arguments
        ---------
        sounds, starts : torch.Tensor [windows], int64
            From `windows`, which cover their sounds.
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
        peaks = torch.cat(peaks)
        loudest = torch.full((len(self),), -torch.inf, device=self.device)
        return peaks, loudest.scatter_reduce(0, sounds, peaks, "amax")[sounds]

    def mean(self) -> torch.Tensor:
        """Mean frame of the corpus, torch.Tensor [mels] float32."""
        total = torch.zeros(self.frames.shape[1], dtype=torch.float64, device=self.device)
        for block in self.frames.split(1 << 16):
            total += block.sum(0, dtype=torch.float64)
        return (total / len(self.frames)).float()


def half_of_memory(device):
    """Half of a GPU's free memory, or of all the machine's, in bytes."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return memory_bytes() // 2


def copy_rows(frames, out):
    """Copy the rows' frames into ``out`` [all_frames, mels], a batch of rows at a time."""
    done = 0
    for table in frames.select_columns(["frames"]).with_format("arrow").iter(batch_size=64):
        for chunk in table.column("frames").chunks:
            values = chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, out.shape[1])
            block = out[done : done + len(values)]
            if isinstance(out, np.ndarray):
                block[:] = values
            else:
                block.copy_(torch.from_numpy(values.copy()))  # Arrow's memory is read-only, which torch warns of
            done += len(values)


def map_rows(frames, shape):
    """The rows' frames as one read-only memory-mapped array; the file is written once and kept in the cache."""
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "cochlea_sb"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"bank-{frames._fingerprint}.npy"
    if not file.is_file():
        with whole_file(file) as partial:
            copy_rows(frames, np.lib.format.open_memmap(partial, "w+", np.float16, shape))
    return np.load(file, mmap_mode="c")  # copy on write: torch wants writable memory, the file never changes
