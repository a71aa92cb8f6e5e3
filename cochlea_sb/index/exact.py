"""Nearest neighbours by comparing all vectors. It needs only numpy, and is ready at once: nothing is compiled.

Axes: N vectors, Q queries, D dimensions.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from . import storage
from .arguments import (
    Allowed,
    as_array,
    checked_effort,
    checked_ids,
    checked_k,
    checked_recall,
    looked_up,
    positions_of,
    query_rows,
    unit_rows,
    whole_numbers,
)
from .threads import share_out

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

KIND = "exact"
AT_ONCE = 1 << 22  # products of a query and a vector
ROUNDING = np.float32(1e-5)  # more than the errors of products in float32


class ExactIndex:
    """An index that finds nearest neighbours by cosine, exactly. Use `build` or `load` to get one.

    Arguments
    ---------
    vectors : np.ndarray [N, D], float32, unit norm
    ids : np.ndarray [N], int64

    Example
    -------
    >>> index = ExactIndex.build([[1.0, 0.0], [0.0, 2.0]], ids=[7, 8])
    >>> scores, ids = index.query([3.0, 4.0], k=5)
    >>> ids.tolist(), [f"{score:.3f}" for score in scores]
    ([8, 7], ['0.800', '0.600'])
    """

    effort = 1.0  # every search is exact

    def __init__(self, vectors: np.ndarray, ids: np.ndarray) -> None:
        self.vectors, self._ids = vectors, ids

    @classmethod
    def build(cls, vectors: ArrayLike, ids: ArrayLike | None = None, *, seed: int = 0) -> ExactIndex:
        """Index vectors; see `RandomProjectionIndex.build`. The seed has no effect."""
        unit = unit_rows(vectors)
        return cls(unit, np.arange(len(unit)) if ids is None else checked_ids(ids, len(unit)))

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"ExactIndex({len(self)} vectors of {self.dimensions} dimensions)"

    @property
    def dimensions(self) -> int:
        """int: number of dimensions D."""
        return int(self.vectors.shape[1])

    @property
    def ids(self) -> np.ndarray:
        """np.ndarray [N], int64: ids of all vectors, in any order."""
        ids: np.ndarray = self._ids.copy()
        return ids

    def vectors_of(self, ids: ArrayLike) -> np.ndarray:
        """Return the unit vectors of ids, [n, D] float32; a ValueError is raised for an id that is not in the index."""
        vectors: np.ndarray = self.vectors[positions_of(whole_numbers(ids), self._ids)]
        return vectors

    @property
    def version(self) -> object:
        """object: another one after each change of the index."""
        return self._ids

    def allow(self, ids: ArrayLike | Allowed) -> Allowed:
        """Prepare ids for many searches among them; see `RandomProjectionIndex.allow`."""
        ids = np.unique(whole_numbers(ids.ids if isinstance(ids, Allowed) else ids))
        return Allowed(ids, np.flatnonzero(np.isin(self._ids, ids)), self.version)

    def query(
        self,
        queries: ArrayLike,
        k: int = 10,
        effort: float | None = None,
        *,
        allowed: ArrayLike | Allowed | None = None,
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the ``k`` nearest vectors; see `RandomProjectionIndex.query`. The result is exact at every effort."""
        queries = as_array(queries)
        checked_effort(self.effort if effort is None else effort)
        unit = unit_rows(query_rows(queries, self.dimensions))
        vectors, own_ids = self.vectors, self._ids
        if allowed is not None:
            slots = looked_up(allowed, self.version, self.allow).slots
            vectors, own_ids = vectors[slots], own_ids[slots]
        k = min(checked_k(k), len(own_ids))

        scores, ids = share_out(compare, unit, (vectors, own_ids), k, threads)
        return (scores[0], ids[0]) if queries.ndim == 1 else (scores, ids)

    def add(self, vectors: ArrayLike, ids: ArrayLike) -> None:
        """Add vectors under new ids; arguments and errors as in `build`."""
        unit = unit_rows(vectors, self.dimensions)
        ids = checked_ids(ids, len(unit))
        present = np.isin(ids, self._ids)
        if present.any():
            raise ValueError(f"Id {ids[present][0]} is already in the index: remove it first.")
        self.vectors, self._ids = np.concatenate([self.vectors, unit]), np.concatenate([self._ids, ids])

    def remove(self, ids: ArrayLike) -> None:
        """Remove vectors; ids that are not in the index are ignored."""
        kept = ~np.isin(self._ids, whole_numbers(ids))
        self.vectors, self._ids = self.vectors[kept], self._ids[kept]

    def tune(self, recall: float = 0.99, queries: np.ndarray | None = None, k: int = 10) -> float:
        """Return 1.0, because every search is exact. A ValueError is raised if ``recall`` is not in (0, 1]."""
        checked_recall(recall)
        return 1.0

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index; see `RandomProjectionIndex.save`."""
        storage.save(folder, KIND, {"vectors": self.vectors, "ids": self._ids}, {})

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], mmap: bool = True, *, verify: bool = False, kind: str = KIND
    ) -> ExactIndex:
        """Open a folder that `save` of any ``kind`` of index wrote; see `RandomProjectionIndex.load`."""
        arrays, _ = storage.load(folder, kind, mmap=mmap, verify=verify)
        vectors = storage.expect(folder, arrays, "vectors", (None, None))
        return cls(vectors, storage.expect(folder, arrays, "ids", (len(vectors),)))


def compare(unit: np.ndarray, vectors: np.ndarray, ids: np.ndarray, scores: np.ndarray, found: np.ndarray) -> int:
    """Write the scores [Q, k] and ids [Q, k] of the best vectors for unit queries [Q, D]; returns -1, or -2 for damage.

    Products in float32 leave out what can't be among the best. The scores of the rest are computed in float64, so they
    do not depend on how many queries or vectors are compared at once.
    """
    k, at_once = scores.shape[1], max(1, AT_ONCE // len(vectors))
    for first in range(0, len(unit), at_once):
        products = unit[first : first + at_once] @ vectors.T
        least = np.partition(products, len(vectors) - k, axis=1)[:, len(vectors) - k] - ROUNDING
        for row, (near, floor) in enumerate(zip(products, least, strict=True), first):
            chosen = np.flatnonzero(near >= floor)
            exact = np.einsum("ij,j->i", vectors[chosen].astype(np.float64), unit[row].astype(np.float64))
            exact = exact.astype(np.float32)
            best = np.lexsort((ids[chosen], -exact))[:k]
            if len(best) < k:  # NaN is not near
                return -2
            scores[row], found[row] = exact[best], ids[chosen[best]]
    return -1
