"""A library of sounds that can be searched by example. D stands for the number of embedding dimensions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cochlea_sb.errors import UserError
from cochlea_sb.library.columns import whole_numbers
from cochlea_sb.library.filters import Filter
from cochlea_sb.library.find import Wanted, find
from cochlea_sb.library.own_encoder import check_encoder, check_own, load_own
from cochlea_sb.library.query import AnyQuery, Query, encode_query, is_number
from cochlea_sb.library.results import Added, Match
from cochlea_sb.library.state import State
from cochlea_sb.library.store import Store
from cochlea_sb.machine import progress_bar

if TYPE_CHECKING:
    import datasets

    from cochlea_sb.inference.encoder import Encoder
    from cochlea_sb.library.duplicates import Duplicate
    from cochlea_sb.library.milvus import MilvusCopy
    from cochlea_sb.library.writer import Writer

COMPARED_ONCE = 100_000  # windows; comparing all of them takes less time than loading compiled code


class SoundLibrary:
    """Embeddings of sounds, in a folder on disk, that can be searched by example. Use `create` or `open` to get one.

    Many processes may search a library while one process changes it. Changes by other processes are seen after
    `refresh`. ``len(library)`` is the number of sounds that could be read. `create`, `add`, `remove`, `prune` and
    `merge` raise a UserError if another process is changing the library, and an OSError if the folder can't be written.

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

    def __init__(self, store: Store, encoder: Encoder | None = None, run_opts: dict[str, Any] | None = None) -> None:
        self.store, self._encoder, self._run_opts = store, encoder, run_opts
        self._copy: MilvusCopy | None = None
        self.refresh()
        if encoder is not None:
            check_encoder(encoder)
            check_own(store.folder, self.identity, encoder)

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], encoder: Encoder, *, hop_seconds: float | None = None
    ) -> SoundLibrary:
        """Create a library. Raises a UserError if the folder is not empty, and the errors of `Encoder.hop_frames`.

        Arguments
        ---------
        folder : str or Path, new or empty
        encoder : AudioEncoder, or any other `Encoder`, for all sounds of the library
        hop_seconds : float, optional, time between the starts of two windows; by default that of the encoder, 0.48 s

        Returns
        -------
        SoundLibrary
        """
        store = Store(folder)
        check_encoder(encoder)
        hop_seconds = encoder.hop_frames(hop_seconds) * encoder.frame_seconds
        facts = {"encoder": encoder.identity(), "dimensions": encoder.embedding_size}
        store.create({**facts, "hop_seconds": hop_seconds, "window_seconds": encoder.window_seconds})
        return cls(store, encoder)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        encoder: Encoder | None = None,
        *,
        run_opts: dict[str, Any] | None = None,
        milvus: str | None = None,
        collection: str | None = None,
        once: bool = False,
    ) -> SoundLibrary:
        """Open a library. Raises a UserError if the library is missing or damaged, or was made with another encoder.

        Raises a UserError, too, if ``milvus`` can't be reached or holds no complete copy of the library as it is now.

        Arguments
        ---------
        folder : str or Path
        encoder : Encoder, optional, the encoder of the library; by default, it is loaded when it is first needed
        run_opts : dict, optional, options for loading the encoder, such as ``{"device": "cuda"}``
        milvus : str, optional, address or file of a copy that `export` made; `search` and `rank` then search the copy
        collection : str, optional, the copy's collection, by default the name of the library's folder
        once : bool, for a single search: up to 100,000 windows are all compared, so that no compiled code is loaded

        Returns
        -------
        SoundLibrary
        """
        library = cls(Store(folder, COMPARED_ONCE if once else 0), encoder, run_opts)
        if milvus is not None:
            from cochlea_sb.library.milvus import MilvusCopy

            library._copy = MilvusCopy(library.store.folder, milvus, collection)
            library._copy.check(library._state)
        return library

    def refresh(self) -> None:
        """Read the changes of other processes; raises a UserError if the library was deleted or is damaged."""
        self._state = State(*self.store.read())

    def __len__(self) -> int:
        return int(self._state.readable.sum())

    def __repr__(self) -> str:
        return f"SoundLibrary('{self.store.folder}': {len(self)} sounds, {self.n_windows} windows)"

    @property
    def n_windows(self) -> int:
        """int: number of windows that a search compares with the query."""
        return int(self._state.counts[self._state.known].sum())

    @property
    def hop_seconds(self) -> float:
        """float: time between the starts of two windows of a sound, in seconds."""
        return float(self._state.manifest["hop_seconds"])

    @property
    def window_seconds(self) -> float:
        """float: length of a window, in seconds."""
        return float(self._state.manifest["window_seconds"])

    @property
    def sounds(self) -> pa.Table:
        """pyarrow.Table: one row for each readable sound: path, label, seconds, size (bytes), content (hash), ..."""
        state = self._state
        return state.sounds.take(whole_numbers(np.flatnonzero(state.readable)))

    @property
    def problems(self) -> dict[str, str]:
        """dict of str: the reason for each sound that could not be read; the keys are paths."""
        state = self._state
        rows = state.sounds.take(whole_numbers(np.flatnonzero(state.known & (state.counts == 0))))
        return dict(zip(rows["path"].to_pylist(), rows["problem"].to_pylist(), strict=True))

    @property
    def identity(self) -> dict[str, Any]:
        """dict of str: `Encoder.identity` of the encoder that the library was made with."""
        return dict(self._state.manifest["encoder"])

    @property
    def encoder(self) -> Encoder:
        """Encoder: the encoder of the library, loaded from its source when a sound is encoded for the first time.

        A model of cochlea_sb is an `AudioEncoder`.

        Raises
        ------
        UserError
            If the library names no source of its encoder, the source holds another encoder or can't be loaded, or
            loading it could run code of its author.
        """
        from cochlea_sb.inference.audio_encoder import AudioEncoder
        from cochlea_sb.inference.sound_encoder import SoundEncoder

        found = self._loaded()
        if isinstance(found, SoundEncoder) and not isinstance(found, AudioEncoder):
            found = self._encoder = AudioEncoder._of(found, self._run_opts)
        return found

    def _loaded(self) -> Encoder:
        """The encoder for the library's own work: `encoder` without the import of SpeechBrain, which takes long."""
        if self._encoder is None:
            self._encoder = load_own(self.store.folder, self.identity, self._run_opts)
        return self._encoder

    def search(
        self,
        query: AnyQuery,
        k: int = 10,
        *,
        skip: int = 0,
        every_window: bool = False,
        with_query: bool = False,
        path: str | os.PathLike[str] | None = None,
        label: str | None = None,
        words: str | None = None,
        min_seconds: float | None = None,
        max_seconds: float | None = None,
        per_folder: int | None = None,
        fold_copies: bool = False,
        effort: float | None = None,
    ) -> list[Match]:
        """Find the sounds that are most similar to a query.

        Arguments
        ---------
        query : str, Path, tuple, Text, np.ndarray, torch.Tensor, dict or list
            A file; a part of a file, ``(file, start_seconds, end_seconds)``; ``Text("rain on a tin roof")``, if the
            encoder takes text; a waveform [samples] in [-1, 1] at the encoder's sample rate (16 kHz by default); an
            embedding [D]; the result of `encode`; or a mixture. A mixture is a dict from queries to weights, a list of
            pairs ``(query, weight)``, or a list of files with weight 1. Weights may be negative.
        k : int, at least 1, number of matches
        skip : int, at least 0, number of best matches to leave out: ``skip=20, k=20`` gives the matches 21 to 40
        every_window : bool, whether to return every matching window of a sound, not only its best window
        with_query : bool, whether the result may hold sounds whose file is in the query
        path : str or Path, optional
            Find only sounds whose path contains this text. A pattern (``*/kicks/*.wav``) must match the full path.
        label : str, optional, to find only sounds with this label
        words : str, optional
            Find only sounds whose path holds all of these words, in capital or small letters. It must not hold a word
            after a minus sign: ``kick -808``.
        min_seconds, max_seconds : float, optional, to find only sounds of this duration
        per_folder : int, at least 1, optional, largest number of matches from one folder
        fold_copies : bool
            Whether to leave out sounds that are almost equal to a better match. `Match.copies` holds their paths.
        effort : float in (0, 1], optional, see `RandomProjectionIndex.query`; 1 is an exact search

        Returns
        -------
        list of Match, best match first, shorter than ``k`` if fewer sounds match

        Raises
        ------
        AudioError
            If a file of the query can't be read, or a part is not inside its file.
        UserError
            If the query has another form, is zero or not finite, or is a mixture whose sum is zero; if it is a text and
            the encoder takes none; if another argument has a wrong type or is out of range; if the index is damaged; if
            `encoder` is needed but can't be loaded.
        """
        wanted = Wanted(k, skip, every_window, per_folder, fold_copies)
        wanted.check()
        if effort is not None and not (is_number(effort) and 0 < effort <= 1):
            raise UserError(f"effort is {effort!r}: expected a number above 0 and at most 1 (exact).")
        encoded = self.encode(query)
        left_out = set() if with_query else encoded.paths
        state = self._state  # another thread may replace self._state during the search
        passed = Filter(path, label, words, min_seconds, max_seconds).passed(state)
        nearest = state.nearest if self._copy is None else partial(self._copy.nearest, state)
        return find(state, partial(nearest, encoded.vector, effort=effort, passed=passed), wanted, left_out)

    def duplicates(self, progress: bool = True) -> list[list[Duplicate]]:
        """Find groups of files that hold the same sound in another format, level, lead-in or length.

        Raises a UserError if the index is damaged. Nothing is changed. Only files are compared, not sounds of datasets.

        Arguments
        ---------
        progress : bool, whether to show a progress bar

        Returns
        -------
        list of list of Duplicate, the largest group first
        """
        from cochlea_sb.library.duplicates import find_duplicates

        return find_duplicates(self._state, partial(progress_bar, show=progress, unit="sound", desc="Comparing"))

    def rank(
        self,
        yes: Iterable[str | os.PathLike[str]],
        no: Iterable[str | os.PathLike[str]] = (),
        k: int = 10,
        *,
        doubtful: bool = False,
        **options: Any,
    ) -> list[Match]:
        """Find the sounds that a listener probably wants, from sounds that were marked with yes and no.

        Arguments
        ---------
        yes, no : list of str or Path, sounds of the library; at least one yes
        k : int, at least 1, number of matches
        doubtful : bool, whether to return instead the sounds about which the ranking is least certain, to mark next
        options : keyword arguments of `search`: ``skip``, the filters, ``per_folder`` and ``fold_copies``

        Returns
        -------
        list of Match, without the marked sounds; ``score`` is the probability of yes

        Raises
        ------
        UserError : if a sound is not in the library, if no sound is marked with yes, or as in `search`
        """
        from cochlea_sb.library.rank import Ranking

        ranking = Ranking(self, yes, no)
        return ranking.doubtful(k) if doubtful else ranking.matches(k, **options)

    def export(
        self,
        file: str | os.PathLike[str] | None = None,
        progress: bool = True,
        *,
        milvus: str | None = None,
        collection: str | None = None,
    ) -> int:
        """Write the windows and their embeddings to ``file``, for other programs, or to ``milvus``, or to both.

        Arguments
        ---------
        file : str or Path, optional
            ``NAME.parquet``: columns ``path``, ``label``, ``start_seconds``, ``end_seconds``, ``embedding``.
            ``NAME.npy``: the embeddings [windows, D]; the other columns are in ``NAME.csv``.
        progress : bool, whether to show a progress bar
        milvus : str, optional, address of a Milvus cluster, or a file ``NAME.db``; an older copy there is renewed
        collection : str, optional, collection of Milvus, by default the name of the library's folder

        Returns
        -------
        int: number of windows

        Raises
        ------
        UserError : if no target, another suffix or a missing folder is given, if Milvus fails, if the index is damaged
        """
        from cochlea_sb.library.export import export_library

        return export_library(self._state, self.store.folder, file, milvus, collection, progress)

    def encode(self, query: AnyQuery) -> Query:
        """Encode a query. The forms of a query and the errors are the same as in `search`.

        Arguments
        ---------
        query : str, Path, tuple, Text, np.ndarray, torch.Tensor, dict or list

        Returns
        -------
        Query: ``vector`` (np.ndarray [D], float32, unit norm) and ``paths`` (set of str, the files of the query)
        """
        return encode_query(query, self._state.manifest["dimensions"], self._loaded)

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
        """Add sounds. Sounds that are already in the library are skipped, or replaced if their file has changed.

        If a file was moved, the sound with the new path replaces the sound with the old path.
        After an interruption, the same call continues from the last save. Raises a UserError if a source is missing or
        holds no sounds, if a shard is damaged or was made with another encoder or another hop, if ``threads`` is out of
        range, or if `encoder` can't be loaded.

        Arguments
        ---------
        sources : str, Path, datasets.Dataset, or a list of them, as in `cochlea_sb.data.sounds.list_sources`
            A source may also be a Parquet shard, or a folder of shards, that recipes/embed.py wrote.
        folder_labels, config, split : as in `cochlea_sb.data.sounds.load_sounds`
        retry : bool, whether to try again to read sounds that an earlier call could not read
        progress : bool, whether to show a progress bar
        threads : int, at least 1, optional, number of threads that decode, by default half of the cores
        commit_seconds : float, longest time between two saves; a crash loses the work since the last save

        Returns
        -------
        Added
        """
        given = sources if isinstance(sources, (list, tuple)) else [sources]
        options = {"folder_labels": folder_labels, "config": config, "split": split}
        with self._writer() as writer:
            return writer.add(list(given), options, retry, progress, threads, commit_seconds)

    def remove(self, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> int:
        """Remove sounds from the library, not their files. Raises a UserError if a path matches no sound.

        Arguments
        ---------
        paths : str or Path, or a list of them: files, folders (for all sounds below them), or patterns with wildcards

        Returns
        -------
        int, number of removed sounds
        """
        given = [paths] if isinstance(paths, (str, os.PathLike)) or not isinstance(paths, Iterable) else list(paths)
        with self._writer() as writer:
            return writer.remove(given)

    def prune(self, whole_folders: bool = False) -> list[str]:
        """Remove sounds whose files no longer exist, and `problems` of files that no longer exist.

        Arguments
        ---------
        whole_folders : bool
            Whether to also remove sounds whose whole folder is missing. Perhaps its drive is just disconnected.

        Returns
        -------
        list of str, paths of the removed sounds

        Raises
        ------
        UserError
            If a whole folder is missing and ``whole_folders`` is False. Nothing is removed then.
        """
        with self._writer() as writer:
            return writer.prune(whole_folders)

    def merge(self) -> None:
        """Merge the delta (the windows added since the last merge) into the index, so that later searches are faster.

        `add`, `remove` and `prune` also merge when the delta or removed windows would slow a search.
        """
        with self._writer() as writer:
            writer.merge()

    @contextmanager
    def _writer(self) -> Iterator[Writer]:
        """Lock and refresh the library, and keep the new state after the block."""
        from cochlea_sb.library.writer import Writer

        with self.store.lock():
            self.refresh()
            writer = Writer(self.store, self._state, self._loaded)
            try:
                yield writer
            finally:
                self._state = writer.state
