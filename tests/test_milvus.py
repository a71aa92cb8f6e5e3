"""A copy of a library in Milvus Lite finds what the library finds, follows it, and never claims more than it holds.

Milvus Lite is large and not in the extra ``dev``: without it, a warning tells that the copy is not tested.
"""

import importlib.util
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from library import generate

from cochlea_sb import AudioEncoder, SoundLibrary
from cochlea_sb.errors import UserError
from cochlea_sb.inference.model_folder import save_model
from cochlea_sb.library import milvus
from cochlea_sb.library.milvus import MilvusCopy, default_collection
from cochlea_sb.training.recipe import load_experiment

INSTALLED = all(importlib.util.find_spec(name) is not None for name in ("pymilvus", "milvus_lite"))
if not INSTALLED:
    warnings.warn("Milvus Lite is not installed: THE COPY IN MILVUS IS NOT TESTED.", stacklevel=1)
pytestmark = pytest.mark.skipif(not INSTALLED, reason="pip install '.[milvus]': THE COPY IN MILVUS IS NOT TESTED")
FILTERS = [
    {},
    {"path": "tone"},
    {"path": "*/noise/*[0-2].wav"},
    {"label": "noise", "every_window": True},
    {"words": "wav -tone1"},
    {"min_seconds": 1.2, "max_seconds": 1.8},
    {"path": "no such sound"},
    {"per_folder": 2, "fold_copies": True},
    {"skip": 3},
]


@pytest.fixture(scope="module")
def encoder(model_folder):
    return AudioEncoder.from_hparams(model_folder, run_opts={"device": "cpu"})


def write(path, seconds, hertz=None, seed=0):
    times = np.arange(int(16000 * seconds)) / 16000
    wav = np.sin(2 * np.pi * hertz * times) if hertz else np.random.default_rng(seed).standard_normal(len(times))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * wav, 16000)


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        write(tmp_path / "sounds" / "tone" / f"tone{number}.wav", 1.5, hertz=200 * 1.2**number)
        write(tmp_path / "sounds" / "noise" / f"noise{number}.wav", 1 + number / 4, seed=number)
    return tmp_path / "sounds"


@pytest.fixture
def library(encoder, folder, tmp_path):
    library = SoundLibrary.create(tmp_path / "a.library", encoder)
    library.add(folder, folder_labels=True, progress=False)
    return library


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "copy.db")


def export(library, uri, **options):
    return library.export(milvus=uri, progress=False, **options)


def opened(library, uri, **options):
    return SoundLibrary.open(library.store.folder, library._encoder, milvus=uri, **options)


def check_equal(library, uri, collection=None):
    """The rows are the windows of the library, and one mark."""
    copy = MilvusCopy(library.store.folder, uri, collection)
    copy.create(library._state.manifest["dimensions"])
    rows = copy.client.query(copy.collection, filter="id >= 0", output_fields=["*"])
    found = {row["id"]: row for row in rows}
    state = library._state
    assert len(rows) == len(found) == library.n_windows
    for row in np.flatnonzero(state.readable).tolist():
        sound = state.sounds.slice(row, 1).to_pylist()[0]
        numbers = state.windows_of(np.array([row]))
        for place, (number, vector) in enumerate(zip(numbers.tolist(), state.vectors_of(numbers), strict=True)):
            one = found[number]
            np.testing.assert_allclose(np.array(one["vector"], np.float32), vector, rtol=0, atol=1e-7)  # it rounds
            assert [one[name] for name in ("path", "label", "seconds")] == [
                sound[name] for name in ("path", "label", "seconds")
            ]
            assert one["start_seconds"] == round(place * library.hop_seconds, 6)
            assert one["start_seconds"] < one["end_seconds"] <= sound["seconds"] + 1e-6


def check_finds_the_same(copy, library, queries, **options):
    for query in queries:
        expected = library.search(query, effort=1.0, **options)
        found = copy.search(query, **options)
        assert [match._replace(score=0) for match in found] == [match._replace(score=0) for match in expected]
        np.testing.assert_allclose([m.score for m in found], [m.score for m in expected], atol=1e-6)


def test_a_copy_finds_what_the_library_finds(library, folder, uri, monkeypatch):
    assert export(library, uri) == library.n_windows
    check_equal(library, uri)
    copy = opened(library, uri)
    rng = np.random.default_rng(0)
    queries = [*rng.normal(size=(5, library.encoder.embedding_size)), folder / "noise" / "noise3.wav"]
    for options in FILTERS:
        check_finds_the_same(copy, library, queries, **options)
    assert len(copy.search(queries[0], k=100)) == 12  # fewer than asked for, and the mark is none of them
    monkeypatch.setattr(milvus, "NUMBERS_IN_A_FILTER", 4)
    check_finds_the_same(copy, library, queries, path="tone", every_window=True)
    tones = [folder / "tone" / f"tone{number}.wav" for number in range(2)]
    assert [m[:3] for m in copy.rank(tones, k=3)] == [m[:3] for m in library.rank(tones, k=3)]
    with pytest.raises(UserError, match="Milvus finds at most 16,384 windows at once"):
        copy.search(queries[0], k=9000)


def test_a_copy_follows_the_library(library, folder, uri, monkeypatch):
    monkeypatch.setattr(milvus, "COMPARED_AT_ONCE", 8)  # several blocks
    monkeypatch.setattr(milvus, "WRITTEN_AT_ONCE", 3)
    export(library, uri)
    check_equal(library, uri)
    copy = opened(library, uri)
    library.remove([folder / "tone" / "tone1.wav", folder / "noise"])
    write(folder / "tone" / "tone2.wav", 3.0, hertz=1000)
    write(folder / "new" / "tone9.wav", 2.0, hertz=3000)
    (folder / "tone" / "tone3.wav").rename(folder / "tone" / "moved.wav")
    library.add([folder / "tone", folder / "new"], folder_labels=True, progress=False)
    assert copy.search(np.ones(library.encoder.embedding_size), k=1)  # as it was
    copy.refresh()
    with pytest.raises(UserError, match="does not equal the library any more: run `cochlea export .*copy.db`"):
        copy.search(np.ones(library.encoder.embedding_size))
    written = []
    client = copy._copy.client
    for name in ("insert", "upsert"):
        monkeypatch.setattr(type(client), name, counting(getattr(type(client), name), written))
    assert export(library, uri) == library.n_windows
    changed = {Path(row["path"]).name for row in written if row["id"] >= 0}
    assert changed == {"tone1.wav", "tone2.wav", "tone9.wav", "moved.wav"}
    check_equal(library, uri)
    copy.refresh()
    check_finds_the_same(copy, library, [folder / "new" / "tone9.wav"])
    written.clear()
    library.merge()
    export(library, uri)
    assert len(written) == 2  # only the mark
    written.clear()
    export(library, uri)
    assert written == []
    check_equal(library, uri)


def counting(write, written):
    def write_and_count(self, collection, rows, **options):
        written.extend(rows if isinstance(rows, list) else [rows])
        return write(self, collection, rows, **options)

    return write_and_count


def test_another_library_takes_a_collection_over_completely(library, encoder, folder, tmp_path, uri):
    export(library, uri, collection="shared")
    copy = opened(library, uri, collection="shared")
    other = SoundLibrary.create(tmp_path / "b.library", encoder)
    other.add([folder / "noise", folder / "tone" / "tone5.wav"], progress=False)
    export(other, uri, collection="shared")
    check_equal(other, uri, "shared")
    query = np.ones(encoder.embedding_size)
    check_finds_the_same(opened(other, uri, collection="shared"), other, [query])
    with pytest.raises(UserError, match="has changed: open the library again, or run .* --collection shared`"):
        copy.search(query)
    with pytest.raises(UserError, match="does not equal the library any more"):
        opened(library, uri, collection="shared")
    export(library, uri)  # has a collection of its own
    export(other, uri)
    check_finds_the_same(opened(library, uri), library, [query])


def test_another_encoder_is_refused(library, encoder, folder, tmp_path, uri):
    hparams, _ = load_experiment("hparams/cnn.yaml", {"output_folder": str(tmp_path / "results"), "seed": 7})
    with torch.no_grad():
        for parameter in hparams["embedding_model"].parameters():
            parameter.mul_(1.1)
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", hparams["compute_features"], hparams["embedding_model"])
    another = AudioEncoder.from_hparams(tmp_path / "model", run_opts={"device": "cpu"})
    other = SoundLibrary.create(tmp_path / "b.library", another)
    other.add(folder / "tone", progress=False)
    export(library, uri)
    for attempt in (lambda: opened(other, uri, collection="a"), lambda: export(other, uri, collection="a")):
        with pytest.raises(UserError, match="belongs to another encoder .* choose another collection"):
            attempt()
    check_equal(library, uri)


def test_a_killed_export_is_continued(script, tmp_path, uri):
    generate(tmp_path / "big.library", 600, 10)
    library = SoundLibrary.open(tmp_path / "big.library")
    command = ["cochlea", "export", tmp_path / "big.library", "--milvus", uri]
    for least in (30,):  # percent
        export_ = script.start(*command)
        while not any(least <= int(text) < 95 for text in re.findall(r"(\d+)%", export_.paths[1].read_text())):
            assert export_.process.is_alive(), export_.paths[1].read_text()
            time.sleep(0.02)
        export_.send_signal(signal.SIGKILL)
        assert export_.finish().returncode == -signal.SIGKILL
        said = script("cochlea", "search", tmp_path / "big.library", "a.wav", "--milvus", uri, status=2).stderr
        assert f"is not complete: run `cochlea export {tmp_path}/big.library --milvus {uri}` again." in said
    assert "holds 6,000 windows." in script(*command).stdout
    check_equal(library, uri)
    check_finds_the_same(opened(library, uri), library, [np.ones(128)], path="pack 1")


def test_the_command_line_searches_a_copy(script, library, folder, tmp_path, model_folder, uri):
    said = script("cochlea", "export", library.store.folder, tmp_path / "a.npy", "--milvus", uri, "--collection", "b")
    assert said.stdout.count(f"holds {library.n_windows:,} windows.") == 2 and (tmp_path / "a.npy").exists()
    search = ["cochlea", "search", library.store.folder, folder / "tone" / "tone2.wav", "--label", "tone", "--json"]
    own = script(*search, "--effort", 1).stdout
    copies = script(*search, "--milvus", uri, "--collection", "b").stdout
    path = re.compile(r'"path": "(.*)"')
    assert path.findall(copies) == path.findall(own) and len(path.findall(own)) == 5
    assert "holds no collection 'a': make it with `cochlea export" in script(*search, "--milvus", uri, status=2).stderr
    gone = tmp_path / "gone.db"
    assert "does not exist: make it with" in script(*search, "--milvus", gone, status=2).stderr and not gone.exists()
    assert "There is no target" in script("cochlea", "export", library.store.folder, status=2).stderr


def test_what_can_not_be_a_copy_is_refused(library, tmp_path, uri):
    for text, reason in (
        ("copy.sqlite", "expected a file NAME.db"),
        ("", "expected a file such as copy.db"),
        ("http://127.0.0.1:1", "can't be opened .* check the address and MILVUS_TOKEN"),
        ("nonsense://a", "can't be opened"),
        (str(tmp_path / "no" / "copy.db"), "because the folder '.*no' does not exist: make it first"),
    ):
        with pytest.raises(UserError, match=reason):
            export(library, text)
    with pytest.raises(UserError, match="expected letters, digits and underscores"):
        export(library, uri, collection="a-b")
    client = MilvusCopy(library.store.folder, uri, new=True).client
    client.create_collection("foreign", dimension=library.encoder.embedding_size)
    with pytest.raises(UserError, match="is no copy of a library with .* dimensions: choose another collection"):
        export(library, uri, collection="foreign")
    (tmp_path / "file.db").write_text("something else")
    with pytest.raises(UserError, match="can't be opened .*: end the other process that uses it, or name a new file"):
        export(library, str(tmp_path / "file.db"))


def test_a_long_text_is_refused_before_anything_is_written(library, uri, monkeypatch):
    longest = max(len(path.encode()) for path in library.sounds["path"].to_pylist())
    monkeypatch.setattr(milvus, "LONGEST_TEXT", longest - 1)
    with pytest.raises(UserError, match=rf"The path '.*' has more than {longest - 1:,} bytes"):
        export(library, uri)
    with pytest.raises(UserError, match="holds no collection 'a'"):
        opened(library, uri)


def test_a_server_by_its_address(library, tmp_path, capfd):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "milvus_lite", "server", "--data-dir", tmp_path / "data", "--host", "127.0.0.1", "--port", port]
    server = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True)
    try:
        assert "listening" in server.stdout.readline()
        uri = f"http://127.0.0.1:{port}"
        export(library, uri)
        copy = opened(library, uri)
        check_finds_the_same(copy, library, [np.ones(library.encoder.embedding_size)])
    finally:
        server.kill()
        server.wait()
    capfd.readouterr()
    start = time.monotonic()
    with pytest.raises(UserError, match=f"Milvus at '{uri}' fails .*: mend that, and run this again"):
        copy.search(np.ones(library.encoder.embedding_size))
    assert time.monotonic() - start < 60
    assert "pymilvus" not in capfd.readouterr().err


def test_an_empty_library_has_an_empty_copy(encoder, tmp_path, uri):
    library = SoundLibrary.create(tmp_path / "empty.library", encoder)
    assert export(library, uri) == 0
    assert opened(library, uri).search(np.ones(encoder.embedding_size)) == []


def test_names_of_collections():
    names = ["sounds.library", "808 kicks.library", "ä", "x" * 300]
    assert [default_collection(Path(name)) for name in names] == ["sounds", "_808_kicks", "_", "x" * 200]


def test_the_package_does_not_import_milvus_before_it_is_needed(script, library):
    code = "import sys; from cochlea_sb import SoundLibrary; SoundLibrary.open(sys.argv[1]); "
    code += "assert not {'pymilvus', 'milvus_lite', 'grpc'} & set(sys.modules)"
    script("-c", code, library.store.folder)
