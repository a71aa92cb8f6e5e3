"""Waveforms to log-mel frames: the one front end that training, inference and evaluation share.

Axes: B batch, S samples, T frames, K frequency bins, M mel bands.
"""

import math

import torch
from torch import nn

from cochlea_sb.mel import mel_filters

FRAMES_AT_ONCE = 16384  # bounds memory for sounds of hours; spectra of more would only leave the processor's caches


class LogMel(nn.Module):
    """Log-mel spectrogram in which a frame depends on nothing but its own samples.

    Frame ``t`` sees samples ``[t * hop, t * hop + window)`` under a Hann window; the end of a sound is padded with
    zeros so that ``n`` samples give ``ceil(n / hop)`` frames: 0.96 s at 16 kHz are exactly 96 frames. Energies are
    scaled so that the bands of a full-scale sine sum up to 1 (0 dB), mel filters are HTK triangles of height 1, and
    the logarithm comes last: ``log(energy + floor)``. There is no normalisation over the clip, so frames can
    be computed once, cached, cropped and shuffled (compare Jansen et al. 2017, section 4.1: 25 ms / 10 ms, 64 bands).

    Arguments
    ---------
    sample_rate : int
        Rate of the waveforms, in Hz.
    window_seconds : float
        Length of the analysis window.
    hop_seconds : float
        Distance between frames.
    n_mels : int
        Number of mel bands.
    low_hz, high_hz : float
        Edges of the lowest and the highest band; ``0 <= low_hz < high_hz <= sample_rate / 2``.
    floor : float
        Energy added before the logarithm; digital silence becomes ``log(floor)`` (1e-8 is -80 dB).

    Raises
    ------
    ValueError
        If the sizes or the band edges make no filterbank.

    Example
    -------
    >>> LogMel()(torch.zeros(2, 15360)).shape
    torch.Size([2, 96, 64])
    """

    def __init__(
        self,
        sample_rate=16000,
        window_seconds=0.025,
        hop_seconds=0.01,
        n_mels=64,
        low_hz=60.0,
        high_hz=7800.0,
        floor=1e-8,
    ):
        super().__init__()
        if not 0 <= low_hz < high_hz <= sample_rate / 2:
            raise ValueError(
                f"low_hz is {low_hz} and high_hz is {high_hz}: expected 0 <= low_hz < high_hz <= {sample_rate / 2:g}, "
                "half the sample rate."
            )
        self.sample_rate = sample_rate
        self.window = round(window_seconds * sample_rate)
        self.hop = round(hop_seconds * sample_rate)
        self.n_mels = n_mels
        self.low_hz, self.high_hz = low_hz, high_hz
        self.floor = floor
        self.n_fft = 1 << (self.window - 1).bit_length()
        if not 1 <= self.hop <= self.window:
            raise ValueError(f"hop_seconds is {hop_seconds}: expected more than 0 and at most window_seconds.")
        hann = torch.hann_window(self.window, periodic=True)
        # By Parseval, the positive bins of a sine of amplitude 1 hold n_fft * sum(window ** 2) / 4.
        self.register_buffer("taper", hann * (2 / math.sqrt(self.n_fft * hann.square().sum())), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, self.n_fft, n_mels, low_hz, high_hz), persistent=False)

    @property
    def silence(self):
        """float: value of a log-mel band in digital silence, ``log(floor)``."""
        return math.log(self.floor)

    def settings(self):
        """Constructor arguments that rebuild this front end (the cache key of computed frames).

        Returns
        -------
        dict
            Plain numbers by argument name.
        """
        return {
            "sample_rate": self.sample_rate,
            "window_seconds": self.window / self.sample_rate,
            "hop_seconds": self.hop / self.sample_rate,
            "n_mels": self.n_mels,
            "low_hz": self.low_hz,
            "high_hz": self.high_hz,
            "floor": self.floor,
        }

    def frames_in(self, samples):
        """Number of frames that ``samples`` samples give: ``ceil(samples / hop)``, at least 1."""
        return max(1, -(-samples // self.hop))

    def forward(self, wavs):
        """Compute log-mel frames.

        Arguments
        ---------
        wavs : torch.Tensor [batch, samples], float in [-1, 1]

        Returns
        -------
        torch.Tensor [batch, frames, mels], float32
            Natural logarithm of mel energies, at least ``log(floor)``.
        """
        if wavs.ndim != 2:
            raise ValueError(f"wavs has shape {tuple(wavs.shape)}: expected [batch, samples].")
        with torch.autocast(wavs.device.type, enabled=False):  # 16 bits would drown quiet bands beside loud ones
            return self.all_log_mel(wavs.float())

    def all_log_mel(self, wavs):
        """`forward` in blocks of frames, in float32."""
        wanted = (self.frames_in(wavs.shape[1]) - 1) * self.hop + self.window
        wavs = nn.functional.pad(wavs, (0, wanted - wavs.shape[1]))
        frames = wavs.unfold(1, self.window, self.hop)  # [B, T, window], a view
        block = max(1, FRAMES_AT_ONCE // max(1, len(wavs)))
        return torch.cat([self.log_mel(part) for part in frames.split(block, dim=1)], dim=1)

    def log_mel(self, frames):
        """Log-mel values of windowed samples: [batch, frames, window] to [batch, frames, mels]."""
        spectrum = torch.fft.rfft(frames * self.taper, n=self.n_fft)  # [B, T, K]
        power = spectrum.real.square() + spectrum.imag.square()
        return torch.log(power @ self.filters + self.floor)


def level(frames):
    """Loudness of frames: the logarithm of their bands' summed energies.

    Arguments
    ---------
    frames : torch.Tensor [..., frames, mels], log-mel

    Returns
    -------
    torch.Tensor [..., frames], float32
    """
    return frames.float().logsumexp(-1)


def audibility(peaks, loudest, least=0.01):
    """How much a stretch of a sound counts beside its loudest: the less the quieter, hardly from -20 dB on.

    So the noise between the events of a sound, its own or what is added, changes its embedding little.

    Arguments
    ---------
    peaks, loudest : torch.Tensor
        Peak `level` of the stretch and of the whole sound, of shapes that broadcast.
    least : float in [0, 1]
        What a silent stretch counts.

    Returns
    -------
    torch.Tensor, float in [least, 1], of the broadcast shape
    """
    twenty_db = 2 * math.log(10)
    return ((peaks - loudest) / twenty_db + 1).clamp(least, 1)


class Unnormalised(nn.Module):
    """Frames as they are; stands for ``mean_var_norm`` in `EncoderClassifier`, as our encoders normalise inside."""

    def forward(self, frames, lens=None):
        """Give ``frames`` back."""
        return frames
