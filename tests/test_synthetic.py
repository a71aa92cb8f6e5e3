"""The synthetic library: its sounds are valid, depend on the seed alone, and do what they claim."""

import collections
import csv
import doctest
import io

import datasets
import numpy as np
import pytest
import soundfile
import torch

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.data.source_frames import source_frames
from cochlea_sb.errors import UserError
from cochlea_sb.features import LogMel
from cochlea_sb.synthetic import instruments
from cochlea_sb.synthetic import library as synthetic
from cochlea_sb.synthetic.instruments import Voice
from cochlea_sb.synthetic.library import CLASSES, library_rows, synthesise, synthetic_library, write_library
from cochlea_sb.synthetic.sources import SOUNDS_OF_A_SOURCE, random_source

RATE = 16000
VOICES = [Voice(pitch, timbre, 0.5) for pitch in (0.0, 0.4, 1.0) for timbre in (0.0, 1.0)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def library(cache):
    return synthetic_library(4, seed=3, cache_dir=cache)


def band_share(wave, low_hz, high_hz):
    """Share of the energy that lies between two frequencies."""
    power = np.abs(np.fft.rfft(wave)) ** 2
    hz = np.fft.rfftfreq(len(wave), 1 / RATE)
    return power[(hz >= low_hz) & (hz <= high_hz)].sum() / power.sum()


def peak_hz(wave):
    return np.argmax(np.abs(np.fft.rfft(wave, 1 << 17))) * RATE / (1 << 17)


def pitch_hz(wave, low_hz, high_hz):
    """Where the autocorrelation peaks, refined by a parabola."""
    lags = np.fft.irfft(np.abs(np.fft.rfft(wave, 2 * len(wave))) ** 2)
    first = int(RATE / high_hz)
    best = first + np.argmax(lags[first : int(RATE / low_hz) + 2])
    left, middle, right = lags[best - 1 : best + 2]
    return RATE / (best + 0.5 * (left - right) / (left - 2 * middle + right))


def centroids_hz(wave):
    """Centroid of the spectrum of each 25 ms."""
    power = np.abs(np.fft.rfft(wave[: len(wave) // 400 * 400].reshape(-1, 400) * np.hanning(400))) ** 2
    return power @ np.fft.rfftfreq(400, 1 / RATE) / power.sum(1)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_makes_valid_and_different_sounds(name):
    for rate in (16000, 44100):
        takes = [synthesise(name, take, 0, rate) for take in range(4)]
        for wave in takes:
            assert np.isfinite(wave).all()
            assert 0.1 * rate <= len(wave) <= 5 * rate
            assert 10 ** (-30.1 / 20) < np.abs(wave).max() <= 1
            assert abs(wave.mean()) < 1e-6
        for one in range(4):
            for other in range(one):
                shortest = min(len(takes[one]), len(takes[other]))
                similarity = np.corrcoef(takes[one][:shortest], takes[other][:shortest])[0, 1]
                assert abs(similarity) < 0.9, "two takes are nearly the same"


def test_hats_are_shorter_than_a_window():
    assert max(len(synthesise("hat", take)) for take in range(100)) < 0.96 * RATE


def test_levels_and_lengths_vary():
    takes = [synthesise("bowed_string", take) for take in range(20)]
    assert np.ptp([20 * np.log10(np.abs(wave).max()) for wave in takes]) > 10
    assert max(map(len, takes)) > 2 * min(map(len, takes))


def test_columns_and_paths(library):
    assert library.column_names == ["audio", "label", "source", "fold"]
    assert library.features["audio"] == datasets.Audio(decode=False)
    assert len(library) == 4 * len(CLASSES)
    assert set(library["label"]) == set(CLASSES)
    for row in library:
        assert row["audio"]["path"].startswith(f"{row['label']}/{row['label']}_")
    assert len({row["audio"]["path"] for row in library}) == len(library)
    assert len({row["audio"]["bytes"] for row in library}) == len(library)


def test_wav_bytes_decode_to_the_same_samples(library):
    for row in list(library)[::7]:
        name, take = row["label"], int(row["audio"]["path"][-7:-4])
        samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="int16")
        assert rate == RATE
        np.testing.assert_array_equal(samples, np.round(synthesise(name, take, seed=3) * 32767))


def test_a_sound_does_not_depend_on_how_many_are_made(library, cache):
    fewer = {row["audio"]["path"]: row for row in synthetic_library(2, seed=3, cache_dir=cache)}
    more = {row["audio"]["path"]: row for row in library}
    assert len(fewer) == 2 * len(CLASSES)
    assert all(more[path] == row for path, row in fewer.items())


def test_processes_do_not_change_the_sounds(library, tmp_path):
    parallel = synthetic_library(4, seed=3, num_proc=2, cache_dir=tmp_path)
    assert parallel._fingerprint == library._fingerprint
    assert list(parallel) == list(library)


def test_the_second_call_comes_from_the_cache(library, cache, monkeypatch):
    def never(*arguments):
        raise RuntimeError("generated again")

    monkeypatch.setattr(synthetic, "synthesise", never)
    again = synthetic_library(4, seed=3, cache_dir=cache)
    assert again.cache_files == library.cache_files
    assert again._fingerprint == library._fingerprint


def test_the_cache_knows_every_argument_and_the_version(library, cache, monkeypatch):
    fingerprints = {
        library._fingerprint,
        synthetic_library(2, seed=3, cache_dir=cache)._fingerprint,
        synthetic_library(2, seed=4, cache_dir=cache)._fingerprint,
        synthetic_library(2, seed=3, sample_rate=22050, cache_dir=cache)._fingerprint,
    }
    monkeypatch.setattr(synthetic, "GENERATOR_VERSION", 0)
    fingerprints.add(synthetic_library(2, seed=3, cache_dir=cache)._fingerprint)
    assert len(fingerprints) == 5


def test_seeds_and_classes_give_other_sounds():
    assert not np.array_equal(synthesise("kick", 0, seed=0), synthesise("kick", 0, seed=1))
    assert not np.array_equal(synthesise("rising_chirp", 0), synthesise("falling_chirp", 0)[::-1])


def test_folds_are_balanced_and_split_no_source(monkeypatch):
    monkeypatch.setattr(synthetic, "synthesise", lambda *arguments: np.zeros(10))
    rows = list(library_rows([(name, take) for name in CLASSES for take in range(20)], 0, RATE))
    counts = collections.Counter((row["label"], row["fold"]) for row in rows)
    assert counts == {(name, fold): 4 for name in CLASSES for fold in range(1, 6)}
    sources = collections.defaultdict(set)
    for row in rows:
        sources[row["source"]].add((row["fold"], row["label"]))
    assert len(sources) == 10 * len(CLASSES)
    assert all(len(folds) == 1 for folds in sources.values())


def test_takes_of_one_source_sound_alike():
    # The pitch of two takes of a source lies closer together than that of any two takes.
    pitches = np.log2([peak_hz(synthesise("cricket", take)) for take in range(40)])
    within = np.abs(pitches[0::2] - pitches[1::2]).mean()
    across = np.abs(pitches[:, None] - pitches).sum() / (40 * 39)
    assert within < 0.6 * across


@pytest.mark.parametrize("voice", VOICES)
def test_plucked_string_is_in_tune(voice):
    wave = instruments.plucked_string(np.random.default_rng(0), RATE, voice)
    expected_hz = voice.hz(*instruments.PLUCK_HZ)
    assert pitch_hz(wave, 0.7 * expected_hz, 1.4 * expected_hz) == pytest.approx(expected_hz, rel=0.005)


@pytest.mark.parametrize("voice", VOICES)
def test_chirps_go_up_and_down(voice):
    octaves = voice.tone(1.0, 2.5)
    for direction in (1, -1):
        wave = instruments.chirp(np.random.default_rng(0), RATE, voice, direction)
        hz = centroids_hz(wave)[1:-1]
        assert (direction * np.diff(hz) > 0).mean() > 0.95
        assert 0.7 * octaves < direction * np.log2(hz[-1] / hz[0]) < 1.1 * octaves


@pytest.mark.parametrize("voice", VOICES)
def test_kicks_are_low_and_hats_are_high(voice):
    rng = np.random.default_rng(0)
    assert band_share(instruments.kick(rng, RATE, voice), 0, 200) > 0.9
    assert band_share(instruments.hat(rng, RATE, voice), 3000, 8000) > 0.95


@pytest.mark.parametrize("voice", VOICES)
def test_vowels_have_their_formants(voice):
    def front_share(formants_hz):
        wave = instruments.vowel(np.random.default_rng(0), RATE, voice, formants_hz)
        return band_share(wave, 1900, 4500) / band_share(wave, 550, 1500)

    assert front_share(instruments.EE_HZ) > 3 * front_share(instruments.AH_HZ)


@pytest.mark.parametrize("voice", VOICES)
def test_crickets_are_pure_and_birds_whistle(voice):
    rng = np.random.default_rng(0)
    cricket_hz = peak_hz(instruments.cricket(rng, RATE, voice))
    assert cricket_hz == pytest.approx(voice.hz(3400.0, 5200.0), rel=0.02)
    assert band_share(instruments.bird(rng, RATE, voice), 1500, 7900) > 0.9


def test_repeated_plays_a_hit_several_times_in_tempo():
    def impulse(rng, sample_rate, voice):
        return np.ones(1)

    voice = Voice(0.5, 0.5, 1.0)
    track = synthetic.repeated(impulse, 3, 3, 1.0, 0.25, jitter=0.0)(np.random.default_rng(0), RATE, voice)
    np.testing.assert_array_equal(np.flatnonzero(track), [0, 4000, 8000])
    crowded = synthetic.repeated(impulse, 9, 9, 1.0, 1.0)(np.random.default_rng(0), RATE, voice)
    assert len(crowded) <= synthetic.LONGEST_SECONDS * RATE


def test_tilt_changes_each_octave_by_the_same_and_not_its_input():
    t = np.arange(RATE) / RATE
    for hz in (500, 1000, 4000):
        wave = np.sin(2 * np.pi * hz * t)
        copy = wave.copy()
        tilted = synthetic.tilt(wave, 3.0, RATE)[2000:-2000]
        expected_db = 3.0 * np.log2(hz / 1000)
        assert 20 * np.log10(np.std(tilted) / np.std(wave)) == pytest.approx(expected_db, abs=0.1)
        np.testing.assert_array_equal(wave, copy)
    np.testing.assert_allclose(synthetic.tilt(wave, 0.0, RATE), wave, atol=1e-9)


def test_write_library_writes_the_same_sounds(library, tmp_path):
    write_library(tmp_path / "sounds", 2, seed=3)
    with open(tmp_path / "sounds" / "metadata.csv", newline="") as file:
        table = list(csv.DictReader(file))
    made = {row["audio"]["path"]: row for row in library}
    assert len(table) == 2 * len(CLASSES)
    for line in table:
        row = made[line["file_name"]]
        assert (tmp_path / "sounds" / line["file_name"]).read_bytes() == row["audio"]["bytes"]
        assert (line["label"], line["source"], int(line["fold"])) == (row["label"], row["source"], row["fold"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"sounds_per_class": 1},
        {"sounds_per_class": 4.5},
        {"sounds_per_class": 4, "seed": -1},
        {"sounds_per_class": 4, "sample_rate": 8000},
        {"sounds_per_class": 4, "sample_rate": 96000},
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, tmp_path):
    wrong = list(arguments)[-1]
    for call in (synthetic_library, lambda **given: write_library(tmp_path, **given)):
        with pytest.raises(UserError, match=rf"^{wrong} is .*; give a whole number from .*\.$"):
            call(**arguments)


@pytest.mark.parametrize("module", [instruments, synthetic])
def test_examples_in_docstrings(module):
    tried = doctest.testmod(module)
    assert tried.attempted > 0 and tried.failed == 0


def test_random_sources_sound_alike_and_differ_from_each_other(tmp_path):
    for number in range(3):
        waves = random_source(number, n_sounds=2)
        for wave, other in zip(waves, random_source(number, n_sounds=2), strict=True):
            np.testing.assert_array_equal(wave, other)
            assert wave.dtype == np.float32 and np.isfinite(wave).all() and abs(np.abs(wave).max() - 0.7) < 1e-3
            assert len(wave) <= 1.6 * RATE
        assert not np.array_equal(waves[0], waves[1])
    frames = source_frames(LogMel(), 4, num_proc=2, cache_folder=tmp_path)
    assert frames["source"] == [row // SOUNDS_OF_A_SOURCE for row in range(4 * SOUNDS_OF_A_SOURCE)]
    bank = FrameBank.from_dataset(frames, LogMel())
    twins = FrameBank.from_waveforms([wave for number in range(4) for wave in random_source(number)], LogMel())
    assert torch.equal(bank.lengths, twins.lengths)
    torch.testing.assert_close(bank.frames.float(), twins.frames, atol=0.01, rtol=0.001)
    with pytest.raises(UserError, match="sample_rate is 8000: synthetic sources have 16000; set n_sources to 0"):
        source_frames(LogMel(sample_rate=8000, high_hz=3900), 1)
