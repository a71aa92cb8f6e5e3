"""What every encoder shares: cutting frames into windows, and a sound's embedding from its windows'.

Axes: B sounds, T frames, W windows, M mel bands, D embedding dimensions.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from cochlea_sb.errors import UserError
from cochlea_sb.features import audibility, level

if TYPE_CHECKING:
    from cochlea_sb.data.frame_bank import FrameBank

WINDOW_FRAMES = 96  # 0.96 s, the context of Jansen et al. 2017, section 4.1


class WindowEncoder(nn.Module):
    """Base of encoders that see one window at a time; a sound is the mean of its windows.

    A subclass implements ``embed(windows) -> embeddings``: [n, 96, mels] to [n, D], not necessarily of unit norm.

    Arguments
    ---------
    silence : float
        The front end's value of digital silence, which pads what is shorter than a window.
    hop_frames : int
        Distance between the windows of a long sound.
    range_db : float or None
        How far below a window's loudest energy ``levelled`` puts a floor; None for frames that are no log energies.
    level : callable
        The front end's: from frames [..., frames, M] to their loudness [..., frames].
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
            Log-mel frames of any length; at most a window's worth gives one window.
        lens : torch.Tensor [batch], float in (0, 1], optional
            Share of the frames that is sound rather than padding (SpeechBrain's relative lengths).

        Returns
        -------
        torch.Tensor [batch, 1, D], unit norm
            The weighted mean of the windows' unit vectors, normalised. A window counts by how audible it is beside
            the loudest (on ESC-10, whose clips are often padded with silence, that alone adds 0.03 to the mAP of any
            encoder) and by the share of its last hop that lies within the sound, so that the embedding changes
            smoothly with a sound's length.
        """
        windows = cut_windows(frames, self.hop_frames, self.silence)  # [B, W, 96, M]
        n_windows = windows.shape[1]
        flat = windows.flatten(0, 1)
        # A recording of hours has thousands of windows; in training, statistics want the batch in one piece.
        blocks = [flat] if self.training else flat.split(windows_at_once(flat.device))
        embeddings = torch.cat([F.normalize(self.embed(block).float(), dim=-1) for block in blocks])
        if n_windows > 1:
            starts = torch.arange(n_windows, device=frames.device) * self.hop_frames
            weights = window_weights(real_frames(frames, lens)[:, None], starts, self.hop_frames)  # [B, W]
            peaks = self.level(windows).amax(2)
            weights = weights * audibility(peaks, peaks.amax(1, keepdim=True))
            embeddings = (embeddings.unflatten(0, (-1, n_windows)) * weights[..., None]).sum(1)
            embeddings = F.normalize(embeddings, dim=-1)
        return embeddings[:, None]

    def settings(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this encoder, without its weights.

        As in scikit-learn, an encoder keeps each of them as an attribute of the same name.

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

    def embed(self, windows: torch.Tensor) -> torch.Tensor:
        """Embed windows: [n, 96, mels] to [n, D]."""
        raise NotImplementedError

    def levelled(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows as if all were equally loud and recorded in equally quiet rooms, for `embed` to begin with.

        All energies are raised by a floor ``range_db`` below the window's loudest, and the mean log-mel value is
        subtracted: a gain then changes nothing, and faint noise little.

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
    """Windows in a block: bounds memory; on a CPU few enough for its caches, which more than doubles the speed."""
    return 64 if device.type == "cpu" else 2048


def cut_windows(frames: torch.Tensor, hop_frames: int, silence: float) -> torch.Tensor:
    """Windows that cover all frames, the last one padded with silence.

    Returns
    -------
    torch.Tensor [batch, windows, 96, mels]
    """
    n_frames = frames.shape[1]
    n_windows = 1 + max(0, -(-(n_frames - WINDOW_FRAMES) // hop_frames))
    missing = (n_windows - 1) * hop_frames + WINDOW_FRAMES - n_frames
    if missing:
        frames = F.pad(frames, (0, 0, 0, missing), value=silence)
    return frames.unfold(1, WINDOW_FRAMES, hop_frames).transpose(2, 3)


def real_frames(frames: torch.Tensor, lens: torch.Tensor | None) -> torch.Tensor:
    """Number of frames of each sound before its padding, [batch] float.

    Exact when the padded waveform's length was a multiple of the hop; the margin forgives float32's rounding.
    """
    if lens is None:
        return torch.full((len(frames),), float(frames.shape[1]), device=frames.device)
    return (lens.to(frames.device) * frames.shape[1] - 0.01).ceil().clamp(min=1)


def window_weights(n_frames: torch.Tensor, starts: torch.Tensor, hop_frames: int) -> torch.Tensor:
    """Share of a window's last hop that lies within its sound; a first window always counts in full.

    Arguments
    ---------
    n_frames, starts : torch.Tensor
        Length of the sound and first frame of the window, of shapes that broadcast.

    Returns
    -------
    torch.Tensor, float in [0, 1], of the broadcast shape
    """
    covered = starts + WINDOW_FRAMES - hop_frames
    weights = ((n_frames - covered) / hop_frames).clamp(0, 1)
    return torch.where(starts == 0, 1.0, weights)


@torch.no_grad()
def embed_bank(encoder: WindowEncoder, bank: FrameBank) -> torch.Tensor:
    """Embed every sound of a `FrameBank`, in batches of windows whatever the sounds' lengths.

    Arguments
    ---------
    encoder : WindowEncoder
        Left in the mode (training or evaluation) that it is in.
    bank : FrameBank

    Returns
    -------
    torch.Tensor [sounds, D], float32, unit norm
        The same vectors that ``encoder(frames)`` gives for each sound.
    """
    device = next(chain(encoder.parameters(), encoder.buffers())).device  # the bank may lie elsewhere, memory-mapped
    sounds, starts = bank.windows(WINDOW_FRAMES, encoder.hop_frames)
    weights = window_weights(bank.lengths[sounds], starts, encoder.hop_frames)
    weights = weights * audibility(*bank.peaks(sounds, starts, WINDOW_FRAMES))
    embeddings = torch.empty(0)  # until the size of a vector is seen
    for batch in torch.arange(len(sounds), device=bank.device).split(windows_at_once(device)):
        windows = bank.crops(sounds[batch], starts[batch], WINDOW_FRAMES).to(device).float()
        vectors = F.normalize(encoder.embed(windows).float(), dim=-1) * weights[batch, None].to(device)
        if not len(embeddings):
            embeddings = vectors.new_zeros(len(bank), vectors.shape[1])
        embeddings.index_add_(0, sounds[batch].to(device), vectors)
    return F.normalize(embeddings, dim=-1)
