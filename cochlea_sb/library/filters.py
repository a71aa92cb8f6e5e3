"""Which sounds a search may find, and which of its matches it returns."""

import fnmatch
import os
import re
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from cochlea_sb.errors import UserError
from cochlea_sb.library.state import State

COPY_SIMILARITY = 0.97  # cosine of two windows from which on their sounds count as copies


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

    def rows(self, state: State) -> np.ndarray | None:
        """Rows of the readable sounds that pass, or None if all do; raises a UserError for values of a wrong type."""
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
        if self == Filter():
            return None
        passed = state.readable.copy()
        if self.label is not None:
            passed &= pc.fill_null(pc.equal(state.sounds["label"], self.label), False).to_numpy()
        if self.min_seconds is not None:
            passed &= state.sounds["seconds"].to_numpy() >= self.min_seconds
        if self.max_seconds is not None:
            passed &= state.sounds["seconds"].to_numpy() <= self.max_seconds
        names = state.sounds["path"].to_pylist() if self.path is not None or self.words else []
        if self.path is not None:
            path = os.fspath(self.path)
            wild = any(sign in path for sign in "*?[")
            matches = re.compile(fnmatch.translate(path)).match if wild else None
            passed &= np.array([bool(matches(name)) if matches else path in name for name in names], bool)
        for word in (self.words or "").casefold().split():
            absent = word.startswith("-") and len(word) > 1
            passed &= np.array([(word[absent:] in name.casefold()) != absent for name in names], bool)
        return np.flatnonzero(passed)


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
