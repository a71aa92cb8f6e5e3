"""Write the windows of a library and their embeddings to files that other programs read."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cochlea_sb.errors import UserError
from cochlea_sb.files import as_named, whole_file
from cochlea_sb.library.state import State
from cochlea_sb.machine import progress_bar

SOUNDS_AT_ONCE = 256
COLUMNS = ("path", "label", "start_seconds", "end_seconds")


def export_library(
    state: State,
    folder: Path,
    file: str | os.PathLike[str] | None,
    milvus: str | None,
    collection: str | None,
    progress: bool,
) -> int:
    """Do what `SoundLibrary.export` tells; ``folder`` is the folder of the library."""
    if file is None and milvus is None:
        raise UserError("There is no target: name a file NAME.parquet or NAME.npy, or a copy in Milvus (`milvus`).")
    if file is not None:
        total = export_windows(state, file, progress)
    if milvus is not None:
        from cochlea_sb.library.milvus import MilvusCopy

        total = MilvusCopy(folder, milvus, collection, new=True).follow(state, progress)
    return total


def export_windows(state: State, file: str | os.PathLike[str], progress: bool = True) -> int:
    """Write all windows of a library, in the order of their sounds. Returns the number of windows.

    The file appears when it is complete.

    Arguments
    ---------
    state : State
    file : str or Path
        ``NAME.parquet``: a table with the columns `COLUMNS` and ``embedding``, a list of D numbers (float32).
        ``NAME.npy``: the embeddings, float32 [windows, D]; ``NAME.csv`` beside it has the columns `COLUMNS`.
    progress : bool, whether to show a progress bar

    Raises
    ------
    UserError
        If the file has another suffix, or its folder does not exist.
    """
    target = Path(file).expanduser()
    if target.suffix not in (".parquet", ".npy"):
        raise UserError(f"'{target}' has the suffix '{target.suffix}': expected .parquet, or .npy (with a .csv).")
    check_folder_of(target)
    write = write_parquet if target.suffix == ".parquet" else write_npy
    return write(state, target, progress)


def check_folder_of(file: Path) -> None:
    """Raise a UserError if the folder of a file to be written does not exist."""
    if not file.parent.is_dir():
        raise UserError(f"'{file}' can't be written, because the folder '{file.parent}' does not exist: make it first.")


def blocks(state: State, progress: bool) -> Iterator[tuple[dict[str, list[Any]], np.ndarray]]:
    """Yield the columns `COLUMNS` and the embeddings [n, D] of the windows of some sounds."""
    rows = np.flatnonzero(state.readable)
    hop, window = state.manifest["hop_seconds"], state.manifest["window_seconds"]
    bar = progress_bar(total=len(rows), show=progress, unit="sound", desc="Exporting")
    for start in range(0, len(rows), SOUNDS_AT_ONCE):
        part = rows[start : start + SOUNDS_AT_ONCE]
        counts = state.counts[part]
        facts = [state.sounds[name].take(part).to_pylist() for name in ("path", "label", "seconds")]
        paths, labels, seconds = (np.repeat(np.array(values, object), counts).tolist() for values in facts)
        starts = [round(place * hop, 6) for count in counts.tolist() for place in range(count)]
        ends = [round(min(first + window, most), 6) for first, most in zip(starts, seconds, strict=True)]
        columns = zip(COLUMNS, ([as_text(path) for path in paths], labels, starts, ends), strict=True)
        # The numbers of windows ascend within a sound, and from one sound to the next within the index.
        yield dict(columns), state.vectors_in_order(state.windows_of(part))
        bar.update(len(part))
    bar.close()


def as_text(path: str) -> str:
    """The path of a file; where it is not UTF-8, the escaped form that the library stores."""
    named = as_named(path)
    return named if named.isascii() or named == named.encode("utf-8", "replace").decode() else path


def write_parquet(state: State, target: Path, progress: bool) -> int:
    size, total = state.manifest["dimensions"], 0
    fields = [pa.field(name, pa.string() if name in ("path", "label") else pa.float64()) for name in COLUMNS]
    schema = pa.schema([*fields, pa.field("embedding", pa.list_(pa.float32(), size))])
    with whole_file(target) as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
        for columns, vectors in blocks(state, progress):
            embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), size)
            writer.write_table(pa.table({**columns, "embedding": embedding}, schema=schema))
            total += len(vectors)
    return total


def write_npy(state: State, target: Path, progress: bool) -> int:
    total, done = int(state.counts[state.readable].sum()), 0
    shape = (total, state.manifest["dimensions"])
    with whole_file(target) as unfinished, whole_file(target.with_suffix(".csv")) as table:
        array = np.lib.format.open_memmap(unfinished, "w+", np.float32, shape)
        with open(table, "w", newline="", encoding="utf-8", errors="surrogateescape") as lines:
            writer = csv.writer(lines)
            writer.writerow(COLUMNS)
            for columns, vectors in blocks(state, progress):
                array[done : done + len(vectors)] = vectors
                done += len(vectors)
                writer.writerows(zip(*columns.values(), strict=True))
        array.flush()
    return total
