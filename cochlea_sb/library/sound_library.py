"""Search a collection of sounds by example: what is indexed, and from where, survives whatever happens to the process.

Axes: W windows, D embedding dimensions.
"""

import fnmatch
import os
import re
import time
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from cochlea_sb.bulk import Embedded, embed_sounds
from cochlea_sb.data.sources import Source, list_sources
from cochlea_sb.index.exact import ExactIndex
from cochlea_sb.index.interface import FEW, build_index
from cochlea_sb.library.examples import Example, embed_example
from cochlea_sb.library.shards import read_facts, read_shard, write_shard
from cochlea_sb.library.state import State
from cochlea_sb.library.store import Store

SLACK = 20_000  # windows that may stay beside a large index: they are compared in about a millisecond
FOLD_AT_ONCE = 100_000  # windows beside the index, more of which are taken in while adding still goes on
MANY_FILES = 64  # of recent windows


class Match(NamedTuple):
    """A stretch of a sound that is like what was sought."""

    path: str
    start_seconds: float
    end_seconds: float
    score: float  # cosine
    label: str | None = None


class Added(NamedTuple):
    """What `SoundLibrary.add` did."""

    added: int  # sounds, new ones and those that had changed
    unchanged: int
    problems: dict  # reason by path, of sounds that could not be read this time


class SoundLibrary:
    """Sounds that can be searched by example: a folder on disk. Make one with `create`, or `open` it.

    Any number of processes may search a library, and one may change it meanwhile. What is open shows the library as
    it was when it was opened, until `refresh`.

    Example
    -------
    >>> from cochlea_sb import AudioEncoder
    >>> encoder = AudioEncoder.from_hparams(getfixture("model_folder"), run_opts={"device": "cpu"})
    >>> library = SoundLibrary.create(getfixture("tmp_path") / "sounds.library", encoder)
    >>> library.add([getfixture("sound_folder")], progress=False).added
    3
    >>> [match.path[-8:] for match in library.search(getfixture("sound_folder") + "/low.wav", k=1)]
    ['high.wav']
    """

    def __init__(self, store, encoder=None, run_opts=None):
        self.store, self._encoder, self._run_opts = store, None, run_opts
        self.refresh()
        if encoder is not None:
            self._encoder = self._checked(encoder)

    @classmethod
    def create(cls, folder, encoder, *, hop_seconds=0.48):
        """Begin a library.

        Arguments
        ---------
        folder : str or Path
            A folder that is not there yet, or empty.
        encoder : AudioEncoder
            Makes the embeddings of all its sounds.
        hop_seconds : float
            Distance between the windows that are embedded.

        Raises
        ------
        ValueError
            If something is there already, or the hop is shorter than a frame.
        """
        store = Store(folder)
        hop_seconds = encoder.hop_frames(hop_seconds) * encoder.frame_seconds
        facts = {"encoder": encoder.identity(), "dimensions": encoder.embedding_size}
        store.create({**facts, "hop_seconds": hop_seconds, "window_seconds": encoder.window_seconds})
        return cls(store, encoder)

    @classmethod
    def open(cls, folder, encoder=None, *, run_opts=None):
        """Open a library.

        Arguments
        ---------
        folder : str or Path
        encoder : AudioEncoder, optional
            The one it was made with; by default it is loaded from where it was then, when it is needed.
        run_opts : dict, optional
            For the encoder that is loaded, such as ``{"device": "cuda"}``.

        Raises
        ------
        ValueError
            If there is no library, it is damaged, or it was made with another encoder.
        """
        return cls(Store(folder), encoder, run_opts)

    def refresh(self):
        """See what others have changed since the library was opened."""
        self._state = State(*self.store.read())

    def __len__(self):
        return int((self._state.known & (self._state.counts > 0)).sum())

    def __repr__(self):
        return f"SoundLibrary('{self.store.folder}': {len(self)} sounds, {self.n_windows} windows)"

    @property
    def n_windows(self):
        """int: windows that are searched."""
        return int(self._state.counts[self._state.known].sum())

    @property
    def sounds(self):
        """pyarrow.Table: what is known of each sound: path, label, seconds, size, content (a hash), n_windows."""
        state = self._state
        return state.sounds.filter(pa.array(state.known & (state.counts > 0)))

    @property
    def problems(self):
        """dict: of each sound that could not be read, the reason by its path."""
        state = self._state
        rows = state.sounds.filter(pa.array(state.known & (state.counts == 0)))
        return dict(zip(rows["path"].to_pylist(), rows["problem"].to_pylist(), strict=True))

    @property
    def identity(self):
        """dict: ``source``, ``revision`` and ``fingerprint`` of the encoder."""
        return self._state.manifest["encoder"]

    @property
    def encoder(self):
        """AudioEncoder: the one the library was made with; loaded when it is first needed."""
        if self._encoder is None:
            from cochlea_sb.inference import AudioEncoder

            if self.identity["source"] is None:
                raise ValueError(f"'{self.store.folder}' does not say where its encoder is: open it with the encoder.")
            options = {"revision": self.identity["revision"]} if self.identity["revision"] else {}
            try:
                found = AudioEncoder.from_hparams(self.identity["source"], run_opts=self._run_opts, **options)
            except ValueError as error:
                raise ValueError(
                    f"The encoder of '{self.store.folder}' is not where it was: {error} Or open the library with it."
                ) from error
            self._encoder = self._checked(found)
        return self._encoder

    def _checked(self, encoder):
        """An encoder, if it is the library's."""
        identity = encoder.identity()
        if identity["fingerprint"] != self.identity["fingerprint"]:
            raise ValueError(
                f"'{self.store.folder}' was made with another encoder ({self.identity['source']}, fingerprint "
                f"{self.identity['fingerprint'][:12]}) than '{identity['source']}' ({identity['fingerprint'][:12]}): "
                "their embeddings can't be compared; take that one, or index the sounds again into a new library."
            )
        return encoder

    # ------------------------------------------------------------------------------------------------ searching

    def search(
        self, query, k=10, *, skip=0, every_window=False, with_query=False, path=None, label=None, effort=None
    ):  # fmt: skip
        """The sounds that are most like an example.

        Arguments
        ---------
        query : str, Path, tuple, array, or dict
            A file; ``(file, start_seconds, end_seconds)``, a stretch of it; a waveform [samples] at the encoder's
            sample rate; an embedding [D]; or a mixture: a dict, or a list of pairs, of such examples and their
            weights, which may be negative.
        k : int
            How many matches.
        skip : int
            How many to leave out first: ``skip=20`` gives the second page of twenty.
        every_window : bool
            Matches are windows; by default they are sounds, each by its best window.
        with_query : bool
            Find the files of the query, too.
        path : str, optional
            Only sounds whose path has this in it, or matches it where it has wildcards (``*/kicks/*.wav``).
        label : str, optional
            Only sounds of this label.
        effort : float in (0, 1], optional
            As in `RandomProjectionIndex.query`; 1 is exact.

        Returns
        -------
        list of Match
            Best first; fewer where there are not so many.

        Raises
        ------
        AudioError
            If an example can't be read.
        ValueError
            If the query is none of these, or a number is out of range.
        """
        for name, number, least in (("k", k, 1), ("skip", skip, 0)):
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
                raise ValueError(f"{name} is {number!r}: expected a whole number, at least {least}.")
        example = self.embed(query)
        left_out, state, wanted = set() if with_query else example.paths, self._state, skip + k
        allowed = None if path is None and label is None else state.windows_of(self._rows_where(path, label))
        n, paths = 2 * wanted + 32, state.sounds["path"]
        while True:
            scores, windows = state.nearest(example.vector, n, effort, allowed)
            rows = state.rows_of(windows)
            kept = state.known[rows]
            if left_out:
                kept = kept & np.array([paths[row].as_py() not in left_out for row in rows.tolist()], bool)
            kept = np.flatnonzero(kept)
            if not every_window:
                kept = kept[np.sort(np.unique(rows[kept], return_index=True)[1])]
            if len(kept) >= wanted or len(windows) < n:
                break
            n *= 4
        return [self._match(rows[i], windows[i], scores[i]) for i in kept[skip:wanted].tolist()]

    def _match(self, row, window, score):
        state, hop = self._state, self._state.manifest["hop_seconds"]
        path, seconds, label = (state.sounds[name][int(row)].as_py() for name in ("path", "seconds", "label"))
        start = round(int(window - state.firsts[row]) * hop, 6)
        end = min(start + state.manifest["window_seconds"], seconds)
        return Match(path, start, max(start, round(end, 6)), float(score), label)

    def _rows_where(self, path, label):
        """Rows of known sounds that pass the filters."""
        state = self._state
        passed = state.known & (state.counts > 0)
        if label is not None:
            passed &= pc.fill_null(pc.equal(state.sounds["label"], label), False).to_numpy()
        if path is not None:
            path = os.fspath(path)
            wild = any(sign in path for sign in "*?[")
            matches = re.compile(fnmatch.translate(path)).match if wild else lambda name: path in name
            passed &= np.array([bool(matches(name)) for name in state.sounds["path"].to_pylist()], bool)
        return np.flatnonzero(passed)

    def embed(self, query) -> Example:
        """The unit vector of a query, and the files it speaks of; arguments and errors as in `search`."""
        return embed_example(query, self._state.manifest["dimensions"], lambda: self.encoder)

    # ------------------------------------------------------------------------------------------------- changing

    def add(self, sources, *, folder_labels=False, config=None, split="train", retry=False, progress=True,
            threads=None, commit_seconds=30.0):  # fmt: skip
        """Add sounds. What is there already, unchanged, is passed over; what has changed is replaced.

        The work is kept every ``commit_seconds``: killed at any moment, the same call goes on from there.

        Arguments
        ---------
        sources : str, Path, datasets.Dataset, or a list of them
            As in `cochlea_sb.data.sources.list_sources`; also Parquet shards that recipes/embed.py wrote with the same
            encoder, which are taken as they are.
        folder_labels, config, split :
            As in `cochlea_sb.data.sounds.load_sounds`.
        retry : bool
            Try again what could not be read before and has not changed.
        progress : bool
            Show a progress bar.
        threads : int, optional
            That decode; all cores by default.
        commit_seconds : float

        Returns
        -------
        Added

        Raises
        ------
        ValueError
            If a source is not there, or another process is changing the library.
        """
        sources = [sources] if isinstance(sources, (str, os.PathLike)) or hasattr(sources, "column_names") else sources
        with self.store.lock():
            self.refresh()
            shards = {one: embedding_shards(one) for one in sources if isinstance(one, (str, os.PathLike))}
            imported, passed_over = self._import([file for files in shards.values() for file in files], progress)
            options = {"folder_labels": folder_labels, "config": config, "split": split}
            others = [one for one in sources if not (isinstance(one, (str, os.PathLike)) and shards[one])]
            todo, unchanged = self._changed(list_sources(others, **options), retry)
            problems = self._embed(todo, progress, threads, commit_seconds) if todo else {}
            self._tidy()
        return Added(imported + len(todo) - len(problems), passed_over + unchanged, problems)

    def _changed(self, sources, retry):
        """Sources that are new or have changed, and the number of others."""
        state = self._state
        columns = [state.sounds[name].to_pylist() for name in ("path", "size", "changed_ns", "problem")]
        seen = {
            path: (size, changed)
            for path, size, changed, problem, known in zip(*columns, state.known.tolist(), strict=True)
            if known and not (retry and problem)
        }
        todo = [source for source in sources if seen.get(source.path) != (source.size, source.changed_ns)]
        return todo, len(sources) - len(todo)

    def _embed(self, todo, progress, threads, commit_seconds):
        """Embed sources and commit them as they come; problems by path."""
        pending, problems, kept_at = [], {}, time.monotonic()
        bar = tqdm(total=len(todo), disable=not progress, unit="sound", desc="Indexing", smoothing=0.05)
        try:
            for one in embed_sounds(self.encoder, todo, self._state.manifest["hop_seconds"], threads=threads):
                pending.append(one)
                if one.problem is not None:
                    problems[one.source.path] = one.problem
                bar.update()
                if time.monotonic() - kept_at > commit_seconds:
                    pending, kept_at = self._commit(pending), time.monotonic()
                    self._fold_if(FOLD_AT_ONCE)
        finally:  # also where it was interrupted: nothing that was done is lost
            bar.close()
            self._commit(pending)
        return problems

    def _commit(self, embedded, removed=()):
        """Make embedded sounds part of the library, and forget others; returns an empty list."""
        if embedded or removed:
            manifest, name = self._state.manifest, self.store.new_name("recent", ".parquet")
            write_shard(self.store.folder / name, embedded, self.identity, manifest["hop_seconds"], removed=removed)
            next_window = manifest["next_window"] + sum(len(one.windows) for one in embedded)
            self.store.commit({**manifest, "recent": [*manifest["recent"], name], "next_window": next_window})
            self.refresh()
        return []

    def _import(self, shards, progress):
        """Take in shards that recipes/embed.py wrote; the numbers of sounds taken in and passed over."""
        counts = [0, 0]
        for file in tqdm(shards, disable=not (progress and shards), unit="shard", desc="Importing"):
            shard, manifest = read_shard(file), self._state.manifest
            if shard.identity.get("fingerprint") != self.identity["fingerprint"]:
                raise ValueError(
                    f"'{file}' was embedded with another encoder ({shard.identity.get('source')}) than "
                    f"'{self.store.folder}' ({self.identity['source']}): their embeddings can't be compared."
                )
            if abs(shard.hop_seconds - manifest["hop_seconds"]) > 1e-9:
                raise ValueError(
                    f"'{file}' has a window every {shard.hop_seconds} s, '{self.store.folder}' one every "
                    f"{manifest['hop_seconds']} s: embed the sounds again with that --hop_seconds."
                )
            sounds = shard.sounds.to_pylist()
            parts = np.split(shard.vectors, np.cumsum([sound["n_windows"] for sound in sounds])[:-1])
            sources = [Source(s["path"], None, s["label"], s["size"], s["changed_ns"]) for s in sounds]
            todo = set(self._changed(sources, retry=False)[0])
            self._commit(
                [
                    Embedded(source, vectors, sound["seconds"], sound["content"], sound["problem"])
                    for source, vectors, sound in zip(sources, parts, sounds, strict=True)
                    if source in todo
                ]
            )
            self._fold_if(FOLD_AT_ONCE)
            counts[0] += len(todo)
            counts[1] += len(sounds) - len(todo)
        return counts

    def remove(self, paths):
        """Forget sounds.

        Arguments
        ---------
        paths : str or Path, or a list of them
            Files, folders (with all below them), or patterns with wildcards.

        Returns
        -------
        int
            How many sounds were forgotten.

        Raises
        ------
        ValueError
            If a path is of no sound of the library, or another process is changing it.
        """
        paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        with self.store.lock():
            self.refresh()
            known = self._paths()
            gone = set()
            for given in map(os.fspath, paths):
                name = os.path.realpath(os.path.expanduser(given))
                hit = {path for path in known if path in (given, name) or path.startswith(name + os.sep)}
                if not hit and any(sign in given for sign in "*?["):
                    hit = set(fnmatch.filter(known, given)) | set(fnmatch.filter(known, name))
                if not hit:
                    raise ValueError(f"'{given}' is neither a sound of '{self.store.folder}' nor a folder of some.")
                gone |= hit
            self._commit([], sorted(gone))
            self._tidy()
        return len(gone)

    def prune(self):
        """Forget sounds whose files are gone from the disk; returns their paths.

        A disk that is not mounted looks like that, too.
        """
        with self.store.lock():
            self.refresh()
            gone = sorted(path for path in self._paths() if "#" not in path and not os.path.exists(path))
            self._commit([], gone)
            self._tidy()
        return gone

    def save(self):
        """Put everything into one index, for the quickest search; sounds are safe without."""
        with self.store.lock():
            self.refresh()
            self._fold()

    def _paths(self):
        """Paths of all known sounds, unreadable ones too."""
        return self._state.sounds["path"].filter(pa.array(self._state.known)).to_pylist()

    def _tidy(self):
        """Put everything into the index where searching what is beside it, or has left it, would be felt."""
        _, gone, in_index = self._state.sizes()
        if len(self._state.manifest["recent"]) > MANY_FILES or gone > in_index / 10:
            self._fold()
        self._fold_if(FEW if in_index < SLACK else SLACK)

    def _fold_if(self, most):
        """Put everything into the index where more windows than that, and a good part of all, are beside it."""
        beside, _, in_index = self._state.sizes()
        if beside > max(most, in_index / 4 if most > SLACK else 0):
            self._fold()

    def _fold(self):
        """Take recent windows into the index, and out of it those that no sound has any more."""
        state, store = self._state, self.store
        if not state.manifest["recent"]:
            return
        in_index = state.firsts < state.first_recent
        index, ids = state.index, np.zeros(0, np.int64)
        vectors = np.zeros((0, state.manifest["dimensions"]), np.float32)
        if state.vectors is not None:
            ids = state.windows_of(np.flatnonzero(state.known & ~in_index))
            vectors = state.vectors[ids - state.first_recent]
        if index is not None:
            index.remove(state.windows_of(np.flatnonzero(~state.known & in_index)))
        if index is None or isinstance(index, ExactIndex):
            if index is not None:
                ids, vectors = np.concatenate([index.ids, ids]), np.concatenate([index.vectors, vectors])
            index = build_index(vectors, ids) if len(ids) else None
        elif len(ids):
            index.add(vectors, ids)
        catalogue, name = state.sounds.filter(pa.array(state.known)), None
        if index is not None and len(index):
            name = store.new_name("index")
            index.save(store.folder / name)
        file = store.write_catalogue(catalogue)
        store.commit({**state.manifest, "catalogue": file, "index": name, "recent": []})
        self.refresh()


def embedding_shards(folder):
    """Shards that recipes/embed.py left in a folder, or a shard itself; an empty list where there are none."""
    folder = os.path.expanduser(folder)
    if os.path.isdir(folder):
        files = sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".parquet"))
    else:
        files = [folder] if os.fspath(folder).endswith(".parquet") and os.path.isfile(folder) else []
    return [file for file in files if read_facts(file) is not None]
