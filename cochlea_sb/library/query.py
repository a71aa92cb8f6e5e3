"""What a search can start from: a file, a stretch of one, a waveform, an embedding, or a mixture of such examples."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cochlea_sb.errors import UserError

if TYPE_CHECKING:
    from cochlea_sb.inference.audio_encoder import AudioEncoder

FORMS = (
    "a file, (file, start_seconds, end_seconds), a waveform [samples], an embedding [{}], or a dict of examples and "
    "their weights"
)


class Example(NamedTuple):
    """A query ready to be searched with.

    vector : np.ndarray [D], float32, unit norm
    paths : set of str, names by which a library may know the files it was made of
    """

    vector: np.ndarray
    paths: set[str]


def embed_example(query: Any, dimensions: int, get_encoder: Callable[[], AudioEncoder]) -> Example:
    """The embedding of a query.

    Arguments
    ---------
    query :
        As in `SoundLibrary.search`.
    dimensions : int
        D.
    get_encoder : callable
        Gives the `AudioEncoder`; called only where there is something to encode.

    Returns
    -------
    Example

    Raises
    ------
    AudioError
        If a file can't be read.
    UserError
        If the query is of no form that is known, or a mixture cancels out.
    """
    if isinstance(query, list) and query and all(isinstance(part, (str, os.PathLike)) for part in query):
        query = [(part, 1.0) for part in query]
    if isinstance(query, dict) or (isinstance(query, list) and query and all(is_pair(part) for part in query)):
        return mixture(list(query.items()) if isinstance(query, dict) else query, dimensions, get_encoder)
    if isinstance(query, (str, os.PathLike)):
        path = os.path.expanduser(query)
        return Example(get_encoder().encode_file(path).cpu().numpy(), names_of(path))
    if isinstance(query, tuple) and len(query) in (2, 3) and isinstance(query[0], (str, os.PathLike)):
        path = os.path.expanduser(query[0])
        if not all(isinstance(second, (int, float, type(None))) for second in query[1:]) or query[1] is None:
            raise UserError(f"The stretch of '{path}' is {query[1:]}: expected its start and end in seconds.")
        return Example(get_encoder().encode_file(path, *query[1:]).cpu().numpy(), names_of(path))
    try:
        array = query.detach().cpu().numpy() if hasattr(query, "detach") else np.asarray(query)
        array = array.astype(np.float32) if array.dtype.kind in "fiu" else array
    except (ValueError, TypeError):  # rows of several lengths
        array = np.asarray(None)
    if array.dtype != np.float32 or array.ndim != 1 or not len(array):
        kind = f"an array of shape {list(array.shape)}" if array.ndim else f"a {type(query).__name__}"
        raise UserError(f"The query is {kind}: expected {FORMS.format(dimensions)}.")
    if not np.isfinite(array).all():
        raise UserError("The query holds NaN or infinite values: expected finite ones.")
    if len(array) == dimensions:
        return Example(unit(array, "The embedding is zero: expected a direction."), set())
    return Example(get_encoder().encode_batch(array)[0, 0].cpu().numpy(), set())


def mixture(parts: list[Any], dimensions: int, get_encoder: Callable[[], AudioEncoder]) -> Example:
    """The weighted sum of examples, of norm 1."""
    if not parts:
        raise UserError("The mixture is empty: expected at least one example and its weight.")
    total, paths = np.zeros(dimensions, np.float32), set()
    for query, weight in parts:
        if isinstance(weight, bool) or not isinstance(weight, (int, float, np.number)) or not np.isfinite(weight):
            raise UserError(f"The weight of '{query}' is {weight!r}: expected a finite number.")
        example = embed_example(query, dimensions, get_encoder)
        total += np.float32(weight) * example.vector
        paths |= example.paths
    return Example(unit(total, "The examples of the mixture cancel out: expected other weights."), paths)


def unit(vector: np.ndarray, sentence: str) -> np.ndarray:
    """A vector over its norm; UserError with a sentence where it has none."""
    norm = np.linalg.norm(vector.astype(np.float64))
    if not norm > 1e-6:
        raise UserError(sentence)
    scaled: np.ndarray = vector / norm
    return scaled.astype(np.float32)


def names_of(path: str) -> set[str]:
    """Names by which a library may know a file."""
    return {os.path.realpath(path), os.path.abspath(path)}


def is_pair(part: object) -> bool:
    return isinstance(part, (tuple, list)) and len(part) == 2 and isinstance(part[1], (int, float, np.number))
