"""Where sounds come from: any corpus as one `datasets.Dataset` whose audio stays undecoded.

The result has a column ``audio`` of ``{"bytes", "path"}`` and whatever the corpus knows besides; the columns
``label``, ``source`` (takes of one recording share it) and ``fold`` mean something to training and evaluation.

Folders are laid out as the ``audiofolder`` loader of `datasets` wants them, but listed here: that loader needs
torchcodec and FFmpeg even where nothing is decoded, and hides files whose path looks like the name of a split.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow as pa
from datasets.fingerprint import Hasher

from cochlea_sb.audio import AUDIO_EXTENSIONS
from cochlea_sb.data import LIBRARY_MANIFEST
from cochlea_sb.data.fma import find_tracks, read_tracks
from cochlea_sb.errors import UserError

METADATA_READERS = {
    # As text: a label "NA" or a fold "05" stays what it is; only an empty cell is empty.
    ".csv": partial(pandas.read_csv, dtype=str, keep_default_na=False, na_values=[""]),
    ".jsonl": partial(pandas.read_json, lines=True, dtype=False),
    ".parquet": pandas.read_parquet,
}
METADATA_FILES = {f"metadata{suffix}" for suffix in METADATA_READERS}
UNDECODED = datasets.Audio(decode=False)


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
        A folder of sounds (with or without ``metadata.csv``, ``.jsonl`` or ``.parquet`` files that have a column
        ``file_name``; or laid out as the Free Music Archive's are, see `cochlea_sb.data.fma`), of Parquet shards, or
        one that `datasets.Dataset.save_to_disk` wrote.
    dataset : str, optional
        Id of a dataset on the Hugging Face Hub.
    config : str, optional
        Which configuration of the Hub dataset.
    split : str
        Which split of a dataset that has several. A folder of audio files is all of one split.
    folder_labels : bool
        Take the name of the folder that a file lies in as its label, where no metadata gives one.

    Returns
    -------
    datasets.Dataset
        With ``audio`` (undecoded); ``label``, where there is one, is a string, and so is all that a metadata file says.

    Raises
    ------
    UserError
        If nothing is there, or no audio is in it.

    Example
    -------
    >>> load_sounds("no/such/folder")
    Traceback (most recent call last):
    cochlea_sb.errors.UserError: data_folder is 'no/such/folder', which is not a folder; give the folder ...
    """
    if data_folder is None and dataset is not None:
        return as_sounds(load_from_hub(dataset, config, split), dataset, split)
    if data_folder is None or dataset is not None:
        raise UserError("Give either data_folder (a folder of sounds) or dataset (an id on the Hub), one of the two.")
    folder = Path(data_folder).expanduser().resolve()  # a sound has one name, however the folder is spelt
    if not folder.is_dir():
        raise UserError(
            f"data_folder is '{data_folder}', which is not a folder; give the folder that holds the sounds."
        )
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return as_sounds(datasets.load_from_disk(str(folder)), folder, split)
    paths, metadata = walk(folder)
    suffixes = {os.path.splitext(path)[1].lower() for path in paths}
    if ".parquet" in suffixes and not suffixes & AUDIO_EXTENSIONS:
        files = {split: sorted(path for path in paths if path.endswith(".parquet"))}
        return as_sounds(datasets.load_dataset("parquet", data_files=files), folder, split)
    tracks = find_tracks(folder, paths)
    rows = read_tracks(tracks, paths) if tracks else {path: {} for path in paths}
    return list_folder(folder, rows, metadata, folder_labels)


def load_from_hub(dataset: str, config: str | None, split: str) -> datasets.Dataset:
    """`datasets.load_dataset`, with its many ways of failing told in one sentence."""
    try:
        return datasets.load_dataset(dataset, config, split=split)
    except Exception as error:  # datasets raises from a dozen libraries: network, parsing, missing extras
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        detail = " ".join(str(cause).split())
        raise UserError(f"The dataset '{dataset}' (split '{split}') could not be loaded: {detail}") from error


def as_sounds(loaded: Any, name: str | os.PathLike[str], split: str) -> datasets.Dataset:
    """Pick the split, leave the audio undecoded, spell labels out."""
    if isinstance(loaded, dict):
        if split not in loaded:
            raise UserError(f"'{name}' has no split '{split}': it has {', '.join(sorted(loaded))}; set split to one.")
        loaded = loaded[split]
    audio = [column for column, feature in loaded.features.items() if isinstance(feature, datasets.Audio)]
    if "audio" not in loaded.features and audio:
        loaded = loaded.rename_column(audio[0], "audio")
    feature = loaded.features.get("audio")
    if not isinstance(feature, datasets.Audio) and not (
        isinstance(feature, dict) and set(feature) == {"bytes", "path"}
    ):
        columns = ", ".join(loaded.column_names)
        raise UserError(f"'{name}' has no audio column: its columns are {columns}; one must be of type Audio.")
    loaded = loaded.cast_column("audio", UNDECODED)
    label_feature = loaded.features.get("label")
    if label_feature is not None and label_feature != datasets.Value("string"):
        labels = list(loaded["label"])
        if isinstance(label_feature, datasets.ClassLabel):
            labels = [None if label is None or label < 0 else label_feature.names[label] for label in labels]
        labels = [None if label is None else str(label) for label in labels]
        loaded = loaded.remove_columns("label").add_column("label", pa.array(labels, pa.string()))
    if len(loaded) == 0:
        raise UserError(f"'{name}' holds no sounds; choose a dataset or a split that has rows.")
    return loaded


def list_manifest(file: str | os.PathLike[str]) -> datasets.Dataset:
    """A table of sounds, with a column ``file_name`` relative to its folder, as `load_sounds` gives a folder."""
    file = Path(file).expanduser().resolve()
    return list_folder(file.parent, {}, [file])


def list_folder(
    folder: Path, rows: dict[str, dict[str, Any]], metadata: list[Path], folder_labels: bool = False
) -> datasets.Dataset:
    """Make rows of the files below a folder and join what its metadata files say of them.

    Every file gets a row, whatever its name: reading tells what is audio, and reports what is not. So does one that
    metadata lists and that is not there.

    Arguments
    ---------
    folder : Path
    rows : dict of dict
        By path, what is known of the files that `walk` found below the folder.
    metadata : list of Path
        Its metadata files.
    folder_labels : bool

    Returns
    -------
    datasets.Dataset
        Its fingerprint follows names, sizes and times of change, so that cached frames are never stale.
    """
    for file in metadata:
        for row in read_metadata(file):
            rows.setdefault(os.path.normpath(file.parent / str(row.pop("file_name"))), {}).update(row)
    if not rows:
        raise UserError(f"'{folder}' holds no files; give the folder that holds the sounds.")
    if folder_labels:
        for path, row in rows.items():
            row.setdefault("label", os.path.basename(os.path.dirname(path)))
    # Arrow holds UTF-8 alone: another name is escaped, is then not found, and is so reported.
    rows = {os.fsencode(path).decode("utf-8", "backslashreplace"): row for path, row in rows.items()}
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
    """Files below a folder, hidden ones left out; a link to a folder is followed, once.

    Returns
    -------
    paths : list of str
    metadata : list of Path
    """
    paths, metadata, been = [], [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if LIBRARY_MANIFEST in names and holds_library(parent):
            been.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if real not in been else []
        for name in names if real not in been else ():
            if name in METADATA_FILES:
                metadata.append(Path(parent, name))
            elif not name.startswith("."):
                paths.append(os.path.normpath(os.path.join(parent, name)))
        been.add(real)
    return paths, metadata


def holds_library(folder: str) -> bool:
    """Whether the file that is named as a library's manifest is one."""
    try:
        with open(os.path.join(folder, LIBRARY_MANIFEST), encoding="utf-8") as file:
            return '"next_window"' in file.read(1 << 20)
    except (OSError, ValueError):
        return False


def read_metadata(file: Path) -> list[dict[str, Any]]:
    """Rows of a metadata file as dictionaries without their empty cells."""
    try:
        table = METADATA_READERS[file.suffix](file)
    except (ValueError, OSError, pa.ArrowInvalid) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"'{file}' could not be read as a table: {detail}") from error
    if "file_name" not in table.columns:
        columns = ", ".join(map(str, table.columns))
        raise UserError(f"'{file}' has the columns {columns}: expected one called file_name, relative to its folder.")
    rows = [
        {key: value for key, value in row.items() if not (pandas.api.types.is_scalar(value) and pandas.isna(value))}
        for row in table.to_dict("records")
    ]
    if not all("file_name" in row for row in rows):
        raise UserError(f"'{file}' has a row without file_name: expected the name of a file in each.")
    return rows


def file_stamp(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Size and time of change of a file; None where it is missing."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
