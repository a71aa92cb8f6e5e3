"""Each deformation: no change of its input, a fresh draw an example, identity at zero strength, and its claim."""

import numpy as np
import pytest
import torch

from cochlea_sb.augment.combined import Composition, OneKindPerBatch, OneKindPerExample
from cochlea_sb.augment.energies import energies_from_log_mel, log_mel_from_energies, resample_frames, resample_mels
from cochlea_sb.augment.equalization import Equalization
from cochlea_sb.augment.frequency_resize import FrequencyResize, ResizeDraw
from cochlea_sb.augment.gain import Gain, GainDraw
from cochlea_sb.augment.gaussian_noise import GaussianNoise
from cochlea_sb.augment.mixture import Mixture, MixtureDraw
from cochlea_sb.augment.pitch_shift import PitchDraw, PitchShift
from cochlea_sb.augment.spectral_noise import SpectralNoise
from cochlea_sb.augment.temporal_proximity import TemporalProximity
from cochlea_sb.augment.time_stretch import StretchDraw, TimeStretch
from cochlea_sb.augment.translation import Translation, TranslationDraw
from cochlea_sb.errors import UserError
from cochlea_sb.features import LogMel

ALL = {
    "noise": GaussianNoise(0, 30),
    "translation": Translation(20, 4),
    "stretch": TimeStretch(1.5),
    "pitch": PitchShift(4),
    "mixture": Mixture(0.5),
    "resize": FrequencyResize(0.4),
    "equalization": Equalization(6),
    "gain": Gain(20),
    "spectral noise": SpectralNoise(0.5),
}
IDENTITIES = {
    "noise": GaussianNoise(300, 300),
    "translation": Translation(0, 0),
    "stretch": TimeStretch(1),
    "pitch": PitchShift(0),
    "mixture": Mixture(0),
    "resize": FrequencyResize(0),
    "equalization": Equalization(0),
}
COMBINED = {
    "composition": Composition(list(ALL.values())),
    "weakened": Composition(list(ALL.values()), weaken=True),
    "kind a batch": OneKindPerBatch(list(ALL.values())),
    "kind an example": OneKindPerExample(list(ALL.values())),
}


def energies(batch=8, frames=96, seed=0):
    return torch.rand(batch, frames, 64, generator=torch.Generator().manual_seed(seed)) ** 4


def shift(before, semitones):
    return PitchShift().deform(before, PitchDraw(torch.full((len(before),), float(semitones))))


def log_mel_of(wav):
    return LogMel()(torch.as_tensor(np.asarray(wav), dtype=torch.float32)[None])


def tone(hz, seconds=1.0):
    return np.sin(2 * np.pi * hz * np.arange(int(16000 * seconds)) / 16000)


@pytest.mark.parametrize("name", [*ALL, *COMBINED])
def test_input_is_not_changed_and_output_is_energies(name):
    before = energies()
    given = before.clone()
    after = (ALL | COMBINED)[name](given)
    assert torch.equal(given, before)
    assert after.shape == before.shape and after.dtype == torch.float32
    assert torch.isfinite(after).all() and (after >= 0).all()


@pytest.mark.parametrize("name", ALL)
def test_fresh_draw_for_each_example_and_repeatable(name):
    same = energies(1).expand(6, -1, -1)
    others = energies(1, seed=1).expand(6, -1, -1)
    first = ALL[name](same, others, torch.Generator().manual_seed(3))
    again = ALL[name](same, others, torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert len(torch.unique(first.flatten(1), dim=0)) == 6


@pytest.mark.parametrize("name", [*ALL, *COMBINED])
def test_a_draw_can_be_applied_again_and_is_all_that_a_call_adds(name):
    deformation, before, others = (ALL | COMBINED)[name], energies(), energies(seed=1)
    draw = deformation.draw(before, torch.Generator().manual_seed(3))
    once, again = (deformation.deform(before, draw, others) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(once, deformation(before, others, torch.Generator().manual_seed(3)))


def test_repr_shows_the_strengths():
    assert repr(GaussianNoise(0, 30)) == "GaussianNoise(snr_low_db=0, snr_high_db=30)"
    assert all("=" in repr(deformation) for deformation in ALL.values())


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_at_zero_strength(name):
    before = energies()
    torch.testing.assert_close(IDENTITIES[name](before), before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*ALL, *COMBINED])
def test_silence_stays_finite_and_silent(name):
    silence = torch.zeros(6, 96, 64)
    assert torch.equal((ALL | COMBINED)[name](silence), silence)


def test_energies_and_logarithm_are_inverse_without_touching_the_input():
    frames = log_mel_of(tone(440)).float()
    before = frames.clone()
    torch.testing.assert_close(log_mel_from_energies(energies_from_log_mel(frames)), frames, atol=1e-4, rtol=1e-4)
    assert torch.equal(frames, before)


@pytest.mark.parametrize("hz", [220, 440, 700, 1000, 1500, 2200, 3300])
@pytest.mark.parametrize("semitones", [-3, 3, 12])
def test_a_shifted_sine_lands_where_the_shifted_sine_is(hz, semitones):
    shifted = shift(energies_from_log_mel(log_mel_of(tone(hz))), semitones)[0, 20:80].mean(0)
    real = energies_from_log_mel(log_mel_of(tone(hz * 2 ** (semitones / 12))))[0, 20:80].mean(0)

    def centre(bands):
        near = torch.arange(64)[bands > bands.max() / 20]
        return float((bands[near] * near).sum() / bands[near].sum())

    # Below 500 Hz a band is narrower than the front end's resolution: several share a sine, none more than another.
    assert abs(centre(shifted) - centre(real)) < (0.5 if hz * 2 ** (semitones / 12) > 500 else 1.0)
    assert abs(int(shifted.argmax()) - int(real.argmax())) <= (0 if real.max() > 2 * real.sort()[0][-2] else 1)


def test_an_octave_up_moves_a_harmonic_sound_as_a_whole():
    chord = sum(tone(300 * k) / k for k in (1, 2, 3))
    octave = sum(tone(600 * k) / k for k in (1, 2, 3))
    shifted = log_mel_from_energies(shift(energies_from_log_mel(log_mel_of(chord)), 12))[0, 30]
    real = log_mel_of(octave)[0, 30]
    loud = real > real.max() - 3
    assert float((shifted - real)[loud].abs().mean()) < 1.0


@pytest.mark.parametrize("rate", [0.5, 0.8, 1.25, 2.0])
def test_a_stretched_click_train_has_the_stretched_spacing(rate):
    clicks = np.zeros(32000)
    clicks[1600::3200] = 1.0  # every 20 frames
    clean = energies_from_log_mel(log_mel_of(clicks))
    stretched = TimeStretch().deform(clean, StretchDraw(torch.tensor([rate])))[0].sum(1)
    real = np.zeros(32000)
    real[round(1600 / rate) :: round(3200 / rate)] = 1.0
    real = energies_from_log_mel(log_mel_of(real))[0].sum(1)

    def spacing(envelope):
        envelope = envelope[:90] - envelope[:90].mean()
        correlation = torch.nn.functional.conv1d(envelope[None, None], envelope[None, None], padding=len(envelope) - 1)
        return 5 + int(correlation[0, 0, len(envelope) - 1 + 5 :].argmax())

    assert abs(spacing(stretched) - 20 / rate) <= 1
    assert abs(spacing(stretched) - spacing(real)) <= 1


def test_stretch_keeps_the_first_frame_and_ends_in_silence():
    before = energies()
    after = TimeStretch().deform(before, StretchDraw(torch.full((8,), 2.0)))
    torch.testing.assert_close(after[:, 0], before[:, 0])
    torch.testing.assert_close(after[:, 10], before[:, 20])
    assert float(after[:, 49:].sum()) == 0


def test_mixture_is_the_sum_of_waveforms_energies():
    own, other = np.random.default_rng(0).normal(size=(2, 16000)) * [[0.1], [0.02]]
    own_energies, other_energies = (energies_from_log_mel(log_mel_of(wav)) for wav in (own, other))
    mixed = Mixture().deform(own_energies, MixtureDraw(torch.tensor([0.25])), other_energies)
    assert float(mixed.sum() / own_energies.sum()) == pytest.approx(1.25, rel=1e-4)
    gain = 0.5 * np.sqrt(np.square(own).sum() / np.square(other).sum())
    real = energies_from_log_mel(log_mel_of(own + gain * other))
    assert float(mixed.sum() / real.sum()) == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("snr_db", [0, 10, 20])
def test_noise_has_its_level_and_the_spectrum_of_white_noise(snr_db):
    clean = energies_from_log_mel(log_mel_of(tone(1000, 4.0)))
    noise = GaussianNoise(snr_db, snr_db)(clean) - clean
    assert float(10 * torch.log10(clean.sum() / noise.sum())) == pytest.approx(snr_db, abs=0.3)
    white = energies_from_log_mel(log_mel_of(np.random.default_rng(0).normal(size=64000)))
    bands = noise[0].mean(0) / noise[0].mean(0).sum()
    real = white[0].mean(0) / white[0].mean(0).sum()
    assert float((bands - real)[20:].abs().max() / real[20:].max()) < 0.15
    spread = (noise[0].std(0) / noise[0].mean(0))[20:]
    real_spread = (white[0].std(0) / white[0].mean(0))[20:]
    assert float((spread / real_spread).log().abs().mean()) < 0.35


def test_translation_moves_frames_around_and_bands_out():
    before = energies(frames=10)
    three = torch.full((8,), 3)
    after = Translation().deform(before, TranslationDraw(three, three.float()))
    torch.testing.assert_close(after[:, 3:, 3:], before[:, :-3, :-3])
    torch.testing.assert_close(after[:, :3, 3:], before[:, -3:, :-3])
    assert float(after[:, :, :3].sum()) == 0


def test_equalization_is_one_smooth_gain_for_all_frames():
    before = energies(200)
    gains = 10 * torch.log10(Equalization(6)(before) / before)
    torch.testing.assert_close(gains[:, 0], gains[:, -1], atol=1e-3, rtol=1e-3)
    assert float(gains[:, 0, [0, 63]].std()) == pytest.approx(6, rel=0.15)
    assert float(gains.diff(dim=2).abs().max()) < 6 * 8 / 15.75  # no jump steeper than a knot of 4 deviations each


def test_frequency_resize_scales_about_the_middle():
    before = torch.zeros(1, 1, 64)
    before[0, 0, 50] = 1
    draw = ResizeDraw(torch.tensor([1.25]), torch.tensor([0.25 / 4]))
    after = FrequencyResize().deform(before, draw)[0, 0]  # band m reads from (m - 31.5) * 1.25 + 31.5 + 0.25 * 16
    assert int(after.argmax()) == round((50 - 31.5 - 4) / 1.25 + 31.5)


def test_resampling_equals_a_naive_loop():
    values, positions = torch.rand(2, 5, 4), torch.tensor([[-0.5, 0.25, 4.0, 4.5, 7.0], [-2.0, 3.75, 1.0, 0.0, 2.5]])

    def naive(rows, position):
        total = torch.zeros_like(rows[0])
        for number, row in enumerate(rows):
            total += max(0.0, 1 - abs(float(position) - number)) * row
        return total

    frames = torch.stack([torch.stack([naive(v, p) for p in row]) for v, row in zip(values, positions, strict=True)])
    torch.testing.assert_close(resample_frames(values, positions), frames)
    turned = values.transpose(1, 2)
    torch.testing.assert_close(resample_mels(turned, positions), frames.transpose(1, 2))


def test_kinds_are_one_a_batch_and_one_an_example():
    before = energies(40)
    kinds = [Mixture(0), GaussianNoise(0, 0)]
    for seed in range(4):
        after = OneKindPerBatch(kinds)(before, generator=torch.Generator().manual_seed(seed))
        changed = (after != before).flatten(1).any(1)
        assert changed.all() or not changed.any()
    generator = torch.Generator().manual_seed(0)
    changes = [bool((OneKindPerBatch(kinds)(before, generator=generator) != before).any()) for _ in range(20)]
    assert 3 < sum(changes) < 17  # a generator that is kept goes on to other kinds
    after = OneKindPerExample(kinds)(before)
    assert int((after != before).flatten(1).any(1).sum()) == 20


def test_temporal_proximity_takes_the_last_share_of_a_joint_batch_as_it_is():
    before = energies(40)
    after = OneKindPerExample([SpectralNoise(0.5), Gain(20), Mixture(0.5), TemporalProximity()])(before)
    changed = (after != before).flatten(1).any(1)
    assert changed[:30].all() and not changed[30:].any()


def test_spectral_noise_only_adds_and_by_the_mean_of_its_half_normal():
    before = torch.ones(8, 96, 64)
    factor = SpectralNoise(0.5)(before, generator=torch.Generator().manual_seed(0))
    assert factor.min() >= 1 and float(factor.mean()) == pytest.approx(1 + 0.5 * (2 / np.pi) ** 0.5, abs=0.01)


def test_gain_moves_the_level_alone():
    quiet = Gain().deform(energies_from_log_mel(log_mel_of(tone(440))), GainDraw(torch.tensor([-6.0])))
    real = energies_from_log_mel(log_mel_of(10 ** (-6 / 20) * tone(440)))
    torch.testing.assert_close(quiet, real, atol=1e-6, rtol=1e-2)


def test_partners_follow_their_example_through_a_joint_batch():
    marked, others = torch.zeros(10, 2, 64), torch.zeros(10, 2, 64)
    marked[:, 0, 0] = 1
    others[torch.arange(10), 0, 1 + torch.arange(10)] = 1
    mixed = OneKindPerExample([Mixture(0.5), Mixture(0.5)])(marked, others)
    assert torch.equal(mixed[:, 0, 1:].argmax(1), torch.arange(10))


@pytest.mark.parametrize(
    "build",
    [lambda: GaussianNoise(10, 0), lambda: TimeStretch(0.5), lambda: Mixture(-1), lambda: FrequencyResize(1)],
    ids=["snr", "rate", "ratio", "change"],
)
def test_impossible_strengths(build):
    with pytest.raises(UserError, match="expected"):
        build()


def test_a_strength_scales_what_it_should():
    before = energies()
    for name in ("stretch", "pitch", "resize", "equalization"):
        kind = ALL[name]
        draw = kind.draw(before, torch.Generator().manual_seed(0))
        torch.testing.assert_close(kind.weaken(draw, torch.ones(8)), draw)
        nothing = kind.deform(before, kind.weaken(draw, torch.zeros(8)))
        torch.testing.assert_close(nothing, before, atol=1e-5, rtol=1e-4)
    draw = PitchShift(4).draw(before)
    torch.testing.assert_close(PitchShift(4).weaken(draw, torch.full((8,), 0.5)).semitones, draw.semitones / 2)
    whole, weak = (Composition([PitchShift(4)], weaken=weaken) for weaken in (False, True))
    shifts = [kind.draw(energies(2000)).draws[0].semitones.abs().mean() for kind in (whole, weak)]
    assert float(shifts[0]) == pytest.approx(2, abs=0.1) and float(shifts[1]) == pytest.approx(1, abs=0.1)
