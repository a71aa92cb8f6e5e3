"""The front end: shape, independence of frames, level, band, silence."""

import math

import pytest
import scipy.fft
import torch

from cochlea_sb.errors import UserError
from cochlea_sb.features import MFCC, Chroma, LogMel, hz_to_mel, mel_edges, mel_to_hz


def sine(hz, seconds=1.0, amplitude=1.0, sample_rate=16000):
    return amplitude * torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * sample_rate)) / sample_rate)


@pytest.mark.parametrize("samples, frames", [(15360, 96), (15361, 97), (15200, 95), (160, 1), (1, 1), (80000, 500)])
def test_number_of_frames(samples, frames):
    front_end = LogMel()
    assert front_end(torch.zeros(3, samples)).shape == (3, frames, 64)
    assert front_end.frames_in(samples) == frames


def test_a_frame_depends_only_on_its_own_samples():
    wav = torch.randn(1, 16000)
    frames = LogMel()(wav)
    changed = wav.clone()
    changed[0, 8000:8160] = 5.0
    differs = (LogMel()(changed) != frames).any(-1)[0].nonzero().flatten()
    first, last = (8000 - 400) // 160 + 1, (8160 - 1) // 160
    assert differs.min() >= first and differs.max() <= last
    part = LogMel()(wav[:, 1600:9600])  # the same samples elsewhere give the same frames
    torch.testing.assert_close(part[:, :48], frames[:, 10:58])


def test_full_scale_sine_is_0_db_around_its_band():
    edges = mel_edges(64, 60, 7800)
    for band in (5, 20, 40, 60):
        hz = float(edges[band + 1])
        frames = LogMel()(sine(hz)[None])[0, 20:80]
        assert (frames.argmax(-1) == band).all()
        assert float(frames.exp().sum(-1).mean()) == pytest.approx(1, abs=0.02)


def test_gain_adds_to_the_logarithm():
    quiet, loud = LogMel()(sine(1000, amplitude=0.05)[None]), LogMel()(sine(1000, amplitude=0.5)[None])
    band = int(loud[0, 10].argmax())
    assert float(loud[0, 10, band] - quiet[0, 10, band]) == pytest.approx(2 * math.log(10), abs=1e-3)


def test_silence_is_finite_and_named():
    front_end = LogMel()
    frames = front_end(torch.zeros(1, 16000))
    torch.testing.assert_close(frames, torch.full_like(frames, front_end.silence))
    assert torch.isfinite(frames.half()).all()


def test_batch_equals_single_and_blocks_equal_whole(monkeypatch):
    wavs = torch.randn(4, 20000)
    whole = LogMel()(wavs)
    torch.testing.assert_close(whole, torch.cat([LogMel()(wav[None]) for wav in wavs]))
    monkeypatch.setattr("cochlea_sb.features.FRAMES_AT_ONCE", 40)
    torch.testing.assert_close(LogMel()(wavs), whole)


def test_mixed_precision_leaves_it_alone():
    wavs = torch.randn(2, 8000)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = LogMel()(wavs)
    assert torch.equal(mixed, LogMel()(wavs))


def test_buffers_are_not_in_the_state_and_settings_rebuild():
    front_end = LogMel(sample_rate=8000, n_mels=40, high_hz=3900)
    assert not front_end.state_dict()
    wavs = torch.randn(1, 8000)
    torch.testing.assert_close(LogMel(**front_end.settings())(wavs), front_end(wavs))


def test_every_band_hears_something():
    assert (LogMel().filters.sum(0) > 0.5).all()
    assert (LogMel(n_mels=128).filters.sum(0) > 0.5).all()


def test_mel_scale_round_trip():
    hz = torch.tensor([0.0, 60, 1000, 7800])
    torch.testing.assert_close(mel_to_hz(hz_to_mel(hz)), hz, atol=1e-2, rtol=1e-5)
    assert float(hz_to_mel(torch.tensor(1000.0))) == pytest.approx(1000, abs=0.1)


@pytest.mark.parametrize("arguments", [{"high_hz": 9000}, {"low_hz": -1}, {"low_hz": 5000, "high_hz": 100}])
def test_impossible_bands(arguments):
    with pytest.raises(UserError, match="expected 0 <= low_hz < high_hz <= 8000"):
        LogMel(**arguments)


def test_mfcc_is_the_cosine_transform_of_what_torchaudio_takes_it_of():
    wav = torch.randn(1, 16000)
    above = LogMel()(wav) - LogMel().silence
    wanted = scipy.fft.dct(above.numpy(), norm="ortho")[..., :20]
    torch.testing.assert_close(MFCC()(wav), torch.from_numpy(wanted), atol=1e-3, rtol=1e-4)
    assert not MFCC()(torch.zeros(1, 1600)).any()  # silence is 0
    quiet, loud = MFCC()(0.1 * wav), MFCC()(wav)
    gained = MFCC.level(loud) - MFCC.level(quiet)
    torch.testing.assert_close(gained, torch.full_like(gained, 2 * math.log(10)), atol=0.1, rtol=0)


@pytest.mark.parametrize("octave", [0.5, 1, 2, 4])
def test_chroma_hears_the_pitch_class_in_any_octave(octave):
    for semitone, name in enumerate(("A", "A#", "B", "C")):
        frames = Chroma()(sine(440 * octave * 2 ** (semitone / 12))[None])[0, 10:60]
        assert (frames.argmax(-1) == (9 + semitone) % 12).all(), name
    assert Chroma()(torch.zeros(1, 1600)).unique().tolist() == [pytest.approx(Chroma().silence)]


@pytest.mark.parametrize("kind", [LogMel, MFCC, Chroma])
def test_every_front_end_frames_alike_and_rebuilds_from_its_settings(kind):
    front_end, wav = kind(), torch.randn(2, 16001)
    frames = front_end(wav)
    assert frames.shape == (2, 101, front_end.frame_size) and front_end.frames_in(16001) == 101
    torch.testing.assert_close(kind(**front_end.settings())(wav), frames)


def test_wrong_shape():
    with pytest.raises(UserError, match=r"expected \[batch, samples\]"):
        LogMel()(torch.zeros(16000))
