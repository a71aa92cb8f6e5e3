"""Parts of a synthetic sound: partials, noise and its colour, envelopes, and layers of textures.

In every function, ``rng`` is a `numpy.random.Generator`, and waveforms are float [samples] at `SAMPLE_RATE`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

SAMPLE_RATE = 16_000
HIGHEST_HZ = 7_800.0
CONTROL_STEP = 80  # samples, 5 ms; levels of partials are linear in between
MOST_GRAINS = 400
Curve = Callable[[np.ndarray], Any]  # from frequencies in Hz to gains
Layer = Callable[[np.random.Generator, int], Any]  # from a number of samples to a waveform


def log_uniform(rng: np.random.Generator, low: float, high: float, count: Any = None) -> Any:
    """Draw from ``low`` to ``high`` on a logarithmic scale: a number, or an array of ``count`` numbers."""
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def sometimes(rng: np.random.Generator, odds: float, value: Any, otherwise: Any = 0.0) -> Any:
    """Return ``value`` with the probability ``odds``."""
    return value if rng.random() < odds else otherwise


def wander(rng: np.random.Generator, n: int, per_second: float, deviation: float) -> Any:
    """Return a random curve [n], linear between ``per_second`` normal values a second."""
    return glide(deviation * rng.standard_normal(max(2, int(n / SAMPLE_RATE * per_second) + 2)), n)


def glide(values: np.ndarray, n: int) -> Any:
    """Interpolate ``values`` linearly to n samples."""
    return np.interp(np.linspace(0, len(values) - 1, n), np.arange(len(values)), values)


def sigmoid(x: np.ndarray) -> Any:
    return 1 / (1 + np.exp(-x))


def unit(wave: np.ndarray) -> Any:
    """Scale a waveform to a standard deviation of 1."""
    return wave / max(float(wave.std()), 1e-6)


def resonances(hz: np.ndarray, widths_hz: np.ndarray, gains: np.ndarray) -> Curve:
    """Return the sum of resonance curves with these centres and half widths."""

    def curve(at_hz: np.ndarray) -> np.ndarray:
        total = np.zeros_like(at_hz)
        for centre, width, gain in zip(hz, widths_hz, gains, strict=True):
            total += gain / (1 + ((at_hz - centre) / width) ** 2)
        return total

    return curve


def random_colour(rng: np.random.Generator) -> Curve:
    return resonances(log_uniform(rng, 100, 7000, 3), log_uniform(rng, 60, 3000, 3), rng.uniform(0.1, 1, 3))


def in_room(rng: np.random.Generator, wave: np.ndarray, seconds: float) -> Any:
    """Add reverberation, noise that decays by 1 / e in ``seconds``."""
    n = len(wave)
    echo = rng.standard_normal(n) * np.exp(-np.arange(n) / SAMPLE_RATE / seconds)
    return wave + 0.02 * np.fft.irfft(np.fft.rfft(wave, 2 * n) * np.fft.rfft(echo, 2 * n), 2 * n)[:n]


def coloured(wave: np.ndarray, curve: Curve) -> Any:
    """Filter a waveform by gains at frequencies, without a delay."""
    return np.fft.irfft(np.fft.rfft(wave) * curve(np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)), len(wave))


def envelope(t: np.ndarray, attack: float, fall: float, sustain: float, release: float, hold: float) -> Any:
    """Rise in ``attack`` seconds, fall to ``sustain``, and, ``hold`` seconds after the start, fall to 0."""
    rise = np.minimum(t / attack, 1) * (sustain + (1 - sustain) * np.exp(-np.maximum(t - attack, 0) / fall))
    return rise * np.exp(-np.maximum(t - hold, 0) / release)


def harmonics(
    rng: np.random.Generator, hz: np.ndarray, spectrum: Curve, stiff: float = 0.0, stretch: float = 1.0
) -> Any:
    """Sum up to 60 partials of a fundamental ``hz`` [samples].

    ``spectrum`` gives their levels for the frequencies of every `CONTROL_STEP`-th sample, [steps, partials].
    The partial k has the frequency ``hz * k ** stretch * sqrt(1 + stiff * k ** 2)``; ``stiff`` is that of a string.
    """
    order = np.arange(1, int(np.clip(7600 / hz.mean(), 3, 60)) + 1)
    factors = order**stretch * np.sqrt(1 + stiff * order**2)
    turns = np.cumsum(hz)[:, None] / SAMPLE_RATE * factors + rng.random(len(order))
    turns -= np.floor(turns)
    at_hz = hz[::CONTROL_STEP, None] * factors
    levels = (spectrum(at_hz) * (at_hz < HIGHEST_HZ)).astype(np.float32)
    waves = np.zeros((len(levels) * CONTROL_STEP, len(order)), np.float32)
    np.sin((2 * np.pi * turns).astype(np.float32), out=waves[: len(hz)])
    steps = waves.reshape(len(levels), CONTROL_STEP, len(order))
    # Linear from the levels at the start of a step to those of the next step.
    share = np.arange(CONTROL_STEP, dtype=np.float32) / CONTROL_STEP
    starts, ends = (
        np.matmul(steps, part[:, :, None])[..., 0] for part in (levels, np.append(levels[1:], levels[-1:], 0))
    )
    return (starts * (1 - share) + ends * share).reshape(-1)[: len(hz)]


# ---------------------------------------------------------------- layers of a texture


def swelling_noise(rng: np.random.Generator) -> Layer:
    colour = random_colour(rng)
    return lambda rng, n: coloured(rng.standard_normal(n), colour)


def engine(rng: np.random.Generator) -> Layer:
    """Pulses, of noise or not, whose rate wanders."""
    colour, rate_hz, drift = random_colour(rng), log_uniform(rng, 20, 200), rng.uniform(0, 0.5)
    pulse, loud, noisy = log_uniform(rng, 0.02, 0.4), rng.uniform(0.03, 0.45), rng.random() < 0.4

    def layer(rng: np.random.Generator, n: int) -> Any:
        turns = np.cumsum(rate_hz * 2 ** wander(rng, n, 2, drift)) / SAMPLE_RATE
        pulses = np.exp(-(turns % 1) / pulse) * (1 + loud * glide(rng.standard_normal(int(turns[-1]) + 2), n))
        wave = pulses * rng.standard_normal(n) if noisy else np.diff(pulses, prepend=0)
        return coloured(wave, lambda hz: 0.02 + colour(hz))

    return layer


def grains_of_noise(rng: np.random.Generator) -> Layer:
    scatter, colour = events(rng), random_colour(rng)

    def layer(rng: np.random.Generator, n: int) -> Any:
        return coloured(scatter(rng, n, lambda u, length: rng.standard_normal(len(u))), colour)

    return layer


def grains_of_tones(rng: np.random.Generator) -> Layer:
    """Tones that glide, as drops of water and birds do."""
    scatter, base_hz = events(rng), log_uniform(rng, 100, 5000)
    spread, sweep = rng.uniform(0, 1), sometimes(rng, 0.5, rng.uniform(-2, 2))

    def layer(rng: np.random.Generator, n: int) -> Any:
        def grain(u: np.ndarray, length: float) -> Any:
            hz = base_hz * 2 ** (spread * rng.standard_normal() + sweep * np.minimum(u / length, 3))
            return np.sin(2 * np.pi * np.cumsum(np.clip(hz, 20, HIGHEST_HZ)) / SAMPLE_RATE)

        return scatter(rng, n, grain)

    return layer


def events(rng: np.random.Generator) -> Callable[[np.random.Generator, int, Callable[[np.ndarray, float], Any]], Any]:
    """Return a function that adds up grains, each made by ``grain(seconds, length)``, at random or regular times."""
    rate, regular = log_uniform(rng, 2, 300), sometimes(rng, 0.35, rng.uniform(0.5, 1))
    mean_length, spread, attack = log_uniform(rng, 0.004, 0.3), rng.uniform(0.05, 1), rng.uniform(0.02, 0.6)
    loud = rng.uniform(0.1, 1.5)
    u = np.arange(int(SAMPLE_RATE * min(0.5, 4 * mean_length)) + 1) / SAMPLE_RATE

    def scatter(rng: np.random.Generator, n: int, grain: Callable[[np.ndarray, float], Any]) -> Any:
        wave, count = np.zeros(n + len(u)), min(MOST_GRAINS, max(1, rng.poisson(rate * n / SAMPLE_RATE)))
        even = (np.arange(count) + rng.uniform()) * n / count
        for first in (regular * even + (1 - regular) * rng.uniform(0, n, count)).astype(int):
            length = mean_length * 2 ** (spread * rng.standard_normal())
            shape = np.minimum(u / (attack * length), 1) * np.exp(-u / length + loud * rng.standard_normal())
            wave[first : first + len(u)] += grain(u, length) * shape
        return wave[:n]

    return scatter


def swell(rng: np.random.Generator) -> Layer:
    """A slow curve of the level."""
    rate, depth = log_uniform(rng, 0.3, 12), sometimes(rng, 0.6, rng.uniform(0.2, 2))
    periodic = rng.random() < 0.4

    def level(rng: np.random.Generator, n: int) -> Any:
        turns = rate * np.arange(n) / SAMPLE_RATE + rng.random()
        return np.exp(depth * (np.sin(2 * np.pi * turns) if periodic else wander(rng, n, rate, 1.0)))

    return level
