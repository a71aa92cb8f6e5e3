"""Deformations of waveforms: what `cochlea_sb.augment.deformation` does to mel energies, done to the sound itself.

For ears (`recipes/listen.py`), and to measure an encoder on sounds that were really deformed. Pure functions of a
waveform [samples] or a batch of them [batch, samples], float32 on the CPU: they change no input, give each example
the same strength, and change nothing at zero strength.

Time and frequency are deformed in two parts (Driedger, Müller and Ewert 2014): what is sudden goes through windows so
short that it stays sharp, the rest through windows that tell its partials apart, where a phase vocoder keeps each bin
in step with the peak it belongs to (Laroche and Dolson 1999).

Axes: B batch, S samples, T frames, K frequency bins.
"""

import math

import numpy as np
import soxr
import torch
from scipy.fft import next_fast_len
from torch.nn import functional as F

from cochlea_sb.errors import UserError
from cochlea_sb.features import hz_to_mel, mel_edges, mel_to_hz

STEADY_SECONDS = 0.064  # tells apart partials 60 Hz from each other
SUDDEN_SECONDS = 0.016  # leaves clicks within about 5 ms of their places; half of it roughens low drums
MEDIAN_SIZE = 17  # frames and bins: 0.27 s and 0.27 kHz
SUDDEN_RATIO = 2.0  # Driedger's separation factor: white noise is not sudden
PEAK_REACH = 2  # a peak tops so many bins on either side, half the main lobe of a Hann window


def add_noise(wav, snr_db, generator=None):
    """Add white Gaussian noise; the counterpart of `GaussianNoise`.

    Arguments
    ---------
    wav : torch.Tensor [samples] or [batch, samples], float32
    snr_db : float
        Ratio of the sound's energy to the noise's; exact for each example, whatever was drawn.
    generator : torch.Generator, optional

    Returns
    -------
    torch.Tensor of the same shape; silence stays silent

    Example
    -------
    >>> add_noise(torch.ones(16000), 20.0).shape
    torch.Size([16000])
    """
    wavs = batch_of(wav)
    check_between("snr_db", snr_db, -300, 300)
    noise = torch.stack([torch.randn(wavs.shape[1], generator=generator) for _ in wavs])
    return mix(wavs, noise, 10 ** (-snr_db / 10)).reshape(wav.shape)


def mix(wav, other, ratio):
    """Add another sound at a ratio of energies; the counterpart of `Mixture`.

    Arguments
    ---------
    wav : torch.Tensor [samples] or [batch, samples], float32
    other : torch.Tensor [other_samples] or [batch, other_samples], float32
        Is cut, or repeated, to the length of ``wav``.
    ratio : float, at least 0
        The other sound's energy over the sound's own.

    Returns
    -------
    torch.Tensor of the shape of ``wav``; where either is silent, ``wav`` as it is
    """
    wavs, others = batch_of(wav), batch_of(other, "other")
    check_between("ratio", ratio, 0, 1e30)
    if len(others) not in (1, len(wavs)):
        raise UserError(f"other holds {len(others)} sounds and wav {len(wavs)}: expected one, or one for each.")
    samples = wavs.shape[1]
    others = others.repeat(1, -(-samples // others.shape[1]))[:, :samples]
    own, theirs = (batch.double().square().sum(1, keepdim=True) for batch in (wavs, others))
    gain = torch.where(theirs > 0, ratio * own / theirs, 0).sqrt().float()
    return (wavs + gain * others).reshape(wav.shape)


def shift_time(wav, seconds, sample_rate=16000):
    """Move a sound later, circularly, by a whole number of samples; the counterpart of `Translation`.

    Arguments
    ---------
    wav : torch.Tensor [samples] or [batch, samples], float32
    seconds : float
        Negative values move it earlier.
    sample_rate : int, Hz

    Returns
    -------
    torch.Tensor of the same shape
    """
    batch_of(wav)
    check_between("seconds", seconds, -1e6, 1e6)
    check_between("sample_rate", sample_rate, 100, 1e6)
    return wav.roll(round(seconds * sample_rate), -1)


def equalize(wav, gains_db, sample_rate=16000, *, n_mels=64, low_hz=60.0, high_hz=7800.0):
    """Filter with a smooth gain over frequency, without delay (zero phase); the counterpart of `Equalization`.

    Arguments
    ---------
    wav : torch.Tensor [samples] or [batch, samples], float32
    gains_db : sequence of 5 floats, dB, in [-120, 120]
        At knots evenly spaced on the mel axis from the centre of the lowest band to that of the highest; straight
        lines between them, level beyond.
    sample_rate : int, Hz
    n_mels, low_hz, high_hz :
        As in `LogMel`.

    Returns
    -------
    torch.Tensor of the same shape
    """
    wavs = batch_of(wav)
    check_between("sample_rate", sample_rate, 100, 1e6)
    gains_db = np.asarray(gains_db, dtype=np.float64)
    if gains_db.shape != (5,) or not (np.abs(gains_db) <= 120).all():
        raise UserError(f"gains_db is {gains_db.tolist()}: expected five numbers of dB from -120 to 120.")
    first_mel, band_mels = band_axis(n_mels, low_hz, high_hz)
    knots = first_mel + band_mels * np.linspace(0, n_mels - 1, 5)
    samples = wavs.shape[1]
    padded = next_fast_len(samples + sample_rate // 5, real=True)  # or the end would leak into the start
    mels = hz_to_mel(torch.fft.rfftfreq(padded, 1 / sample_rate, dtype=torch.float64))
    gains = torch.from_numpy(10 ** (np.interp(mels, knots, gains_db) / 20)).float()
    return torch.fft.irfft(torch.fft.rfft(wavs, padded) * gains, padded)[:, :samples].reshape(wav.shape)


def stretch(wav, rate, sample_rate=16000):
    """Play faster or slower without change of pitch; the counterpart of `TimeStretch`.

    Arguments
    ---------
    wav : torch.Tensor [samples] or [batch, samples], float32
    rate : float in [0.1, 10]
        2 plays twice as fast.
    sample_rate : int, Hz

    Returns
    -------
    torch.Tensor [new_samples] or [batch, new_samples]
        The whole sound: ``new_samples = max(1, round(samples / rate))``. (`TimeStretch` keeps the length of its crop,
        by cutting or by silence at the end.)

    Example
    -------
    >>> stretch(torch.zeros(2, 16000), 0.8).shape
    torch.Size([2, 20000])
    """
    wavs = batch_of(wav)
    check_between("rate", rate, 0.1, 10)
    check_between("sample_rate", sample_rate, 100, 1e6)
    steady, sudden = split_sudden(wavs, sample_rate)
    steady = respace_frames(steady, rate, frame_sizes(STEADY_SECONDS, sample_rate), locked=True)
    sudden = respace_frames(sudden, rate, frame_sizes(SUDDEN_SECONDS, sample_rate, overlap=2), locked=False)
    return (steady + sudden).reshape(*wav.shape[:-1], -1)


def shift_pitch(wav, semitones, sample_rate=16000):
    """Multiply all frequencies by one ratio, the timing staying as it is; the counterpart of `PitchShift`.

    Arguments
    ---------
    wav : torch.Tensor [samples] or [batch, samples], float32
    semitones : float in [-36, 36]
        12 doubles the frequencies; what would lie beyond half the sample rate is left out.
    sample_rate : int, Hz

    Returns
    -------
    torch.Tensor of the same shape
    """
    wavs = batch_of(wav)
    check_between("semitones", semitones, -36, 36)
    ratio = 2 ** (semitones / 12)
    slow = stretch(wavs, 1 / ratio, sample_rate)
    # Not torchaudio's resampler: its filters grow with the ratio's terms.
    shifted = torch.from_numpy(soxr.resample(slow.T.contiguous().numpy(), ratio, 1.0)).T
    return F.pad(shifted, (0, wavs.shape[1] - shifted.shape[1])).contiguous().reshape(wav.shape)


def resize_frequencies(wav, scale, shift_bands, sample_rate=16000, *, n_mels=64, low_hz=60.0, high_hz=7800.0):
    """Stretch and move the mel axis; the counterpart of `FrequencyResize`, and at scale 1 of `Translation`'s bands.

    Peaks of the spectrum move with all that lies around them and keep their energy; each gets the phase that its new
    frequency asks for. Silence enters from beyond the axis: a rumble below it does not become a tone.

    Arguments
    ---------
    wav : torch.Tensor [samples] or [batch, samples], float32
    scale : float in [0.1, 10]
        Band ``m`` sounds as ``(m - middle) * scale + middle + shift_bands`` did: above 1 the spectrum shrinks towards
        the middle of the axis.
    shift_bands : float, in mel bands
        Above 0 the spectrum moves down. (`Translation` at ``higher`` bands is ``shift_bands=-higher``.)
    sample_rate : int, Hz
    n_mels, low_hz, high_hz :
        As in `LogMel`.

    Returns
    -------
    torch.Tensor of the same shape
    """
    wavs = batch_of(wav)
    check_between("sample_rate", sample_rate, 100, 1e6)
    check_between("scale", scale, 0.1, 10)
    check_between("shift_bands", shift_bands, -n_mels, n_mels)
    first_mel, band_mels = band_axis(n_mels, low_hz, high_hz)
    middle = (n_mels - 1) / 2

    def moved(hz):
        bands = (hz_to_mel(hz) - first_mel) / band_mels
        new_bands = (bands - middle - shift_bands) / scale + middle
        was_inside, is_inside = ((-1 < place) & (place < n_mels) for place in (bands, new_bands))
        return mel_to_hz(first_mel + band_mels * new_bands), was_inside | ~is_inside

    steady, sudden = split_sudden(wavs, sample_rate)
    steady = move_peaks(steady, moved, frame_sizes(STEADY_SECONDS, sample_rate), sample_rate)
    sudden = move_peaks(sudden, moved, frame_sizes(SUDDEN_SECONDS, sample_rate), sample_rate)
    return (steady + sudden).reshape(wav.shape)


def batch_of(wav, name="wav"):
    """The waveform as a batch [batch, samples]; `UserError` if it is none."""
    if wav.ndim not in (1, 2) or not wav.numel() or wav.dtype != torch.float32 or wav.device.type != "cpu":
        raise UserError(
            f"{name} is {wav.dtype} of shape {tuple(wav.shape)} on {wav.device}: expected torch.float32, [samples] or "
            "[batch, samples] with at least one sample, on the CPU."
        )
    if not wav.isfinite().all():
        raise UserError(f"{name} holds a value that is not a finite number: expected numbers in about [-1, 1].")
    return wav.detach().reshape(-1, wav.shape[-1])


def check_between(name, value, low, high):
    """Raise `UserError` unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise UserError(f"{name} is {value}: expected {low:g} to {high:g}.")


def band_axis(n_mels, low_hz, high_hz):
    """The mel value of the lowest band's centre, and the distance between bands."""
    first, second = hz_to_mel(mel_edges(n_mels, low_hz, high_hz)[1:3]).tolist()
    return first, second - first


def frame_sizes(seconds, sample_rate, overlap=4):
    """Samples of a window of about so many seconds, and of a hop, ``overlap`` of which make a window."""
    hop = next_fast_len(max(1, round(seconds * sample_rate / overlap)))
    return overlap * hop, hop


def split_sudden(wavs, sample_rate):
    """Split sounds into what lasts and what is sudden; the two add up to the sound.

    What lasts is a ridge along time in the spectrogram, what is sudden one along frequency: medians along either axis
    tell (Fitzgerald 2010). Each bin goes as a whole, since two halves of one bin would partly cancel afterwards.

    Arguments
    ---------
    wavs : torch.Tensor [batch, samples]
    sample_rate : int, Hz

    Returns
    -------
    steady, sudden : torch.Tensor [batch, samples]
    """
    window, hop = frame_sizes(STEADY_SECONDS, sample_rate)
    taper = torch.hann_window(window)
    spectrum = torch.stft(wavs, window, hop, window=taper, pad_mode="constant", return_complex=True)  # [B, K, T]
    magnitudes = spectrum.abs().numpy()
    is_sudden = running_median(magnitudes, axis=1) > SUDDEN_RATIO * running_median(magnitudes, axis=2)
    sudden = torch.istft(spectrum * torch.from_numpy(is_sudden), window, hop, window=taper, length=wavs.shape[1])
    return wavs - sudden, sudden


def running_median(values, axis):
    """Median of `MEDIAN_SIZE` neighbours along an axis of a numpy array; the ends count on beyond themselves."""
    reach = [(0, 0)] * values.ndim
    reach[axis] = (MEDIAN_SIZE // 2, MEDIAN_SIZE // 2)
    neighbours = np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, mode="edge"), MEDIAN_SIZE, axis)
    return np.partition(neighbours, MEDIAN_SIZE // 2, -1)[..., MEDIAN_SIZE // 2]  # a quarter of scipy's time


def respace_frames(wavs, rate, sizes, locked):
    """Lay out frames that were taken ``rate`` hops from each other at one hop.

    Arguments
    ---------
    wavs : torch.Tensor [batch, samples]
    rate : float
    sizes : (int, int)
        Window and hop.
    locked : bool
        Turn phases so that each peak goes on as it did in the sound over one hop; else frames stay as they are.

    Returns
    -------
    torch.Tensor [batch, new_samples]
    """
    window, hop = sizes
    taper = torch.hann_window(window)
    length = max(1, round(wavs.shape[1] / rate))
    centres = (torch.arange(length // hop + 1, dtype=torch.float64) * (hop * rate)).round().long()
    spectrum = torch.fft.rfft(cut_frames(wavs, centres, window) * taper)  # [B, T, K]
    if locked:
        # A hop before each frame, in the sound itself: no phase is ever unwrapped.
        before = torch.fft.rfft(cut_frames(wavs, centres - hop, window) * taper)
        gained = (spectrum.roll(1, 1) * before.conj()).angle()
        spectrum = turned(spectrum, gained, nearest_peaks(spectrum.abs(), PEAK_REACH))
    return torch.istft(spectrum.mT, window, hop, window=taper, length=length)


def cut_frames(wavs, centres, window):
    """Frames around samples, with silence beyond either end: [batch, samples] to [batch, frames, window]."""
    positions = centres[:, None] + torch.arange(window) - window // 2
    last = wavs.shape[1] - 1
    return wavs[:, positions.clamp(0, last)] * ((positions >= 0) & (positions <= last))


def move_peaks(wavs, moved, sizes, sample_rate):
    """Move each peak of the spectrum, with what lies around it, to another frequency.

    Arguments
    ---------
    wavs : torch.Tensor [batch, samples]
    moved : callable
        From frequencies in Hz, torch.Tensor [bins], to the new ones and to whether they are to be heard, bool. What
        would lie below 0 Hz or beyond half the sample rate isn't.
    sizes : (int, int)
        Window and hop.
    sample_rate : int, Hz

    Returns
    -------
    torch.Tensor [batch, samples]
    """
    window, hop = sizes
    n_fft = 2 * window  # finer bins, as peaks move by whole ones
    taper = torch.hann_window(window)
    spectrum = torch.stft(wavs, n_fft, hop, window, taper, pad_mode="constant", return_complex=True).mT  # [B, T, K]
    n_bins = spectrum.shape[2]
    bins = torch.arange(n_bins, dtype=torch.float64)
    new_hz, is_heard = moved(bins * sample_rate / n_fft)
    distances = new_hz * n_fft / sample_rate - bins  # in bins
    slopes = torch.gradient(distances)[0]

    magnitudes = spectrum.abs()
    peaks = nearest_peaks(magnitudes, 2 * PEAK_REACH)
    distances = distances.float() + slopes.float() * peak_offsets(magnitudes)
    spectrum = turned(spectrum, 2 * math.pi * hop / n_fft * distances, peaks)

    steps = distances.gather(2, peaks).round().long()
    targets = torch.arange(n_bins) + steps
    is_heard = is_heard[peaks] & (targets >= 0) & (targets < n_bins)
    sign = 1 - 2 * (steps % 2)  # phases count from the start of a frame, its middle is half of n_fft away
    spectrum = torch.view_as_real(spectrum * (sign * is_heard))
    targets = targets.clamp(0, n_bins - 1)[..., None].expand_as(spectrum)
    spectrum = torch.view_as_complex(torch.zeros_like(spectrum).scatter_add(2, targets, spectrum))
    return torch.istft(spectrum.mT, n_fft, hop, window, taper, length=wavs.shape[1])


def peak_offsets(magnitudes):
    """How far from each bin, were it a peak, the top would lie: on the parabola through three logarithms.

    Arguments
    ---------
    magnitudes : torch.Tensor [batch, frames, bins]

    Returns
    -------
    torch.Tensor [batch, frames, bins], in bins, in [-0.5, 0.5]
    """
    logs = (magnitudes + 1e-12).log()
    left, here, right = logs[..., :-2], logs[..., 1:-1], logs[..., 2:]
    curvature = left - 2 * here + right
    return F.pad(torch.where(curvature < 0, (left - right) / (2 * curvature), 0).clamp(-0.5, 0.5), (1, 1))


def nearest_peaks(magnitudes, reach):
    """The peak nearest to each bin; a peak is a bin that none within ``reach`` tops.

    Arguments
    ---------
    magnitudes : torch.Tensor [batch, frames, bins]
    reach : int, in bins

    Returns
    -------
    torch.Tensor [batch, frames, bins], int64 in [0, bins)
    """
    n_bins = magnitudes.shape[2]
    bins = torch.arange(n_bins)
    is_peak = magnitudes == F.max_pool1d(magnitudes, 2 * reach + 1, 1, reach)
    below = torch.where(is_peak, bins, -n_bins).cummax(2).values
    above = torch.where(is_peak, bins, 3 * n_bins).flip(2).cummin(2).values.flip(2)
    return torch.where(bins - below <= above - bins, below, above)


def turned(spectrum, gained, peaks):
    """Turn the phase of each bin by what its peak has gathered so far.

    Arguments
    ---------
    spectrum : torch.Tensor [batch, frames, bins], complex
    gained : torch.Tensor [batch, frames, bins], radians
        By how much more than the frame before a bin is to be turned; the first frame stays.
    peaks : torch.Tensor [batch, frames, bins], int64
        The bin whose gain, and whose angle in the frame before, each bin takes over.

    Returns
    -------
    torch.Tensor [batch, frames, bins], complex
    """
    gained = gained.gather(2, peaks)
    angles = [torch.zeros_like(gained[:, 0])]
    for peak, gain in zip(peaks.unbind(1)[1:], gained.unbind(1)[1:], strict=True):
        angles.append(angles[-1].gather(1, peak) + gain)
    angles = torch.stack(angles, 1)
    return spectrum * torch.polar(torch.ones_like(angles), angles)
