"""A `FrameBank` whose frames are in a file, because they do not fit in memory."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.errors import UserError
from cochlea_sb.features import level


class DiskBank(FrameBank):
    """The frames of many sounds, one sound after another, in a file.

    `crops` reads each crop by one call of ``pread``. Access to the memory-mapped file would read it page by page, which
    takes 60 times as long (benchmarks/training_from_disk.py). Reads from first to last frame use the memory map.

    Arguments
    ---------
    path : str or Path, a file of `numpy.save`: float16 [all_frames, mels]
    lengths, silence, level : as in `FrameBank`
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        lengths: torch.Tensor,
        silence: float,
        level: Callable[[torch.Tensor], torch.Tensor] = level,
    ) -> None:
        # Mode c is copy-on-write: torch needs writable memory, and the file must not change.
        array: np.memmap = np.load(path, mmap_mode="c")
        super().__init__(torch.from_numpy(array), lengths, silence, level)
        self.on_disk, self.path, self.offset = True, Path(path), array.offset
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115, for as long as the bank
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def crops(self, sounds: torch.Tensor, starts: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Like `FrameBank.crops`, read from the file."""
        if not hasattr(os, "pread"):
            return super().crops(sounds, starts, n_frames)
        lengths = self.lengths[sounds]
        lows, highs = starts.clamp(min=0), torch.minimum(starts + n_frames, lengths)
        firsts = self.ends[sounds] - lengths + lows
        crops = np.full((len(sounds), n_frames, self.frames.shape[1]), self.silence, np.float16)
        n_bytes = crops.strides[1]  # of a frame
        parts = zip(crops, (lows - starts).tolist(), firsts.tolist(), (highs - lows).tolist(), strict=True)
        for crop, skipped, first, count in parts:
            if count > 0:
                read = os.pread(self.file.fileno(), count * n_bytes, self.offset + first * n_bytes)
                if len(read) < count * n_bytes:
                    raise UserError(f"'{self.path}' has become shorter: delete it, and start again to write it again.")
                crop[skipped : skipped + count] = np.frombuffer(read, np.float16).reshape(count, -1)
        return torch.from_numpy(crops)
