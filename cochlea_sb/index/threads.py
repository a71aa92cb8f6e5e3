"""Divide queries among threads, which run in parallel because the kernels release Python's global lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .arguments import FLOAT, WHOLE, not_finite
from .storage import DamagedIndex

FEWEST_QUERIES = 32  # for each thread


def share_out(
    search: Callable[..., int], queries: np.ndarray, arguments: tuple[Any, ...], k: int, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [Q, k] and slots [Q, k] of the best ``k`` matches for queries [Q, D]; errors as in `check`.

    ``search(queries, *arguments, scores, slots)`` writes the scores and slots of some queries. It returns -1; or the
    row of the first query that is not finite; or -2 if numbers of the index are not finite.
    """
    if threads is not None and (not isinstance(threads, (int, np.integer)) or threads < 1):
        raise ValueError(f"threads is {threads!r}: expected a whole number, at least 1, or None for all cores.")
    n = len(queries)
    scores, slots = np.empty((n, k), FLOAT), np.empty((n, k), WHOLE)
    if n < 2 * FEWEST_QUERIES or threads == 1 or k == 0:
        if k > 0 and n > 0:
            check(search(queries, *arguments, scores, slots))
        return scores, slots
    n_threads = min(threads or available_cores(), n // FEWEST_QUERIES)
    ends = np.linspace(0, n, 4 * n_threads + 1).astype(int).tolist()
    parts = [slice(*pair) for pair in zip(ends, ends[1:], strict=False)]
    with ThreadPoolExecutor(n_threads) as pool:
        results = pool.map(lambda part: search(queries[part], *arguments, scores[part], slots[part]), parts)
        for part, result in zip(parts, results, strict=True):
            check(result, part.start)
    return scores, slots


def check(result: int, start: int = 0) -> None:
    """Raise a ValueError or a DamagedIndex for the result of ``search``; ``start`` is the row of its first query."""
    if result >= 0:
        raise not_finite(start + result)
    if result < -1:
        raise DamagedIndex("The index is damaged (some of its numbers are not finite): build it again.")


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
