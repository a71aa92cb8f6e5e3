"""A list of sounds in a file, of which other machines read the parts that they need.

The file is in Arrow's IPC format, with one record batch for each part. It holds the path of a sound in a file, or the
number of a row of a dataset, and never audio.
"""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from cochlea_sb.data.sounds import Row, Source, content_stamp, load_corpus
from cochlea_sb.errors import UserError, one_line
from cochlea_sb.files import whole_file

# `file`: bytes, because the name of a file may be no UTF-8. `given`, `row`: see `Row`.
COLUMNS = pa.schema(
    {
        "path": pa.string(),
        "label": pa.string(),
        "size": pa.int64(),
        "changed_ns": pa.int64(),
        "file": pa.binary(),
        "given": pa.string(),
        "row": pa.int64(),
    }
)


def write_source_list(path: str | os.PathLike[str], parts: Iterable[Sequence[Source]]) -> None:
    """Write parts of a list of sounds, as `list_sources` returns it, to a file."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with whole_file(path) as unfinished, pa.ipc.new_file(unfinished, COLUMNS, options=options) as writer:
        for part in parts:
            writer.write_batch(pa.RecordBatch.from_pylist([as_row(source) for source in part], COLUMNS))


def as_row(source: Source) -> dict[str, Any]:
    row = {name: getattr(source, name) for name in ("path", "label", "size", "changed_ns")}
    if isinstance(source.audio, Row):
        return row | {"given": source.audio.given, "row": source.audio.number}
    return row | {"file": os.fsencode(source.audio)}


class SourceList:
    """The parts of a list of sounds, from a file of `write_source_list`.

    Arguments
    ---------
    path : str or Path
    folder_labels, config, split : as in `cochlea_sb.data.sounds.list_sources`, for the datasets of the list
    """

    def __init__(
        self, path: str | os.PathLike[str], *, folder_labels: bool = False, config: str | None = None, split: str
    ) -> None:
        try:
            self.reader = pa.ipc.open_file(pa.memory_map(os.fspath(path)))
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"The list of sounds '{path}' can't be read ({one_line(error)}).") from error
        self.load = partial(load_corpus, folder_labels=folder_labels, config=config, split=split)
        self.corpora: dict[str, Any] = {}

    def __len__(self) -> int:
        return int(self.reader.num_record_batches)

    def __getitem__(self, number: int) -> list[Source]:
        """Return a part. Raises a UserError if a dataset has other rows here than where the list was written."""
        return [self.source(row) for row in self.reader.get_batch(number).to_pylist()]

    def source(self, row: dict[str, Any]) -> Source:
        facts = row["path"], row["label"], row["size"], row["changed_ns"]
        if row["file"] is not None:
            return Source(facts[0], os.fsdecode(row["file"]), *facts[1:])
        given = row["given"]
        if given not in self.corpora:
            self.corpora[given], _ = self.load(given)
        audio = Row(self.corpora[given], row["row"], given)
        if audio.number >= len(audio.sounds) or content_stamp(audio.fetch()) != facts[2:]:
            raise UserError(f"'{given}' has other rows here than where its sounds were listed: load the same revision.")
        return Source(facts[0], audio, *facts[1:])
