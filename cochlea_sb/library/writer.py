"""Change a library: sounds in, sounds out, each step of it committed as a whole.

Used by `SoundLibrary`, with the library's lock held.
"""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from cochlea_sb.data.sources import ROW, Source, list_sources
from cochlea_sb.errors import UserError
from cochlea_sb.index.exact import ExactIndex
from cochlea_sb.index.interface import FEW, build_index, load_index
from cochlea_sb.inference.batch import Encoded, encode_sounds
from cochlea_sb.library.shards import embedding_shards, read_shard, write_shard
from cochlea_sb.library.state import State

if TYPE_CHECKING:
    from cochlea_sb.inference.audio_encoder import AudioEncoder
    from cochlea_sb.library.store import Store

SLACK = 20_000  # windows that may stay beside a large index: they are compared in about a millisecond
FOLD_AT_ONCE = 100_000  # windows beside the index, more of which are taken in while adding still goes on
MANY_FILES = 64  # of recent windows
IN_A_FILE = 10_000  # sounds


class Contents:
    """What a library holds by the contents of files: one that was moved, copied or touched is not embedded again."""

    def __init__(self, state):
        self.state, rows = state, np.flatnonzero(state.readable)
        self.rows = dict(zip(state.sounds["content"].take(rows).to_pylist(), rows.tolist(), strict=True))

    def __contains__(self, content):
        return content in self.rows

    def recall(self, contents):
        """Windows [W, D] and seconds of the sound of each content."""
        rows = np.array([self.rows[content] for content in contents])
        once, places = np.unique(rows, return_inverse=True)
        vectors = self.state.vectors_of(self.state.windows_of(once))
        parts = np.split(vectors, np.cumsum(self.state.counts[once])[:-1])
        seconds = self.state.sounds["seconds"].take(once).to_pylist()
        return [(parts[place], seconds[place]) for place in places.tolist()]


class Writer:
    """The one who changes a library.

    Arguments
    ---------
    store : Store
        Locked.
    state : State
        The present one; replaced with each change.
    get_encoder : callable
        Gives the library's `AudioEncoder`; called only where there is something to embed.
    """

    def __init__(self, store: Store, state: State, get_encoder: Callable[[], AudioEncoder]) -> None:
        self.store, self.state, self.get_encoder = store, state, get_encoder
        columns = [state.sounds[name].to_pylist() for name in ("path", "size", "changed_ns", "label", "n_windows")]
        self.seen = {  # by path: what its file was like, its label, and whether it could be read
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
    ) -> tuple[int, int, dict[str, str]]:
        """Do what `SoundLibrary.add` says; numbers of sounds added and unchanged, and problems."""
        shards = {one: embedding_shards(one) for one in given if isinstance(one, (str, os.PathLike))}
        taken, passed_over, problems = self.take_in([file for files in shards.values() for file in files], progress)
        others = [one for one in given if not (isinstance(one, (str, os.PathLike)) and shards[one])]
        sources = list_sources(others, **options)
        todo = [source for source in sources if not self.has(source, retry)]
        taken += len(todo)
        problems |= self.embed(todo, progress, threads, commit_seconds) if todo else {}
        self.tidy()
        return taken - len(problems), passed_over + len(sources) - len(todo), problems

    def has(self, source, retry=False):
        """Whether a source is known as it is; one that comes without a label keeps the label it has."""
        size, changed, label, readable = self.seen.get(source.path, (None, None, None, False))
        same = (size, changed) == (source.size, source.changed_ns) and source.label in (None, label)
        return same and (readable or not retry)

    def embed(self, todo, progress, threads, commit_seconds):
        """Embed sources and commit them as they come; problems by path."""
        pending, problems, kept_at, interval = [], {}, time.monotonic(), min(2.0, commit_seconds)
        bar = tqdm(total=len(todo), disable=not progress, unit="sound", desc="Indexing", smoothing=0.05)
        try:
            hop_seconds, known = self.state.manifest["hop_seconds"], Contents(self.state)
            for one in encode_sounds(self.get_encoder(), todo, hop_seconds, threads=threads, known=known):
                pending.append(one)
                if one.problem is not None:
                    problems[one.source.path] = one.problem
                bar.update()
                if time.monotonic() - kept_at > interval:
                    self.commit(pending)
                    pending, kept_at, interval = [], time.monotonic(), min(2 * interval, commit_seconds)
                    self.fold_if_beyond(FOLD_AT_ONCE)
        finally:  # also where it was interrupted: nothing that was done is lost
            bar.close()
            self.commit(pending)
        return problems

    def take_in(self, shards, progress):
        """Add what recipes/embed.py embedded; the numbers of sounds taken in and passed over, and problems by path."""
        taken, passed_over, problems, manifest = 0, 0, {}, self.state.manifest
        for file in tqdm(shards, disable=not (progress and shards), unit="shard", desc="Importing"):
            shard = read_shard(file)
            if len(shard.vectors) and shard.vectors.shape[1] != manifest["dimensions"]:
                raise UserError(f"'{file}' holds embeddings of {shard.vectors.shape[1]} dimensions: expected others.")
            if shard.identity.get("fingerprint") != manifest["encoder"]["fingerprint"]:
                raise UserError(
                    f"'{file}' was embedded with another encoder ({shard.identity.get('source')}) than "
                    f"'{self.store.folder}' ({manifest['encoder']['source']}): their embeddings can't be compared."
                )
            if abs(shard.hop_seconds - manifest["hop_seconds"]) > 1e-9:
                raise UserError(
                    f"'{file}' has a window every {shard.hop_seconds} s, '{self.store.folder}' one every "
                    f"{manifest['hop_seconds']} s: embed the sounds again with that --hop_seconds."
                )
            sounds = shard.sounds.to_pylist()
            ends = np.cumsum([sound["n_windows"] for sound in sounds])
            parts = [shard.vectors[end - sound["n_windows"] : end] for end, sound in zip(ends, sounds, strict=True)]
            embedded = [
                Encoded(
                    Source(s["path"], None, s["label"], s["size"], s["changed_ns"]),
                    vectors,
                    s["seconds"],
                    s["content"],
                    s["problem"],
                )
                for s, vectors in zip(sounds, parts, strict=True)
            ]
            new = [one for one in embedded if not self.has(one.source)]
            self.commit(new)
            self.fold_if_beyond(FOLD_AT_ONCE)
            taken += len(new)
            passed_over += len(embedded) - len(new)
            problems |= {one.source.path: one.problem for one in new if one.problem is not None}
        return taken, passed_over, problems

    def commit(self, embedded, removed=()):
        """Make embedded sounds part of the library, and forget others."""
        if not embedded and not removed:
            return
        manifest = dict(self.state.manifest)
        facts = manifest["encoder"], manifest["hop_seconds"]
        for first in range(0, max(len(embedded), len(removed)), IN_A_FILE):
            some, gone = embedded[first : first + IN_A_FILE], removed[first : first + IN_A_FILE]
            name = self.store.new_name("recent", ".parquet")
            write_shard(self.store.folder / name, some, *facts, removed=gone)
            manifest["recent"] = [*manifest["recent"], name]
            manifest["next_window"] += sum(len(one.windows) for one in some)
        self.store.commit(manifest)
        for one in embedded:
            path, _, label, size, changed = one.source
            self.seen[path] = (size, changed, label, one.problem is None)
        for path in removed:
            self.seen.pop(path, None)
        self.state = State(*self.store.read())

    def remove(self, given: list[Any]) -> int:
        """Do what `SoundLibrary.remove` says."""
        paths, gone = self.seen.keys(), set()
        for one in given:
            if not isinstance(one, (str, os.PathLike)) or not os.fspath(one):
                raise UserError(f"There is no sound {one!r} to remove: expected a file, a folder, or a pattern.")
            one = os.fspath(one)
            name = os.path.realpath(os.path.expanduser(one))
            hit = {one, name} & paths
            if not hit:
                below = (name + os.sep, f"{ROW}{name}{os.sep}", f"{ROW}{name}#")
                hit = {path for path in paths if path.startswith(below)}
            if not hit and any(sign in one for sign in "*?["):
                hit = set(fnmatch.filter(paths, one)) | set(fnmatch.filter(paths, name))
            if not hit:
                raise UserError(f"'{one}' is neither a sound of '{self.store.folder}' nor a folder of some.")
            gone |= hit
        self.commit([], sorted(gone))
        self.tidy()
        return len(gone)

    def prune(self) -> list[str]:
        """Do what `SoundLibrary.prune` says."""
        gone = sorted(path for path in self.seen if not path.startswith(ROW) and not os.path.exists(path))
        self.commit([], gone)
        self.tidy()
        return gone

    def tidy(self):
        """Put everything into the index where searching what is beside it, or has left it, would be felt."""
        _, gone, in_index = self.state.sizes()
        if len(self.state.manifest["recent"]) > MANY_FILES or gone > in_index / 10:
            self.fold()
        self.fold_if_beyond(FEW if in_index < SLACK else SLACK)

    def fold_if_beyond(self, most):
        """Put everything into the index where more windows than that, and a good part of all, are beside it."""
        beside, _, in_index = self.state.sizes()
        if beside > max(most, min(in_index / 4, 5 * FOLD_AT_ONCE) if most > SLACK else 0):
            self.fold()

    def fold(self) -> None:
        """Take recent windows into the index, and out of it those that no sound has any more."""
        state, store = self.state, self.store
        if not state.manifest["recent"]:
            return
        in_index, index = state.firsts < state.first_recent, None
        ids, vectors = np.zeros(0, np.int64), np.zeros((0, state.manifest["dimensions"]), np.float32)
        if state.recent is not None:
            ids = state.windows_of(np.flatnonzero(state.known & ~in_index))
            vectors = state.recent.vectors_of(ids)
        if state.index is not None:
            index = load_index(store.folder / state.manifest["index"])  # others search in the state's
            index.remove(state.windows_of(np.flatnonzero(~state.known & in_index)))
        if index is None or isinstance(index, ExactIndex):
            if index is not None:
                ids, vectors = np.concatenate([index.ids, ids]), np.concatenate([index.vectors, vectors])
            index = build_index(vectors, ids) if len(ids) else None
        elif len(ids):
            index.add(vectors, ids)
        name = None
        if index is not None and len(index):
            name = store.new_name("index")
            index.save(store.folder / name)
        file = store.write_catalogue(state.sounds.filter(pa.array(state.known)))
        store.commit({**state.manifest, "catalogue": file, "index": name, "recent": []})
        self.state = State(*store.read())
