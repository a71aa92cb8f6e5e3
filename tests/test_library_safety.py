"""Killed at any moment, read while it is written, damaged, or wanted by two at once: a library is never wrong."""

import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from cochlea_sb import AudioEncoder, SoundLibrary
from cochlea_sb.errors import UserError
from cochlea_sb.index.exact import ExactIndex
from cochlea_sb.index.storage import DamagedIndex
from cochlea_sb.library.bounds import DICTIONARY_PAGE, Allowance, chunks_of, pages_of
from cochlea_sb.library.store import CATALOGUE, Store

KILLS = 14
SOUNDS = 150
# A process that imports everything once, and for each line it is given forks one that adds a folder to a library.
ADDING = """
import os, sys
import torch
torch.set_num_threads(1)
from cochlea_sb import AudioEncoder, SoundLibrary
from cochlea_sb.inference import batch
from cochlea_sb.library import writer
from cochlea_sb.library.store import Store
batch.BATCH_SECONDS = 20  # so that it commits often
writer.FEW, writer.MOST_FILES = 75, 4  # so that the index is often written anew
model, folder = sys.argv[1:]
encoder = AudioEncoder.from_hparams(model, run_opts={"device": "cpu"})
import warm_preload  # what numba does first
for line in sys.stdin:
    name, child = line.rstrip(), os.fork()
    if child:
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    made = Store(name).exists()
    library = SoundLibrary.open(name, encoder) if made else SoundLibrary.create(name, encoder)
    library.add(folder, progress=False, commit_seconds=0.05)
    library.merge()
    os._exit(0)
"""


@pytest.fixture(scope="module")
def encoder(model_folder):
    return AudioEncoder.from_hparams(model_folder, run_opts={"device": "cpu"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for number in range(SOUNDS):
        soundfile.write(folder / f"{number:03}.wav", 0.1 * rng.standard_normal(int(rng.integers(4000, 40000))), 16000)
    for number in range(0, SOUNDS, 50):
        (folder / f"{number:03}x.wav").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def adding(model_folder, folder):
    """``adding(library)`` begins to add the folder in another process; returns its pid and a function that waits."""
    command = [sys.executable, "-c", ADDING, str(model_folder), str(folder)]
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, env=os.environ | path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )

    def begin(library):
        process.stdin.write(f"{library}\n")
        process.stdin.flush()
        return int(process.stdout.readline()), lambda: int(process.stdout.readline())

    yield begin
    process.stdin.close()
    process.wait()


def windows_of(library):
    """Embeddings of all windows by path, from the library's files alone; checks that catalogue and vectors agree."""
    state, found = library._state, {}
    for row in np.flatnonzero(state.known & (state.counts > 0)):
        path = state.sounds["path"][int(row)].as_py()
        assert path not in found, "twice in the catalogue"
        found[path] = state.vectors_of(state.windows_of(np.array([row])))
    return found


def test_killed_at_any_moment_it_opens_goes_on_and_ends_as_if_never_killed(adding, tmp_path):
    adding(tmp_path / "warm.library")[1]()
    began = time.monotonic()
    assert adding(tmp_path / "whole.library")[1]() == 0
    duration = time.monotonic() - began
    expected = windows_of(SoundLibrary.open(tmp_path / "whole.library"))
    assert len(expected) == SOUNDS

    name, rng, kills, ends = tmp_path / "killed.library", random.Random(0), 0, 0
    while kills < KILLS:
        process, wait = adding(name)
        time.sleep(rng.uniform(0, 0.3 * duration))
        os.kill(process, signal.SIGKILL)
        status = wait()
        if (name / "library.json").exists():
            found = windows_of(SoundLibrary.open(name))
            for path, vectors in found.items():
                np.testing.assert_allclose(vectors, expected[path], atol=1e-5)
        if status == 0:  # it had come to its end: begin again
            assert found.keys() == expected.keys()
            shutil.rmtree(name)
            ends += 1
        else:
            assert status == -signal.SIGKILL
            kills += 1
    assert adding(name)[1]() == 0
    library, uninterrupted = SoundLibrary.open(name), SoundLibrary.open(tmp_path / "whole.library")
    found = windows_of(library)
    assert found.keys() == expected.keys() and library.problems == uninterrupted.problems
    for path, vectors in found.items():
        np.testing.assert_allclose(vectors, expected[path], atol=1e-5)
    columns = ["path", "label", "seconds", "size", "changed_ns", "content", "n_windows"]
    tables = [one.sounds.select(columns).sort_by("path") for one in (library, uninterrupted)]
    assert tables[0].equals(tables[1])
    current = {"lock", "library.json", *(library._state.manifest[name] for name in ("catalogue", "index"))}
    assert {path.name for path in name.iterdir()} <= current, "files that nothing refers to were left"


def test_a_reader_searches_while_a_writer_adds_and_a_second_writer_is_told(encoder, adding, folder, tmp_path):
    name = tmp_path / "a.library"
    library = SoundLibrary.create(name, encoder)
    library.add(folder / "000.wav", progress=False)
    truth = {path: encoder.encode_windows(path)[0].numpy() for path in map(str, sorted(folder.glob("???.wav")))}
    queries = {path: vectors[0] for path, vectors in truth.items()}
    process, wait = adding(name)
    sizes, refused, number = [], 0, 0
    while len(library) < SOUNDS:
        reader = SoundLibrary.open(name) if number % 2 else library
        if number % 2 == 0:
            library.refresh()
        held = reader.sounds["path"].to_pylist()
        sizes.append(len(held))
        for path in random.Random(number).sample(held, min(5, len(held))):
            matches = reader.search(queries[path], 3)
            assert matches[0].path == path and matches[0].score == pytest.approx(1, abs=1e-4)
            for match in matches:
                window = round(match.start_seconds / 0.48)
                assert match.score == pytest.approx(float(truth[match.path][window] @ queries[path]), abs=1e-4)
        if 1 < len(held) < SOUNDS / 2:  # the writer is at it
            with pytest.raises(UserError, match="is in use: another process is changing it"):
                SoundLibrary.open(name, encoder).remove(folder / "000.wav")
            refused += 1
        number += 1
    assert wait() == 0
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 3 and refused > 0


def test_two_writers_in_one_process(encoder, folder, tmp_path):
    library = SoundLibrary.create(tmp_path / "a.library", encoder)
    other = SoundLibrary.open(tmp_path / "a.library", encoder)
    with library.store.lock(), pytest.raises(UserError, match="in use: another process is changing it"):
        other.add(folder / "000.wav", progress=False)
    assert other.add(folder / "000.wav", progress=False).added == 1
    threads = [threading.Thread(target=lambda: library.search(np.ones(128), 3)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_library_on_a_disk_without_locks(encoder, folder, tmp_path, monkeypatch, code):
    def refused(*arguments):
        raise OSError(code, os.strerror(code))

    name = tmp_path / "a.library"
    SoundLibrary.create(name, encoder)
    assert (name / "lock").exists()  # it comes along from the first disk
    monkeypatch.setattr("fcntl.flock", refused)
    library = SoundLibrary.open(name, encoder)
    for number in range(2):
        assert library.add(folder / f"00{number}.wav", progress=False).added == 1
    with library.store.lock(), pytest.raises(UserError, match="in use.*or delete '.*lock.owner' if none is"):
        SoundLibrary.open(name, encoder).remove(folder / "000.wav")
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = socket.gethostname()
    (name / "lock.owner").write_text(f"{killed.stdout.strip()}\n{host}\n")
    assert library.remove(folder / "000.wav") == 1
    (name / "lock.owner").write_text(f"1\n{host}-another\n")
    with pytest.raises(UserError, match="in use"):
        library.remove(folder / "001.wav")


def test_an_interrupted_add_keeps_what_was_done(encoder, folder, tmp_path, monkeypatch):
    from cochlea_sb.library import writer

    library, real = SoundLibrary.create(tmp_path / "a.library", encoder), writer.encode_sounds

    def interrupted(*arguments, **options):
        for number, one in enumerate(real(*arguments, **options)):
            if number == 40:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(writer, "encode_sounds", interrupted)
    with pytest.raises(KeyboardInterrupt):
        library.add(folder, progress=False)
    monkeypatch.setattr(writer, "encode_sounds", real)
    opened = SoundLibrary.open(tmp_path / "a.library", encoder)
    assert len(opened) + len(opened.problems) == 40 and len(library) == len(opened)
    assert opened.add(folder, progress=False).unchanged == 40
    assert len(opened) == SOUNDS


@pytest.fixture(scope="module")
def made(encoder, folder, tmp_path_factory):
    """A library with an index, a catalogue and a delta."""
    library = SoundLibrary.create(tmp_path_factory.mktemp("made") / "a.library", encoder)
    library.add([folder / f"{number:03}.wav" for number in range(20)], progress=False)
    library.merge()
    library.add([folder / f"{number:03}.wav" for number in range(20, 25)], progress=False)
    return library.store.folder


@pytest.fixture
def saved(made, tmp_path):
    """A copy of that library."""
    return Path(shutil.copytree(made, tmp_path / "a.library"))


def damage(path, how):
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(os.urandom(len(data)))


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "random"])
@pytest.mark.parametrize(
    "which", ["library.json", "sounds-*.parquet", "delta-*.parquet", "index-*/index.json", "index-*/*.npy"]
)
def test_damage_is_told_in_a_sentence(saved, which, how):
    damage(next(saved.glob(which)), how)
    with pytest.raises(UserError) as caught:
        SoundLibrary.open(saved)
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"catalogue": "../../etc/passwd"},
        {"index": "/etc"},
        {"delta": ["../delta-0000000000000000.parquet"]},
        {"delta": [None, 3]},
        {"delta": "delta"},
        {"version": 99},
        {"version": None},
        {"next_window": "many"},
        {"hop_seconds": 0},
        {"hop_seconds": float("nan")},
        {"hop_seconds": "x"},
        {"encoder": None},
        {"dimensions": 7},
        {"next_window": 0},
    ],
)
def test_a_manifest_that_says_otherwise_is_refused_or_harmless(saved, change):
    manifest = json.loads((saved / "library.json").read_text())
    (saved / "library.json").write_text(json.dumps(manifest | change))
    try:
        SoundLibrary.open(saved).search(np.ones(128), 3)
    except UserError as error:
        assert "\n" not in str(error)


def test_damage_that_a_search_meets_is_told_in_a_sentence_and_a_defect_is_not(saved, monkeypatch):
    library, error = SoundLibrary.open(saved), [DamagedIndex("damaged"), ValueError("a wrong shape")]

    def broken(*_, **__):
        raise error.pop(0)

    monkeypatch.setattr(ExactIndex, "query", broken)
    with pytest.raises(UserError, match="index is damaged: index its sounds again"):
        library.search(np.ones(128))
    with pytest.raises(ValueError, match="a wrong shape") as caught:
        library.search(np.ones(128))
    assert not isinstance(caught.value, UserError)


def test_catalogue_and_index_that_do_not_agree_are_refused(saved):
    file = next(saved.glob("sounds-*.parquet"))
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(UserError, match="do not agree"):
        SoundLibrary.open(saved)


def test_the_encoder_that_a_library_names_builds_known_parts_only(saved, model_folder, tmp_path):
    model, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(model_folder, model)
    config = (model / "config.json").read_text().replace("cochlea_sb.encoders.cnn.ConvEncoder", "os.mkdir")
    (model / "config.json").write_text(config)
    manifest = json.loads((saved / "library.json").read_text())
    for source in (str(model), "user/name"):
        manifest["encoder"]["source"] = source
        (saved / "library.json").write_text(json.dumps(manifest))
        with pytest.raises(UserError, match="names 'os.mkdir' as the class|can't be fetched"):
            SoundLibrary.open(saved).search(np.zeros(9000, np.float32) + 0.1)
    assert not ran.exists()


def test_links_in_a_library_lead_nowhere(saved, encoder, folder, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("library.json.partial", ".library.json.0123456789abcdef.partial", "sounds-0123456789abcdef.parquet"):
        os.symlink(victim, saved / name)
    os.symlink(tmp_path, saved / "index-0123456789abcdef")
    (saved / "notes.txt").write_text("mine, too")
    SoundLibrary.open(saved, encoder).add(folder / "030.wav", progress=False)
    assert victim.read_text() == "mine" and (saved / "notes.txt").exists() and folder.exists()
    (saved / "lock").unlink()
    os.symlink(victim, saved / "lock")
    with pytest.raises(UserError, match="its lock is a link"):
        SoundLibrary.open(saved, encoder).add(folder / "031.wav", progress=False)
    assert victim.read_text() == "mine"


def test_two_that_create_one_library(encoder, folder, tmp_path, monkeypatch):
    name, made = tmp_path / "a.library", []
    real = Store.lock

    def slow(store):
        if not made:  # another process was quicker
            made.append(True)
            SoundLibrary.create(name, encoder).add(folder / "000.wav", progress=False)
        return real(store)

    monkeypatch.setattr(Store, "lock", slow)
    with pytest.raises(UserError, match="already holds a library"):
        SoundLibrary.create(name, encoder)
    assert len(SoundLibrary.open(name)) == 1
    (name / "library.json").unlink()  # killed between the lock and the manifest
    assert len(SoundLibrary.create(name, encoder)) == 0


def test_shards_that_would_break_a_library_are_refused(saved, encoder, tmp_path):
    library = SoundLibrary.open(saved, encoder)
    good = next(saved.glob("delta-*.parquet"))
    table = pq.read_table(good)
    embeddings = np.stack(table["embedding"].to_pylist()).astype(np.float32)
    embeddings[3, 5] = np.nan
    for number, column in enumerate(
        (
            pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), 128),
            pa.FixedSizeListArray.from_arrays(pa.array(np.ones(len(table) * 64, np.float32)), 64),
            pa.array([None] * len(table), pa.list_(pa.float32(), 128)),
            pa.array(["x"] * len(table)),
        )
    ):
        bad = table.set_column(table.column_names.index("embedding"), "embedding", column)
        file = tmp_path / f"bad{number}.parquet"
        pq.write_table(bad.replace_schema_metadata(table.schema.metadata), file)
        with pytest.raises(UserError, match="bad") as caught:
            library.add(file, progress=False)
        assert "\n" not in str(caught.value)
    for name in ("path", "seconds", "start_seconds"):
        gap = pa.array([None] * len(table), table[name].type)
        bad = table.set_column(table.column_names.index(name), name, gap)
        pq.write_table(bad.replace_schema_metadata(table.schema.metadata), tmp_path / "bad.parquet")
        with pytest.raises(UserError, match="no shard of embeddings"):
            library.add(tmp_path / "bad.parquet", progress=False)
    assert len(SoundLibrary.open(saved)) == 25


@pytest.mark.parametrize(
    "column, value", [("first_window", 7), ("n_windows", 1 << 50), ("path", None), ("seconds", None)]
)
def test_a_catalogue_out_of_order_is_refused(saved, column, value):
    file = next(saved.glob("sounds-*.parquet"))
    table = pq.read_table(file)
    values = table[column].to_pylist()
    values[4] = value
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values, table[column].type)), file)
    with pytest.raises(UserError, match="missing values|window numbers|do not agree"):
        SoundLibrary.open(saved)


def test_a_merge_that_fails_leaves_the_open_library_as_it_was(saved, encoder, folder, monkeypatch):
    library = SoundLibrary.open(saved, encoder)
    library.remove(folder / "001.wav")
    library.add([folder / "026.wav", folder / "027.wav"], progress=False)
    before = [match[:3] for match in library.search(np.ones(128), 1000, every_window=True)]

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "write_catalogue", full)
    with pytest.raises(OSError, match="No space left"):
        library.merge()
    assert [match[:3] for match in library.search(np.ones(128), 1000, every_window=True)] == before
    monkeypatch.undo()
    library.merge()
    assert [match[:3] for match in library.search(np.ones(128), 1000, every_window=True)] == before


def test_many_files_that_cannot_be_read(encoder, tmp_path):
    """More reasons than go into one file."""
    names = [f"/no/such/{number}/{'x' * 100}.wav" for number in range(12_000)]
    (tmp_path / "list.csv").write_text("file_name\n" + "\n".join(names))
    library = SoundLibrary.create(tmp_path / "a.library", encoder)
    assert len(library.add(tmp_path / "list.csv", progress=False).problems) == 12_000
    assert len(SoundLibrary.open(tmp_path / "a.library").problems) == 12_000
    assert library.remove("/no/such") == 0 and not library.problems  # files that can't be read are no sounds
    assert not SoundLibrary.open(tmp_path / "a.library").problems


ROWS = 1_000_000


def rows(**columns):
    """A catalogue of many equal rows, with some columns replaced."""
    equal = {field.name: pa.repeat(pa.scalar("x" if field.type == pa.string() else 0), ROWS) for field in CATALOGUE}
    table = pa.table(equal)
    for name, column in columns.items():
        table = table.slice(0, len(column)).set_column(table.column_names.index(name), name, column)
    return table


def repeated(text):
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), ROWS), [text])


def starting_alike(number, length):
    return pa.array(["x" * length + str(place) for place in range(number)])


HOSTILE = {
    "rows": (lambda: pa.concat_tables([rows()] * 4).combine_chunks(), {"row_group_size": 4 * ROWS}),
    "row groups": (lambda: pa.concat_tables([rows()] * 4), {"row_group_size": 100_000}),
    "a long path": (lambda: rows(path=repeated("x" * 20_000)), {}),
    "a long label": (lambda: rows(label=repeated("x" * 20_000)), {"data_page_version": "2.0"}),
    "zeros": (lambda: rows(path=starting_alike(64, 2_000_000)), {"use_dictionary": False}),
    "shared starts": (
        lambda: rows(path=starting_alike(4000, 30_000)),
        {"use_dictionary": False, "column_encoding": {"path": "DELTA_BYTE_ARRAY"}},
    ),
}


@pytest.fixture
def pool():
    """A memory pool of Arrow that knows the most memory that was taken from it."""
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(usual)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_small_catalogue_that_unfolds_to_gigabytes_is_refused_before_it_is_read(saved, kind, request):
    table, options = HOSTILE[kind]
    file = next(saved.glob("sounds-*.parquet"))
    pq.write_table(table(), file, compression="zstd", **options)
    assert file.stat().st_size < 1 << 20
    pool = request.getfixturevalue("pool")
    with pytest.raises(UserError, match="far more memory than its size|unexpected encoding") as caught:
        SoundLibrary.open(saved)
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)
    assert pool.max_memory() < 16 << 20


@pytest.mark.parametrize("column", ["embedding", "path", "nested"])
def test_a_small_shard_that_unfolds_to_gigabytes_is_refused_before_it_is_read(saved, column, request):
    file = next(saved.glob("delta-*.parquet"))
    table = pq.read_table(file)
    facts, equal = table.schema.metadata, table.take([0] * (1 if column == "embedding" else ROWS))
    path = repeated("x" * 20_000)
    nested = pa.ListArray.from_arrays(pa.array(np.arange(ROWS + 1), pa.int32()), path)
    if column == "embedding":
        equal = table.slice(0, 1).take([0] * 300_000)
        values = pa.repeat(pa.scalar(0.5, pa.float32()), 300_000 * 128)
        equal = equal.set_column(2, "embedding", pa.FixedSizeListArray.from_arrays(values, 128))
    elif column == "path":
        equal = equal.drop_columns("embedding").set_column(0, "path", path).append_column("embedding", path)
    else:
        equal = equal.drop_columns("embedding").append_column("embedding", nested)
    pq.write_table(equal.replace_schema_metadata(facts), file, compression="zstd")
    del equal, table, path, nested
    assert file.stat().st_size < 1 << 20
    pool = request.getfixturevalue("pool")
    with pytest.raises(UserError, match="far more memory than its size|unexpected type"):
        SoundLibrary.open(saved)
    assert pool.max_memory() < 16 << 20


def test_many_small_shards_share_one_allowance(saved):
    manifest = json.loads((saved / "library.json").read_text())
    (name,) = manifest["delta"]
    (saved / "library.json").write_text(json.dumps(manifest | {"delta": [name] * 2}))
    with pytest.raises(UserError, match="invalid values"):
        SoundLibrary.open(saved)
    catalogue = rows().slice(0, 200_000)
    names = [f"sounds-{number:016x}.parquet" for number in range(4)]
    allowance = Allowance()
    with pytest.raises(ValueError, match="far more memory"):
        for name in names:
            pq.write_table(catalogue, saved / name, compression="zstd")
            allowance.take(saved / name, CATALOGUE.names)
    Allowance().take(saved / names[0], CATALOGUE.names)


def test_a_pipe_is_no_catalogue(saved):
    file = next(saved.glob("sounds-*.parquet"))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="not a regular file"):
        SoundLibrary.open(saved)


@pytest.mark.parametrize("data", ["[" * 100_000, '{"hop_seconds": 1, "identity": {}, "unread": [{"size": 1e400}]}'])
def test_metadata_of_a_shard_that_python_cannot_hold(saved, data):
    file = next(saved.glob("delta-*.parquet"))
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({"cochlea_sb": data.replace("1e400", "9" * 40)}), file)
    with pytest.raises(UserError, match="damaged") as caught:
        SoundLibrary.open(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [20, 300, 4000])
def test_an_honest_catalogue_is_allowed(tmp_path, length):
    rng, number = np.random.default_rng(0), 20_000
    columns = {
        "path": pa.array([f"/{'samples/' * (length // 8)}{place}.wav" for place in range(number)]),
        "label": pa.array([f"label {place % 7}" for place in range(number)]),
        "seconds": rng.uniform(0, 9, number),
        "size": rng.integers(1 << 20, size=number),
        "changed_ns": rng.integers(1 << 60, size=number),
        "content": pa.array([rng.bytes(16).hex() for _ in range(number)]),
        "n_windows": rng.integers(9, size=number),
        "problem": pa.array(["It is broken." if place % 9 == 0 else None for place in range(number)]),
        "first_window": np.arange(number) * 9,
    }
    allowance = Allowance()
    for options in ({}, {"data_page_version": "2.0"}, {"compression": "zstd", "write_page_index": True}):
        allowance.left = 0  # nothing beyond `MOST_TIMES`
        file = tmp_path / "sounds.parquet"
        pq.write_table(pa.table(columns), file, **options)
        allowance.take(file, CATALOGUE.names)
        with pq.ParquetFile(file) as parquet, open(file, "rb") as opened:
            for _, chunk in chunks_of(parquet.metadata):
                pages = [page for page in pages_of(opened, chunk) if page.kind != DICTIONARY_PAGE]
                assert sum(page.n_values for page in pages) == number
