"""Partition vectors into cells by k-means: the cell of a vector is the cell with the nearest centre.

Axes: N vectors, n some of them, C cells, D dimensions.
"""

import numpy as np

from . import build_kernels

CELLS_POWER = 0.575  # C = N ** 0.575; more cells than sqrt(N), because real data has clusters
FEWEST_PER_CELL = 32  # vectors, on average
SAMPLE_PER_CELL = 40  # vectors that k-means learns from
TURNS = 6  # in each: rounds of Lloyd's algorithm, then some cells are moved
ROUNDS = 2  # of Lloyd's algorithm in each turn
NEIGHBOURS = 64  # cells that a vector can move to in one round
NORMALS = 8  # random hyperplanes; the best of them splits a cell


def partition(vectors: np.ndarray, held_back: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each vector, [N] int64, and the centres, [C, D]. Rows ``held_back`` don't affect the centres."""
    n_cells = max(1, min(int(len(vectors) ** CELLS_POWER), len(vectors) // FEWEST_PER_CELL))
    if n_cells == 1:
        return np.zeros(len(vectors), np.int64), means(vectors, np.zeros(len(vectors), np.int64), 1)[0]
    learnt_from = np.delete(np.arange(len(vectors)), held_back)
    sample = np.sort(rng.choice(learnt_from, min(len(learnt_from), SAMPLE_PER_CELL * n_cells), replace=False))
    centres = learn_centres(vectors[sample], n_cells, rng)
    labels = nearest_cells(vectors, centres)
    learnt_labels = labels.copy()
    learnt_labels[held_back] = -1
    final, counts = means(vectors, learnt_labels, n_cells)
    return labels, np.where(counts[:, None] > 0, final, centres)


def learn_centres(vectors: np.ndarray, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Centres [C, D] by Lloyd's algorithm, with cells that are moved.

    After a random start, some clusters share a cell and other clusters have many cells. Lloyd's algorithm does not
    correct this. So after each turn, cells that reduce the squared distances least are dissolved. For each of them, one
    of the widest cells is split by a random hyperplane.
    """
    labels = nearest_cells(vectors, vectors[rng.choice(len(vectors), n_cells, replace=False)])
    for turn in range(TURNS):
        for _ in range(ROUNDS):
            centres, counts = means(vectors, labels, n_cells)
            labels = nearest_candidates(vectors, labels, neighbouring_cells(centres, counts), centres)
        if turn < TURNS - 1:
            labels = move_idle_cells(vectors, labels, n_cells, rng)
    return means(vectors, labels, n_cells)[0]


def move_idle_cells(vectors: np.ndarray, labels: np.ndarray, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Labels after dissolving at most a quarter of the cells. Each dissolved cell gets one half of a wide cell."""
    centres, counts = means(vectors, labels, n_cells)
    residuals = vectors - centres[labels]
    widths = np.bincount(labels, (residuals**2).sum(1), minlength=n_cells)  # sums of squared distances
    neighbour, gap = nearest_other(centres, counts)
    losses = np.where(counts > 0, counts * gap, 0)
    groups = grouped(np.arange(len(vectors)), labels, n_cells)
    labels, busy = labels.copy(), counts == 0
    idle = np.argsort(losses)[: n_cells // 4]
    for dissolved, split in zip(idle, np.argsort(-widths), strict=False):
        if losses[dissolved] >= widths[split] / 2:
            break
        if busy[split] or (counts[dissolved] > 0 and busy[[dissolved, neighbour[dissolved]]].any()):
            continue
        if dissolved == split:
            continue
        busy[[dissolved, split, neighbour[dissolved]]] = True
        labels[groups[dissolved]] = neighbour[dissolved]
        rows = groups[split]
        labels[rows[far_side(residuals[rows], rng)]] = dissolved
    return labels


def far_side(residuals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which residuals [n, D] of a cell lie on the far side of a random hyperplane through their mean, [n] bool.

    Of a few normals drawn from the covariance of the residuals, the normal with the largest variance along it is used
    (compare the random-projection trees of Dasgupta & Freund, STOC 2008).
    """
    sample = residuals[:256]
    normals = rng.standard_normal((NORMALS, len(sample)), dtype=np.float32) @ sample
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-30
    beyond: np.ndarray = residuals @ normals[(sample @ normals.T).var(0).argmax()] > 0
    return beyond


def means(vectors: np.ndarray, labels: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the vectors of each cell, [C, D], zero if it is empty; and their number, [C]."""
    sums, counts = np.zeros((n_cells, vectors.shape[1]), np.float32), np.zeros(n_cells, np.int64)
    build_kernels.sum_rows(vectors, labels, sums, counts)
    return sums / np.maximum(counts, 1).astype(np.float32)[:, None], counts


def nearest_other(centres: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each cell, the nearest other cell that is not empty, [C], and the squared distance of the centres, [C]."""
    squares = np.where(counts > 0, (centres**2).sum(1), np.inf).astype(np.float32)
    neighbour, gap = np.empty(len(centres), np.int64), np.empty(len(centres), np.float32)
    for first in range(0, len(centres), 1024):
        rows = np.arange(first, min(first + 1024, len(centres)))
        distances = squares - 2 * centres[rows] @ centres.T
        distances[rows - first, rows] = np.inf
        neighbour[rows] = distances.argmin(1)
        gap[rows] = distances[rows - first, neighbour[rows]] + (centres[rows] ** 2).sum(1)
    return neighbour, gap


def neighbouring_cells(centres: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """For each cell, the n nearest cells that are not empty, including the cell itself, [C, n]."""
    halves = np.where(counts > 0, (centres**2).sum(1) / 2, np.inf).astype(np.float32)
    n = min(NEIGHBOURS, int((counts > 0).sum()))
    neighbours = np.empty((len(centres), n), np.int64)
    for first in range(0, len(centres), 1024):
        nearness = centres[first : first + 1024] @ centres.T - halves
        neighbours[first : first + 1024] = np.argpartition(-nearness, n - 1, axis=1)[:, :n]
    return neighbours


def grouped(values: np.ndarray, labels: np.ndarray, n_groups: int) -> list[np.ndarray]:
    """The values of each label."""
    order = np.argsort(labels, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(labels, minlength=n_groups))[:-1])


def nearest_candidates(
    vectors: np.ndarray, labels: np.ndarray, candidates: np.ndarray, centres: np.ndarray
) -> np.ndarray:
    """For each vector, the nearest of the cells ``candidates[label]``, where ``label`` is its cell, [N]."""
    halves = (centres**2).sum(1) / 2
    nearest = np.empty(len(vectors), np.int64)
    for rows, cells in zip(grouped(np.arange(len(vectors)), labels, len(candidates)), candidates, strict=True):
        if len(rows):
            nearest[rows] = cells[(vectors[rows] @ centres[cells].T - halves[cells]).argmax(1)]
    return nearest


def nearest_cells(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """For each vector, the cell with the nearest centre, [N]."""
    halves = (centres**2).sum(1) / 2
    labels = np.empty(len(vectors), np.int64)
    for first in range(0, len(vectors), 1024):
        labels[first : first + 1024] = (vectors[first : first + 1024] @ centres.T - halves).argmax(1)
    return labels
