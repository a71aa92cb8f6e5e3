"""Look for more windows until enough sounds are found. n stands for the number of windows that are looked up."""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cochlea_sb.errors import UserError
from cochlea_sb.files import as_named
from cochlea_sb.library.filters import varied
from cochlea_sb.library.results import Match, match_of
from cochlea_sb.library.state import State


class Wanted(NamedTuple):
    """Which of the nearest windows a search returns; see `SoundLibrary.search`."""

    k: int
    skip: int
    every_window: bool
    per_folder: int | None
    fold_copies: bool

    def check(self) -> None:
        """Raise a UserError if a number is none, or too small."""
        most = 1 if self.per_folder is None else self.per_folder
        for name, number, least in (("k", self.k, 1), ("skip", self.skip, 0), ("per_folder", most, 1)):
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
                raise UserError(f"{name} is {number!r}: expected a whole number, at least {least}.")


def find(
    state: State, nearest: Callable[[int], tuple[np.ndarray, np.ndarray]], wanted: Wanted, left_out: set[str]
) -> list[Match]:
    """Return the wanted matches, best first.

    Arguments
    ---------
    state : State
    nearest : function from n to the cosines and the numbers of the n nearest windows, best first
    wanted : Wanted
    left_out : set of str, paths of sounds to leave out
    """
    most = wanted.skip + wanted.k
    n, paths = 2 * most + 32, state.sounds["path"]
    while True:
        scores, windows = nearest(n)
        rows = state.rows_of(windows)
        kept = state.known[rows]
        if left_out:
            kept = kept & np.array([paths[row].as_py() not in left_out for row in rows.tolist()], bool)
        kept = np.flatnonzero(kept)
        if not wanted.every_window:
            kept = kept[np.sort(np.unique(rows[kept], return_index=True)[1])]
        copies: dict[int, list[int]] = {}
        if wanted.per_folder is not None or wanted.fold_copies:
            folders = [os.path.dirname(paths[row].as_py()) for row in rows[kept].tolist()]
            vectors = state.vectors_in_order(windows[kept]) if wanted.fold_copies else None
            chosen, copies_of = varied(folders, vectors, wanted.per_folder)
            copies = {int(kept[place]): kept[others].tolist() for place, others in copies_of.items()}
            kept = kept[chosen]
        if len(kept) >= most or len(windows) < n:
            break
        n *= 4
    places = kept[wanted.skip : most].tolist()
    matches = [match_of(state, rows[i], windows[i], scores[i]) for i in places]
    if wanted.fold_copies:
        names = [[as_named(paths[int(rows[i])].as_py()) for i in copies[j]] for j in places]
        matches = [match._replace(copies=tuple(own)) for match, own in zip(matches, names, strict=True)]
    return matches
