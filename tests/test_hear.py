"""The HEAR API: what its validator asks, and the same embeddings as by our own road."""

import pytest
import torch

from cochlea_sb import AudioEncoder
from cochlea_sb.encoders.windowed import WINDOW_FRAMES
from cochlea_sb.errors import UserError
from cochlea_sb.integrations import hear


def test_scenes_are_embedded_as_ever():
    model, encoder = hear.load_model(), AudioEncoder.from_hparams(run_opts={"device": "cpu"})
    audio = torch.randn(3, 20000) / 10
    embeddings = hear.get_scene_embeddings(audio, model)
    assert embeddings.shape == (3, model.scene_embedding_size) and embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, encoder.encode_batch(audio)[:, 0])


def test_a_timestamp_stands_for_what_is_around_it():
    model = hear.load_model()
    audio = torch.randn(2, 32000) / 10
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    assert embeddings.shape == (2, 40, model.timestamp_embedding_size) and timestamps.shape == (2, 40)
    assert timestamps[0].tolist() == [50.0 * number for number in range(40)]
    torch.testing.assert_close(embeddings.norm(dim=2), torch.ones(2, 40))
    middle = 20  # one second: frames 100 - 48 to 100 + 48
    frames = model.compute_features(audio)[:, 100 - WINDOW_FRAMES // 2 : 100 + WINDOW_FRAMES // 2]
    torch.testing.assert_close(embeddings[:, middle], model.encoder(frames)[:, 0], atol=1e-5, rtol=1e-4)
    one, _ = hear.get_timestamp_embeddings(audio[:1], model)
    torch.testing.assert_close(one, embeddings[:1], atol=1e-5, rtol=1e-4)


def test_a_sound_shorter_than_a_window_has_its_timestamps():
    embeddings, timestamps = hear.get_timestamp_embeddings(torch.zeros(1, 900), hear.load_model())
    assert embeddings.shape == (1, 2, 128) and timestamps.tolist() == [[0.0, 50.0]]
    assert torch.isfinite(embeddings).all()


def test_audio_at_another_rate_is_resampled():
    low, high = hear.load_model(), hear.load_model(sample_rate=48000)
    times = torch.arange(48000) / 48000
    audio = (torch.sin(2 * torch.pi * 440 * times) * torch.exp(-3 * times))[None]
    expected = hear.get_scene_embeddings(audio[:, ::3], low)
    assert (hear.get_scene_embeddings(audio, high) * expected).sum() > 0.999
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, high)
    assert embeddings.shape == (1, 20, 128) and timestamps[0, -1] == 950
    assert high.sample_rate == 48000 and not high.training
    with pytest.raises(UserError, match="sample_rate is 44101: expected one of 8000"):
        hear.load_model(sample_rate=44101)
