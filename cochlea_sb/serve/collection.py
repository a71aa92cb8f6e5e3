"""What the page knows about a library: sounds by a short name, their outlines, examples, the map and the duplicates.

The page names a sound by the first 16 hexadecimal digits of the hash of its path, so a page can be reloaded after the
library has changed, and no path is ever taken from a request.
"""

import hashlib
import os
import threading
import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cochlea_sb.audio import read_audio
from cochlea_sb.data import LIBRARY_MANIFEST
from cochlea_sb.errors import AudioError, UserError, one_line
from cochlea_sb.files import as_named, as_utf8, whole_file
from cochlea_sb.library.duplicates import Duplicate, find_duplicates
from cochlea_sb.library.filters import Filter
from cochlea_sb.library.map import middle_vectors, neighbour_places, principal_places, regions
from cochlea_sb.library.query import Query, Text
from cochlea_sb.library.results import Match
from cochlea_sb.library.sound_library import SoundLibrary
from cochlea_sb.library.state import State, state_of
from cochlea_sb.serve.outlines import Outline, Outlines, outline_of

MOST_EXAMPLES = 200  # uploaded examples that are remembered; only their embeddings are kept
LONGEST_EXAMPLE_SECONDS = 600.0
TEXT = "text:"  # begins an example that is words, not a sound
LOOK_SECONDS = 1.0  # time between two looks whether the library has changed on the disk
COLOURS = 11  # labels, and folders, that have their own colour on the map; the others share one
POINT = np.dtype([("x", "<u2"), ("y", "<u2"), ("label", "u1"), ("folder", "u1"), ("id", "V8")])


class Sound:
    """A row of the catalogue, as the page shows it."""

    def __init__(self, state: State, row: int, name: str) -> None:
        path, label, seconds = (state.sounds[column][row].as_py() for column in ("path", "label", "seconds"))
        self.name, self.row, self.path, self.label, self.seconds = name, row, as_named(path), label, float(seconds)

    def as_json(self) -> dict[str, Any]:
        folder, file = os.path.split(as_utf8(self.path))  # `cochlea rank` reads this form
        return {"id": self.name, "name": file, "folder": folder, "label": self.label, "seconds": round(self.seconds, 3)}


class Task:
    """A long computation in its own thread of low priority, for one state of the library.

    Arguments
    ---------
    compute : function of a list that gives its items and counts them: the progress
    """

    def __init__(self, compute: Callable[[Callable[[list[int]], Iterator[int]]], Any]) -> None:
        self.done, self.result, self.error = 0.0, None, ""

        def run() -> None:
            with suppress(AttributeError, OSError):  # searches go first; only Linux gives threads a priority
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            try:
                self.result = compute(self.watched)
            except Exception as error:  # the page tells it; otherwise it would wait for ever
                if not isinstance(error, (UserError, OSError)):
                    traceback.print_exc()
                self.error = one_line(error)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def watched(self, items: list[int]) -> Iterator[int]:
        for place, item in enumerate(items):
            self.done = place / len(items)
            yield item


class Collection:
    """A library that several requests read at the same time."""

    def __init__(self, library: SoundLibrary) -> None:
        self.library = library
        self.lock, self.encoding = threading.Lock(), threading.Lock()
        self.examples: OrderedDict[str, np.ndarray] = OrderedDict()
        self.outlines = Outlines(library.store.folder)
        self.id = short_name(str(library.store.folder.resolve()))
        self.looked, self.stamp = 0.0, self.stamp_on_disk()
        self.take()

    def warm_up(self) -> None:
        """Load the encoder and the index, and draw the map, in threads: the first who asks need not wait for them."""

        def run() -> None:
            with suppress(UserError, AudioError):  # the first query tells what is wrong
                with self.encoding:
                    query = self.library.encode(np.zeros(16_000, np.float32) + 0.01)
                self.library.search(query, 1)
            self.task("pca")

        threading.Thread(target=run, daemon=True).start()

    def stamp_on_disk(self) -> tuple[int, int, int]:
        """What tells one version of the library from the next."""
        try:
            facts = os.stat(self.library.store.folder / LIBRARY_MANIFEST)
        except OSError:
            return (0, 0, 0)
        return facts.st_ino, facts.st_mtime_ns, facts.st_size

    def is_stale(self) -> bool:
        """Whether another process has changed the library; looks at the disk once a second."""
        if time.monotonic() < self.looked + LOOK_SECONDS:
            return False
        self.looked = time.monotonic()
        return self.stamp_on_disk() not in (self.stamp, (0, 0, 0))

    def read(self) -> None:
        """Read the changes of other processes."""
        with self.lock:
            stamp = self.stamp_on_disk()
            self.library.refresh()
            self.stamp = stamp
            self.take()

    def take(self) -> None:
        """Take the state of the library, and forget what was computed from the last one."""
        self.state = self.library._state
        self.readable = np.flatnonzero(self.state.readable)
        paths = self.state.sounds["path"].to_pylist()
        self.names = [short_name(paths[row]) for row in self.readable.tolist()]
        self.rows = dict(zip(self.names, self.readable.tolist(), strict=True))
        self.tasks: dict[str, Task] = {}

    def sound(self, name: str) -> Sound:
        """Raises a UserError if the library holds no such sound."""
        row = self.rows.get(name)
        if row is None:
            raise UserError(f"The library holds no sound '{name[:16]}': perhaps it was removed; search again.")
        return Sound(self.state, row, name)

    def sound_of(self, match: Match) -> dict[str, Any]:
        """A match, its stretch, and its copies."""
        stretch = {"start": match.start_seconds, "end": match.end_seconds, "score": round(match.score, 4)}
        copies = [self.at(path).as_json() for path in match.copies]
        return self.at(match.path).as_json() | stretch | {"copies": copies}

    def at(self, path: str) -> Sound:
        return self.sound(short_name(as_utf8(path)))

    def browse(self, filters: dict[str, Any], seed: int, k: int, skip: int) -> list[Sound]:
        """Sounds in an order that is drawn from ``seed``."""
        state = self.state
        passed = Filter(**filters).passed(state)
        rows = self.readable if passed is None else passed.rows
        chosen = rows[np.random.default_rng(seed).permutation(len(rows))[skip : skip + k]]
        paths = [state.sounds["path"][row].as_py() for row in chosen.tolist()]
        return [Sound(state, row, short_name(path)) for row, path in zip(chosen.tolist(), paths, strict=True)]

    def add_example(self, content: bytes) -> str:
        """Embed the contents of a file. Returns a name for `query`; the sound itself is not kept."""
        with self.encoding:
            wav = read_audio(content, self.library._loaded().sample_rate, max_seconds=LONGEST_EXAMPLE_SECONDS)
            vector = self.library.encode(wav).vector
            name = f"u{hashlib.sha256(content).hexdigest()[:16]}"
            self.examples[name] = vector
            self.examples.move_to_end(name)
            while len(self.examples) > MOST_EXAMPLES:
                self.examples.popitem(last=False)
        return name

    def query(self, example: str) -> Query:
        """The query ``NAME``, ``NAME,start,end`` for a part of a sound of the library, or ``text:WORDS``."""
        if example.startswith(TEXT):
            with self.encoding:
                return self.library.encode(Text(example.removeprefix(TEXT)))
        name, *part = example.split(",")
        vector = self.examples.get(name)
        if vector is not None:
            return Query(vector, set())
        if name.startswith("u"):
            raise UserError("The server has forgotten your sound: drop or record it again.")
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

    def search(self, examples: list[tuple[str, float]], k: int, options: dict[str, Any]) -> list[Match]:
        """Search by weighted examples; their own sounds are left out."""
        return self.library.search([(self.query(example), weight) for example, weight in examples], k, **options)

    def rank(self, yes: list[str], no: list[str], doubtful: bool, k: int, options: dict[str, Any]) -> list[Match]:
        """Rank the library by marked sounds, as `SoundLibrary.rank` does."""
        wanted, unwanted = ([self.sound(name).path for name in names if name in self.rows] for names in (yes, no))
        return self.library.rank(wanted, unwanted, k, doubtful=doubtful, **options)

    def outline(self, name: str) -> Outline:
        sound = self.sound(name)
        content = self.state.sounds["content"][sound.row].as_py() or ""
        key = hashlib.sha256(f"{sound.path}\0{content}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
        outline = self.outlines.get(key)
        if outline is None:
            outline = outline_of(sound.path, sound.seconds)
            with self.lock:
                self.outlines.put(key, outline)
        return outline

    def task(self, name: str) -> Task:
        """Start a computation, unless it runs already or is done: ``duplicates``, ``pca`` or ``umap``."""
        state = self.state
        computations: dict[str, Callable[[Any], Any]] = {
            "duplicates": lambda watch: find_duplicates(state, watch),
            "pca": lambda watch: self.map_of(state, principal_places),
            "umap": lambda watch: self.map_of(state, partial(kept_places, self.library.store.folder, state)),
        }
        with self.lock:
            if name not in self.tasks:
                self.tasks[name] = Task(computations[name])
            return self.tasks[name]

    def map_of(self, state: State, place: Callable[[np.ndarray], np.ndarray]) -> tuple[dict[str, Any], bytes]:
        """What the map shows, and its points: an array of `POINT` in the order of the rows."""
        rows = np.flatnonzero(state.readable)
        if len(rows) < 3:
            raise UserError(f"The library holds {len(rows)} sounds: a map needs at least 3.")
        taken = state.sounds.take(rows)
        paths, labels = taken["path"].to_pylist(), taken["label"].to_pylist()
        places = place(middle_vectors(state, rows))
        folders = [os.path.dirname(path) for path in paths]
        points = np.empty(len(rows), POINT)
        points["x"], points["y"] = np.rint(65535 * places).astype(np.uint16).T
        facts: dict[str, Any] = {"count": len(rows)}
        for kind, values in (("label", labels), ("folder", folders)):
            common = [
                value for value, _ in Counter(value for value in values if value is not None).most_common(COLOURS)
            ]
            numbers = {value: number for number, value in enumerate(common)}
            points[kind] = [numbers.get(value, COLOURS) for value in values]
            facts[f"{kind}s"] = common
        points["id"] = np.frombuffer(bytes.fromhex("".join(map(short_name, paths))), "V8")
        facts["regions"] = [region._asdict() for region in regions(places, paths)]
        return facts, points.tobytes()

    def duplicate(self, one: Duplicate) -> dict[str, Any]:
        """A file of a group of duplicates."""
        facts = {"size": one.size, "sample_rate": one.sample_rate, "encoding": one.encoding}
        return self.at(one.path).as_json() | facts


def kept_places(folder: Path, state: State, vectors: np.ndarray) -> np.ndarray:
    """`neighbour_places`, kept beside the library in ``map-KEY.npy``, where the key names the state of the library."""
    file = folder / f"map-{state_of(state)}.npy"
    if file.is_file() and not file.is_symlink() and file.stat().st_size < 8 * len(vectors) + 1000:
        with suppress(OSError, ValueError):
            places = np.load(file, allow_pickle=False)
            if places.shape == (len(vectors), 2) and places.dtype == np.float32 and np.isfinite(places).all():
                clipped: np.ndarray = places.clip(0, 1)
                return clipped
    places = neighbour_places(vectors).astype(np.float32)
    with suppress(OSError):
        for old in folder.glob("map-*.npy"):
            old.unlink()
        with whole_file(file) as partial_file, open(partial_file, "wb") as opened:
            np.save(opened, places, allow_pickle=False)
    return places


def short_name(path: str) -> str:
    """The name of a sound for the page: 16 hexadecimal digits."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def shown_path(path: str) -> str:
    """A path as text; bytes that are not UTF-8 become question marks."""
    return path.encode("utf-8", "replace").decode()


def seconds_of(part: list[str], longest: float) -> tuple[float, float]:
    """Parse ``[start, end]``; raises a UserError if they are no part of the sound."""
    try:
        start, end = (float(second) for second in part)
    except ValueError as error:
        raise UserError(f"The part is {part}: expected start and end in seconds.") from error
    if not 0 <= start < end <= longest + 0.01:
        raise UserError(f"The part is {start} to {end} s: expected one inside the {longest:g} s of the sound.")
    return start, end
