"""The front ends, from waveforms to frames: log-mel, MFCC, chroma.

Axes: B batch, S samples, T frames, K frequency bins, M values in a frame (mel bands, coefficients or pitch classes).
"""

import math
from typing import Any

import torch
from torch import nn

from cochlea_sb.errors import MissingExtra, UserError

FRAMES_AT_ONCE = 16384  # bounds memory for sounds of hours; larger blocks are no faster


class FrontEnd(nn.Module):
    """Base of front ends: short-time energies.

    Frame ``t`` depends only on the samples ``[t * hop, t * hop + window)``, to which a Hann window is applied.
    Frames can therefore be cached, cropped and shuffled. Zeros pad the end of a sound. A sound of ``n`` samples has
    ``ceil(n / hop)`` frames: 0.96 s at 16 kHz give 96 frames of 10 ms. The energies of a sine of amplitude 1 sum to 1.

    A subclass sets ``frame_size`` (M) and ``silence``, and implements ``describe`` and ``level``.

    Arguments
    ---------
    sample_rate : int, rate of the waveforms in Hz
    window_seconds : float, length of the analysis window
    hop_seconds : float, time between the starts of two frames
    floor : float, energy that is added before the logarithm (1e-8 is -80 dB)

    Raises
    ------
    UserError
        If the rate, the window or the hop is out of range.
    """

    taper: torch.Tensor

    def __init__(self, sample_rate: int, window_seconds: float, hop_seconds: float, floor: float) -> None:
        super().__init__()
        if not (1000 <= sample_rate <= 384_000 and 1 <= window_seconds * sample_rate <= 1 << 16):
            raise UserError(
                f"sample_rate is {sample_rate} and window_seconds is {window_seconds}: expected 1,000 to 384,000 Hz, "
                "and a window of at most 65,536 samples."
            )
        self.sample_rate = sample_rate
        self.window = round(window_seconds * sample_rate)
        self.hop = round(hop_seconds * sample_rate)
        self.floor = floor
        self.own_settings: dict[str, float] = {}  # further arguments of a subclass
        self.n_fft = 1 << (self.window - 1).bit_length()
        if not 1 <= self.hop <= self.window:
            raise UserError(f"hop_seconds is {hop_seconds}: expected more than 0 and at most window_seconds.")
        hann = torch.hann_window(self.window, periodic=True, device="cpu")  # `mel_edges` says why
        # By Parseval, the energies of a sine of amplitude 1 in the positive bins sum to n_fft * sum(window ** 2) / 4.
        self.register_buffer("taper", hann * (2 / math.sqrt(self.n_fft * hann.square().sum())), persistent=False)

    @property
    def frame_size(self) -> int:
        """int: number of values in a frame, M."""
        raise NotImplementedError

    @property
    def silence(self) -> float:
        """float: the value that fills the frames of digital silence."""
        raise NotImplementedError

    def settings(self) -> dict[str, float]:
        """Return the constructor arguments. The cache of frames uses them and the class as its key."""
        return {
            "sample_rate": self.sample_rate,
            "window_seconds": self.window / self.sample_rate,
            "hop_seconds": self.hop / self.sample_rate,
            "floor": self.floor,
        } | self.own_settings

    def frames_in(self, samples: int) -> int:
        """Return the number of frames of a waveform: ``ceil(samples / hop)``, at least 1."""
        return max(1, -(-samples // self.hop))

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        """Compute frames.

        Arguments
        ---------
        wavs : torch.Tensor [batch, samples], float in [-1, 1]

        Returns
        -------
        torch.Tensor [batch, frames, M], float32
        """
        if wavs.ndim != 2:
            raise UserError(f"wavs has shape {tuple(wavs.shape)}: expected [batch, samples].")
        with torch.autocast(wavs.device.type, enabled=False):  # 16 bits lose quiet bands beside loud ones
            return self.in_blocks(wavs.float())

    def in_blocks(self, wavs: torch.Tensor) -> torch.Tensor:
        """`forward` in blocks of frames, in float32."""
        wanted = (self.frames_in(wavs.shape[1]) - 1) * self.hop + self.window
        wavs = nn.functional.pad(wavs, (0, wanted - wavs.shape[1]))
        frames = wavs.unfold(1, self.window, self.hop)  # [B, T, window], a view
        # The block size in samples is the same for windows of any length.
        block = max(1, FRAMES_AT_ONCE * 400 // (self.window * max(1, len(wavs))))
        return torch.cat([self.describe(self.power(part)) for part in frames.split(block, dim=1)], dim=1)

    def power(self, frames: torch.Tensor) -> torch.Tensor:
        """Convert samples [batch, frames, window] to energies of frequency bins [batch, frames, K]."""
        spectrum: torch.Tensor = torch.fft.rfft(frames * self.taper, n=self.n_fft)
        return spectrum.real.square() + spectrum.imag.square()

    def describe(self, power: torch.Tensor) -> torch.Tensor:
        """Convert energies [batch, frames, K] to the values of frames [batch, frames, M]."""
        raise NotImplementedError

    @staticmethod
    def level(frames: torch.Tensor) -> torch.Tensor:
        """Return the loudness [..., frames] of frames [..., frames, M]: the natural logarithm of an energy."""
        return level(frames)


class LogMel(FrontEnd):
    """Log-mel spectrogram (Jansen et al. 2017, section 4.1: windows of 25 ms, hop of 10 ms, 64 bands).

    The values are ``log(energy + floor)`` of mel bands, whose filters are HTK triangles of height 1.

    Arguments
    ---------
    sample_rate, window_seconds, hop_seconds, floor : as in `FrontEnd`
    n_mels : int, number of mel bands
    low_hz, high_hz : float, edges of the lowest and highest band, ``0 <= low_hz < high_hz <= sample_rate / 2``

    Raises
    ------
    UserError
        If an argument is out of range.

    Example
    -------
    >>> LogMel()(torch.zeros(2, 15360)).shape
    torch.Size([2, 96, 64])
    """

    filters: torch.Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        window_seconds: float = 0.025,
        hop_seconds: float = 0.01,
        n_mels: int = 64,
        low_hz: float = 60.0,
        high_hz: float = 7800.0,
        floor: float = 1e-8,
    ) -> None:
        if not 1 <= n_mels <= 1024:
            raise UserError(f"n_mels is {n_mels}: expected 1 to 1,024.")
        if not 0 <= low_hz < high_hz <= sample_rate / 2:
            raise UserError(
                f"low_hz is {low_hz} and high_hz is {high_hz}: expected 0 <= low_hz < high_hz <= {sample_rate / 2:g}, "
                "half the sample rate."
            )
        super().__init__(sample_rate, window_seconds, hop_seconds, floor)
        self.own_settings |= {"n_mels": n_mels, "low_hz": low_hz, "high_hz": high_hz}
        self.n_mels, self.low_hz, self.high_hz = n_mels, low_hz, high_hz
        self.register_buffer("filters", mel_filters(sample_rate, self.n_fft, n_mels, low_hz, high_hz), persistent=False)

    @property
    def frame_size(self) -> int:
        """int: number of values in a frame, M."""
        return self.n_mels

    @property
    def silence(self) -> float:
        """float: the value that fills the frames of digital silence, ``log(floor)``."""
        return math.log(self.floor)

    def describe(self, power: torch.Tensor) -> torch.Tensor:
        """Convert energies to log-mel values."""
        return torch.log(power @ self.filters + self.floor)


class MFCC(LogMel):
    """Mel-frequency cepstral coefficients: the orthonormal DCT of ``log_mel - log(floor)``, so that silence is 0.

    Arguments
    ---------
    n_mfcc : int, number of coefficients, at most ``n_mels``; the first is proportional to the mean log energy
    others : as in `LogMel`

    Example
    -------
    >>> MFCC()(torch.zeros(2, 15360)).shape
    torch.Size([2, 96, 20])
    """

    silence = 0.0
    cosines: torch.Tensor

    def __init__(self, n_mfcc: int = 20, **others: Any) -> None:
        super().__init__(**others)
        if not 1 <= n_mfcc <= self.n_mels:
            raise UserError(f"n_mfcc is {n_mfcc}: expected 1 to {self.n_mels}, the number of mel bands.")
        from torchaudio.functional import create_dct  # here, because the import of torchaudio takes long

        self.own_settings["n_mfcc"] = self.n_mfcc = n_mfcc
        self.register_buffer("cosines", create_dct(n_mfcc, self.n_mels, norm="ortho"), persistent=False)  # [mels, M]

    @property
    def frame_size(self) -> int:
        """int: number of values in a frame, M."""
        return self.n_mfcc

    def describe(self, power: torch.Tensor) -> torch.Tensor:
        """Convert energies to coefficients."""
        return (super().describe(power) - math.log(self.floor)) @ self.cosines

    @staticmethod
    def level(frames: torch.Tensor) -> torch.Tensor:
        """Return the mean log energy of the bands as the loudness. For 64 bands it is the first coefficient / 8."""
        return frames[..., 0].float() / 8


class Chroma(FrontEnd):
    """Log energies of the twelve pitch classes, beginning with C. They depend on the chord, but not on the octave.

    The filters are those of librosa (after Ellis 2007): each bin adds to the nearest pitch classes, with a Gaussian
    weight of two octaves around 1 kHz. Long windows are needed to separate semitones. They also smooth over time, as
    CENS features do (Müller 2005). Like CENS features, `WindowEncoder.levelled` removes the loudness.

    Arguments
    ---------
    sample_rate, window_seconds, hop_seconds, floor : as in `FrontEnd`

    Raises
    ------
    UserError
        If librosa is missing.

    Example
    -------
    >>> a4 = torch.sin(2 * math.pi * 440 * torch.arange(16000) / 16000)
    >>> frames = Chroma()(a4[None])
    >>> frames.shape, int(frames[0, 50].argmax())
    (torch.Size([1, 100, 12]), 9)
    """

    frame_size = 12
    filters: torch.Tensor

    def __init__(
        self, sample_rate: int = 16000, window_seconds: float = 0.256, hop_seconds: float = 0.01, floor: float = 1e-8
    ) -> None:
        super().__init__(sample_rate, window_seconds, hop_seconds, floor)
        try:
            from librosa.filters import chroma
        except ImportError as error:
            raise MissingExtra("Chroma", "librosa", "chroma") from error
        filters = torch.from_numpy(chroma(sr=sample_rate, n_fft=self.n_fft, norm=1)).T.contiguous()  # [K, 12]
        self.register_buffer("filters", filters, persistent=False)

    @property
    def silence(self) -> float:
        """float: the value that fills the frames of digital silence, ``log(floor)``."""
        return math.log(self.floor)

    def describe(self, power: torch.Tensor) -> torch.Tensor:
        """Convert energies of bins to log energies of pitch classes."""
        return torch.log(power @ self.filters + self.floor)


def level(frames: torch.Tensor) -> torch.Tensor:
    """Return the loudness [..., frames] of log-mel frames [..., frames, mels]: the log of the sum of the energies."""
    return frames.float().logsumexp(-1)


def audibility(peaks: torch.Tensor, loudest: torch.Tensor, least: float = 0.01) -> torch.Tensor:
    """Weight of a part of a sound. It falls from 1 for the loudest part to ``least`` at 20 dB below, linearly in dB.

    With these weights, noise between the events of a sound hardly changes the embedding of the sound.

    Arguments
    ---------
    peaks, loudest : torch.Tensor, peak `level` of the part and of the whole sound; their shapes must broadcast
    least : float in [0, 1], weight of a silent part

    Returns
    -------
    torch.Tensor, float in [least, 1], of the broadcast shape
    """
    twenty_db = 2 * math.log(10)
    return ((peaks - loudest) / twenty_db + 1).clamp(least, 1)


class Unnormalised(nn.Module):
    """The ``mean_var_norm`` of `EncoderClassifier`. It does nothing: encoders normalise frames themselves."""

    def forward(self, frames: torch.Tensor, lens: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``frames`` unchanged."""
        return frames


def hz_to_mel(hz: torch.Tensor) -> torch.Tensor:
    """Convert a tensor of frequencies in Hz to mel: ``2595 log10(1 + hz / 700)`` (the HTK book, section 5.4)."""
    return 2595.0 * torch.log10(1.0 + hz / 700.0)


def mel_to_hz(mel: torch.Tensor) -> torch.Tensor:
    """Convert a tensor of mel values to frequencies in Hz, the inverse of `hz_to_mel`."""
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def mel_edges(n_mels: int, low_hz: float, high_hz: float) -> torch.Tensor:
    """Edges [n_mels + 2] in Hz, float64. Filter ``m`` starts at edge ``m``, peaks at ``m + 1``, ends at ``m + 2``."""
    # The device must be the CPU: models are first built on the device meta, where tensors have no values.
    low, high = hz_to_mel(torch.tensor([low_hz, high_hz], dtype=torch.float64, device="cpu")).tolist()
    return mel_to_hz(torch.linspace(low, high, n_mels + 2, dtype=torch.float64, device="cpu"))


def mel_filters(sample_rate: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float) -> torch.Tensor:
    """Triangular filters [n_fft // 2 + 1, n_mels] of height 1, float32.

    Each slope is at least one frequency bin wide, because a narrower band could contain no bin.
    """
    bin_hz = sample_rate / n_fft
    edges = mel_edges(n_mels, low_hz, high_hz)
    centres = edges[1:-1]
    rise = (centres - edges[:-2]).clamp(min=bin_hz)
    fall = (edges[2:] - centres).clamp(min=bin_hz)
    hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64, device="cpu")[:, None] * bin_hz
    return torch.minimum((hz - centres) / rise + 1, (centres - hz) / fall + 1).clamp(min=0).float()
