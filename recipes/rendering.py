"""Applies the deformations of training to a waveform, for recipes/listen.py.

librosa stretches time and shifts the pitch. To move the mel axis, this module moves the magnitude spectrogram, and
librosa estimates its phases (Griffin and Lim 1984). Waveforms are torch.Tensor [samples], float32. A draw holds the
random numbers of a single example.
"""

import warnings

import numpy as np
import torch

from cochlea_sb.augment.equalization import KNOTS, Equalization, EqualizationDraw
from cochlea_sb.augment.frequency_resize import FrequencyResize, ResizeDraw
from cochlea_sb.augment.gain import Gain, GainDraw
from cochlea_sb.augment.gaussian_noise import GaussianNoise, NoiseDraw
from cochlea_sb.augment.mixture import Mixture, MixtureDraw
from cochlea_sb.augment.pitch_shift import PitchDraw, PitchShift
from cochlea_sb.augment.spectral_noise import SpectralNoise
from cochlea_sb.augment.temporal_proximity import TemporalProximity
from cochlea_sb.augment.time_stretch import StretchDraw, TimeStretch
from cochlea_sb.augment.translation import Translation, TranslationDraw
from cochlea_sb.errors import MissingExtra, UserError
from cochlea_sb.features import hz_to_mel, mel_edges, mel_to_hz

N_FFT, HOP = 1024, 256  # 64 and 16 ms at 16 kHz
UNCHANGED = "unchanged"


def librosa_effects():
    """Import librosa; raises `MissingExtra` if it is not installed."""
    try:
        import librosa
    except ImportError as error:
        raise MissingExtra("Hearing a deformation", "librosa", "listen") from error
    return librosa


def time_stretch(wav, deformation, draw, features, other):
    rate = float(draw.rate)
    if rate == 1:
        return "time_stretch_rate_1", wav
    return f"time_stretch_rate_{rate:.3g}", on_long(wav, lambda y: librosa_effects().effects.time_stretch(y, rate=rate))


def pitch_shift(wav, deformation, draw, features, other):
    semitones = float(draw.semitones)
    name = f"pitch_shift_{semitones:+.3g}_semitones"
    if semitones == 0:
        return name, wav
    shifted = on_long(
        wav,
        lambda y: librosa_effects().effects.pitch_shift(
            y, sr=features.sample_rate, n_steps=semitones, res_type="soxr_hq"
        ),
    )
    return name, shifted[: len(wav)]


def frequency_resize(wav, deformation, draw, features, other):
    scale, bands = float(draw.scale), float(draw.shift) * features.n_mels
    name = f"frequency_resize_scale_{scale:.3g}_shift_{bands:+.2g}_bands"
    return name, move_axis(wav, scale, bands, features)


def translation(wav, deformation, draw, features, other):
    samples = int(draw.later) * features.hop
    higher = move_axis(wav, 1.0, -float(draw.higher), features)
    name = f"translation_{samples / features.sample_rate:+.3g}_seconds_{float(draw.higher):+.2g}_bands"
    return name, higher.roll(samples)


def equalization(wav, deformation, draw, features, other):
    gains_db = draw.gains_db.tolist()
    name = "equalization_" + "_".join(f"{gain:+.0f}" for gain in gains_db) + "_dB"
    first, step = band_axis(features)
    knots = first + step * np.linspace(0, features.n_mels - 1, KNOTS)
    padded = (
        len(wav) + features.sample_rate // 5
    )  # without padding, the filter would wrap around from the end to the start
    mels = hz_to_mel(torch.fft.rfftfreq(padded, 1 / features.sample_rate, dtype=torch.float64))
    gains = torch.from_numpy(10 ** (np.interp(mels, knots, gains_db) / 20)).float()
    return name, torch.fft.irfft(torch.fft.rfft(wav, padded) * gains, padded)[: len(wav)]


def mixture(wav, deformation, draw, features, other):
    other = other.repeat(-(-len(wav) // len(other)))[: len(wav)]
    own, theirs = float(wav.square().sum()), float(other.square().sum())
    gain = (float(draw.ratio) * own / theirs) ** 0.5 if theirs else 0.0
    return f"mixture_ratio_{float(draw.ratio):.2g}", wav + gain * other


def gaussian_noise(wav, deformation, draw, features, other):
    seed = int(draw.normal.flatten()[0].abs() * 2**20)  # the same draw gives the same noise
    noise = torch.randn(len(wav), generator=torch.Generator().manual_seed(seed))
    level = wav.square().mean().sqrt() * 10 ** (-float(draw.snr_db) / 20)
    return f"gaussian_noise_{float(draw.snr_db):.0f}_dB", wav + level * noise


def gain(wav, deformation, draw, features, other):
    return f"gain_{float(draw.gain_db):+.0f}_dB", wav * 10 ** (float(draw.gain_db) / 20)


def spectral_noise(wav, deformation, draw, features, other):
    window = torch.hann_window(N_FFT)
    padded = torch.nn.functional.pad(wav, (0, N_FFT))
    spectrum = torch.stft(padded, N_FFT, HOP, window=window, return_complex=True)
    seed = int(draw.normal.flatten()[0].abs() * 2**20)
    normal = torch.randn(spectrum.shape, generator=torch.Generator().manual_seed(seed))
    spectrum *= (1 + (deformation.spread * normal).abs()).sqrt()
    noisy = torch.istft(spectrum, N_FFT, HOP, window=window, length=len(padded))
    return f"spectral_noise_{deformation.spread:.2g}", noisy[: len(wav)]


def temporal_proximity(wav, deformation, draw, features, other):
    return UNCHANGED, wav


def tensors(*numbers):
    return (torch.tensor(float(number)) for number in numbers)


def tilt_db(deformation, sign):
    """A tilt of the spectrum: the highest band is changed by ``sign`` standard deviations, the lowest by ``-sign``."""
    return sign * deformation.spread_db * torch.linspace(-1, 1, KNOTS)


# For each deformation, the function that renders it, and a function that gives the draws at both ends of its range.
KINDS = {
    TimeStretch: (time_stretch, lambda d: [StretchDraw(*tensors(rate)) for rate in (1 / d.max_rate, d.max_rate)]),
    PitchShift: (pitch_shift, lambda d: [PitchDraw(*tensors(sign * d.max_semitones)) for sign in (-1, 1)]),
    FrequencyResize: (
        frequency_resize,
        lambda d: [ResizeDraw(*tensors(1 + sign * d.max_change, sign * d.max_change / 4)) for sign in (-1, 1)],
    ),
    Translation: (
        translation,
        lambda d: [TranslationDraw(*tensors(sign * d.max_frames, sign * d.max_bands)) for sign in (-1, 1)],
    ),
    Equalization: (equalization, lambda d: [EqualizationDraw(tilt_db(d, sign)) for sign in (-1, 1)]),
    Mixture: (mixture, lambda d: [MixtureDraw(*tensors(d.max_ratio))]),
    GaussianNoise: (gaussian_noise, lambda d: [NoiseDraw(*tensors(snr, 1)) for snr in (d.snr_low_db, d.snr_high_db)]),
    Gain: (gain, lambda d: [GainDraw(*tensors(sign * d.max_db)) for sign in (-1, 1)]),
    SpectralNoise: (spectral_noise, lambda d: []),
    TemporalProximity: (temporal_proximity, lambda d: []),
}


def kind_of(deformation):
    """The entry of `KINDS` for a deformation; raises `UserError` if there is none."""
    if type(deformation) not in KINDS:
        known = ", ".join(kind.__name__ for kind in KINDS)
        raise UserError(f"{type(deformation).__name__} can't be heard here: expected deformations among {known}.")
    return KINDS[type(deformation)]


def extremes(deformation):
    return kind_of(deformation)[1](deformation)


def render(wav, deformation, draw, features, other):
    """Deform a waveform by a draw. Returns a name with the strength, and the waveform (of another length if stretched).

    ``features`` (LogMel) gives the sample rate and the mel bands. `Mixture` adds the waveform ``other``.
    """
    return kind_of(deformation)[0](wav, deformation, draw, features, other)


def on_long(wav, change):
    """Apply ``change`` to a waveform. A waveform that is shorter than two windows of librosa is padded first."""
    short = max(0, 2 * N_FFT - len(wav))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = torch.from_numpy(change(np.pad(wav.numpy(), (0, short))))
    return changed[: max(1, round(len(changed) * len(wav) / (len(wav) + short)))]


def band_axis(features):
    """The mel value at the centre of the lowest band, and the distance between bands in mel."""
    first, second = hz_to_mel(mel_edges(features.n_mels, features.low_hz, features.high_hz)[1:3]).tolist()
    return first, second - first


def move_axis(wav, scale, shift_bands, features):
    """Stretch and move the mel axis: band ``m`` takes its energy from ``(m - middle) * scale + middle + shift_bands``.

    Bands beyond the ends of the axis are silent, as in `cochlea_sb.augment.energies.resample_mels`.
    """
    if scale == 1 and shift_bands == 0:
        return wav
    first, step = band_axis(features)
    middle = (features.n_mels - 1) / 2
    hz = torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * features.sample_rate / N_FFT
    bands = (hz_to_mel(hz) - first) / step
    source_bands = (bands - middle) * scale + middle + shift_bands
    inside = (source_bands > -1) & (source_bands < features.n_mels)
    source_bins = (mel_to_hz(first + step * source_bands) * N_FFT / features.sample_rate).clamp(0, N_FFT // 2)
    padded = torch.nn.functional.pad(wav, (0, N_FFT))
    spectrum = torch.stft(padded, N_FFT, HOP, window=torch.hann_window(N_FFT), return_complex=True)
    magnitudes = spectrum.abs().numpy()  # [bins, frames]
    low = source_bins.floor().long().numpy()
    share = (source_bins - source_bins.floor()).numpy()[:, None]
    high = np.minimum(low + 1, N_FFT // 2)
    moved = ((1 - share) * magnitudes[low] + share * magnitudes[high]) * inside.numpy()[:, None]
    sound = librosa_effects().griffinlim(
        moved.astype(np.float32), n_iter=32, hop_length=HOP, n_fft=N_FFT, random_state=0, length=len(padded)
    )
    return torch.from_numpy(sound)[: len(wav)].contiguous()
