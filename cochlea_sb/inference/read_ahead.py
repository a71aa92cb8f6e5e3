"""Read a long list in threads, ahead of the caller, in bounded memory; group a stream into bounded batches."""

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from cochlea_sb.errors import UserError
from cochlea_sb.machine import n_cores

FEW = 256  # most results in memory or in a batch

T = TypeVar("T")


def read_ahead(
    read: Callable[[Any], Any], sources: Iterable[Any], *, threads: int | None = None, limit: int = 1 << 26
) -> Iterator[Any]:
    """Yield ``read(source)`` for each source, in their order.

    Threads pause while the results that wait for the caller have a total ``len`` over ``limit``. Memory holds at most
    these, and one more result for each thread.

    Arguments
    ---------
    read : callable
        Its exceptions are raised here, at the place of their result.
    sources : iterable
        Iterated by one thread at a time.
    threads : int, optional
        All cores by default.
    limit : int
        By default 64 Mi, or 256 MiB of float32 samples.

    Example
    -------
    >>> list(read_ahead(str.upper, ["a", "b"]))
    ['A', 'B']
    """
    if threads is not None and threads < 1:
        raise UserError(f"threads is {threads}: expected at least 1.")
    numbered, changed = enumerate(sources), threading.Condition()
    results: dict[int | str, tuple[Any, bool]] = {}
    state = {"held": 0, "working": 0, "stop": False}

    def next_source() -> tuple[int | None, Any]:
        with changed:
            changed.wait_for(lambda: state["stop"] or (state["held"] <= limit and len(results) < FEW))
            return (None, None) if state["stop"] else next(numbered, (None, None))

    def work() -> None:
        try:
            while True:
                number, source = next_source()
                if number is None:
                    return
                try:
                    result, failed = read(source), False
                except BaseException as error:  # raised again in the caller's thread
                    result, failed = error, True
                with changed:
                    results[number] = result, failed
                    state["held"] += weight(result)
                    changed.notify_all()
        except BaseException as error:  # raised by the iterable
            with changed:
                results["sources"] = error, True
        finally:
            with changed:
                state["working"] -= 1
                changed.notify_all()

    def ready(number: int) -> bool:
        return number in results or not state["working"]

    workers = [threading.Thread(target=work, daemon=True) for _ in range(n_cores() if threads is None else threads)]
    state["working"] = len(workers)
    for worker in workers:
        worker.start()
    number = 0
    try:
        while True:
            with changed:
                changed.wait_for(partial(ready, number))
                if number not in results and "sources" not in results:
                    return
                result, failed = results.pop(number if number in results else "sources")
                state["held"] -= weight(result)
                changed.notify_all()
            if failed:
                raise result
            yield result
            number += 1
    finally:
        with changed:
            state["stop"] = True
            changed.notify_all()


def in_batches(results: Iterable[T], limit: int) -> Iterator[list[T]]:
    """Group a stream into batches. A batch ends once its total ``len`` reaches ``limit``, or at 256 results.

    Example
    -------
    >>> list(in_batches(["ab", "cd", "e"], limit=3))
    [['ab', 'cd'], ['e']]
    """
    batch: list[T] = []
    held = 0
    for result in results:
        batch.append(result)
        held += weight(result)
        if held >= limit or len(batch) == FEW:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def weight(result: Any) -> int:
    """Length of a result; 0 where it has none."""
    return len(result) if hasattr(result, "__len__") else 0
