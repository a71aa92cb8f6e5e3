"""The baseline for learned embeddings: the frames of a window, flattened to a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from cochlea_sb.encoders.windowed import WINDOW_FRAMES, WindowEncoder
from cochlea_sb.features import level

if TYPE_CHECKING:
    from cochlea_sb.data.frame_bank import FrameBank


class FlattenedLogMel(WindowEncoder):
    """The log-mel values of a window as one vector (the baseline of Jansen et al. 2017, section 4.2).

    `fit` computes the mean frame of a corpus, which `encode` subtracts from each frame. Without this subtraction, the
    cosine of any two windows is high, and the mAP on ESC-10 is 0.36 instead of 0.45.

    Arguments
    ---------
    silence, hop_frames, level : as in `WindowEncoder`
    frame_size : int, M, number of mel bands
    """

    mean: torch.Tensor

    def __init__(
        self,
        silence: float,
        frame_size: int = 64,
        hop_frames: int = 48,
        level: Callable[[torch.Tensor], torch.Tensor] = level,
    ) -> None:
        super().__init__(silence, hop_frames, None, level)
        self.frame_size, self.embedding_size = frame_size, WINDOW_FRAMES * frame_size
        self.register_buffer("mean", torch.zeros(frame_size))

    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Encode windows [n, 96, M] to vectors [n, 96 * M]."""
        return (windows - self.mean).flatten(1)

    def fit(self, bank: FrameBank, seed: int = 0, progress: bool = True) -> FlattenedLogMel:
        """Compute the mean frame of a `FrameBank`, and return this encoder. ``seed`` and ``progress`` are not used."""
        self.mean.copy_(bank.mean())
        return self
