"""Learn how far a search must go for a wanted recall, from vectors that are held back while the centres are learnt.

Two numbers are measured for true neighbours of held-back vectors: the reach with which `search_kernels.search` visits
the cell of the neighbour, and the margin that covers the error of the neighbour's estimate. The effort of a query is
the share of such neighbours that it should find. Far neighbours need a larger reach and margin, so the nearest 10, 100
and 1,000 are measured separately.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import search_kernels
from .arguments import checked_effort, checked_k, checked_recall
from .pool import used_slots

if TYPE_CHECKING:
    from .random_projection import RandomProjectionIndex

DEFAULT_EFFORT = 0.98  # recall@10 is 0.95 or more on all data of benchmarks/index.py
FEWEST = 1000  # vectors; in a smaller index, a query is compared with all vectors
HELD_BACK = 256  # vectors
NEIGHBOURS = (10, 100, 1000)
MEASURED = (256, 64, 48)  # of them, for each number of neighbours
QUICK = 64  # about the number of vectors from which a search among allowed vectors learns
EACH = 10  # neighbours of each held-back vector that are measured, at evenly spread ranks
SHARES = np.linspace(0, 1, 1025)
AMPLE = np.float32(4)  # a large margin; errors of estimates have a standard deviation of about 0.7


class Needed(NamedTuple):
    """Quantiles of the needed reaches and margins. A large index has a row for each number in `NEIGHBOURS`."""

    reaches: np.ndarray  # [at most 3, 1025] float32
    margins: np.ndarray  # [at most 3, 1025] float32


NOTHING = Needed(np.zeros((0, len(SHARES)), np.float32), np.zeros((0, len(SHARES)), np.float32))


def choose(n_vectors: int, rng: np.random.Generator) -> np.ndarray:
    """Choose the rows to hold back, in ascending order."""
    return np.sort(rng.choice(n_vectors, HELD_BACK if n_vectors >= FEWEST else 0, replace=False))


def measure(index: RandomProjectionIndex, ids: np.ndarray) -> Needed:
    """Measure the reaches and margins for the neighbours of some vectors, given by their ids."""
    slots = index._slots(np.sort(ids))
    if len(slots) == 0:
        return NOTHING
    rows = [
        measure_nearest(index, slots[:: HELD_BACK // n_measured], n)
        for n, n_measured in zip(NEIGHBOURS, MEASURED, strict=True)
        if 20 * n <= len(index)
    ]
    return Needed(*(np.stack(tables).astype(np.float32) for tables in zip(*rows, strict=True)))


def measure_nearest(index: RandomProjectionIndex, slots: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles [1025] of the reaches and of the margins for the k nearest neighbours of the vectors in ``slots``."""
    unit = index.pool.vectors[slots]
    scores, found = index._search(unit, k + 1, (search_kernels.ALL, AMPLE))
    others = found != slots[:, None]
    others[others.all(1), -1] = False  # only duplicates of the vector were found, and not the vector itself
    scores, found = (table[others].reshape(len(slots), k) for table in (scores, found))
    worst, spread_out = scores[:, -1], np.linspace(0, k - 1, EACH).astype(int)
    scores, found = scores[:, spread_out], found[:, spread_out]
    about, pool, (starts, counts, capacities) = index.cells, index.pool, index.layout
    reaches, margins = np.empty_like(scores), np.empty_like(scores)
    n_rotated, no_margin = len(about.rotation), np.float32(0)
    planes, residual_planes = (np.empty((n_rotated // 64, 3), np.uint64) for _ in range(2))
    residual, estimated = np.empty(n_rotated, np.float32), np.empty(counts.max(), np.float32)
    rotated = unit @ about.rotation.T
    similarity = rotated @ about.centres.T
    squared = np.maximum(1 + about.squared_norms - 2 * similarity, search_kernels.SMALLEST)
    ranks = np.argsort(np.argsort(np.where(index.n_allowed > 0, squared, np.inf), axis=1), axis=1)
    for row, query in enumerate(rotated):
        step, total = search_kernels.round_to_planes(query, planes)
        cells = np.searchsorted(starts, found[row], side="right") - 1
        deviations = np.sqrt(squared[row, cells]) * about.spreads[cells]
        reaches[row] = (worst[row] - similarity[row, cells]) / deviations / about.rank_weights[ranks[row, cells]]
        for column, (slot, cell) in enumerate(zip(found[row], cells, strict=True)):
            length = search_kernels.estimate_in_cell(
                query, planes, step, total, similarity[row, cell], squared[row, cell], about.centres[cell],
                pool.codes, pool.scales, pool.centre_dots, starts[cell], counts[cell], capacities[cell],
                no_margin, residual, residual_planes, estimated,
            )  # fmt: skip
            error = scores[row, column] - estimated[slot - starts[cell]]
            margins[row, column] = error / (pool.scales[slot] * length)
    return np.quantile(reaches, SHARES), np.quantile(margins, SHARES)


def everywhere(needed: Needed) -> Needed:
    """The same margins, with reaches that leave out no cell."""
    return needed._replace(reaches=np.full_like(needed.reaches, search_kernels.ALL))


def limits(needed: Needed, effort: float, row: int) -> tuple[np.float32, np.float32]:
    """Reach and margin for an effort, from the quantiles in a row. Each may miss half of 1 - effort."""
    if checked_effort(effort) == 1 or row >= len(needed.reaches):
        return search_kernels.ALL, search_kernels.ALL
    share = 1 - (1 - float(effort)) / 2
    # Between two measured numbers of neighbours, the larger reach and the larger margin are used.
    rows = slice(max(0, row - 1), row + 1)
    reach, margin = (max(np.interp(share, SHARES, values) for values in table[rows]) for table in needed)
    return np.float32(reach), np.float32(margin)


def row_for(k: int) -> int:
    """The row of `Needed` for the k nearest neighbours."""
    return bisect_left(NEIGHBOURS, k)


def least_effort(index: RandomProjectionIndex, recall: float, queries: np.ndarray | None, k: int) -> float:
    """The least effort that reaches a recall@k; see `RandomProjectionIndex.tune`."""
    checked_recall(recall)
    k, own = min(checked_k(k), len(index)), np.zeros(0, np.int64)
    shape = None if queries is None else np.shape(queries)
    if len(index) == 0 or (shape is not None and (len(shape) != 2 or shape[0] == 0)):
        raise ValueError(
            f"The index holds {len(index)} vectors, and the shape of the queries is {shape}: expected an index that "
            "is not empty, and queries of shape [n, D] with n > 0, or None."
        )
    if queries is None:
        slots = np.random.default_rng(index.seed).permutation(used_slots(index.layout))[:500]
        queries, own, k = index.pool.vectors[slots], index.pool.ids[slots], min(k + 1, len(index))
    truth = index.query(queries, k, effort=1)[1]
    low, high = 0.0, 1.0  # bisection over x, where the effort is 1 - 0.5 * 10 ** (-4 x)
    for _ in range(10):
        middle = (low + high) / 2
        found = index.query(queries, k, effort=1 - 0.5 * 10 ** (-4 * middle))[1]
        shared = sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True))
        low, high = (low, middle) if shared - len(own) >= recall * (truth.size - len(own)) else (middle, high)
    return 1 - 0.5 * 10 ** (-4 * high) if high < 1 else 1.0
