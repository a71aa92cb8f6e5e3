"""The index: exact scores, recall against brute force, edge cases, saving."""

import numpy as np
import pytest

from cochlea_sb.index.random_projection import RandomProjectionIndex


def clustered(n, d=128, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 50), d))
    return (centres[rng.integers(len(centres), size=n)] + 0.5 * rng.normal(size=(n, d))).astype(np.float32)


def exact(vectors, query, k):
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    cosines = unit @ (query / max(np.linalg.norm(query), 1e-30))
    order = np.lexsort((np.arange(len(vectors)), -cosines))[:k]
    return cosines[order], order


def test_recall_and_exact_scores():
    vectors, queries = clustered(5000), clustered(50, seed=0)
    index = RandomProjectionIndex.build(vectors, seed=1)
    scores, ids = index.query(queries, k=10)
    found = 0
    for query, row_scores, row_ids in zip(queries, scores, ids, strict=True):
        assert (np.diff(row_scores) <= 0).all()
        wanted_scores, wanted = exact(vectors, query, 10)
        np.testing.assert_allclose(row_scores[:1], wanted_scores[:1], atol=1e-5)
        found += len(set(row_ids) & set(wanted))
    assert found / 500 >= 0.95


@pytest.mark.parametrize("d", [2, 3, 65, 100])
def test_with_enough_effort_it_is_exact(d):
    vectors = np.random.default_rng(0).normal(size=(200, d))  # float64
    index = RandomProjectionIndex.build(vectors)
    scores, ids = index.query(vectors[3], k=7, effort=1)
    wanted_scores, wanted = exact(vectors, vectors[3], 7)
    assert ids.tolist() == wanted.tolist()
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-6)


def test_edges():
    index = RandomProjectionIndex.build(np.zeros((0, 8), np.float32))
    assert index.query(np.ones(8))[1].shape == (0,) and len(index) == 0
    one = RandomProjectionIndex.build(np.ones((1, 8)), ids=[7])
    assert one.query(np.ones((3, 8)), k=5)[1].tolist() == [[7]] * 3
    equal = RandomProjectionIndex.build(np.ones((20, 8)))
    assert equal.query(np.ones(8), k=3)[1].tolist() == [0, 1, 2]  # ties by id
    zeros = RandomProjectionIndex.build(np.zeros((5, 8)))
    assert zeros.query(np.ones(8), k=5)[0].tolist() == [0.0] * 5
    assert repr(equal) == "RandomProjectionIndex(20 vectors of 8 dimensions)"


def test_values_near_the_limits_of_float32():
    index = RandomProjectionIndex.build(np.array([[3e38, 3e38], [1e-30, 0]], np.float32))
    scores, ids = index.query(np.array([1, 1]), k=2)
    assert ids.tolist() == [0, 1] and np.allclose(scores, [1, 0.5**0.5])


def test_add_and_remove():
    vectors = clustered(300, 32)
    index = RandomProjectionIndex.build(vectors[:200], ids=np.arange(200) + 2**40)
    index.add(vectors[200:], np.arange(100))
    assert index.query(vectors[250], k=1)[1].tolist() == [50]
    index.remove([50, 999])
    assert index.query(vectors[250], k=1)[1].tolist() != [50] and len(index) == 299
    assert index.query(vectors[0], k=1)[1].tolist() == [2**40]


def test_deterministic_for_a_seed():
    vectors = clustered(2000)
    first, second = (RandomProjectionIndex.build(vectors, seed=5).query(vectors[:20], effort=0.8) for _ in range(2))
    assert (first[1] == second[1]).all() and (first[0] == second[0]).all()


@pytest.mark.parametrize("mmap", [True, False])
def test_save_load_and_replace(tmp_path, mmap):
    vectors = clustered(500)
    index = RandomProjectionIndex.build(vectors)
    index.save(tmp_path / "index")
    index.remove([1])
    index.save(tmp_path / "index")
    loaded = RandomProjectionIndex.load(tmp_path / "index", mmap=mmap)
    assert len(loaded) == 499
    assert (loaded.query(vectors[:5])[1] == index.query(vectors[:5])[1]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_damaged_folder_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds no index"):
        RandomProjectionIndex.load(tmp_path)
    RandomProjectionIndex.build(clustered(100)).save(tmp_path / "index")
    (file,) = (tmp_path / "index").glob("vectors.*.npy")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match="is damaged"):
        RandomProjectionIndex.load(tmp_path / "index")


@pytest.mark.parametrize(
    "build, sentence",
    [
        (lambda: RandomProjectionIndex.build(np.ones(8)), "have shape"),
        (lambda: RandomProjectionIndex.build([[np.nan, 1.0]]), "NaN"),
        (lambda: RandomProjectionIndex.build(np.ones((2, 8)), ids=[1, 1]), "given twice"),
        (lambda: RandomProjectionIndex.build(np.ones((2, 8)), ids=[1]), "one id for each"),
        (lambda: RandomProjectionIndex.build(np.ones((2, 8))).query(np.ones(8), effort=2), "effort is 2"),
        (lambda: RandomProjectionIndex.build(np.ones((2, 8))).query(np.ones(7)), r"expected \[n, 8\]"),
        (lambda: RandomProjectionIndex.build(np.ones((2, 8))).query(np.ones(8), k=0), "at least 1"),
    ],
    ids=["shape", "nan", "twice", "few ids", "effort", "dimensions", "k"],
)
def test_bad_input(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
