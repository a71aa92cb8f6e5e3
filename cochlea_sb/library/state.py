"""A library in memory: every sound it knows, and where the vectors of its windows are.

Made anew, from `Store.read`, whenever the library on disk has changed. Windows are numbered: those of a sound follow
each other, numbers are never used again.

Axes: S records of sounds, W windows, D embedding dimensions.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cochlea_sb.index.exact import ExactIndex
from cochlea_sb.index.interface import Index
from cochlea_sb.library.shards import Shard
from cochlea_sb.library.store import CATALOGUE


class State:
    """The catalogue and both indexes.

    Arguments
    ---------
    manifest, catalogue, index, recent :
        From `Store.read`.
    """

    def __init__(self, manifest: dict[str, Any], catalogue: pa.Table, index: Index | None, recent: list[Shard]) -> None:
        self.manifest, self.index = manifest, index
        self.first_recent = manifest["next_window"] - sum(len(shard.vectors) for shard in recent)
        first, tables, vectors = self.first_recent, [catalogue], []
        latest, forgotten, row = {}, set(), len(catalogue)
        for shard in recent:
            forgotten.update(shard.removed)
            for path in shard.removed:
                latest.pop(path, None)
            for path in shard.sounds["path"].to_pylist():
                latest[path] = row
                row += 1
            tables.append(shard.sounds.append_column("first_window", number_windows(shard.sounds, first)))
            first += len(shard.vectors)
            if len(shard.vectors):
                vectors.append(shard.vectors)
        self.sounds = pa.concat_tables([table.cast(CATALOGUE) for table in tables]).combine_chunks()  # [S]
        self.known = np.ones(len(self.sounds), bool)  # [S]: neither replaced nor removed since
        self.known[len(catalogue) :] = False
        self.known[list(latest.values())] = True
        gone = pa.array(sorted(forgotten.union(latest)), pa.string())
        if len(gone) and len(catalogue):
            self.known[: len(catalogue)] = ~pc.is_in(catalogue["path"], value_set=gone).to_numpy()
        self.firsts, self.counts = (self.sounds[name].to_numpy() for name in ("first_window", "n_windows"))  # [S]
        self.readable = self.known & (self.counts > 0)  # [S]: those that a search may find
        self.with_windows = np.flatnonzero(self.counts > 0)  # ascending by their first windows
        self.recent = None
        if vectors:
            numbers = np.arange(self.first_recent, manifest["next_window"])
            self.recent = ExactIndex.build(np.concatenate(vectors), numbers)

    def rows_of(self, windows: np.ndarray) -> np.ndarray:
        """Rows of the sounds that windows belong to, [n]."""
        return self.with_windows[np.searchsorted(self.firsts[self.with_windows], windows, side="right") - 1]

    def windows_of(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of all windows of the sounds in some rows."""
        counts = self.counts[rows]
        return np.repeat(self.firsts[rows] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())

    def vectors_of(self, windows: np.ndarray) -> np.ndarray:
        """Unit vectors of windows in ascending order, [n, D]."""
        n_in_index = np.searchsorted(windows, self.first_recent)
        parts = [self.index.vectors_of(windows[:n_in_index])] if n_in_index else []
        parts += [self.recent.vectors_of(windows[n_in_index:])] if n_in_index < len(windows) else []
        return np.concatenate(parts)

    def nearest(
        self, query: np.ndarray, n: int, effort: float | None = None, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and numbers of the n windows nearest to a unit vector [D], best first, of unknown sounds too."""
        found = [
            index.query(query, n, effort, allowed=allowed) for index in (self.index, self.recent) if index is not None
        ]
        if not found:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        scores, windows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((windows, -scores))[:n]
        return scores[order], windows[order]

    def sizes(self) -> tuple[int, int, int]:
        """Windows beside the index, windows in it that no sound has any more, and windows in it."""
        gone = int(self.counts[~self.known & (self.firsts < self.first_recent)].sum())
        beside, in_index = (0 if index is None else len(index) for index in (self.recent, self.index))
        return beside, gone, in_index


def number_windows(sounds, first):
    """The number of each sound's first window, where the first sound has ``first``."""
    counts = sounds["n_windows"].to_numpy()
    return pa.array(first + np.cumsum(counts) - counts, pa.int64())
