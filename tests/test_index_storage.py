"""Saved indexes: round trips, damage, and a writer that is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from cochlea_sb.index import __file__ as index_folder
from cochlea_sb.index.exact import ExactIndex
from cochlea_sb.index.interface import load_index
from cochlea_sb.index.random_projection import RandomProjectionIndex
from cochlea_sb.index.storage import DamagedIndex

QUERIES = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)


def vectors(n=1500, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def index():
    return RandomProjectionIndex.build(vectors())


def same(one, other):
    return all((a == b).all() for a, b in zip(one.query(QUERIES), other.query(QUERIES), strict=True))


@pytest.mark.parametrize("kind", [RandomProjectionIndex, ExactIndex])
@pytest.mark.parametrize("mmap", [True, False])
def test_round_trip_and_changes(tmp_path, kind, mmap):
    index = kind.build(vectors(), np.arange(1500) + 2**40)
    index.save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    np.save(tmp_path / "mine.npy", np.ones(3))
    np.save(tmp_path / "vectors.20240101.npy", np.ones(3))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    opened = load_index(tmp_path, mmap)
    assert type(opened) is kind and same(opened, index) and len(opened) == 1500
    opened.remove(np.arange(50) + 2**40)
    opened.add(vectors(20, seed=3), np.arange(20))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    opened.save(tmp_path)  # over the files that it maps
    again = kind.load(tmp_path, mmap, verify=True)
    assert same(again, opened) and len(again) == 1470
    names = {path.name for path in tmp_path.iterdir()}
    assert {"notes.txt", "mine.npy", "vectors.20240101.npy", "index.json"} <= names and len(names) == len(
        before
    )  # no old files left


def test_the_effort_is_kept(tmp_path, index):
    index.effort = 0.875
    index.save(tmp_path)
    assert RandomProjectionIndex.load(tmp_path).effort == 0.875


NAMES = "vectors ids codes scales centre_dots counts reaches margins".split() + [
    f"cell_{name}" for name in "rotation centres spreads".split()
]


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_refused(tmp_path, index, name):
    def refused(**options):
        with pytest.raises(DamagedIndex) as caught:
            RandomProjectionIndex.load(tmp_path, **options)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)

    index.save(tmp_path)
    (file,) = tmp_path.glob(f"{name}.index-*.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    refused()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    file.write_bytes(flipped)
    refused(mmap=False)
    refused(verify=True)  # mapped arrays are read when they are used: only then are their bytes compared
    for other in (np.zeros((2, 3, 4), np.float32), np.array([{}], dtype=object), np.zeros(7, np.int16)):
        np.save(file, other, allow_pickle=True)
        rewrite(tmp_path, name, file, other)
        refused()
    file.unlink()
    refused()


def rewrite(folder, name, file, array, **entries):
    """Make the manifest agree with a file."""
    manifest = json.loads((folder / "index.json").read_text())
    facts = {"bytes": file.stat().st_size, "crc32": zlib.crc32(file.read_bytes())}
    manifest["arrays"][name] |= facts | {"dtype": array.dtype.str, "shape": list(array.shape)} | entries
    (folder / "index.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("change", ["beyond", "negative", "overflow"])
def test_cells_beyond_the_vectors_are_refused(tmp_path, index, change):
    index.save(tmp_path)
    (file,) = tmp_path.glob("counts.index-*.npy")
    counts = np.load(file)
    if change == "beyond":
        counts[0] += 5
    if change == "negative":
        counts[:2] = [-5, counts[:2].sum() + 5]
    if change == "overflow":
        counts[:3] = [2**63 - 1, 2**63 - 1, counts[:3].sum() + 2]
    np.save(file, counts)
    rewrite(tmp_path, "counts", file, counts)
    with pytest.raises(DamagedIndex, match="cells and vectors do not agree"):
        RandomProjectionIndex.load(tmp_path, verify=True)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"kind": "exact"}', '{"kind": "pickle", "version": 3, "arrays": {}, "facts": {}}'],
)
def test_a_broken_manifest(tmp_path, index, text):
    index.save(tmp_path)
    (tmp_path / "index.json").write_text(text)
    for load in (RandomProjectionIndex.load, ExactIndex.load, load_index):
        with pytest.raises(DamagedIndex, match="index"):
            load(tmp_path)


def test_other_folders_kinds_and_versions(tmp_path, index):
    with pytest.raises(DamagedIndex, match="holds no index"):
        load_index(tmp_path)
    index.save(tmp_path)
    with pytest.raises(DamagedIndex, match="another kind"):
        ExactIndex.load(tmp_path)
    manifest = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(DamagedIndex, match="version 2"):
        RandomProjectionIndex.load(tmp_path)
    manifest["arrays"]["ids"]["file"] = "../ids.npy"
    (tmp_path / "index.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedIndex, match="outside"):
        RandomProjectionIndex.load(tmp_path)


WRITER = """
import sys
import numpy as np
from cochlea_sb.index.random_projection import RandomProjectionIndex
kinds = [RandomProjectionIndex.load(folder, mmap=False) for folder in sys.argv[2:]]
print("ready", flush=True)
while True:
    for index in kinds:
        index.save(sys.argv[1])
"""


def test_a_killed_writer_leaves_the_old_or_the_new(tmp_path):
    both = [RandomProjectionIndex.build(vectors(n, seed=n)) for n in (1200, 1900)]
    for i, index in enumerate(both):
        index.save(tmp_path / str(i))
    both[0].save(tmp_path / "shared")
    rng = np.random.default_rng(0)
    command = [sys.executable, "-c", WRITER, *(str(tmp_path / name) for name in ("shared", "0", "1"))]
    for _ in range(6):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"ready\n"
            end = time.monotonic() + rng.uniform(0.02, 0.4)
            while time.monotonic() < end:  # a reader beside it
                assert len(RandomProjectionIndex.load(tmp_path / "shared")) in (1200, 1900)
            os.kill(writer.pid, signal.SIGKILL)
        left = RandomProjectionIndex.load(tmp_path / "shared", verify=True)
        assert any(len(left) == len(index) and same(left, index) for index in both)


def test_a_small_index_can_be_opened_without_compiled_code(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(6000, 16))
    index = RandomProjectionIndex.build(vectors, np.arange(6000) * 7)
    index.save(tmp_path)
    assert isinstance(load_index(tmp_path, exact_up_to=5999), RandomProjectionIndex)
    exact = load_index(tmp_path, exact_up_to=6000)
    assert isinstance(exact, ExactIndex) and set(exact.ids) == set(index.ids)
    scores, ids = index.query(vectors[:50], 5, effort=1)
    np.testing.assert_allclose(exact.query(vectors[:50], 5)[0], scores, atol=1e-6)
    assert (exact.query(vectors[:50], 5)[1] == ids).all()


LIFTED = """
import sys
before = set(sys.modules)
from neighbours import build_index, load_index
print("numba" in sys.modules, "numpy" in sys.modules)
import numpy as np
import neighbours.random_projection
vectors = np.random.default_rng(0).normal(size=(10, 8))
build_index(vectors).save("saved")
print(load_index("saved").query(vectors[3], k=1)[1])
roots = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(sorted(roots & {"cochlea_sb", "torch", "speechbrain", "datasets", "soundfile", "pyarrow"}))
"""


def test_the_folder_works_alone_under_another_name(tmp_path):
    shutil.copytree(Path(index_folder).parent, tmp_path / "neighbours", ignore=shutil.ignore_patterns("__pycache__"))
    quick = os.environ | {"NUMBA_DISABLE_JIT": "1"}  # imports all, compiles nothing
    done = subprocess.run([sys.executable, "-c", LIFTED], cwd=tmp_path, env=quick, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["False True", "[3]", "[]"]


def test_a_folder_of_repeated_ids_does_no_harm(tmp_path, index):
    index.save(tmp_path)
    (file,) = tmp_path.glob("ids.index-*.npy")
    ids = np.full(1500, 5)
    np.save(file, ids)
    rewrite(tmp_path, "ids", file, ids)
    opened = RandomProjectionIndex.load(tmp_path)
    opened.remove([5])
    assert opened.query(QUERIES, allowed=[5])[1].shape[1] <= 1


@pytest.mark.parametrize("facts", [{"effort": 7}, {"seed": -1}, {"effort": float("nan")}, {}])
def test_facts_out_of_range_are_refused(tmp_path, index, facts):
    index.save(tmp_path)
    manifest = json.loads((tmp_path / "index.json").read_text())
    manifest["facts"] = manifest["facts"] | facts if facts else {}
    (tmp_path / "index.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedIndex, match="damaged or no index"):
        load_index(tmp_path)
