"""AudioEncoder: every way in gives the same numbers, plain SpeechBrain too; mistakes are one sentence."""

import io
import os
import shutil
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.inference.classifiers import EncoderClassifier

from cochlea_sb.audio import read_audio
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.data.sounds import Source
from cochlea_sb.errors import AudioError, UserError
from cochlea_sb.inference import batch, streaming
from cochlea_sb.inference.audio_encoder import AudioEncoder


@pytest.fixture(scope="module")
def encoder(model_folder):
    return AudioEncoder.from_hparams(model_folder, run_opts={"device": "cpu"})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Sounds of many lengths and rates, and two that can't be read."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    paths = []
    for number, (seconds, rate) in enumerate([(0.05, 16000), (0.5, 44101), (3.21, 22050), (0.96, 16000), (1.7, 48000)]):
        paths.append(str(folder / f"{number}.wav"))
        soundfile.write(paths[-1], 0.2 * rng.normal(size=(int(seconds * rate), 1 + number % 2)), rate)
    (folder / "empty.wav").write_bytes(b"")
    return [*paths[:2], str(folder / "empty.wav"), *paths[2:], str(folder / "missing.wav")]


def test_plain_speechbrain_gives_the_same_numbers(encoder, model_folder, tmp_path):
    plain = EncoderClassifier.from_hparams(model_folder, savedir=str(tmp_path / "save"), run_opts={"device": "cpu"})
    wavs, lens = torch.randn(3, 40000) * 0.1, torch.tensor([1.0, 0.5, 0.02])
    wavs[1, 20000:] = wavs[2, 800:] = 0
    assert torch.equal(encoder.encode_batch(wavs, lens), plain.encode_batch(wavs, lens))


def test_encode_batch_shapes(encoder):
    embeddings = encoder.encode_batch(torch.randn(2, 30000))
    assert embeddings.shape == (2, 1, 128)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2, 1))
    assert encoder.encode_batch(torch.randn(30000)).shape == (1, 1, 128)
    for wrong in (torch.zeros(0), torch.zeros(2, 1, 100)):
        with pytest.raises(UserError, match=r"expected \[batch, samples\]"):
            encoder.encode_batch(wrong)
    assert encoder.encode_batch(np.zeros(400), [1.0]).shape == (1, 1, 128)
    for samples, lens in ((400, torch.ones(3)), (30000, torch.ones(1)), (400, torch.ones(2, 1))):
        with pytest.raises(UserError, match=r"^wav_lens has shape \(.*\): expected \[2\], one for each wav.$"):
            encoder.encode_batch(torch.zeros(2, samples), lens)


def test_files_equal_one_by_one_in_their_order(encoder, files):
    embeddings, problems = encoder.encode_files(files, progress=False)
    readable = [path for path in files if path not in problems]
    assert set(problems) == {files[2], files[-1]}
    alone = torch.stack([encoder.encode_file(path) for path in readable])
    torch.testing.assert_close(embeddings, alone, atol=1e-5, rtol=1e-4)
    nothing, _ = encoder.encode_files([files[2]], progress=False)
    assert nothing.shape == (0, 128)
    one, _ = encoder.encode_files(files[0], progress=False)
    torch.testing.assert_close(one, embeddings[:1], atol=1e-5, rtol=1e-4)


def test_windows_average_to_the_file(encoder, files):
    embeddings, starts = encoder.encode_windows(files[3])
    assert embeddings.shape[1] == 128 and starts[:3].tolist() == [0, 0.48, 0.96]
    assert len(starts) == 1 + np.ceil((3.21 - 0.96) / 0.48)
    first = encoder.encode_file(files[3], 0.0, 0.96)
    # The last two frames of a window inside a sound see a few samples beyond it; alone they see silence.
    assert float(embeddings[0] @ first) > 0.98
    fine, fine_starts = encoder.encode_windows(files[3], hop_seconds=0.1)
    assert float(fine_starts[1]) == pytest.approx(0.1)
    one, _ = encoder.encode_windows(files[0])
    torch.testing.assert_close(one[0], encoder.encode_file(files[0]))
    for hop_seconds in (0.001, 1e9, float("nan"), True, "0.48"):
        with pytest.raises(UserError, match="at least 0.01 s, and less than 1,000,000 s.$"):
            encoder.encode_windows(files[3], hop_seconds)
    assert {encoder.hop_frames(hop) for hop in (0.48, np.float32(0.48), Fraction(12, 25))} == {48}


def test_windows_of_many_sounds_at_once_are_those_of_each(encoder, files):
    wavs = [read_audio(path) for path in files if "empty" not in path and "missing" not in path]
    wavs += [np.zeros(1, np.float32), wavs[2][:15361]]
    for wav, windows in zip(wavs, encoder.encode_waveform_windows(wavs, hop_seconds=0.3), strict=True):
        buffer = io.BytesIO()
        soundfile.write(buffer, wav, 16000, format="WAV", subtype="FLOAT")
        alone, _ = encoder.encode_windows(buffer.getvalue(), hop_seconds=0.3)
        torch.testing.assert_close(windows, alone, atol=1e-5, rtol=1e-4)
        frames = encoder.mods.compute_features(torch.from_numpy(wav)[None])
        with torch.inference_mode():
            silence = torch.full((1, 96, 64), encoder.mods.embedding_model.silence)
            cut = torch.cat([frames, silence], 1)[0].unfold(0, 96, 30).transpose(1, 2)[: len(windows)]
            assert 30 * (len(windows) - 1) + 96 >= frames.shape[1]
            torch.testing.assert_close(windows, encoder.mods.embedding_model(cut)[:, 0], atol=1e-5, rtol=1e-4)
    assert encoder.encode_waveform_windows([]) == [] and type(encoder.encode_waveform_windows(wavs[:1])) is list


def test_the_fingerprint_follows_the_weights(encoder, model_folder, tmp_path):
    identity = encoder.identity()
    assert identity["source"] == os.path.realpath(model_folder) and len(identity["fingerprint"]) == 64
    shutil.copytree(model_folder, tmp_path / "other")
    same = AudioEncoder.from_hparams(tmp_path / "other", run_opts={"device": "cpu"})
    assert same.identity()["fingerprint"] == identity["fingerprint"]
    with torch.no_grad():
        same.mods.embedding_model.project[0].weight[0, 0] += 1e-6
    assert same.identity()["fingerprint"] != identity["fingerprint"]


def test_a_stretch_of_a_file(encoder, files):
    wav = encoder.load_audio(files[3])
    part = encoder.encode_file(files[3], 1.0, 2.0)
    torch.testing.assert_close(part, encoder.encode_batch(wav[16000:32000])[0, 0], atol=1e-3, rtol=1e-2)
    with pytest.raises(AudioError, match="3.wav|2.wav"):
        encoder.encode_file(files[3], 10.0)


def test_waveforms_are_encoded_in_bounded_batches(encoder, monkeypatch):
    wavs = [torch.randn(samples) / 10 for samples in (50000, 100, 16000, 30000, 1)]
    alone = torch.cat([encoder.encode_batch(wav)[0] for wav in wavs])
    torch.testing.assert_close(encoder.encode_waveforms(wavs), alone, atol=1e-5, rtol=1e-4)
    sizes, real = [], FrameBank.from_waveforms
    monkeypatch.setattr("cochlea_sb.inference.encoder.BATCH_SECONDS", 2)
    monkeypatch.setattr(
        FrameBank, "from_waveforms", lambda batch, *rest: sizes.append(len(batch)) or real(batch, *rest)
    )
    torch.testing.assert_close(encoder.encode_waveforms(iter(wavs)), alone, atol=1e-5, rtol=1e-4)
    assert sizes == [1, 3, 1]
    assert encoder.encode_waveforms([]).shape == (0, 128)
    with pytest.raises(UserError, match="expected .samples., at least 1"):
        encoder.encode_waveforms([torch.zeros(0)])


@pytest.mark.parametrize("source", ["no/such/folder", "./nothing", "results", "tests/nothing"])
def test_no_model_there(source):
    with pytest.raises(UserError, match="holds no model"):
        AudioEncoder.from_hparams(source)


def test_a_device_that_is_not_there(model_folder):
    with pytest.raises(UserError, match="device is 'cuda:63', which can't be used here"):
        AudioEncoder.from_hparams(model_folder, run_opts={"device": "cuda:63"})


def test_inference_loads_neither_training_nor_datasets():
    code = "import sys, cochlea_sb.inference.audio_encoder, cochlea_sb.inference.batch\n"
    code += "print([name for name in ('datasets', 'pandas', 'cochlea_sb.training') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("hop_seconds", [0.1, 0.48, 0.96, 3.0])
def test_a_long_recording_is_encoded_piece_by_piece(monkeypatch, hop_seconds):
    encoder = AudioEncoder.from_hparams()
    noise = 0.1 * np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
    for seconds in (1, 7):
        monkeypatch.setattr(streaming, "PIECE_SECONDS", seconds)
        for length in (1000, 15360, 16 * 7680 + 15360, 16 * 7680 + 15361, 300_000):
            whole = encoder.encode_waveform_windows([noise[:length]], hop_seconds)[0]
            blocks = (noise[start : min(start + 7001, length)] for start in range(0, length, 7001))
            found, duration = streaming.encode_stream(encoder, blocks, hop_seconds)
            assert duration == length / 16000
            torch.testing.assert_close(found, whole, atol=2e-4, rtol=0)


def test_a_library_takes_recordings_of_any_length(monkeypatch, tmp_path):
    """Longer sounds than `LONG_SECONDS` are decoded in the encoder's thread; a cut one is a problem as any other."""
    encoder = AudioEncoder.from_hparams()
    noise = 0.1 * np.random.default_rng(0).standard_normal(200_000)
    soundfile.write(tmp_path / "long.wav", noise, 16000)
    soundfile.write(tmp_path / "short.wav", noise[:30_000], 16000)
    data = (tmp_path / "long.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    monkeypatch.setattr(streaming, "PIECE_SECONDS", 3)
    sources = [
        Source(str(tmp_path / name), str(tmp_path / name), None, 1, 1) for name in ("long.wav", "short.wav", "cut.wav")
    ]
    usual = list(batch.encode_sounds(encoder, sources))
    monkeypatch.setattr(batch, "LONG_SECONDS", 2)
    for found, wanted in zip(batch.encode_sounds(encoder, sources), usual, strict=True):
        assert found.source == wanted.source and found.problem == wanted.problem
        assert (found.seconds, found.content) == (wanted.seconds, wanted.content)
        np.testing.assert_allclose(found.windows, wanted.windows, atol=2e-4)
    assert usual[0].seconds == 12.5 and "is missing" in usual[2].problem


def test_what_is_no_waveform_is_one_sentence(encoder):
    for wavs, sentence in (
        (torch.zeros(0, 16000), "at least one sample"),
        (torch.zeros(2, 0), "at least one sample"),
        (torch.full((1, 16000), float("nan")), "NaN, infinite"),
        (np.full(16000, np.inf, np.float32), "NaN, infinite"),
        (np.full(16000, 1e300), "NaN, infinite or huge"),
        (torch.full((16000,), 1e30), "NaN, infinite or huge"),
        ("a.wav", "wavs has the type str: expected an array of real numbers"),
        (None, "wavs has the type NoneType: expected"),
        ([[0.1, 0.2], [0.1]], "wavs has the type list: expected an array of real numbers, in rows of the same length"),
        (torch.ones(16000) * 1j, "wavs has the type torch.complex64: expected"),
        (np.ones(16000) * 1j, "wavs has the type complex128: expected"),
    ):
        with pytest.raises(UserError, match=sentence):
            encoder.encode_batch(wavs)
    for paths in (b"a.wav", 5, None):
        with pytest.raises(UserError, match="expected the path of a file, or a list of paths"):
            encoder.encode_files(paths)


def test_waveforms_of_any_kind_of_number(encoder):
    wav = np.random.default_rng(0).uniform(-1, 1, 16000).astype(np.float32)
    wanted = encoder.encode_batch(torch.from_numpy(wav))
    for same in (
        wav.astype(np.float64),
        wav.astype(">f4"),
        wav[::-1].copy()[::-1],
        wav.tolist(),
        torch.tensor(wav)[None],
    ):
        torch.testing.assert_close(encoder.encode_batch(same), wanted)
    torch.testing.assert_close(encoder.encode_waveforms([wav[::-1].copy()[::-1]]), wanted[:, 0], atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="A waveform holds NaN, infinite or huge values"):
        encoder.encode_waveforms([wav, wav * np.float32("nan")])


@pytest.mark.parametrize("part", [0, -1, 2, float("nan")])
def test_parts_of_the_longest_waveform_are_above_0_and_up_to_1(encoder, part):
    with pytest.raises(UserError, match="wav_lens"):
        encoder.encode_batch(torch.zeros(2, 16000), torch.tensor([1.0, part]))
