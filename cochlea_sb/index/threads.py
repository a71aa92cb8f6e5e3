"""Share queries among threads: the kernels release the interpreter's lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .arguments import not_finite
from .storage import DamagedIndex

FEWEST_QUERIES = 32  # for each thread


def share_out(
    search: Callable[[np.ndarray, np.ndarray, np.ndarray], int], queries: np.ndarray, k: int, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and slots of the best ``k`` matches of each query.

    Arguments
    ---------
    search : callable
        ``search(queries, scores, slots)`` takes queries [n, D] and writes scores and slots, [n, k]. It returns -1, the
        first query that is not finite, or -2 if the index is damaged. It is not called if ``k`` is 0.
    queries : np.ndarray [Q, D], float32
    k : int
    threads : int, optional
        By default all cores, if there are enough queries.

    Returns
    -------
    scores : np.ndarray [Q, k], float32
    slots : np.ndarray [Q, k], int64

    Raises
    ------
    ValueError
        If a query is not finite, or ``threads`` is out of range.
    DamagedIndex
        If numbers of the index are not finite.
    """
    if threads is not None and (not isinstance(threads, (int, np.integer)) or threads < 1):
        raise ValueError(f"threads is {threads!r}: expected a whole number, at least 1, or None for all cores.")
    scores, slots = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    if k == 0 or len(queries) == 0:
        return scores, slots
    if len(queries) < 2 * FEWEST_QUERIES or threads == 1:
        check(search(queries, scores, slots))
        return scores, slots
    n_threads = min(threads or available_cores(), len(queries) // FEWEST_QUERIES)
    ends = np.linspace(0, len(queries), 4 * n_threads + 1).astype(int).tolist()
    parts = [slice(*pair) for pair in zip(ends, ends[1:], strict=False)]
    with ThreadPoolExecutor(n_threads) as pool:
        results = pool.map(lambda part: (part.start, search(queries[part], scores[part], slots[part])), parts)
        for start, result in results:
            check(result, start)
    return scores, slots


def check(result: int, start: int = 0) -> None:
    """Raise the error that a kernel's result stands for."""
    if result >= 0:
        raise not_finite(start + result)
    if result < -1:
        raise DamagedIndex("The index is damaged (some of its numbers are not finite): build it again.")


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
