"""Share queries among threads: the kernels run without the interpreter's lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cochlea_sb.index.arguments import not_finite

LEAST = 32  # queries a thread


def share_out(
    work: Callable[[np.ndarray, np.ndarray, np.ndarray], int], queries: np.ndarray, k: int, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and places of the best ``k`` of each query.

    Arguments
    ---------
    work : callable
        ``work(queries, scores, places)`` writes the last two, [n, k], for its queries, [n, D]; it returns the first
        that is not finite, -1 where all are, or -2 where the index is damaged. It is not called where ``k`` is 0.
    queries : np.ndarray [Q, D], float32
    k : int
    threads : int, optional
        All cores where there are queries enough.

    Returns
    -------
    scores : np.ndarray [Q, k], float32
    places : np.ndarray [Q, k], int64

    Raises
    ------
    ValueError
        Where a query is not finite, or the index is damaged.
    """
    if threads is not None and (not isinstance(threads, (int, np.integer)) or threads < 1):
        raise ValueError(f"threads is {threads!r}: expected a whole number, at least 1, or None for all cores.")
    scores, places = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    if k == 0 or len(queries) == 0:
        return scores, places
    if len(queries) < 2 * LEAST or threads == 1:
        check(work(queries, scores, places))
        return scores, places
    n_threads = min(threads or available_cores(), len(queries) // LEAST)
    ends = np.linspace(0, len(queries), 4 * n_threads + 1).astype(int).tolist()
    parts = [slice(*pair) for pair in zip(ends, ends[1:], strict=False)]
    with ThreadPoolExecutor(n_threads) as pool:
        wrong = pool.map(lambda part: (part.start, work(queries[part], scores[part], places[part])), parts)
        for start, row in wrong:
            check(row, start)
    return scores, places


def check(row, start=0):
    """Raise what a kernel's answer stands for."""
    if row >= 0:
        raise not_finite(start + row)
    if row < -1:
        raise ValueError("The index is damaged: some of its numbers are not finite. Build it again.")


def available_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
