"""Sequence-to-sequence autoencoder: an LSTM encodes a window to a code, and a second LSTM decodes the code to frames.

Axes: n windows, T frames, M values in a frame, S steps of ``step_frames`` frames, H hidden units, D embedding
dimensions.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

from cochlea_sb.encoders.windowed import WINDOW_FRAMES, WindowEncoder
from cochlea_sb.errors import UserError
from cochlea_sb.features import level


class Seq2SeqEncoder(WindowEncoder):
    """A bidirectional LSTM over the frames of a window. A linear layer reads the last and the mean LSTM state.

    This is the second method of "Audio2Vec: an exploration of embedding methods to represent an arbitrary segment of
    audio in a fixed-length vector". The LSTM does not read the padding of a window.

    Arguments
    ---------
    silence, hop_frames, range_db, level : as in `WindowEncoder`
    frame_size : int, M
    step_frames : int, number of frames that the LSTM reads in one step, a divisor of 96
        Training with 4 is four times as fast as with 1, and the embeddings are better.
    hidden_size : int, H, in each direction
    embedding_size : int, D

    Example
    -------
    >>> encoder = Seq2SeqEncoder(silence=-18.4).eval()
    >>> encoder(torch.randn(2, 500, 64)).shape
    torch.Size([2, 1, 128])
    """

    def __init__(
        self,
        silence: float,
        frame_size: int = 64,
        step_frames: int = 4,
        hidden_size: int = 256,
        embedding_size: int = 128,
        hop_frames: int = 48,
        range_db: float | None = 40.0,
        level: Callable[[torch.Tensor], torch.Tensor] = level,
    ) -> None:
        super().__init__(silence, hop_frames, range_db, level)
        if WINDOW_FRAMES % step_frames:
            raise UserError(f"step_frames is {step_frames}: expected a divisor of {WINDOW_FRAMES}.")
        self.frame_size, self.step_frames, self.hidden_size = frame_size, step_frames, hidden_size
        self.embedding_size = embedding_size
        self.normalise = nn.BatchNorm1d(frame_size, affine=False)
        # One LSTM for each direction. A bidirectional nn.LSTM would need packed sequences, ten times as slow on a CPU.
        self.lstms = nn.ModuleList(remembering_lstm(step_frames * frame_size, hidden_size) for _ in range(2))
        # The batch normalisation centres the embeddings, so that the cosine of unrelated sounds is near 0.
        self.project = nn.Sequential(
            nn.Linear(4 * hidden_size, embedding_size, bias=False), nn.BatchNorm1d(embedding_size, affine=False)
        )

    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Encode windows [n, 96, M] to codes [n, D]."""
        normal = self.normalise(self.levelled(windows).transpose(1, 2)).transpose(1, 2)
        steps = normal.unflatten(1, (-1, self.step_frames)).flatten(2)  # [n, S, step_frames * M]
        last = (self.real(windows).sum(1, keepdim=True) - 1) // self.step_frames
        steps = steps[:, : int(last.max()) + 1]
        backwards = (last - torch.arange(steps.shape[1], device=windows.device)).clamp(min=0)
        there = (torch.arange(steps.shape[1], device=windows.device) <= last)[..., None]
        states = []
        for lstm, order in zip(self.lstms, (steps, steps.take_along_dim(backwards[..., None], dim=1)), strict=True):
            hidden, _ = lstm(order)  # [n, S, H]
            states += [hidden.take_along_dim(last[..., None], dim=1)[:, 0], (hidden * there).sum(1) / there.sum(1)]
        codes: torch.Tensor = self.project(torch.cat(states, dim=1))
        return codes

    def real(self, windows: torch.Tensor) -> torch.Tensor:
        """Return which frames of windows [n, T, M] are not padding, bool [n, T]. The first frame never is padding."""
        sounds = (windows - self.silence).abs().amax(2) > 0.05  # tolerates that float16 rounds the value of silence
        sounds[:, 0] = True
        return sounds.flip(1).cummax(1).values.flip(1)  # true up to the last frame with sound

    def target(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the target of the decoder for windows [n, T, M], float32 [n, T, M].

        The target is the `levelled` frames, normalised by the running mean and variance of each of the M values.
        """
        mean, variance = self.normalise.get_buffer("running_mean"), self.normalise.get_buffer("running_var")
        return (self.levelled(windows.float()) - mean) / (variance + self.normalise.eps).sqrt()


class Seq2SeqDecoder(nn.Module):
    """An LSTM that computes its initial state from a code, and predicts ``step_frames`` frames in each step.

    The input of each step is the code and the sines and cosines of the step's position (Vaswani et al. 2017, section
    3.5).

    Arguments
    ---------
    frame_size (M), step_frames (frames in a step), hidden_size (H), embedding_size (D) : int
    feed_back : bool, also give each step the frames of the step before (scheduled sampling, Bengio et al. 2015)
        With the probability ``teacher_forcing`` they are the target's frames, otherwise the decoder's own prediction.
        Training is then slower, and the embeddings are worse.

    Example
    -------
    >>> Seq2SeqDecoder()(torch.randn(2, 128), torch.zeros(2, 50, 64)).shape
    torch.Size([2, 50, 64])
    """

    time: torch.Tensor

    def __init__(
        self,
        frame_size: int = 64,
        step_frames: int = 4,
        hidden_size: int = 512,
        embedding_size: int = 128,
        feed_back: bool = False,
    ) -> None:
        super().__init__()
        self.step_frames, self.feed_back = step_frames, feed_back
        n_steps, step_size = WINDOW_FRAMES // step_frames, step_frames * frame_size
        angles = math.pi * torch.arange(n_steps)[:, None] / n_steps * (torch.arange(8) + 0.5)
        self.register_buffer("time", torch.cat([angles.sin(), angles.cos()], dim=1), persistent=False)  # [S, 16]
        self.start = nn.Linear(embedding_size, 2 * hidden_size)
        self.lstm = remembering_lstm(embedding_size + 16 + feed_back * step_size, hidden_size)
        self.write = nn.Linear(hidden_size, step_size)

    def forward(self, codes: torch.Tensor, frames: torch.Tensor, teacher_forcing: float = 0.0) -> torch.Tensor:
        """Predict frames [n, T, M].

        Arguments
        ---------
        codes : torch.Tensor [n, D]
        frames : torch.Tensor [n, T, M], the target, with T at most 96; without ``feed_back``, only its T is used
        teacher_forcing : float in [0, 1], probability that a step gets frames of the target
        """
        n_frames = frames.shape[1]
        n_steps = -(-n_frames // self.step_frames)
        state = tuple(part.contiguous() for part in self.start(codes).tanh()[None].chunk(2, dim=2))
        told = torch.cat(
            [codes[:, None].expand(-1, n_steps, -1), self.time[:n_steps].to(codes.dtype).expand(len(codes), -1, -1)], 2
        )
        if self.feed_back:
            real = nn.functional.pad(frames, (0, 0, 0, n_steps * self.step_frames - n_frames))
            real = real.unflatten(1, (n_steps, -1)).flatten(2)
            steps, before = [], torch.zeros_like(real[:, 0])
            for number in range(n_steps):
                hidden, state = self.lstm(torch.cat([told[:, number], before], dim=1)[:, None], state)
                steps.append(self.write(hidden[:, 0]))
                forced = torch.rand(len(codes), 1, device=codes.device) < teacher_forcing
                before = torch.where(forced, real[:, number], steps[-1].detach())
            written: torch.Tensor = torch.stack(steps, dim=1)
        else:
            written = self.write(self.lstm(told, state)[0])
        written = written.unflatten(2, (self.step_frames, -1)).flatten(1, 2)
        return written[:, :n_frames]


def remembering_lstm(input_size: int, hidden_size: int) -> nn.LSTM:
    """Return an LSTM whose forget gates have the initial bias 1 (Jozefowicz et al. 2015, section 3)."""
    lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
    with torch.no_grad():
        lstm.get_parameter("bias_hh_l0")[hidden_size : 2 * hidden_size] = 1
    return lstm
