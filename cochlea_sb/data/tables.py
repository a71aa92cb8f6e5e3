"""Read a table of sounds strictly: CSV, JSON lines or Parquet with a column ``file_name``."""

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cochlea_sb.errors import UserError, one_line


def read_table(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a table, without empty cells. Raises a UserError if the file can't be read as a table."""
    try:
        rows = [stripped(row) for row in TABLE_READERS[file.suffix](file)]
    except (ValueError, OSError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"'{file}' could not be read as a table: {one_line(error)}") from error
    columns = dict.fromkeys(name for row in rows for name in row)
    if rows and "file_name" not in columns:
        names = ", ".join(map(str, columns))
        raise UserError(f"'{file}' has the columns {names}: expected one called file_name, relative to its folder.")
    rows = [{name: value for name, value in row.items() if not is_empty(value)} for row in rows]
    rows = [row for row in rows if row]
    if not all("file_name" in row for row in rows):
        raise UserError(f"'{file}' has a row without file_name: expected the name of a file in every row.")
    return rows


def stripped(row: dict[str, Any]) -> dict[str, Any]:
    """Remove the spaces around names of columns and texts. Raises a ValueError for a text that is not Unicode."""
    pairs = []
    for name, value in ((name.strip(), value) for name, value in row.items()):
        if isinstance(value, str):
            # Python writes the bytes of a file's name that are not UTF-8 as surrogates.
            (name + value).encode("utf-8", "surrogateescape" if name == "file_name" else "strict")
        if name == "file_name" and "\0" in str(value):
            raise ValueError(f"its file_name {value!r} holds a null byte")
        # The name of a file may begin or end with a space; `read_csv` has removed those of a cell.
        pairs.append((name, value.strip() if isinstance(value, str) and name != "file_name" else value))
    return one_of_each(pairs)


def one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dict of pairs. Raises a ValueError if two have the same name."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"a row has the names {names}: expected different names")
    return dict(pairs)


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing. NaN is how pandas writes that."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def read_csv(file: Path) -> Iterator[dict[str, Any]]:
    """Yield rows whose cells are text, so that a label "NA" or a fold "05" does not change."""
    with open(file, encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, skipinitialspace=True, strict=True)
        header = [name.strip() for name in next(rows, [])]
        while header and not header[-1]:
            header.pop()
        if len(set(header)) < len(header) or not all(header):
            raise ValueError(f"its header is {header}: expected different names")
        if not header:
            raise ValueError("it is empty: expected a header with a column file_name")
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells[len(header) :]):
                raise ValueError(f"line {rows.line_num} has {len(row)} cells, and the header has {len(header)}")
            cells += [""] * (len(header) - len(cells))
            yield dict(zip(header, cells, strict=False))


def read_json_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that holds one JSON object in each line."""
    with open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                row = json.loads(line, object_pairs_hook=one_of_each)
                if not isinstance(row, dict):
                    raise ValueError(f'line {number} is no object: expected one such as {{"file_name": "a.wav"}}')
                yield row


def read_parquet(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


TABLE_READERS: dict[str, Callable[[Path], Any]] = {
    ".csv": read_csv,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
}
