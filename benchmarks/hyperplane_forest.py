"""Nearest neighbours by trees of random hyperplanes: a historical reference for benchmarks/index.py.

Each node of a tree splits its vectors into halves by a hyperplane with a random normal. A priority queue holds the
unvisited branches of all trees; branches on the query's side of their planes, or near the query, come first.

Axes: N vectors, Q queries, D dimensions, T trees, S splits of a tree. Split ``s`` has the children ``2 s + 1`` and
``2 s + 2``. Children with numbers from S on are leaves. Leaf ``S + j`` holds the positions ``j N // (S + 1)`` to
``(j + 1) N // (S + 1) - 1`` of the tree's order of the vectors.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from cochlea_sb.index import arguments, search_kernels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class HyperplaneForest:
    """An index for search by cosine, made by `build`. It can't be changed or saved.

    This is the index of the sound search engine Cochlea (github.com/JohnVinyard/cochlea), with two changes. First, a
    plane passes through the median of the node's vectors (Dasgupta & Freund, STOC 2008). In Cochlea, planes pass
    through the origin: they never split equal vectors, and they split vectors with a common mean unevenly. Second, the
    priority of a branch is the smallest margin on the path to the branch; the margin is negative on the far side of a
    plane (as in Annoy, github.com/spotify/annoy). Cochlea visits the far side only within 0.001 of the plane.

    Example
    -------
    >>> vectors = np.random.default_rng(0).normal(size=(100, 16))
    >>> scores, ids = HyperplaneForest.build(vectors).query(vectors[7], k=3)
    >>> int(ids[0]), round(float(scores[0]), 5)
    (7, 1.0)
    """

    def __init__(
        self, vectors: np.ndarray, ids: np.ndarray, normals: np.ndarray, thresholds: np.ndarray, order: np.ndarray
    ) -> None:
        self.vectors, self.ids = vectors, ids  # [N, D] float32, unit rows or zeros; [N] int64
        self.normals, self.thresholds, self.order = normals, thresholds, order  # see `grow`

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        ids: ArrayLike | None = None,
        *,
        seed: int = 0,
        n_trees: int = 16,
        leaf_size: int = 32,
    ) -> HyperplaneForest:
        """Index vectors.

        Arguments
        ---------
        vectors : array_like [N, D], int or float, of any norm
            A vector of zeros has cosine 0 with every query.
        ids : array_like [N], int, all different; 0 to N - 1 by default
        seed : int
        n_trees : int, at least 1
            More trees increase recall at the same effort, and cost memory and time.
        leaf_size : int, at least 2
            Maximum number of vectors in a leaf. Small leaves increase recall at the same effort, and cost search time.

        Raises
        ------
        ValueError
            If a shape or type is wrong, a value is NaN or infinite, an id is repeated, or a number is too small.
        """
        if n_trees < 1 or leaf_size < 2:
            raise ValueError(
                f"n_trees is {n_trees} and leaf_size is {leaf_size}: expected at least 1 tree and leaves of at least 2."
            )
        vectors = arguments.unit_rows(vectors)
        ids = arguments.checked_ids(np.arange(len(vectors)) if ids is None else ids, len(vectors))
        n_leaves = 1
        while len(vectors) > leaf_size * n_leaves:
            n_leaves *= 2
        shape = n_trees, n_leaves - 1, vectors.shape[1]
        normals = np.random.default_rng(seed).standard_normal(shape, np.float32)
        normals /= np.linalg.norm(normals, axis=2, keepdims=True)
        return cls(vectors, ids, normals, *grow(vectors, normals))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"HyperplaneForest({len(self)} vectors of {self.vectors.shape[1]} dimensions, {len(self.order)} trees)"

    def query(
        self, queries: ArrayLike, k: int = 10, effort: float = 100.0, *, threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest vectors by cosine, as far as the trees find them.

        Arguments
        ---------
        queries : array_like [D] or [Q, D], int or float
        k : int
        effort : float, at least 1
            The search opens leaves until it has seen ``effort * k`` different vectors, and computes their exact
            cosines. More effort costs speed and never lowers recall; ``N / k`` is exact search. Cochlea uses 100.
        threads : int, optional
            Without effect: one thread searches.

        Returns
        -------
        scores : np.ndarray [k] or [Q, k], float32
            Exact cosines in descending order, ties by id. An index of fewer than ``k`` vectors gives fewer columns.
        ids : np.ndarray, int64, of the same shape

        Raises
        ------
        ValueError
            If a shape or type is wrong, a value is NaN or infinite, or ``k`` or ``effort`` is below 1.
        """
        k = arguments.checked_k(k)
        if not effort >= 1:
            raise ValueError(f"effort is {effort}: expected at least 1.")
        unit = arguments.unit_rows(np.atleast_2d(queries), self.vectors.shape[1])
        scores, rows = (np.empty((len(unit), min(k, len(self))), kind) for kind in (np.float32, np.int64))
        n_wanted = int(min(np.ceil(k * effort), len(self)))
        search(unit, self.vectors, self.ids, self.normals, self.thresholds, self.order, n_wanted, scores, rows)
        return (scores[0], self.ids[rows[0]]) if np.ndim(queries) == 1 else (scores, self.ids[rows])


@njit(cache=True, nogil=True)
def grow(vectors: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds [T, S] and orders [T, N] of trees with unit normals [T, S, D]. An order lists rows, leaf by leaf."""
    n, (n_trees, n_splits, _) = len(vectors), normals.shape
    thresholds, order = np.empty((n_trees, n_splits), np.float32), np.empty((n_trees, n), np.int32)
    for tree in range(n_trees):
        order[tree] = np.arange(n)
        n_nodes = 1  # of this level of the tree; the first split of the level has the number n_nodes - 1
        while n_nodes <= n_splits:
            for node in range(n_nodes):
                first, last = node * n // n_nodes, (node + 1) * n // n_nodes
                half = (2 * node + 1) * n // (2 * n_nodes) - first
                rows, split = order[tree, first:last], n_nodes - 1 + node
                products = np.array([search_kernels.dot(vectors[row], normals[tree, split]) for row in rows])
                ranks = np.argsort(products, kind="mergesort")  # stable: equal vectors keep their order
                thresholds[tree, split] = (products[ranks[half - 1]] + products[ranks[half]]) / 2
                rows[:] = rows[ranks]
            n_nodes *= 2
    return thresholds, order


@njit(cache=True, nogil=True)
def search(
    queries: np.ndarray,
    vectors: np.ndarray,
    ids: np.ndarray,
    normals: np.ndarray,
    thresholds: np.ndarray,
    order: np.ndarray,
    n_wanted: int,
    scores: np.ndarray,
    rows: np.ndarray,
) -> None:
    """Write the best [Q, k] of at least ``n_wanted`` candidates; the last leaf may add more than needed."""
    n, (n_trees, n_splits) = len(vectors), thresholds.shape
    for i in range(len(queries)):
        query, best, best_rows = queries[i], scores[i], rows[i]
        seen, n_seen, n_found = np.zeros(n, np.bool_), 0, 0
        queue = [(-np.float32(np.inf), tree, 0) for tree in range(n_trees)]  # minus the smallest margin, tree, node
        while n_seen < n_wanted:
            cost, tree, node = heapq.heappop(queue)
            if node < n_splits:
                margin = search_kernels.dot(query, normals[tree, node]) - thresholds[tree, node]
                heapq.heappush(queue, (max(cost, margin), tree, 2 * node + 1))
                heapq.heappush(queue, (max(cost, -margin), tree, 2 * node + 2))
                continue
            first, last = (node - n_splits) * n // (n_splits + 1), (node - n_splits + 1) * n // (n_splits + 1)
            for row in order[tree, first:last]:
                if not seen[row]:
                    seen[row] = True
                    n_seen += 1
                    n_found = search_kernels.offer(
                        search_kernels.dot(query, vectors[row]), row, best, best_rows, n_found, ids
                    )
        search_kernels.sort_heap(best, best_rows, n_found, ids)
