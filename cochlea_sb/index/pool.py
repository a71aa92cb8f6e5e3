"""The cells and the vectors of a `RandomProjectionIndex`. Cells that have grown have free slots.

Axes: N vectors, n some of them, S slots, C cells, D dimensions, R rotated dimensions, W = R / 64 words.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import build_kernels

BLOCK = 65536  # vectors that are rotated at a time
LEAST_SPARE = 32  # free slots in each cell of an index that grows


class Cells(NamedTuple):
    """The centres, the codes of the centres, and the spread of the vectors around each centre."""

    rotation: np.ndarray  # [R, D] float32: P, with orthonormal columns
    mean_centre: np.ndarray  # [R] float32: mean of the centres
    centres: np.ndarray  # [C, R] float32, rotated
    codes: np.ndarray  # [2 W C] uint64: codes of the centres, as if all were in one cell with the centre `mean_centre`
    scales: np.ndarray  # [C] float32: scales of these codes
    squared_norms: np.ndarray  # [C] float32: |centre|^2
    spreads: np.ndarray  # [C] float32: root mean square of the distances between vectors and centre
    rank_weights: np.ndarray  # [C] float32: 1 / log2(rank + 2)

    @classmethod
    def around(cls, centres: np.ndarray, rotation: np.ndarray, spreads: np.ndarray) -> Cells:
        """Cells with these centres, which are rotated."""
        mean, one_cell = centres.mean(0), np.zeros(len(centres), np.int64)
        words, floats = (
            np.empty((len(centres), len(rotation) // 32), np.uint64),
            np.empty((2, len(centres)), np.float32),
        )
        build_kernels.encode(centres, mean[None], one_cell, words, *floats)
        rank_weights = (1 / np.log2(np.arange(len(centres)) + 2)).astype(np.float32)
        codes = np.ascontiguousarray(words.T).ravel()
        return cls(rotation, mean, centres, codes, floats[0], (centres**2).sum(1), spreads, rank_weights)


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


def lay_out(rows: Pool, labels: np.ndarray, n_cells: int) -> tuple[Pool, Layout]:
    """Put rows of `encode` into the cells ``labels``, without free slots."""
    counts = np.bincount(labels, minlength=n_cells)
    order, layout = np.argsort(labels, kind="stable"), layout_of(counts, counts)
    sorted_rows = Pool(*(array[order] for array in rows))
    pool = sorted_rows._replace(codes=np.empty(rows.codes.size, np.uint64))
    slots = np.arange(len(labels))
    build_kernels.write_codes(sorted_rows.codes, slots, labels[order], layout.starts, layout.capacities, pool.codes)
    return pool, layout


def layout_of(counts: np.ndarray, capacities: np.ndarray) -> Layout:
    """Cells that follow each other."""
    return Layout(np.cumsum(capacities) - capacities, counts.copy(), capacities.copy())


def move(pool: Pool, layout: Layout, capacities: np.ndarray, n_words: int) -> tuple[Pool, Layout]:
    """Copy a pool into cells of other capacities, [C]. Beside the two pools, memory holds `BLOCK` vectors."""
    n_slots, moved_layout = int(capacities.sum()), layout_of(layout.counts, capacities)
    moved = Pool(*(np.empty((n_slots, *array.shape[1:]), array.dtype) for array in pool))
    moved = moved._replace(codes=np.empty(n_slots * n_words, np.uint64))
    all_slots, all_labels = used_slots(layout), cell_labels(layout)
    for first in range(0, len(all_slots), BLOCK):
        slots, labels = all_slots[first : first + BLOCK], all_labels[first : first + BLOCK]
        codes = np.empty((len(slots), n_words), np.uint64)
        build_kernels.read_codes(pool.codes, slots, labels, layout.starts, layout.capacities, codes)
        rows = Pool(*(codes if array is pool.codes else array[slots] for array in pool))
        write(moved, moved_layout, slots + (moved_layout.starts - layout.starts)[labels], rows, labels)
    return moved, moved_layout


def insert(pool: Pool, layout: Layout, rows: Pool, labels: np.ndarray) -> tuple[Pool, Layout]:
    """Add rows of `encode` to the cells ``labels``. If no cell becomes full, the arrays of ``pool`` are changed."""
    added = np.bincount(labels, minlength=len(layout.counts))
    counts = layout.counts + added
    full = counts > layout.capacities
    if full.any():
        few = len(labels) < layout.counts.sum() / 8  # after a small batch, more vectors are likely to follow
        spare = LEAST_SPARE + np.where(full, counts, counts // 4) if few else 0
        pool, layout = move(pool, layout, counts + spare, rows.codes.shape[1])
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


def used_slots(layout: Layout) -> np.ndarray:
    """All slots that hold a vector, cell by cell, [N]."""
    first = np.cumsum(layout.counts) - layout.counts
    return np.repeat(layout.starts - first, layout.counts) + np.arange(layout.counts.sum())


def cell_labels(layout: Layout) -> np.ndarray:
    """The cell of each slot in `used_slots`, [N]."""
    return np.repeat(np.arange(len(layout.counts)), layout.counts)
