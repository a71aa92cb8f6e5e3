"""Read a list in threads before the caller asks for the results; group results into batches; in bounded memory."""

import atexit
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from cochlea_sb.errors import UserError
from cochlea_sb.machine import n_cores

FEW = 256  # maximum number of results in memory or in a batch

T = TypeVar("T")


def read_ahead(
    read: Callable[[Any], Any], sources: Iterable[Any], *, threads: int | None = None, limit: int = 1 << 26
) -> Iterator[Any]:
    """Yield ``read(source)`` for each source, in the order of the sources.

    An exception of ``read`` is raised instead of its result. By default, there is a thread for each core. Threads start
    no new read while the results that the caller has not taken have a total ``len`` over ``limit`` (by default 64 Mi,
    which is 256 MiB of float32 samples).
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
                except BaseException as error:  # is raised in the caller's thread
                    result, failed = error, True
                with changed:
                    results[number] = result, failed
                    state["held"] += weight(result)
                    changed.notify_all()
        except BaseException as error:  # `sources` raised it
            with changed:
                results["sources"] = error, True
        finally:
            with changed:
                state["working"] -= 1
                changed.notify_all()

    def ready(number: int) -> bool:
        return number in results or not state["working"]

    def end() -> None:
        with changed:
            state["stop"] = True
            changed.notify_all()
        for worker in workers:
            worker.join()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(n_cores() if threads is None else threads)]
    state["working"] = len(workers)
    for worker in workers:
        worker.start()
    atexit.register(end)  # Python aborts if it ends while a thread decodes
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
        atexit.unregister(end)
        end()


def in_batches(results: Iterable[T], limit: int) -> Iterator[list[T]]:
    """Group results into batches. A batch ends when its total ``len`` reaches ``limit``, or at 256 results.

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
    """``len(result)``, or 0 if the result has no length."""
    return len(result) if hasattr(result, "__len__") else 0
