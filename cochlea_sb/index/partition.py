"""Cut a set of vectors into leaves: each vector joins the nearest of a few thousand means.

Called by `RandomProjectionIndex.build` and, for vectors that come later, `add`.

Axes: N vectors, L leaves, D dimensions.
"""

import numpy as np

from cochlea_sb.index import kernels

LEAVES = 0.575  # power of the number of vectors: its square root would balance a search, clusters want some more
SMALLEST = 32  # vectors a leaf, on average
LEARNT_FROM = 40  # vectors a leaf that settle the means
TURNS = 6  # of settling the means and moving leaves to where they are needed
ROUNDS = 2  # of Lloyd's algorithm in each
NEIGHBOURS = 64  # leaves that a vector can move to in one round
NORMALS = 8  # random hyperplanes to choose from where a leaf is split


def cut_into_leaves(
    vectors: np.ndarray, held_back: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the vectors and the leaves' means.

    Arguments
    ---------
    vectors : np.ndarray [N, D], float32
    held_back : np.ndarray, int
        Rows that get a label but take no part in the means.
    rng : np.random.Generator

    Returns
    -------
    labels : np.ndarray [N], int64
    centres : np.ndarray [L, D], float32
    """
    n_leaves = max(1, min(int(len(vectors) ** LEAVES), len(vectors) // SMALLEST))
    if n_leaves == 1:
        return np.zeros(len(vectors), np.int64), means(vectors, np.zeros(len(vectors), np.int64), 1)[0]
    voters = np.delete(np.arange(len(vectors)), held_back)
    sample = np.sort(rng.choice(voters, min(len(voters), LEARNT_FROM * n_leaves), replace=False))
    centres = learn_centres(vectors[sample], n_leaves, rng)
    labels = nearest_leaves(vectors, centres)
    votes = labels.copy()
    votes[held_back] = -1
    settled, counts = means(vectors, votes, n_leaves)
    return labels, np.where(counts[:, None] > 0, settled, centres)


def learn_centres(vectors, n_leaves, rng):
    """Means [L, D] that are near to the vectors: Lloyd's algorithm, and leaves moved from where they are idle.

    Started from vectors chosen by chance, some clusters share one leaf and others have many, which Lloyd's algorithm
    does not mend. So after each few rounds the leaves that would be missed least are given up, and the vectors of the
    widest are cut by a random hyperplane in their stead.
    """
    labels = nearest_leaves(vectors, vectors[rng.choice(len(vectors), n_leaves, replace=False)])
    for turn in range(TURNS):
        for _ in range(ROUNDS):
            centres, counts = means(vectors, labels, n_leaves)
            labels = nearest_of_some(vectors, labels, around(centres, counts), centres)
        if turn < TURNS - 1:
            labels = move_idle_leaves(vectors, labels, n_leaves, rng)
    return means(vectors, labels, n_leaves)[0]


def move_idle_leaves(vectors, labels, n_leaves, rng):
    """Labels after up to a quarter of the leaves gave their vectors to a neighbour and took half of a wide leaf's."""
    centres, counts = means(vectors, labels, n_leaves)
    residuals = vectors - centres[labels]
    widths = np.bincount(labels, (residuals**2).sum(1), minlength=n_leaves)
    neighbour, gap = nearest_other(centres, counts)
    losses = np.where(counts > 0, counts * gap, 0)
    groups = grouped(np.arange(len(vectors)), labels, n_leaves)
    labels, busy = labels.copy(), counts == 0
    idle = np.argsort(losses)[: n_leaves // 4]
    for given_up, split in zip(idle, np.argsort(-widths), strict=False):
        if losses[given_up] >= widths[split] / 2:
            break
        if busy[split] or (counts[given_up] > 0 and busy[[given_up, neighbour[given_up]]].any()) or given_up == split:
            continue
        busy[[given_up, split, neighbour[given_up]]] = True
        labels[groups[given_up]] = neighbour[given_up]
        rows = groups[split]
        labels[rows[far_side(residuals[rows], rng)]] = given_up
    return labels


def far_side(residuals, rng):
    """Which of a leaf's residuals, [n, D], lie beyond a hyperplane through their mean.

    Of a few random normals, drawn from the residuals' covariance, the one along which they vary most (as in
    random-projection trees: Dasgupta & Freund, STOC 2008).
    """
    sample = residuals[:256]
    normals = rng.standard_normal((NORMALS, len(sample)), dtype=np.float32) @ sample
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-30
    return residuals @ normals[(sample @ normals.T).var(0).argmax()] > 0


def means(vectors, labels, n_leaves):
    """Means [L, D] of the vectors of each label, zero where there are none, and their numbers [L]."""
    sums, counts = np.zeros((n_leaves, vectors.shape[1]), np.float32), np.zeros(n_leaves, np.int64)
    kernels.sum_rows(vectors, labels, sums, counts)
    return sums / np.maximum(counts, 1).astype(np.float32)[:, None], counts


def nearest_other(centres, counts):
    """The nearest other leaf that has vectors, [L], and its squared distance."""
    squares = np.where(counts > 0, (centres**2).sum(1), np.inf).astype(np.float32)
    neighbour, gap = np.empty(len(centres), np.int64), np.empty(len(centres), np.float32)
    for first in range(0, len(centres), 1024):
        rows = np.arange(first, min(first + 1024, len(centres)))
        distances = squares - 2 * centres[rows] @ centres.T
        distances[rows - first, rows] = np.inf
        neighbour[rows] = distances.argmin(1)
        gap[rows] = distances[rows - first, neighbour[rows]] + (centres[rows] ** 2).sum(1)
    return neighbour, gap


def around(centres, counts):
    """The leaves whose centres are nearest to each leaf's, [L, n]; leaves without vectors are nobody's."""
    halves = np.where(counts > 0, (centres**2).sum(1) / 2, np.inf).astype(np.float32)
    n = min(NEIGHBOURS, int((counts > 0).sum()))
    neighbours = np.empty((len(centres), n), np.int64)
    for first in range(0, len(centres), 1024):
        nearness = centres[first : first + 1024] @ centres.T - halves
        neighbours[first : first + 1024] = np.argpartition(-nearness, n - 1, axis=1)[:, :n]
    return neighbours


def grouped(values, groups, n_groups):
    """Split values by the number of their group: a list of arrays."""
    order = np.argsort(groups, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(groups, minlength=n_groups))[:-1])


def nearest_of_some(vectors, groups, candidates, centres):
    """Label of the nearest centre to each vector among the candidates of its group, [N]."""
    halves = (centres**2).sum(1) / 2
    labels = np.empty(len(vectors), np.int64)
    for rows, leaves in zip(grouped(np.arange(len(vectors)), groups, len(candidates)), candidates, strict=True):
        if len(rows):
            labels[rows] = leaves[(vectors[rows] @ centres[leaves].T - halves[leaves]).argmax(1)]
    return labels


def nearest_leaves(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Label of the nearest of all centres to each vector, [N]."""
    halves = (centres**2).sum(1) / 2
    labels = np.empty(len(vectors), np.int64)
    for first in range(0, len(vectors), 1024):
        labels[first : first + 1024] = (vectors[first : first + 1024] @ centres.T - halves).argmax(1)
    return labels
