"""Whatever is put in, in whatever order: the indexes agree with brute force, and with each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cochlea_sb.index.exact import ExactIndex
from cochlea_sb.index.interface import build_index, load_index
from cochlea_sb.index.random_projection import RandomProjectionIndex
from cochlea_sb.index.storage import DamagedIndex

quick = settings(max_examples=25, deadline=None)


def cosines(vectors, queries):
    """By brute force in 64 bits, [Q, N]."""
    rows = [np.asarray(table, np.float64) for table in (vectors, queries)]
    unit = [table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-300) for table in rows]
    return unit[1] @ unit[0].T


def check(index, vectors, ids, queries, k):
    """Both what is found at full effort and its order."""
    scores, found = index.query(queries, k, effort=1)
    truth = cosines(vectors, queries)
    ids = np.asarray(ids)
    assert scores.shape == found.shape == (len(queries), min(k, len(ids)))
    for row, (row_scores, row_ids) in enumerate(zip(scores, found, strict=True)):
        assert len(set(row_ids.tolist())) == len(row_ids)
        np.testing.assert_allclose(row_scores, np.sort(truth[row])[::-1][: len(row_scores)], atol=2e-6)
        columns = np.array([np.flatnonzero(ids == i)[0] for i in row_ids], dtype=int)
        np.testing.assert_allclose(row_scores, truth[row][columns], atol=2e-6)
        order = list(zip((-row_scores).tolist(), row_ids.tolist(), strict=True))
        assert order == sorted(order)  # ties by id


@st.composite
def tables(draw):
    n, d = draw(st.integers(0, 60)), draw(st.sampled_from([2, 3, 7, 63, 64, 65, 130, 1024]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = rng.normal(size=(n, d)) * draw(st.sampled_from([1e-20, 1.0, 1e20]))
    kind = draw(st.sampled_from(["as it is", "duplicates", "zeros", "all equal", "few values"]))
    if kind == "duplicates" and n:
        vectors = vectors[rng.integers(0, max(1, n // 4), n)]
    if kind == "zeros":
        vectors[::3] = 0
    if kind == "all equal" and n:
        vectors[:] = vectors[0]
    if kind == "few values":
        vectors = rng.integers(-1, 2, (n, d))
    form = draw(st.sampled_from(["float64", "float32", "not contiguous", "transposed"]))
    if form == "float32":
        vectors = vectors.astype(np.float32)
    if form == "not contiguous":
        vectors = np.repeat(vectors, 2, axis=1)[:, ::2]
    if form == "transposed":
        vectors = np.asfortranarray(vectors)
    ids = rng.permutation(n) * draw(st.sampled_from([1, -7, 2**53]))
    return vectors, ids


@quick
@given(tables(), st.integers(1, 80))
def test_full_effort_is_exact(table, k):
    vectors, ids = table
    queries = np.random.default_rng(0).normal(size=(3, vectors.shape[1]))
    if len(vectors):
        queries = np.concatenate([queries, vectors[:2], np.zeros((1, vectors.shape[1]))])
    ours, exact = RandomProjectionIndex.build(vectors, ids), ExactIndex.build(vectors, ids)
    for index in (ours, exact):
        check(index, vectors, ids, queries, k)
    np.testing.assert_allclose(ours.query(queries, k, effort=1)[0], exact.query(queries, k)[0], atol=1e-6)


steps = st.lists(
    st.tuples(st.sampled_from(["add few", "add many", "remove", "save", "query"]), st.integers(0, 999)),
    min_size=3,
    max_size=8,
)


@settings(max_examples=12, deadline=None)
@given(steps, st.integers(0, 2**32 - 1), st.sampled_from([0, 30, 2500]), st.sampled_from([5, 70]))
def test_any_order_of_changes(tmp_path_factory, steps, seed, n, d):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, d)).astype(np.float32)

    def draw(n):
        return centres[rng.integers(30, size=n)] + 0.3 * rng.normal(size=(n, d)).astype(np.float32)

    held = dict(zip(range(n), draw(n), strict=True))
    index = RandomProjectionIndex.build(np.array(list(held.values())).reshape(-1, d), list(held))
    last = n
    for step, number in steps:
        if step.startswith("add"):
            new = draw(3 if step == "add few" else len(held) + 20)
            if step == "add few":
                new[:] = new[0]  # all into one leaf
            ids = np.arange(last, last + len(new))
            index.add(new, ids)
            held |= dict(zip(ids.tolist(), new, strict=True))
            last += len(new)
        elif step == "remove" and held:
            gone = rng.choice(list(held), size=min(len(held), 1 + number), replace=False)
            index.remove([*gone, -1])
            held = {i: vector for i, vector in held.items() if i not in set(gone.tolist())}
        elif step == "save":
            folder = tmp_path_factory.mktemp("index")
            index.save(folder)
            index = load_index(folder, mmap=bool(number % 2))
        assert len(index) == len(held) and set(index.ids.tolist()) == set(held)
        vectors = np.array(list(held.values()), np.float32).reshape(-1, d)
        check(index, vectors, list(held), draw(3), 10)
        default = index.query(draw(3))  # at default effort: fewer may be right, all must be there
        assert default[1].shape == (3, min(10, len(held))) and set(default[1].ravel().tolist()) <= set(held)


def clustered(n, d=64, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(100, d))
    return (centres[rng.integers(100, size=n)] + 0.5 * rng.normal(size=(n, d))).astype(np.float32)


def recall(index, vectors, ids, queries, **options):
    truth = np.sort(cosines(vectors, queries), axis=1)[:, -10]
    scores = index.query(queries, 10, **options)[0]
    return float((scores >= truth[:, None] - 1e-6).mean())


def test_recall_effort_and_tuning():
    vectors, queries = clustered(20_000), clustered(300, seed=1)
    index, ids = RandomProjectionIndex.build(vectors), np.arange(20_000)
    shares = [recall(index, vectors, ids, queries, effort=effort) for effort in (0.5, 0.8, 0.95, 0.99, 1)]
    assert shares == sorted(shares) and shares[-1] == 1 and shares[0] < 0.97
    assert recall(index, vectors, ids, queries) >= 0.95
    assert 0 < index.tune(0.99) == index.effort < 1 and recall(index, vectors, ids, queries) >= 0.98
    low = index.tune(0.7, queries=queries)
    assert recall(index, vectors, ids, queries) < 0.97 and low < 0.98


@pytest.mark.parametrize("k", [1, 3, 50, 300])
def test_other_numbers_of_matches_are_found_as_surely(k):
    vectors, queries = clustered(20_000), clustered(200, seed=1)
    truth = np.sort(cosines(vectors, queries), axis=1)[:, -k]
    scores = RandomProjectionIndex.build(vectors).query(queries, k)[0]
    assert scores.shape == (200, k) and (scores >= truth[:, None] - 1e-6).mean() >= 0.94


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("random", [False, True])
def test_a_share_that_is_allowed_is_found_as_surely(random, prepare, monkeypatch):
    """Also if it is no random share, but the sounds of some labels: here the vectors on one side."""
    vectors, queries = clustered(20_000), clustered(200, seed=1)
    for name, value in {"FEW": 0, "COMPARED": 0, "COPIED": (0, 0)}.items():  # so that it is searched, not compared
        monkeypatch.setattr(f"cochlea_sb.index.random_projection.{name}", value)
    index = RandomProjectionIndex.build(vectors)
    order = np.random.default_rng(0).permutation(20_000) if random else np.argsort(vectors @ vectors[0])
    for n_allowed in (1200, 5000):
        ids = order[:n_allowed]
        allowed = index.allow(ids) if prepare else ids
        truth = np.sort(cosines(vectors[ids], queries), axis=1)[:, -10]
        scores, found = index.query(queries, 10, allowed=allowed)
        assert (scores >= truth[:, None] - 1e-6).mean() >= 0.95 and np.isin(found, ids).all()
        scores, found = index.query(queries[:2], 6000, allowed=allowed)  # more than are allowed
        assert found.shape == (2, n_allowed) and set(found[0]) == set(found[1]) == set(ids)


def test_nothing_to_tune_with():
    for vectors, queries in ((np.ones((0, 4)), None), (np.eye(4), []), (np.eye(4), np.ones(4))):
        with pytest.raises(ValueError, match="expected an index that is not empty"):
            RandomProjectionIndex.build(vectors).tune(queries=queries)


def test_changed_is_as_good_as_new():
    vectors, more, queries = clustered(12_000), clustered(6000, seed=2), clustered(300, seed=1)
    index = RandomProjectionIndex.build(vectors)
    for part in np.array_split(np.arange(6000), 7):
        index.add(more[part], 12_000 + part)
    gone = np.random.default_rng(0).choice(18_000, 5400, replace=False)
    index.remove(gone)
    left = np.setdiff1d(np.arange(18_000), gone)
    both = np.concatenate([vectors, more])[left]
    fresh = RandomProjectionIndex.build(both, left)
    assert abs(recall(index, both, left, queries) - recall(fresh, both, left, queries)) < 0.02


def test_an_index_that_grew_beyond_four_times_its_size_is_rebuilt():
    vectors, queries = clustered(6000), clustered(300, seed=1)
    index = RandomProjectionIndex.build(vectors[:1000])
    index.effort = 0.985
    index.add(vectors[1000:4000], np.arange(1000, 4000))
    assert index.built_with == 1000
    index.add(vectors[4000:], np.arange(4000, 6000))
    assert index.built_with == 6000 and index.effort == 0.985 and set(index.ids) == set(range(6000))
    assert recall(index, vectors, np.arange(6000), queries) >= 0.95


@pytest.mark.parametrize("n_allowed", [0, 1, 300, 3000])
def test_only_allowed_ids(n_allowed):
    vectors, queries = clustered(8000), clustered(50, seed=1)
    allowed = np.random.default_rng(3).choice(8000, n_allowed, replace=False)
    for index in (RandomProjectionIndex.build(vectors), ExactIndex.build(vectors)):
        given_ids = np.concatenate([allowed, allowed[:5], [-3, 10**9]]).astype(np.int64)
        scores, ids = index.query(queries, 10, allowed=given_ids, effort=1)
        assert ids.shape == (50, min(10, n_allowed)) and set(ids.ravel().tolist()) <= set(allowed.tolist())
        if n_allowed:
            order = np.sort(cosines(vectors[allowed], queries), axis=1)[:, ::-1][:, :10]
            np.testing.assert_allclose(scores, order, atol=2e-6)
            assert (index.query(queries, 10, allowed=allowed)[0] >= order[:, -1:] - 1e-6).mean() > 0.9


def test_one_by_one_together_and_in_threads_are_the_same():
    vectors, queries = clustered(5000), clustered(200, seed=1)
    for index in (RandomProjectionIndex.build(vectors), ExactIndex.build(vectors)):
        together = index.query(queries, threads=1)
        for other in (index.query(queries, threads=2), index.query(queries)):
            assert all((a == b).all() for a, b in zip(together, other, strict=True))
        singly = [index.query(query) for query in queries]
        assert all((together[0][i] == s).all() and (together[1][i] == j).all() for i, (s, j) in enumerate(singly))


def test_ids_of_64_bits():
    ids = np.array([-(2**63), 2**63 - 1, 2**53 + 1, 0])
    for kind in (RandomProjectionIndex, ExactIndex):
        index = kind.build(np.eye(4), ids)
        assert index.query(np.eye(4), k=1)[1].ravel().tolist() == ids.tolist()
        index.remove([2**53 + 1])
        assert set(index.ids.tolist()) == set(ids.tolist()) - {2**53 + 1}
        with pytest.raises(ValueError, match="at most 64 bits"):
            index.add(np.ones((1, 4)), np.array([2**63], np.uint64))


def test_the_number_of_vectors_chooses():
    assert isinstance(build_index(np.ones((10, 3))), ExactIndex)
    assert isinstance(build_index(np.random.default_rng(0).normal(size=(5000, 3))), RandomProjectionIndex)


def test_a_stranger_that_was_added_is_found():
    """A vector far from all centres is about as far from each: which of them it joined must not be left to chance."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 64))
    index = RandomProjectionIndex.build(centres[rng.integers(40, size=20_000)] + 0.3 * rng.normal(size=(20_000, 64)))
    strangers = rng.normal(size=(200, 64))
    index.add(strangers, np.arange(200) + 10**6)
    _, found = index.query(strangers + 0.05 * rng.normal(size=strangers.shape), k=10)
    assert np.mean((found == np.arange(200)[:, None] + 10**6).any(1)) > 0.96


@pytest.mark.parametrize("kind", [RandomProjectionIndex, ExactIndex])
def test_vectors_come_back_by_their_ids(kind):
    rng = np.random.default_rng(0)
    vectors, ids = rng.normal(size=(3000, 8)), rng.permutation(10_000)[:3000] - 5000
    index = kind.build(vectors[:2000], ids[:2000])
    index.add(vectors[2000:], ids[2000:])
    index.remove(ids[:100])
    rows = rng.integers(100, 3000, 500)
    unit = vectors[rows] / np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    np.testing.assert_allclose(index.vectors_of(ids[rows]), unit, atol=1e-6)
    assert index.vectors_of([]).shape == (0, 8)
    with pytest.raises(ValueError, match=f"Id {ids[7]} is not in the index"):
        index.vectors_of([ids[200], ids[7]])


@pytest.mark.parametrize("kind", [RandomProjectionIndex, ExactIndex])
def test_one_id_is_as_good_as_a_list_of_it(kind):
    index = kind.build(np.eye(8))
    assert (index.vectors_of(3) == np.eye(8)[3:4]).all()
    assert index.query(np.ones(8), allowed=3)[1].tolist() == [3]
    index.remove(3)
    assert sorted(index.ids.tolist()) == [0, 1, 2, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="Id 3 is not in the index"):
        index.vectors_of(3)


@pytest.mark.parametrize("kind", [RandomProjectionIndex, ExactIndex])
@pytest.mark.parametrize(
    "call, words",
    [
        (lambda index: index.query(np.ones(7)), r"shape \[7\].*\[n, 8\]"),
        (lambda index: index.query(np.ones((2, 2, 8))), r"\[8\] or \[n, 8\]"),
        (lambda index: index.query(np.full(8, np.nan)), "Row 0 .*NaN"),
        (lambda index: index.query(np.full((100, 8), np.inf, np.float32)), "Row 0 .*infinite"),
        (lambda index: index.query(["a"] * 8), "expected numbers"),
        (lambda index: index.query([[1] * 8, [1]]), "rows of the vectors have different lengths"),
        (lambda index: index.save(__file__), "is a file, or inside one"),
        (lambda index: build_index(3.0), r"shape \[\]: expected \[n, dimensions\]"),
        (lambda index: index.query(np.ones(8), k=0), "k is 0"),
        (lambda index: index.query(np.ones(8), threads=0), "threads is 0"),
        (lambda index: index.query(np.ones(8), k=2.5), "k is 2.5"),
        (lambda index: index.query(np.ones(8), allowed=[0.5]), "whole numbers"),
        (lambda index: index.add(np.ones((1, 8)), [1]), "1 is already in the index"),
        (lambda index: index.add(np.ones((2, 8)), [7, 7]), "7 is given twice"),
        (lambda index: index.add(np.ones((2, 8)), [7]), "one id for each"),
        (lambda index: index.add(np.ones((1, 9)), [7]), r"expected \[n, 8\]"),
        (lambda index: index.add(np.full((1, 8), np.nan), [7]), "NaN"),
        (lambda index: index.add(np.ones((1, 8)), [0.5]), "whole numbers"),
    ],
)
def test_a_mistake_is_one_sentence(kind, call, words):
    index = kind.build(np.eye(8), np.arange(8))
    with pytest.raises(ValueError, match=words) as caught:
        call(index)
    assert "\n" not in str(caught.value) and len(index) == 8


@pytest.mark.parametrize("kind", [RandomProjectionIndex, ExactIndex])
def test_a_query_that_is_not_finite_is_named_by_its_row(kind):
    queries = np.ones((300, 8), np.float32)
    queries[270] = np.nan
    with pytest.raises(ValueError, match="Row 270 "):
        kind.build(np.eye(8)).query(queries, threads=2)


@pytest.mark.parametrize("effort", [0, -1, 1.5, "high", [1], True])
def test_effort_and_recall_out_of_range(effort):
    index = RandomProjectionIndex.build(np.eye(8))
    with pytest.raises(ValueError, match="effort is"):
        index.query(np.ones(8), effort=effort)
    if effort is not True:
        with pytest.raises(ValueError, match="recall is"):
            index.tune(recall=effort)


def test_values_near_the_limits():
    for table in (np.array([[3e38, 3e38], [1e-30, 0]], np.float32), np.array([[1e300, 1e300], [1e-310, 0]])):
        scores, ids = RandomProjectionIndex.build(table).query(np.array([1, 1]), k=2)
        assert ids.tolist() == [0, 1] and np.allclose(scores, [1, 0.5**0.5])


def test_a_seed_gives_the_same_index():
    first, second = (RandomProjectionIndex.build(clustered(3000), seed=5) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first.arrays, second.arrays, strict=True))
    assert repr(first) == "RandomProjectionIndex(3000 vectors of 64 dimensions)"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["vectors", "scales", "centre_dots"])
def test_damaged_numbers_end_in_an_error_or_an_answer(name, value):
    index = RandomProjectionIndex.build(clustered(3000))
    getattr(index.pool, name)[::2] = value
    try:
        scores, ids = index.query(clustered(20, seed=1))
        assert scores.shape == (20, 10) and set(ids.ravel().tolist()) <= set(range(3000))
    except DamagedIndex as error:
        assert "damaged" in str(error)


@pytest.mark.parametrize("seed", [-1, None, 0.5, np.int64(3)])
def test_seeds(seed, tmp_path):
    if seed == 3:
        RandomProjectionIndex.build(np.eye(3), seed=seed).save(tmp_path)
        assert len(load_index(tmp_path)) == 3
    else:
        with pytest.raises(ValueError, match="seed is"):
            RandomProjectionIndex.build(np.eye(3), seed=seed)


@pytest.mark.parametrize("kind", [ExactIndex, RandomProjectionIndex])
def test_allowed_ids_can_be_prepared_and_stay_right_after_changes(kind):
    vectors, queries = clustered(20_000), clustered(50, seed=1)
    index = kind.build(vectors)
    for n_allowed in (200, 6000):
        ids = np.random.default_rng(0).choice(20_000, n_allowed, replace=False)
        allowed = index.allow(ids)
        exact = index.query(queries, 5, effort=1, allowed=ids)
        for found, wanted in zip(index.query(queries, 5, effort=1, allowed=allowed), exact, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert (index.query(queries, 5, allowed=allowed)[0] >= exact[0][:, -1:] - 1e-6).mean() > 0.95
        other = kind.build(vectors[:15_000])  # another index looks the ids up again
        assert np.isin(other.query(queries, 5, allowed=allowed)[1], ids[ids < 15_000]).all()
    gone = ids[:3000]
    index.remove(gone)
    index.add(vectors[gone[:10]], gone[:10])
    found = index.query(vectors[gone[:20]], 1, effort=1, allowed=allowed)[1][:, 0]
    np.testing.assert_array_equal(found[:10], gone[:10])
    assert np.isin(found[10:], ids[3000:].tolist() + gone[:10].tolist()).all()
