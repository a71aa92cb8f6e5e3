"""Shards: Parquet files of encoded sounds, with one row for each window.

`recipes/embed.py` writes shards, and the delta of a library consists of shards. Other programs can read a shard with
`datasets.load_dataset("parquet", ...)` or pandas. Axes: S sounds, W windows, D embedding dimensions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cochlea_sb.errors import UserError, is_damage, one_line
from cochlea_sb.files import whole_file
from cochlea_sb.library.bounds import Allowance
from cochlea_sb.library.columns import as_numpy, from_json, whole_numbers

if TYPE_CHECKING:
    from cochlea_sb.inference.batch import Encoded

METADATA = b"cochlea_sb"
# `size` and `changed_ns`: see `Source`. `content`: hash of the file. `problem`: why reading failed, or null.
SOUND = pa.schema(
    {
        "path": pa.string(),
        "label": pa.string(),
        "seconds": pa.float64(),
        "size": pa.int64(),
        "changed_ns": pa.int64(),
        "content": pa.string(),
        "n_windows": pa.int64(),
        "problem": pa.string(),
    }
)
OF_EACH_WINDOW = ("path", "label", "seconds", "size", "changed_ns", "content")
COLUMNS = ("path", "start_seconds", "embedding", *OF_EACH_WINDOW[1:])


class Shard(NamedTuple):
    sounds: pa.Table  # [S], columns of `SOUND`; sounds that could not be read come last, with 0 windows
    vectors: np.ndarray  # [W, D] float32, in the order of the sounds
    identity: dict[str, Any]  # `Encoder.identity` of the encoder
    hop_seconds: float
    removed: list[str]  # paths that were removed from the library


def sound_table(embedded: Sequence[Encoded]) -> pa.Table:
    rows = [
        (path, label, one.seconds, size, changed_ns, one.content, len(one.windows), one.problem)
        for one in embedded
        for path, _, label, size, changed_ns in [one.source]
    ]
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [[] for _ in SOUND]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, SOUND, strict=True)], SOUND)


def write_shard(
    path: str | os.PathLike[str],
    embedded: Sequence[Encoded],
    identity: dict[str, Any],
    hop_seconds: float,
    *,
    removed: Sequence[str] = (),
    made_of: str | None = None,
) -> None:
    """Write encoded sounds to a shard, which replaces a file at ``path``.

    ``identity`` is the `Encoder.identity`, ``hop_seconds`` the time between the starts of two windows. ``removed``
    are paths that were removed from the library. The caller may store a hash of its list of sounds in ``made_of``.
    """
    read = [one for one in embedded if one.problem is None]
    size = max((one.windows.shape[1] for one in embedded), default=1)
    vectors = np.concatenate([np.zeros((0, size), np.float32), *(one.windows for one in read)])
    sounds = sound_table(read)
    counts = sounds["n_windows"].to_numpy()
    rows = np.repeat(np.arange(len(counts)), counts)
    starts = (np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]) * hop_seconds
    columns = {name: sounds[name].combine_chunks().take(pa.array(rows)) for name in OF_EACH_WINDOW}
    columns["start_seconds"] = pa.array(starts, pa.float64())
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), size)
    unread = sound_table([one for one in embedded if one.problem is not None]).to_pylist()
    facts = {"identity": identity, "hop_seconds": hop_seconds, "unread": unread, "removed": list(removed)}
    facts |= {"made_of": made_of}
    table = pa.table({name: columns[name] for name in COLUMNS})
    table = table.replace_schema_metadata({METADATA: json.dumps(facts).encode()})
    write_parquet(path, table)


def write_parquet(path: str | os.PathLike[str], table: pa.Table, repeated: Sequence[str] | None = None) -> None:
    """Write a Parquet file atomically: ``path`` never holds an incomplete file.

    ``repeated`` are the columns that hold the same values many times; by default, all except the embeddings.
    """
    plain = [name for name in table.column_names if name != "embedding"]
    # Compressing the embeddings would take long and save almost nothing.
    compression = {name: "zstd" for name in plain} | (
        {"embedding.list.element": "none"} if "embedding" in table.column_names else {}
    )
    dictionaries = plain if repeated is None else list(repeated)
    with whole_file(path) as partial:
        pq.write_table(table, partial, compression=compression, use_dictionary=dictionaries)


def read_facts(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the metadata of a shard, or return None if the file is no shard."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        facts: dict[str, Any] = json.loads(metadata[METADATA])
        return facts if isinstance(facts.get("identity"), dict) else None
    except (KeyError, ValueError, AttributeError, RecursionError, OSError, pa.ArrowException):
        return None


def read_columns(path: str | os.PathLike[str], columns: Sequence[str], allowance: Allowance | None = None) -> pa.Table:
    """Read columns of a Parquet file; raises a ValueError if they need more memory than ``allowance``."""
    (allowance or Allowance()).take(path, columns)
    with pq.ParquetFile(path) as file:  # `pq.read_table` would import pandas
        # Threads would keep several times the memory of the table.
        return file.read(list(columns), use_threads=False).select(list(columns))


def read_shard(path: str | os.PathLike[str], allowance: Allowance | None = None) -> Shard:
    """Read a shard; raises a UserError if the file is damaged or no shard, or needs more memory than ``allowance``."""
    facts = read_facts(path)
    try:
        if facts is None or not 0 < float(facts["hop_seconds"]) < 1e6:
            raise ValueError("its metadata are missing or invalid")
        table = read_columns(path, COLUMNS, allowance)
        lists = table["embedding"].combine_chunks()
        if lists.null_count or lists.flatten().null_count:
            raise ValueError("some of its embeddings are missing or not finite")
        vectors = np.from_dlpack(lists.flatten()).astype(np.float32, copy=False).reshape(-1, lists.type.list_size)
        if not np.isfinite(vectors).all():
            raise ValueError("some of its embeddings are missing or not finite")
        if any(table[name].null_count for name in ("path", "start_seconds", "seconds", "size", "changed_ns")):
            raise ValueError("some of its values are missing")
        starts = as_numpy(table["start_seconds"])
        firsts = np.flatnonzero(starts == 0)
        if len(starts) and (len(firsts) == 0 or firsts[0] != 0):
            raise ValueError("its first sound does not begin at 0 s")
        counts = np.diff(np.append(firsts, len(starts)))
        columns = {name: table[name].combine_chunks().take(whole_numbers(firsts)) for name in OF_EACH_WINDOW}
        columns |= {"n_windows": whole_numbers(counts), "problem": pa.nulls(len(firsts), pa.string())}
        sounds = pa.Table.from_arrays([columns[field.name].cast(field.type) for field in SOUND], schema=SOUND)
        if facts["unread"]:
            unread = from_json(facts["unread"], SOUND)
            counts = unread["n_windows"].to_pylist()
            if any(unread[name].null_count for name in SOUND.names if name != "label") or any(counts):
                raise ValueError("its list of unreadable sounds is invalid")
            sounds = pa.concat_tables([sounds, unread])
        removed = [str(name) for name in facts["removed"]]
        return Shard(sounds, vectors, facts["identity"], float(facts["hop_seconds"]), removed)
    except FileNotFoundError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, OSError, pa.ArrowException) as error:
        if not is_damage(error):
            raise
        reason = one_line(error)
        raise UserError(f"'{path}' is damaged or no shard of embeddings ({reason}): embed its sounds again.") from error


def embedding_shards(folder: str | os.PathLike[str]) -> list[str]:
    """List the shards in a folder. For a file, the list holds the file if it is a shard, and is empty otherwise."""
    folder = os.path.expanduser(folder)
    if os.path.isdir(folder):
        files = sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".parquet"))
    else:
        files = [folder] if os.fspath(folder).endswith(".parquet") and os.path.isfile(folder) else []
    return [file for file in files if read_facts(file) is not None]
