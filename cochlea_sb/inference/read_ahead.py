"""Read a long list in threads while the caller works on what came before, within bounds of memory."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cochlea_sb.errors import UserError
from cochlea_sb.machine import n_cores

FEW = 256  # results held at most, whatever they weigh


def read_ahead(
    read: Callable[[Any], Any], sources: Iterable[Any], *, threads: int | None = None, limit: int = 1 << 26
) -> Iterator[Any]:
    """Yield ``read(source)`` for each source, in their order.

    The threads stop taking sources while results of more than ``limit`` in all, by their ``len``, wait to be fetched:
    that, and one result for each thread, is the most that is held.

    Arguments
    ---------
    read : callable
        Gives something with a length, or without. What it raises is raised here.
    sources : iterable
        Asked by one thread at a time.
    threads : int, optional
        All cores by default.
    limit : int
        64 Mi samples of float32 by default: 256 MiB.

    Example
    -------
    >>> list(read_ahead(str.upper, ["a", "b"]))
    ['A', 'B']
    """
    if threads is not None and threads < 1:
        raise UserError(f"threads is {threads}: expected at least 1.")
    numbered, results, changed = enumerate(sources), {}, threading.Condition()
    state = {"held": 0, "working": 0, "stop": False}

    def next_source():
        with changed:
            changed.wait_for(lambda: state["stop"] or (state["held"] <= limit and len(results) < FEW))
            return (None, None) if state["stop"] else next(numbered, (None, None))

    def work():
        try:
            while True:
                number, source = next_source()
                if number is None:
                    return
                try:
                    result, failed = read(source), False
                except BaseException as error:  # raised again where the results are fetched
                    result, failed = error, True
                with changed:
                    results[number] = result, failed
                    state["held"] += weight(result)
                    changed.notify_all()
        except BaseException as error:  # of the iterable of sources
            with changed:
                results["sources"] = error, True
        finally:
            with changed:
                state["working"] -= 1
                changed.notify_all()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(n_cores() if threads is None else threads)]
    state["working"] = len(workers)
    for worker in workers:
        worker.start()
    number = 0
    try:
        while True:
            with changed:
                changed.wait_for(lambda wanted=number: wanted in results or not state["working"])
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


def weight(result: Any) -> int:
    return len(result) if hasattr(result, "__len__") else 0
