"""Where the vectors of `RandomProjectionIndex` lie: leaf by leaf, with room for more where there were additions.

Axes: N vectors, L leaves, D dimensions, R rotated dimensions, W = R / 64 words.
"""

from typing import NamedTuple

import numpy as np

from cochlea_sb.index import kernels

BLOCK = 65536  # vectors rotated at a time
SPARE = 32  # least number of slots kept free in each leaf of an index that grows


class Pool(NamedTuple):
    """The vectors, those of a leaf side by side; slots between leaves may be unused."""

    vectors: np.ndarray  # [slots, D] float32
    ids: np.ndarray  # [slots] int64
    codes: np.ndarray  # [2 W slots] uint64, leaf by leaf: `kernels.estimate` tells the order
    scales: np.ndarray  # [slots] float32
    alongs: np.ndarray  # [slots] float32: products of the residuals with their centres


class Places(NamedTuple):
    """Where in the pool each leaf's vectors are."""

    starts: np.ndarray  # [L] int64, ascending
    counts: np.ndarray  # [L] int64
    rooms: np.ndarray  # [L] int64: slots that the leaf may fill


def encode(
    unit: np.ndarray, ids: np.ndarray, rotation: np.ndarray, centres: np.ndarray, labels: np.ndarray
) -> tuple[Pool, np.ndarray]:
    """A pool of vectors coded about the rotated centres of their labels, and their squared distances to them, [n].

    Its codes are rows, [n, 2 W], as `lay_out` and `insert` take them.
    """
    codes, floats = np.empty((len(unit), len(rotation) // 32), np.uint64), np.empty((2, len(unit)), np.float32)
    squared_distances = []
    for first in range(0, len(unit), BLOCK):
        some = slice(first, first + BLOCK)
        rotated = unit[some] @ rotation.T
        squared_distances += [kernels.encode(rotated, centres, labels[some], codes[some], *floats[:, some])]
    return Pool(unit, ids, codes, *floats), np.concatenate([floats[0, :0], *squared_distances])


def lay_out(rows: Pool, labels: np.ndarray, n_leaves: int, spare: np.ndarray | None = None) -> tuple[Pool, Places]:
    """A pool in which the vectors of each leaf are side by side, with spare slots, [L], and the leaves' places."""
    counts = np.bincount(labels, minlength=n_leaves)
    rooms = counts if spare is None else counts + spare
    places = Places(np.cumsum(rooms) - rooms, counts, rooms.copy())
    n, order = int(rooms.sum()), np.argsort(labels, kind="stable")
    if spare is None:
        sorted_rows = [array[order] for array in rows]
        pool = Pool(*sorted_rows)._replace(codes=np.empty(rows.codes.size, np.uint64))
        kernels.write_codes(sorted_rows[2], np.arange(n), labels[order], places.starts, places.rooms, pool.codes)
        return pool, places
    pool = Pool(*(np.empty((n, *array.shape[1:]), array.dtype) for array in rows))
    pool = pool._replace(codes=pool.codes.ravel())
    write(pool, places, occupied(places), Pool(*(array[order] for array in rows)), labels[order])
    return pool, places


def insert(pool: Pool, places: Places, rows: Pool, labels: np.ndarray) -> tuple[Pool, Places]:
    """A pool and places with new vectors put into the leaves of their labels."""
    counts = np.bincount(labels, minlength=len(places.counts))
    total = places.counts + counts
    full = total > places.rooms
    if full.any():
        held = take_all(pool, places, rows.codes.shape[1])
        everything = Pool(*(np.concatenate(pair) for pair in zip(held, rows, strict=True)))
        spare = None
        if len(labels) < len(held.ids) / 8:  # few, so more are likely to follow, most where these went
            spare = SPARE + np.where(full, total, total // 4)
        return lay_out(everything, np.concatenate([leaf_labels(places), labels]), len(counts), spare)
    order = np.argsort(labels, kind="stable")
    first = np.cumsum(counts) - counts
    slots = (places.starts + places.counts - first)[labels[order]] + np.arange(len(labels))
    write(pool, places, slots, Pool(*(array[order] for array in rows)), labels[order])
    return pool, places._replace(counts=total)


def write(pool, places, slots, rows, labels):
    """Put vectors into slots of the leaves of their labels."""
    for array, values in zip(pool, rows, strict=True):
        if values is rows.codes:
            kernels.write_codes(values, slots, labels, places.starts, places.rooms, array)
        else:
            array[slots] = values


def take_all(pool: Pool, places: Places, n_words: int) -> Pool:
    """The vectors that a pool holds, leaf by leaf, with codes as rows, [N, n_words]."""
    slots = occupied(places)
    codes = np.empty((len(slots), n_words), np.uint64)
    kernels.read_codes(pool.codes, slots, leaf_labels(places), places.starts, places.rooms, codes)
    rows = (codes if array is pool.codes else array[slots] for array in pool)
    return Pool(*rows)


def occupied(places: Places) -> np.ndarray:
    """Slots that hold vectors, leaf by leaf, [N]."""
    first = np.cumsum(places.counts) - places.counts
    return np.repeat(places.starts - first, places.counts) + np.arange(places.counts.sum())


def leaf_labels(places: Places) -> np.ndarray:
    """The leaf of each of the slots that `occupied` gives."""
    return np.repeat(np.arange(len(places.counts)), places.counts)
