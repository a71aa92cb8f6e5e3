"""What recipes/listen.py renders: each draw's claim on a real waveform, and its likeness with the mel deformation."""

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
from rendering import extremes, render

from cochlea_sb.augment.combined import Composition, OneKindPerBatch, OneKindPerExample
from cochlea_sb.augment.energies import energies_from_log_mel, log_mel_from_energies
from cochlea_sb.augment.equalization import Equalization, EqualizationDraw
from cochlea_sb.augment.frequency_resize import FrequencyResize, ResizeDraw
from cochlea_sb.augment.gain import Gain, GainDraw
from cochlea_sb.augment.gaussian_noise import GaussianNoise, NoiseDraw
from cochlea_sb.augment.mixture import Mixture, MixtureDraw
from cochlea_sb.augment.pitch_shift import PitchDraw, PitchShift
from cochlea_sb.augment.spectral_noise import SpectralNoise, SpectralNoiseDraw
from cochlea_sb.augment.time_stretch import StretchDraw, TimeStretch
from cochlea_sb.augment.translation import Translation, TranslationDraw
from cochlea_sb.errors import UserError
from cochlea_sb.features import LogMel, hz_to_mel, mel_edges, mel_to_hz
from cochlea_sb.synthetic.library import synthesise

ROOT = Path(__file__).parent.parent
RATE = 16000
FEATURES = LogMel()
OTHER = torch.randn(7000, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Of tensors as small as these, two threads on a busy machine made minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def one(*numbers):
    return (torch.tensor(float(number)) for number in numbers)


ALL = {
    "noise": (GaussianNoise(), NoiseDraw(*one(10, 1))),
    "mixture": (Mixture(), MixtureDraw(*one(0.5))),
    "translation": (Translation(), TranslationDraw(*one(10, 2.5))),
    "equalization": (Equalization(), EqualizationDraw(torch.tensor([-12.0, 3, 0, 8, -5]))),
    "stretch": (TimeStretch(), StretchDraw(*one(1.2))),
    "pitch": (PitchShift(), PitchDraw(*one(3))),
    "resize": (FrequencyResize(), ResizeDraw(*one(0.8, 0.04))),
    "gain": (Gain(), GainDraw(*one(-6))),
    "spectral noise": (SpectralNoise(), SpectralNoiseDraw(torch.ones(1))),
}
IDENTITIES = {
    "noise": (GaussianNoise(), NoiseDraw(*one(300, 1))),
    "mixture": (Mixture(), MixtureDraw(*one(0))),
    "translation": (Translation(), TranslationDraw(*one(0, 0))),
    "equalization": (Equalization(), EqualizationDraw(torch.zeros(5))),
    "stretch": (TimeStretch(), StretchDraw(*one(1))),
    "pitch": (PitchShift(), PitchDraw(*one(0))),
    "resize": (FrequencyResize(), ResizeDraw(*one(1, 0))),
    "gain": (Gain(), GainDraw(*one(0))),
    "spectral noise": (SpectralNoise(0), SpectralNoiseDraw(torch.ones(1))),
}


def heard(wav, deformation, draw):
    return render(wav, deformation, draw, FEATURES, OTHER)[1]


def tone(hz, seconds=2.0):
    return 0.5 * torch.sin(2 * math.pi * hz * torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE).float()


def noise(seconds=2.0, seed=0):
    return 0.1 * torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def sound(name):
    return torch.from_numpy(synthesise(name, take=1)).float()


def energy(wav):
    return float(wav.double().square().sum())


def pitch_of(wav):
    """Frequency of the highest peak of the spectrum, in Hz."""
    edge = len(wav) // 8
    inner = wav[edge:-edge] * torch.hann_window(len(wav) - 2 * edge)
    power = torch.fft.rfft(inner.double(), 8 * len(inner)).abs().square()
    return float(power.argmax()) * RATE / (8 * len(inner))


@pytest.mark.parametrize("name", ALL)
def test_input_is_not_changed_and_a_draw_renders_the_same_twice(name):
    before = noise()
    given = before.clone()
    first, again = (heard(given, *ALL[name]) for _ in range(2))
    assert torch.equal(given, before) and torch.equal(first, again)
    assert first.dtype == torch.float32 and torch.isfinite(first).all() and not torch.equal(first, before)
    assert len(first) == round(len(before) / 1.2) if name == "stretch" else len(first) == len(before)


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_at_zero_strength(name):
    before = noise()
    torch.testing.assert_close(heard(before, *IDENTITIES[name]), before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("samples", [1, 100, 2000])
@pytest.mark.parametrize("name", ALL)
def test_short_and_silent_sounds(name, samples):
    for wav in (torch.zeros(samples), noise()[:samples]):
        deformed = heard(wav, *ALL[name])
        assert len(deformed) >= 1 and torch.isfinite(deformed).all()
        assert name == "mixture" or wav.any() or not deformed.any()


@pytest.mark.parametrize("hz, semitones", [(300, 4), (1000, -4), (700, 12)])
def test_a_shifted_sine_has_the_shifted_frequency(hz, semitones):
    shifted = heard(tone(hz), PitchShift(), PitchDraw(*one(semitones)))
    assert pitch_of(shifted) == pytest.approx(hz * 2 ** (semitones / 12), rel=0.01)


@pytest.mark.parametrize("rate", [0.667, 1.5])
def test_a_stretched_sine_keeps_its_frequency_and_has_the_length_of_its_rate(rate):
    stretched = heard(tone(440), TimeStretch(), StretchDraw(*one(rate)))
    assert pitch_of(stretched) == pytest.approx(440, rel=0.01) and len(stretched) == round(2 * RATE / rate)


@pytest.mark.parametrize("snr_db", [0, 20])
def test_noise_has_its_ratio(snr_db):
    added = heard(tone(440), GaussianNoise(), NoiseDraw(*one(snr_db, 1))) - tone(440)
    assert 10 * math.log10(energy(tone(440)) / energy(added)) == pytest.approx(snr_db, abs=0.2)


def test_a_mixture_has_its_ratio_with_the_other_sound_repeated():
    added = heard(tone(440), Mixture(), MixtureDraw(*one(0.25))) - tone(440)
    assert energy(added) / energy(tone(440)) == pytest.approx(0.25, rel=1e-3)
    torch.testing.assert_close(added[:7000], added[7000:14000], atol=1e-5, rtol=1e-3)


def test_an_equalizer_has_its_gains_at_the_knots_and_no_delay():
    gains_db = [-12.0, 3, 0, 8, -5]
    low, high = hz_to_mel(mel_edges(64, 60.0, 7800.0)[[1, -2]])
    for number, gain_db in enumerate(gains_db):
        wav = tone(float(mel_to_hz(low + (high - low) * number / 4)))
        deformed = heard(wav, Equalization(), EqualizationDraw(torch.tensor(gains_db)))
        middle = slice(RATE // 2, 3 * RATE // 2)
        torch.testing.assert_close(deformed[middle], 10 ** (gain_db / 20) * wav[middle], atol=0.03, rtol=0)


@pytest.mark.parametrize("scale, shift", [(1.25, 0.0), (0.8, 0.05)])
def test_a_resized_sine_lands_where_the_axis_says(scale, shift):
    low, high = hz_to_mel(mel_edges(64, 60.0, 7800.0)[[1, -2]])
    band = (hz_to_mel(torch.tensor(1500.0)) - low) / (high - low) * 63
    target = float(mel_to_hz(low + (high - low) * ((band - 31.5 - 64 * shift) / scale + 31.5) / 63))
    assert pitch_of(heard(tone(1500), FrequencyResize(), ResizeDraw(*one(scale, shift)))) == pytest.approx(
        target, rel=0.03
    )


COUNTERPARTS = {
    "pitch -4": (PitchShift(), PitchDraw, [-4]),
    "pitch +4": (PitchShift(), PitchDraw, [4]),
    "stretch 0.667": (TimeStretch(), StretchDraw, [1 / 1.5]),
    "stretch 1.5": (TimeStretch(), StretchDraw, [1.5]),
    "resize": (FrequencyResize(), ResizeDraw, [1.3, 0.075]),
    "resize back": (FrequencyResize(), ResizeDraw, [0.7, -0.075]),
    "translation": (Translation(), TranslationDraw, [30, 3.0]),
}


@pytest.mark.parametrize("name", COUNTERPARTS)
@pytest.mark.parametrize("kind", ["brass", "vowel_ah", "engine"])
def test_a_rendered_draw_looks_like_the_same_draw_on_mel_energies(name, kind):
    deformation, draw, numbers = COUNTERPARTS[name]
    wav = sound(kind)
    wav = wav[: len(wav) // 160 * 160]
    clean = FEATURES(wav[None])
    rows = draw(*(torch.tensor([number]) for number in numbers))
    on_mel = log_mel_from_energies(deformation.deform(energies_from_log_mel(clean), rows))
    on_wav = FEATURES(heard(wav, deformation, draw(*one(*numbers)))[None])
    n_frames = min(on_mel.shape[1], on_wav.shape[1])
    quiet = float(clean.max()) - 50 * math.log(10) / 10

    def likeness(first, second):
        pair = torch.stack([frames[:, :n_frames].clamp(min=quiet).flatten() for frames in (first, second)])
        return float(torch.corrcoef(pair)[0, 1])

    assert likeness(on_mel, on_wav) > 0.75  # most are above 0.9
    assert likeness(on_mel, on_wav) > likeness(clean, on_wav)


def test_the_recipe_writes_what_there_is_to_hear(tmp_path):
    soundfile.write(tmp_path / "bird.wav", synthesise("bird", take=2)[:RATE], RATE)
    command = [sys.executable, str(ROOT / "recipes" / "listen.py"), "bird.wav", "--output", "heard/bird"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
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
        wav, rate = soundfile.read(folder / name, dtype="float32")
        assert rate == RATE and soundfile.info(folder / name).subtype == "PCM_16"
        assert np.abs(wav).max() <= 1 and np.sqrt(np.square(wav).mean()) > 1e-3, name
    assert (folder / "spectrograms.png").read_bytes().startswith(b"\x89PNG")
    assert "heard/bird" in done.stdout and "all_together_1: time stretch rate" in done.stdout
    assert "to avoid clipping" in done.stdout and len(done.stdout.splitlines()) < 10


@pytest.fixture(scope="module")
def recipe():
    return runpy.run_path(str(ROOT / "recipes" / "listen.py"))


def test_a_missing_file_is_one_sentence(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^no\.wav: cannot be opened"):
        recipe["main"](["no.wav", "--output", "heard"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("combine", [OneKindPerBatch, OneKindPerExample])
def test_one_kind_is_drawn_where_training_draws_one(recipe, combine):
    deformation = Composition([combine([Translation(10, 2), GaussianNoise(0, 10)]), Mixture(1)])
    seen = set()
    for seed in range(12):
        draw = deformation.draw(torch.zeros(2, 1, 64), torch.Generator().manual_seed(seed))
        names, _ = recipe["render_all"](noise(0.2), deformation, draw, seed % 2, FEATURES, OTHER)
        assert len(names) == 2 and names[1].startswith("mixture")
        seen.add(names[0].split("_")[0])
    assert seen == {"translation", "gaussian"}
    assert len(recipe["singles"](deformation)) == 3
    with pytest.raises(UserError, match="Identity can't be heard here"):
        extremes(torch.nn.Identity())


def test_what_would_clip_is_turned_down_alike(recipe, tmp_path):
    for gain, lowered_db in ((0.5, 0), (4, 6.02)):
        assert recipe["write_wav"](tmp_path / "a.wav", gain * tone(500), RATE) == pytest.approx(lowered_db, abs=0.1)
        wav, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
        ratio = energy(torch.from_numpy(wav)) / energy(gain * tone(500))
        assert 10 * math.log10(ratio) == pytest.approx(-lowered_db, abs=0.1)


def test_without_the_extras_a_sentence_names_them(recipe, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(UserError, match=r"pip install 'cochlea_sb\[plots\]'"):
        recipe["spectrograms"]([{"original": noise(0.2)}], {}, LogMel(), tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(UserError, match=r"pip install 'cochlea_sb\[listen\]'"):
        heard(noise(0.2), *ALL["pitch"])
