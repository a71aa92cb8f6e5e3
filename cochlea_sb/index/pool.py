"""The vectors of a `RandomProjectionIndex`, stored cell by cell. Cells that have grown have free slots.

Axes: N vectors, n some of them, S slots, C cells, D dimensions, R rotated dimensions, W = R / 64 words.
"""

from typing import NamedTuple

import numpy as np

from . import build_kernels

BLOCK = 65536  # vectors that are rotated at a time
LEAST_SPARE = 32  # free slots in each cell of an index that grows


class Pool(NamedTuple):
    """The vectors and their codes. Each vector has a slot, and the slots of a cell are consecutive."""

    vectors: np.ndarray  # [S, D] float32
    ids: np.ndarray  # [S] int64
    codes: np.ndarray  # [2 W S] uint64, in the order that `search_kernels.estimate` defines
    scales: np.ndarray  # [S] float32
    centre_dots: np.ndarray  # [S] float32


class Layout(NamedTuple):
    """The slots of each cell."""

    starts: np.ndarray  # [C] int64: first slots, ascending
    counts: np.ndarray  # [C] int64: numbers of vectors; they use the first slots of a cell
    capacities: np.ndarray  # [C] int64: numbers of slots


def encode(
    unit: np.ndarray, ids: np.ndarray, rotation: np.ndarray, centres: np.ndarray, labels: np.ndarray
) -> tuple[Pool, np.ndarray]:
    """Encode unit vectors [n, D] of the cells ``labels``, where the centres [C, R] are rotated.

    Returns rows for `lay_out` and `insert` (a `Pool` in the order of the vectors, with codes of shape [n, 2 W]), and
    the squared distances of the vectors to their centres, [n] float32.
    """
    codes, floats = np.empty((len(unit), len(rotation) // 32), np.uint64), np.empty((2, len(unit)), np.float32)
    squared_distances = []
    for first in range(0, len(unit), BLOCK):
        block = slice(first, first + BLOCK)
        rotated = unit[block] @ rotation.T
        squared_distances += [build_kernels.encode(rotated, centres, labels[block], codes[block], *floats[:, block])]
    return Pool(unit, ids, codes, *floats), np.concatenate([floats[0, :0], *squared_distances])


def lay_out(rows: Pool, labels: np.ndarray, n_cells: int, spare: np.ndarray | None = None) -> tuple[Pool, Layout]:
    """Put rows of `encode` into the cells ``labels``. ``spare`` [C] is the number of free slots to add to each cell."""
    counts = np.bincount(labels, minlength=n_cells)
    capacities = counts if spare is None else counts + spare
    layout = Layout(np.cumsum(capacities) - capacities, counts, capacities.copy())
    n_slots, order = int(capacities.sum()), np.argsort(labels, kind="stable")
    if spare is None:
        sorted_rows = Pool(*(array[order] for array in rows))
        pool = sorted_rows._replace(codes=np.empty(rows.codes.size, np.uint64))
        slots, starts = np.arange(n_slots), layout.starts
        build_kernels.write_codes(sorted_rows.codes, slots, labels[order], starts, layout.capacities, pool.codes)
        return pool, layout
    pool = Pool(*(np.empty((n_slots, *array.shape[1:]), array.dtype) for array in rows))
    pool = pool._replace(codes=pool.codes.ravel())
    write(pool, layout, used_slots(layout), Pool(*(array[order] for array in rows)), labels[order])
    return pool, layout


def insert(pool: Pool, layout: Layout, rows: Pool, labels: np.ndarray) -> tuple[Pool, Layout]:
    """Add rows of `encode` to the cells ``labels``. If no cell becomes full, the arrays of ``pool`` are changed."""
    added = np.bincount(labels, minlength=len(layout.counts))
    counts = layout.counts + added
    full = counts > layout.capacities
    if full.any():
        held = take_all(pool, layout, rows.codes.shape[1])
        everything = Pool(*(np.concatenate(pair) for pair in zip(held, rows, strict=True)))
        spare = None
        if len(labels) < len(held.ids) / 8:  # after a small batch, more vectors are likely to follow
            spare = LEAST_SPARE + np.where(full, counts, counts // 4)
        return lay_out(everything, np.concatenate([cell_labels(layout), labels]), len(counts), spare)
    order = np.argsort(labels, kind="stable")
    first = np.cumsum(added) - added
    slots = (layout.starts + layout.counts - first)[labels[order]] + np.arange(len(labels))
    write(pool, layout, slots, Pool(*(array[order] for array in rows)), labels[order])
    return pool, layout._replace(counts=counts)


def write(pool: Pool, layout: Layout, slots: np.ndarray, rows: Pool, labels: np.ndarray) -> None:
    for array, values in zip(pool, rows, strict=True):
        if values is rows.codes:
            build_kernels.write_codes(values, slots, labels, layout.starts, layout.capacities, array)
        else:
            array[slots] = values


def take_all(pool: Pool, layout: Layout, n_words: int) -> Pool:
    """All vectors of a pool, cell by cell, with codes of shape [N, n_words]."""
    slots = used_slots(layout)
    codes = np.empty((len(slots), n_words), np.uint64)
    build_kernels.read_codes(pool.codes, slots, cell_labels(layout), layout.starts, layout.capacities, codes)
    return Pool(*(codes if array is pool.codes else array[slots] for array in pool))


def used_slots(layout: Layout) -> np.ndarray:
    """All slots that hold a vector, cell by cell, [N]."""
    first = np.cumsum(layout.counts) - layout.counts
    return np.repeat(layout.starts - first, layout.counts) + np.arange(layout.counts.sum())


def cell_labels(layout: Layout) -> np.ndarray:
    """The cell of each slot in `used_slots`, [N]."""
    return np.repeat(np.arange(len(layout.counts)), layout.counts)
