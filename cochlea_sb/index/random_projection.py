"""Nearest neighbours by random projections: a query visits few cells and ranks the vectors of these cells by codes.

`partition` divides the vectors into cells by k-means. From each vector, the centre of the cell is subtracted, and the
difference is multiplied by a random rotation. The code of the vector has two bits for each rotated dimension. A search
estimates cosines from the codes, and computes the exact cosine only for vectors with high estimates (formulas in
`search_kernels`). `calibration` learns from held-back vectors how many cells a query must visit (the reach), and how
large the errors of the estimates are (the margin).

Axes: N vectors, Q queries, D dimensions, C cells, R rotated dimensions, W = R / 64 words.
"""

from __future__ import annotations

import os
from copy import copy
from typing import TYPE_CHECKING

import numpy as np

from . import build_kernels, calibration, search_kernels, storage
from .arguments import (
    NO_MASK,
    Allowed,
    as_array,
    ascending,
    checked_effort,
    checked_ids,
    checked_k,
    looked_up,
    positions_of,
    query_rows,
    unit_rows,
    whole_numbers,
)
from .partition import nearest_cells, partition
from .pool import Cells, Layout, Pool, encode, insert, lay_out, layout_of, move, used_slots
from .threads import share_out

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

KIND = "random-projection"
FEW = 256  # up to so many allowed vectors are all compared
COMPARED = 1 / 20  # the same as a share of all vectors, for ids that are not prepared
COPIED = 20_000, 1 / 50  # up to so many prepared ids, or this share of all, become an index of their own
GROWTH = 4  # an index that has grown by more than this factor is rebuilt


class RandomProjectionIndex:
    """An index that finds nearest neighbours by cosine. Use `build` or `load` to get one.

    Several threads may query at the same time, but not during `add` or `remove`. ``len(index)`` is the number of
    vectors. ``index.effort``, a float in (0, 1], is the default effort of `query`.

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
        cells: Cells,
        pool: Pool,
        layout: Layout,
        needed: calibration.Needed,
        seed: int,
        built_with: int,
        effort: float,
    ) -> None:
        self.cells, self.pool, self.layout, self.needed = cells, pool, layout, needed
        self.seed, self.built_with, self.effort = seed, built_with, effort
        self.mask = NO_MASK  # [S] bool, slots that may be found, or [0] for all; only `allow` sets it
        self.limits: dict[tuple[float, int], tuple[np.float32, np.float32]] = {}  # by effort and row of `needed`
        self._changed()

    def _changed(self) -> None:
        """Prepare the kernel's arguments. Arrays are stacked because numba takes time to unpack each argument."""
        counts = self.n_allowed = self.layout.counts
        if len(self.mask):
            labels = np.searchsorted(self.layout.starts, np.flatnonzero(self.mask), side="right") - 1
            self.n_allowed = np.bincount(labels, minlength=len(counts))
        self.n_vectors, self.n_dimensions = int(self.n_allowed.sum()), int(self.pool.vectors.shape[1])
        cell_floats, layout = np.stack(self.cells[4:]), np.stack([*self.layout, self.n_allowed])
        self.arrays = *self.cells[:4], cell_floats, *self.pool, layout, int(counts.max()), self.mask
        self.version: object = object()

    @classmethod
    def build(cls, vectors: ArrayLike, ids: ArrayLike | None = None, *, seed: int = 0) -> RandomProjectionIndex:
        """Index vectors.

        Arguments
        ---------
        vectors : array_like [N, D], int or float, of any norm; a vector of zeros has cosine 0 with all others
        ids : array_like [N], int, unique; by default 0 to N - 1
        seed : int, at least 0; the same vectors and seed give the same index

        Returns
        -------
        RandomProjectionIndex

        Raises
        ------
        ValueError
            If the shape, type or values of an argument are not as described, or if vectors are not finite.
        """
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed is {seed!r}: expected a whole number, at least 0.")
        unit = unit_rows(vectors)
        ids = np.arange(len(unit)) if ids is None else checked_ids(ids, len(unit))
        rng = np.random.default_rng(seed)
        held_back = calibration.choose(len(unit), rng)
        labels, centres = partition(unit, held_back, rng)
        rotation = random_rotation(unit.shape[1], rng)
        centres = centres @ rotation.T
        rows, squared_distances = encode(unit, ids, rotation, centres, labels)
        sums, counts = (np.bincount(labels, weights, len(centres)) for weights in (squared_distances, None))
        spreads = np.maximum(np.sqrt(sums / np.maximum(counts, 1)), search_kernels.SMALLEST).astype(np.float32)
        cells = Cells.around(centres, rotation, spreads)
        pool, layout = lay_out(rows, labels, len(centres))
        index = cls(cells, pool, layout, calibration.NOTHING, int(seed), len(unit), calibration.DEFAULT_EFFORT)
        index.needed = calibration.measure(index, ids[held_back])
        return index

    def __len__(self) -> int:
        return self.n_vectors

    def __repr__(self) -> str:
        return f"RandomProjectionIndex({len(self)} vectors of {self.dimensions} dimensions)"

    @property
    def dimensions(self) -> int:
        """int: number of dimensions D."""
        return self.n_dimensions

    @property
    def ids(self) -> np.ndarray:
        """np.ndarray [N], int64: ids of all vectors, in any order."""
        ids: np.ndarray = self.pool.ids[used_slots(self.layout)]
        return ids

    def vectors_of(self, ids: ArrayLike) -> np.ndarray:
        """Return the vectors of ids.

        Arguments
        ---------
        ids : array_like [n], int, or a single id; a ValueError is raised for an id that is not in the index

        Returns
        -------
        np.ndarray [n, D], float32, unit norm (vectors of zeros stay zeros), in the order of ``ids``
        """
        ids = whole_numbers(ids)
        slots = self._slots(np.unique(ids))
        vectors: np.ndarray = self.pool.vectors[slots[positions_of(ids, self.pool.ids[slots])]]
        return vectors

    def query(
        self,
        queries: ArrayLike,
        k: int = 10,
        effort: float | None = None,
        *,
        allowed: ArrayLike | Allowed | None = None,
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the ``k`` nearest vectors by cosine.

        Arguments
        ---------
        queries : array_like [D] or [Q, D], int or float, of any norm
        k : int, at least 1
        effort : float in (0, 1], optional
            Approximate recall to expect for queries that resemble the indexed vectors. A lower effort is faster. For
            queries of another kind, call `tune` with examples. The default is 0.98, or the effort that `tune` has set.
            With 1, the query is compared with every vector, and the result is exact.
        allowed : array_like, int, or Allowed, optional
            The only ids that may be found. To look them up takes longer than a search: for several searches, prepare
            them with `allow`.
        threads : int, at least 1; by default all cores if there are enough queries

        Returns
        -------
        scores : np.ndarray [k] or [Q, k], float32
            Exact cosines in descending order, with ties in the order of ids. There are fewer columns if fewer than
            ``k`` vectors may be found.
        ids : np.ndarray, int64, of the same shape

        Raises
        ------
        ValueError
            If the shape, type or range of an argument is not as described, or if queries are not finite.
        DamagedIndex
            If the index was loaded from damaged files.
        """
        queries = as_array(queries)
        rows = query_rows(queries, self.n_dimensions)
        k = min(checked_k(k), self.n_vectors)
        if allowed is None:
            scores, ids = self._query(rows, k, effort, threads)
        else:
            scores, ids = self._query_among(rows, k, effort, looked_up(allowed, self.version, self._look_up), threads)
        if scores.shape[1] > k:
            scores, ids = scores[:, :k], ids[:, :k]
        return (scores[0], ids[0]) if queries.ndim == 1 else (scores, ids)

    def allow(self, ids: ArrayLike | Allowed) -> Allowed:
        """Prepare ids for many searches among them. `query` looks up ids that are not prepared in each call.

        Arguments
        ---------
        ids : array_like, int, or Allowed; ids that are not in the index are ignored

        Returns
        -------
        Allowed
            For ``allowed`` of `query`. It holds a copy of up to 20,000 vectors, or 2 % of all (560 bytes each with 128
            dimensions); for more, it learns how far a search among them must go. After a change of the index, the
            results are still right, but as slow as with ids.
        """
        return self._look_up(ids.ids if isinstance(ids, Allowed) else ids, prepare=True)

    def _look_up(self, ids: ArrayLike, prepare: bool = False) -> Allowed:
        ids = ascending(whole_numbers(ids))
        slots = np.sort(self._slots(ids))
        view = None
        if prepare and FEW < len(slots) <= max(COPIED[0], COPIED[1] * len(self)):
            view = self._copy_of(slots)
        elif len(slots) > (FEW if prepare else COMPARED * len(self)):
            view = copy(self)
            view.mask = np.zeros(len(self.pool.ids), bool)
            view.mask[slots] = True
            view._changed()
            some = self.ids[:: max(1, len(self) // calibration.QUICK)]
            view.limits = {}
            view.needed = calibration.measure(view, some) if prepare else calibration.everywhere(self.needed)
        return Allowed(ids, slots, self.version, view)

    def _copy_of(self, slots: np.ndarray) -> RandomProjectionIndex:
        """An index of some vectors, in one cell."""
        labels, centre, rotation = np.zeros(len(slots), np.int64), self.cells.mean_centre[None], self.cells.rotation
        rows, _ = encode(self.pool.vectors[slots], self.pool.ids[slots], rotation, centre, labels)
        cells = Cells.around(centre, rotation, np.ones(1, np.float32))
        return RandomProjectionIndex(cells, *lay_out(rows, labels, 1), self.needed, 0, len(slots), self.effort)

    def _query_among(
        self, rows: np.ndarray, k: int, effort: float | None, allowed: Allowed, threads: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and ids of the nearest allowed vectors: at most k, or the ten that are learnt for."""
        effort = checked_effort(self.effort if effort is None else effort)  # of this index, not of the view
        view: RandomProjectionIndex | None = allowed.view
        if view is not None:
            return view._query(rows, k, effort, threads)
        arrays = self.pool.vectors, self.pool.ids, allowed.slots
        scores, slots = share_out(search_kernels.compare, rows, arrays, min(k, len(allowed.slots)), threads)
        return scores, self.pool.ids[slots]

    def _query(
        self, rows: np.ndarray, k: int, effort: float | None, threads: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and ids of the nearest vectors: k, or the ten that reach and margin were learnt for, or all."""
        k = max(k, calibration.NEIGHBOURS[0])
        scores, slots = self._search(rows, min(k, self.n_vectors), self._limits(effort, k), threads)
        return scores, self.pool.ids[slots]

    def _limits(self, effort: float | None, k: int) -> tuple[np.float32, np.float32]:
        """Reach and margin for an effort and k neighbours, from a cache."""
        key = (self.effort if effort is None else effort, calibration.row_for(k))
        found = self.limits.get(key) if isinstance(key[0], float) else None
        if found is None:
            found = calibration.limits(self.needed, *key)
            if isinstance(key[0], float):
                self.limits[key] = found
        return found

    def _search(
        self, rows: np.ndarray, k: int, limits: tuple[np.float32, np.float32], threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and slots [Q, k] of the nearest vectors. ``limits`` are the reach and the margin."""
        return share_out(search_kernels.search, rows, self.arrays + limits, k, threads)

    def _slots(self, ids: np.ndarray) -> np.ndarray:
        """Slots of ids, which must ascend; ids that are not in the index are skipped."""
        slots = np.empty(len(ids), np.int64)
        return slots[: build_kernels.find(ids, self.pool.ids, self.layout.starts, self.layout.counts, slots)]

    def add(self, vectors: ArrayLike, ids: ArrayLike) -> None:
        """Add each vector to the cell with the nearest centre.

        The index is rebuilt if it becomes larger than 4,000 vectors and larger than four times its size when built.

        Arguments
        ---------
        vectors : array_like [n, D], int or float, as in `build`
        ids : array_like [n], int, unique and not in the index

        Raises
        ------
        ValueError
            If an id is already in the index, or for the reasons given in `build`.
        """
        unit = unit_rows(vectors, self.dimensions)
        ids = checked_ids(ids, len(unit))
        present = self._slots(np.sort(ids))
        if len(present):
            raise ValueError(f"Id {self.pool.ids[present[0]]} is already in the index: remove it first.")
        if len(self) + len(unit) > GROWTH * max(self.built_with, calibration.FEWEST):
            return self._rebuild(unit, ids)
        labels = nearest_cells(unit @ self.cells.rotation.T, self.cells.centres)
        rows, _ = encode(unit, ids, self.cells.rotation, self.cells.centres, labels)
        self.pool, self.layout = insert(self.pool, self.layout, rows, labels)
        self._changed()

    def remove(self, ids: ArrayLike) -> None:
        """Remove vectors. A ValueError is raised if an id is no whole number.

        Arguments
        ---------
        ids : array_like [n], int, or a single id; ids that are not in the index are ignored
        """
        slots = np.sort(self._slots(np.unique(whole_numbers(ids))))[::-1]
        labels = np.searchsorted(self.layout.starts, slots, side="right") - 1
        build_kernels.delete(slots, labels, *self.pool, *self.layout)
        self._changed()

    def _rebuild(self, unit: np.ndarray, ids: np.ndarray) -> None:
        """Build the index again from its vectors and the unit vectors ``unit``."""
        slots = used_slots(self.layout)
        unit, ids = np.concatenate([self.pool.vectors[slots], unit]), np.concatenate([self.pool.ids[slots], ids])
        fresh = RandomProjectionIndex.build(unit, ids, seed=self.seed)
        fresh.effort = self.effort
        self.__dict__.update(fresh.__dict__)

    def tune(self, recall: float = 0.99, queries: np.ndarray | None = None, k: int = 10) -> float:
        """Set ``index.effort`` to the least effort that reaches a recall@k. `save` stores this effort.

        Arguments
        ---------
        recall : float in (0, 1], the mean share of the true ``k`` nearest neighbours that queries should find
        queries : np.ndarray [Q, D], float, optional
            A few hundred typical queries. By default, they are vectors of the index, and a vector does not count as its
            own neighbour.
        k : int, at least 1

        Returns
        -------
        float in (0.5, 1], the effort

        Raises
        ------
        ValueError
            If the index is empty, if an argument is out of range, or if queries have another shape or are not finite.
        """
        self.effort = calibration.least_effort(self, recall, queries, k)
        return self.effort

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``.npy`` arrays and a JSON manifest. Even after a crash, readers find the old index or the new index.

        Arguments
        ---------
        folder : str or Path, created if missing; an index in the folder is replaced

        Raises
        ------
        ValueError
            If ``folder`` is a file or inside a file.
        OSError
            If the folder can't be written.
        """
        pool, layout = self.pool, self.layout
        if layout.counts.sum() < len(pool.ids):  # leave out free slots
            pool, layout = move(pool, layout, layout.counts, len(self.cells.rotation) // 32)
        arrays = {f"cell_{name}": getattr(self.cells, name) for name in ("rotation", "centres", "spreads")}
        arrays |= {**pool._asdict(), "counts": layout.counts, **self.needed._asdict()}
        facts = {"seed": self.seed, "built_with": self.built_with, "effort": float(self.effort)}
        storage.save(folder, KIND, arrays, facts)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], mmap: bool = True, *, verify: bool = False) -> RandomProjectionIndex:
        """Open a folder that `save` wrote.

        Arguments
        ---------
        folder : str or Path
        mmap : bool
            Whether to map the files into memory instead of reading them. Processes then share this memory. Changes of
            the index stay in this process until they are saved.
        verify : bool
            Whether to read all files and compare their checksums. If ``mmap`` is False, they are always compared.

        Returns
        -------
        RandomProjectionIndex

        Raises
        ------
        DamagedIndex (a ValueError)
            If the folder holds no index of this version, or a damaged one.
        """
        arrays, facts = storage.load(folder, KIND, mmap=mmap, verify=verify)

        def expect(name: str, *shape: int | None) -> np.ndarray:
            return storage.expect(folder, arrays, name, shape)

        # Compiled code does not check bounds, so wrong shapes must be refused here.
        vectors, counts = expect("vectors", None, None), expect("counts", None)
        (n, n_dimensions), n_cells, n_words = vectors.shape, len(counts), -(-vectors.shape[1] // 64)
        rotation = expect("cell_rotation", 64 * n_words, n_dimensions)
        centres, spreads = expect("cell_centres", n_cells, 64 * n_words), expect("cell_spreads", n_cells)
        codes = expect("codes", 2 * n_words * n)
        pool = Pool(vectors, expect("ids", n), codes, expect("scales", n), expect("centre_dots", n))
        tables = (expect(name, None, len(calibration.SHARES)) for name in calibration.Needed._fields)
        needed = calibration.Needed(*tables)
        if len(needed.reaches) != len(needed.margins):
            raise storage.damaged(folder, "reaches and margins have different shapes")
        if n_cells == 0 or n_dimensions == 0 or counts.min() < 0 or counts.max() > n or counts.sum() != n:
            raise storage.damaged(folder, "cells and vectors do not agree")
        layout = layout_of(counts, counts)
        try:
            seed, built_with, effort = int(facts["seed"]), int(facts["built_with"]), float(facts["effort"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise storage.damaged(folder, error) from error
        floats = (rotation, centres, spreads, *needed)
        if seed < 0 or not 0 < effort <= 1 or not all(np.isfinite(a).all() for a in floats):
            raise storage.damaged(folder, "some of its numbers are out of range")
        return cls(Cells.around(centres, rotation, spreads), pool, layout, needed, seed, built_with, effort)


def random_rotation(n_dimensions: int, rng: np.random.Generator) -> np.ndarray:
    """Random matrix [R, D], float32, with orthonormal columns. R is D rounded up to a multiple of 64."""
    n_rotated = 64 * -(-n_dimensions // 64)
    rotation = np.linalg.qr(rng.standard_normal((n_rotated, n_rotated)))[0][:, :n_dimensions]
    return np.ascontiguousarray(rotation, np.float32)
