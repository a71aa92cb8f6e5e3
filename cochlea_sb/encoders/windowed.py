"""The base class of encoders, and the functions that encode windows and sounds with any encoder.

`encode_windows` encodes windows. `encode_bank` encodes all sounds of a `FrameBank`, `WindowEncoder.forward` all sounds
of a padded batch. The embedding of a sound is the weighted mean of the vectors of its windows, scaled to unit norm.

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
    silence : float, value of the front end for digital silence; the padding of sounds that are shorter than a window
    hop_frames : int from 1 to 96, number of frames between the starts of two consecutive windows of a sound
    range_db : float or None, distance in dB from the loudest energy of a window to the floor that `levelled` adds
        Choose None for frames that are not log energies. `levelled` then returns its input.
    level : callable, the ``level`` of the front end, which computes the loudness of frames
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
        lens : torch.Tensor [batch], float in (0, 1], frames of each sound without padding / frames of the batch

        Returns
        -------
        torch.Tensor [batch, 1, D], unit norm
            The weight of a window is ``window_weights * audibility``. Many clips of ESC-10 are padded with silence.
            There `audibility` adds 0.03 to the mAP of every encoder.
        """
        n_frames = frames.shape[1]
        # In training each sound is one window. Batch normalisation needs all windows of the batch in one call.
        if n_frames <= WINDOW_FRAMES:
            encode = self.vectors if self.training else self.encode
            return F.normalize(encode(self.padded(frames)).float(), dim=-1)[:, None]
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
        """torch.device, the device of the weights."""
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Encode windows [n, 96, M] to embeddings [n, D] of any norm."""
        raise NotImplementedError

    def vectors(self, windows: torch.Tensor) -> torch.Tensor:
        """Encode windows [n, 96, M] to the vectors [n, D] that the loss reads; by default, the embeddings."""
        return self.encode(windows)

    def fit_axes(self, draw: Callable[[int], torch.Tensor]) -> None:
        """Called after each epoch. ``draw(n)`` gives n windows [n, 96, M] of the training; does nothing by default."""

    def padded(self, frames: torch.Tensor) -> torch.Tensor:
        """Pad frames [n, T, M], T at most 96, with silence to windows [n, 96, M]."""
        return F.pad(frames, (0, 0, 0, WINDOW_FRAMES - frames.shape[1]), value=self.silence)

    def levelled(self, windows: torch.Tensor) -> torch.Tensor:
        """Remove the gain and the faint noise from windows [n, 96, M] of log energies.

        First, a floor of ``loudest energy of the window - range_db`` is added to all energies, which hides fainter
        noise. Then the mean of the window is subtracted, which removes the gain.
        """
        if self.range_db is None:
            return windows
        floor = windows.amax((1, 2), keepdim=True) - self.range_db * math.log(10) / 10
        raised = torch.logaddexp(windows, floor)
        return raised - raised.mean((1, 2), keepdim=True)


def windows_at_once(device: torch.device) -> int:
    """Return the number of windows in a block. On a CPU, blocks that fit into its caches double the speed."""
    return 64 if device.type == "cpu" else 2048


def real_frames(frames: torch.Tensor, lens: torch.Tensor | None) -> torch.Tensor:
    """Return the number of frames of each sound without padding, [B] int64.

    The number is exact if the length of the padded waveforms is a multiple of the hop.
    """
    if lens is None:
        return torch.full((len(frames),), frames.shape[1], device=frames.device)
    # A rounding error of float32 is smaller than 0.01 and must not add a frame.
    return (lens.to(frames.device) * frames.shape[1] - 0.01).ceil().clamp(1, frames.shape[1]).long()


def window_weights(
    n_frames: torch.Tensor, starts: torch.Tensor, hop_frames: int, window_frames: int = WINDOW_FRAMES
) -> torch.Tensor:
    """Return the weights of windows, float in [0, 1], of the broadcast shape of ``n_frames`` and ``starts``.

    The weight of a window is the fraction of its last ``hop_frames`` frames that lie inside the sound. The weight of
    the first window of a sound is 1.

    Arguments
    ---------
    n_frames : torch.Tensor, number of frames of the sound of each window
    starts : torch.Tensor, first frame of each window
    hop_frames, window_frames : int
    """
    covered = starts + window_frames - hop_frames
    weights = ((n_frames - covered) / hop_frames).clamp(0, 1)
    return torch.where(starts == 0, 1.0, weights)


def encode_windows(
    encoder: WindowEncoder, bank: FrameBank, sounds: torch.Tensor, starts: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Encode windows of a `FrameBank` block by block.

    Arguments
    ---------
    encoder : WindowEncoder
    bank : FrameBank, on any device
    sounds, starts : torch.Tensor [W], int64, the sound and the first frame of each window

    Yields
    ------
    torch.Tensor [n, D], float32, unit norm, on the device of the encoder, the vectors of one block of n windows
    """
    size = windows_at_once(encoder.device)
    for block in zip(sounds.split(size), starts.split(size), strict=True):
        windows = bank.crops(*block, WINDOW_FRAMES).to(encoder.device).float()
        yield F.normalize(encoder.encode(windows).float(), dim=-1)


@torch.no_grad()
def encode_bank(encoder: WindowEncoder, bank: FrameBank) -> torch.Tensor:
    """Encode all sounds of a `FrameBank` to [B, D], float32, unit norm, on the device of the encoder."""
    return average_windows(encoder, bank)


def average_windows(encoder: WindowEncoder, bank: FrameBank) -> torch.Tensor:
    """Compute the result of `encode_bank` with gradients."""
    sounds, starts = bank.windows(WINDOW_FRAMES, encoder.hop_frames)
    weights = window_weights(bank.lengths[sounds], starts, encoder.hop_frames)
    weights = weights * audibility(*bank.peaks(sounds, starts, WINDOW_FRAMES))
    sums, done = torch.zeros(len(bank), encoder.embedding_size, device=encoder.device), 0
    for vectors in encode_windows(encoder, bank, sounds, starts):
        block = slice(done, done + len(vectors))
        sums.index_add_(0, sounds[block].to(sums.device), vectors * weights[block, None].to(sums.device))
        done += len(vectors)
    return F.normalize(sums, dim=-1)
