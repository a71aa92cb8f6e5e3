"""Publishing and fetching, by the real huggingface_hub client against a Hub of our own on loopback."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hub_server import TOKEN, Hub

from cochlea_sb import AudioEncoder, SoundLibrary
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.errors import UserError
from cochlea_sb.hub import stamped
from cochlea_sb.inference.model_folder import WEIGHTS, YAML, save_model
from cochlea_sb.publishing.export import export
from cochlea_sb.training.recipe import load_experiment

ROOT = Path(__file__).parent.parent
# What each session below begins with: `push` is recipes/push_to_hub.py, and gives its status and what it said.
PREAMBLE = """
import contextlib, io, os, runpy, sys, time
from pathlib import Path
import torch
time.sleep = lambda seconds: None  # the client waits longer and longer before it tries again
def push(*arguments, token=None):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    sys.argv, said = ["push_to_hub.py", *map(str, arguments)], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path("recipes/push_to_hub.py", run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code
    errors = [line for line in said.getvalue().splitlines() if line.startswith("Error")]
    assert "Traceback" not in said.getvalue() and "hf_" not in said.getvalue() and len(errors) == (status != 0)
    return (status, errors[0] if errors else said.getvalue())
def refusal(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except UserError as error:
        assert "\\n" not in str(error)
        return str(error)
from cochlea_sb import AudioEncoder
x = torch.sin(torch.arange(32000).reshape(2, 16000) ** 1.5 / 100)
"""


@pytest.fixture(scope="module")
def hub():
    with Hub() as server:
        yield server


@pytest.fixture
def session(hub, tmp_path):
    """Runs a piece of Python as a user of that Hub would, with a cache of its own."""

    def run(code, url=hub.url, cache=tmp_path / "cache", **more):
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {"HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", f"{PREAMBLE}\n{code}"],
            cwd=ROOT,
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def trained(folder, recipe="cnn"):
    """A results folder as training and measuring leave it, without the training."""
    hparams, text = load_experiment(f"hparams/{recipe}.yaml", {"output_folder": str(folder / "run")})
    encoder = hparams["embedding_model"]
    if hasattr(encoder, "fit"):
        front_end = hparams["compute_features"]
        frames = front_end(torch.randn(1, 60 * 16000, generator=torch.Generator().manual_seed(0)))[0]
        encoder.fit(FrameBank(frames, torch.tensor([2000, 2000, len(frames) - 4000]), encoder.silence, encoder.level))
    save_model(folder, text, encoder)
    (folder / "train.yaml").write_text(text)
    facts = {"recipe": f"{recipe}.yaml", "corpus": "folder", "dataset": None, "sounds": 12, "hours": 0.1}
    (folder / "training.json").write_text(json.dumps(facts | {"skipped": 1, "labels": False}))
    fingerprint = AudioEncoder.from_hparams(str(folder)).identity()["fingerprint"]
    figures = {"retrieval": {"log-mel": {"mAP": 0.25, "queries": 9}, "model": {"mAP": 0.75, "queries": 9}}}
    facts = {"description": "9 sounds of a test.", "fingerprint": fingerprint}
    (folder / "evaluation.json").write_text(json.dumps(facts | figures))
    (folder / "loss.png").write_bytes(b"\x89PNG a picture")
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("results"))


def test_a_model_is_pushed_and_loaded_by_name_also_by_plain_speechbrain_and_without_a_network(
    hub, session, results, tmp_path
):
    session(f"status, said = push({str(results)!r}, 'ada/round', '--license', 'apache-2.0', token={TOKEN!r})\n"
            "assert status == 0 and 'Published: ' in said, said")  # fmt: skip
    files = hub.files("ada/round")
    assert set(files) == {YAML, WEIGHTS, "config.json", "evaluation.json", "README.md", "loss.png"}
    card = files["README.md"].decode()
    for part in ("license: apache-2.0", "library_name: speechbrain", "type: mAP", "value: 0.75", "## Citation"):
        assert part in card
    for part in ("A folder of 12 sounds", "batch_size: 64", "| model | 0.750 |", "(loss.png)", "## Limits"):
        assert part in card
    assert str(results) not in card and str(tmp_path) not in card  # no path of the machine

    load = f"""
local = AudioEncoder.from_hparams({str(results)!r}).encode_batch(x)
{{before}}
fetched = AudioEncoder.from_hparams("ada/round", savedir={str(tmp_path / "own")!r})
assert torch.equal(fetched.encode_batch(x), local) and fetched.source == "ada/round"
assert torch.equal(AudioEncoder.from_hparams("ada/round").encode_batch(x), local)
from speechbrain.inference.classifiers import EncoderClassifier
plain = EncoderClassifier.from_hparams("ada/round", savedir={str(tmp_path / "plain")!r})
assert torch.equal(plain.encode_batch(x), local)
"""
    del hub.requests[:]
    session(load.format(before="time.sleep(0)"), HF_TOKEN="")
    assert sum(f"GET /lfs/{name}" in one for one in hub.requests for name in [hub.keep(files[WEIGHTS])]) <= 2
    with Hub() as gone:  # a port on which nobody answers any more
        nowhere = gone.url
    session(load.format(before="pass"), url=nowhere)
    session(load.format(before="pass"), url=hub.url, HF_HUB_OFFLINE="1")


def test_a_local_folder_never_touches_the_network_and_links_are_not_needed(hub, session, results, tmp_path):
    hub.put("ada/plain", {name: (results / name).read_bytes() for name in (YAML, WEIGHTS)})
    del hub.requests[:]
    session(f"AudioEncoder.from_hparams({str(results)!r}); AudioEncoder.from_hparams()")
    assert not hub.requests
    session("AudioEncoder.from_hparams('ada/plain')", cache=tmp_path / "unlinked", HF_HUB_DISABLE_SYMLINKS="1")
    weights = list((tmp_path / "unlinked").rglob(WEIGHTS))
    assert len(weights) == 1 and not weights[0].is_symlink()


def test_a_cache_that_keeps_files_of_all_models_together_is_read(hub, session, results, tmp_path):
    """As huggingface_hub does with what came by Xet."""
    hub.put("ada/shared", {name: (results / name).read_bytes() for name in (YAML, WEIGHTS)})
    session("AudioEncoder.from_hparams('ada/shared')")
    link = next((tmp_path / "cache" / "hub").rglob(f"snapshots/*/{WEIGHTS}"))
    shared = tmp_path / "cache" / "hub" / "blobs" / "ab" / "hash"
    shared.parent.mkdir(parents=True)
    link.resolve().rename(shared)
    link.unlink()
    link.symlink_to(os.path.relpath(shared, link.parent))
    session("AudioEncoder.from_hparams('ada/shared')", HF_HUB_OFFLINE="1")


@pytest.mark.parametrize("recipe", ["bag_of_audio_words", "bag_of_audio_words_chroma", "seq2seq", "log_mel"])
def test_every_kind_of_encoder_is_published(tmp_path, recipe):
    (tmp_path / "results").mkdir()
    results = trained(tmp_path / "results", recipe)
    published = export(results, tmp_path / "published", "ada/name", license="mit")
    assert published.repo_type == "model" and not published.notes
    x = torch.randn(2, 20000, generator=torch.Generator().manual_seed(1))
    one, other = (AudioEncoder.from_hparams(str(folder)) for folder in (results, tmp_path / "published"))
    assert torch.equal(one.encode_batch(x), other.encode_batch(x))
    config = json.loads((tmp_path / "published" / "config.json").read_text())
    assert config["fingerprint"] == other.identity()["fingerprint"]


def test_what_may_go_wrong_is_one_sentence_and_leaves_the_hub_as_it_was(hub, session, results):
    hub.put("ada/public", {YAML: b"a: 1"})
    session(f"""
folder = {str(results)!r}
for arguments, token, said in [
    (("ada/new",), None, "not logged in"),
    (("ada/new",), "hf_wrong", "does not know your token"),
    (("bob/new",), {TOKEN!r}, "may not do this to 'bob/new'"),
    (("new",), {TOKEN!r}, "expected user/name"),
    (("ada/a/b",), {TOKEN!r}, "expected user/name"),
    (("ada/a b",), {TOKEN!r}, "'ada/a b' is no name on the Hub"),
    (("ada/public", "--private"), {TOKEN!r}, "is public"),
]:
    status, sentence = push(folder, *arguments, token=token)
    assert status == 2 and said in sentence, sentence
status, sentence = push("tests", "ada/new", token={TOKEN!r})
assert status == 2 and "is nothing to publish" in sentence, sentence
os.environ["HF_TOKEN"] = "hf_wrong"
assert "does not know your token" in refusal(AudioEncoder.from_hparams, "ada/public")
del os.environ["HF_TOKEN"]
assert "There is no model 'ada/missing' on the Hub" in refusal(AudioEncoder.from_hparams, "ada/missing")
assert "no revision 'v9'" in refusal(AudioEncoder.from_hparams, "ada/public", revision="v9")
assert "'ada/public' holds no embedding_model.ckpt" in refusal(AudioEncoder.from_hparams, "ada/public")
""")
    assert ("models", "ada/new") not in hub.repos and hub.files("ada/public") == {YAML: b"a: 1"}


def test_an_upload_that_breaks_off_leaves_nothing_half_and_goes_on(hub, session, results):
    hub.blobs.clear()
    code = f"status, said = push({str(results)!r}, 'ada/broken', token={TOKEN!r})\nprint(status, said)"
    hub.fail = True
    try:
        said = session(code)
    finally:
        hub.fail = False
    assert said.startswith("2 Error: The Hub can't be reached, or broke off, for 'ada/broken'")
    assert hub.files("ada/broken") == {}
    hub.keep((results / WEIGHTS).read_bytes())  # as if that had arrived before
    del hub.requests[:]
    assert session(code).startswith("0 ")
    assert set(hub.files("ada/broken")) >= {YAML, WEIGHTS, "README.md"}
    assert sum(one.startswith("PUT") for one in hub.requests) == 1  # the picture alone


def test_what_somebody_else_changed_meanwhile_is_not_written_over(hub, session, results):
    hub.put("ada/moving", {"notes.txt": b"mine"})
    hub.moved = True
    try:
        said = session(f"print(*push({str(results)!r}, 'ada/moving', token={TOKEN!r}))")
    finally:
        hub.moved = False
    assert said.startswith("2 ") and "'ada/moving' was changed on the Hub by someone else meanwhile" in said
    assert hub.files("ada/moving") == {"notes.txt": b"by somebody else"}


def test_a_gated_model_says_so(hub, session, results):
    hub.put("ada/gated", {name: (results / name).read_bytes() for name in (YAML, WEIGHTS)})
    hub.repos["models", "ada/gated"]["gated"] = True
    session("assert 'only to whom its owner has admitted' in refusal(AudioEncoder.from_hparams, 'ada/gated')")


def test_a_model_that_declares_too_much_is_not_fetched(hub, session, results):
    hub.put("ada/huge", {YAML: (results / YAML).read_bytes(), WEIGHTS: b"little"})
    hub.declared[WEIGHTS] = 10 << 30
    try:
        del hub.requests[:]
        session("assert '10,737,418,240 bytes' in refusal(AudioEncoder.from_hparams, 'ada/huge')")
        assert not any(one.startswith("GET /lfs") for one in hub.requests)
    finally:
        hub.declared.clear()


def test_a_hostile_model_on_the_hub_runs_nothing(hub, session, results, tmp_path):
    text = (results / YAML).read_text().replace("16000\ncompute", f"!apply:os.mkdir ['{tmp_path}/ran']\ncompute", 1)
    hub.put("eve/model", {YAML: text.encode(), WEIGHTS: (results / WEIGHTS).read_bytes()})
    session("assert 'wants !apply:os.mkdir' in refusal(AudioEncoder.from_hparams, 'eve/model')")
    assert not (tmp_path / "ran").exists()


def test_another_card_is_not_overwritten_unasked(hub, session, results, tmp_path):
    hub.put("ada/card", {"README.md": b"written by hand"})
    code = f"print(*push({str(results)!r}, 'ada/card', *{{}}, token={TOKEN!r}))"
    said = session(code.format([]))
    assert said.startswith("2 ") and "has another card" in said and "--card" in said
    assert hub.files("ada/card") == {"README.md": b"written by hand"}
    assert session(code.format(["--card", "keep"])).startswith("0 ")
    assert hub.files("ada/card")["README.md"] == b"written by hand" and WEIGHTS in hub.files("ada/card")
    assert session(code.format(["--card", "replace"])).startswith("0 ")
    assert b"## Citation" in hub.files("ada/card")["README.md"]
    assert session(code.format([])).startswith("0 ")  # the same card is no other
    hub.put("ada/card", {"README.md": stamped("---\nlicense: mit\n---\nof another day").encode()})
    said = session(code.format([]))
    assert said.startswith("2 ") and "add --license mit" in said
    assert session(code.format(["--license", "mit"])).startswith("0 ")


def test_a_dry_run_leaves_a_folder_whose_edited_card_is_published_on_a_branch(hub, session, tmp_path):
    (tmp_path / "model").mkdir()
    results, left = trained(tmp_path / "model"), tmp_path / "model-to-publish"
    del hub.requests[:]
    said = session(f"print(*push({str(results)!r}, 'ada/dry', '--dry_run'))")
    assert said.startswith("0 ") and str(left) in said and not hub.requests
    assert AudioEncoder.from_hparams(str(left)).encode_batch(torch.ones(1, 9000)).shape == (1, 1, 128)
    said = session(f"print(*push({str(results)!r}, 'ada/dry', '--dry_run'))")
    assert said.startswith("2 ") and "is there already" in said
    (left / "README.md").write_text("my own words")
    said = session(f"print(*push({str(left)!r}, 'ada/dry', '--private', '--revision', 'v2', token={TOKEN!r}))")
    assert said.startswith("0 "), said
    assert hub.repos["models", "ada/dry"]["private"] and hub.files("ada/dry") == {}
    assert hub.files("ada/dry", revision="v2")["README.md"] == b"my own words"
    commit = hub.repos["models", "ada/dry"]["branches"]["v2"]
    session(f"""
assert "no model 'ada/dry'" in refusal(AudioEncoder.from_hparams, "ada/dry", revision="v2")
os.environ["HF_TOKEN"] = {TOKEN!r}
AudioEncoder.from_hparams("ada/dry", revision="v2").encode_batch(x)
assert "holds no hyperparams.yaml on the Hub (main)" in refusal(AudioEncoder.from_hparams, "ada/dry")
assert AudioEncoder.from_hparams("ada/dry@v2").revision == {commit!r}
""")


def test_figures_of_another_model_are_left_out(results, tmp_path):
    copy = tmp_path / "results"
    copy.mkdir()
    for name in (YAML, WEIGHTS):
        (copy / name).write_bytes((results / name).read_bytes())
    report = json.loads((results / "evaluation.json").read_text()) | {"fingerprint": "of another"}
    (copy / "evaluation.json").write_text(json.dumps(report))
    published = export(copy, tmp_path / "published", "ada/name", data="Rain.")
    card = (tmp_path / "published" / "README.md").read_text()
    assert "0.750" not in card and "Rain." in card
    assert [note for note in published.notes if "of another model" in note]


def test_a_model_that_others_could_not_load_is_not_published(results, tmp_path):
    copy = tmp_path / "results"
    copy.mkdir()
    (copy / WEIGHTS).write_bytes((results / WEIGHTS).read_bytes())
    (copy / YAML).write_text((results / YAML).read_text().replace("cochlea_sb.encoders.cnn.ConvEncoder", "own.Encoder"))
    with pytest.raises(UserError, match="wants !new:own.Encoder"):
        export(copy, tmp_path / "published", "ada/name")
    assert not (tmp_path / "published").exists()


def changed(results):
    """The weights of a model after more training."""
    weights, content = torch.load(results / WEIGHTS), io.BytesIO()
    torch.save(weights | {"project.0.weight": weights["project.0.weight"] + 1}, content)
    return content.getvalue()


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name, hertz in (("low", 200), ("high", 4000), ("other", 900)):
        soundfile.write(folder / f"{name}.wav", 0.3 * np.sin(2 * np.pi * hertz * np.arange(24000) / 16000), 16000)
    return folder


def test_a_library_travels(hub, session, results, sounds, tmp_path):
    library = SoundLibrary.create(tmp_path / "a.library", AudioEncoder.from_hparams(str(results)))
    library.add([str(sounds)], progress=False)
    found = [match.score for match in library.search(str(sounds / "low.wav"), k=2)]
    push = f"print(*push({str(tmp_path / 'a.library')!r}, 'ada/library', '--model', 'ada/encoder', token={TOKEN!r}))"
    said = session(f"print(*push({str(results)!r}, 'ada/encoder', token={TOKEN!r}))\n{push}")
    assert "It holds the paths of 3 sounds, such as 'high.wav'" in said
    before = set(hub.files("ada/library", "datasets"))
    library.remove([str(sounds / "high.wav")])
    assert session(push).startswith("0 ")
    after = hub.files("ada/library", "datasets")
    assert before != set(after) and not any(path.startswith("delta-") for path in after)
    for content in after.values():  # nothing of what was forgotten, nor of where all lay
        assert b"high.wav" not in content and str(tmp_path).encode() not in content
    hub.put("ada/other", {YAML: (results / YAML).read_bytes(), WEIGHTS: changed(results)})
    said = session(push.replace("ada/encoder", "ada/other"))
    assert said.startswith("2 ") and "The model 'ada/other' has the fingerprint" in said

    command = ["hf", "download", "ada/library", "--repo-type", "dataset", "--local-dir", str(tmp_path / "b.library")]
    session(
        f"import subprocess; subprocess.run([str(Path(sys.executable).with_name('hf')), *{command[1:]!r}], check=True)"
    )
    session(f"""
from cochlea_sb import SoundLibrary
library = SoundLibrary.open({str(tmp_path / "b.library")!r})
matches = library.search({str(sounds / "low.wav")!r}, k=2)
assert [match.path for match in matches] == ["low.wav", "other.wav"] and library.identity["source"] == "ada/encoder"
assert abs(matches[1].score - {found[0]}) < 1e-6
""")


def test_a_library_finds_its_encoder_again_when_the_hub_has_a_newer_one(hub, session, results, sounds, tmp_path):
    hub.put("ada/moves", {name: (results / name).read_bytes() for name in (YAML, WEIGHTS)})
    library = f"""
from cochlea_sb import SoundLibrary
folder = {str(tmp_path / "a.library")!r}
"""
    session(f"""{library}
library = SoundLibrary.create(folder, AudioEncoder.from_hparams("ada/moves"))
library.add([{str(sounds)!r}], progress=False)
""")
    hub.put("ada/moves", {WEIGHTS: changed(results)})
    for cache in ("cache", "fresh"):
        session(
            f"{library}assert SoundLibrary.open(folder).search({str(sounds / 'low.wav')!r})", cache=tmp_path / cache
        )


def test_embeddings_travel_as_a_dataset(hub, session, results, sounds, tmp_path):
    shards = tmp_path / "embeddings"
    command = [sys.executable, "recipes/embed.py", str(sounds), "--output", str(shards), "--shard_sounds", "2"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    session(f"print(*push({str(shards)!r}, 'ada/embeddings', '--license', 'cc0-1.0', token={TOKEN!r}))")
    files = hub.files("ada/embeddings", "datasets")
    assert not any(str(tmp_path).encode() in content for content in files.values())
    assert len(files) == 3 and b"Embeddings of 3 sounds" in files["README.md"]
    session("""
import datasets
rows = datasets.load_dataset("ada/embeddings", split="train")
assert len(set(rows["path"])) == 3 and len(rows[0]["embedding"]) == 128
""")


def test_what_is_not_whole_or_makes_no_sense_is_not_published(results, sounds, tmp_path):
    shards = tmp_path / "embeddings"
    command = [sys.executable, "recipes/embed.py", str(sounds), "--output", str(shards), "--shard_sounds", "1"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    next(shards.iterdir()).unlink()
    card = tmp_path / "card"
    card.mkdir()
    for name in (YAML, WEIGHTS):
        (card / name).write_bytes((results / name).read_bytes())
    (card / "README.md").write_text("mine")
    for source, options, said in [
        (shards, {}, "holds 2 of 3 shards"),
        (shards, {"data": "Rain."}, "wants no --data"),
        (results, {"model": "ada/encoder"}, "wants no --model"),
        (results, {"license": "Apache 2.0"}, "expected its identifier"),
        (card, {"license": "mit"}, "is the card, as it is"),
        (tmp_path, {}, "is nothing to publish"),
        (shards, {"model": "no name"}, "expected the encoder's user/name"),
    ]:
        with pytest.raises(UserError, match=said):
            export(source, tmp_path / "published", "ada/name", **options)
        assert not (tmp_path / "published").exists()
