"""Synthesisers of the synthetic library. Each function plays one event, without reverberation.

The arguments of every synthesiser are a random generator ``rng`` and a `Voice`. Takes of the same source have similar
voices. Pitch, tempo and length differ widely inside a class, because an embedding must learn to ignore them. In every
synthesiser, ``t`` [samples] is the time in seconds.
"""

from typing import NamedTuple

import numpy as np
from scipy import signal

PLUCK_HZ = (130.0, 440.0)  # lowest and highest pitch of a plucked string
# The first three formants are of men (Peterson and Barney 1952, Table II). The fourth and fifth are typical values.
AH_HZ = (730.0, 1090.0, 2440.0, 3400.0, 4500.0)
EE_HZ = (270.0, 2290.0, 3010.0, 3700.0, 4900.0)


class Voice(NamedTuple):
    """The properties of an instrument. Each field is a float in [0, 1].

    Example
    -------
    >>> Voice(pitch=0.5, timbre=0.0, tempo=1.0).hz(110.0, 440.0)
    220.0
    """

    pitch: float
    timbre: float
    tempo: float

    def hz(self, low, high):
        """Return the frequency that ``pitch`` selects between ``low`` and ``high``, on a logarithmic scale."""
        return low * (high / low) ** self.pitch

    def gap(self, slow_seconds, fast_seconds):
        """Return the time from one event to the next, which ``tempo`` selects on a logarithmic scale."""
        return slow_seconds * (fast_seconds / slow_seconds) ** self.tempo

    def tone(self, dark, bright):
        """Return the value that ``timbre`` selects between ``dark`` and ``bright``, on a linear scale."""
        return dark + (bright - dark) * self.timbre


def clock(seconds, sample_rate):
    """Return the time of every sample in seconds, float [samples]."""
    return np.arange(round(seconds * sample_rate)) / sample_rate


def decay(t, t60_seconds):
    """Return an exponential envelope that falls by 60 dB in ``t60_seconds``. It is 0 before time 0."""
    return np.where(t < 0, 0.0, 10.0 ** (-3.0 * np.maximum(t, 0.0) / t60_seconds))


def swell(t, attack_seconds, release_seconds):
    """Return an envelope that rises linearly from 0 to 1, and falls linearly to 0 at the end."""
    return np.clip(np.minimum(t / attack_seconds, (t[-1] - t) / release_seconds), 0.0, 1.0)


def wander(rng, t, per_second):
    """Return a random curve in [-1, 1], linear between ``per_second`` random values a second."""
    knots = rng.uniform(-1.0, 1.0, int(t[-1] * per_second) + 3)
    return np.interp(t * per_second, np.arange(len(knots)), knots)


def partials(hz, amplitudes, sample_rate):
    """Sum the harmonics of a fundamental ``hz`` [samples], without harmonics that would alias."""
    phase = 2.0 * np.pi * np.cumsum(hz) / sample_rate
    audible = [k for k in range(1, len(amplitudes) + 1) if k * hz.max() < 0.48 * sample_rate]
    return sum((amplitudes[k - 1] * np.sin(k * phase) for k in audible), np.zeros(len(hz)))


def modes(rng, t, hz, t60_seconds, amplitudes):
    """Sum decaying sines with random phases. The last three arguments have one entry for each sine."""
    each = zip(hz, t60_seconds, amplitudes, strict=True)
    return sum(a * decay(t, t60) * np.sin(2 * np.pi * f * t + rng.uniform(0, 2 * np.pi)) for f, t60, a in each)


def band_noise(rng, t, low_hz, high_hz, sample_rate):
    """Return Gaussian noise between two frequencies. Its root mean square is 1."""
    sections = signal.butter(2, [low_hz, high_hz], "bandpass", fs=sample_rate, output="sos")
    noise = signal.sosfilt(sections, rng.standard_normal(len(t)))
    return noise / np.sqrt(np.mean(noise**2))


def sparks(rng, t, per_second, sample_rate):
    """Return about ``per_second`` impulses a second, with random signs, sizes and times."""
    odds = per_second / sample_rate
    return (rng.random(len(t)) < odds) * rng.standard_normal(len(t)) * rng.exponential(1.0, len(t))


def resonances(wave, hz, bandwidths_hz, gains, sample_rate):
    """Filter a waveform with parallel two-pole resonators, such as the formants of a voice, and sum the results."""
    filtered = np.zeros(len(wave))
    for centre, bandwidth, gain in zip(hz, bandwidths_hz, gains, strict=True):
        filtered += gain * signal.lfilter(*signal.iirpeak(centre, centre / bandwidth, fs=sample_rate), wave)
    return filtered


def plucked_string(rng, sample_rate, voice):
    """A burst of noise circulates in a delay line with a lowpass filter (Karplus and Strong 1983)."""
    period, dull, t60 = sample_rate / voice.hz(*PLUCK_HZ), voice.tone(0.5, 0.1), rng.uniform(0.8, 3.0)
    whole, fraction = divmod(period - 1, 1)  # the lowpass filter delays by one more sample
    loop = np.convolve([dull / 2, 1 - dull, dull / 2], [1 - fraction, fraction]) * decay(period / sample_rate, t60)
    excitation = np.zeros(round(min(t60, 1.6) * sample_rate))
    excitation[: round(period)] = rng.uniform(-1.0, 1.0, round(period))
    string = signal.lfilter([1.0, -0.9], np.concatenate([[1.0], np.zeros(int(whole) - 1), -loop]), excitation)
    return string / np.abs(string).max()


def bowed_string(rng, sample_rate, voice):
    """A sawtooth with vibrato excites the resonances of a wooden body. Noise imitates the friction of the bow."""
    t = clock(rng.uniform(0.7, 3.2), sample_rate)
    vibrato = 1 + rng.uniform(0.004, 0.015) * np.sin(2 * np.pi * rng.uniform(4.5, 7.0) * t) * np.minimum(t / 0.5, 1)
    saw = partials(voice.hz(180.0, 560.0) * vibrato, 1.0 / np.arange(1, 41), sample_rate)
    body = np.array([290.0, 460.0, 1100.0, 2700.0]) * voice.tone(0.8, 1.25)
    wave = 0.3 * saw + resonances(saw, body, body / 4, [1.0, 1.0, 1.2, 2.0], sample_rate)
    wave = wave + 0.06 * band_noise(rng, t, 1500.0, 6500.0, sample_rate) * (1 + saw)
    return wave * swell(t, rng.uniform(0.06, 0.35), 0.15) * (1 + 0.3 * wander(rng, t, 3.0))


def bell(rng, sample_rate, voice):
    """The partials of a church bell: hum, prime, tierce, quint, nominal, ... High partials decay faster."""
    ratios = np.array([0.5, 1.0, 1.183, 1.506, 2.0, 2.514, 2.662, 3.011, 4.166, 5.43])
    prime_hz, ring = voice.hz(420.0, 1050.0), voice.tone(1.2, 4.0) * rng.uniform(0.8, 1.2)
    ratios = ratios[ratios * prime_hz < 7500.0]
    loudness = ratios ** -voice.tone(1.0, 0.1) * rng.uniform(0.5, 1.0, len(ratios))
    return modes(rng, clock(min(ring, 2.8), sample_rate), ratios * prime_hz, ring / ratios**0.7, loudness)


def flute(rng, sample_rate, voice):
    """One to four notes of a nearly pure tone with tremolo, and breath noise."""
    t = clock(rng.uniform(0.7, 3.2), sample_rate)
    steps = np.cumsum(np.append(0, rng.choice([-4, -2, 2, 3, 5], 3)))
    note = np.minimum((t / voice.gap(1.6, 0.5)).astype(int), 3)
    hz = voice.hz(380.0, 950.0) * 2 ** (np.interp(t, t[:: sample_rate // 50], steps[note[:: sample_rate // 50]]) / 12)
    tone = partials(hz, [1.0, voice.tone(0.15, 0.5), 0.15, 0.06, 0.03], sample_rate)
    tone = tone * (1 + rng.uniform(0.1, 0.35) * np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * t))
    breath = band_noise(rng, t, 0.9 * hz[0], min(5 * hz[0], 7000.0), sample_rate)
    return (tone + rng.uniform(0.05, 0.15) * breath) * swell(t, rng.uniform(0.05, 0.2), 0.12)


def brass(rng, sample_rate, voice):
    """Frequency modulation at ratio 1. The modulation index follows the amplitude (Chowning 1973)."""
    t = clock(rng.uniform(0.25, 0.9), sample_rate)
    loudness = swell(t, rng.uniform(0.03, 0.1), 0.08) * (0.75 + 0.25 * decay(t, 0.6))
    phase = 2 * np.pi * voice.hz(140.0, 360.0) * t
    return loudness * np.sin(phase + voice.tone(3.0, 6.0) * loudness * np.sin(phase))


def kick(rng, sample_rate, voice):
    """A click of the beater, and a sine that falls to the low pitch of the drum."""
    t = clock(rng.uniform(0.15, 0.5), sample_rate)
    hz = voice.hz(45.0, 75.0) * (1 + rng.uniform(1.0, 2.5) * decay(t, 0.12))
    click = voice.tone(0.01, 0.15) * decay(t, 0.02) * rng.standard_normal(len(t))
    return partials(hz, [1.0, 0.1], sample_rate) * decay(t, 2 * t[-1]) * swell(t, 0.001, 0.03) + click


def tom(rng, sample_rate, voice):
    """Three modes of a tuned drum skin, whose pitch falls while they decay."""
    t60 = rng.uniform(0.4, 0.9)
    t = clock(t60, sample_rate)
    hz = voice.hz(90.0, 220.0) * (1 + rng.uniform(0.1, 0.3) * decay(t, 0.25))
    stick = voice.tone(0.02, 0.2) * decay(t, 0.03) * rng.standard_normal(len(t))
    skin = sum(
        level * np.sin(2 * np.pi * np.cumsum(ratio * hz) / sample_rate) * decay(t, t60 / ratio)
        for ratio, level in ((1.0, 0.7), (1.59, 0.35), (2.14, 0.15))
    )
    return skin + stick


def snare(rng, sample_rate, voice):
    """Two modes of a drum skin, and noise of the snare wires."""
    hz, t60 = voice.hz(170.0, 290.0), rng.uniform(0.15, 0.4)
    t = clock(t60, sample_rate)
    wires = band_noise(rng, t, voice.tone(900.0, 2200.0), 7500.0, sample_rate)
    return modes(rng, t, [hz, 1.6 * hz], [0.7 * t60, 0.5 * t60], [0.8, 0.5]) + 0.5 * decay(t, t60) * wires


def hat(rng, sample_rate, voice):
    """Metallic noise above 4 kHz, shorter than a window of the encoder."""
    t = clock(rng.uniform(0.08, 0.3), sample_rate)
    floor_hz = voice.hz(4400.0, 5800.0)
    squares = sum(signal.square(2 * np.pi * floor_hz * ratio * t) for ratio in (0.31, 0.46, 0.73, 1.07, 1.21))
    metal = signal.sosfilt(signal.butter(6, floor_hz, "highpass", fs=sample_rate, output="sos"), squares)
    hiss = band_noise(rng, t, floor_hz, 7600.0, sample_rate)
    return (hiss + voice.tone(0.1, 0.8) * metal) * decay(t, rng.uniform(0.5, 1.2) * t[-1])


def clap(rng, sample_rate, voice):
    """Three noise bursts within 40 ms, and a decaying tail."""
    centre, tail = voice.hz(1000.0, 1800.0), rng.uniform(0.1, 0.3)
    t = clock(0.04 + tail, sample_rate)
    palms = sum(decay(t - late, 0.025) for late in rng.uniform(0.0, 0.04, 3)) + 0.5 * decay(t - 0.04, tail)
    return palms * band_noise(rng, t, voice.tone(0.6, 0.8) * centre, 1.5 * centre, sample_rate)


def cowbell(rng, sample_rate, voice):
    """Two square waves with a frequency ratio of 1.48, as in analogue drum machines."""
    t = clock(rng.uniform(0.15, 0.5), sample_rate)
    square = [1, 0, 1 / 3, 0, 1 / 5, 0, 1 / 7, 0, 1 / 9, 0, 1 / 11, 0, 1 / 13]
    pair = sum(partials(np.full(len(t), ratio * voice.hz(430.0, 740.0)), square, sample_rate) for ratio in (1, 1.48))
    return (0.3 * decay(t, 0.15) + decay(t, 1.6 * t[-1]) * voice.tone(0.4, 0.9)) * pair * swell(t, 0.001, 0.02)


def wind(rng, sample_rate, voice):
    """Noise in a narrow band, whose centre frequency and amplitude rise and fall together."""
    t = clock(rng.uniform(1.5, 4.0), sample_rate)
    gust = wander(rng, t, voice.gap(0.7, 0.3) ** -1)
    bands_hz = voice.hz(240.0, 420.0) * 1.4 ** np.arange(6)
    gains = [np.exp(-(((k - 2.5 - 2.2 * gust) / voice.tone(0.5, 0.9)) ** 2)) for k in range(6)]
    bands = sum(gain * band_noise(rng, t, hz, 1.4 * hz, sample_rate) for gain, hz in zip(gains, bands_hz, strict=True))
    return bands * (1.2 + gust) * swell(t, 0.2, 0.2)


def rain(rng, sample_rate, voice):
    """Hundreds of near drops a second, and the hiss of distant drops."""
    t = clock(rng.uniform(1.0, 4.0), sample_rate)
    drops = sparks(rng, t, voice.gap(150.0, 900.0), sample_rate)
    pats = resonances(
        drops, voice.hz(0.75, 1.25) * np.array([1300.0, 2400.0, 4200.0]), [500.0] * 3, [1.0] * 3, sample_rate
    )
    hiss = band_noise(rng, t, voice.hz(900.0, 1500.0), 7600.0, sample_rate)
    return (3.0 * pats / np.std(pats) + 2.0 * hiss) * (1 + 0.2 * wander(rng, t, 2.0)) * swell(t, 0.05, 0.05)


def chirp(rng, sample_rate, voice, direction):
    """A tone with three harmonics that rises (direction 1) or falls (direction -1) by 1 to 2.5 octaves."""
    t = clock(voice.gap(1.6, 0.35), sample_rate)
    hz = voice.hz(480.0, 1000.0) * 2 ** (direction * voice.tone(1.0, 2.5) * (t / t[-1] - 0.5))
    return partials(hz, [1.0, voice.tone(0.1, 0.6), 0.2], sample_rate) * swell(t, 0.02, 0.04)


def vowel(rng, sample_rate, voice, formants_hz):
    """Pulses of the glottis, filtered by five formants (Klatt 1980). Higher voices have higher formants."""
    t = clock(rng.uniform(0.3, 1.8), sample_rate)
    melody = 1 + 0.12 * wander(rng, t, 2.0) + 0.01 * np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * t)
    pulses = partials(voice.hz(110.0, 260.0) * melody, np.arange(1, 60) ** -voice.tone(1.3, 0.7), sample_rate)
    formants = np.array(formants_hz) * voice.hz(0.93, 1.14) * rng.uniform(0.97, 1.03)
    pulses = pulses + 0.05 * rng.standard_normal(len(t))
    mouth = resonances(pulses, formants, [80.0, 90.0, 130.0, 200.0, 250.0], [1.0, 0.8, 0.5, 0.35, 0.2], sample_rate)
    return mouth * swell(t, rng.uniform(0.03, 0.12), 0.1)


def engine(rng, sample_rate, voice):
    """Unequal pulses of cylinders at a changing speed, and noise that follows the firing."""
    t = clock(rng.uniform(1.2, 4.0), sample_rate)
    hz = voice.hz(13.0, 26.0) * 2 ** (0.4 * wander(rng, t, 1.0))
    strokes = partials(hz, rng.uniform(0.2, 1.0, 60) * np.arange(1, 61) ** -voice.tone(0.8, 0.4), sample_rate)
    firing = np.maximum(np.sin(2 * np.pi * np.cumsum(4 * hz) / sample_rate), 0.0) ** 3
    exhaust = resonances(strokes, [110.0, 240.0, 520.0], [80.0, 120.0, 250.0], [1.0, 0.8, 0.6], sample_rate)
    return (exhaust + voice.tone(0.1, 0.4) * firing * band_noise(rng, t, 300.0, 2500.0, sample_rate)) * swell(
        t, 0.1, 0.1
    )


def bird(rng, sample_rate, voice):
    """A short whistled syllable, whose pitch follows part of a sine."""
    t = clock(voice.gap(0.16, 0.05) * rng.uniform(0.7, 1.2), sample_rate)
    arch = voice.tone(0.15, 0.6) * np.sin(np.pi * t / t[-1] * rng.uniform(0.8, 2.2)) + 0.1 * rng.uniform(-1, 1)
    return partials(voice.hz(1900.0, 3500.0) * 2**arch, [1.0, 0.12], sample_rate) * np.sin(np.pi * t / t[-1])


def cricket(rng, sample_rate, voice):
    """Three or four pulses of a high pure tone, at 25 to 45 pulses a second."""
    rate_hz = voice.tone(25.0, 45.0)
    t = clock(rng.integers(3, 5) / rate_hz, sample_rate)
    return np.sin(2 * np.pi * voice.hz(3400.0, 5200.0) * t) * np.sin(np.pi * rate_hz * t) ** 2


def water_drops(rng, sample_rate, voice):
    """A decaying sine whose pitch rises, like a bubble near the surface of water (van den Doel 2005)."""
    t = clock(rng.uniform(0.08, 0.2), sample_rate)
    hz = voice.hz(600.0, 1200.0) * 2 ** (rng.uniform(-0.5, 0.5) + voice.tone(3.0, 7.0) * t)
    return partials(hz, [1.0], sample_rate) * decay(t, rng.uniform(0.08, 0.2)) * swell(t, 0.002, 0.01)


def footsteps(rng, sample_rate, voice):
    """The modes of a floor hit by a heel, and noise of the sole."""
    t = clock(0.25, sample_rate)
    heel = modes(rng, t, voice.hz(105.0, 190.0) * np.array([1.0, 1.9, 3.3]), [0.12, 0.08, 0.05], [1.0, 0.7, 0.5])
    scuff = band_noise(rng, t, 500.0, voice.tone(2000.0, 5000.0), sample_rate)
    return heel + scuff * (0.3 * decay(t, 0.03) + voice.tone(0.05, 0.2) * decay(t - rng.uniform(0.06, 0.1), 0.12))


def glass_break(rng, sample_rate, voice):
    """A noise burst, and 20 to 44 splinters that ring at random times."""
    t = clock(rng.uniform(0.7, 2.0), sample_rate)
    wave = 2.0 * decay(t, 0.08) * rng.standard_normal(len(t))
    for late in rng.exponential(0.25 * t[-1], rng.integers(20, 45)):
        hz, t60 = rng.uniform(voice.hz(1800.0, 2600.0), 7500.0, 2), rng.uniform(0.03, 0.25, 2)
        wave += rng.uniform(0.1, 1.0) * decay(t, t[-1]) * (t >= late) * modes(rng, t - late, hz, t60, [1.0, 0.7])
    return wave


def telephone(rng, sample_rate, voice):
    """Two gongs, which a clapper hits in turn, 14 to 26 times a second for each gong."""
    t = clock(rng.uniform(0.4, 1.2), sample_rate)
    left = np.sin(2 * np.pi * voice.gap(14.0, 26.0) * t) > 0
    gongs_hz = voice.hz(850.0, 1500.0) * np.array([1.0, voice.tone(1.12, 1.3)])
    gongs = partials(np.where(left, *gongs_hz), [1.0, 0.1, 0.5, 0.1, 0.25], sample_rate)
    return gongs * swell(t, 0.01, 0.03)


def crackle(rng, sample_rate, voice):
    """Rare impulses, most of them small, as of a worn record or a fire."""
    t = clock(rng.uniform(0.8, 3.5), sample_rate)
    impulses = sparks(rng, t, voice.gap(8.0, 50.0), sample_rate)
    impulses[0] = 1.0  # so that there is at least one impulse
    snaps = resonances(impulses, [voice.hz(1600.0, 3400.0)], [voice.tone(1000.0, 3000.0)], [1.0], sample_rate)
    return snaps + 0.3 * impulses
