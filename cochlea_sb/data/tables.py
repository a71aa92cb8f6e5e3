"""Read a table of sounds strictly: CSV, JSON lines or Parquet with a column ``file_name``."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cochlea_sb.errors import UserError, one_line


def read_table(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a table, without empty cells. Raises a UserError if the file is no such table."""
    try:
        rows = list(TABLE_READERS[file.suffix](file))
    except (ValueError, OSError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"'{file}' could not be read as a table: {one_line(error)}") from error
    columns = dict.fromkeys(name for row in rows for name in row)
    if rows and "file_name" not in columns:
        names = ", ".join(map(str, columns))
        raise UserError(f"'{file}' has the columns {names}: expected one called file_name, relative to its folder.")
    rows = [{name: value for name, value in row.items() if value not in (None, "")} for row in rows]
    rows = [row for row in rows if row]
    if not all("file_name" in row for row in rows):
        raise UserError(f"'{file}' has a row without file_name: expected the name of a file in each.")
    return rows


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
    """Yield the objects of a file with an object in each line."""
    with open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f'line {number} is no object: expected one such as {{"file_name": "a.wav"}}')
                yield row


def read_parquet(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file."""
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


TABLE_READERS: dict[str, Callable[[Path], Any]] = {
    ".csv": read_csv,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
}
