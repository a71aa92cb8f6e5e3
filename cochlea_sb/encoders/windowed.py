"""From frames to embeddings, the same for all encoders.

A `FrameBank` lists the windows of its sounds. `encode_windows` encodes them as unit vectors, in blocks. `encode_bank`
averages the vectors of each sound, with weights. `WindowEncoder.forward` does the same for a padded batch.

Axes: B sounds, T frames, W windows, M mel bands, D embedding dimensions.
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
    """Base of encoders that see one window at a time. The embedding of a sound is the mean over its windows.

    A subclass implements ``encode``.

    Arguments
    ---------
    silence : float
        The value that the front end gives for digital silence. Sounds shorter than a window are padded with it.
    hop_frames : int
        Distance between the windows of a long sound.
    range_db : float or None
        Distance from the loudest energy of a window down to the floor that `levelled` adds, in dB. None if frames are
        not log energies: `levelled` then changes nothing.
    level : callable
        The front end's function from frames [..., frames, M] to their loudness [..., frames].
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
        """Embed sounds.

        Arguments
        ---------
        frames : torch.Tensor [batch, frames, mels]
            Of any length. Up to 96 frames give one window.
        lens : torch.Tensor [batch], float in (0, 1], optional
            Share of the frames that is not padding (SpeechBrain's relative lengths).

        Returns
        -------
        torch.Tensor [batch, 1, D], unit norm
            The weighted mean of the windows' unit vectors, normalised. The weights are `audibility` times
            `window_weights`. Clips of ESC-10 are often padded with silence. On this corpus, `audibility` raises the mAP
            of every encoder by 0.03.
        """
        n_frames = frames.shape[1]
        # Sounds of one window, as in training, are not encoded in blocks: batch normalisation needs the whole batch.
        if n_frames <= WINDOW_FRAMES:
            windows = F.pad(frames, (0, 0, 0, WINDOW_FRAMES - n_frames), value=self.silence)
            return F.normalize(self.encode(windows).float(), dim=-1)[:, None]
        bank = FrameBank.from_padded(frames, real_frames(frames, lens), self.silence, self.level)
        return average_windows(self, bank)[:, None]

    def settings(self) -> dict[str, Any]:
        """Arguments with which the constructor rebuilds this encoder, without its weights.

        The value of each argument is read from the attribute of the same name.

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
        """torch.device: the device of the weights."""
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Embed windows: [n, 96, M] to [n, D], of any norm."""
        raise NotImplementedError

    def levelled(self, windows: torch.Tensor) -> torch.Tensor:
        """Remove loudness and faint noise from windows; the first step of most encoders.

        A floor, ``range_db`` below the loudest energy of the window, is added to all energies. Then the mean of the
        window's values is subtracted. So a gain does not change the result, and faint noise changes it
        little.

        Arguments
        ---------
        windows : torch.Tensor [n, 96, M], log energies

        Returns
        -------
        torch.Tensor [n, 96, M]
        """
        if self.range_db is None:
            return windows
        floor = windows.amax((1, 2), keepdim=True) - self.range_db * math.log(10) / 10
        raised = torch.logaddexp(windows, floor)
        return raised - raised.mean((1, 2), keepdim=True)


def windows_at_once(device: torch.device) -> int:
    """Number of windows in a block. On a CPU, a block fits the caches: this more than doubles the speed."""
    return 64 if device.type == "cpu" else 2048


def real_frames(frames: torch.Tensor, lens: torch.Tensor | None) -> torch.Tensor:
    """Number of frames of each sound without its padding, [B] int64.

    Exact if the length of the padded waveform was a multiple of the hop.
    """
    if lens is None:
        return torch.full((len(frames),), frames.shape[1], device=frames.device)
    # The 0.01 absorbs rounding of float32.
    return (lens.to(frames.device) * frames.shape[1] - 0.01).ceil().clamp(1, frames.shape[1]).long()


def window_weights(n_frames: torch.Tensor, starts: torch.Tensor, hop_frames: int) -> torch.Tensor:
    """Weight of a window: the share of its last ``hop_frames`` frames that lie inside the sound; 1 for the first.

    So an embedding changes smoothly with the length of a sound.

    Arguments
    ---------
    n_frames, starts : torch.Tensor
        Number of frames of the sound, and first frame of the window; of shapes that broadcast.

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
    bank : FrameBank
        On any device.
    sounds, starts : torch.Tensor [W], int64
        As in `FrameBank.crops`.

    Yields
    ------
    torch.Tensor [n, D], float32, unit norm, on the encoder's device
        The vectors of the next n windows.
    """
    size = windows_at_once(encoder.device)
    for block in zip(sounds.split(size), starts.split(size), strict=True):
        windows = bank.crops(*block, WINDOW_FRAMES).to(encoder.device).float()
        yield F.normalize(encoder.encode(windows).float(), dim=-1)


@torch.no_grad()
def encode_bank(encoder: WindowEncoder, bank: FrameBank) -> torch.Tensor:
    """Encode every sound of a `FrameBank`.

    Arguments
    ---------
    encoder : WindowEncoder
        Its mode, training or evaluation, does not change.
    bank : FrameBank

    Returns
    -------
    torch.Tensor [B, D], float32, unit norm, on the encoder's device
        As in `WindowEncoder.forward`.
    """
    return average_windows(encoder, bank)


def average_windows(encoder: WindowEncoder, bank: FrameBank) -> torch.Tensor:
    """`encode_bank`, with gradients."""
    sounds, starts = bank.windows(WINDOW_FRAMES, encoder.hop_frames)
    weights = window_weights(bank.lengths[sounds], starts, encoder.hop_frames)
    weights = weights * audibility(*bank.peaks(sounds, starts, WINDOW_FRAMES))
    sums, done = torch.zeros(len(bank), encoder.embedding_size, device=encoder.device), 0
    for vectors in encode_windows(encoder, bank, sounds, starts):
        block = slice(done, done + len(vectors))
        sums.index_add_(0, sounds[block].to(sums.device), vectors * weights[block, None].to(sums.device))
        done += len(vectors)
    return F.normalize(sums, dim=-1)
