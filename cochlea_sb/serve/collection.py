"""What the page knows about a library: sounds by a short name, their audio, their outlines, and examples.

The page names a sound by the first 16 hexadecimal digits of the hash of its path, so a page can be reloaded after the
library has changed, and no path is ever taken from a request.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from cochlea_sb.audio import read_audio
from cochlea_sb.errors import UserError
from cochlea_sb.files import as_named
from cochlea_sb.library.query import Query
from cochlea_sb.library.results import Match
from cochlea_sb.library.sound_library import SoundLibrary
from cochlea_sb.library.state import State

OUTLINE_POINTS, OUTLINE_RATE = 240, 8000  # Hz
LOUDEST_SECONDS = 0.4
LARGEST_EXAMPLES = 200  # uploaded examples that are remembered; only their embeddings are kept
KEPT_OUTLINES = 10_000
LONGEST_OUTLINE_SECONDS = 600.0


class Sound:
    """A row of the catalogue, as the page shows it."""

    def __init__(self, state: State, row: int, name: str) -> None:
        path, label, seconds = (state.sounds[column][row].as_py() for column in ("path", "label", "seconds"))
        self.name, self.row, self.path, self.label, self.seconds = name, row, as_named(path), label, float(seconds)

    def as_json(self) -> dict[str, Any]:
        folder, file = os.path.split(self.path)
        return {"id": self.name, "name": file, "folder": folder, "label": self.label, "seconds": round(self.seconds, 3)}


class Collection:
    """A library that several requests read at the same time."""

    def __init__(self, library: SoundLibrary) -> None:
        self.library = library
        self.lock = threading.Lock()
        self.examples: OrderedDict[str, np.ndarray] = OrderedDict()
        self.outlines: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.read()

    def read(self) -> None:
        """Read the changes of other processes."""
        with self.lock:
            self.library.refresh()
            self.state = self.library._state
            rows = np.flatnonzero(self.state.readable).tolist()
            paths = self.state.sounds["path"].to_pylist()
            self.rows = {short_name(paths[row]): row for row in rows}
            self.names = list(self.rows)

    def sound(self, name: str) -> Sound:
        """Raises a UserError if the library holds no such sound."""
        row = self.rows.get(name)
        if row is None:
            raise UserError(f"The library holds no sound '{name[:16]}': perhaps it was removed; search again.")
        return Sound(self.state, row, name)

    def random(self, count: int) -> list[Sound]:
        chosen = np.random.default_rng().permutation(len(self.names))[:count]
        return [self.sound(self.names[place]) for place in chosen.tolist()]

    def add_example(self, content: bytes) -> str:
        """Embed the contents of a file. Returns a name for `query`; the sound itself is not kept."""
        with self.lock:
            encoder = self.library.encoder
            wav = read_audio(content, encoder.sample_rate, max_seconds=LONGEST_OUTLINE_SECONDS)
            vector = self.library.encode(wav).vector
            name = f"u{hashlib.sha256(content).hexdigest()[:16]}"
            self.examples[name] = vector
            self.examples.move_to_end(name)
            while len(self.examples) > LARGEST_EXAMPLES:
                self.examples.popitem(last=False)
        return name

    def query(self, example: str) -> Query:
        """The query ``NAME``, or ``NAME,start,end`` for a part of a sound of the library."""
        name, *part = example.split(",")
        if name in self.examples:
            return Query(self.examples[name], set())
        sound = self.sound(name)
        state = self.state
        windows = state.windows_of(np.array([sound.row]))
        vectors = state.vectors_of(windows)
        if part:
            start, end = seconds_of(part, sound.seconds)
            starts = np.arange(len(windows)) * state.manifest["hop_seconds"]
            ends = starts + state.manifest["window_seconds"]
            overlap = np.minimum(ends, end) - np.maximum(starts, start)
            chosen = overlap >= 0.5 * min(end - start, state.manifest["window_seconds"])
            vectors = vectors[chosen if chosen.any() else [int(overlap.argmax())]]
        mean = vectors.mean(0)
        path = state.sounds["path"][sound.row].as_py()
        return Query(mean / max(float(np.linalg.norm(mean)), 1e-9), {path})

    def search(self, examples: list[tuple[str, float]], k: int, skip: int, filters: dict[str, Any]) -> list[Match]:
        """Search by weighted examples; their own sounds are left out."""
        query = [(self.query(example), weight) for example, weight in examples]
        return self.library.search(query, k, skip=skip, **filters)

    def outline(self, name: str) -> dict[str, Any]:
        """``outline``: the loudest sample, 0 to 100, of each of `OUTLINE_POINTS` parts of a sound.

        ``level``: the level of its loudest `LOUDEST_SECONDS` in dB, where 0 is that of a square wave of amplitude 1.
        """
        if name not in self.outlines:
            sound = self.sound(name)
            seconds = min(sound.seconds, LONGEST_OUTLINE_SECONDS)
            wav = np.abs(read_audio(sound.path, OUTLINE_RATE, stop_seconds=seconds))
            block = round(LOUDEST_SECONDS * OUTLINE_RATE)
            energies = (
                np.add.reduceat(np.square(wav), np.arange(0, max(len(wav), 1), block)) if len(wav) else np.zeros(1)
            )
            level = 10 * np.log10(max(float(energies.max()) / min(block, max(len(wav), 1)), 1e-10))
            edges = np.linspace(0, len(wav), OUTLINE_POINTS + 1).astype(int)
            peaks = np.array(
                [wav[a : max(b, a + 1)].max(initial=0) for a, b in zip(edges[:-1], edges[1:], strict=True)]
            )
            points = np.rint(100 * peaks / max(float(peaks.max(initial=0)), 1e-6)).astype(int).tolist()
            self.outlines[name] = {"outline": points, "level": round(level, 1)}
            while len(self.outlines) > KEPT_OUTLINES:
                self.outlines.popitem(last=False)
        return self.outlines[name]


def short_name(path: str) -> str:
    """The name of a sound for the page: 16 hexadecimal digits."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def seconds_of(part: list[str], longest: float) -> tuple[float, float]:
    """Parse ``[start, end]``; raises a UserError if they are no part of the sound."""
    try:
        start, end = (float(second) for second in part)
    except ValueError as error:
        raise UserError(f"The part is {part}: expected start and end in seconds.") from error
    if not 0 <= start < end <= longest + 0.01:
        raise UserError(f"The part is {start} to {end} s: expected one inside the {longest:g} s of the sound.")
    return start, end
