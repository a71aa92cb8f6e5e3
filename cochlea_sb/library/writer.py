"""Change a library: add sounds, remove sounds, merge the delta. Axes: W windows, D embedding dimensions."""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cochlea_sb.data.sounds import ROW, Source, list_sources
from cochlea_sb.errors import UserError
from cochlea_sb.files import as_named, as_utf8
from cochlea_sb.index.exact import ExactIndex
from cochlea_sb.index.interface import FEW, Index, build_index
from cochlea_sb.inference.batch import Encoded, encode_sounds
from cochlea_sb.library.results import Added
from cochlea_sb.library.shards import embedding_shards, read_shard, write_shard
from cochlea_sb.library.state import State
from cochlea_sb.machine import progress_bar

if TYPE_CHECKING:
    from cochlea_sb.inference.encoder import Encoder
    from cochlea_sb.library.store import Store

LARGE = 20_000  # windows: comparing a query with a delta of this size takes about a millisecond
MERGE_WHILE_ADDING = 100_000  # windows in the delta
MOST_FILES = 64  # in the delta
SOUNDS_IN_A_FILE = 10_000


class KnownContents:
    """Finds sounds of a library by the hash of their file, so that a moved or copied file is not encoded again."""

    def __init__(self, state: State) -> None:
        self.state, rows = state, np.flatnonzero(state.readable)
        self.rows = dict(zip(state.sounds["content"].take(rows).to_pylist(), rows.tolist(), strict=True))

    def __contains__(self, content: str) -> bool:
        return content in self.rows

    def recall(self, contents: list[str]) -> list[tuple[np.ndarray, float]]:
        """For each hash, the windows [W, D] and the length in seconds of the sound."""
        rows = np.array([self.rows[content] for content in contents])
        once, places = np.unique(rows, return_inverse=True)
        vectors = self.state.vectors_of(self.state.windows_of(once))
        parts = np.split(vectors, np.cumsum(self.state.counts[once])[:-1])
        seconds = self.state.sounds["seconds"].take(once).to_pylist()
        return [(parts[place], seconds[place]) for place in places.tolist()]


class Writer:
    """Changes a library that the caller has locked. ``get_encoder`` is called only if a sound must be encoded."""

    def __init__(self, store: Store, state: State, get_encoder: Callable[[], Encoder]) -> None:
        self.store, self.state, self.get_encoder = store, state, get_encoder
        columns = [state.sounds[name].to_pylist() for name in ("path", "size", "changed_ns", "label", "n_windows")]
        self.seen = {  # by path: size and time of the file, label, and whether it could be read
            path: (size, changed, label, count > 0)
            for path, size, changed, label, count, known in zip(*columns, state.known.tolist(), strict=True)
            if known
        }

    def add(
        self,
        given: list[Any],
        options: dict[str, Any],
        retry: bool,
        progress: bool,
        threads: int | None,
        commit_seconds: float,
    ) -> Added:
        """Implements `SoundLibrary.add`; ``options`` are passed to `list_sources`."""
        shards = {one: embedding_shards(one) for one in given if isinstance(one, (str, os.PathLike))}
        added = self.add_shards([file for files in shards.values() for file in files], progress)
        others = [one for one in given if not (isinstance(one, (str, os.PathLike)) and shards[one])]
        sources = list_sources(others, **options)
        todo = [source for source in sources if not self.has(source, retry)]
        same = {source.path for source in todo if self.has(source._replace(label=None), retry=True)}
        problems = self.add_sounds(todo, progress, threads, commit_seconds) if todo else {}
        self.merge_if_useful()
        unchanged = added.unchanged + len(sources) - len(todo)
        relabelled = len(same - problems.keys())
        new = added.added + len(todo) - len(problems) - relabelled
        return Added(new, unchanged, added.problems | problems, relabelled)

    def has(self, source: Source, retry: bool = False) -> bool:
        """Whether the library holds an unchanged source. A source whose label is None matches every label."""
        size, changed, label, readable = self.seen.get(source.path, (None, None, None, False))
        same = (size, changed) == (source.size, source.changed_ns) and source.label in (None, label)
        return same and (readable or not retry)

    def add_sounds(
        self, todo: list[Source], progress: bool, threads: int | None, commit_seconds: float
    ) -> dict[str, str]:
        """Encode sounds and commit them regularly; returns the problem for each path that could not be read."""
        pending: list[Encoded] = []
        problems, committed_at, interval = {}, time.monotonic(), min(2.0, commit_seconds)
        bar = progress_bar(total=len(todo), show=progress, unit="sound", desc="Indexing", smoothing=0.05)
        try:
            hop_seconds, known = self.state.manifest["hop_seconds"], KnownContents(self.state)
            for one in encode_sounds(self.get_encoder(), todo, hop_seconds, threads=threads, known=known):
                pending.append(one)
                if one.problem is not None:
                    problems[one.source.path] = one.problem
                bar.update()
                if time.monotonic() - committed_at > interval:
                    self.commit_found(pending)
                    pending, committed_at, interval = [], time.monotonic(), min(2 * interval, commit_seconds)
                    self.merge_if_beyond(MERGE_WHILE_ADDING)
        finally:  # an exception such as KeyboardInterrupt must not lose encoded sounds
            bar.close()
            self.commit_found(pending)
        return problems

    def commit_found(self, encoded: Sequence[Encoded]) -> None:
        """Commit encoded sounds. A sound that moved replaces its old record, and keeps its label if it has no other."""
        where = {one.content: number for number, one in enumerate(encoded) if one.problem is None and one.content}
        state, found = self.state, list(encoded)
        same = pc.is_in(state.sounds["content"], pa.array(list(where), pa.string())).to_numpy() & state.readable
        records = state.sounds.select(["path", "content", "label"]).filter(pa.array(same)).to_pylist()
        new, gone = {one.source.path for one in encoded}, []
        for record in records:
            path, number = record["path"], where[record["content"]]
            if path in new or path.startswith(ROW) or not is_gone(path):
                continue
            gone.append(path)
            if found[number].source.label is None:
                found[number] = found[number]._replace(source=found[number].source._replace(label=record["label"]))
        self.commit(found, gone)

    def add_shards(self, files: list[str], progress: bool) -> Added:
        """Add the sounds of shards that recipes/embed.py wrote, except sounds that are already in the library."""
        problems: dict[str, str] = {}
        added, unchanged, manifest = 0, 0, self.state.manifest
        for file in progress_bar(files, show=progress and bool(files), unit="shard", desc="Importing"):
            shard, dimensions, hop_seconds = read_shard(file), manifest["dimensions"], manifest["hop_seconds"]
            if shard.identity.get("fingerprint") != manifest["encoder"]["fingerprint"]:
                raise UserError(
                    f"'{file}' was made with another encoder ({shard.identity.get('source')}) than "
                    f"'{self.store.folder}' ({manifest['encoder']['source']}): embed the sounds again with the "
                    "encoder of the library."
                )
            if len(shard.vectors) and shard.vectors.shape[1] != dimensions:
                raise UserError(f"'{file}' has vectors of {shard.vectors.shape[1]} dimensions: expected {dimensions}.")
            if abs(shard.hop_seconds - hop_seconds) > 1e-9:
                raise UserError(
                    f"'{file}' has a window every {shard.hop_seconds} s, '{self.store.folder}' one every "
                    f"{hop_seconds} s: embed the sounds again with --hop_seconds {hop_seconds}."
                )
            sounds = shard.sounds.to_pylist()
            ends = np.cumsum([sound["n_windows"] for sound in sounds])
            new = []
            for end, sound in zip(ends, sounds, strict=True):
                source = Source(sound["path"], None, sound["label"], sound["size"], sound["changed_ns"])
                vectors = shard.vectors[end - sound["n_windows"] : end]
                if not self.has(source):
                    new.append(Encoded(source, vectors, sound["seconds"], sound["content"], sound["problem"]))
            self.commit(new)
            self.merge_if_beyond(MERGE_WHILE_ADDING)
            unreadable = {one.source.path: one.problem for one in new if one.problem is not None}
            added += len(new) - len(unreadable)
            unchanged += len(sounds) - len(new)
            problems |= unreadable
        return Added(added, unchanged, problems)

    def commit(self, embedded: Sequence[Encoded], removed: Sequence[str] = ()) -> None:
        """Add encoded sounds to the delta, and remove the sounds with the paths ``removed``."""
        if not embedded and not removed:
            return
        manifest = dict(self.state.manifest)
        facts = manifest["encoder"], manifest["hop_seconds"]
        for first in range(0, max(len(embedded), len(removed)), SOUNDS_IN_A_FILE):
            part = slice(first, first + SOUNDS_IN_A_FILE)
            name = self.store.new_name("delta", ".parquet")
            write_shard(self.store.folder / name, embedded[part], *facts, removed=removed[part])
            manifest["delta"] = [*manifest["delta"], name]
            manifest["next_window"] += sum(len(one.windows) for one in embedded[part])
        self.store.commit(manifest)
        for one in embedded:
            path, _, label, size, changed = one.source
            self.seen[path] = (size, changed, label, one.problem is None)
        for path in removed:
            self.seen.pop(path, None)
        self.state = State(*self.store.read())

    def remove(self, given: Iterable[Any]) -> int:
        removed: set[str] = set()
        paths = self.seen.keys()
        for one in given:
            if not isinstance(one, (str, os.PathLike)) or not os.fspath(one):
                raise UserError(f"There is no sound {one!r} to remove: expected a file, a folder, or a pattern.")
            one = os.fspath(one)
            name = os.path.realpath(os.path.expanduser(one))
            one, name = as_utf8(one), as_utf8(name)
            found = {one, name} & paths
            if not found:
                below = (name + os.sep, f"{ROW}{name}{os.sep}", f"{ROW}{name}#")
                found = {path for path in paths if path.startswith(below)}
            if not found and any(sign in one for sign in "*?["):
                found = set(fnmatch.filter(paths, one)) | set(fnmatch.filter(paths, name))
            if not found:
                raise UserError(f"'{one}' is neither a sound of '{self.store.folder}' nor a folder of its sounds.")
            removed |= found
        n_sounds = sum(int(self.seen[path][3]) for path in removed)  # without files that could not be read
        self.commit([], sorted(removed))
        self.merge_if_useful()
        return n_sounds

    def prune(self, whole_folders: bool) -> list[str]:
        gone = sorted(path for path in self.seen if not path.startswith(ROW) and is_gone(path))
        folders = [path for path in gone if is_gone(os.path.dirname(path))]
        if folders and not whole_folders:
            raise UserError(
                f"The folder '{os.path.dirname(folders[0])}' is missing ({len(folders):,} files in all such folders): "
                "connect the drive, or remove these files, too, with --yes (`whole_folders=True`)."
            )
        sounds = [path for path in gone if self.seen[path][3]]  # without files that could not be read
        self.commit([], gone)
        self.merge_if_useful()
        return sounds

    def merge_if_useful(self) -> None:
        """Merge if the delta, or the removed windows in the index, are large enough to slow a search."""
        _, gone, in_index = self.state.sizes()
        n_records = len(self.state.sounds) - self.state.in_catalogue  # unreadable files, too, slow the next opening
        many = n_records > max(SOUNDS_IN_A_FILE, self.state.in_catalogue / 4)
        if len(self.state.manifest["delta"]) > MOST_FILES or gone > in_index / 10 or many:
            self.merge()
        self.merge_if_beyond(FEW if in_index < LARGE else LARGE)

    def merge_if_beyond(self, most: int) -> None:
        """Merge if the delta has more than ``most`` windows. If ``most > LARGE``, the limit grows with the index.

        A merge rewrites the index. The growing limit keeps the cost of merges per added window about constant.
        """
        in_delta, _, in_index = self.state.sizes()
        if in_delta > max(most, min(in_index / 4, 5 * MERGE_WHILE_ADDING) if most > LARGE else 0):
            self.merge()

    def merge(self) -> None:
        """Move the delta into the index, and delete the windows of removed and replaced sounds."""
        state, store = self.state, self.store
        if not state.manifest["delta"]:
            return
        in_index = state.firsts < state.first_in_delta
        index: Index | None = None
        ids, vectors = np.zeros(0, np.int64), np.zeros((0, state.manifest["dimensions"]), np.float32)
        if state.delta is not None:
            ids = state.windows_of(np.flatnonzero(state.known & ~in_index))
            vectors = state.delta.vectors_of(ids)
        if state.index is not None:
            index = store.open_index(state.manifest["index"])  # a copy: other threads may search state.index
            index.remove(state.windows_of(np.flatnonzero(~state.known & in_index)))
        name = None
        if index is not None and not len(ids) and len(index) == len(state.index or ()):
            name = state.manifest["index"]  # nothing has changed in it
        else:
            if index is None or isinstance(index, ExactIndex):
                if index is not None:
                    ids, vectors = np.concatenate([index.ids, ids]), np.concatenate([index.vectors, vectors])
                index = build_index(vectors, ids) if len(ids) else None
            elif len(ids):
                index.add(vectors, ids)
            if index is not None and len(index):
                name = store.new_name("index")
                index.save(store.folder / name)
        catalogue = store.write_catalogue(state.sounds.filter(pa.array(state.known)))
        store.commit({**state.manifest, "catalogue": catalogue, "index": name, "delta": []})
        self.state = State(*store.read())


def is_gone(path: str) -> bool:
    """Whether a file or folder does not exist. It may exist where the system can't look."""
    try:
        os.stat(as_named(path))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False
