"""Publishing and fetching, by the real huggingface_hub client against a Hub of our own on loopback."""

import json
import os
from pathlib import Path

import datasets
import embed
import huggingface_hub
import numpy as np
import push_to_hub
import pytest
import soundfile
import tiny_models
import torch
from hub_server import TOKEN, Hub

from cochlea_sb import AudioEncoder, SoundLibrary, Text, load_encoder
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.data.sounds import list_sources, load_sounds
from cochlea_sb.errors import UserError
from cochlea_sb.inference.model_folder import CONFIG, WEIGHTS, YAML, save_model
from cochlea_sb.publishing.export import export
from cochlea_sb.publishing.upload import stamped
from cochlea_sb.synthetic.library import synthetic_library
from cochlea_sb.training.recipe import load_experiment

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def hub():
    with Hub() as server:
        yield server


@pytest.fixture(autouse=True)
def client(hub, monkeypatch, tmp_path):
    """Makes this process a user of that Hub, with an empty cache; gives a function that changes the user."""

    def use(url=hub.url, cache=tmp_path / "cache", token=None, offline=False, links=True):
        monkeypatch.delenv("HF_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        constants = {"ENDPOINT": url, "HF_HUB_OFFLINE": offline, "HF_HUB_CACHE": str(cache / "hub")}
        constants |= {"HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}"}
        constants |= {"HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_SYMLINKS": not links}
        constants |= {"HF_TOKEN_PATH": str(cache / "token")}
        for name, value in constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)

    # The client waits longer and longer before it tries again; nobody else's sleep is touched.
    for module in ("_http", "_xet"):
        monkeypatch.setattr(f"huggingface_hub.utils.{module}.time.sleep", lambda seconds: None, raising=False)
    use()
    return use


@pytest.fixture
def push(client, capsys):
    """Runs recipes/push_to_hub.py; gives its status and its error, or all that it printed."""

    def run(*arguments, token=None):
        client(token=token)
        capsys.readouterr()
        status = 0
        try:
            push_to_hub.main([str(argument) for argument in arguments])
        except UserError as error:
            assert str(error).isprintable()
            status = 2
            print(f"Error: {error}")
        finally:
            client()
        said = capsys.readouterr()
        assert "hf_" not in said.out + said.err
        return f"{status} {said.out}"

    return run


def refusal(call, *arguments, **options):
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert str(error.value).isprintable()
    return str(error.value)


X = torch.sin(torch.arange(32000).reshape(2, 16000) ** 1.5 / 100)
FRESH = """
import torch
from cochlea_sb import AudioEncoder
from speechbrain.inference.classifiers import EncoderClassifier
x = torch.sin(torch.arange(32000).reshape(2, 16000) ** 1.5 / 100)
"""


@pytest.fixture
def session(hub, script, tmp_path):
    """Runs a piece of Python in a process of its own as a user of that Hub, with a cache of its own."""

    def run(code, url=hub.url, cache=tmp_path / "fresh", **more):
        environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        environment |= {"HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        return script("-c", code, cwd=ROOT, env=environment | more, timeout=100).stdout

    return run


def trained(folder, recipe="cnn"):
    """A results folder as training and measuring leave it, without the training."""
    hparams, text = load_experiment(f"hparams/{recipe}.yaml", {"output_folder": str(folder / "run")})
    front_end, encoder = hparams["compute_features"], hparams["embedding_model"]
    if hasattr(encoder, "fit"):
        frames = front_end(torch.randn(1, 60 * 16000, generator=torch.Generator().manual_seed(0)))[0]
        encoder.fit(FrameBank(frames, torch.tensor([2000, 2000, len(frames) - 4000]), encoder.silence, encoder.level))
    save_model(folder, front_end, encoder)
    (folder / "train.yaml").write_text(text)
    facts = {"recipe": f"{recipe}.yaml", "corpus": "folder", "dataset": None, "sounds": 12, "hours": 0.1}
    (folder / "training.json").write_text(json.dumps(facts | {"skipped": 1, "labels": False}))
    fingerprint = AudioEncoder.from_hparams(str(folder)).identity()["fingerprint"]
    figures = {"retrieval": {"log-mel": {"mAP": 0.25, "queries": 9}, "model": {"mAP": 0.75, "queries": 9}}}
    facts = {"description": "9 sounds of a test.", "fingerprint": fingerprint}
    (folder / "evaluation.json").write_text(json.dumps(facts | figures))
    (folder / "loss.png").write_bytes(b"\x89PNG a picture")
    return folder


def model_files(folder):
    """What a model needs to be loaded."""
    return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("results"))


def test_a_model_is_pushed_and_loaded_by_name_also_by_plain_speechbrain_and_without_a_network(
    hub, client, push, session, results, tmp_path
):
    said = push(results, "ada/round", "--license", "apache-2.0", token=TOKEN)
    assert said.startswith("0 ") and "Published: " in said, said
    files = hub.files("ada/round")
    assert set(files) == {CONFIG, YAML, WEIGHTS, "evaluation.json", "README.md", "loss.png"}
    card = files["README.md"].decode()
    for part in ("license: apache-2.0", "library_name: speechbrain", "type: mAP", "value: 0.75", "## Citation"):
        assert part in card
    for part in ("A folder of 12 sounds", "batch_size: 128", "| model | 0.750 |", "(loss.png)", "## Limits"):
        assert part in card
    assert str(results) not in card and str(tmp_path) not in card  # no path of the machine

    load = f"""{FRESH}
local = AudioEncoder.from_hparams({str(results)!r}).encode_batch(x)
fetched = AudioEncoder.from_hparams("ada/round", savedir={str(tmp_path / "own")!r})
assert torch.equal(fetched.encode_batch(x), local) and fetched.source == "ada/round"
assert torch.equal(AudioEncoder.from_hparams("ada/round").encode_batch(x), local)
plain = EncoderClassifier.from_hparams("ada/round", savedir={str(tmp_path / "plain")!r})
assert torch.equal(plain.encode_batch(x), local)
"""
    del hub.requests[:]
    session(load)  # a new process with a fresh cache
    assert sum(f"GET /lfs/{hub.keep(files[WEIGHTS])}" in one for one in hub.requests) <= 2
    with Hub() as gone:  # a port on which nobody answers any more
        nowhere = gone.url
    session(load, url=nowhere)
    session(load, HF_HUB_OFFLINE="1")


def test_an_encoder_pushes_itself(hub, client, results):
    encoder = AudioEncoder.from_hparams(str(results))
    assert "not logged in" in refusal(encoder.push_to_hub, "ada/self")
    client(token=TOKEN)
    address = encoder.push_to_hub("ada/self", private=True, license="mit", data="Rain.")
    files = hub.files("ada/self")
    assert set(files) == {CONFIG, YAML, WEIGHTS, "README.md"} and hub.repos["models", "ada/self"]["private"]
    assert "license: mit" in files["README.md"].decode() and "Rain." in files["README.md"].decode()
    assert files[WEIGHTS] == (results / WEIGHTS).read_bytes() and address.startswith(hub.url)
    encoder.push_to_hub("ada/self", revision="v2", license="mit", card="keep")
    assert "v2" in hub.repos["models", "ada/self"]["branches"]
    assert torch.equal(AudioEncoder.from_hparams("ada/self@v2").encode_batch(X), encoder.encode_batch(X))


def test_a_local_folder_never_touches_the_network_and_links_are_not_needed(hub, client, session, results, tmp_path):
    hub.put("ada/plain", model_files(results))
    del hub.requests[:]
    AudioEncoder.from_hparams(str(results))
    AudioEncoder.from_hparams()
    assert not hub.requests
    code = "from cochlea_sb import AudioEncoder; AudioEncoder.from_hparams('ada/plain')"
    session(code, cache=tmp_path / "unlinked", HF_HUB_DISABLE_SYMLINKS="1")
    weights = list((tmp_path / "unlinked").rglob(WEIGHTS))
    assert len(weights) == 1 and not weights[0].is_symlink()


def test_a_cache_that_keeps_files_of_all_models_together_is_read(hub, client, results, tmp_path):
    """As huggingface_hub does with what came by Xet."""
    hub.put("ada/shared", model_files(results))
    AudioEncoder.from_hparams("ada/shared")
    link = next((tmp_path / "cache" / "hub").rglob(f"snapshots/*/{WEIGHTS}"))
    shared = tmp_path / "cache" / "hub" / "blobs" / "ab" / "hash"
    shared.parent.mkdir(parents=True)
    link.resolve().rename(shared)
    link.unlink()
    link.symlink_to(os.path.relpath(shared, link.parent))
    client(offline=True)
    AudioEncoder.from_hparams("ada/shared")


@pytest.mark.parametrize("recipe", ["bag_of_audio_words", "bag_of_audio_words_chroma", "seq2seq", "log_mel"])
def test_every_kind_of_encoder_is_published(tmp_path, recipe):
    (tmp_path / "results").mkdir()
    results = trained(tmp_path / "results", recipe)
    published = export(results, tmp_path / "published", "ada/name", license="mit")
    assert published.repo_type == "model" and not published.notes
    x = torch.randn(2, 20000, generator=torch.Generator().manual_seed(1))
    one, other = (AudioEncoder.from_hparams(str(folder)) for folder in (results, tmp_path / "published"))
    assert torch.equal(one.encode_batch(x), other.encode_batch(x))
    assert one.identity()["fingerprint"] == other.identity()["fingerprint"]


def test_what_may_go_wrong_is_one_sentence_and_leaves_the_hub_as_it_was(hub, client, push, results):
    hub.put("ada/public", {CONFIG: b"{}"})
    for arguments, token, said in [
        (("ada/new",), None, "not logged in"),
        (("ada/new",), "hf_wrong", "does not know your token"),
        (("bob/new",), TOKEN, "may not do this to 'bob/new'"),
        (("new",), TOKEN, "expected user/name"),
        (("ada/a/b",), TOKEN, "expected user/name"),
        (("ada/a b",), TOKEN, "'ada/a b' is no name on the Hub"),
        (("ada/public", "--private"), TOKEN, "is public"),
    ]:
        sentence = push(results, *arguments, token=token)
        assert sentence.startswith("2 ") and said in sentence, sentence
    sentence = push("tests", "ada/new", token=TOKEN)
    assert sentence.startswith("2 ") and "is nothing to publish" in sentence, sentence
    client(token="hf_wrong")
    assert "does not know your token" in refusal(AudioEncoder.from_hparams, "ada/public")
    client()
    assert "There is no model 'ada/missing' on the Hub" in refusal(AudioEncoder.from_hparams, "ada/missing")
    assert "no revision 'v9'" in refusal(AudioEncoder.from_hparams, "ada/public", revision="v9")
    assert "'ada/public' holds no model.safetensors" in refusal(AudioEncoder.from_hparams, "ada/public")
    assert ("models", "ada/new") not in hub.repos and hub.files("ada/public") == {CONFIG: b"{}"}


def test_an_upload_that_breaks_off_leaves_nothing_half_and_goes_on(hub, push, results):
    hub.blobs.clear()
    hub.fail = True
    try:
        said = push(results, "ada/broken", token=TOKEN)
    finally:
        hub.fail = False
    assert said.startswith("2 Error: The Hub can't be reached, or broke off, for 'ada/broken'")
    assert hub.files("ada/broken") == {}
    hub.keep((results / WEIGHTS).read_bytes())  # as if that had arrived before
    del hub.requests[:]
    assert push(results, "ada/broken", token=TOKEN).startswith("0 ")
    assert set(hub.files("ada/broken")) >= {CONFIG, YAML, WEIGHTS, "README.md"}
    assert sum(one.startswith("PUT") for one in hub.requests) == 1  # the picture alone


def test_what_somebody_else_changed_meanwhile_is_not_written_over(hub, push, results):
    hub.put("ada/moving", {"notes.txt": b"mine"})
    hub.moved = True
    try:
        said = push(results, "ada/moving", token=TOKEN)
    finally:
        hub.moved = False
    assert said.startswith("2 ") and "'ada/moving' was changed on the Hub by someone else meanwhile" in said
    assert hub.files("ada/moving") == {"notes.txt": b"by somebody else"}


def test_a_gated_model_says_so(hub, results):
    hub.put("ada/gated", model_files(results))
    hub.repos["models", "ada/gated"]["gated"] = True
    assert "only to users whom its owner has admitted" in refusal(AudioEncoder.from_hparams, "ada/gated")


def test_a_model_that_declares_too_much_is_not_fetched(hub, results):
    hub.put("ada/huge", {CONFIG: (results / CONFIG).read_bytes(), WEIGHTS: b"little"})
    hub.declared[WEIGHTS] = 10 << 30
    try:
        del hub.requests[:]
        assert "10,737,418,240 bytes" in refusal(AudioEncoder.from_hparams, "ada/huge")
        assert not any(one.startswith("GET /lfs") for one in hub.requests)
    finally:
        hub.declared.clear()


def test_a_hostile_model_on_the_hub_runs_nothing(hub, results, tmp_path):
    config = (results / CONFIG).read_text().replace("cochlea_sb.features.LogMel", "os.mkdir")
    yaml = (results / YAML).read_text() + f"extra: !apply:os.mkdir ['{tmp_path}/ran']\n"
    hub.put("eve/model", model_files(results) | {YAML: yaml.encode()})
    AudioEncoder.from_hparams("eve/model")  # the yaml is not even downloaded
    hub.put("eve/model", {CONFIG: config.encode()})
    assert "names 'os.mkdir' as the class" in refusal(AudioEncoder.from_hparams, "eve/model")
    assert not (tmp_path / "ran").exists() and not list((tmp_path / "cache").rglob(YAML))


def test_another_card_is_not_overwritten_unasked(hub, push, results):
    hub.put("ada/card", {"README.md": b"written by hand"})

    def pushed(*options):
        return push(results, "ada/card", *options, token=TOKEN)

    said = pushed()
    assert said.startswith("2 ") and "has another card" in said and "--card" in said
    assert hub.files("ada/card") == {"README.md": b"written by hand"}
    assert pushed("--card", "keep").startswith("0 ")
    assert hub.files("ada/card")["README.md"] == b"written by hand" and WEIGHTS in hub.files("ada/card")
    assert pushed("--card", "replace").startswith("0 ")
    assert b"## Citation" in hub.files("ada/card")["README.md"]
    assert pushed().startswith("0 ")  # the same card is no other
    hub.put("ada/card", {"README.md": stamped("---\nlicense: mit\n---\nof another day").encode()})
    said = pushed()
    assert said.startswith("2 ") and "add --license mit" in said
    assert pushed("--license", "mit").startswith("0 ")


def test_a_dry_run_leaves_a_folder_whose_edited_card_is_published_on_a_branch(hub, client, push, tmp_path):
    (tmp_path / "model").mkdir()
    results, left = trained(tmp_path / "model"), tmp_path / "model-to-publish"
    del hub.requests[:]
    said = push(results, "ada/dry", "--dry_run")
    assert said.startswith("0 ") and str(left) in said and not hub.requests
    assert AudioEncoder.from_hparams(str(left)).encode_batch(torch.ones(1, 9000)).shape == (1, 1, 128)
    said = push(results, "ada/dry", "--dry_run")
    assert said.startswith("2 ") and "exists already" in said
    (left / "README.md").write_text("my own words")
    said = push(left, "ada/dry", "--private", "--revision", "v2", token=TOKEN)
    assert said.startswith("0 "), said
    assert hub.repos["models", "ada/dry"]["private"] and hub.files("ada/dry") == {}
    assert hub.files("ada/dry", revision="v2")["README.md"] == b"my own words"
    commit = hub.repos["models", "ada/dry"]["branches"]["v2"]
    assert "no model 'ada/dry'" in refusal(AudioEncoder.from_hparams, "ada/dry", revision="v2")
    client(token=TOKEN)
    AudioEncoder.from_hparams("ada/dry", revision="v2").encode_batch(X)
    assert "holds no config.json on the Hub (main)" in refusal(AudioEncoder.from_hparams, "ada/dry")
    assert AudioEncoder.from_hparams("ada/dry@v2").revision == commit


def test_figures_of_another_model_are_left_out(results, tmp_path):
    copy = tmp_path / "results"
    copy.mkdir()
    for name in (CONFIG, WEIGHTS):
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
    config = (results / CONFIG).read_text().replace("cochlea_sb.encoders.cnn.ConvEncoder", "own.Encoder")
    (copy / CONFIG).write_text(config)
    with pytest.raises(UserError, match="names 'own.Encoder' as the class"):
        export(copy, tmp_path / "published", "ada/name")
    assert not (tmp_path / "published").exists()


def changed(results, folder):
    """The files of a model after more training."""
    encoder = AudioEncoder.from_hparams(str(results))
    encoder.mods.embedding_model.project[0].weight += 1
    encoder.save(folder)
    return model_files(folder)


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name, hertz in (("low", 200), ("high", 4000), ("other", 900)):
        soundfile.write(folder / f"{name}.wav", 0.3 * np.sin(2 * np.pi * hertz * np.arange(24000) / 16000), 16000)
    return folder


def test_a_library_travels(hub, client, push, results, sounds, tmp_path):
    library = SoundLibrary.create(tmp_path / "a.library", AudioEncoder.from_hparams(str(results)))
    library.add([str(sounds)], progress=False)
    found = {Path(match.path).name: match.score for match in library.search(str(sounds / "low.wav"), k=2)}
    assert push(results, "ada/encoder", token=TOKEN).startswith("0 ")
    options = (tmp_path / "a.library", "ada/library", "--model")
    said = push(*options, "ada/encoder", token=TOKEN)
    assert "It holds the paths of 3 sounds, such as 'high.wav'" in said
    before = set(hub.files("ada/library", "datasets"))
    library.remove([str(sounds / "high.wav")])
    assert push(*options, "ada/encoder", token=TOKEN).startswith("0 ")
    after = hub.files("ada/library", "datasets")
    assert before != set(after) and not any(path.startswith("delta-") for path in after)
    for content in after.values():  # nothing of the removed sound, nor of the machine's folders
        assert b"high.wav" not in content and str(tmp_path).encode() not in content
    hub.put("ada/other", changed(results, tmp_path / "changed"))
    said = push(*options, "ada/other", token=TOKEN)
    assert said.startswith("2 ") and "The model 'ada/other' has the fingerprint" in said

    huggingface_hub.snapshot_download("ada/library", repo_type="dataset", local_dir=tmp_path / "b.library")
    library = SoundLibrary.open(tmp_path / "b.library")
    matches = library.search(str(sounds / "low.wav"), k=2)
    assert [match.path for match in matches] == ["low.wav", "other.wav"] and library.identity["source"] == "ada/encoder"
    assert abs(matches[1].score - found["other.wav"]) < 1e-6


def test_a_library_becomes_a_space(hub, client, push, results, sounds, tmp_path):
    library = SoundLibrary.create(tmp_path / "a.library", AudioEncoder.from_hparams(str(results)))
    library.add([str(sounds)], progress=False)
    options = (tmp_path / "a.library", "ada/page", "--space")
    said = push(*options, token=TOKEN)  # the card that the Hub has written into the new Space is replaced
    assert said.startswith("0 ") and "its 3 sounds, such as 'high.wav'" in said, said
    files = hub.files("ada/page", "spaces")
    assert files["sounds/high.wav"] == (sounds / "high.wav").read_bytes() and b"--public" in files["Dockerfile"]
    assert b"app_port: 7860" in files["README.md"] and not any(
        str(tmp_path).encode() in file for file in files.values()
    )
    library.remove([str(sounds / "high.wav")])
    assert push(*options, token=TOKEN).startswith("0 ")
    assert set(files) - set(hub.files("ada/page", "spaces")) == {"sounds/high.wav"}

    del hub.requests[:]
    said, left = push(*options, "--dry_run"), tmp_path / "a.library-space"
    assert said.startswith("0 ") and f"python recipes/push_to_hub.py {left} ada/page --space" in said
    assert f"cochlea index {left}/sounds" in said and not hub.requests
    (left / "README.md").write_text("my own words")
    said = push(left, "ada/page", "--space", "--license", "mit", token=TOKEN)
    assert said.startswith("2 ") and "is published as it is" in said
    assert push(left, "ada/page", "--space", token=TOKEN).startswith("0 ")
    assert hub.files("ada/page", "spaces")["README.md"] == b"my own words"
    said = push(*options, token=TOKEN)
    assert said.startswith("2 ") and "has another card" in said


def test_a_library_finds_its_encoder_again_when_the_hub_has_a_newer_one(hub, client, results, sounds, tmp_path):
    hub.put("ada/moves", model_files(results))
    SoundLibrary.create(tmp_path / "a.library", AudioEncoder.from_hparams("ada/moves")).add([sounds], progress=False)
    hub.put("ada/moves", changed(results, tmp_path / "changed"))
    for cache in ("cache", "fresh"):
        client(cache=tmp_path / cache)
        assert SoundLibrary.open(tmp_path / "a.library").search(str(sounds / "low.wav"))


def embedded(sounds, shards, count):
    embed.main([str(sounds), "--output", str(shards), "--shard_sounds", str(count)])
    return shards


def test_embeddings_travel_as_a_dataset(hub, push, session, results, sounds, tmp_path):
    shards = embedded(sounds, tmp_path / "embeddings", 2)
    assert push(shards, "ada/embeddings", "--license", "cc0-1.0", token=TOKEN).startswith("0 ")
    files = hub.files("ada/embeddings", "datasets")
    assert not any(str(tmp_path).encode() in content for content in files.values())
    assert len(files) == 3 and b"Embeddings of 3 sounds" in files["README.md"]
    session("""
import datasets
rows = datasets.load_dataset("ada/embeddings", split="train")
assert len(set(rows["path"])) == 3 and len(rows[0]["embedding"]) == 128
""")


def test_what_is_not_whole_or_makes_no_sense_is_not_published(results, sounds, tmp_path):
    shards = embedded(sounds, tmp_path / "embeddings", 1)
    next(shards.iterdir()).unlink()
    card = tmp_path / "card"
    card.mkdir()
    for name in (CONFIG, WEIGHTS):
        (card / name).write_bytes((results / name).read_bytes())
    (card / "README.md").write_text("mine")
    for source, options, said in [
        (shards, {}, "holds 2 of 3 shards"),
        (shards, {"data": "Rain."}, "is no model, and --data"),
        (results, {"model": "ada/encoder"}, "is a model, and --model"),
        (results, {"license": "Apache 2.0"}, "expected its identifier"),
        (card, {"license": "mit"}, "is published as it is"),
        (tmp_path, {}, "is nothing to publish"),
        (shards, {"model": "no name"}, "expected the encoder's user/name"),
    ]:
        with pytest.raises(UserError, match=said):
            export(source, tmp_path / "published", "ada/name", **options)
        assert not (tmp_path / "published").exists()


def test_a_dataset_is_not_waited_for_where_the_hub_is_out_of_reach(client, monkeypatch):
    """A mistyped path looks like the name of a dataset. `datasets` would ask for it for half a minute."""
    client(url="http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    waits = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    said = refusal(list_sources, "kicks/808.wav")
    assert "'kicks/808.wav'" in said and "it is no file or folder here, nor in the cache, and the Hub can't be" in said
    assert not waits and not datasets.config.HF_HUB_OFFLINE


@pytest.mark.parametrize("reached", [True, False])
def test_the_cache_alone_is_used_only_where_the_hub_is_out_of_reach(client, monkeypatch, reached):
    if not reached:
        client(url="http://127.0.0.1:9")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    seen = []

    def load(*arguments, **options):
        seen.append(datasets.config.HF_HUB_OFFLINE)
        return synthetic_library(2).select([0])

    monkeypatch.setattr("datasets.load_dataset", load)
    assert len(load_sounds(dataset="ada/sounds")) == 1
    assert seen == [not reached] and not datasets.config.HF_HUB_OFFLINE


def test_a_model_of_transformers_is_loaded_by_its_commit_and_named_in_a_published_library(hub, tmp_path):
    pytest.importorskip("transformers", reason="MODELS OF TRANSFORMERS ARE NOT TESTED: install transformers")
    tiny_models.write_clap(tmp_path / "clap")
    hub.put("grace/clap", tiny_models.files_of(tmp_path / "clap"))
    soundfile.write(tmp_path / "dog.wav", np.ones(9000), 48000)
    local = load_encoder(f"transformers:{tmp_path / 'clap'}")
    SoundLibrary.create(tmp_path / "local", local).add(tmp_path / "dog.wav", progress=False)
    export(tmp_path / "local", tmp_path / "published", "ada/sounds", license="mit", model="transformers:grace/clap")
    hub.put("grace/clap", {"README.md": b"A later commit."})
    library = SoundLibrary.open(tmp_path / "published")
    assert library.search(Text("rain"))[0].path == "dog.wav"
    commit = library.identity["revision"]
    assert library.identity["source"] == "transformers:grace/clap" and library.encoder.revision == commit
    newest = load_encoder("transformers:grace/clap")
    assert newest.revision != commit and newest.fingerprint() == local.fingerprint()
    assert load_encoder(f"transformers:grace/clap@{commit}").identity() == library.identity
    hub.put("grace/pickle", {"config.json": b"{}", "pytorch_model.bin": b""})
    assert "holds no model.safetensors on the Hub" in refusal(load_encoder, "transformers:grace/pickle")
    assert "There is no model 'grace/none'" in refusal(load_encoder, "transformers:grace/none")
