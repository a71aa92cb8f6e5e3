"""Encoders of others in a library: SpeechBrain's, those of transformers, and functions."""

import json
import os
import re
import shutil

import embed
import numpy as np
import pytest
import soundfile
import tiny_models
import torch
from test_serve import get, results, running
from torch.nn import functional as F

from cochlea_sb import CallableEncoder, Encoder, SoundLibrary, Text, cli, load_encoder
from cochlea_sb.data import LIBRARY_MANIFEST
from cochlea_sb.data.sounds import list_sources
from cochlea_sb.errors import UserError
from cochlea_sb.inference.batch import encode_sounds
from cochlea_sb.inference.encoder import peak_levels
from cochlea_sb.inference.speechbrain_encoder import SpeechBrainEncoder
from cochlea_sb.library.shards import read_facts
from cochlea_sb.library.store import Store
from cochlea_sb.publishing.export import export
from cochlea_sb.publishing.space import export_space

transformers = pytest.importorskip("transformers", reason="OTHER ENCODERS ARE NOT TESTED: install transformers")
KINDS = ("clap", "wav2vec2", "ast", "speechbrain", "function")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("clap", "wav2vec2", "ast", "ecapa"):
        getattr(tiny_models, f"write_{name}")(folder / name)
    tiny_models.write_clap(folder / "unfused", fusion=False)
    tiny_models.write_wav2vec2(folder / "older", masked=False)
    return folder


@pytest.fixture(scope="module")
def encoders(models):
    found = {kind: load_encoder(f"transformers:{models / kind}") for kind in ("clap", "wav2vec2", "ast")}
    found["speechbrain"] = load_encoder(f"speechbrain:{models / 'ecapa'}", trust_remote_code=True)
    facts = {"sample_rate": 22050, "window_seconds": 0.5, "embedding_size": 2}
    return found | {"function": CallableEncoder(tiny_models.loudness, name="loudness 1", **facts)}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for number, seconds in enumerate((0.01, 0.7, 1.5, 8)):
        loud = 0.02 * (number + 1) * np.exp(-np.linspace(0, number, int(seconds * 32000)))
        soundfile.write(folder / f"{number}.wav", loud * rng.standard_normal(len(loud)), 32000)
    return folder


@pytest.fixture(scope="module")
def libraries(encoders, sounds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("libraries")
    for kind, encoder in encoders.items():
        SoundLibrary.create(folder / kind, encoder).add(sounds, progress=False)
    return folder


def run(capsys, *arguments):
    """Run the command; gives what it prints, or the error of a user's mistake."""
    try:
        cli.main([str(argument) for argument in arguments])
    except UserError as error:
        assert str(error).isprintable()
        return f"Error: {error}"
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_a_library_is_indexed_searched_and_refused_to_other_encoders(kind, encoders, libraries, sounds):
    encoder, folder = encoders[kind], libraries / kind
    library = SoundLibrary.open(folder, encoder)
    hop = encoder.hop_frames() * encoder.frame_seconds
    assert len(library) == 4 and library.hop_seconds == hop == pytest.approx(encoder.window_seconds / 2, rel=1e-4)
    for number in range(2):  # sounds of one window
        best = library.search(sounds / f"{number}.wav", with_query=True, effort=1.0)[0]
        assert best.score > 0.9999 and (best.path == str(sounds / f"{number}.wav") or kind == "function")
    vectors, _ = encoder.encode_windows(sounds / "3.wav")
    assert library.n_windows > len(vectors) == 1 + np.ceil((8 - encoder.window_seconds) / hop - 1e-6)
    third = [match for match in library.search(vectors[2].numpy(), every_window=True, k=99) if match.score > 0.99999]
    assert any(match.path.endswith("3.wav") and match.start_seconds == pytest.approx(2 * hop) for match in third)
    part = library.search((sounds / "3.wav", 0.5, 2.0), k=1, with_query=True)
    assert part[0].path.endswith("wav") and np.isfinite(part[0].score)
    for other in set(KINDS) - {kind}:
        with pytest.raises(UserError, match="made with another encoder"):
            SoundLibrary.open(folder, encoders[other])
    assert encoder.fingerprint() == library.identity["fingerprint"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_library_without_its_encoder(kind, encoders, libraries, sounds, capsys):
    """It loads what runs no code. Otherwise it tells what to do, and still opens, and takes vectors."""
    library = SoundLibrary.open(libraries / kind)
    assert library.search(np.ones(encoders[kind].embedding_size), 2) and library._encoder is None
    if kind in ("speechbrain", "function"):
        ask = "--trust_remote_code" if kind == "speechbrain" else "'loudness 1', an encoder in Python"
        with pytest.raises(UserError, match=ask):
            library.search(sounds / "1.wav")
        assert "goes with --model" in run(capsys, "search", libraries / kind, sounds / "1.wav", "--trust_remote_code")
    else:
        assert library.search(sounds / "1.wav") == SoundLibrary.open(libraries / kind, encoders[kind]).search(
            sounds / "1.wav"
        )
        assert library.encoder is library._encoder
    source = encoders[kind].source
    assert source in run(capsys, "info", libraries / kind)
    told = json.loads(run(capsys, "info", libraries / kind, "--json"))
    assert told["encoder"].get("text", False) == (kind == "clap") and told["encoder"]["source"] == source


def test_windows_and_means_are_those_of_a_plain_loop(encoders, sounds):
    rng, encoder = np.random.default_rng(1), encoders["function"]
    size, hop = encoder.window_samples, encoder.hop_frames(0.2)
    assert (size, hop) == (11025, 4410)
    wavs = [rng.standard_normal(n).astype(np.float32) for n in (1, 100, size, size + 1, 3 * size + 17, 5 * hop)]
    for wav, found in zip(wavs, encoder.encode_waveform_windows(wavs, 0.2), strict=True):
        starts = range(0, max(1, len(wav) - size + hop), hop)
        cut = [np.pad(wav[start : start + size], (0, size))[:size] for start in starts]
        wanted = F.normalize(torch.from_numpy(tiny_models.loudness(torch.from_numpy(np.stack(cut)))), dim=-1)
        torch.testing.assert_close(found, wanted)
    hop = encoder.hop_frames()
    for wav, mean in zip(wavs, encoder.encode_waveforms(wavs), strict=True):
        windows, total = encoder.encode_waveform_windows([wav])[0], torch.zeros(2)
        cut = [np.pad(wav[i * hop : i * hop + size], (0, size))[:size] for i in range(len(windows))]
        peaks = [float(peak_levels(torch.from_numpy(one)[None], 22050)) for one in cut]
        for i, vector in enumerate(windows):
            inside = 1.0 if i == 0 else min(1, max(0, (len(wav) - (i * hop + size - hop)) / hop))
            total += vector * inside * min(1, max(0.01, 1 + (peaks[i] - max(peaks)) / (2 * np.log(10))))
        torch.testing.assert_close(mean, F.normalize(total, dim=-1))
        torch.testing.assert_close(encoder.encode_waveform(wav), mean)
    assert encoder.encode_waveforms([]).shape == (0, 2) and encoder.encode_waveform_windows([]) == []


@pytest.mark.parametrize("kind", ["wav2vec2", "speechbrain", "function"])
def test_long_sounds_come_in_pieces_with_the_same_windows(kind, encoders, tmp_path, monkeypatch):
    encoder = encoders[kind]
    wav = 0.1 * np.random.default_rng(2).standard_normal(int(12.3 * encoder.sample_rate)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", wav, encoder.sample_rate, subtype="FLOAT")
    monkeypatch.setattr("cochlea_sb.inference.streaming.PIECE_SECONDS", 4)
    found, starts = encoder.encode_windows(tmp_path / "long.wav")
    wanted = encoder.encode_waveform_windows([wav])[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert len(starts) == len(found)
    vectors, problems = encoder.encode_files([tmp_path / "long.wav", tmp_path / "gone.wav"], progress=False)
    torch.testing.assert_close(vectors[0], encoder.encode_file(tmp_path / "long.wav"))
    assert "cannot be opened" in problems[tmp_path / "gone.wav"]


def lengths_and_windows(encoder, shortest):
    lengths = torch.tensor([encoder.window_samples, encoder.window_samples // 3, shortest])
    windows = 0.1 * torch.randn(3, encoder.window_samples, generator=torch.Generator().manual_seed(3))
    return windows * (torch.arange(encoder.window_samples) < lengths[:, None]), lengths


@pytest.mark.parametrize("name", ["clap", "unfused", "ast"])
def test_features_are_those_of_the_extractor(name, models):
    encoder = load_encoder(f"transformers:{models / name}")
    windows, lengths = lengths_and_windows(encoder, 700)
    wavs = [window[:length].numpy() for window, length in zip(windows, lengths, strict=True)]
    given = encoder.extractor(wavs, sampling_rate=encoder.sample_rate, return_tensors="pt")
    wanted = given["input_values" if name == "ast" else "input_features"].float()
    torch.testing.assert_close(encoder.features(windows, lengths), wanted, atol=1e-4, rtol=0)
    if name == "ast":
        model = transformers.ASTModel.from_pretrained(models / name)
        with torch.inference_mode():
            torch.testing.assert_close(encoder.embed(windows, lengths), model(wanted).pooler_output)
    again = encoder.embed(windows.flip(0), lengths.flip(0)).flip(0)
    torch.testing.assert_close(encoder.embed(windows, lengths), again, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["wav2vec2", "older"])
def test_waveforms_are_normalised_and_masked(name, models):
    encoder = load_encoder(f"transformers:{models / name}")
    windows, lengths = lengths_and_windows(encoder, encoder.shortest)
    one_by_one = [
        encoder.extractor(window[:length].numpy(), sampling_rate=16000, return_tensors="pt")["input_values"][0]
        for window, length in zip(windows, lengths, strict=True)
    ]
    wavs = torch.nn.utils.rnn.pad_sequence(one_by_one, batch_first=True)
    mask = (torch.arange(wavs.shape[1]) < lengths[:, None]).long() if name == "wav2vec2" else None
    model = transformers.Wav2Vec2Model.from_pretrained(models / name)
    with torch.inference_mode():
        hidden = model(wavs, attention_mask=mask).last_hidden_state
    frames = [49, 16, 1]  # of 320 samples, after the first 400
    wanted = torch.stack([one[:count].mean(0) for one, count in zip(hidden, frames, strict=True)])
    torch.testing.assert_close(encoder.embed(windows, lengths), wanted, atol=1e-5, rtol=1e-4)


def test_a_classifier_of_speechbrain_gives_its_own_embeddings(encoders, models):
    encoder = encoders["speechbrain"]
    windows, lengths = lengths_and_windows(encoder, 400)
    wanted = encoder.classifier.encode_batch(windows, lengths / encoder.window_samples)[:, 0]
    torch.testing.assert_close(encoder.embed(windows, lengths), wanted)
    same = SpeechBrainEncoder(encoder.classifier)
    assert same.fingerprint() == encoder.fingerprint() and same.identity()["source"] is None
    encoder.classifier.mods.compute_features.compute_fbanks.f_max -= 1000
    assert SpeechBrainEncoder(encoder.classifier).fingerprint() != encoder.fingerprint()
    encoder.classifier.mods.compute_features.compute_fbanks.f_max += 1000


def test_words_find_sounds_with_clap(models, libraries, sounds, capsys):
    words = "rain on a tin roof"
    model = transformers.ClapModel.from_pretrained(models / "clap")
    tokens = transformers.AutoTokenizer.from_pretrained(models / "clap")([words], return_tensors="pt")
    with torch.inference_mode():
        wanted = model.get_text_features(**tokens).pooler_output[0]
    library = SoundLibrary.open(libraries / "clap")
    query = library.encode(Text(words))
    np.testing.assert_allclose(query.vector, wanted, atol=1e-5)
    assert query.paths == set() and library.encoder.takes_text
    padded = library.encoder.embed_text([words, "dog", "a " * 100])
    torch.testing.assert_close(padded[0], wanted, atol=1e-5, rtol=1e-4)
    found = json.loads(run(capsys, "search", libraries / "clap", "--text", words, "--json"))
    assert [one["path"] for one in found] == [one.path for one in library.search(Text(words))] and len(found) == 4
    assert library.search(Text(words), path="2.wav")[0].path == str(sounds / "2.wav")
    both = json.loads(run(capsys, "search", libraries / "clap", sounds / "1.wav", "--text", words, "--json"))
    mixed = library.search({str(sounds / "1.wav"): 1.0, Text(words): 1.0})
    assert [one["score"] for one in both] == pytest.approx([one.score for one in mixed]) and len(both) == 3


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["wav2vec2", "--text", "rain"], "takes no text: search with a sound, or index .* CLAP"),
        (["clap", "--text", " "], "The text is ' '"),
        (["clap"], "nothing to search for: give a FILE, or --text"),
        (["clap", "--text", "rain", "--start", "1"], "--start and --end name a part of FILE"),
    ],
)
def test_a_text_that_is_no_query(arguments, words, libraries, capsys):
    said = run(capsys, "search", libraries / arguments[0], *arguments[1:])
    assert re.match(f"Error: .*{words}", said), said


def test_the_page_takes_words(libraries):
    for kind, takes_text in (("clap", True), ("wav2vec2", False)):
        library = SoundLibrary.open(libraries / kind)
        with running(library, "127.0.0.1") as site:
            assert json.loads(get(f"{site}api/library")[2])["takes_text"] is takes_text
            address = f"{site}api/search?like=text:rain%20on%20a%20roof*2&k=3"
            if takes_text:
                wanted = library.search(Text("rain on a roof"), 3)
                assert [one["name"] for one in results(address)] == [os.path.basename(one.path) for one in wanted]
            else:
                status, _, body = get(address)
                assert status == 400 and "takes no text" in json.loads(body)["error"]


HOSTILE = "evil: !apply:os.mkdir [{}]\n"


def test_a_library_of_somebody_else_runs_no_code(libraries, sounds, models, tmp_path, monkeypatch):
    mark = tmp_path / "ran"
    tiny_models.write_ecapa(tmp_path / "evil", HOSTILE.format(mark))
    (tmp_path / "evil.py").write_text(f"import os; os.mkdir({str(mark)!r})\n")
    shutil.copytree(models / "clap", tmp_path / "remote")
    config = json.loads((tmp_path / "remote" / "config.json").read_text())
    config |= {"model_type": "new", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    (tmp_path / "remote" / "config.json").write_text(json.dumps(config))
    shutil.copy(tmp_path / "evil.py", tmp_path / "remote" / "evil.py")
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "new.wav", np.ones(1000), 16000)
    refused = {
        f"speechbrain:{tmp_path / 'evil'}": "can run any code of its author.*--trust_remote_code",
        "python:evil:encoder": "an encoder in Python: pass it",
        f"transformers:{tmp_path / 'remote'}": "needs code of its author, which is never run",
    }
    for source, words in refused.items():
        folder = tmp_path / "library"
        shutil.copytree(libraries / "clap", folder)
        manifest = json.loads((folder / LIBRARY_MANIFEST).read_text())
        manifest["encoder"]["source"] = source
        (folder / LIBRARY_MANIFEST).write_text(json.dumps(manifest))
        library = SoundLibrary.open(folder)
        for query in (sounds / "1.wav", Text("rain"), np.zeros(100)):
            with pytest.raises(UserError, match=words):
                library.search(query)
        with pytest.raises(UserError, match=words):
            library.add(tmp_path / "new.wav", progress=False)
        shutil.rmtree(folder)
    assert not mark.exists()
    with pytest.raises(UserError, match="trust_remote_code"):
        load_encoder(f"speechbrain:{tmp_path / 'evil'}")
    assert not mark.exists()
    load_encoder(f"speechbrain:{tmp_path / 'evil'}", trust_remote_code=True)
    assert mark.exists()  # it can run code, if it is asked for


def test_weights_are_safetensors_and_complete(models, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(models / "ast", tmp_path / "pickled")
    weights = load_file(tmp_path / "pickled" / "model.safetensors")
    torch.save(weights, tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no model.safetensors"):
        load_encoder(f"transformers:{tmp_path / 'pickled'}")
    name = next(name for name in weights if "layernorm.weight" in name)
    part = {other: value for other, value in weights.items() if other != name}
    save_file(part, tmp_path / "pickled" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights, such as 'layernorm.weight'"):
        load_encoder(f"transformers:{tmp_path / 'pickled'}")
    (tmp_path / "pickled" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="can't be loaded by transformers"):
        load_encoder(f"transformers:{tmp_path / 'pickled'}")
    shutil.copytree(models / "wav2vec2", tmp_path / "deaf")
    (tmp_path / "deaf" / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="deaf' holds no preprocessor_config.json or processor_config.json: expected"):
        load_encoder(f"transformers:{tmp_path / 'deaf'}")
    fingerprint = load_encoder(f"transformers:{models / 'ast'}").fingerprint()
    shutil.copytree(models / "ast", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "preprocessor_config.json").read_text()) | {"mean": -4.0}
    (tmp_path / "other" / "preprocessor_config.json").write_text(json.dumps(config))
    assert load_encoder(f"transformers:{tmp_path / 'other'}").fingerprint() != fingerprint


@pytest.mark.parametrize(
    "source, words",
    [
        ("transformers:no/such/folder", "holds no config.json"),
        ("speechbrain:no/such/folder", "trust_remote_code"),
        ("python:no_such_module:encoder", "can't be imported"),
        ("python:json", "The encoder is 'python:json': expected python:MODULE:NAME"),
        ("python:.json:dumps", "The encoder is 'python:.json:dumps': expected python:MODULE:NAME"),
        ("python:json:nothing", "can't be imported .'json' has no 'nothing'.*expected python:MODULE:NAME"),
        ("python:json:dumps", "is a function: expected an object.*CallableEncoder"),
        ("python:json:JSONDecoder", "is a class: expected an object"),
        ("no_such_model", "or another kind of encoder as transformers:NAME"),
        ("pyhton:json:encoder", "begins with 'pyhton:': expected one of speechbrain:, transformers:, python:"),
        ("transfomers:user/name", "begins with 'transfomers:'"),
    ],
)
def test_a_source_that_is_none(source, words):
    with pytest.raises(UserError, match=words):
        load_encoder(source)


def test_a_model_of_another_kind_and_a_precision(models, tmp_path):
    config = transformers.WhisperConfig(**{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1})
    config.save_pretrained(tmp_path)
    transformers.WhisperFeatureExtractor().save_pretrained(tmp_path)
    shutil.copy(models / "ast" / "model.safetensors", tmp_path)
    with pytest.raises(UserError, match="a model of the kind 'whisper': expected CLAP, AST"):
        load_encoder(f"transformers:{tmp_path}")
    for source in (f"transformers:{models / 'ast'}", f"speechbrain:{models / 'ecapa'}"):
        with pytest.raises(UserError, match="The precision is 'bf16': expected fp32"):
            load_encoder(source, run_opts={"eval_precision": "bf16"}, trust_remote_code=True)
    with pytest.raises(UserError, match="can't be loaded as an EncoderClassifier"):
        load_encoder(f"speechbrain:{tmp_path}", trust_remote_code=True)


OWN = """
import torch
from cochlea_sb import CallableEncoder, Encoder

class Good(Encoder):
    sample_rate, window_seconds, embedding_size = 16000, 0.5, 2
    source = "levels"
    def embed(self, windows, lengths):
        return windows[:, :2]
    def fingerprint(self):
        return "good"

class Half(Encoder):
    embed = Good.embed

def fails(windows):
    return torch.nn.functional.linear(torch.ones(2, 3), torch.ones(2, 2))

def nothing(windows):
    return torch.full((len(windows), 2), torch.nan)

facts = {"sample_rate": 16000, "window_seconds": 0.5, "embedding_size": 2}
OBJECT
"""
FUNCTION = "own = CallableEncoder({}, name='a name', **facts)"
METHOD = "class Own(Good):\n    {}\nown = Own()"
EMBED = "@torch.inference_mode()\n    def embed(self, windows, lengths): return fails(windows)"


@pytest.mark.parametrize(
    "code, line, words",
    [
        (FUNCTION.format("fails"), "in fails", "'python:own_{}:own' failed .RuntimeError: mat1 .*; line 17 of .*own_"),
        (METHOD.format(EMBED), "in embed", "failed .RuntimeError: mat1 .*; line 17 of"),
        (METHOD.format("def fingerprint(self): open('/no/w')"), "in fingerprint", "FileNotFoundError: .*; line 24 of"),
        ("own = Half()", "in <module>", "TypeError: Can't instantiate abstract class Half .*fingerprint.*; line 23 of"),
        ("import not_there", "in <module>", "ModuleNotFoundError: No module named 'not_there'; line 23 of"),
        ("own = (", ", line 23", "SyntaxError: '.' was never closed"),
        (METHOD.format("sample_rate = 0"), "", "sample_rate is 0, expected an int above 0"),
        (METHOD.format("window_seconds = float('inf')"), "", "window_seconds is inf, expected a float"),
        (METHOD.format("hop_seconds = float('nan')"), "", "hop_seconds is nan: expected at least"),
        (METHOD.format("def fingerprint(self): pass"), "", "fingerprint of .*own' is None: expected a str"),
        (METHOD.format("def embed(self, *_): pass"), "", r"gave a NoneType: expected an array \[\d+, 2\]"),
    ],
)
def test_an_encoder_of_the_user_that_fails(sounds, tmp_path, monkeypatch, capsys, request, code, line, words):
    """It is no defect of cochlea_sb: the lines of the user's code are shown, then a sentence."""
    number = request.node.callspec.indices["code"]  # a module is imported once
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"own_{number}.py").write_text(OWN.replace("OBJECT", code))
    model = f"python:own_{number}:own"
    monkeypatch.setattr("sys.argv", ["cochlea", "index", str(sounds), "--library", "own.library", "--model", model])
    with pytest.raises(SystemExit) as end:
        cli.cochlea()
    said = capsys.readouterr().err
    told, _, sentence = said.rpartition("Error: The ")
    assert end.value.code == 1 and re.search(words.format(number), sentence), said
    frames = re.findall(r'File "(.*)", line \d+.*', told)
    assert (frames[0] == str(tmp_path / f"own_{number}.py") and line in told) if line else "Traceback" not in told, said
    assert not (tmp_path / "own.library").exists()


def test_the_page_logs_the_lines_of_an_encoder_that_fails(tmp_path, caplog):
    def fails(texts):
        raise RuntimeError("my own mistake")

    encoder = tiny_models.LongWords()
    library = SoundLibrary.create(tmp_path / "a.library", encoder)
    encoder.embed_text = fails
    with running(library, "127.0.0.1") as site:
        status, _, body = get(f"{site}api/search?like=text:rain&k=3")
    assert status == 500 and "'LongWords' failed (RuntimeError: my own mistake; line" in json.loads(body)["error"]
    assert 'raise RuntimeError("my own mistake")' in caplog.text


def test_embeddings_that_are_not_finite(sounds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_nan.py").write_text(OWN.replace("OBJECT", FUNCTION.format("nothing")))
    words = "None of 4 files could be added; .*the embedding that 'python:own_nan:own' gave is not finite"
    with pytest.raises(UserError, match=words):
        cli.main(["index", str(sounds), "--library", "own.library", "--model", "python:own_nan:own", "--quiet"])
    assert not (tmp_path / "own.library").exists()


GOOD = {"name": "loudness 1", "sample_rate": 16000, "window_seconds": 1.0, "embedding_size": 2}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"name": " "}, "expected a function, and its name"),
        ({"sample_rate": 16000.5}, "sample_rate is 16000.5"),
        ({"window_seconds": 0}, "window_seconds is 0"),
        ({"embedding_size": True}, "embedding_size is True"),
        ({"hop_seconds": 1e-5}, "hop_seconds is 1e-05: expected at least 0.001 s"),
        ({"device": "tpu9"}, "device is 'tpu9'"),
    ],
)
def test_a_function_with_wrong_facts(change, words):
    with pytest.raises(UserError, match=words):
        CallableEncoder(tiny_models.loudness, **(GOOD | change))


def test_what_a_function_gives_is_checked(sounds, tmp_path):
    wrong = CallableEncoder(lambda windows: windows[:, :3], **GOOD)
    with pytest.raises(UserError, match=r"'python:loudness 1' gave embeddings of shape \[1, 3\]: expected an array"):
        wrong.encode_waveform(np.ones(100))
    broken = CallableEncoder(lambda windows: windows[:, :2] * float("nan"), **GOOD)
    library = SoundLibrary.create(tmp_path / "broken", broken)
    assert len(library.add(sounds, progress=False).problems) == 4
    with pytest.raises(UserError, match="is not finite"):
        library.encode(sounds / "1.wav")
    for given in ("transformers:user/name", tiny_models.loudness):
        with pytest.raises(UserError, match="expected an Encoder"):
            SoundLibrary.create(tmp_path / "new", given)
    assert not (tmp_path / "new").exists()
    other = CallableEncoder(tiny_models.loudness, **(GOOD | {"name": "loudness 2"}))
    with pytest.raises(UserError, match="made with another encoder"):
        SoundLibrary.open(tmp_path / "broken", other)


def test_a_python_encoder_is_named_at_the_command_line(sounds, tmp_path, monkeypatch, capsys):
    code = "from cochlea_sb import CallableEncoder\nfrom tiny_models import loudness\n"
    code += f"encoder = CallableEncoder(loudness, **{GOOD})\n"
    (tmp_path / "my_loudness.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    model = ["--model", "python:my_loudness:encoder"]
    assert "holds 4 sounds" in run(capsys, "index", sounds, "--library", "a.library", *model, "--quiet")
    assert "3.wav" in run(capsys, "search", "a.library", sounds / "1.wav", *model)
    assert "python:my_loudness:encoder" in run(capsys, "info", "a.library")
    with pytest.raises(UserError, match="device is 'meta', and 'python:my_loudness:encoder' is on 'cpu'"):
        load_encoder(model[1], run_opts={"device": "meta"})
    assert "name it with --model python:MODULE:NAME" in run(capsys, "search", "a.library", sounds / "1.wav")


def test_an_own_class(sounds, tmp_path):
    class Loudness(Encoder):
        sample_rate, window_seconds, embedding_size = 16000, 1.0, 2
        source = "user/name"  # is no model on the Hub

        def embed(self, windows, lengths):
            return tiny_models.loudness(windows)

        def fingerprint(self):
            return "loudness"

    library = SoundLibrary.create(tmp_path / "library", Loudness(), hop_seconds=0.25)
    library.add(sounds, progress=False)
    assert library.hop_seconds == 0.25 and library.identity["source"] == "python:user/name" and len(library) == 4
    assert library.search(sounds / "1.wav") and not Loudness().takes_text
    with pytest.raises(UserError, match="'user/name' takes no text"):
        library.search(Text("rain"))
    with pytest.raises(UserError, match="made with 'user/name', an encoder in Python: pass it"):
        SoundLibrary.open(tmp_path / "library").search(sounds / "1.wav")


def test_shards_are_made_and_added(models, sounds, tmp_path, encoders):
    embed.main([str(sounds), "--model", f"transformers:{models / 'clap'}", "--output", str(tmp_path / "shards")])
    facts = read_facts(next((tmp_path / "shards").glob("*.parquet")))
    assert facts["identity"]["source"] == f"transformers:{models / 'clap'}" and facts["hop_seconds"] == 1.0
    library = SoundLibrary.create(tmp_path / "library", encoders["clap"])
    assert library.add(str(tmp_path / "shards"), progress=False).added == 4
    with pytest.raises(UserError, match="made with another encoder"):
        SoundLibrary.create(tmp_path / "other", encoders["ast"]).add(str(tmp_path / "shards"), progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_publishing_names_only_what_others_can_load(kind, libraries, encoders, tmp_path):
    source = libraries / kind
    exported = export(source, tmp_path / "local", "ada/sounds", license="mit")
    assert Store(tmp_path / "local").manifest()["encoder"]["source"] is None
    assert any("Its encoder is not on the Hub" in note for note in exported.notes)
    assert str(source.parent) not in (tmp_path / "local" / "README.md").read_text()
    with pytest.raises(UserError, match="a Space can only hold an encoder of cochlea_sb"):
        export_space(source, tmp_path / "space", "ada/page")
    if kind in ("clap", "speechbrain"):
        public = f"{encoders[kind].source.partition(':')[0]}:user/name"
        shutil.copytree(source, tmp_path / "hub")
        manifest = json.loads((tmp_path / "hub" / LIBRARY_MANIFEST).read_text())
        manifest["encoder"] |= {"source": public, "revision": "0123"}
        (tmp_path / "hub" / LIBRARY_MANIFEST).write_text(json.dumps(manifest))
        export(tmp_path / "hub", tmp_path / "public", "ada/sounds", license="mit")
        told = Store(tmp_path / "public").manifest()["encoder"]
        assert (told["source"], told["revision"]) == (public, "0123")
        assert public in (tmp_path / "public" / "README.md").read_text()


def test_many_sounds_do_not_wait_for_a_window_each(encoders, sounds):
    """Windows of different sounds share a call of `embed`."""
    calls = []

    def counted(windows):
        calls.append(len(windows))
        return tiny_models.loudness(windows)

    encoder = CallableEncoder(counted, **GOOD)
    assert len(list(encode_sounds(encoder, list_sources([sounds])))) == 4
    assert len(calls) == 1 and calls[0] > 15


def test_a_clap_folder_without_its_tokenizer_takes_no_words(tmp_path):
    tiny_models.write_clap(tmp_path / "clap")
    for file in (tmp_path / "clap").iterdir():
        if file.name not in ("config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"):
            file.unlink()
    encoder = load_encoder(f"transformers:{tmp_path / 'clap'}", run_opts={"device": "cpu"})
    with pytest.raises(UserError, match="tokenizer|can't be loaded by transformers"):
        encoder.encode_text("rain")
