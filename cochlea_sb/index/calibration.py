"""How far to search: learnt from vectors that were held back while the leaves' means were settled.

For each true neighbour of a held-back vector it is observed how far `kernels.search` would have had to go to reach its
leaf, and by how much its similarity was underestimated. An effort is then a share of these neighbours to reach. Farther
neighbours need more: so this is observed among the nearest 10, 100 and 1,000.
"""

from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np

from cochlea_sb.index import kernels
from cochlea_sb.index.arguments import checked_effort

DEFAULT_EFFORT = 0.98  # gives a recall@10 of 0.95 and more on all data of benchmarks/index.py
FEWEST = 1000  # vectors; fewer are all compared
HELD_BACK = 256
NEIGHBOURS = (10, 100, 1000)
LOOKED_AT = (256, 64, 48)  # of the held-back vectors, for each number of neighbours
EACH = 10  # of a vector's neighbours that are looked at, evenly spread
SHARES = np.linspace(0, 1, 1025)
ALL = np.float32(1e30)  # a reach or slack that leaves nothing out
AMPLE = np.float32(4)  # standard deviations of the estimates are near 0.7


class Observed(NamedTuple):
    """What shares of the held-back vectors' neighbours needed, a row for each of `NEIGHBOURS` that was observed."""

    reaches: np.ndarray  # [at most 3, 1025] float32
    slacks: np.ndarray  # [at most 3, 1025] float32


NOTHING = Observed(np.zeros((0, len(SHARES)), np.float32), np.zeros((0, len(SHARES)), np.float32))


def choose(n_vectors: int, rng: np.random.Generator) -> np.ndarray:
    """Rows to hold back."""
    return np.sort(rng.choice(n_vectors, HELD_BACK if n_vectors >= FEWEST else 0, replace=False))


def observe(index: Any, ids: np.ndarray) -> Observed:
    """What the neighbours of the held-back vectors, given by their ids in the index, needed."""
    slots = index._slots(np.sort(ids))
    if len(slots) == 0:
        return NOTHING
    rows = [
        observe_nearest(index, slots[:: len(slots) // n_looked_at], n)
        for n, n_looked_at in zip(NEIGHBOURS, LOOKED_AT, strict=True)
        if 20 * n <= len(index)
    ]
    return Observed(*(np.stack(tables).astype(np.float32) for tables in zip(*rows, strict=True)))


def observe_nearest(index, slots, k):
    """Quantiles [1025] of the reaches and of the slacks that some of the k nearest of the slots' vectors needed."""
    unit = index.pool.vectors[slots]
    scores, found = index._search(unit, k + 1, ALL, AMPLE)
    others = found != slots[:, None]
    others[others.all(1), -1] = False  # a vector that its duplicates crowd out
    scores, found = (table[others].reshape(len(slots), k) for table in (scores, found))
    worst, some = scores[:, -1], np.linspace(0, scores.shape[1] - 1, EACH).astype(int)
    scores, found = scores[:, some], found[:, some]
    about, pool, (starts, counts, rooms) = index.leaves, index.pool, index.places
    reaches, slacks = np.empty_like(scores), np.empty_like(scores)
    n_rotated, none = len(about.rotation), np.float32(0)
    planes, residual_planes = (np.empty((n_rotated // 64, 3), np.uint64) for _ in range(2))
    residual, estimated = np.empty(n_rotated, np.float32), np.empty(counts.max(), np.float32)
    rotated = unit @ about.rotation.T
    similarity = rotated @ about.centres.T
    distance = np.maximum(1 + about.squares - 2 * similarity, kernels.SMALLEST)
    ranks = np.argsort(np.argsort(distance, axis=1), axis=1)
    for row, query in enumerate(rotated):
        step, total = kernels.round_to_planes(query, planes)
        leaves = np.searchsorted(starts, found[row], side="right") - 1
        gaps = (worst[row] - similarity[row, leaves]) / np.sqrt(distance[row, leaves]) / about.spreads[leaves]
        reaches[row] = gaps / about.patience[ranks[row, leaves]]
        for column, (slot, leaf) in enumerate(zip(found[row], leaves, strict=True)):
            length = kernels.estimate_in_leaf(
                query, planes, step, total, similarity[row, leaf], distance[row, leaf], about.centres[leaf],
                pool.codes, pool.scales, pool.alongs, starts[leaf], counts[leaf], rooms[leaf],
                none, residual, residual_planes, estimated,
            )  # fmt: skip
            slacks[row, column] = (scores[row, column] - estimated[slot - starts[leaf]]) / (pool.scales[slot] * length)
    return np.quantile(reaches, SHARES), np.quantile(slacks, SHARES)


def limits(observed: Observed, effort: float, row: int) -> tuple[np.float32, np.float32]:
    """Reach and slack for an effort in (0, 1] by a row of what was observed: half of what it may miss is left to each.

    Raises
    ------
    ValueError
        For an effort out of range.
    """
    if checked_effort(effort) == 1 or row >= len(observed.reaches):
        return ALL, ALL
    share = 1 - (1 - float(effort)) / 2
    nearby = slice(max(0, row - 1), row + 1)  # for numbers between two that were observed, what does for both
    return tuple(np.float32(max(np.interp(share, SHARES, values) for values in table[nearby])) for table in observed)


def row_for(k: int) -> int:
    """The row of what was observed that answers for the k nearest."""
    return bisect_left(NEIGHBOURS, k)
