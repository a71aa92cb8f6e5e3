"""Encoders: shape, size, windows, padding, and the same numbers by every road."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.bag_of_audio_words import BagOfAudioWords
from cochlea_sb.encoders.cnn import ConvEncoder
from cochlea_sb.encoders.log_mel import FlattenedLogMel
from cochlea_sb.encoders.seq2seq import Seq2SeqDecoder, Seq2SeqEncoder
from cochlea_sb.encoders.windowed import encode_bank, window_weights
from cochlea_sb.errors import UserError

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
    assert 1e6 < sum(parameter.numel() for parameter in encoder.parameters()) < 2e6
    with FlopCounterMode(display=False) as counter:
        encoder(torch.randn(1, 96, 64))
    assert counter.get_total_flops() / 2 <= 67e6


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
    torch.testing.assert_close(encode_bank(encoder, bank), alone, atol=1e-3, rtol=1e-2)


def test_windows_are_cut_at_the_hop_and_padded_with_silence():
    bank = FrameBank.from_padded(torch.arange(200.0)[None, :, None], torch.tensor([200]), SILENCE)
    windows = bank.crops(*bank.windows(96, 48), 96)
    assert windows.shape == (4, 96, 1)
    assert windows[:, 0, 0].tolist() == [0, 48, 96, 144]
    assert (windows[3, 56:] == SILENCE).all()
    assert bank.crops(torch.tensor([0]), torch.tensor([-2]), 4)[0, :, 0].tolist() == pytest.approx(
        [SILENCE] * 2 + [0, 1]
    )


def test_a_long_sound_has_a_gradient(encoder):
    frames = torch.randn(2, 300, 64, requires_grad=True)
    encoder(frames)[..., 0].sum().backward()
    assert frames.grad.abs().sum() > 0


def test_window_weights_grow_smoothly_with_the_sound():
    starts = torch.arange(4) * 48
    weights = torch.stack([window_weights(torch.tensor(float(n)), starts, 48) for n in range(1, 241)])
    assert (weights[:, 0] == 1).all() and float(weights.diff(dim=0).abs().max()) <= 1 / 48 + 1e-6
    assert weights[95].tolist() == [1, 0, 0, 0] and weights[143].tolist() == [1, 1, 0, 0]


def test_baseline_is_the_flattened_window():
    frames = torch.randn(1, 96, 64)
    mean = torch.randn(64)
    wanted = F.normalize((frames - mean).flatten(1), dim=1)
    bank = FrameBank(torch.stack([mean - 1, mean + 1]), torch.tensor([2]), SILENCE)
    torch.testing.assert_close(FlattenedLogMel(SILENCE).fit(bank)(frames)[:, 0], wanted)


# ---------------------------------------------------------------- bag of audio words


def tones(*bands, n_frames=96):
    """A window that holds, one after the other, a tone in each of some bands."""
    frames = torch.full((n_frames, 64), SILENCE)
    for part, band in zip(frames.chunk(len(bands)), bands, strict=True):
        part[:, band] = -2.0
    return frames


def test_a_bag_of_words_counts_what_is_heard_and_weighs_what_is_rare():
    sounds = [tones(3, 9), tones(3, 20), tones(3, 40)]
    bank = FrameBank(torch.cat(sounds).half(), torch.tensor([96, 96, 96]), SILENCE)
    encoder = BagOfAudioWords(SILENCE, n_components=4, n_words=4)
    encoder.fit(bank, passes=8, progress=False)
    windows = torch.stack(sounds)
    assert (encoder.counts(windows).sort(1).values == torch.tensor([0.0, 0, 48, 48])).all()  # two words, half each
    common = int(encoder.counts(windows).sum(0).argmax())  # band 3, in all three sounds
    rare = [word for word in range(4) if word != common]
    assert encoder.idf[common] == 1 and torch.allclose(encoder.idf[rare], torch.tensor(4 / 2).log() + 1)
    scores = encode_bank(encoder, bank) @ encode_bank(encoder, bank).T
    assert torch.allclose(scores.diag(), torch.ones(3)) and float(scores[0, 1]) < 0.5
    # The order of what is heard does not count, nor does what is far fainter, nor padding.
    faint = tones(9, 3)
    faint[:, 50] = -2.0 - 3 * torch.log(torch.tensor(10.0))  # 30 dB below
    torch.testing.assert_close(encoder(faint[None]), encoder(windows[:1]))
    torch.testing.assert_close(encoder(tones(3, 9, n_frames=40)[None]), encoder(windows[:1]))


def test_words_that_no_sound_says_are_finite():
    bank = FrameBank(tones(3, 9).half(), torch.tensor([96]), SILENCE)
    encoder = BagOfAudioWords(SILENCE, n_components=2, n_words=5)
    encoder.fit(bank, progress=False)
    assert torch.isfinite(encoder.idf).all() and torch.isfinite(encoder(torch.randn(1, 96, 64))).all()


def test_too_few_frames_for_a_vocabulary_are_one_sentence():
    bank = FrameBank(tones(3).half(), torch.tensor([96]), SILENCE)
    with pytest.raises(UserError, match="The corpus has 96 audible frames: expected at least 1000"):
        BagOfAudioWords(SILENCE).fit(bank, progress=False)


# ---------------------------------------------------------------- sequence to sequence


def test_a_code_knows_nothing_of_padding_and_all_of_the_rest():
    torch.manual_seed(0)
    encoder = Seq2SeqEncoder(SILENCE, hidden_size=32).eval()
    sound = torch.randn(1, 50, 64)
    padded = torch.cat([sound, torch.full((1, 46, 64), SILENCE)], dim=1)
    assert encoder.real(padded).sum() == 50
    alone = encoder.encode(padded)
    together = encoder.encode(torch.cat([padded, torch.randn(1, 96, 64)]))[:1]  # one of a batch of longer ones
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)
    for changed in (0, 25, 49):
        other = padded.clone()
        other[0, changed] += 3
        assert float((encoder.encode(other) - alone).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("feed_back", [False, True])
def test_a_decoder_learns_to_write_what_its_code_says(feed_back):
    torch.manual_seed(0)
    frames = torch.ones(2, 96, 64)
    frames[0, :48] = frames[1, 48:] = -1  # low, then high; and the other way round
    codes = torch.eye(2)
    decoder = Seq2SeqDecoder(hidden_size=32, embedding_size=2, feed_back=feed_back)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.02)
    for step in range(150):
        loss = (decoder(codes, frames, teacher_forcing=1 - step / 75) - frames).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        written = decoder(codes, torch.zeros(2, 90, 64))  # the real frames are not looked at
    assert written.shape == (2, 90, 64)
    assert (written - frames[:, :90]).square().mean() < 0.2  # of what never changes: 1


@torch.no_grad()
def test_embeddings_are_principal_components_of_what_changes_over_time():
    torch.manual_seed(0)
    encoder = ConvEncoder(SILENCE, channels=(8, 16, 24), embedding_size=16)
    assert encoder.train()(torch.randn(32, 96, 64)).shape == (32, 1, 16)
    windows = torch.randn(200, 96, 64)
    encoder.eval().fit_axes(lambda count: windows)
    vectors = encoder.encode(windows)
    torch.testing.assert_close(vectors.mean(0), torch.zeros(16), atol=1e-3, rtol=0)
    covariance = vectors.T.cov()
    variances = covariance.diagonal()
    torch.testing.assert_close(covariance, torch.diag(variances), atol=1e-3 * float(variances[0]), rtol=0)
    assert (variances.diff() <= 1e-6).all() and variances[-1] > 0
    mean, _, deviation = encoder.features(windows)
    changing = (deviation - 0.2 * mean).double()
    spread = changing.std(0) + 1e-3 * changing.std(0).std()
    scaled = (changing / spread).T.cov()
    largest = torch.linalg.eigvalsh(scaled).flip(0)[:16]
    torch.testing.assert_close(variances / variances[0], (largest / largest[0]).float() ** 0.75, atol=1e-2, rtol=1e-2)
    twin = ConvEncoder(**encoder.settings())
    twin.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(twin.eval()(windows), encoder(windows))


@torch.no_grad()
def test_few_windows_give_no_direction_in_which_new_sounds_are_magnified():
    torch.manual_seed(0)
    encoder = ConvEncoder(SILENCE, channels=(8, 16, 24), embedding_size=64).eval()
    few = torch.randn(20, 96, 64)
    encoder.fit_axes(lambda count: few.repeat(5, 1, 1))
    known, new = encoder.encode(few), encoder.encode(torch.randn(200, 96, 64))
    assert new[:, 20:].abs().max() == 0 and new.norm(dim=1).median() < 2 * known.norm(dim=1).median()
    encoder.fit_axes(lambda count: few[:1].repeat(50, 1, 1))
    assert encoder.encode(torch.randn(5, 96, 64)).isfinite().all()


@pytest.mark.parametrize(
    "settings, sentence",
    [({"channels": []}, "channels is an empty list"), ({"embedding_size": 2048}, "the network has 1024 features")],
)
def test_sizes_that_do_not_fit_are_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        ConvEncoder(SILENCE, **settings)
