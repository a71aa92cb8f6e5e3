"""Search a collection of sounds by example: what is indexed, and from where, survives whatever happens to the process.

Axes: W windows, D embedding dimensions.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cochlea_sb.errors import UserError
from cochlea_sb.library.query import Example, embed_example
from cochlea_sb.library.state import State
from cochlea_sb.library.store import Store

if TYPE_CHECKING:
    import datasets
    import torch

    from cochlea_sb.inference.audio_encoder import AudioEncoder
    from cochlea_sb.library.writer import Writer


class Match(NamedTuple):
    """A stretch of a sound that is like what was sought.

    path : str, of a file, absolute; or the name of a dataset's row
    start_seconds, end_seconds : float
    score : float, cosine
    label : str, or None where it has none
    """

    path: str
    start_seconds: float
    end_seconds: float
    score: float
    label: str | None = None


class Added(NamedTuple):
    """What `SoundLibrary.add` did.

    added : int, sounds: new ones and those that had changed
    unchanged : int, sounds that were passed over
    problems : dict of str, reason by path, of sounds that could not be read this time
    """

    added: int
    unchanged: int
    problems: dict[str, str]


class SoundLibrary:
    """Sounds that can be searched by example: a folder on disk. Make one with `create`, or `open` it.

    Any number of processes may search a library, and one may change it meanwhile. What is open shows the library as
    it was when it was opened, until `refresh`. ``len(library)`` is the number of sounds that could be read.

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
        """Begin a library.

        Arguments
        ---------
        folder : str or Path
            A folder that is not there yet, or empty.
        encoder : AudioEncoder
            Makes the embeddings of all its sounds.
        hop_seconds : float
            Distance between the windows that are embedded, rounded to whole frames (0.01 s).

        Returns
        -------
        SoundLibrary

        Raises
        ------
        UserError
            If something is there already, or the hop is out of range: see `AudioEncoder.hop_frames`.
        OSError
            If it can't be written.
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
            The one it was made with; by default it is loaded from where it was then, when it is needed.
        run_opts : dict, optional
            For the encoder that is loaded, such as ``{"device": "cuda"}``.

        Returns
        -------
        SoundLibrary

        Raises
        ------
        UserError
            If there is no library, it is damaged, or it was made with another encoder. One that must be loaded is
            compared, and may fail, at its first use.
        """
        return cls(Store(folder), encoder, run_opts)

    def refresh(self) -> None:
        """See what others have changed since the library was opened.

        Raises
        ------
        UserError
            If it is there no longer, or damaged.
        """
        self._state = State(*self.store.read())

    def __len__(self) -> int:
        return int(self._state.readable.sum())

    def __repr__(self) -> str:
        return f"SoundLibrary('{self.store.folder}': {len(self)} sounds, {self.n_windows} windows)"

    @property
    def n_windows(self) -> int:
        """int: windows that are searched."""
        return int(self._state.counts[self._state.known].sum())

    @property
    def hop_seconds(self) -> float:
        """float: distance between the windows of a sound, in seconds."""
        return float(self._state.manifest["hop_seconds"])

    @property
    def sounds(self) -> pa.Table:
        """pyarrow.Table: what is known of each sound that could be read.

        A row has its path, label, seconds, size (of the file, in bytes), content (a hash), n_windows, and more.
        """
        state = self._state
        return state.sounds.filter(pa.array(state.readable))

    @property
    def problems(self) -> dict[str, str]:
        """dict of str: of each sound that could not be read, the reason by its path."""
        state = self._state
        rows = state.sounds.filter(pa.array(state.known & (state.counts == 0)))
        return dict(zip(rows["path"].to_pylist(), rows["problem"].to_pylist(), strict=True))

    @property
    def identity(self) -> dict[str, Any]:
        """dict of str: ``source``, ``revision`` and ``fingerprint`` of the encoder: see `AudioEncoder.identity`."""
        identity: dict[str, Any] = self._state.manifest["encoder"]
        return identity

    @property
    def encoder(self) -> AudioEncoder:
        """AudioEncoder: the one the library was made with; loaded when it is first needed.

        Raises
        ------
        UserError
            If the library does not say where it is, it can't be loaded, or another is there now.
        """
        if self._encoder is None:
            from cochlea_sb.inference.audio_encoder import AudioEncoder

            if self.identity["source"] is None:
                raise UserError(f"'{self.store.folder}' does not say where its encoder is: open it with the encoder.")
            try:
                # Whoever made the library chose this model, not whoever opens it: from_hparams trusts neither.
                found = AudioEncoder.from_hparams(
                    self.identity["source"], run_opts=self._run_opts, revision=self.identity["revision"]
                )
            except UserError as error:
                raise UserError(
                    f"The encoder of '{self.store.folder}' can't be loaded: {error} Give the encoder (--model)."
                ) from error
            self._encoder = self._checked(found)
        return self._encoder

    def _checked(self, encoder: AudioEncoder) -> AudioEncoder:
        """An encoder, if it is the library's."""
        identity = encoder.identity()
        if identity["fingerprint"] != self.identity["fingerprint"]:
            raise UserError(
                f"'{self.store.folder}' was made with another encoder ({self.identity['source']}, fingerprint "
                f"{self.identity['fingerprint'][:12]}) than '{identity['source']}' ({identity['fingerprint'][:12]}): "
                "their embeddings can't be compared; take that one, or index the sounds again into a new library."
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
        """The sounds that are most like an example.

        Arguments
        ---------
        query : str, Path, tuple, np.ndarray, torch.Tensor, dict or list
            A file; ``(file, start_seconds, end_seconds)``, a stretch of it; a waveform [samples] in [-1, 1] at the
            encoder's sample rate (16 kHz by default); an embedding [D]; or a mixture: a dict, or a list of pairs, of
            such examples and their weights, which may be negative; or a list of files, which weigh the same.
        k : int, at least 1
            How many matches.
        skip : int, at least 0
            How many to leave out first: ``skip=20`` gives the second page of twenty.
        every_window : bool
            Matches are windows; by default they are sounds, each by its best window.
        with_query : bool
            Find the files of the query, too.
        path : str or Path, optional
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
            If an example can't be read, or a stretch is not inside it.
        UserError
            If the query is none of these, is zero or not finite, or a mixture cancels out; if ``path`` or ``label`` is
            no text, or a number is out of range; or as `encoder` does, where there is something to encode.
        """
        for name, number, least in (("k", k, 1), ("skip", skip, 0)):
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
                raise UserError(f"{name} is {number!r}: expected a whole number, at least {least}.")
        if effort is not None and not (isinstance(effort, (int, float, np.number)) and 0 < effort <= 1):
            raise UserError(f"effort is {effort!r}: expected a number above 0 and at most 1 (exact).")
        example = self.embed(query)
        left_out, wanted = set() if with_query else example.paths, skip + k
        state = self._state  # one and the same, whatever other threads do meanwhile
        allowed = None if path is None and label is None else state.windows_of(rows_where(state, path, label))
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
        return [match_of(state, rows[i], windows[i], scores[i]) for i in kept[skip:wanted].tolist()]

    def embed(
        self, query: str | os.PathLike[str] | tuple[Any, ...] | list[Any] | dict[Any, float] | np.ndarray | torch.Tensor
    ) -> Example:
        """What a query is searched by.

        Arguments
        ---------
        query : str, Path, tuple, np.ndarray, torch.Tensor, dict or list
            As in `search`.

        Returns
        -------
        Example
            ``vector``, np.ndarray [D], float32, unit norm; ``paths``, set of str, names of the files it was made of.

        Raises
        ------
        AudioError, UserError
            As in `search`.
        """
        return embed_example(query, self._state.manifest["dimensions"], lambda: self.encoder)

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
        """Add sounds. What is there already, unchanged, is passed over; what has changed is replaced.

        The work is kept every ``commit_seconds``, at first more often: killed at any moment, the same call goes on
        from there.

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
        threads : int, at least 1, optional
            That decode; half the cores by default.
        commit_seconds : float
            The most work that may be lost, in seconds.

        Returns
        -------
        Added

        Raises
        ------
        UserError
            If a source is not there, holds no sounds, or is a shard that is damaged, or of another encoder or hop;
            if ``threads`` is out of range; if another process is changing the library; or as `encoder` does.
        OSError
            If it can't be written.
        """
        given = sources if isinstance(sources, (list, tuple)) else [sources]
        options = {"folder_labels": folder_labels, "config": config, "split": split}
        with self._writer() as writer:
            return Added(*writer.add(list(given), options, retry, progress, threads, commit_seconds))

    def remove(self, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> int:
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
        UserError
            If a path is of no sound of the library, or another process is changing it.
        OSError
            If it can't be written.
        """
        given = [paths] if isinstance(paths, (str, os.PathLike)) or not isinstance(paths, Iterable) else list(paths)
        with self._writer() as writer:
            return writer.remove(given)

    def prune(self) -> list[str]:
        """Forget sounds whose files are gone from the disk. A disk that is not mounted looks like that, too.

        Returns
        -------
        list of str
            Their paths.

        Raises
        ------
        UserError
            If another process is changing the library.
        OSError
            If it can't be written.
        """
        with self._writer() as writer:
            return writer.prune()

    def save(self) -> None:
        """Put everything into one index, for the quickest search; sounds are safe without.

        Raises
        ------
        UserError
            If another process is changing the library.
        OSError
            If it can't be written.
        """
        with self._writer() as writer:
            writer.fold()

    @contextmanager
    def _writer(self) -> Iterator[Writer]:
        """Be the only one who changes the library, from its present state on."""
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
    """Rows of known sounds whose path and label are as wanted; None takes all."""
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
