"""Random sound sources: voices, instruments, struck bodies, textures and calls, each of which sounds several times.

A contrastive recipe learns from them what a deformation of a recording cannot show: a voice that says something else,
an instrument that plays another note, a body that is struck elsewhere, other drops of the same rain. The idea of
synthetic positives is from Cherep and Singh 2024, "Contrastive Learning from Synthetic Audio Doppelgängers" (arXiv
2406.05923). Their pairs are two random perturbations of a synthesiser. Here, the parameters of a source stay the same,
and only what it plays changes.

In every function, ``rng`` is a `numpy.random.Generator`, and waveforms are float32 [samples] at `SAMPLE_RATE`.
"""

from typing import Any

import numpy as np

from cochlea_sb.synthetic.waves import (
    CONTROL_STEP,
    HIGHEST_HZ,
    SAMPLE_RATE,
    coloured,
    engine,
    envelope,
    glide,
    grains_of_noise,
    grains_of_tones,
    harmonics,
    in_room,
    log_uniform,
    resonances,
    sigmoid,
    sometimes,
    swell,
    swelling_noise,
    unit,
    wander,
)

SOUNDS_OF_A_SOURCE = 6
SOURCES_VERSION = 1  # part of the cache key; increase it when the sounds change
BANDWIDTHS_HZ = np.array([60.0, 90.0, 150.0, 250.0, 350.0])  # of the formants of a voice
FORMANT_GAINS = np.array([1.0, 0.6, 0.35, 0.25, 0.15])


def random_source(number: int, *, seed: int = 0, n_sounds: int = SOUNDS_OF_A_SOURCE) -> list[np.ndarray]:
    """Compute the sounds of a source. The peak of every sound is 0.7.

    The source depends only on ``number`` and ``seed``: number 0 is a voice, 1 an instrument, 2 a struck body, 3 a
    texture, 4 a call, 5 a voice, and so on.
    """
    kind = (voice, instrument, struck_body, texture, call)[number % 5]
    waves = kind(np.random.default_rng([seed, number]), n_sounds)
    return [(0.7 * wave / max(float(np.abs(wave).max()), 1e-9)).astype(np.float32) for wave in waves]


# ---------------------------------------------------------------- kinds of sources


def voice(rng: np.random.Generator, n_sounds: int) -> list[np.ndarray]:
    """One speaker: the length of the vocal tract, pitch, breathiness and pace stay, the utterances differ.

    The vowels of an utterance are random formants (Peterson and Barney 1952 give their ranges), and the consonants
    bursts of filtered noise.
    """
    tract, median_hz, spread = rng.uniform(0.78, 1.3), log_uniform(rng, 75, 330), rng.uniform(0.03, 0.3)
    tilt_db, breath, rate = rng.uniform(4, 14), log_uniform(rng, 0.003, 0.4), rng.uniform(2.5, 7)
    bandwidths, rough = BANDWIDTHS_HZ * rng.uniform(0.7, 1.8), log_uniform(rng, 0.001, 0.05)
    own = 1 + 0.08 * rng.standard_normal(5)
    gains = FORMANT_GAINS * rng.uniform(0.2, 1.5, 5)
    body = resonances(log_uniform(rng, 200, 6000, 3), log_uniform(rng, 100, 1500, 3), rng.uniform(0.5, 1.5, 3))
    waves = []
    for _ in range(n_sounds):
        n = round(SAMPLE_RATE * rng.uniform(0.7, 1.6))
        t = np.arange(n) / SAMPLE_RATE
        octaves = wander(rng, n, 3, spread) + 0.7 * spread * rng.standard_normal() + wander(rng, n, 40, rough)
        n_vowels = max(1, round(rate * n / SAMPLE_RATE)) + 2
        first = log_uniform(rng, 250, 900, n_vowels)
        second = np.maximum(log_uniform(rng, 700, 2500, n_vowels), 1.25 * first)
        third = np.maximum(rng.uniform(2200, 3000, n_vowels), 1.15 * second)
        targets = np.stack([first, second, third, np.full(n_vowels, 3500.0), np.full(n_vowels, 4500.0)])
        formants = np.stack([glide(row, n) for row in targets * tract * own[:, None]])

        def spectrum(hz: np.ndarray, formants: np.ndarray = formants[:, ::CONTROL_STEP]) -> Any:
            shape = sum(
                gain / (1 + ((hz - formant[:, None]) / width) ** 2)
                for gain, formant, width in zip(gains, formants, bandwidths, strict=True)
            )
            return shape * 10 ** (-tilt_db * np.log2(np.maximum(hz / 100, 1)) / 20) + 1e-4

        voiced = unit(harmonics(rng, median_hz * 2**octaves, spectrum))
        noise = rng.standard_normal(n)
        aspiration = unit(coloured(noise, resonances(formants[:, n // 2], 3 * bandwidths, gains)))
        hiss_hz, hiss_width = tract * log_uniform(rng, 1500, 7000, 2), log_uniform(rng, 300, 2500, 2)
        hiss = unit(coloured(noise, resonances(hiss_hz, hiss_width, rng.uniform(0.3, 1, 2))))
        speaking = sigmoid(6 * (wander(rng, n, 2 * rate, 1.0) + 0.6)) * (t < t[-1] - 0.05)
        consonants = sigmoid(8 * (wander(rng, n, 2 * rate, 1.0) - 0.9))
        wave = (voiced + 2 * breath * aspiration) * speaking + 0.35 * rng.uniform(0.3, 1) * hiss * consonants
        waves.append(coloured(wave, lambda hz: 1 + 0.5 * body(hz)))
    return waves


def instrument(rng: np.random.Generator, n_sounds: int) -> list[np.ndarray]:
    """One instrument: spectrum, resonances, envelope and modulation stay; pitch, force and length differ.

    Its tone is a sum of partials, or frequency modulation (Chowning 1973).
    """
    kind, base_hz = rng.integers(4), log_uniform(rng, 55, 600)
    attack, fall, release = log_uniform(rng, 0.002, 0.25), log_uniform(rng, 0.05, 2.5), log_uniform(rng, 0.03, 0.6)
    sustain = rng.uniform(0, 1) if rng.random() < 0.6 else 0.0
    count = rng.integers(5)
    body = resonances(log_uniform(rng, 150, 6000, count), log_uniform(rng, 80, 1500, count), rng.uniform(0.2, 3, count))
    tilt_db, bright = rng.uniform(2, 16), rng.uniform(0, 1)
    even = sometimes(rng, 0.4, rng.uniform(0, 1), 1.0)  # 0: only odd partials, as in a clarinet
    notch, place = sometimes(rng, 0.4, rng.uniform(0, 1)), rng.uniform(0.05, 0.5)  # where a string is plucked
    stiff = sometimes(rng, 0.4, log_uniform(rng, 1e-5, 2e-3))
    stretch = sometimes(rng, 0.15, rng.uniform(0.9, 1.3), 1.0)
    vibrato, speed_hz = sometimes(rng, 0.5, log_uniform(rng, 0.001, 0.02)), rng.uniform(3, 8)
    tremolo, detuned = sometimes(rng, 0.3, rng.uniform(0, 0.6)), sometimes(rng, 0.4, log_uniform(rng, 0.001, 0.01))
    damping, drive = log_uniform(rng, 0.05, 4), sometimes(rng, 0.25, log_uniform(rng, 0.3, 8))
    noise, noise_fall = sometimes(rng, 0.5, log_uniform(rng, 0.001, 0.5)), log_uniform(rng, 0.01, 1)
    breath = resonances(log_uniform(rng, 300, 6000, 2), log_uniform(rng, 200, 3000, 2), np.ones(2))
    ratio = rng.integers(1, 8) / rng.integers(1, 3)
    index, index_fall = log_uniform(rng, 0.3, 8), log_uniform(rng, 0.05, 2)
    waves = []
    for _ in range(n_sounds):
        n = round(SAMPLE_RATE * rng.uniform(0.6, 1.5))
        t = np.arange(n) / SAMPLE_RATE
        force, hold = rng.uniform(0.5, 1), rng.uniform(0.15, 1.2)
        note_hz = float(np.clip(base_hz * 2 ** rng.uniform(-1, 1), 35, 2500))
        hz = note_hz * 2 ** (vibrato * np.sin(2 * np.pi * (speed_hz * t + rng.random())) * np.minimum(t / 0.3, 1))
        slope_db = tilt_db + 6 * bright * (1 - force)

        def spectrum(
            at_hz: np.ndarray, note_hz: float = note_hz, slope_db: float = slope_db, t: np.ndarray = t[::CONTROL_STEP]
        ) -> Any:
            order = np.arange(1, at_hz.shape[1] + 1)
            level = (1 + body(at_hz)) * 10 ** (-slope_db * np.log2(np.maximum(at_hz / note_hz, 1)) / 20)
            level = level * np.where(order % 2 == 0, even, 1.0) * (1 - notch * np.abs(np.cos(np.pi * order * place)))
            if kind != 1 and sustain < 0.5:
                level = level * np.exp(-t[:, None] * order / (10 * damping))
            return level

        if kind == 2:
            phase = 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE
            wave = coloured(
                np.sin(phase + index * force * np.exp(-t / index_fall) * np.sin(ratio * phase)), lambda hz: 1 + body(hz)
            )
        else:
            wave = harmonics(rng, hz, spectrum, stiff, stretch)
            if detuned:
                wave = wave + harmonics(rng, hz * (1 + detuned), spectrum, stiff, stretch)
        shape = envelope(t, attack, fall, sustain, release, hold)
        wave = unit(wave) * shape * (1 - tremolo * 0.5 * (1 + np.sin(2 * np.pi * speed_hz * t)))
        if noise:
            air = unit(coloured(rng.standard_normal(n), breath))
            wave = wave + noise * air * (np.exp(-t / noise_fall) if kind != 1 else shape)
        waves.append(force * (np.tanh(drive * wave) if drive else wave))
    return waves


def struck_body(rng: np.random.Generator, n_sounds: int) -> list[np.ndarray]:
    """One body: its modes and its noise stay; the place and the force of the strikes differ.

    It may also be struck several times, rattle, or sound in a room.
    """
    count = rng.integers(25)
    modes_hz = log_uniform(rng, 40, 1500) * (1 + np.cumsum(log_uniform(rng, 0.05, 1.5, count)))
    ring = log_uniform(rng, 0.02, 1.2) * log_uniform(rng, 0.5, 2, count)
    dull, strengths = rng.uniform(0, 1), log_uniform(rng, 0.1, 1, count)
    drop, drop_seconds = sometimes(rng, 0.3, rng.uniform(0, 1.5)), log_uniform(rng, 0.01, 0.1)
    noise, noise_fall = log_uniform(rng, 0.02, 3) if count else 1.0, log_uniform(rng, 0.01, 0.8)
    noise_hz, noise_width = log_uniform(rng, 100, 7000, 3), log_uniform(rng, 60, 3000, 3)
    noise_gain = rng.uniform(0.1, 1, 3)
    strikes = int(sometimes(rng, 0.25, rng.integers(1, 5), 1))
    attack, grains = log_uniform(rng, 0.0005, 0.05), sometimes(rng, 0.25, log_uniform(rng, 20, 400))
    room = sometimes(rng, 0.3, log_uniform(rng, 0.05, 0.6))
    waves = []
    for _ in range(n_sounds):
        n = round(SAMPLE_RATE * rng.uniform(0.4, 1.2))
        force, size = rng.uniform(0.3, 1), 2 ** (0.06 * rng.standard_normal())
        wave = np.zeros(n)
        for strike in range(strikes):
            first = int(0.6 * n * strike / strikes * rng.uniform(0.8, 1.2)) if strike else 0
            t = np.arange(n - first) / SAMPLE_RATE
            if count:
                level = strengths * log_uniform(rng, 0.5, 2, count) * np.exp(-modes_hz / 4000 * (1 - force))
                level = level * (modes_hz * size * (1 + drop) < HIGHEST_HZ)
                turns = t[:, None] * size + drop * drop_seconds * (1 - np.exp(-t[:, None] / drop_seconds))
                fading = np.exp(-t[:, None] / ring * (1 + dull * modes_hz / 2000))
                tone = (level * np.sin(2 * np.pi * turns * modes_hz) * fading).sum(1)
                wave[first:] += 0.5 * unit(tone)
            hiss = rng.standard_normal(n - first)
            if grains:
                hiss = hiss * (0.01 + (rng.random(n - first) < grains / SAMPLE_RATE))
            hiss = unit(coloured(hiss, resonances(noise_hz / size, noise_width / size, noise_gain)))
            wave[first:] += noise * force * hiss * np.exp(-t / noise_fall) * np.minimum(t / attack, 1)
        waves.append(in_room(rng, wave, room) if room else wave)
    return waves


def texture(rng: np.random.Generator, n_sounds: int) -> list[np.ndarray]:
    """One to three layers of noise, of an engine's pulses, or of many small events, such as drops, sparks or steps.

    Colours, rates and the lengths of events stay; every sound draws its noise and its events anew.
    """
    makers = (swelling_noise, engine, grains_of_noise, grains_of_tones)
    layers = [(log_uniform(rng, 0.1, 1), makers[rng.integers(4)](rng), swell(rng)) for _ in range(rng.integers(1, 4))]
    room = sometimes(rng, 0.3, log_uniform(rng, 0.05, 0.8))
    waves = []
    for _ in range(n_sounds):
        n = round(SAMPLE_RATE * rng.uniform(0.8, 1.6))
        wave = sum(gain * unit(layer(rng, n) * level(rng, n)) for gain, layer, level in layers)
        waves.append(in_room(rng, wave, room) if room else wave)
    return waves


def call(rng: np.random.Generator, n_sounds: int) -> list[np.ndarray]:
    """An animal's call, an alarm, or an effect of a game: a curve of pitch and level, which each sound bends."""
    points, base_hz, steps = int(rng.integers(2, 7)), log_uniform(rng, 80, 3000), rng.random() < 0.35
    melody = np.cumsum(rng.standard_normal(points)) * rng.uniform(0.05, 0.9)  # in octaves
    levels = rng.uniform(0, 1, points) ** 2
    repeats, gap = int(sometimes(rng, 0.5, rng.integers(2, 8), 1)), rng.uniform(0, 0.6)
    seconds = log_uniform(rng, 0.05, 1.2) / repeats**0.5
    tilt_db, even = rng.uniform(0, 16), sometimes(rng, 0.3, rng.uniform(0, 1), 1.0)
    rough, hiss = log_uniform(rng, 0.0005, 0.05), sometimes(rng, 0.5, log_uniform(rng, 0.01, 1.5))
    count, width = rng.integers(4), log_uniform(rng, 0.1, 1.5)
    body = resonances(
        log_uniform(rng, 300, 6000, count), log_uniform(rng, 100, 1500, count), rng.uniform(0.3, 4, count)
    )
    vibrato, speed_hz = sometimes(rng, 0.4, log_uniform(rng, 0.005, 0.15)), log_uniform(rng, 4, 40)
    growl, growl_hz = sometimes(rng, 0.3, rng.uniform(0.2, 1)), log_uniform(rng, 15, 120)
    drive, fall = sometimes(rng, 0.3, log_uniform(rng, 0.5, 10)), log_uniform(rng, 0.1, 3)
    waves = []
    for _ in range(n_sounds):
        bent = melody + 0.15 * rng.standard_normal(points) + 0.25 * rng.standard_normal()
        pieces: list[np.ndarray] = []
        for _ in range(repeats):
            n = max(400, round(SAMPLE_RATE * seconds * 2 ** (0.25 * rng.standard_normal())))
            t = np.arange(n) / SAMPLE_RATE
            curve = bent + 0.03 * rng.standard_normal(points)
            octaves = curve[np.minimum(np.arange(n) * points // n, points - 1)] if steps else glide(curve, n)
            octaves = octaves + vibrato * np.sin(2 * np.pi * speed_hz * t) + wander(rng, n, 60, rough)
            hz = np.clip(base_hz * 2**octaves, 40, 6000)
            mean_hz = float(hz.mean())

            def spectrum(at_hz: np.ndarray, mean_hz: float = mean_hz) -> Any:
                order = np.arange(1, at_hz.shape[1] + 1)
                tilt = 10 ** (-tilt_db * np.log2(np.maximum(at_hz / mean_hz, 1)) / 20)
                return (1 + body(at_hz)) * tilt * np.where(order % 2 == 0, even, 1.0)

            wave = unit(harmonics(rng, hz, spectrum))
            if hiss:
                centre = np.array([min(2 * mean_hz, 5000.0)])
                air = resonances(centre, np.array([width * mean_hz]), np.ones(1))
                wave = wave + hiss * unit(coloured(rng.standard_normal(n), air))
            ends = np.minimum(t / 0.004, 1) * np.minimum((t[-1] - t) / 0.01, 1)
            wave = wave * np.maximum(glide(levels, n), 0.02) * ends * np.exp(-t / fall)
            wave = wave * (1 - growl * 0.5 * (1 + np.sin(2 * np.pi * growl_hz * t)))
            pieces += [wave, np.zeros(int(gap * n * rng.uniform(0.8, 1.2)))]
        wave = np.concatenate(pieces)[: round(1.6 * SAMPLE_RATE)]
        waves.append(np.tanh(drive * wave) if drive else wave)
    return waves
