"""Check the arguments of an index, and convert them. Wrong arguments raise a ValueError."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

BLOCK = 1024  # rows that are scaled at a time
FLOAT, WHOLE = np.dtype(np.float32), np.dtype(np.int64)  # numpy takes longer to look up a type than a dtype
NO_MASK = np.zeros(0, bool)


class Allowed(NamedTuple):
    """Ids that a search may find, prepared by `allow` of an index; a change of the index makes ``version`` outdated."""

    ids: np.ndarray  # [n] int64, ascending
    slots: np.ndarray  # [at most n] int64, ascending: where the index holds them
    version: object  # of the index
    view: Any = None  # an index that finds only them; None: they are all compared


def as_array(vectors: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(vectors)
    except ValueError as error:
        raise ValueError("The rows of the vectors have different lengths: expected one length.") from error


def unit_rows(vectors: ArrayLike, dimensions: int | None = None) -> np.ndarray:
    """Scale rows [N, D] to norm 1, as float32; rows of zeros stay zeros. ``dimensions`` is the expected D."""
    vectors = as_array(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != (dimensions or vectors.shape[1] or None):
        wanted = "[n, dimensions]" if dimensions is None else f"[n, {dimensions}]"
        raise ValueError(f"vectors have shape {list(vectors.shape)}: expected {wanted}.")
    if vectors.dtype.kind not in "fiu":
        raise ValueError(f"vectors are of type {vectors.dtype}: expected numbers, preferably float32.")
    unit = np.empty(vectors.shape, np.float32)
    for first in range(0, len(vectors), BLOCK):
        rows = vectors[first : first + BLOCK].astype(np.float64)
        largest = np.abs(rows).max(axis=1, keepdims=True)  # so that no square over- or underflows
        finite = np.isfinite(largest[:, 0])
        if not finite.all():
            raise not_finite(first + int(np.flatnonzero(~finite)[0]))
        rows /= np.where(largest > 0, largest, 1)
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
        unit[first : first + BLOCK] = rows / np.where(norms > 0, norms, 1)
    return unit


def query_rows(queries: np.ndarray, dimensions: int) -> np.ndarray:
    """Convert queries [D] or [Q, D] to float32 rows [Q, D]. The search itself refuses values that are not finite."""
    rows = queries[None] if queries.ndim == 1 else queries
    if rows.ndim != 2 or rows.shape[1] != dimensions:
        raise ValueError(f"queries have shape {list(queries.shape)}: expected [{dimensions}] or [n, {dimensions}].")
    ready = rows.dtype == FLOAT and rows.flags.carray  # numba would compile the search again for other arrays
    return rows if ready else unit_rows(rows, dimensions)


def not_finite(row: int) -> ValueError:
    return ValueError(f"Row {row} of the vectors holds NaN or infinite values: expected finite ones.")


def checked_ids(ids: ArrayLike, n: int) -> np.ndarray:
    """Convert n unique ids to int64."""
    ids = np.asarray(ids)
    if ids.shape != (n,):
        raise ValueError(f"ids have shape {list(ids.shape)} for {n} vectors: expected one id for each.")
    ids = whole_numbers(ids)
    if len(np.unique(ids)) < n:
        values, counts = np.unique(ids, return_counts=True)
        raise ValueError(f"Id {values[counts > 1][0]} is given twice: expected each id once.")
    return ids


def whole_numbers(ids: ArrayLike) -> np.ndarray:
    """Convert ids of any shape to int64; a single id becomes an array of shape [1]."""
    ids = np.atleast_1d(list(ids) if isinstance(ids, (set, frozenset)) else ids)
    if ids.size and (ids.dtype.kind not in "iu" or (ids.dtype == np.uint64 and ids.max() > np.iinfo(np.int64).max)):
        raise ValueError(f"ids are of type {ids.dtype}: expected whole numbers, signed, of at most 64 bits.")
    return ids.astype(np.int64)


def looked_up(allowed: ArrayLike | Allowed, version: object, look_up: Callable[[ArrayLike], Allowed]) -> Allowed:
    """The allowed ids, looked up unless they were in this version of the index."""
    if not isinstance(allowed, Allowed):
        return look_up(allowed)
    return allowed if allowed.version is version else look_up(allowed.ids)


def ascending(ids: np.ndarray) -> np.ndarray:
    """The ids in ascending order, each once."""
    flat = ids.reshape(-1)
    return flat if (flat[1:] > flat[:-1]).all() else np.unique(flat)


def positions_of(ids: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Position of each id in ``among``, which may have any order, [n]."""
    order = np.argsort(among)
    positions = np.searchsorted(among, ids, sorter=order)
    found = positions < len(among)
    found[found] = among[order[positions[found]]] == ids[found]
    if not found.all():
        raise ValueError(f"Id {ids[~found][0]} is not in the index.")
    return order[positions]


def checked_k(k: int) -> int:
    if type(k) is int and k > 0:  # the usual case: a search is so fast that its checks take a tenth of its time
        return k
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k is {k!r}: expected a whole number of matches, at least 1.")
    return int(k)


def checked_effort(effort: float) -> float:
    if isinstance(effort, bool) or not isinstance(effort, (int, float, np.number)) or not 0 < effort <= 1:
        raise ValueError(f"effort is {effort!r}: expected a number above 0 and at most 1, about the recall to expect.")
    return effort


def checked_recall(recall: float) -> None:
    if not isinstance(recall, (int, float)) or not 0 < recall <= 1:
        raise ValueError(f"recall is {recall!r}: expected a number above 0 and at most 1.")
