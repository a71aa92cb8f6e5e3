"""What every index can do, and which to take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cochlea_sb.index.exact import ExactIndex
    from cochlea_sb.index.random_projection import RandomProjectionIndex

FEW = 5000  # vectors that are compared all as fast as searched


class Index(Protocol):
    """Nearest neighbours by cosine; `RandomProjectionIndex` documents each method.

    Queries are float rows of any norm, [D] or [Q, D], vectors [N, D]; ids are signed numbers of 64 bits, each once.
    """

    effort: float  # that queries use when they give none

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

    def compact(self) -> None: ...

    def tune(self, recall: float = 0.99, queries: np.ndarray | None = None, k: int = 10) -> float: ...

    def save(self, folder: str | os.PathLike[str]) -> None: ...


def build_index(vectors: ArrayLike, ids: ArrayLike | None = None, *, seed: int = 0) -> Index:
    """The index that suits so many vectors: exact under a few thousand, else by random projections.

    Arguments
    ---------
    vectors : np.ndarray [N, D], float
    ids : np.ndarray [N], int, optional
        0 to N - 1 by default.
    seed : int

    Returns
    -------
    Index

    Example
    -------
    >>> build_index(np.eye(3))
    ExactIndex(3 vectors of 3 dimensions)
    """
    from cochlea_sb.index.arguments import as_array

    vectors = as_array(vectors)
    return kinds()["exact" if vectors.shape[:1] < (FEW,) else "random-projection"].build(vectors, ids, seed=seed)


def load_index(folder: str | os.PathLike[str], mmap: bool = True, *, verify: bool = False) -> Index:
    """Open an index of any kind that was saved in a folder; see `RandomProjectionIndex.load`."""
    from cochlea_sb.index import storage

    kind = str(storage.read_manifest(folder).get("kind"))
    if kind not in kinds():
        raise ValueError(f"'{folder}' holds an index of unknown kind {kind!r}: expected one of {', '.join(kinds())}.")
    return kinds()[kind].load(folder, mmap, verify=verify)


def kinds() -> dict[str, type[ExactIndex] | type[RandomProjectionIndex]]:
    """Classes by the name that a saved index bears; they are imported here because compiled code loads slowly."""
    from cochlea_sb.index.exact import ExactIndex
    from cochlea_sb.index.random_projection import RandomProjectionIndex

    return {"exact": ExactIndex, "random-projection": RandomProjectionIndex}
