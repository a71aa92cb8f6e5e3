"""Each deformation of waveforms: its claim on real signals, identity, its input untouched, its mel counterpart."""

import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from waveforms import (
    add_noise,
    equalize,
    mix,
    resize_frequencies,
    running_median,
    shift_pitch,
    shift_time,
    split_sudden,
    stretch,
)

from cochlea_sb.augment import deformation as deformations
from cochlea_sb.augment.combined import Composition, OneKindPerBatch
from cochlea_sb.augment.energies import energies_from_log_mel, log_mel_from_energies
from cochlea_sb.augment.equalization import Equalization
from cochlea_sb.augment.frequency_resize import FrequencyResize
from cochlea_sb.augment.gaussian_noise import GaussianNoise
from cochlea_sb.augment.mixture import Mixture
from cochlea_sb.augment.pitch_shift import PitchShift
from cochlea_sb.augment.time_stretch import TimeStretch
from cochlea_sb.augment.translation import Translation
from cochlea_sb.features import LogMel, hz_to_mel, mel_edges, mel_to_hz
from cochlea_sb.synthetic.library import synthesise

ROOT = Path(__file__).parent.parent
RATE = 16000
OTHER = torch.randn(7000, generator=torch.Generator().manual_seed(7))
ALL = {
    "noise": lambda wav: add_noise(wav, 10.0, torch.Generator().manual_seed(0)),
    "mix": lambda wav: mix(wav, OTHER, 0.5),
    "shift": lambda wav: shift_time(wav, 0.1),
    "equalize": lambda wav: equalize(wav, [-12, 3, 0, 8, -5]),
    "stretch": lambda wav: stretch(wav, 1.2),
    "pitch": lambda wav: shift_pitch(wav, 3),
    "resize": lambda wav: resize_frequencies(wav, 0.8, 2.5),
}
IDENTITIES = {
    "noise": lambda wav: add_noise(wav, 300.0),
    "mix": lambda wav: mix(wav, OTHER, 0),
    "shift": lambda wav: shift_time(wav, 0),
    "equalize": lambda wav: equalize(wav, [0] * 5),
    "stretch": lambda wav: stretch(wav, 1),
    "pitch": lambda wav: shift_pitch(wav, 0),
    "resize": lambda wav: resize_frequencies(wav, 1, 0),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Of tensors as small as these, two threads on a busy machine made minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tone(hz, seconds=2.0, rate=RATE):
    return 0.5 * torch.sin(2 * math.pi * hz * torch.arange(int(seconds * rate), dtype=torch.float64) / rate).float()


def noise(seconds=2.0, seed=0):
    return 0.1 * torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def clicks(first, spacing, samples=2 * RATE):
    wav = torch.zeros(samples)
    wav[first::spacing] = 1.0
    return wav


def sound(name):
    return torch.from_numpy(synthesise(name, take=1)).float()


def energy(wav):
    return float(wav.double().square().sum())


def decibels(ratio):
    return 10 * math.log10(ratio)


def pitch_of(wav, rate=RATE):
    """Frequency of the highest peak of the spectrum, in Hz, and its share of the energy within 10 Hz."""
    edge = len(wav) // 8
    inner = wav[edge:-edge] * torch.hann_window(len(wav) - 2 * edge)
    power = torch.fft.rfft(inner.double(), 8 * len(inner)).abs().square()
    hz = torch.arange(len(power)) * rate / (8 * len(inner))
    top = float(hz[power.argmax()])
    return top, float(power[(hz - top).abs() < 10].sum() / power.sum())


def share_near(wav, first, spacing, reach):
    """Share of the energy within ``reach`` samples of a train of clicks."""
    positions = torch.arange(len(wav))
    distance = ((positions - first + spacing / 2) % spacing - spacing / 2).abs()
    return energy(wav[distance <= reach]) / energy(wav)


def band_hz(band):
    """Frequency of a (fractional) band of the default front end."""
    low, high = hz_to_mel(mel_edges(64, 60.0, 7800.0)[[1, -2]])
    return float(mel_to_hz(low + (high - low) * band / 63))


@pytest.mark.parametrize("name", ALL)
def test_input_is_not_changed_and_the_shape_is_kept(name):
    wav = noise(1)
    before = wav.clone()
    after = ALL[name](wav)
    assert torch.equal(wav, before)
    assert after.dtype == torch.float32 and after.ndim == 1 and after.isfinite().all()
    assert len(after) == (round(len(wav) / 1.2) if name == "stretch" else len(wav))
    assert not torch.equal(after[:1000], wav[:1000])


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_at_zero_strength(name):
    wav = torch.stack([noise(1), tone(300, 1), clicks(100, 1600, RATE)])
    torch.testing.assert_close(IDENTITIES[name](wav), wav, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_is_its_sounds_one_by_one(name):
    wavs = torch.stack([noise(1), tone(300, 1) + clicks(100, 1600, RATE), sound("engine")[:RATE]])
    if name == "noise":
        batch, single = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
        torch.testing.assert_close(
            add_noise(wavs, 5, batch), torch.stack([add_noise(wav, 5, single) for wav in wavs]), atol=1e-6, rtol=0
        )
    else:
        one_by_one = torch.stack([ALL[name](wav) for wav in wavs])
        torch.testing.assert_close(ALL[name](wavs), one_by_one, atol=1e-4, rtol=0)
    assert ALL[name](wavs.T.contiguous().T).shape == ALL[name](wavs).shape


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("samples", [1, 2, 3, 40, 401])
def test_short_and_silent_sounds(name, samples):
    assert ALL[name](torch.randn(2, samples)).isfinite().all()
    silent = ALL[name](torch.zeros(samples))
    assert torch.equal(silent, torch.zeros_like(silent))


@pytest.mark.parametrize("samples, rate", [(1, 10), (1, 0.1), (999, 0.7), (16000, 1.5), (16001, 1 / 1.5), (100, 3.7)])
def test_a_stretch_has_the_length_of_its_rate(samples, rate):
    assert len(stretch(torch.randn(samples), rate)) == max(1, round(samples / rate))


@pytest.mark.parametrize("snr_db", [-10, 0, 20, 40])
def test_noise_has_its_ratio_and_is_white(snr_db):
    wav = tone(1000)
    added = add_noise(wav, snr_db, torch.Generator().manual_seed(0)) - wav
    assert decibels(energy(wav) / energy(added)) == pytest.approx(snr_db, abs=0.2)
    halves = torch.fft.rfft(added).abs().square().chunk(2)
    assert decibels(float(halves[0].sum() / halves[1].sum())) == pytest.approx(0, abs=0.3)


def test_noise_is_repeatable_and_fresh_for_each_sound():
    wavs = tone(1000).expand(3, -1)
    first, again = (add_noise(wavs, 0, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, again)
    assert len(torch.unique(first, dim=0)) == 3
    assert not torch.equal(add_noise(wavs, 0), add_noise(wavs, 0))


@pytest.mark.parametrize("other", [OTHER, noise(5), torch.stack([noise(0.3, 1), noise(0.3, 2)])], ids=len)
@pytest.mark.parametrize("ratio", [0.1, 1.0, 2.0])
def test_a_mixture_has_its_ratio(other, ratio):
    wavs = torch.stack([tone(300), 0.01 * tone(700)])
    added = mix(wavs, other, ratio) - wavs
    for own, theirs in zip(wavs, added, strict=True):
        assert energy(theirs) / energy(own) == pytest.approx(ratio, rel=1e-3)
    length = min(other.shape[-1], wavs.shape[1])
    pair = torch.stack([added[0, :length], other.reshape(-1, other.shape[-1])[0, :length]])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.999


def test_a_shift_in_time_is_circular():
    wav = clicks(100, 10**6, RATE)
    assert int(shift_time(wav, 0.25).argmax()) == 4100
    assert int(shift_time(wav, -0.25).argmax()) == RATE - 3900
    assert int(shift_time(wav, 0.25, 8000).argmax()) == 2100


def test_an_equalizer_has_its_gains_at_the_knots_and_no_delay():
    gains_db = [-12.0, 6.0, -3.0, 9.0, -20.0]
    for knot, gain_db in enumerate(gains_db):
        wav = tone(band_hz(63 * knot / 4))
        ratio = energy(equalize(wav, gains_db)[4000:-4000]) / energy(wav[4000:-4000])
        assert decibels(ratio) == pytest.approx(gain_db, abs=0.2)
    between = tone(band_hz(63 * 2.5 / 4))
    assert decibels(energy(equalize(between, gains_db)) / energy(between)) == pytest.approx(3, abs=0.3)
    response = equalize(clicks(8000, 10**6, 16001), gains_db)
    torch.testing.assert_close(response, response.flip(0), atol=1e-6, rtol=0)  # zero phase
    assert int(response.abs().argmax()) == 8000


def test_an_equalizer_does_not_leak_around_the_ends():
    response = equalize(clicks(15990, 10**6, RATE), [30, -30, 30, -30, 30])
    assert energy(response[:8000]) < 1e-6 * energy(response)


@pytest.mark.parametrize("hz", [110, 443, 1234.5, 3000])
@pytest.mark.parametrize("semitones", [-12, -4, 0.5, 4])
def test_a_shifted_sine_has_the_shifted_frequency(hz, semitones):
    shifted = shift_pitch(tone(hz), semitones)
    top, purity = pitch_of(shifted)
    assert top == pytest.approx(hz * 2 ** (semitones / 12), abs=0.3)
    assert purity > 0.999
    assert decibels(energy(shifted) / energy(tone(hz))) == pytest.approx(0, abs=0.3)


def test_pitch_at_another_sample_rate():
    assert pitch_of(shift_pitch(tone(1000, rate=44100), 7, 44100), 44100)[0] == pytest.approx(1498.3, abs=0.5)


@pytest.mark.parametrize("hz", [110, 443, 3000])
@pytest.mark.parametrize("rate", [0.5, 0.8, 1.5])
def test_a_stretched_sine_keeps_its_frequency(hz, rate):
    top, purity = pitch_of(stretch(tone(hz, 3), rate))
    assert top == pytest.approx(hz, abs=0.3)
    assert purity > 0.999


@pytest.mark.parametrize("semitones", [-4, 4])
def test_clicks_keep_their_spacing_under_a_pitch_shift_and_a_resize(semitones):
    wav = clicks(1600, 3200) + 1e-4 * noise()
    assert share_near(shift_pitch(wav, semitones), 1600, 3200, reach=80) > 0.98
    assert share_near(resize_frequencies(wav, 1, semitones), 1600, 3200, reach=80) > 0.98


@pytest.mark.parametrize("rate", [0.667, 0.8, 1.25, 1.5])
def test_clicks_change_their_spacing_under_a_stretch(rate):
    wav = clicks(1600, 3200) + 1e-4 * noise()
    assert share_near(stretch(wav, rate), 1600 / rate, 3200 / rate, reach=80) > 0.98


@pytest.mark.parametrize("scale, shift_bands", [(0.7, 0), (1.3, 0), (1, 4), (1, -4), (0.8, 3)])
def test_a_resized_sine_lands_where_the_axis_says(scale, shift_bands):
    for band in (20, 31.5, 45):
        resized = resize_frequencies(tone(band_hz(band)), scale, shift_bands)
        top, purity = pitch_of(resized)
        assert top == pytest.approx(band_hz((band - 31.5 - shift_bands) / scale + 31.5), rel=2e-3)
        assert purity > 0.99
        assert decibels(energy(resized) / energy(tone(band_hz(band)))) == pytest.approx(0, abs=0.7)


def test_nothing_enters_from_beyond_the_axis():
    rumble = tone(20) + 0.3
    assert energy(resize_frequencies(rumble + tone(1000), 1, -5)[2000:-2000]) < 1.1 * energy(tone(1000))
    torch.testing.assert_close(resize_frequencies(rumble, 1, 0), rumble, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["stretch", "pitch"])
def test_white_noise_keeps_its_level(name):
    deformed = ALL[name](noise(4))
    ratio = energy(deformed) / len(deformed) / (energy(noise(4)) / RATE / 4)
    assert decibels(ratio) == pytest.approx(0, abs=2)


def test_what_is_sudden_and_what_lasts_add_up():
    lasting, sudden = tone(440), clicks(1600, 3200)
    parts = split_sudden((lasting + sudden)[None], RATE)
    torch.testing.assert_close(sum(parts)[0], lasting + sudden, atol=1e-6, rtol=0)
    inner = slice(2000, -2000)
    assert energy((parts[0][0] - lasting)[inner]) < 0.05 * energy(lasting)
    assert energy((parts[1][0] - sudden)[inner]) < 0.15 * energy(sudden[inner])


def test_the_running_median_equals_a_naive_loop():
    values = np.random.default_rng(0).normal(size=(2, 5, 30)).astype(np.float32)
    padded = np.pad(values, ((0, 0), (0, 0), (8, 8)), mode="edge")
    naive = np.stack([np.median(padded[..., k : k + 17], axis=-1) for k in range(30)], axis=-1)
    np.testing.assert_array_equal(running_median(values, 2), naive)
    np.testing.assert_array_equal(running_median(values.swapaxes(1, 2), 1), naive.swapaxes(1, 2))


COUNTERPARTS = {
    "pitch -4": (PitchShift(4), [-4], lambda wav: shift_pitch(wav, -4)),
    "pitch +4": (PitchShift(4), [4], lambda wav: shift_pitch(wav, 4)),
    "stretch 0.667": (TimeStretch(1.5), [-1], lambda wav: stretch(wav, 1 / 1.5)),
    "stretch 1.5": (TimeStretch(1.5), [1], lambda wav: stretch(wav, 1.5)),
    "resize": (FrequencyResize(0.3), [0.3, 0.3], lambda wav: resize_frequencies(wav, 1.3, 4.8)),
    "resize back": (FrequencyResize(0.3), [-0.3, -0.3], lambda wav: resize_frequencies(wav, 0.7, -4.8)),
    "translation": (Translation(48, 4), [30, 3], lambda wav: shift_time(resize_frequencies(wav, 1, -3), 0.3)),
    "mixture": (Mixture(1), [0.8], lambda wav: mix(wav, sound("bell"), 0.8)),
}


@pytest.mark.parametrize("name", COUNTERPARTS)
@pytest.mark.parametrize("kind", ["brass", "vowel_ah", "engine", "footsteps"])
def test_a_deformed_waveform_looks_like_its_mel_counterpart(name, kind, monkeypatch):
    deformation, strengths, deform = COUNTERPARTS[name]
    draws = iter(strengths)
    monkeypatch.setattr(deformations, "uniform", lambda *range, **kwargs: torch.full((1, 1), float(next(draws))))
    wav = sound(kind)
    wav = wav[: len(wav) // 160 * 160]
    clean = LogMel()(wav[None])
    other = LogMel()(sound("bell").repeat(10)[None, : len(wav)])
    on_mel = log_mel_from_energies(deformation(energies_from_log_mel(clean), energies_from_log_mel(other)))
    on_wav = LogMel()(deform(wav)[None])
    n_frames = min(on_mel.shape[1], on_wav.shape[1])
    quiet = float(clean.max()) - 50 * math.log(10) / 10

    def likeness(one, two):
        pair = torch.stack([frames[:, :n_frames].clamp(min=quiet).flatten() for frames in (one, two)])
        return float(torch.corrcoef(pair)[0, 1])

    assert likeness(on_mel, on_wav) > 0.8  # most are above 0.95
    assert likeness(on_mel, on_wav) > likeness(clean, on_wav)


def test_an_equalized_waveform_looks_like_its_mel_counterpart(monkeypatch):
    gains_db = torch.tensor([-10.0, 6, 0, 5, -8])
    monkeypatch.setattr(torch, "randn", lambda *shape, **kwargs: gains_db[None])
    wav = sound("rain")
    on_mel = Equalization(1)(energies_from_log_mel(LogMel()(wav[None])))
    on_wav = energies_from_log_mel(LogMel()(equalize(wav, gains_db)[None]))
    difference = 10 * torch.log10(on_mel.mean(1) / on_wav.mean(1))
    assert float(difference.abs().max()) < 1.5


@pytest.mark.parametrize(
    "call",
    [
        lambda: stretch(torch.zeros(2, 3, 4), 1),
        lambda: stretch(torch.zeros(0), 1),
        lambda: shift_pitch(torch.zeros(9, dtype=torch.float64), 1),
        lambda: equalize(torch.tensor([0.0, math.nan]), [0] * 5),
        lambda: stretch(torch.zeros(9), 0),
        lambda: stretch(torch.zeros(9), math.nan),
        lambda: stretch(torch.zeros(9), 1, 0),
        lambda: shift_pitch(torch.zeros(9), 40),
        lambda: shift_time(torch.zeros(9), math.inf),
        lambda: add_noise(torch.zeros(9), math.inf),
        lambda: mix(torch.zeros(9), torch.zeros(9), -0.1),
        lambda: mix(torch.zeros(9), torch.zeros(0), 1),
        lambda: mix(torch.zeros(3, 9), torch.zeros(2, 9), 1),
        lambda: equalize(torch.zeros(9), [0] * 4),
        lambda: equalize(torch.zeros(9), [0, 0, 0, 0, math.nan]),
        lambda: resize_frequencies(torch.zeros(9), 0, 0),
        lambda: resize_frequencies(torch.zeros(9), 1, 65),
    ],
)
def test_what_cannot_be_is_one_sentence(call):
    with pytest.raises(ValueError, match=r"^[^\n]* (is|holds) [^\n]*: expected [^\n]*\.$"):
        call()


def listen(folder, *arguments):
    """Run the recipe in a process of its own, in some folder of the user's."""
    command = [sys.executable, str(ROOT / "recipes" / "listen.py"), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_recipe_writes_what_there_is_to_hear(tmp_path):
    wav = sound("bird").numpy()
    soundfile.write(tmp_path / "bird.wav", 0.99 * wav / np.abs(wav).max(), RATE)
    done = listen(tmp_path, "bird.wav", "--output", "heard/bird", "--start", "0.25", "--seconds", "1", "--seed", "5")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "heard" / "bird"
    files = {path.name for path in folder.iterdir()}
    assert files >= {
        "original.wav",
        "time_stretch_rate_0.667.wav",
        "time_stretch_rate_1.5.wav",
        "pitch_shift_-4_semitones.wav",
        "pitch_shift_+4_semitones.wav",
        "frequency_resize_scale_0.7_shift_-4.8_bands.wav",
        "frequency_resize_scale_1.3_shift_+4.8_bands.wav",
        "mixture_ratio_1.wav",
        "gaussian_noise_0_dB.wav",
        "gaussian_noise_60_dB.wav",
        "gain_-20_dB.wav",
        "gain_+20_dB.wav",
        "all_together_1.wav",
        "all_together_3.wav",
        "spectrograms.png",
    }
    assert len(files) == 25 and len([name for name in files if name.startswith("equalization")]) == 3
    for name in files - {"spectrograms.png"}:
        heard, rate = soundfile.read(folder / name, dtype="float32")
        assert rate == RATE and soundfile.info(folder / name).subtype == "PCM_16"
        assert np.abs(heard).max() <= 1 and np.sqrt(np.square(heard).mean()) > 1e-3, name
    original, _ = soundfile.read(folder / "original.wav")
    assert len(original) == RATE
    assert (folder / "spectrograms.png").read_bytes().startswith(b"\x89PNG")
    assert "heard/bird" in done.stdout and "all_together_1: time stretch rate" in done.stdout
    assert "so as not to clip" in done.stdout and len(done.stdout.splitlines()) < 10
    assert {path.name for path in tmp_path.iterdir()} == {"bird.wav", "heard"}


def test_a_missing_file_is_one_sentence(tmp_path):
    done = listen(tmp_path, "no.wav", "--output", "heard")
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    mistake = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(mistake) == 1 and "no.wav" in mistake[0] and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def recipe():
    return runpy.run_path(str(ROOT / "recipes" / "listen.py"))


def test_one_kind_is_drawn_where_training_draws_one(recipe):
    scene = recipe["Scene"](LogMel(), OTHER, torch.Generator().manual_seed(0))
    kinds = [Translation(10, 2), GaussianNoise(0, 10)]
    wav = noise(0.2)
    drawn = [recipe["draw_all"](wav, OneKindPerBatch(kinds), max, scene)[0] for _ in range(12)]
    assert {len(names) for names in drawn} == {1} and len({names[0] for names in drawn}) == 2
    names, _ = recipe["draw_all"](wav, Composition([Composition(kinds), Mixture(1)]), max, scene)
    assert names == ["translation_+0.1_seconds_+2_bands", "gaussian_noise_10_dB", "mixture_ratio_1"]
    assert len(recipe["leaves"](Composition([OneKindPerBatch(kinds), Mixture(1)]))) == 3
    with pytest.raises(ValueError, match="Identity can't be heard here"):
        recipe["draw_all"](wav, torch.nn.Identity(), max, scene)


def test_what_would_clip_is_turned_down_alike(recipe, tmp_path):
    for gain, lowered_db in ((0.5, 0), (4, 6.02)):
        assert recipe["write_wav"](tmp_path / "a.wav", gain * tone(500), RATE) == pytest.approx(lowered_db, abs=0.1)
        heard, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
        ratio = energy(torch.from_numpy(heard)) / energy(gain * tone(500))
        assert decibels(ratio) == pytest.approx(-lowered_db, abs=0.1)


def test_without_matplotlib_the_picture_names_the_extra(recipe, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ValueError, match=r"pip install 'cochlea_sb\[plots\]'"):
        recipe["spectrograms"]([{"original": noise(0.2)}], {}, LogMel(), tmp_path / "a.png")
