"""The synthetic library: a small corpus that is computed, so that everything runs without a download.

A sound is a rhythm of an instrument (`cochlea_sb.synthetic.instruments`) with reverberation, background noise and the
filter of a microphone. Inside a class, the pitch, tempo, start, loudness, room and noise differ, so that a comparison
of spectrograms fails. Each sound depends only on the seed, the sample rate, the class and the number of the take.
"""

import csv
import functools
import io
import numbers
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import soundfile
from datasets.fingerprint import Hasher
from scipy import fft, signal

from cochlea_sb.errors import UserError
from cochlea_sb.synthetic import instruments
from cochlea_sb.synthetic.instruments import Voice, clock, decay

GENERATOR_VERSION = 1  # increase it when any sound changes; otherwise the cache returns the old sounds
LONGEST_SECONDS = 4.0
TAKES_PER_SOURCE = 2
FOLDS = 5
# `synthetic_library` casts to `datasets.Audio` afterwards, because `datasets` needs torchcodec to write that type.
FEATURES = datasets.Features(
    audio={"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
    label=datasets.Value("string"),
    source=datasets.Value("string"),
    fold=datasets.Value("int64"),
)


def synthetic_library(
    sounds_per_class: int = 40,
    *,
    seed: int = 0,
    sample_rate: int = 16000,
    num_proc: int | None = None,
    cache_dir: str | Path | None = None,
) -> datasets.Dataset:
    """Compute the library, or load it from the cache of `datasets`.

    Arguments
    ---------
    sounds_per_class : int, 2 to 100,000, number of takes of each class; a multiple of 10 gives folds of equal size
    seed : int, at least 0
    sample_rate : int, Hz, 16,000 to 48,000
    num_proc : int, number of processes, which does not change the sounds
    cache_dir : str or Path, by default the cache folder of `datasets`

    Returns
    -------
    datasets.Dataset
        ``audio`` (undecoded: ``bytes`` of a 16-bit WAV file, and a ``path`` such as "kick/kick_003.wav"), ``label``
        (str), ``source`` (str, the same for two takes with the same room and a similar voice), and ``fold`` (int, 1 to
        5, the same for both takes of a source).

    Raises
    ------
    UserError
        If an argument is out of range.
    """
    check_arguments(sounds_per_class, seed, sample_rate)
    takes = [(name, take) for name in CLASSES for take in range(sounds_per_class)]
    library = datasets.Dataset.from_generator(
        library_rows,
        features=FEATURES,
        cache_dir=None if cache_dir is None else str(cache_dir),
        gen_kwargs={"takes": takes, "seed": seed, "sample_rate": sample_rate},
        num_proc=num_proc,
        fingerprint=Hasher.hash([GENERATOR_VERSION, sounds_per_class, seed, sample_rate]),
    )
    return library.cast_column("audio", datasets.Audio(decode=False))


def write_library(folder, sounds_per_class=40, *, seed=0, sample_rate=16000):
    """Write the sounds of `synthetic_library` as WAV files in ``folder``, with a ``metadata.csv`` for `load_sounds`.

    The other arguments and the errors are as in `synthetic_library`. Files with the same names are replaced.
    """
    check_arguments(sounds_per_class, seed, sample_rate)
    takes = [(name, take) for name in CLASSES for take in range(sounds_per_class)]
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder, "metadata.csv"), "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "label", "source", "fold"])
        for row in library_rows(takes, seed, sample_rate):
            path = Path(folder, row["audio"]["path"])
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(row["audio"]["bytes"])
            table.writerow([row["audio"]["path"], row["label"], row["source"], row["fold"]])


def check_arguments(sounds_per_class, seed, sample_rate):
    limits = {
        "sounds_per_class": (sounds_per_class, 2, 100_000),  # a sound needs another sound of its class
        "seed": (seed, 0, 2**63 - 1),
        "sample_rate": (sample_rate, 16_000, 48_000),  # at lower rates, the highest sounds would alias
    }
    for name, (value, low, high) in limits.items():
        if not isinstance(value, numbers.Integral) or not low <= value <= high:
            raise UserError(f"{name} is {value!r}; give a whole number from {low} to {high}.")


def library_rows(takes, seed, sample_rate):
    """Yield a row for each (class, number) in ``takes``. `datasets` splits this list between its processes."""
    for name, take in takes:
        source = take // TAKES_PER_SOURCE
        yield {
            "audio": {
                "bytes": wav_bytes(synthesise(name, take, seed, sample_rate), sample_rate),
                "path": f"{name}/{name}_{take:03d}.wav",
            },
            "label": name,
            "source": f"{name}_{source:03d}",
            "fold": source % FOLDS + 1,
        }


def synthesise(name, take, seed=0, sample_rate=16000):
    """Return take ``take`` (at least 0) of a class ``name`` in `CLASSES`, as float64 [samples] in [-1, 1].

    The sound is 0.1 to 5 s long and has no DC.

    Example
    -------
    >>> synthesise("kick", take=3).shape
    (6915,)
    """
    class_index = list(CLASSES).index(name)
    # The last 1 gives a source another random stream than the take of the same number.
    source_rng = np.random.default_rng([seed, class_index, take // TAKES_PER_SOURCE, 1])
    rng = np.random.default_rng([seed, class_index, take])
    voice, place = Voice(*source_rng.uniform(0.1, 0.9, 3)), draw_place(source_rng, sample_rate)
    voice = Voice(*np.clip(np.array(voice) + rng.normal(0.0, 0.05, 3), 0.0, 1.0))
    return record(CLASSES[name](rng, sample_rate, voice), place, rng, sample_rate)


class Place(NamedTuple):
    """The room, the microphone and the background noise of a source."""

    echo: np.ndarray  # impulse response of the room, [samples]
    tilt_db_per_octave: float  # frequency response of the microphone
    noise_db: float  # 20 * log10(root mean square of the noise / peak of the sound)
    noise_db_per_octave: float  # 0 is white noise, -3 is pink noise


def draw_place(rng, sample_rate):
    """Draw the properties of a place. Its reverberation time is 0.1 to 0.7 s."""
    t = clock(rng.uniform(0.1, 0.7), sample_rate)
    echo = rng.standard_normal(len(t)) * decay(t, t[-1])
    echo *= 10 ** (rng.uniform(-25.0, -5.0) / 20) / np.linalg.norm(echo)
    echo[0] = 1.0
    return Place(echo, rng.uniform(-2.5, 2.5), rng.uniform(-66.0, -46.0), rng.uniform(-6.0, 0.0))


def record(dry, place, rng, sample_rate):
    """Delay a waveform, add reverberation and noise, filter it, remove DC and set the peak."""
    # As in real collections, most sounds start early and are loud, but some start late or are quiet.
    late, tail = min(rng.exponential(0.12), 0.4), rng.uniform(0.02, 0.2)
    level_db = -min(rng.exponential(6.0), 30.0)
    wave = np.pad(dry, (round(late * sample_rate), round(tail * sample_rate)))
    wave = signal.fftconvolve(wave, place.echo)[: len(wave)]
    wave = tilt(wave, place.tilt_db_per_octave, sample_rate)
    noise = tilt(rng.standard_normal(len(wave)), place.noise_db_per_octave, sample_rate)
    wave = wave / np.abs(wave).max() + 10 ** (place.noise_db / 20) * noise / np.std(noise)
    wave = wave * instruments.swell(np.arange(len(wave)) / sample_rate, 0.002, 0.005)
    wave -= wave.mean()
    return 10 ** (level_db / 20) * wave / np.abs(wave).max()


def tilt(wave, db_per_octave, sample_rate):
    """Filter with a gain of ``db_per_octave * log2(hz / 1000)`` in dB, constant below 50 Hz."""
    padded = fft.next_fast_len(len(wave) + sample_rate // 20, real=True)  # stops the end leaking into the start
    octaves = np.log2(np.maximum(fft.rfftfreq(padded, 1 / sample_rate), 50.0) / 1000.0)
    return fft.irfft(fft.rfft(wave, padded) * 10 ** (db_per_octave * octaves / 20), padded)[: len(wave)]


def wav_bytes(wave, sample_rate):
    """Return a 16-bit WAV file of a waveform [samples], float in [-1, 1]."""
    file = io.BytesIO()
    soundfile.write(file, np.round(wave * 32767).astype(np.int16), sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def repeated(play, fewest, most, slow_seconds, fast_seconds, jitter=0.08):
    """Return a synthesiser that plays ``play`` ``fewest`` to ``most`` times, with random amplitudes.

    The tempo of the voice selects the mean time between onsets, and ``jitter`` is the relative standard deviation of
    that time. Events that would end after `LONGEST_SECONDS` are left out.
    """

    def play_repeatedly(rng, sample_rate, voice):
        gaps = voice.gap(slow_seconds, fast_seconds) * rng.normal(1.0, jitter, rng.integers(fewest, most + 1) - 1)
        track, end = np.zeros(round(LONGEST_SECONDS * sample_rate)), 0
        for onset in np.append(0.0, np.cumsum(np.abs(gaps))):
            hit = play(rng, sample_rate, voice) * rng.uniform(0.5, 1.0)
            start = round(onset * sample_rate)
            if start + len(hit) <= len(track):
                track[start : start + len(hit)] += hit
                end = max(end, start + len(hit))
        return track[:end]

    return play_repeatedly


# Each value is a function (rng, sample_rate, voice) that returns float [samples]. Add new classes at the end, because
# the position of a class in this dict is part of the random seed of its sounds.
CLASSES = {
    "plucked_string": repeated(instruments.plucked_string, 1, 4, 0.8, 0.2),
    "bowed_string": instruments.bowed_string,
    "bell": repeated(instruments.bell, 1, 4, 1.2, 0.35, jitter=0.02),
    "flute": instruments.flute,
    "brass": repeated(instruments.brass, 1, 4, 1.1, 0.4),
    "kick": instruments.kick,
    "tom": instruments.tom,
    "snare": repeated(instruments.snare, 1, 5, 0.4, 0.07),
    "hat": instruments.hat,
    "clap": repeated(instruments.clap, 1, 6, 0.7, 0.2),
    "cowbell": repeated(instruments.cowbell, 1, 5, 0.6, 0.15, jitter=0.03),
    "wind": instruments.wind,
    "rain": instruments.rain,
    "rising_chirp": repeated(functools.partial(instruments.chirp, direction=1), 1, 3, 1.8, 0.45),
    "falling_chirp": repeated(functools.partial(instruments.chirp, direction=-1), 1, 3, 1.8, 0.45),
    "vowel_ah": repeated(functools.partial(instruments.vowel, formants_hz=instruments.AH_HZ), 1, 3, 1.3, 0.5),
    "vowel_ee": repeated(functools.partial(instruments.vowel, formants_hz=instruments.EE_HZ), 1, 3, 1.3, 0.5),
    "engine": instruments.engine,
    "bird": repeated(instruments.bird, 3, 12, 0.35, 0.1, jitter=0.15),
    "cricket": repeated(instruments.cricket, 2, 8, 0.7, 0.3, jitter=0.03),
    "water_drops": repeated(instruments.water_drops, 2, 9, 0.6, 0.12, jitter=0.5),
    "footsteps": repeated(instruments.footsteps, 2, 7, 0.9, 0.3, jitter=0.06),
    "glass_break": instruments.glass_break,
    "telephone": repeated(instruments.telephone, 1, 2, 2.0, 1.3, jitter=0.02),
    "crackle": instruments.crackle,
}
