"""Refuse a Parquet file that needs far more memory than its size suggests, before its values are decoded.

A small file can unfold to any size: zstd and run lengths repeat a value, and a dictionary repeats a long text. The
footer may be false. So the headers of the pages are read, which the decoder follows. Called by `shards` and `store`.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FREE_BYTES = 64 << 20  # memory that the files of a library may need in addition to `MOST_TIMES`
MOST_TIMES = 256  # bytes of memory for each byte of a file; 75 if all paths have 3,000 bytes and differ at the end
VALUE_BYTES = 16  # a number, or where a text begins, and the levels of a value
SURE_BYTES = 1 << 20  # up to here, the texts of a dictionary are not measured
HEADER_BYTES, LONGEST_HEADER = 1 << 12, 1 << 20  # a header can hold the smallest and the largest text of its page
NUMBERS = ("BOOLEAN", "INT32", "INT64", "FLOAT", "DOUBLE")
# Numbers of the Parquet format: types of pages, and encodings.
DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
DICTIONARY_CODED = (2, 8)
DELTA_BYTE_ARRAY = 7  # a text can repeat the start of the text before it
# Numbers of the types of fields in Thrift's compact protocol, in which headers are written.
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
Fields = dict[int, Any]  # values by the number of their field; only I32 and STRUCT are kept, others are None


class Page(NamedTuple):
    kind: int
    size: int  # bytes, decompressed
    n_values: int
    encoding: int


class Allowance:
    """The memory that the Parquet files of a library may need together."""

    def __init__(self) -> None:
        self.left = FREE_BYTES

    def take(self, path: str | os.PathLike[str], columns: Sequence[str]) -> None:
        """Count the memory that ``columns`` of a file need at most; raises a ValueError if it is too much."""
        with open(path, "rb", opener=without_waiting) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError("a file is not a regular file")
            self.left += MOST_TIMES * facts.st_size
            unseen = facts.st_size
            with pq.ParquetFile(path) as parquet:
                for group, chunk in chunks_of(parquet.metadata):
                    unseen -= chunk.total_compressed_size
                    if unseen < 0 or chunk.total_compressed_size < 0:
                        raise ValueError("the columns of a file overlap")
                    if chunk.path_in_schema.partition(".")[0] in columns:
                        self.left -= self.needed(file, group, chunk)
                    if self.left < 0:
                        raise ValueError("a file needs far more memory than its size suggests")

    def needed(self, file: BinaryIO, group: int, chunk: Any) -> int:
        """Bytes of memory that a column of a row group needs at most."""
        is_text = chunk.physical_type == "BYTE_ARRAY" and "." not in chunk.path_in_schema
        if not is_text and chunk.physical_type not in NUMBERS:
            raise ValueError(f"its column '{chunk.path_in_schema[:40]}' has an unexpected type")
        pages = list(pages_of(file, chunk))
        data = [page for page in pages if page.kind in (DATA_PAGE, DATA_PAGE_V2)]
        needed = sum(page.size for page in pages) + VALUE_BYTES * sum(page.n_values for page in data)
        if not is_text or needed > self.left:
            return needed
        coded = [page.encoding in DICTIONARY_CODED for page in data]
        if any(page.encoding == DELTA_BYTE_ARRAY for page in data) or coded != sorted(coded, reverse=True):
            raise ValueError(f"its column '{chunk.path_in_schema[:40]}' has an unexpected encoding")
        n_coded = sum(page.n_values for page in data if page.encoding in DICTIONARY_CODED)
        longest = sum(page.size for page in pages if page.kind == DICTIONARY_PAGE)
        if n_coded * longest > SURE_BYTES:
            longest = longest_text(file, group, chunk.path_in_schema)
        return needed + n_coded * longest


def without_waiting(path: str, flags: int) -> int:
    """Open a file. A pipe would wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def chunks_of(metadata: Any) -> Iterator[tuple[int, Any]]:
    """Yield each column of each row group, with the number of the row group."""
    for group in range(metadata.num_row_groups):
        columns = metadata.row_group(group)
        for number in range(columns.num_columns):
            yield group, columns.column(number)


def longest_text(file: BinaryIO, group: int, column: str) -> int:
    """Bytes of the longest text in the dictionary of a column. The dictionary comes with the first value."""
    with pq.ParquetFile(file.name, read_dictionary=[column]) as parquet:
        batch = next(parquet.iter_batches(1, row_groups=[group], columns=[column], use_threads=False), None)
    if batch is None:
        return 0
    texts = batch.column(0)
    if not isinstance(texts, pa.DictionaryArray):
        raise ValueError(f"its column '{column[:40]}' holds no texts")
    return pc.max(pc.binary_length(texts.dictionary)).as_py() or 0


def pages_of(file: BinaryIO, chunk: Any) -> Iterator[Page]:
    """Read the headers of the pages of a column; raises a ValueError if one is invalid."""
    at, dictionary_at = chunk.data_page_offset, chunk.dictionary_page_offset
    if dictionary_at is not None and 0 < dictionary_at < at:
        at = dictionary_at
    end = at + chunk.total_compressed_size if chunk.num_values > 0 else at  # without values, no page is decoded
    while at < end:
        header, length = read_header(file, at)
        kind, size, packed = (whole(header, number) for number in (1, 2, 3))
        inner = header.get({DATA_PAGE: 5, DICTIONARY_PAGE: 7, DATA_PAGE_V2: 8}.get(kind, 0))
        if isinstance(inner, dict):
            yield Page(kind, size, whole(inner, 1), whole(inner, 4 if kind == DATA_PAGE_V2 else 2))
        else:
            yield Page(kind, size, 0, 0)
        at += length + packed


def whole(fields: Fields, number: int) -> int:
    """A field that holds a number of at least 0."""
    value = fields.get(number)
    if not isinstance(value, int) or value < 0:
        raise ValueError("the header of a page is invalid")
    return value


def read_header(file: BinaryIO, at: int) -> tuple[Fields, int]:
    """Read the header of the page that begins at byte ``at``. Returns its fields and its length in bytes."""
    size = HEADER_BYTES
    while True:
        file.seek(at)
        content = file.read(size)
        try:
            return read_struct(content, 0)
        except IndexError as error:  # the header is longer
            if len(content) < size or size >= LONGEST_HEADER:
                raise ValueError("the header of a page is invalid") from error
            size = LONGEST_HEADER


def read_struct(content: bytes, at: int, depth: int = 0) -> tuple[Fields, int]:
    """Read a Thrift struct at byte ``at``. Returns its fields and where it ends. An IndexError means: cut off."""
    fields: Fields = {}
    number = 0
    while content[at]:
        step, kind = content[at] >> 4, content[at] & 15
        number, at = (number + step, at + 1) if step else read_varint(content, at + 1)
        number = number if step else number >> 1
        # The decoder would skip a field of a wrong type, or take the second of two: neither is in an honest file.
        if number in fields or number > 99 or depth > 3:
            raise ValueError("the header of a page is invalid")
        fields[number], at = read_value(content, at, kind, depth)
    return fields, at + 1


def read_value(content: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """Read a value of a Thrift type; returns it and where it ends."""
    if kind in (TRUE, FALSE):
        return None, at
    if kind == STRUCT:
        return read_struct(content, at, depth + 1)
    if kind in (BYTE, DOUBLE):
        return None, at + (1 if kind == BYTE else 8)
    if kind not in (I16, I32, I64, BINARY):
        raise ValueError("the header of a page is invalid")
    value, at = read_varint(content, at)
    if kind == BINARY:
        return None, at + value
    return (value >> 1) ^ -(value & 1) if kind == I32 else None, at


def read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (content[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] < 128:
            return value, at
        if shift > 63:
            raise ValueError("the header of a page is invalid")
