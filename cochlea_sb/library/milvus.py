"""A copy of a library in Milvus, which can search on many machines. Needs the extra ``milvus``.

    library.export(milvus="copy.db")
    SoundLibrary.open("sounds.library", milvus="copy.db").search("dog.wav")

A collection holds a row for each window; the columns are those of `MilvusCopy.create`. One more row, whose id is
`MARK`, tells in its column ``path`` which encoder made the vectors, and which state of the library the rows equal. The
state is missing while an export writes. Axes: n windows, D embedding dimensions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cochlea_sb.errors import MissingExtra, UserError, one_line
from cochlea_sb.library.export import check_folder_of
from cochlea_sb.library.state import Passed, State, state_of
from cochlea_sb.machine import progress_bar

if TYPE_CHECKING:
    from pymilvus import MilvusClient

MARK = -1
MOST_ROWS = 16_384  # that Milvus returns at once
COMPARED_AT_ONCE = MOST_ROWS
WRITTEN_AT_ONCE = 1_024  # rows; with the longest texts and D = 2048, 40 MB; Milvus takes 64 MB
LONGEST_TEXT = 16_384  # bytes; 4 times the longest path of Linux, because a library escapes a byte by 4 characters
NUMBERS_IN_A_FILTER = 50_000
TIMEOUT_SECONDS = 10.0  # for the first answer of a cluster
FACTS = ("path", "label", "seconds", "size", "content", "n_windows", "first_window")


class MilvusCopy:
    """A collection of Milvus that is a copy of a library.

    Arguments
    ---------
    folder : str or Path, the library
    uri : str
        A file of Milvus Lite (``copy.db``), or the address of a cluster (``http://host:19530``). The environment
        variable ``MILVUS_TOKEN`` may hold the token of a cluster.
    collection : str, optional, by default the name of the library's folder
    new : bool, whether a file of Milvus Lite may be missing, and is then made

    Raises
    ------
    MissingExtra
        If pymilvus or milvus-lite is not installed.
    UserError
        If Milvus can't be reached.
    """

    def __init__(
        self, folder: str | os.PathLike[str], uri: str, collection: str | None = None, *, new: bool = False
    ) -> None:
        if not isinstance(uri, str) or not uri:
            raise UserError(
                f"milvus is {uri!r}: expected a file such as copy.db, or an address such as http://host:19530."
            )
        self.folder, self.uri = Path(folder), uri if "://" in uri else os.path.expanduser(uri)
        self.collection = default_collection(self.folder) if collection is None else collection
        if not re.fullmatch(r"[A-Za-z_]\w{0,254}", self.collection, re.ASCII):
            raise UserError(f"The collection is '{self.collection}': expected letters, digits and underscores.")
        self._checked: State | None = None
        self.client = self._connect(new)

    @property
    def command(self) -> str:
        """str: the command that makes or renews the copy."""
        collection = f" --collection {self.collection}" * (self.collection != default_collection(self.folder))
        return f"`cochlea export {self.folder} --milvus {self.uri}{collection}`"

    def _connect(self, new: bool) -> MilvusClient:
        is_file = "://" not in self.uri
        if is_file and not self.uri.endswith(".db"):
            raise UserError(
                f"milvus is '{self.uri}': expected a file NAME.db, or an address such as http://host:19530."
            )
        try:
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException
        except ImportError as error:
            raise MissingExtra("A copy in Milvus", "pymilvus", "milvus") from error
        if is_file:
            try:
                import milvus_lite  # noqa: F401
            except ImportError as error:
                raise MissingExtra("A copy in a file", "milvus-lite", "milvus") from error
            if new:
                check_folder_of(Path(self.uri))
            elif not os.path.exists(self.uri):
                raise UserError(f"'{self.uri}' does not exist: make it with {self.command}.")
        with quiet():
            try:
                return MilvusClient(self.uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=TIMEOUT_SECONDS)
            except MilvusException as error:
                hint = (
                    "end the other process that uses it, or name a new file"
                    if is_file
                    else "check the address and MILVUS_TOKEN"
                )
                raise UserError(
                    f"Milvus at '{self.uri}' can't be opened ({one_line(error.message)}): {hint}."
                ) from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the errors of Milvus in the block into a UserError."""
        from pymilvus.exceptions import MilvusException

        with quiet():
            try:
                yield
            except MilvusException as error:
                raise UserError(
                    f"Milvus at '{self.uri}' fails ({one_line(error.message)}): mend that, and run this again."
                ) from error

    def create(self, dimensions: int) -> bool:
        """Create and load the collection, unless it exists. Returns whether it is new.

        Raises a UserError if the collection has other columns.
        """
        from pymilvus import DataType

        text = {"max_length": LONGEST_TEXT}
        columns: dict[str, tuple[Any, dict[str, Any]]] = {
            "id": (DataType.INT64, {"is_primary": True}),  # number of the window
            "vector": (DataType.FLOAT_VECTOR, {"dim": dimensions}),
            "path": (DataType.VARCHAR, text),
            "label": (DataType.VARCHAR, {**text, "nullable": True}),
            "start_seconds": (DataType.DOUBLE, {}),
            "end_seconds": (DataType.DOUBLE, {}),
            "seconds": (DataType.DOUBLE, {}),  # duration of the sound
            "record": (DataType.INT64, {}),  # `record` of the sound
        }
        with self._told():
            if self.client.has_collection(self.collection):
                fields = self.client.describe_collection(self.collection)["fields"]
                found = {field["name"]: field.get("params", {}).get("dim") for field in fields}
                if {name: size and int(size) for name, size in found.items()} != {
                    name: options.get("dim") for name, (_, options) in columns.items()
                }:
                    raise UserError(
                        f"The collection '{self.collection}' in '{self.uri}' is no copy of a library with "
                        f"{dimensions} dimensions: choose another collection."
                    )
                self.client.load_collection(self.collection)
                return False
            schema = self.client.create_schema()
            for name, (kind, options) in columns.items():
                schema.add_field(name, kind, **options)
            index = self.client.prepare_index_params()
            index.add_index("vector", index_type="FLAT", metric_type="IP")
            self.client.create_collection(self.collection, schema=schema, index_params=index)
            return True

    def mark(self) -> dict[str, Any]:
        """Read which library the collection copies: ``fingerprint`` and ``state``, each of which may be missing."""
        with self._told():
            rows = self.client.query(self.collection, ids=[MARK], output_fields=["path"], consistency_level="Strong")
        try:
            mark = json.loads(rows[0]["path"]) if rows else {}
        except ValueError:
            mark = None
        return mark if isinstance(mark, dict) else {}

    def follow(self, state: State, progress: bool = True) -> int:
        """Make the collection equal to a library, and return its number of windows. Rows that are equal are kept.

        The mark is written last. After an interruption, the next call continues.

        Raises
        ------
        UserError
            If the collection belongs to another encoder or is none of this class, if a path or label is longer than
            `LONGEST_TEXT`, or if Milvus fails.
        """
        rows = state.with_windows[state.readable[state.with_windows]]
        for name in ("path", "label"):
            for text in state.sounds[name].take(rows).to_pylist():
                if text is not None and len(text.encode()) > LONGEST_TEXT:
                    raise UserError(
                        f"The {name} '{text[:40]}...' has more than {LONGEST_TEXT:,} bytes, which Milvus can't hold: "
                        "shorten it."
                    )
        new, total = self.create(state.manifest["dimensions"]), int(state.counts[rows].sum())
        whole = {"fingerprint": state.manifest["encoder"]["fingerprint"], "state": state_of(state)}
        mark = {} if new else self.mark()
        self._check_encoder(mark, state)
        if mark == whole:
            return total
        self._write_mark(state, whole | {"state": None})
        firsts, ends = state.firsts[rows], state.firsts[rows] + state.counts[rows]
        with progress_bar(total=total, show=progress, unit="window", desc="Copying") as bar:
            for start in range(0, state.manifest["next_window"], COMPARED_AT_ONCE):
                stop = start + COMPARED_AT_ONCE
                numbers = state.windows_of(rows[(firsts < stop) & (ends > start)])
                self._follow_block(state, start, stop, numbers[(numbers >= start) & (numbers < stop)], new, bar)
        with self._told():
            if not new:
                self.client.delete(self.collection, filter=f"id >= {state.manifest['next_window']}")
            self.client.flush(self.collection)  # Milvus Lite searches rows that are not flushed 20 times slower
        self._write_mark(state, whole)
        return total

    def _follow_block(self, state: State, start: int, stop: int, numbers: np.ndarray, new: bool, bar: Any) -> None:
        """Make the rows with ids from ``start`` to ``stop`` equal to the windows ``numbers`` (ascending)."""
        places = state.rows_of(numbers)
        own, inverse = np.unique(places, return_inverse=True)
        facts = state.sounds.take(own).to_pylist()
        records = np.array([record(state, sound) for sound in facts], np.int64)[inverse]  # [n]
        there: dict[int, int] = {}
        if not new:
            with self._told():
                found = self.client.query(
                    self.collection,
                    filter=f"id >= {start} and id < {stop}",
                    output_fields=["id", "record"],
                    limit=MOST_ROWS,
                    consistency_level="Strong",
                )
            there = {row["id"]: row["record"] for row in found}
        gone = sorted(there.keys() - set(numbers.tolist()))
        if gone:
            with self._told():
                self.client.delete(self.collection, ids=gone)
        pairs = zip(numbers.tolist(), records.tolist(), strict=True)
        unequal = np.flatnonzero([there.get(number) != own for number, own in pairs])
        bar.update(len(numbers) - len(unequal))
        for first in range(0, len(unequal), WRITTEN_AT_ONCE):
            part = unequal[first : first + WRITTEN_AT_ONCE]
            sounds = [facts[place] for place in inverse[part].tolist()]
            rows = rows_of(state, numbers[part], sounds, records[part].tolist())
            write = self.client.insert if there.keys().isdisjoint(numbers[part].tolist()) else self.client.upsert
            with self._told():
                write(self.collection, rows)
            bar.update(len(rows))

    def _write_mark(self, state: State, mark: dict[str, Any]) -> None:
        vector = [1.0] + [0.0] * (state.manifest["dimensions"] - 1)
        row: dict[str, Any] = {"id": MARK, "vector": vector, "path": json.dumps(mark), "label": None, "record": 0}
        with self._told():
            self.client.upsert(self.collection, row | dict.fromkeys(("start_seconds", "end_seconds", "seconds"), 0.0))

    def _check_encoder(self, mark: dict[str, Any], state: State) -> None:
        own = state.manifest["encoder"]["fingerprint"]
        if mark.get("fingerprint", own) != own:
            raise UserError(
                f"The collection '{self.collection}' in '{self.uri}' belongs to another encoder (fingerprint "
                f"{str(mark['fingerprint'])[:12]}) than '{self.folder}' ({own[:12]}): choose another collection."
            )

    def check(self, state: State) -> None:
        """Raise a UserError if the collection is not a complete copy of this state of the library."""
        with self._told():
            exists = self.client.has_collection(self.collection)
        if not exists:
            raise UserError(f"'{self.uri}' holds no collection '{self.collection}': make it with {self.command}.")
        self.create(state.manifest["dimensions"])
        mark = self.mark()
        self._check_encoder(mark, state)
        if mark.get("state") is None:
            raise UserError(f"The copy in '{self.uri}' is not complete: run {self.command} again.")
        if mark["state"] != state_of(state):
            raise UserError(f"The copy in '{self.uri}' does not equal the library any more: run {self.command}.")
        self._checked = state

    def nearest(
        self, state: State, query: np.ndarray, n: int, effort: float | None = None, passed: Passed | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the n nearest windows, as `State.nearest` does. The index of Milvus is exact at every effort.

        Raises a UserError if the copy is not one of ``state``, or if n is too large for Milvus.
        """
        if self._checked is not state:
            self.check(state)
        if not len(state.with_windows):
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        if n >= MOST_ROWS:
            raise UserError(
                f"Milvus finds at most {MOST_ROWS:,} windows at once, which are too few for this search: ask for fewer "
                "matches, or search without milvus."
            )
        if passed is None:
            filters, limit = [""], n + 1  # one of the rows may be the mark
        else:
            allowed = passed.windows
            parts = [allowed[i : i + NUMBERS_IN_A_FILTER] for i in range(0, len(allowed), NUMBERS_IN_A_FILTER)]
            filters, limit = [f"id in {part.tolist()}" for part in parts], n
        hits: list[Any] = []
        for text in filters:
            with self._told():
                hits += self.client.search(
                    self.collection, [query.tolist()], filter=text, limit=limit, output_fields=["record"]
                )[0]
        hits = [hit for hit in hits if hit["id"] != MARK]
        windows = np.array([hit["id"] for hit in hits], np.int64)
        self._check_hits(state, windows, [hit["entity"]["record"] for hit in hits])
        scores = np.array([hit["distance"] for hit in hits], np.float32)
        order = np.lexsort((windows, -scores))[:n]
        return scores[order], windows[order]

    def _check_hits(self, state: State, windows: np.ndarray, records: list[int]) -> None:
        """Raise a UserError if another process has changed the copy since `check`."""
        rows, inverse = np.unique(state.rows_of(windows), return_inverse=True)
        own = [record(state, sound) for sound in state.sounds.take(rows).to_pylist()]
        if records != [own[place] for place in inverse.tolist()]:
            raise UserError(f"The copy in '{self.uri}' has changed: open the library again, or run {self.command}.")


def default_collection(folder: Path) -> str:
    """Return the name of a library's folder, as a name of a collection.

    Example
    -------
    >>> default_collection(Path("results/808 kicks.library"))
    '_808_kicks'
    """
    name = re.sub(r"\W", "_", folder.resolve().name.removesuffix(".library"), flags=re.ASCII)[:200]
    return name if name and not name[0].isdigit() else f"_{name}"


def record(state: State, sound: dict[str, Any]) -> int:
    """Return a hash of what decides the windows of a sound, and their numbers: a row of ``state.sounds``."""
    facts = [sound[name] for name in FACTS] + [state.manifest["hop_seconds"], state.manifest["encoder"]["fingerprint"]]
    return int.from_bytes(hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).digest(), "big", signed=True)


def rows_of(
    state: State, numbers: np.ndarray, sounds: list[dict[str, Any]], records: list[int]
) -> list[dict[str, Any]]:
    """Return the rows of windows, given their numbers [n] and for each window its sound and `record`."""
    hop, window = state.manifest["hop_seconds"], state.manifest["window_seconds"]
    rows = []
    for number, vector, sound, own in zip(numbers.tolist(), state.vectors_of(numbers), sounds, records, strict=True):
        start = round((number - sound["first_window"]) * hop, 6)
        end = max(start, round(min(start + window, sound["seconds"]), 6))
        row = {name: sound[name] for name in ("path", "label", "seconds")}
        row |= {"id": number, "vector": vector.tolist(), "start_seconds": start, "end_seconds": end, "record": own}
        rows.append(row)
    return rows


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Milvus from logging errors, which it raises as well."""
    loggers = [logging.getLogger(name) for name in ("grpc", "milvus_lite", "pymilvus")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
