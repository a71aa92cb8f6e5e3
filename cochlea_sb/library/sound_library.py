"""A library of sounds that can be searched by example.

Axes: D embedding dimensions.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cochlea_sb.errors import UserError
from cochlea_sb.library.query import Query, encode_query
from cochlea_sb.library.results import Added, Match
from cochlea_sb.library.state import State
from cochlea_sb.library.store import Store

if TYPE_CHECKING:
    import datasets
    import torch

    from cochlea_sb.inference.audio_encoder import AudioEncoder
    from cochlea_sb.library.writer import Writer


class SoundLibrary:
    """Sounds that can be searched by example, in a folder on disk. Make one with `create` or `open`.

    Any number of processes may search a library while one changes it. An open library shows its state of the last
    `open` or `refresh`. ``len(library)`` is the number of sounds that could be read.

    Example
    -------
    >>> from cochlea_sb import AudioEncoder
    >>> encoder = AudioEncoder.from_hparams(getfixture("model_folder"), run_opts={"device": "cpu"})
    >>> library = SoundLibrary.create(getfixture("tmp_path") / "sounds.library", encoder)
    >>> library.add([getfixture("sound_folder")], progress=False).added
    3
    >>> matches = library.search(getfixture("sound_folder") + "/low.wav", k=2)
    >>> [match.start_seconds < match.end_seconds <= 1.5 for match in matches]
    [True, True]
    """

    def __init__(
        self, store: Store, encoder: AudioEncoder | None = None, run_opts: dict[str, Any] | None = None
    ) -> None:
        self._encoder: AudioEncoder | None = None
        self.store, self._run_opts = store, run_opts
        self.refresh()
        if encoder is not None:
            self._encoder = self._checked(encoder)

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], encoder: AudioEncoder, *, hop_seconds: float = 0.48
    ) -> SoundLibrary:
        """Create a library.

        Arguments
        ---------
        folder : str or Path
            A new or empty folder.
        encoder : AudioEncoder
            Encodes all sounds of the library.
        hop_seconds : float
            Distance between windows, rounded to whole frames (0.01 s).

        Returns
        -------
        SoundLibrary

        Raises
        ------
        UserError
            If the folder is not empty, or the hop is out of range (see `AudioEncoder.hop_frames`).
        OSError
            If the folder can't be written.
        """
        store = Store(folder)
        hop_seconds = encoder.hop_frames(hop_seconds) * encoder.frame_seconds
        facts = {"encoder": encoder.identity(), "dimensions": encoder.embedding_size}
        store.create({**facts, "hop_seconds": hop_seconds, "window_seconds": encoder.window_seconds})
        return cls(store, encoder)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        encoder: AudioEncoder | None = None,
        *,
        run_opts: dict[str, Any] | None = None,
    ) -> SoundLibrary:
        """Open a library.

        Arguments
        ---------
        folder : str or Path
        encoder : AudioEncoder, optional
            The encoder that the library was made with. By default it is loaded from its source when it is needed.
        run_opts : dict, optional
            Options for loading the encoder, such as ``{"device": "cuda"}``.

        Returns
        -------
        SoundLibrary

        Raises
        ------
        UserError
            If the folder holds no library, or a damaged one, or one that was made with another encoder. An encoder that
            is loaded from its source is checked when it is loaded, not here.
        """
        return cls(Store(folder), encoder, run_opts)

    def refresh(self) -> None:
        """Read what other processes have changed.

        Raises
        ------
        UserError
            If the library is gone or damaged.
        """
        self._state = State(*self.store.read())

    def __len__(self) -> int:
        return int(self._state.readable.sum())

    def __repr__(self) -> str:
        return f"SoundLibrary('{self.store.folder}': {len(self)} sounds, {self.n_windows} windows)"

    @property
    def n_windows(self) -> int:
        """int: number of windows that are searched."""
        return int(self._state.counts[self._state.known].sum())

    @property
    def hop_seconds(self) -> float:
        """float: distance between the windows of a sound, in seconds."""
        return float(self._state.manifest["hop_seconds"])

    @property
    def sounds(self) -> pa.Table:
        """pyarrow.Table: one row for each sound that could be read.

        Columns are path, label, seconds, size (of the file, in bytes), content (its hash), n_windows, and more.
        """
        state = self._state
        return state.sounds.filter(pa.array(state.readable))

    @property
    def problems(self) -> dict[str, str]:
        """dict of str: for each sound that could not be read, its path and the reason."""
        state = self._state
        rows = state.sounds.filter(pa.array(state.known & (state.counts == 0)))
        return dict(zip(rows["path"].to_pylist(), rows["problem"].to_pylist(), strict=True))

    @property
    def identity(self) -> dict[str, Any]:
        """dict of str: ``source``, ``revision`` and ``fingerprint`` of the encoder, see `AudioEncoder.identity`."""
        identity: dict[str, Any] = self._state.manifest["encoder"]
        return identity

    @property
    def encoder(self) -> AudioEncoder:
        """AudioEncoder: the encoder that the library was made with, loaded when it is first needed.

        Raises
        ------
        UserError
            If the library names no source of its encoder; if the encoder can't be loaded, or has changed at its source.
        """
        if self._encoder is None:
            from cochlea_sb.inference.audio_encoder import AudioEncoder

            if self.identity["source"] is None:
                raise UserError(f"'{self.store.folder}' names no source of its encoder: open it with the encoder.")
            try:
                # A stranger may have made the library and chosen this model. from_hparams runs no code of the model.
                source, revision = self.identity["source"], self.identity["revision"]
                found = AudioEncoder.from_hparams(source, run_opts=self._run_opts, revision=revision)
            except UserError as error:
                raise UserError(
                    f"The encoder of '{self.store.folder}' can't be loaded: {error} Give the encoder (--model)."
                ) from error
            self._encoder = self._checked(found)
        return self._encoder

    def _checked(self, encoder: AudioEncoder) -> AudioEncoder:
        """Return the encoder, or raise UserError if the library was made with another one."""
        identity = encoder.identity()
        if identity["fingerprint"] != self.identity["fingerprint"]:
            raise UserError(
                f"'{self.store.folder}' was made with another encoder ({self.identity['source']}, fingerprint "
                f"{self.identity['fingerprint'][:12]}) than '{identity['source']}' ({identity['fingerprint'][:12]}): "
                "their embeddings can't be compared. Use that encoder, or index the sounds again into a new library."
            )
        return encoder

    # ------------------------------------------------------------------------------------------------ searching

    def search(
        self,
        query: str | os.PathLike[str] | tuple[Any, ...] | list[Any] | dict[Any, float] | np.ndarray | torch.Tensor,
        k: int = 10,
        *,
        skip: int = 0,
        every_window: bool = False,
        with_query: bool = False,
        path: str | os.PathLike[str] | None = None,
        label: str | None = None,
        effort: float | None = None,
    ) -> list[Match]:
        """Find the sounds that are most similar to a query.

        Arguments
        ---------
        query : str, Path, tuple, np.ndarray, torch.Tensor, dict or list
            A file; a part of a file, ``(file, start_seconds, end_seconds)``; a waveform [samples] in [-1, 1] at the
            encoder's sample rate (16 kHz by default); an embedding [D]; or a mixture of these. A mixture is a dict from
            queries to weights, a list of pairs ``(query, weight)``, or a list of files, which all have weight 1. A
            weight may be negative.
        k : int, at least 1
            Number of matches.
        skip : int, at least 0
            Number of best matches to leave out: ``skip=20`` gives the second page of twenty.
        every_window : bool
            Return all windows that match, instead of the best window of each sound.
        with_query : bool
            Also return the files of the query.
        path : str or Path, optional
            Only sounds whose path contains this text. If it has wildcards (``*/kicks/*.wav``), only sounds whose whole
            path matches it.
        label : str, optional
            Only sounds of this label.
        effort : float in (0, 1], optional
            As in `RandomProjectionIndex.query`; 1 is exact.

        Returns
        -------
        list of Match
            Best first; fewer than ``k`` if there are not so many.

        Raises
        ------
        AudioError
            If a file can't be read, or a part is not inside it.
        UserError
            If the query has none of these forms, is zero or not finite, or a mixture cancels out; if ``path`` or
            ``label`` is no text, or a number is out of range; if the index is damaged; if the query has a sound
            to encode, and the encoder can't be loaded or has changed (see `encoder`).
        """
        for name, number, least in (("k", k, 1), ("skip", skip, 0)):
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
                raise UserError(f"{name} is {number!r}: expected a whole number, at least {least}.")
        is_number = isinstance(effort, (int, float, np.number)) and not isinstance(effort, bool)
        if effort is not None and not (is_number and 0 < effort <= 1):
            raise UserError(f"effort is {effort!r}: expected a number above 0 and at most 1 (exact).")
        encoded = self.encode(query)
        left_out, wanted = set() if with_query else encoded.paths, skip + k
        state = self._state  # another thread may replace it meanwhile
        allowed = None if path is None and label is None else state.windows_of(rows_where(state, path, label))
        n, paths = 2 * wanted + 32, state.sounds["path"]
        while True:
            scores, windows = state.nearest(encoded.vector, n, effort, allowed)
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
        return [match_of(state, rows[i], windows[i], scores[i]) for i in kept[skip:wanted].tolist()]

    def encode(
        self, query: str | os.PathLike[str] | tuple[Any, ...] | list[Any] | dict[Any, float] | np.ndarray | torch.Tensor
    ) -> Query:
        """Encode a query.

        Arguments
        ---------
        query : str, Path, tuple, np.ndarray, torch.Tensor, dict or list
            As in `search`.

        Returns
        -------
        Query
            ``vector``, np.ndarray [D], float32, unit norm; ``paths``, set of str, paths of the files it was made of.

        Raises
        ------
        AudioError, UserError
            As in `search`.
        """
        return encode_query(query, self._state.manifest["dimensions"], lambda: self.encoder)

    # ------------------------------------------------------------------------------------------------- changing

    def add(
        self,
        sources: str | os.PathLike[str] | datasets.Dataset | list[Any] | tuple[Any, ...],
        *,
        folder_labels: bool = False,
        config: str | None = None,
        split: str = "train",
        retry: bool = False,
        progress: bool = True,
        threads: int | None = None,
        commit_seconds: float = 30.0,
    ) -> Added:
        """Add sounds. Sounds that the library has are skipped; sounds that have changed are replaced.

        The work is saved every ``commit_seconds``, and more often at first. After an interruption, the same call
        continues from the last save.

        Arguments
        ---------
        sources : str, Path, datasets.Dataset, or a list of them
            As in `cochlea_sb.data.sounds.list_sources`; also Parquet shards that recipes/embed.py wrote with the same
            encoder.
        folder_labels, config, split :
            As in `cochlea_sb.data.sounds.load_sounds`.
        retry : bool
            Try again to read sounds that could not be read before.
        progress : bool
            Show a progress bar.
        threads : int, at least 1, optional
            Number of threads that decode, by default half the cores.
        commit_seconds : float
            Longest time between two saves. An interruption loses at most the work of this time.

        Returns
        -------
        Added

        Raises
        ------
        UserError
            If a source is missing or holds no sounds; if a shard is damaged, or has another encoder or hop; if
            ``threads`` is out of range; if another process is changing the library; if the encoder can't be loaded or
            has changed (see `encoder`).
        OSError
            If the library can't be written.
        """
        given = sources if isinstance(sources, (list, tuple)) else [sources]
        options = {"folder_labels": folder_labels, "config": config, "split": split}
        with self._writer() as writer:
            return writer.add(list(given), options, retry, progress, threads, commit_seconds)

    def remove(self, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> int:
        """Remove sounds from the library. Their files stay on the disk.

        Arguments
        ---------
        paths : str or Path, or a list of them
            Files, folders (with everything in them), or patterns with wildcards.

        Returns
        -------
        int
            Number of removed sounds.

        Raises
        ------
        UserError
            If a path matches no sound of the library, or another process is changing the library.
        OSError
            If the library can't be written.
        """
        given = [paths] if isinstance(paths, (str, os.PathLike)) or not isinstance(paths, Iterable) else list(paths)
        with self._writer() as writer:
            return writer.remove(given)

    def prune(self) -> list[str]:
        """Remove sounds whose files no longer exist. The files of a disk that is not mounted count as gone.

        Returns
        -------
        list of str
            Paths of the removed sounds.

        Raises
        ------
        UserError
            If another process is changing the library.
        OSError
            If the library can't be written.
        """
        with self._writer() as writer:
            return writer.prune()

    def merge(self) -> None:
        """Merge the windows added since the last merge (the delta) into the index, for the fastest search.

        The library also merges by itself, when the delta or removed windows would slow a search.

        Raises
        ------
        UserError
            If another process is changing the library.
        OSError
            If the library can't be written.
        """
        with self._writer() as writer:
            writer.merge()

    @contextmanager
    def _writer(self) -> Iterator[Writer]:
        """Lock the library, and bring it up to date."""
        from cochlea_sb.library.writer import Writer

        with self.store.lock():
            self.refresh()
            writer = Writer(self.store, self._state, lambda: self.encoder)
            try:
                yield writer
            finally:
                self._state = writer.state


def match_of(state: State, row: int, window: int, score: float) -> Match:
    """The `Match` of a window of a sound."""
    path, seconds, label = (state.sounds[name][int(row)].as_py() for name in ("path", "seconds", "label"))
    start = round(int(window - state.firsts[row]) * state.manifest["hop_seconds"], 6)
    end = min(start + state.manifest["window_seconds"], seconds)
    return Match(path, start, max(start, round(end, 6)), float(score), label)


def rows_where(state: State, path: str | os.PathLike[str] | None, label: str | None) -> np.ndarray:
    """Rows of sounds that match a path and a label; None matches all."""
    if not isinstance(label, (str, type(None))) or not isinstance(path, (str, os.PathLike, type(None))):
        raise UserError(f"path is {path!r} and label is {label!r}: expected text, or None for all sounds.")
    passed = state.readable.copy()
    if label is not None:
        passed &= pc.fill_null(pc.equal(state.sounds["label"], label), False).to_numpy()
    if path is not None:
        path = os.fspath(path)
        wild = any(sign in path for sign in "*?[")
        matches = re.compile(fnmatch.translate(path)).match if wild else lambda name: path in name
        passed &= np.array([bool(matches(name)) for name in state.sounds["path"].to_pylist()], bool)
    return np.flatnonzero(passed)
