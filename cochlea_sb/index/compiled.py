"""Functions compiled by numba, kept on disk where that is possible."""

import contextlib
from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator like `numba.njit(cache=True, nogil=True)`, which never fails because of its cache.

    numba raises an error where neither the folder of the package nor a folder of the user can be written, and where the
    disk is full. The function is then compiled again in each process.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        kernel = numba.njit(nogil=True, **options)(function)
        with contextlib.suppress(RuntimeError):  # no folder can be written
            kernel._cache = _Cache(function)
        return kernel

    return decorate


class _Cache(FunctionCache):
    """A cache on a disk that may be full, or hold damaged files."""

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return super().load_overload(*arguments)
        except Exception:  # unpickling a damaged file may raise anything
            return None

    def save_overload(self, *arguments: Any) -> None:
        with contextlib.suppress(Exception):
            super().save_overload(*arguments)
