"""A map of a library: a place in the plane for each sound, so that sounds which are alike lie close."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cochlea_sb.errors import MissingExtra
from cochlea_sb.library.state import State

FITTED = 20_000  # sounds from which the principal components are computed, and whose paths name the regions
WORD = re.compile(r"[^\W\d_]{3,}")
LEAST = 3  # sounds of a region whose paths hold the word that names it


class Region(NamedTuple):
    """A square of the map, named by the word that sets its sounds apart.

    x, y : float in [0, 1], middle of its sounds
    name : str
    level : int, 0 for the largest squares
    """

    x: float
    y: float
    name: str
    level: int


def middle_vectors(state: State, rows: np.ndarray) -> np.ndarray:
    """Unit vectors [n, D] of the middle windows of sounds."""
    return state.vectors_in_order(state.firsts[rows] + state.counts[rows] // 2)


def principal_places(vectors: np.ndarray) -> np.ndarray:
    """Places [n, 2] in [0, 1] from the first two principal components of vectors [n, D]."""
    fitted = vectors[spread(len(vectors))].astype(np.float64)
    centre = fitted.mean(0)
    _, axes = np.linalg.eigh((fitted - centre).T @ (fitted - centre))
    return in_unit_square((vectors - centre.astype(np.float32)) @ axes[:, :-3:-1].astype(np.float32))


def neighbour_places(vectors: np.ndarray) -> np.ndarray:
    """Places [n, 2] in [0, 1] by UMAP (McInnes et al. 2018), which keeps neighbours together.

    Takes about a minute for 20,000 sounds. Raises a MissingExtra if umap-learn is not installed.
    """
    try:
        import umap
    except ImportError as error:
        raise MissingExtra("A map of neighbours", "umap-learn", "map") from error
    start = 20 * principal_places(vectors) - 10
    neighbours = min(15, len(vectors) - 1)
    return in_unit_square(umap.UMAP(n_neighbors=neighbours, metric="cosine", init=start).fit_transform(vectors))


def spread(count: int) -> np.ndarray:
    """At most `FITTED` of the numbers from 0 to ``count - 1``, at equal distances."""
    numbers: np.ndarray = np.linspace(0, count - 1, min(FITTED, count)).astype(int)
    return numbers


def in_unit_square(places: np.ndarray) -> np.ndarray:
    """Spread places [n, 2] over [0, 1], by the mean of their scaled values and their ranks.

    The ranks keep a few outliers from pressing all others together.
    """
    low, high = np.percentile(places, [1, 99], axis=0)
    scaled = ((places - low) / np.maximum(high - low, 1e-9)).clip(0, 1)
    ranks = places.argsort(0, kind="stable").argsort(0, kind="stable") / max(1, len(places) - 1)
    spread_out: np.ndarray = 0.02 + 0.96 * (scaled + ranks) / 2
    return spread_out


def regions(places: np.ndarray, paths: Sequence[str], squares: Sequence[int] = (5, 14, 40)) -> list[Region]:
    """Name the squares of the map by words of the file names and folders in them.

    A word names a square if it is common there and rare elsewhere: the count in the square times the logarithm of its
    inverse frequency in the library. A word of all paths, or of less than a tenth of the square, names nothing.

    Arguments
    ---------
    places : np.ndarray [n, 2] in [0, 1]
    paths : list of str [n]
    squares : list of int, the number of squares in each direction, for each level
    """
    looked_at = spread(len(paths))
    places, paths = places[looked_at], [paths[place] for place in looked_at.tolist()]
    words = [
        set(WORD.findall(os.sep.join(path.rsplit(os.sep, 2)[-2:]).rpartition(".")[0].casefold())) for path in paths
    ]
    frequency = Counter(word for own in words for word in own)
    named = []
    for level, count in enumerate(squares):
        cells = np.minimum((places * count).astype(int), count - 1) @ [1, count]
        order = np.argsort(cells, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
            inside = Counter(word for place in members.tolist() for word in words[place])
            least = max(LEAST, 0.1 * len(members))
            scores = {
                word: held * np.log(len(paths) / frequency[word]) for word, held in inside.items() if held >= least
            }
            if any(scores.values()):
                x, y = np.median(places[members], 0).tolist()
                named.append(Region(x, y, max(scores, key=lambda word: (scores[word], word)), level))
    return named
