"""The methods that every index has, and functions that build and load an index."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .arguments import Allowed

KINDS = ("exact", "random-projection")
FEW = 5000  # vectors; for fewer, comparing all of them is as fast as a search in cells


class Index(Protocol):
    """Nearest neighbours by cosine. `RandomProjectionIndex` documents each method."""

    effort: float

    @property
    def dimensions(self) -> int: ...

    @property
    def ids(self) -> np.ndarray: ...

    @property
    def version(self) -> object: ...

    def __len__(self) -> int: ...

    def vectors_of(self, ids: ArrayLike) -> np.ndarray: ...

    def allow(self, ids: ArrayLike | Allowed) -> Allowed: ...

    def query(
        self,
        queries: ArrayLike,
        k: int = 10,
        effort: float | None = None,
        *,
        allowed: ArrayLike | Allowed | None = None,
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
    index: Index = kind_of("exact" if vectors.shape[:1] < (FEW,) else "random-projection").build(
        vectors, ids, seed=seed
    )
    return index


def load_index(
    folder: str | os.PathLike[str], mmap: bool = True, *, verify: bool = False, exact_up_to: int = 0
) -> Index:
    """Open a saved index of any kind.

    Arguments
    ---------
    folder, mmap, verify : as in `RandomProjectionIndex.load`
    exact_up_to : int
        An index of at most this many vectors is opened as an `ExactIndex`. It is ready sooner, because nothing compiled
        is loaded, and slower from the second query.

    Returns
    -------
    Index
    """
    from . import storage

    if not isinstance(exact_up_to, int):
        raise ValueError(f"exact_up_to is {exact_up_to!r}: expected a whole number of vectors.")
    manifest = storage.read_manifest(folder)
    kind = str(manifest.get("kind"))
    if kind not in KINDS:
        raise storage.damaged(folder, f"its kind is {kind!r}, expected one of {', '.join(KINDS)}")
    entry = manifest["arrays"].get("ids")
    shape = entry.get("shape") if isinstance(entry, dict) else None  # `storage.load` refuses a wrong one
    if isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int) and shape[0] <= exact_up_to:
        index: Index = kind_of("exact").load(folder, mmap, verify=verify, kind=kind)
    else:
        index = kind_of(kind).load(folder, mmap, verify=verify)
    return index


def kind_of(kind: str) -> Any:
    """The class of a kind of index. The imports are here because compiled code takes long to load."""
    if kind == "exact":
        from .exact import ExactIndex

        return ExactIndex
    from .random_projection import RandomProjectionIndex

    return RandomProjectionIndex
