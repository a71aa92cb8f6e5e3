"""Rank a library by marks: sounds that a listener has answered with yes or with no.

A logistic regression learns from the windows of the marked sounds. Its weights are a direction in the space of the
embeddings, so they are the query of an ordinary search, with the same index and the same filters.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cochlea_sb.errors import MissingExtra, UserError
from cochlea_sb.files import as_utf8
from cochlea_sb.library.query import Query
from cochlea_sb.library.results import Match, match_of
from cochlea_sb.library.state import State

if TYPE_CHECKING:
    from cochlea_sb.library.sound_library import SoundLibrary

# Most sounds of a library are not wanted: random windows, all together, weigh as much as the answers "no". On ESC-10
# among 900 sounds, that raised the mAP of the rest from 0.65 (a tenth of the weight) to 0.73 after 5 yes and 5 no.
BACKGROUND = 1000
LOOKED_AT = 50_000  # windows among which the doubtful ones are looked for
STRENGTH = 10.0  # inverse of the regularisation


class Ranking:
    """A classifier of the sounds of a library, made from marks.

    Arguments
    ---------
    library : SoundLibrary
    yes, no : list of str or Path
        Sounds of the library. At least one "yes" is needed. Sounds that are drawn at random count as "no", too.

    Raises
    ------
    UserError
        If a sound is not in the library, is marked with both, or none is marked with "yes".
    MissingExtra
        If scikit-learn is not installed.
    """

    def __init__(self, library: SoundLibrary, yes: Iterable[str | os.PathLike[str]], no: Iterable[Any] = ()) -> None:
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise MissingExtra("Ranking by marks", "scikit-learn", "serve") from error
        self.library, self.state = library, library._state
        wanted, unwanted = rows_of(self.state, yes), rows_of(self.state, no)
        if not len(wanted):
            raise UserError("No sound is marked with yes: mark at least one.")
        both = np.intersect1d(wanted, unwanted)
        if len(both):
            path = self.state.sounds["path"][int(both[0])].as_py()
            raise UserError(f"'{path}' is marked with yes and with no: take one mark away.")
        self.marked = np.union1d(wanted, unwanted)
        others = np.setdiff1d(np.flatnonzero(self.state.readable), self.marked)
        background = drawn(self.state.windows_of(others), BACKGROUND)
        parts, answers, weights = [], [], []
        for rows, answer in ((wanted, 1), (unwanted, 0)):
            if len(rows):
                parts.append(self.state.vectors_of(self.state.windows_of(rows)))
                answers.append(np.full(len(parts[-1]), answer))
                weights.append(np.repeat(1 / len(rows) / self.state.counts[rows], self.state.counts[rows]))
        if len(background):
            parts.append(self.state.vectors_of(background))
            answers.append(np.zeros(len(background), int))
            weights.append(np.full(len(background), 1 / len(background)))
        elif not len(unwanted):
            raise UserError("All sounds are marked with yes: there is nothing to rank.")
        scale = len(self.marked)  # the weights of a class sum to 1: many marks then count more than the regularisation
        model = LogisticRegression(C=STRENGTH, max_iter=1000)
        model.fit(np.concatenate(parts), np.concatenate(answers), np.concatenate(weights) * scale)
        self.length = float(np.linalg.norm(model.coef_[0]))
        self.direction = (model.coef_[0] / max(self.length, 1e-9)).astype(np.float32)
        self.offset = float(model.intercept_[0])

    def probability(self, cosine: float) -> float:
        """Probability of "yes" of a window, from its cosine with the direction."""
        return 1 / (1 + math.exp(-max(-500.0, min(500.0, self.length * cosine + self.offset))))

    def matches(self, k: int = 10, **options: Any) -> list[Match]:
        """The sounds that are most probably wanted, without the marked ones; ``score`` is the probability of "yes".

        ``options`` are those of `SoundLibrary.search`: ``skip``, the filters, ``per_folder`` and ``fold_copies``.
        """
        marked = {self.state.sounds["path"][row].as_py() for row in self.marked.tolist()}
        found = self.library.search(Query(self.direction, marked), k, **options)
        return [match._replace(score=self.probability(match.score)) for match in found]

    def doubtful(self, k: int = 10) -> list[Match]:
        """The sounds whose probability of "yes" is nearest to 1/2: marking them teaches most.

        In a library of more than `LOOKED_AT` windows, they are looked for among so many random windows.
        """
        rows = np.setdiff1d(np.flatnonzero(self.state.readable), self.marked)
        windows = drawn(self.state.windows_of(rows), LOOKED_AT)
        if not len(windows):
            return []
        cosines, sounds = self.state.vectors_of(windows) @ self.direction, self.state.rows_of(windows)
        best = np.lexsort((-cosines, sounds))  # of each sound, its most probable window first
        firsts = best[np.unique(sounds[best], return_index=True)[1]]
        nearest = firsts[np.argsort(np.abs(self.length * cosines[firsts] + self.offset), kind="stable")[:k]]
        return [
            match_of(self.state, int(sounds[i]), int(windows[i]), self.probability(cosines[i]))
            for i in nearest.tolist()
        ]


def drawn(windows: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the windows, drawn at random, the same in each call; their numbers ascend."""
    if len(windows) <= count:
        return np.sort(windows)
    return np.sort(np.random.default_rng(0).choice(windows, count, replace=False))


def rows_of(state: State, paths: Iterable[str | os.PathLike[str]]) -> np.ndarray:
    """Rows of sounds; raises a UserError if a path is not in the library."""
    given = [os.path.expanduser(path) for path in paths]
    readable = np.flatnonzero(state.readable)
    known = state.sounds["path"].combine_chunks().take(pa.array(readable))
    places = np.full(len(given), -1)
    for form in (str, os.path.abspath, os.path.realpath):
        names = pa.array([as_utf8(form(path)) for path in given], pa.string())
        found = pc.fill_null(pc.index_in(names, value_set=known), -1).to_numpy(zero_copy_only=False)
        places = np.where(places < 0, found, places)
    if (places < 0).any():
        raise UserError(f"'{given[int(np.argmin(places))]}' is no sound of the library: index it first.")
    rows: np.ndarray = np.unique(readable[places]) if len(given) else np.zeros(0, np.int64)
    return rows
