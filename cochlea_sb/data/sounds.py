"""List the sounds of a file, a folder, a table of files, Parquet shards, or a dataset, without decoding them.

`load_sounds` returns a `datasets.Dataset` for training and evaluation. Its column ``audio`` holds a dict of ``bytes``
and ``path``. Optional columns are ``label``, ``source`` (the same for all excerpts of a recording) and ``fold``.
`list_sources` returns the same sounds as a list, for encoding.

The layout of a folder is the layout of the ``audiofolder`` loader of `datasets`. That loader is not used, because it
needs torchcodec and FFmpeg even without decoding, and hides files whose path looks like the name of a split.
"""

import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.fingerprint import Hasher

from cochlea_sb.audio import AUDIO_EXTENSIONS
from cochlea_sb.data import LIBRARY_MANIFEST
from cochlea_sb.data.tables import TABLE_READERS, read_table
from cochlea_sb.errors import UserError, one_line
from cochlea_sb.files import as_named, as_utf8, file_stamp
from cochlea_sb.hub import names_on_hub, why_out_of_reach
from cochlea_sb.machine import is_open

METADATA_FILES = {f"metadata{suffix}" for suffix in TABLE_READERS}
ROW = "dataset:"  # first part of the name of a dataset's row
UNDECODED = datasets.Audio(decode=False)


class Source(NamedTuple):
    """A sound that was not read yet. It has changed if its ``size`` or ``changed_ns`` has changed."""

    path: str  # absolute path of a file, or dataset:name#row
    audio: Any  # for `cochlea_sb.audio.read_audio`, or a `Row`
    label: str | None
    size: int  # bytes; -1 if the file is missing
    changed_ns: int  # modification time of a file; CRC-32 of a row's bytes


class Row(NamedTuple):
    """A row of a dataset, whose audio is read later."""

    sounds: datasets.Dataset
    number: int
    given: str | None = None  # argument of `load_corpus`, which returned ``sounds``

    def fetch(self) -> bytes:
        """Return the contents of the audio file, or no bytes if the row has none."""
        return (self.sounds[self.number]["audio"] or {}).get("bytes") or b""


def load_sounds(
    data_folder: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    *,
    config: str | None = None,
    split: str = "train",
    folder_labels: bool = False,
) -> datasets.Dataset:
    """Load a corpus without decoding it.

    Arguments
    ---------
    data_folder : str or Path, optional
        A folder of audio files, which may hold metadata files (``metadata.csv``, ``.jsonl`` or ``.parquet`` at any
        depth, with a column ``file_name``); a folder of Parquet shards; or a folder that
        `datasets.Dataset.save_to_disk` wrote.
    dataset : str, optional, id of a dataset on the Hugging Face Hub
    config, split : str, configuration and split of the dataset; ignored for a folder of audio files
    folder_labels : bool, whether a file without a label gets the name of its folder as its label

    Returns
    -------
    datasets.Dataset, with undecoded ``audio``; labels and the columns of metadata files are strings

    Raises
    ------
    UserError
        If the folder or the dataset does not exist or holds no audio.

    Example
    -------
    >>> load_sounds("no/such/folder")
    Traceback (most recent call last):
    cochlea_sb.errors.UserError: data_folder is 'no/such/folder', which is not a folder: give the folder ...
    """
    hide_bars_without_stderr()
    if (data_folder is None) == (dataset is None):
        raise UserError("data_folder and dataset are both given or both missing: give one of the two.")
    if data_folder is None:
        return load_from_hub(str(dataset), config, split)
    folder = real_path(data_folder)
    if not folder.is_dir():
        raise UserError(f"data_folder is '{data_folder}', which is not a folder: give the folder of the sounds.")
    return load_folder(folder, split, folder_labels)


def list_sources(
    given: Any, *, folder_labels: bool = False, config: str | None = None, split: str = "train"
) -> list[Source]:
    """Return a list of sounds for encoding, in which each path occurs once.

    Arguments
    ---------
    given : str, Path, datasets.Dataset, or a list of them
        An audio file; a folder, as in `load_sounds`; a table ``.csv``, ``.jsonl`` or ``.parquet`` with a column
        ``file_name`` (and optionally ``label``); the id of a dataset on the Hub.
    folder_labels, config, split : as in `load_sounds`

    Raises
    ------
    UserError
        If ``given`` does not exist or has another type, or if a folder holds no files.
    """
    hide_bars_without_stderr()
    found: dict[str, Source] = {}
    for one in [given] if isinstance(given, (str, os.PathLike, datasets.Dataset)) else given:
        for source in sources_of(one, folder_labels, config, split):
            found.setdefault(source.path, source)
    return list(found.values())


def hide_bars_without_stderr() -> None:
    """Turn off the progress bars of `datasets` if stderr can't be written: they would end with an error."""
    if not is_open(sys.stderr):
        datasets.disable_progress_bars()


def sources_of(given: Any, folder_labels: bool, config: str | None, split: str) -> Iterator[Source]:
    if isinstance(given, datasets.Dataset):
        name = given.info.dataset_name or "rows"
        yield from rows_of(as_sounds(given, name, split), f"{name}-{given._fingerprint[:12]}")
    elif not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise UserError(f"There are no sounds in {given!r}: expected a file, a folder, a table of files, or a dataset.")
    elif not (path := real_path(given)).exists() or path.is_dir() or (path.is_file() and path.suffix in TABLE_READERS):
        given = str(path if path.exists() else given)
        yield from rows_of(*load_corpus(given, folder_labels, config, split), given)
    else:
        yield file_source(path, path.parent.name if folder_labels else None)


def load_corpus(given: str, folder_labels: bool, config: str | None, split: str) -> tuple[datasets.Dataset, str]:
    """Load a folder, a table of files or a dataset of the Hub. Returns the sounds and the name for rows without a file.

    Another machine that reaches the same folder or the Hub gets the same rows.
    """
    path = real_path(given)
    if path.is_dir():
        return load_folder(path, split, folder_labels), f"{path}/{split}"
    if path.is_file():
        return list_files(path.parent, [], [path]), str(path)
    if names_on_hub(given):
        return load_from_hub(given, config, split), f"{given}/{config or 'default'}/{split}"
    raise UserError(f"'{given}' is not there: expected a file, a folder, a table of files, or a dataset.")


def rows_of(sounds: datasets.Dataset, name: str, given: str | None = None) -> Iterator[Source]:
    """Yield the rows of a corpus as sources. ``name`` is the name of the corpus, for rows without a file."""
    columns = [column for column in ("audio", "label") if column in sounds.column_names]
    row = 0
    for batch in sounds.select_columns(columns).iter(16):
        labels = batch.get("label", [None] * len(batch["audio"]))
        for audio, label in zip(batch["audio"], labels, strict=True):
            content = (audio or {}).get("bytes")
            if content is None and audio and audio["path"] is not None:
                yield file_source(real_path(as_named(audio["path"])), label)
            else:
                stamp = content_stamp(content or b"")
                yield Source(f"{ROW}{name}#{row}", Row(sounds, row, given), label, *stamp)
            row += 1


def content_stamp(content: bytes) -> tuple[int, int]:
    """Return the size and the CRC-32 of the bytes of a row."""
    return len(content), zlib.crc32(content)


def file_source(path: Path, label: str | None) -> Source:
    return Source(as_utf8(str(path)), str(path), label, *(file_stamp(path) or (-1, 0)))


def load_folder(folder: Path, split: str, folder_labels: bool) -> datasets.Dataset:
    """Load a saved dataset, Parquet shards, or audio files."""
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        with loading_told(folder, split):
            loaded = datasets.load_from_disk(str(folder))
        return as_sounds(loaded, folder, split)
    paths, metadata = walk(folder)
    suffixes = {os.path.splitext(path)[1].lower() for path in paths}
    if ".parquet" in suffixes and not suffixes & AUDIO_EXTENSIONS:
        files = sorted(path for path in paths if path.lower().endswith(".parquet"))
        return as_sounds(load_shards("parquet", files, split), folder, split)
    return list_files(folder, paths, metadata, folder_labels)


def load_shards(builder: str, files: list[str], split: str, *, streaming: bool = False) -> Any:
    """Load shards with a builder of `datasets`. Raises a UserError, which names the first file that is no Parquet."""
    for file in files if builder == "parquet" else ():  # `datasets` would not name it
        try:
            pq.read_schema(file)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"'{file}' can't be read as Parquet ({one_line(error)}): mend or remove it.") from error
    with loading_told(files[0] if streaming else os.path.dirname(files[0]), split):  # a stream opens the first file
        return datasets.load_dataset(builder, data_files={split: files}, split=split, streaming=streaming)


def load_from_hub(dataset: str, config: str | None, split: str) -> datasets.Dataset:
    return as_sounds(fetch(dataset, config, split), dataset, split)


def fetch(dataset: str, config: str | None, split: str, *, streaming: bool = False) -> Any:
    """Load a dataset with `datasets`. Every exception becomes a UserError.

    If the Hub does not answer, only the cache is used: `datasets` would try to reach the Hub for half a minute.
    """
    reason, offline = why_out_of_reach(dataset), datasets.config.HF_HUB_OFFLINE
    try:
        datasets.config.HF_HUB_OFFLINE = offline or bool(reason)
        with loading_told(dataset, split, reason):
            return datasets.load_dataset(dataset, config, split=split, streaming=streaming)
    finally:
        datasets.config.HF_HUB_OFFLINE = offline


@contextmanager
def loading_told(name: str | os.PathLike[str], split: str, reason: str = "") -> Iterator[None]:
    """Turn every exception of the block into a UserError. ``reason`` is why the Hub is out of reach, if it is."""
    try:
        yield
    except Exception as error:  # the network, parsers and optional packages raise exceptions of many libraries
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        detail = one_line(cause)
        if reason and isinstance(cause, ConnectionError):
            detail = f"it is no file or folder here, nor in the cache, and the Hub can't be reached ({reason})."
        raise UserError(f"'{name}' (split '{split}') could not be loaded: {detail}") from error


def as_sounds(loaded: Any, name: str | os.PathLike[str], split: str) -> datasets.Dataset:
    """Select the split, stop the decoding of audio, and convert labels to strings."""
    if isinstance(loaded, dict):
        if split not in loaded:
            raise UserError(f"'{name}' has no split '{split}': it has {', '.join(sorted(loaded))}; set split to one.")
        loaded = loaded[split]
    audio = [column for column, feature in loaded.features.items() if isinstance(feature, datasets.Audio)]
    if "audio" not in loaded.features and audio:
        loaded = loaded.rename_column(audio[0], "audio")
    feature = loaded.features.get("audio")
    undecoded = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
    if not undecoded and not isinstance(feature, datasets.Audio):
        columns = ", ".join(loaded.column_names)
        raise UserError(f"'{name}' has no audio column: its columns are {columns}; expected a column of type Audio.")
    loaded = loaded.cast_column("audio", UNDECODED)
    feature = loaded.features.get("label")
    if feature is not None and feature != datasets.Value("string"):
        labels = list(loaded["label"])
        if isinstance(feature, datasets.ClassLabel):
            labels = [None if label is None or label < 0 else feature.names[label] for label in labels]
        labels = [None if label is None else str(label) for label in labels]
        loaded = loaded.remove_columns("label").add_column("label", pa.array(labels, pa.string()))
    if len(loaded) == 0:
        raise UserError(f"'{name}' holds no rows: expected a dataset or a split with at least one sound.")
    return loaded


def list_files(folder: Path, paths: list[str], metadata: list[Path], folder_labels: bool = False) -> datasets.Dataset:
    """Return a dataset with one row for each file, and the columns of the metadata files.

    Files of any type get a row, because only decoding shows whether a file is audio. A missing file that metadata names
    gets a row, so that it is reported. The fingerprint depends on the names, sizes and modification times of the files,
    so cached frames are not used after a file has changed.
    """
    rows: dict[str, dict[str, Any]] = {path: {} for path in paths}
    for file in metadata:
        for row in read_table(file):
            file_name = str(row.pop("file_name"))
            known = rows.setdefault(os.path.normpath(file.parent / file_name), {})
            for column in known.keys() & row.keys():
                if str(known[column]) != str(row[column]):
                    both = f"'{known[column]}' and '{row[column]}'"
                    raise UserError(f"'{file}' gives '{file_name}' a second {column} ({both}): expected one.")
            known.update(row)
    if not rows:
        raise UserError(f"'{folder}' holds no files; give the folder that holds the sounds.")
    if folder_labels:
        for path, row in rows.items():
            row.setdefault("label", os.path.basename(os.path.dirname(path)))
    rows = {as_utf8(path): row for path, row in rows.items()}  # decoding later reports a file that is missing
    paths = sorted(rows)
    columns = {"audio": pa.array([{"bytes": None, "path": path} for path in paths], UNDECODED.pa_type)}
    for name in sorted({name for row in rows.values() for name in row} - {"audio"}):
        values = [rows[path].get(name) for path in paths]
        columns[name] = pa.array([None if value is None else str(value) for value in values], pa.string())
    features = datasets.Features({name: UNDECODED if name == "audio" else datasets.Value("string") for name in columns})
    seen = [(path, file_stamp(path)) for path in paths]
    table = datasets.table.InMemoryTable(pa.table(columns))
    info = datasets.DatasetInfo(features=features)
    return datasets.Dataset(table, info=info, fingerprint=Hasher.hash([seen, sorted(rows.items())]))


def walk(folder: Path) -> tuple[list[str], list[Path]]:
    """List the files and the metadata files in a folder and its subfolders, except hidden files and sound libraries."""
    paths: list[str] = []
    metadata, been, todo = [], set(), [(str(folder), os.path.realpath(folder))]
    while todo:  # os.walk is recursive until Python 3.12, and fails in very deep folders
        parent, real = todo.pop()
        try:
            with os.scandir(parent) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError:  # returned as a file, so that it is reported as unreadable
            paths.append(parent)
            continue
        if real in been or (any(entry.name == LIBRARY_MANIFEST for entry in entries) and holds_library(parent)):
            continue
        been.add(real)
        for entry in entries:
            if is_folder(entry):
                inside = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
                todo.append((entry.path, inside))
            elif entry.name in METADATA_FILES:
                metadata.append(Path(entry.path))
            else:
                paths.append(os.path.normpath(entry.path))
    return paths, metadata


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one. A link that can't be followed is a file that can't be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def holds_library(folder: str) -> bool:
    """Whether a folder is a sound library. Another program may use a file with the name of the manifest."""
    try:
        with open(os.path.join(folder, LIBRARY_MANIFEST), encoding="utf-8") as file:
            return '"next_window"' in file.read(1 << 20)
    except (OSError, ValueError):
        return False


def real_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path without links, which is the same for all names of a file or folder."""
    return Path(os.path.realpath(os.path.expanduser(path)))
