"""The base class of encoders, and the functions that encode windows and sounds with any encoder.

`encode_windows` encodes windows of a `FrameBank`, in blocks. `encode_bank` encodes each sound of a bank: the embedding
is the weighted mean of the vectors of its windows. `WindowEncoder.forward` does this for a padded batch.

Axes: B sounds, W windows, M mel bands, D embedding dimensions.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.errors import UserError
from cochlea_sb.features import audibility, level

WINDOW_FRAMES = 96  # 0.96 s, the context of Jansen et al. 2017, section 4.1


class WindowEncoder(nn.Module):
    """Base class of encoders. A subclass implements ``encode``, which encodes windows.

    Arguments
    ---------
    silence : float, value of the front end for digital silence; a sound shorter than a window is padded with this value
    hop_frames : int, number of frames between the starts of two windows of a sound
    range_db : float or None
        `levelled` adds a floor that is ``range_db`` below the loudest energy of a window, in dB. With None, `levelled`
        returns its input, which is for frames that are not log energies.
    level : callable, the `level` of the front end, which computes the loudness of frames
    """

    embedding_size: int  # D; a subclass sets it

    def __init__(
        self,
        silence: float,
        hop_frames: int = WINDOW_FRAMES // 2,
        range_db: float | None = 50.0,
        level: Callable[[torch.Tensor], torch.Tensor] = level,
    ) -> None:
        super().__init__()
        if not 1 <= hop_frames <= WINDOW_FRAMES:
            raise UserError(f"hop_frames is {hop_frames}: expected 1 to {WINDOW_FRAMES}.")
        self.silence, self.hop_frames, self.range_db, self.level = silence, hop_frames, range_db, level

    def forward(self, frames: torch.Tensor, lens: torch.Tensor | None = None) -> torch.Tensor:
        """Encode a batch of sounds.

        Arguments
        ---------
        frames : torch.Tensor [batch, frames, mels], with any number of frames
        lens : torch.Tensor [batch], float in (0, 1], the length of each sound without padding / number of frames

        Returns
        -------
        torch.Tensor [batch, 1, D], unit norm
            The normalised mean of the vectors of all windows of a sound, weighted by `audibility` times
            `window_weights`. On ESC-10, where many clips are padded with silence, `audibility` adds 0.03 to the mAP of
            every encoder.
        """
        n_frames = frames.shape[1]
        # Sounds of one window, as in training, are not split into blocks: batch normalisation needs them together.
        if n_frames <= WINDOW_FRAMES:
            windows = F.pad(frames, (0, 0, 0, WINDOW_FRAMES - n_frames), value=self.silence)
            return F.normalize(self.encode(windows).float(), dim=-1)[:, None]
        bank = FrameBank.from_padded(frames, real_frames(frames, lens), self.silence, self.level)
        return average_windows(self, bank)[:, None]

    def settings(self) -> dict[str, Any]:
        """Return the constructor arguments that build this encoder again, without its weights.

        The value of an argument is the value of the attribute with the same name.

        Example
        -------
        >>> from cochlea_sb.encoders.log_mel import FlattenedLogMel
        >>> FlattenedLogMel(silence=0.0, frame_size=12).settings()["frame_size"]
        12
        """
        try:
            return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        except AttributeError as error:
            raise UserError(
                f"{error}: an encoder must keep each argument of its constructor as an attribute of that name, so that "
                "it can be saved."
            ) from error

    @property
    def device(self) -> torch.device:
        """torch.device: device of the weights."""
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Encode windows [n, 96, M] to vectors [n, D] of any norm."""
        raise NotImplementedError

    def levelled(self, windows: torch.Tensor) -> torch.Tensor:
        """Remove the loudness, and most of any faint noise, from windows [n, 96, M] of log energies.

        First, a constant is added to all energies of a window. It is ``range_db`` below the loudest energy, so that
        energies of faint noise hardly differ from it. Then the mean of the window is subtracted, which removes a gain.
        """
        if self.range_db is None:
            return windows
        floor = windows.amax((1, 2), keepdim=True) - self.range_db * math.log(10) / 10
        raised = torch.logaddexp(windows, floor)
        return raised - raised.mean((1, 2), keepdim=True)


def windows_at_once(device: torch.device) -> int:
    """Number of windows in a block. Blocks that fit into the caches of a CPU more than double the speed."""
    return 64 if device.type == "cpu" else 2048


def real_frames(frames: torch.Tensor, lens: torch.Tensor | None) -> torch.Tensor:
    """Number of frames of each sound without padding, [B] int64.

    The result is exact if the length of the padded waveform is a multiple of the hop.
    """
    if lens is None:
        return torch.full((len(frames),), frames.shape[1], device=frames.device)
    # 0.01 is larger than the rounding errors of float32.
    return (lens.to(frames.device) * frames.shape[1] - 0.01).ceil().clamp(1, frames.shape[1]).long()


def window_weights(n_frames: torch.Tensor, starts: torch.Tensor, hop_frames: int) -> torch.Tensor:
    """Weight of a window: the fraction of its last ``hop_frames`` frames that lie inside the sound.

    When a sound becomes longer, the weight of a new last window grows from 0 to 1. So the embedding changes smoothly.
    The weight of the first window is 1.

    Arguments
    ---------
    n_frames : torch.Tensor, number of frames of the sound of each window
    starts : torch.Tensor, first frame of each window; its shape must broadcast with ``n_frames``

    Returns
    -------
    torch.Tensor, float in [0, 1], of the broadcast shape
    """
    covered = starts + WINDOW_FRAMES - hop_frames
    weights = ((n_frames - covered) / hop_frames).clamp(0, 1)
    return torch.where(starts == 0, 1.0, weights)


def encode_windows(
    encoder: WindowEncoder, bank: FrameBank, sounds: torch.Tensor, starts: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Encode windows of a `FrameBank`, in blocks.

    Arguments
    ---------
    encoder : WindowEncoder
    bank : FrameBank, on any device
    sounds, starts : torch.Tensor [W], int64, the sound and the first frame of each window

    Yields
    ------
    torch.Tensor [n, D], float32, unit norm, on the encoder's device: the vectors of the next n windows
    """
    size = windows_at_once(encoder.device)
    for block in zip(sounds.split(size), starts.split(size), strict=True):
        windows = bank.crops(*block, WINDOW_FRAMES).to(encoder.device).float()
        yield F.normalize(encoder.encode(windows).float(), dim=-1)


@torch.no_grad()
def encode_bank(encoder: WindowEncoder, bank: FrameBank) -> torch.Tensor:
    """Encode every sound of a `FrameBank`, as `WindowEncoder.forward` does.

    Returns
    -------
    torch.Tensor [B, D], float32, unit norm, on the encoder's device
    """
    return average_windows(encoder, bank)


def average_windows(encoder: WindowEncoder, bank: FrameBank) -> torch.Tensor:
    """Do the work of `encode_bank`, with gradients."""
    sounds, starts = bank.windows(WINDOW_FRAMES, encoder.hop_frames)
    weights = window_weights(bank.lengths[sounds], starts, encoder.hop_frames)
    weights = weights * audibility(*bank.peaks(sounds, starts, WINDOW_FRAMES))
    sums, done = torch.zeros(len(bank), encoder.embedding_size, device=encoder.device), 0
    for vectors in encode_windows(encoder, bank, sounds, starts):
        block = slice(done, done + len(vectors))
        sums.index_add_(0, sounds[block].to(sums.device), vectors * weights[block, None].to(sums.device))
        done += len(vectors)
    return F.normalize(sums, dim=-1)
