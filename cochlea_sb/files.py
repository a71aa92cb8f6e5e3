"""Write files atomically and durably, see whether they change, and handle file names that are not UTF-8."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")  # a byte that `as_utf8` has escaped
MOST_NS = (1 << 63) - 1  # in the year 2262; Arrow can't store a later time


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file atomically: at any time, ``path`` has either the complete old content or the complete new content.

    Yields the path of a temporary file in the same folder, ``.NAME.<16 hexadecimal digits>.partial``. After the block,
    the temporary file is flushed to the disk and renamed to ``path``. After an exception, it is deleted.

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
    """Flush the file names in a folder to the disk, if the system supports it."""
    with suppress(OSError):  # Windows can't open a folder, and some file systems can't flush a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically, as `whole_file` does."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def link(file: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``file``, which must never change. If hard links fail, copy it."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def file_stamp(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return the size in bytes and the modification time in nanoseconds of a file, or None if it is missing."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, min(stat.st_mtime_ns, MOST_NS)


def as_utf8(path: str) -> str:
    """Escape the bytes of a path that are not UTF-8, because Arrow needs UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def as_named(path: str) -> str:
    """Restore a path that `as_utf8` has escaped. A path that exists is returned unchanged."""
    if "\\x" not in path or os.path.lexists(path):
        return path
    return ESCAPED.sub(lambda found: os.fsdecode(bytes([int(found[1], 16)])), path)
