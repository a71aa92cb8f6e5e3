"""Which sounds a search may find, and which of its matches it returns."""

import fnmatch
import os
import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cochlea_sb.errors import UserError
from cochlea_sb.files import as_utf8
from cochlea_sb.library.state import Passed, State

REMEMBERED = 8  # filters; a collection is often searched several times with the same filter
REMEMBERED_WINDOWS = 200_000  # that pass them, unless one alone passes more; each takes up to 600 bytes
COPY_SIMILARITY = 0.985  # cosine of two windows from which on their sounds count as copies


class Filter(NamedTuple):
    """The sounds that a search may find. None means: all.

    path : str or Path, text in the path, or a pattern (``*/kicks/*.wav``) of the full path
    label : str
    words : str, words that the path holds, in capital or small letters; it must not hold a word after a minus sign
    min_seconds, max_seconds : float, shortest and longest duration
    """

    path: str | os.PathLike[str] | None = None
    label: str | None = None
    words: str | None = None
    min_seconds: float | None = None
    max_seconds: float | None = None

    def passed(self, state: State) -> Passed | None:
        """The sounds that pass, or None if all do; errors as in `check` and `stored`.

        The last filters are remembered.
        """
        self.check()
        key = self._replace(path=None if self.path is None else os.fspath(self.path), words=self.words or None)
        if key == Filter():
            return None
        found = state.passed.get(key)
        if found is None:
            rows = self.rows(state)
            found = Passed(rows, state.windows_of(rows))
            held = sum(len(other.windows) for other in list(state.passed.values()))  # threads may add others
            if len(state.passed) >= REMEMBERED or held + len(found.windows) > REMEMBERED_WINDOWS:
                state.passed.clear()
            state.passed[key] = found
        return found

    def check(self) -> None:
        """Raise a UserError for values of a wrong type."""
        texts = self.path, self.label, self.words
        if not all(isinstance(text, (str, type(None))) for text in texts[1:]) or not isinstance(
            self.path, (str, os.PathLike, type(None))
        ):
            raise UserError(
                f"path is {self.path!r}, label is {self.label!r} and words is {self.words!r}: expected text, or None "
                "for all sounds."
            )
        for name in ("min_seconds", "max_seconds"):
            number = getattr(self, name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float, np.number))):
                raise UserError(f"{name} is {number!r}: expected a number of seconds, or None.")

    def rows(self, state: State) -> np.ndarray:
        """Rows of the readable sounds that pass; errors as in `stored`."""
        passed = state.readable.copy()
        paths = state.sounds["path"]
        if self.label is not None:
            passed &= pc.fill_null(pc.equal(state.sounds["label"], stored(self.label)), False).to_numpy()
        if self.min_seconds is not None:
            passed &= state.sounds["seconds"].to_numpy() >= self.min_seconds
        if self.max_seconds is not None:
            passed &= state.sounds["seconds"].to_numpy() <= self.max_seconds
        if self.path is not None:
            passed &= with_path(paths, stored(os.fspath(self.path)))
        if self.words:
            passed &= with_words(paths, stored(self.words.casefold()).split())
        return np.flatnonzero(passed)


def stored(text: str) -> str:
    """The text as a library stores it (`as_utf8`); raises a UserError for a text that no file name can hold."""
    try:
        return as_utf8(text)
    except UnicodeEncodeError as error:
        raise UserError(f"{text[:40]!r} holds a character that no path holds: leave the character out.") from error


def with_path(paths: pa.ChunkedArray, path: str) -> np.ndarray:
    """Which paths hold a text, or match a pattern, [S] bool."""
    wild = any(sign in path for sign in "*?[")
    passed = np.ones(len(paths), bool)
    for part in re.split(r"[*?]|\[.*", path, flags=re.DOTALL) if wild else [path]:
        passed &= pc.match_substring(paths, part).to_numpy()
    if wild:  # few paths are left for the pattern
        matches = re.compile(fnmatch.translate(path)).match
        rows = np.flatnonzero(passed)
        passed[rows] = [matches(name) is not None for name in paths.take(pa.array(rows)).to_pylist()]
    return passed


def with_words(paths: pa.ChunkedArray, words: list[str]) -> np.ndarray:
    """Which paths hold all words, in lower case, and none of the words after a minus sign, [S] bool."""
    passed, lower = np.ones(len(paths), bool), casefolded(paths)
    for word in words:
        absent = word.startswith("-") and len(word) > 1
        passed &= pc.match_substring(lower, word[absent:]).to_numpy() != absent
    return passed


def casefolded(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Fold the case of texts as `str.casefold` does.

    Example
    -------
    >>> casefolded(pa.chunked_array([["KICK", "Straße"]])).to_pylist()
    ['kick', 'strasse']
    """
    chunks = []
    for chunk in texts.chunks:
        others = pc.invert(pc.string_is_ascii(chunk))
        folded = pa.array([text.casefold() for text in chunk.filter(others).to_pylist()], pa.string())
        chunks.append(pc.replace_with_mask(pc.ascii_lower(chunk), others, folded))
    return pa.chunked_array(chunks, pa.string())


def varied(
    folders: list[str], vectors: np.ndarray | None, per_folder: int | None
) -> tuple[list[int], dict[int, list[int]]]:
    """Choose varied matches from matches that are sorted by score, the best first.

    Arguments
    ---------
    folders : list of str, the folder of each match
    vectors : np.ndarray [n, D] or None, unit vectors of the matches; None: copies are not folded
    per_folder : int or None, largest number of chosen matches of a folder

    Returns
    -------
    chosen : list of int
        Positions of the chosen matches, in the order of their scores.
    copies : dict of list of int
        For each chosen match, the positions of its copies, which are left out.
    """
    chosen: list[int] = []
    copies: dict[int, list[int]] = {}
    taken: dict[str, int] = {}
    for place, folder in enumerate(folders):
        if vectors is not None and chosen:
            similar = vectors[chosen] @ vectors[place]
            nearest = int(similar.argmax())
            if similar[nearest] >= COPY_SIMILARITY:
                copies[chosen[nearest]].append(place)
                continue
        if per_folder is not None and taken.get(folder, 0) >= per_folder:
            continue
        taken[folder] = taken.get(folder, 0) + 1
        chosen.append(place)
        copies[place] = []
    return chosen, copies
