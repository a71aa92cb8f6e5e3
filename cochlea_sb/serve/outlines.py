"""Outlines of sounds, and their levels, which are kept beside the library: they are computed when first seen."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cochlea_sb.audio import read_audio

POINTS, RATE = 240, 8000  # parts of an outline; Hz
LOUDEST_SECONDS = 0.4
LONGEST_SECONDS = 600.0  # of a sound that are read
MOST = 100_000  # records of the file, 25 MB; then it starts again
FILE = "outlines.bin"
RECORD = np.dtype([("key", "S16"), ("level", "<f4"), ("peak", "<f4"), ("points", "u1", (POINTS,))])


class Outline(NamedTuple):
    """How a sound looks, and how loud it is.

    points : list of int, the loudest sample of each of `POINTS` parts, from 0 to 100 for the loudest of the sound
    level : float, level of the loudest `LOUDEST_SECONDS` in dB; 0 is that of a square wave of amplitude 1
    peak : float, level of the loudest sample in dB; 0 is an amplitude of 1
    """

    points: list[int]
    level: float
    peak: float


class Outlines:
    """Arguments: ``folder`` of the library. If it can't be written, the outlines are kept in memory only."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self.records: dict[bytes, Any] = {}
        with suppress(OSError):
            handle = os.open(self.file, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(handle, "rb") as file:
                content = file.read(MOST * RECORD.itemsize)
            whole = len(content) - len(content) % RECORD.itemsize  # a process may have been killed while it wrote
            self.records = {record["key"]: record for record in np.frombuffer(content[:whole], RECORD)}

    def get(self, key: str) -> Outline | None:
        """``key``: 16 hexadecimal digits that name the content of a sound."""
        record = self.records.get(key.encode())
        if record is None or not np.isfinite([record["level"], record["peak"]]).all():
            return None
        points = np.minimum(record["points"], 100).tolist()
        return Outline(points, round(float(record["level"]), 1), round(float(record["peak"]), 1))

    def put(self, key: str, outline: Outline) -> None:
        record = np.array((key.encode(), outline.level, outline.peak, outline.points), RECORD)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND
        if len(self.records) >= MOST:
            self.records.clear()
            flags |= os.O_TRUNC
        self.records[key.encode()] = record[()]
        with suppress(OSError):
            handle = os.open(self.file, flags, 0o644)
            try:
                torn = os.fstat(handle).st_size % RECORD.itemsize
                os.write(handle, bytes(RECORD.itemsize - torn if torn else 0) + record.tobytes())
            finally:
                os.close(handle)


def outline_of(path: str, seconds: float) -> Outline:
    """Compute the outline of a file of so many seconds; raises an AudioError if it can't be read."""
    wav = np.abs(read_audio(path, RATE, stop_seconds=min(seconds, LONGEST_SECONDS)))
    wav = wav if len(wav) else np.zeros(1, np.float32)
    block = min(round(LOUDEST_SECONDS * RATE), len(wav))
    energy = np.add.reduceat(np.square(wav, dtype=np.float64), np.arange(0, len(wav), block)).max()
    edges = np.linspace(0, len(wav), POINTS + 1)[:-1].astype(int)
    peaks = np.maximum.reduceat(wav, edges)
    points = np.rint(100 * peaks / max(float(peaks.max()), 1e-6)).astype(int).tolist()
    level, peak = 10 * np.log10(max(energy / block, 1e-10)), 20 * np.log10(max(float(peaks.max()), 1e-5))
    return Outline(points, round(float(level), 1), round(float(peak), 1))
