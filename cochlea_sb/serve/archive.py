"""Write sounds into a zip file piece by piece, without keeping it in memory or on the disk."""

import csv
import io
import os
import zipfile
from collections.abc import Iterator
from typing import IO, cast

from cochlea_sb.audio import stream_audio
from cochlea_sb.errors import AudioError
from cochlea_sb.library.take_away import unique_names
from cochlea_sb.serve.collection import Sound, shown_path

TABLE = "sounds.csv"


class Pieces(io.RawIOBase):
    """A file that can only be written; what was written is taken by `take`."""

    def __init__(self) -> None:
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        self.written += content
        return len(content)

    def take(self) -> bytes:
        content = bytes(self.written)
        self.written.clear()
        return content


def is_sound_file(path: str) -> bool:
    """Whether a path is a file of audio. A library that somebody else has made could name any file of this computer."""
    if not os.path.isfile(path):
        return False
    try:
        return next(stream_audio(path, 8000), None) is not None
    except (AudioError, OSError):
        return False


def archive(sounds: list[Sound]) -> Iterator[bytes]:
    """Yield the pieces of a zip file with the files of sounds, and a table of their paths, labels and lengths.

    Sounds that are no files (any more) are in the table alone, without a name.
    """
    pieces = Pieces()
    present = [is_sound_file(sound.path) for sound in sounds]
    files = [sound for sound, there in zip(sounds, present, strict=True) if there]
    names = iter(unique_names([shown_path(sound.path) for sound in files], taken=[TABLE]))
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(["file", "path", "label", "seconds"])
    with zipfile.ZipFile(cast(IO[bytes], pieces), "w", zipfile.ZIP_STORED) as written:
        for sound, there in zip(sounds, present, strict=True):
            name = next(names) if there else ""
            rows.writerow([name, shown_path(sound.path), sound.label or "", f"{sound.seconds:.3f}"])
            if there:
                facts = zipfile.ZipInfo.from_file(sound.path, name, strict_timestamps=False)
                with open(sound.path, "rb") as source, written.open(facts, "w", force_zip64=True) as target:
                    while content := source.read(1 << 20):
                        target.write(content)
                        yield pieces.take()
        written.writestr(TABLE, "\ufeff" + table.getvalue())  # the mark tells spreadsheets that it is UTF-8
    yield pieces.take()
