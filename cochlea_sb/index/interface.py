"""The methods that every index has, and functions that build and load an index."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .exact import ExactIndex
    from .random_projection import RandomProjectionIndex

FEW = 5000  # vectors; for fewer, comparing all of them is as fast as a search in cells


class Index(Protocol):
    """Nearest neighbours by cosine. `RandomProjectionIndex` documents each method."""

    effort: float

    @property
    def dimensions(self) -> int: ...

    @property
    def ids(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def vectors_of(self, ids: ArrayLike) -> np.ndarray: ...

    def query(
        self,
        queries: ArrayLike,
        k: int = 10,
        effort: float | None = None,
        *,
        allowed: ArrayLike | None = None,
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def add(self, vectors: ArrayLike, ids: ArrayLike) -> None: ...

    def remove(self, ids: ArrayLike) -> None: ...

    def tune(self, recall: float = 0.99, queries: np.ndarray | None = None, k: int = 10) -> float: ...

    def save(self, folder: str | os.PathLike[str]) -> None: ...


def build_index(vectors: ArrayLike, ids: ArrayLike | None = None, *, seed: int = 0) -> Index:
    """Index vectors, in an `ExactIndex` if there are fewer than 5,000, else in a `RandomProjectionIndex`.

    Arguments
    ---------
    vectors, ids, seed : as in `RandomProjectionIndex.build`

    Returns
    -------
    Index

    Example
    -------
    >>> build_index(np.eye(3))
    ExactIndex(3 vectors of 3 dimensions)
    """
    from .arguments import as_array

    vectors = as_array(vectors)
    return kinds()["exact" if vectors.shape[:1] < (FEW,) else "random-projection"].build(vectors, ids, seed=seed)


def load_index(folder: str | os.PathLike[str], mmap: bool = True, *, verify: bool = False) -> Index:
    """Open a saved index of any kind; see `RandomProjectionIndex.load`."""
    from . import storage

    kind = str(storage.read_manifest(folder).get("kind"))
    if kind not in kinds():
        raise storage.damaged(folder, f"its kind is {kind!r}, expected one of {', '.join(kinds())}")
    return kinds()[kind].load(folder, mmap, verify=verify)


def kinds() -> dict[str, type[ExactIndex] | type[RandomProjectionIndex]]:
    """The class for each kind of saved index. The imports are here because compiled code takes long to load."""
    from .exact import ExactIndex
    from .random_projection import RandomProjectionIndex

    return {"exact": ExactIndex, "random-projection": RandomProjectionIndex}
