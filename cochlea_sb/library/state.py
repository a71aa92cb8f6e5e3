"""A library in memory: the records of its sounds, and the embeddings of their windows.

Each window has a number. The windows of a sound have consecutive numbers. A number is never used again. The numbers in
the delta are larger than the numbers in the index. Axes: S records of sounds, n windows, D embedding dimensions.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cochlea_sb.errors import UserError
from cochlea_sb.index.arguments import Allowed
from cochlea_sb.index.exact import ExactIndex
from cochlea_sb.index.interface import Index
from cochlea_sb.index.storage import DamagedIndex
from cochlea_sb.library.columns import as_numpy, whole_numbers
from cochlea_sb.library.shards import Shard


class Passed:
    """The sounds that pass a filter: their rows in `State.sounds`, and their windows."""

    def __init__(self, rows: np.ndarray, windows: np.ndarray) -> None:
        self.rows, self.windows = rows, windows
        self.searched = False
        self.prepared: list[Allowed] | None = None

    def allowed(self, indexes: list[Index]) -> Sequence[np.ndarray | Allowed]:
        """The windows, for each index; from the second search on prepared, which takes as long as many searches."""
        if not self.searched:
            self.searched = True
            return [self.windows] * len(indexes)
        if self.prepared is None:
            self.prepared = [index.allow(self.windows) for index in indexes]
        return self.prepared


class State:
    """The catalogue (columns of `store.CATALOGUE`), the index, and the shards of the delta, oldest first."""

    def __init__(self, manifest: dict[str, Any], catalogue: pa.Table, index: Index | None, delta: list[Shard]) -> None:
        self.manifest, self.index = manifest, index
        self.first_in_delta = manifest["next_window"] - sum(len(shard.vectors) for shard in delta)
        first, tables, vectors = self.first_in_delta, [catalogue], []
        latest: dict[str, int] = {}  # rows by path
        removed: set[str] = set()
        row = self.in_catalogue = len(catalogue)
        for shard in delta:
            removed.update(shard.removed)
            for path in shard.removed:
                latest.pop(path, None)
            for path in shard.sounds["path"].to_pylist():
                latest[path] = row
                row += 1
            counts = as_numpy(shard.sounds["n_windows"])
            firsts = whole_numbers(first + np.cumsum(counts) - counts)
            tables.append(shard.sounds.append_column("first_window", firsts))
            first += len(shard.vectors)
            if len(shard.vectors):
                vectors.append(shard.vectors)
        self.sounds = pa.concat_tables([table.cast(catalogue.schema) for table in tables]).combine_chunks()  # [S]
        self.known = np.ones(len(self.sounds), bool)  # [S]: not replaced or removed by a later shard
        self.known[len(catalogue) :] = False
        self.known[list(latest.values())] = True
        if delta and len(catalogue):
            gone = pa.array(sorted(removed.union(latest)), pa.string())
            self.known[: len(catalogue)] = ~pc.is_in(catalogue["path"], value_set=gone).to_numpy()
        self.firsts, self.counts = (as_numpy(self.sounds[name]) for name in ("first_window", "n_windows"))  # [S]
        self.readable = self.known & (self.counts > 0)  # [S]: a search can find the sound
        self.with_windows = np.flatnonzero(self.counts > 0)  # rows of `sounds`, in the order of their windows
        self.delta: ExactIndex | None = None
        if vectors:
            numbers = np.arange(self.first_in_delta, manifest["next_window"])
            self.delta = ExactIndex.build(np.concatenate(vectors), numbers)
        self.indexes = [part for part in (self.index, self.delta) if part is not None]
        self.passed: dict[Any, Passed] = {}  # of the last filters

    def rows_of(self, windows: np.ndarray) -> np.ndarray:
        """For each window, the row of its sound in `sounds`, [n]."""
        rows = np.searchsorted(self.firsts[self.with_windows], windows, side="right") - 1
        found: np.ndarray = self.with_windows[rows]
        return found

    def windows_of(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of all windows of the sounds in ``rows``, [n]."""
        counts = self.counts[rows]
        numbers: np.ndarray = np.repeat(self.firsts[rows] - (np.cumsum(counts) - counts), counts)
        return numbers + np.arange(counts.sum())

    def vectors_of(self, windows: np.ndarray) -> np.ndarray:
        """Unit vectors [n, D] of windows; their numbers must ascend."""
        n_in_index = np.searchsorted(windows, self.first_in_delta)
        parts = [self.index.vectors_of(windows[:n_in_index])] if self.index is not None and n_in_index else []
        if self.delta is not None and n_in_index < len(windows):
            parts += [self.delta.vectors_of(windows[n_in_index:])]
        return np.concatenate(parts) if parts else np.zeros((0, self.manifest["dimensions"]), np.float32)

    def vectors_in_order(self, windows: np.ndarray) -> np.ndarray:
        """Unit vectors [n, D] of windows, whose numbers may have any order."""
        order = np.argsort(windows)
        vectors: np.ndarray = self.vectors_of(windows[order])
        return vectors[np.argsort(order)]

    def nearest(
        self, query: np.ndarray, n: int, effort: float | None = None, passed: Passed | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and numbers of the n windows that are nearest to a unit vector [D], best first.

        The result can hold windows of removed or replaced sounds. Raises a UserError if the index is damaged.
        """
        if not self.indexes:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        allowed = [None] * len(self.indexes) if passed is None else passed.allowed(self.indexes)
        try:
            found = [
                index.query(query, n, effort, allowed=those) for index, those in zip(self.indexes, allowed, strict=True)
            ]
        except DamagedIndex as error:
            raise UserError("The library's index is damaged: index its sounds again, into a new library.") from error
        scores, windows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((windows, -scores))[:n]
        return scores[order], windows[order]

    def sizes(self) -> tuple[int, int, int]:
        """Numbers of windows: in the delta, in the index but of removed or replaced sounds, and in the index."""
        gone = int(self.counts[~self.known & (self.firsts < self.first_in_delta)].sum())
        in_delta, in_index = (0 if index is None else len(index) for index in (self.delta, self.index))
        return in_delta, gone, in_index


def state_of(state: State) -> str:
    """Return a hash of the manifest, which tells one state of a library from another."""
    return hashlib.blake2b(json.dumps(state.manifest, sort_keys=True).encode(), digest_size=16).hexdigest()
