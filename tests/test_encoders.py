"""Encoders: shape, size, windows, padding, and the same numbers by every road."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.cnn import ConvEncoder
from cochlea_sb.encoders.log_mel import FlattenedLogMel
from cochlea_sb.encoders.windowed import cut_windows, embed_bank, window_weights

SILENCE = -18.42


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = ConvEncoder(SILENCE)
    encoder.train()(torch.randn(32, 96, 64))
    return encoder.eval()


@pytest.mark.parametrize("frames", [1, 50, 96, 97, 500])
def test_output_is_a_unit_vector_whatever_the_length(encoder, frames):
    embeddings = encoder(torch.randn(3, frames, 64))
    assert embeddings.shape == (3, 1, 128) and embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3, 1))


def test_it_is_small(encoder):
    assert 0.4e6 < sum(parameter.numel() for parameter in encoder.parameters()) < 1e6
    with FlopCounterMode(display=False) as counter:
        encoder(torch.randn(1, 96, 64))
    assert counter.get_total_flops() / 2 <= 25e6


def test_padding_changes_nothing(encoder):
    lengths = [40, 96, 130, 200, 411]
    sounds = [torch.randn(length, 64) for length in lengths]
    padded = torch.full((5, 480, 64), SILENCE)
    for row, sound in zip(padded, sounds, strict=True):
        row[: len(sound)] = sound
    together = encoder(padded, torch.tensor(lengths) / 480)
    alone = torch.cat([encoder(sound[None]) for sound in sounds])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_mixed_precision_still_gives_float32_of_unit_norm(encoder):
    with torch.autocast("cpu", torch.bfloat16):
        for frames in (96, 300):
            embeddings = encoder(torch.randn(2, frames, 64))
            assert embeddings.dtype == torch.float32
            torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2, 1))


def test_a_long_sound_is_embedded_in_blocks(encoder, monkeypatch):
    frames = torch.randn(1, 1000, 64)
    whole = encoder(frames)
    monkeypatch.setattr("cochlea_sb.encoders.windowed.windows_at_once", lambda device: 3)
    torch.testing.assert_close(encoder(frames), whole, atol=1e-5, rtol=1e-4)


def test_a_gain_changes_nothing(encoder):
    frames = torch.randn(2, 96, 64)
    torch.testing.assert_close(encoder(frames), encoder(frames - 3.0), atol=1e-4, rtol=1e-3)


def test_windows_of_a_bank_average_to_the_same_embedding(encoder, monkeypatch):
    monkeypatch.setattr("cochlea_sb.encoders.windowed.windows_at_once", lambda device: 7)
    lengths = [20, 96, 97, 250, 480]
    sounds = [(torch.randn(length, 64) * 3 - 9).half() for length in lengths]
    bank = FrameBank(torch.cat(sounds), torch.tensor(lengths), SILENCE)
    alone = torch.cat([encoder(sound[None].float()) for sound in sounds])[:, 0]
    torch.testing.assert_close(embed_bank(encoder, bank), alone, atol=1e-3, rtol=1e-2)


def test_windows_are_cut_at_the_hop_and_padded_with_silence():
    frames = torch.arange(200.0)[None, :, None].expand(1, 200, 64)
    windows = cut_windows(frames, 48, SILENCE)
    assert windows.shape == (1, 4, 96, 64)
    assert windows[0, :, 0, 0].tolist() == [0, 48, 96, 144]
    assert (windows[0, 3, 56:] == SILENCE).all()


def test_window_weights_grow_smoothly_with_the_sound():
    starts = torch.arange(4) * 48
    weights = torch.stack([window_weights(torch.tensor(float(n)), starts, 48) for n in range(1, 241)])
    assert (weights[:, 0] == 1).all() and float(weights.diff(dim=0).abs().max()) <= 1 / 48 + 1e-6
    assert weights[95].tolist() == [1, 0, 0, 0] and weights[143].tolist() == [1, 1, 0, 0]


def test_baseline_is_the_flattened_window():
    frames = torch.randn(1, 96, 64)
    mean = torch.randn(64)
    wanted = F.normalize((frames - mean).flatten(1), dim=1)
    torch.testing.assert_close(FlattenedLogMel(mean, SILENCE)(frames)[:, 0], wanted)
