"""Atomic, durable writes of files; and names of files that are not UTF-8."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")  # in `as_utf8`


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file so that its name always stands for the old content or for all of the new.

    Gives the path of a new file in the same folder, ``.NAME.<16 hexadecimal digits>.partial``. After the block its
    content is flushed to the disk, and it replaces ``path`` in one step. An exception deletes it.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "a.txt")
    >>> with whole_file(path) as partial:
    ...     size = partial.write_text("all of it")
    >>> path.read_text()
    'all of it'
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        flush_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Flush the names of a folder's files to the disk, where the system can."""
    with suppress(OSError):  # Windows opens no folders, and some file systems flush none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def link(file: Path, target: Path) -> None:
    """Give a file that never changes a second name; a copy where the file system has no links."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def as_utf8(path: str) -> str:
    """Escape the bytes of a path that are not UTF-8, because Arrow needs UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def as_named(path: str) -> str:
    """Return the name that the system has for a path from `as_utf8`."""
    if "\\x" not in path or os.path.lexists(path):
        return path
    return ESCAPED.sub(lambda found: os.fsdecode(bytes([int(found[1], 16)])), path)
