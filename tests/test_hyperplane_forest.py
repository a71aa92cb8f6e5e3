"""The forest of random hyperplanes: trees, exact scores, recall against brute force, edge cases."""

import numpy as np
import pytest
from hyperplane_forest import HyperplaneForest


def clustered(n, d=128, n_queries=100, seed=0):
    """Vectors around n / 50 centres, and queries around the same."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 50), d))
    drawn = centres[rng.integers(len(centres), size=n + n_queries)] + 0.5 * rng.normal(size=(n + n_queries, d))
    return drawn[:n].astype(np.float32), drawn[n:].astype(np.float32)


def unit(vectors):
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def exact(vectors, queries, k):
    cosines = unit(queries) @ unit(vectors).T
    ids = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, ids, axis=1), ids


def share_found(ids, wanted):
    return np.mean(
        [len(set(row) & set(wanted_row)) / len(wanted_row) for row, wanted_row in zip(ids, wanted, strict=True)]
    )


def test_recall_and_exact_scores():
    vectors, queries = clustered(10_000)
    scores, ids = HyperplaneForest.build(vectors, seed=1).query(queries, k=10)
    assert scores.dtype == np.float32 and ids.dtype == np.int64 and scores.shape == ids.shape == (100, 10)
    assert share_found(ids, exact(vectors, queries, 10)[1]) >= 0.95
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(scores, (unit(vectors)[ids] * unit(queries)[:, None]).sum(2), atol=1e-6)
    assert all(len(set(row)) == 10 for row in ids)  # found in several trees, returned once


def test_a_common_mean_does_not_matter():
    vectors, queries = clustered(5000)
    ids = HyperplaneForest.build(vectors + 3).query(queries + 3)[1]
    assert share_found(ids, exact(vectors + 3, queries + 3, 10)[1]) >= 0.95


def test_more_effort_never_finds_worse():
    vectors, queries = clustered(3000)
    index = HyperplaneForest.build(vectors)
    results = [index.query(queries, effort=effort) for effort in (1, 3, 10, 30, 100, 300)]
    wanted_scores, wanted = exact(vectors, queries, 10)
    for (fewer, _), (more, _) in zip(results, results[1:], strict=False):
        assert (more >= fewer).all()
    assert share_found(results[0][1], wanted) < 0.7
    assert (results[-1][1] == wanted).all()  # effort * k is N
    np.testing.assert_allclose(results[-1][0], wanted_scores, atol=1e-6)


@pytest.mark.parametrize("leaf_size", [2, 3, 7, 32, 1000])
@pytest.mark.parametrize("n", [1, 2, 5, 64, 301])
def test_every_tree_holds_every_vector_on_the_right_side(n, leaf_size):
    vectors = np.random.default_rng(n).normal(size=(n, 5))
    index = HyperplaneForest.build(vectors, n_trees=3, leaf_size=leaf_size)
    for tree, order in enumerate(index.order):
        assert sorted(order) == list(range(n))
        nodes = [(0, order)]
        while nodes:  # halve from the root down, as the docstring tells
            split, rows = nodes.pop()
            if split >= index.normals.shape[1]:
                assert 1 <= len(rows) <= leaf_size
                continue
            above = index.vectors[rows] @ index.normals[tree, split] - index.thresholds[tree, split]
            n_left = int((above <= 1e-6).sum())
            assert (np.diff(above > 1e-6) >= 0).all() and abs(2 * n_left - len(rows)) <= 1
            nodes += [(2 * split + 1, rows[:n_left]), (2 * split + 2, rows[n_left:])]


@pytest.mark.parametrize("d", [1, 2, 3, 65])
def test_with_enough_effort_it_is_exact(d):
    vectors = np.random.default_rng(0).normal(size=(200, d))  # float64
    ids = 2**40 + np.arange(200)
    scores, found = HyperplaneForest.build(vectors, ids, leaf_size=4).query(vectors[:20], k=7, effort=np.inf)
    wanted_scores, wanted = exact(vectors, vectors[:20], 7)
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-6)
    if d > 1:  # on a line, all cosines are 1 or -1
        assert (found == ids[wanted]).all()


def test_edges():
    empty = HyperplaneForest.build(np.zeros((0, 8)))
    assert len(empty) == 0 and empty.query(np.ones(8))[1].shape == (0,)
    assert empty.query(np.ones((3, 8)))[0].shape == (3, 0)
    one = HyperplaneForest.build(np.ones((1, 8)), ids=[7])
    assert one.query(np.ones((3, 8)), k=5)[1].tolist() == [[7]] * 3
    assert one.query(np.ones((0, 8)), threads=2)[1].shape == (0, 1)
    assert repr(one) == "HyperplaneForest(1 vectors of 8 dimensions, 16 trees)"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_vectors_equal(value):
    index = HyperplaneForest.build(np.full((500, 8), value), ids=np.arange(500)[::-1], leaf_size=4)
    scores, ids = index.query(np.ones(8), k=3, effort=500)
    assert ids.tolist() == [0, 1, 2] and np.allclose(scores, value)  # ties by id
    scores, ids = index.query(np.zeros(8), k=600, effort=1)
    assert ids.tolist() == list(range(500)) and (scores == 0).all()
    assert len(set(index.query(np.ones(8), k=20, effort=1)[1])) == 20


def test_duplicates_and_zeros_among_others():
    vectors, _ = clustered(1000, 16)
    vectors[100:200] = vectors[7]
    vectors[300:400] = 0
    scores, ids = HyperplaneForest.build(vectors, leaf_size=8).query(vectors[7], k=101)
    assert ids.tolist() == [7, *range(100, 200)] and np.allclose(scores, 1)


def test_deterministic_for_a_seed():
    vectors, queries = clustered(2000)
    before = vectors.copy()
    first, second, other = (HyperplaneForest.build(vectors, seed=s).query(queries, effort=2) for s in (5, 5, 6))
    assert (first[1] == second[1]).all() and (first[0] == second[0]).all()
    assert (first[1] != other[1]).any()
    assert (vectors == before).all()


def test_one_query_is_as_many():
    vectors, queries = clustered(500)
    index = HyperplaneForest.build(vectors)
    scores, ids = index.query(queries, effort=5)
    for query, row_scores, row_ids in zip(queries, scores, ids, strict=True):
        one = index.query(query, effort=5)
        assert (one[0] == row_scores).all() and (one[1] == row_ids).all()


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: HyperplaneForest.build(np.ones(8)), "have shape"),
        (lambda: HyperplaneForest.build([[np.nan, 1.0]]), "NaN"),
        (lambda: HyperplaneForest.build(np.ones((2, 8)), ids=[1, 1]), "given twice"),
        (lambda: HyperplaneForest.build(np.ones((2, 8)), ids=[1]), "one id for each"),
        (lambda: HyperplaneForest.build(np.ones((2, 8)), n_trees=0), "n_trees is 0"),
        (lambda: HyperplaneForest.build(np.ones((2, 8)), leaf_size=1), "leaf_size is 1: expected"),
        (lambda: HyperplaneForest.build(np.ones((2, 8))).query(np.ones(7)), r"expected \[n, 8\]"),
        (lambda: HyperplaneForest.build(np.ones((2, 8))).query(np.ones(8), k=0), "at least 1"),
        (lambda: HyperplaneForest.build(np.ones((2, 8))).query(np.ones(8), effort=0.5), "effort is 0.5"),
        (lambda: HyperplaneForest.build(np.ones((2, 8))).query(np.ones(8), effort=np.nan), "effort is nan"),
    ],
    ids=["shape", "nan", "twice", "few ids", "trees", "leaf", "dimensions", "k", "effort", "effort nan"],
)
def test_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
