"""Columns of Arrow without pandas: `pa.array` and `to_numpy` import it, which takes longer than opening a library."""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.json import ParseOptions, read_json


def whole_numbers(values: np.ndarray) -> pa.Array:
    """Convert an array [n] to Arrow's int64."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values.astype(np.int64))])


def as_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Convert a column of numbers, none of which is missing, to an array [n].

    Example
    -------
    >>> as_numpy(pa.chunked_array([whole_numbers(np.arange(3)), whole_numbers(np.arange(2))]))
    array([0, 1, 2, 0, 1])
    """
    parts = [np.from_dlpack(chunk) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def from_json(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Make a table of rows that were read from JSON; raises a ValueError if a value has another type than its column.

    Example
    -------
    >>> from_json([{"a": 1}, {"a": None}], pa.schema({"a": pa.int64()})).to_pylist()
    [{'a': 1}, {'a': None}]
    """
    lines = io.BytesIO("\n".join(json.dumps(row) for row in rows).encode())
    options = ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    return read_json(lines, parse_options=options).select(schema.names)
