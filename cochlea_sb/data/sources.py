"""What a user points at, as a stream of sounds to read: files, folders, tables of files, datasets."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from cochlea_sb.data.sounds import METADATA_READERS, as_sounds, file_stamp, list_manifest, load_sounds
from cochlea_sb.errors import UserError
from cochlea_sb.hub import names_on_hub

ROW = "dataset:"  # begins the name of a sound that is a row of a dataset


class Source(NamedTuple):
    """One sound that is not read yet."""

    path: str  # its name: the absolute path of a file, or dataset:name#row
    audio: Any  # what `cochlea_sb.audio.read_audio` takes
    label: str | None
    size: int  # bytes; with the next it tells whether the sound is the one seen before. -1 where missing
    changed_ns: int  # time of change of a file; CRC-32 of a row


def list_sources(
    given: Any, *, folder_labels: bool = False, config: str | None = None, split: str = "train"
) -> list[Source]:
    """Name every sound.

    Arguments
    ---------
    given : str, Path, datasets.Dataset, or a list of them
        An audio file; a folder of sounds or of Parquet shards with audio; a table ``.csv``, ``.jsonl`` or ``.parquet``
        with a column ``file_name`` (and ``label``); the id of a dataset on the Hub.
    folder_labels, config, split :
        As in `load_sounds`.

    Returns
    -------
    list of Source
        Each name once.

    Raises
    ------
    UserError
        For what is none of these, or a folder without files.
    """
    found = {}
    for one in [given] if isinstance(given, (str, os.PathLike, datasets.Dataset)) else given:
        for source in sources_of(one, folder_labels, config, split):
            found.setdefault(source.path, source)
    return list(found.values())


def sources_of(given: Any, folder_labels: bool, config: str | None, split: str) -> Iterator[Source]:
    """`list_sources` of one thing."""
    if isinstance(given, datasets.Dataset):
        name = given.info.dataset_name or "rows"
        yield from rows_of(as_sounds(given, name, split), f"{name}-{given._fingerprint[:12]}")
        return
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise UserError(f"There are no sounds in {given!r}: expected a file, a folder, a table, or a dataset.")
    path = os.path.realpath(os.path.expanduser(given))
    if os.path.isdir(path):
        yield from rows_of(load_sounds(path, split=split, folder_labels=folder_labels), f"{path}/{split}")
    elif os.path.isfile(path) and Path(path).suffix in METADATA_READERS:
        yield from rows_of(list_manifest(path), path)
    elif os.path.exists(path):
        label = os.path.basename(os.path.dirname(path)) if folder_labels else None
        name = os.fsencode(path).decode("utf-8", "backslashreplace")  # Arrow holds UTF-8 alone
        yield Source(name, path, label, *(file_stamp(path) or (-1, 0)))
    elif names_on_hub(given):
        name = f"{given}/{config or 'default'}/{split}"
        yield from rows_of(load_sounds(dataset=str(given), config=config, split=split), name)
    else:
        raise UserError(f"'{given}' is not there: give a file or folder of sounds, a table of them, or a dataset.")


def rows_of(sounds: datasets.Dataset, name: str) -> Iterator[Source]:
    """Sources of a corpus' rows."""
    wanted = [column for column in ("audio", "label") if column in sounds.column_names]
    row = 0
    for batch in sounds.select_columns(wanted).iter(16):
        labels = batch.get("label", [None] * len(batch["audio"]))
        for audio, label in zip(batch["audio"], labels, strict=True):
            if audio is not None and audio["bytes"] is None and audio["path"] is not None:
                path = os.path.realpath(audio["path"])  # one name, through whatever links it was reached
                yield Source(path, path, label, *(file_stamp(path) or (-1, 0)))
            else:
                content = (audio or {}).get("bytes") or b""
                yield Source(f"{ROW}{name}#{row}", Row(sounds, row), label, len(content), zlib.crc32(content))
            row += 1


class Row(NamedTuple):
    """A row of a dataset whose audio is fetched when it is read."""

    sounds: datasets.Dataset
    number: int

    def fetch(self) -> bytes:
        """The contents of the sound's file; empty where there are none."""
        return (self.sounds[self.number]["audio"] or {}).get("bytes") or b""
