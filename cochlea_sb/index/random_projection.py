"""Nearest neighbours by random projections: few leaves of the set are visited, codes of two bits a dimension rank it.

The vectors are cut into leaves (`partition`). In its leaf a vector keeps two bits for each dimension of a random
rotation, from which a query's cosine with it is estimated by popcounts; the few that may be among the best are compared
exactly (`kernels` has the formulas). How many leaves a query visits, and how much doubt of an estimate is reason to
look, is learnt from vectors held back while the index is built (`calibration`).

Axes: N vectors, Q queries, D dimensions, L leaves, R rotated dimensions, W = R / 64 words.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cochlea_sb.index import calibration, kernels, partition, storage
from cochlea_sb.index.arguments import as_array, checked_ids, checked_k, places_of, query_rows, unit_rows, whole_numbers
from cochlea_sb.index.pool import Places, Pool, encode, insert, lay_out, leaf_labels, occupied, take_all
from cochlea_sb.index.threads import share_out

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

KIND = "random-projection"
FEW = 20_000  # allowed vectors that are all compared rather than searched
GROWTH = 4  # so many times its size at the last build, an index is laid out anew
NO_MASK, NO_IDS = np.zeros(0, bool), np.zeros(0, np.int64)


class Leaves(NamedTuple):
    """What is known of the leaves, and how queries are rotated."""

    rotation: np.ndarray  # [R, D] float32, orthonormal columns
    middle: np.ndarray  # [R] float32: mean of the centres, which are coded about it
    centres: np.ndarray  # [L, R] float32, rotated as all that follows
    signs: np.ndarray  # [W, L] uint64: of the centres about their middle
    scales: np.ndarray  # [L] float32: of an estimate from the signs
    squares: np.ndarray  # [L] float32: |centre|^2
    spreads: np.ndarray  # [L] float32: root mean square distance of a leaf's vectors to its centre
    patience: np.ndarray  # [L] float32: 1 / log2(rank + 2)


class RandomProjectionIndex:
    """Search by cosine. Make one with `build` or `load`.

    Queries may run side by side in threads, but not beside `add`, `remove` or `compact`. ``len(index)`` is the number
    of its vectors.

    Attributes
    ----------
    effort : float in (0, 1], that queries use when they give none

    Example
    -------
    >>> vectors = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    >>> index = RandomProjectionIndex.build(vectors)
    >>> scores, ids = index.query(vectors[7], k=3)
    >>> int(ids[0]), round(float(scores[0]), 5)
    (7, 1.0)
    >>> index.remove([7])
    >>> len(index), 7 in index.query(vectors[7], k=3)[1]
    (999, False)
    """

    def __init__(
        self,
        leaves: Leaves,
        pool: Pool,
        places: Places,
        observed: calibration.Observed,
        seed: int,
        built_with: int,
        effort: float,
    ) -> None:
        self.leaves, self.pool, self.places, self.observed = leaves, pool, places, observed
        self.seed, self.built_with, self.effort = seed, built_with, effort
        self.limits: dict[tuple[float, int], tuple[np.float32, np.float32]] = {}  # of the efforts that were asked for
        self._changed()

    def _changed(self) -> None:
        """Keep what each query needs: a call with few arguments is a fast one."""
        counts = self.places.counts
        self.n_vectors = int(counts.sum())
        floats, places = np.stack(self.leaves[4:]), np.stack(self.places)
        self.arrays = *self.leaves[:4], floats, *self.pool, places, int(counts.max())

    @classmethod
    def build(cls, vectors: ArrayLike, ids: ArrayLike | None = None, *, seed: int = 0) -> RandomProjectionIndex:
        """Index vectors.

        Arguments
        ---------
        vectors : array_like [N, D], int or float
            Of any norm; they are compared by cosine. A zero vector has cosine 0 with everything.
        ids : array_like [N], int, optional
            0 to N - 1 by default; each once.
        seed : int, at least 0
            The same vectors and seed give the same index.

        Returns
        -------
        RandomProjectionIndex

        Raises
        ------
        ValueError
            For vectors of another shape or kind, NaN or infinite values; ids of another number or kind, or repeated; a
            seed out of range.
        """
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed is {seed!r}: expected a whole number, at least 0.")
        unit = unit_rows(vectors)
        ids = np.arange(len(unit)) if ids is None else checked_ids(ids, len(unit))
        rng = np.random.default_rng(seed)
        held_back = calibration.choose(len(unit), rng)
        labels, centres = partition.cut_into_leaves(unit, held_back, rng)
        rotation = random_rotation(unit.shape[1], rng)
        middle, centres = rotation @ centres.mean(0), centres @ rotation.T
        pool, squared_distances = encode(unit, ids, rotation, centres, labels)
        signs, scales = np.empty((len(rotation) // 64, len(centres)), np.uint64), np.empty(len(centres), np.float32)
        kernels.encode_signs(centres - middle, signs, scales)
        sums, counts = (np.bincount(labels, weights, len(centres)) for weights in (squared_distances, None))
        spreads = np.maximum(np.sqrt(sums / np.maximum(counts, 1)), kernels.SMALLEST).astype(np.float32)
        patience = (1 / np.log2(np.arange(len(centres)) + 2)).astype(np.float32)
        leaves = Leaves(rotation, middle, centres, signs, scales, (centres**2).sum(1), spreads, patience)
        pool, places = lay_out(pool, labels, len(centres))
        index = cls(leaves, pool, places, calibration.NOTHING, int(seed), len(unit), calibration.DEFAULT_EFFORT)
        index.observed = calibration.observe(index, ids[held_back])
        return index

    def __len__(self) -> int:
        return self.n_vectors

    def __repr__(self) -> str:
        return f"RandomProjectionIndex({len(self)} vectors of {self.dimensions} dimensions)"

    @property
    def dimensions(self) -> int:
        """int: D, of the vectors."""
        return int(self.pool.vectors.shape[1])

    @property
    def ids(self) -> np.ndarray:
        """np.ndarray [N], int64: of the vectors, in no particular order."""
        ids: np.ndarray = self.pool.ids[occupied(self.places)]
        return ids

    def vectors_of(self, ids: ArrayLike) -> np.ndarray:
        """The vectors of some ids.

        Arguments
        ---------
        ids : array_like [n], int, or one of them

        Returns
        -------
        np.ndarray [n, D], float32, unit norm
            In the order of ``ids``; vectors of zeros stay zeros.

        Raises
        ------
        ValueError
            For an id that is not in the index, or no whole number.
        """
        ids = whole_numbers(ids)
        slots = self._slots(np.unique(ids))
        vectors: np.ndarray = self.pool.vectors[slots[places_of(ids, self.pool.ids[slots])]]
        return vectors

    def query(
        self,
        queries: ArrayLike,
        k: int = 10,
        effort: float | None = None,
        *,
        allowed: ArrayLike | None = None,
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest vectors by cosine.

        Arguments
        ---------
        queries : array_like [D] or [Q, D], int or float
            Of any norm.
        k : int, at least 1
        effort : float in (0, 1], optional
            The one knob that trades speed for recall: about the recall to expect of queries that are like the indexed
            vectors; for others, `tune` with some of them. 1 compares every vector and is exact. 0.98 unless tuned.
        allowed : array_like, int, optional
            Only these ids are found; those that are not in the index are ignored. Up to 20,000 are all compared, which
            is exact; more are searched among as if they were chosen by chance.
        threads : int, at least 1, optional
            All cores by default where there are queries enough to share.

        Returns
        -------
        scores : np.ndarray [k] or [Q, k], float32
            Exact cosines in descending order, ties by id; fewer columns where fewer than ``k`` can be found.
        ids : np.ndarray, int64, of the same shape

        Raises
        ------
        ValueError
            For queries of another shape or kind, NaN or infinite values, and settings out of range; or where what was
            loaded is damaged.
        """
        queries = as_array(queries)
        rows = query_rows(queries, self.dimensions)
        k, few = min(checked_k(k), self.n_vectors), calibration.NEIGHBOURS[0]
        if allowed is None:
            # The best of ten is found more surely than the best of one: how far to search was learnt for ten.
            reach, slack = self._limits(effort, k if k > few else few)
            scores, slots = self._search(rows, max(k, min(few, self.n_vectors)), reach, slack, NO_MASK, threads)
        else:
            scores, slots = self._query_among(rows, k, effort, np.unique(whole_numbers(allowed)), threads)
        ids = self.pool.ids[slots]
        return (scores[0, :k], ids[0, :k]) if queries.ndim == 1 else (scores[:, :k], ids[:, :k])

    def _query_among(
        self, rows: np.ndarray, k: int, effort: float | None, allowed: np.ndarray, threads: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and slots of at most the k nearest among ascending ids."""
        slots = self._slots(allowed)
        k = min(k, len(slots))
        if len(slots) <= FEW:
            self._limits(effort, k)  # is it in range?
            arrays = self.pool.vectors, self.pool.ids, slots
            return share_out(lambda rows, *found: kernels.compare(rows, *arrays, *found), rows, k, threads)
        mask = np.zeros(len(self.pool.ids), bool)
        mask[slots] = True
        k = max(k, calibration.NEIGHBOURS[0])
        # The k-th of a share is about as far as that share's part of all.
        return self._search(rows, k, *self._limits(effort, k * self.n_vectors // len(slots)), mask, threads)

    def _limits(self, effort: float | None, k: int) -> tuple[np.float32, np.float32]:
        """Reach and slack of an effort for the k nearest, worked out once."""
        key = (self.effort if effort is None else effort, calibration.row_for(k))
        found = self.limits.get(key) if isinstance(key[0], float) else None
        if found is None:
            found = calibration.limits(self.observed, *key)
            if isinstance(key[0], float):
                self.limits[key] = found
        return found

    def _search(
        self,
        rows: np.ndarray,
        k: int,
        reach: np.float32,
        slack: np.float32,
        mask: np.ndarray = NO_MASK,
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and slots [Q, k] of queries among the slots of a mask, all where it is empty."""
        arrays = *self.arrays, reach, slack, mask
        return share_out(lambda rows, *found: kernels.search(rows, *arrays, *found), rows, k, threads)

    def _slots(self, ids: np.ndarray) -> np.ndarray:
        """Slots of those of the ids, in ascending order, that are in the index."""
        slots = np.empty(len(ids), np.int64)
        return slots[: kernels.find(ids, self.pool.ids, self.places.starts, self.places.counts, slots)]

    def add(self, vectors: ArrayLike, ids: ArrayLike) -> None:
        """Add vectors, each to the leaf whose centre is nearest.

        An index that grows beyond four times the size it was built with, and 4,000, is built anew.

        Arguments
        ---------
        vectors : array_like [n, D], int or float
            As in `build`.
        ids : array_like [n], int
            New ones, each once.

        Raises
        ------
        ValueError
            For an id that is in the index already, and as in `build`.
        """
        unit = unit_rows(vectors, self.dimensions)
        ids = checked_ids(ids, len(unit))
        present = self._slots(np.sort(ids))
        if len(present):
            raise ValueError(f"Id {self.pool.ids[present[0]]} is in the index already: remove it first.")
        if len(self) + len(unit) > GROWTH * max(self.built_with, calibration.FEWEST):
            return self._rebuild(unit, ids)
        labels = partition.nearest_leaves(unit @ self.leaves.rotation.T, self.leaves.centres)
        new, _ = encode(unit, ids, self.leaves.rotation, self.leaves.centres, labels)
        self.pool, self.places = insert(self.pool, self.places, new, labels)
        self._changed()

    def remove(self, ids: ArrayLike) -> None:
        """Forget vectors.

        Arguments
        ---------
        ids : array_like [n], int, or one of them
            Those that are not in the index are ignored.

        Raises
        ------
        ValueError
            For ids that are no whole numbers.
        """
        slots = np.sort(self._slots(np.unique(whole_numbers(ids))))[::-1]
        leaves = np.searchsorted(self.places.starts, slots, side="right") - 1
        kernels.take_out(slots, leaves, *self.pool, *self.places)
        self._changed()

    def compact(self) -> None:
        """Build anew from the vectors held, as if they had come at once: after many changes, for the best speed."""
        self._rebuild(self.pool.vectors[:0], self.pool.ids[:0])

    def _rebuild(self, unit: np.ndarray, ids: np.ndarray) -> None:
        slots = occupied(self.places)
        unit, ids = np.concatenate([self.pool.vectors[slots], unit]), np.concatenate([self.pool.ids[slots], ids])
        fresh = RandomProjectionIndex.build(unit, ids, seed=self.seed)
        fresh.effort = self.effort
        self.__dict__.update(fresh.__dict__)

    def tune(self, recall: float = 0.99, queries: np.ndarray | None = None, k: int = 10) -> float:
        """Set the effort that queries use when they give none to the least that reaches a recall@k.

        Arguments
        ---------
        recall : float in (0, 1]
            Mean share of the true ``k`` nearest that is to be found.
        queries : np.ndarray [Q, D], float, optional
            Vectors like those to be searched with, a few hundred. By default vectors of the index, each of which is
            left out of what is found for it.
        k : int, at least 1

        Returns
        -------
        float in (0.5, 1]
            The effort, which is also kept in ``index.effort``, and saved.

        Raises
        ------
        ValueError
            If the index is empty, a number is out of range, or the queries are of another shape or not finite.
        """
        if not isinstance(recall, (int, float)) or not 0 < recall <= 1:
            raise ValueError(f"recall is {recall!r}: expected a number above 0 and at most 1.")
        k, own = min(checked_k(k), len(self)), NO_IDS
        if len(self) == 0 or (queries is not None and (np.ndim(queries) != 2 or len(queries) == 0)):
            raise ValueError("There is nothing to tune with: expected vectors in the index, and queries [n, D] if any.")
        if queries is None:
            slots = np.random.default_rng(self.seed).permutation(occupied(self.places))[:500]
            queries, own, k = self.pool.vectors[slots], self.pool.ids[slots], min(k + 1, len(self))
        truth = self.query(queries, k, effort=1)[1]
        low, high = 0.0, 1.0  # as shares of the way from an effort of 0.5 to 1, which is counted in tenfold steps
        for _ in range(10):
            middle = (low + high) / 2
            found = self.query(queries, k, effort=1 - 0.5 * 10 ** (-4 * middle))[1]
            shared = sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True))
            low, high = (low, middle) if shared - len(own) >= recall * (truth.size - len(own)) else (middle, high)
        self.effort = 1 - 0.5 * 10 ** (-4 * high) if high < 1 else 1.0
        return self.effort

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``.npy`` arrays and a JSON manifest; a reader, or a kill, sees the old index or the new one.

        Arguments
        ---------
        folder : str or Path
            Made where it is missing. An index that was saved there is replaced.

        Raises
        ------
        ValueError
            If the folder is, or is below, a file.
        OSError
            If it can't be written.
        """
        pool, places = self.pool, self.places
        if places.counts.sum() < len(pool.ids):  # nothing is written of unused slots
            rows = take_all(pool, places, len(self.leaves.rotation) // 32)
            pool, places = lay_out(rows, leaf_labels(places), len(places.counts))
        arrays = {**{f"leaf_{name}": array for name, array in self.leaves._asdict().items()}, **pool._asdict()}
        arrays |= {"counts": places.counts, **self.observed._asdict()}
        facts = {"seed": self.seed, "built_with": self.built_with, "effort": float(self.effort)}
        storage.save(folder, KIND, arrays, facts)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], mmap: bool = True, *, verify: bool = False) -> RandomProjectionIndex:
        """Open a folder that `save` wrote.

        Arguments
        ---------
        folder : str or Path
        mmap : bool
            Map the arrays rather than read them, so that processes share their memory. Changes to the index stay in
            this process's memory until it is saved.
        verify : bool
            Compare the checksums of all files, which reads them; without ``mmap`` that is always done.

        Returns
        -------
        RandomProjectionIndex

        Raises
        ------
        ValueError
            If the folder is not an index of this version, or is damaged.
        """
        arrays, facts = storage.load(folder, KIND, mmap=mmap, verify=verify)

        def expect(name: str, *shape: int | None) -> np.ndarray:
            return storage.expect(folder, arrays, name, shape)

        # The compiled code trusts these shapes.
        vectors, counts = expect("vectors", None, None), expect("counts", None)
        (n, n_dimensions), n_leaves, n_words = vectors.shape, len(counts), -(-vectors.shape[1] // 64)
        leaf_floats = (expect(f"leaf_{name}", n_leaves) for name in Leaves._fields[4:])
        leaves = Leaves(
            expect("leaf_rotation", 64 * n_words, n_dimensions), expect("leaf_middle", 64 * n_words),
            expect("leaf_centres", n_leaves, 64 * n_words), expect("leaf_signs", n_words, n_leaves), *leaf_floats,
        )  # fmt: skip
        codes = expect("codes", 2 * n_words * n)
        pool = Pool(vectors, expect("ids", n), codes, expect("scales", n), expect("alongs", n))
        observed = calibration.Observed(
            *(expect(name, None, len(calibration.SHARES)) for name in ("reaches", "slacks"))
        )
        if len(observed.reaches) != len(observed.slacks):
            raise storage.damaged(folder, "what was observed does not fit together")
        if n_leaves == 0 or n_dimensions == 0 or counts.min() < 0 or counts.max() > n or counts.sum() != n:
            raise storage.damaged(folder, "its leaves do not hold its vectors")
        places = Places(np.cumsum(counts) - counts, counts, counts.copy())
        try:
            seed, built_with, effort = int(facts["seed"]), int(facts["built_with"]), float(facts["effort"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise storage.damaged(folder, error) from error
        floats = (*leaves, *observed)
        if seed < 0 or not 0 < effort <= 1 or not all(np.isfinite(a).all() for a in floats if a.dtype == np.float32):
            raise storage.damaged(folder, "some of its numbers are out of range")
        return cls(leaves, pool, places, observed, seed, built_with, effort)


def random_rotation(n_dimensions: int, rng: np.random.Generator) -> np.ndarray:
    """Orthonormal columns [R, D] float32, R the next multiple of 64."""
    n_rotated = 64 * -(-n_dimensions // 64)
    rotation = np.linalg.qr(rng.standard_normal((n_rotated, n_rotated)))[0][:, :n_dimensions]
    return np.ascontiguousarray(rotation, np.float32)
