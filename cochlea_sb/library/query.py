"""Encode the query of `SoundLibrary.search`: a file, a part of it, a text, a waveform, an embedding, or a mixture."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from cochlea_sb.audio import read_audio
from cochlea_sb.errors import UserError
from cochlea_sb.files import as_utf8

if TYPE_CHECKING:
    import torch

    from cochlea_sb.inference.encoder import Encoder

LOGGER = logging.getLogger(__name__)
SILENT = 1e-4  # samples of a silent sound are smaller; it is 80 dB below full scale
SHORTEST_SECONDS = 0.05  # of a waveform; a shorter one is probably an embedding of another encoder
LARGEST = 1e30  # weight of a query, or second of a part
FORMS = (
    "a file, (file, start_seconds, end_seconds), a Text, a waveform [samples], an embedding [{}], or a dict of such "
    "queries and their weights"
)


@dataclass(frozen=True)
class Text:
    """Words that describe a sound, as a query. The encoder of the library must take text, as CLAP does.

    Arguments
    ---------
    words : str

    Example
    -------
    >>> Text("rain on a tin roof")
    Text(words='rain on a tin roof')
    """

    words: str


AnyQuery: TypeAlias = (
    "str | os.PathLike[str] | Text | tuple[Any, ...] | list[Any] | dict[Any, float] | np.ndarray | torch.Tensor | Query"
)


class Query(NamedTuple):
    """An encoded query.

    vector : np.ndarray [D], float32, unit norm; D is the number of embedding dimensions
    paths : set of str, paths of the files in the query
    """

    vector: np.ndarray
    paths: set[str]


def encode_query(given: Any, dimensions: int, get_encoder: Callable[[], Encoder]) -> Query:
    """Encode a query, with the errors of `SoundLibrary.search`. ``get_encoder`` is not called for an embedding."""
    if isinstance(given, Query):
        return given
    if isinstance(given, list) and given and all(isinstance(part, (str, os.PathLike)) for part in given):
        given = [(part, 1.0) for part in given]
    if isinstance(given, dict) or (isinstance(given, list) and given and all(is_weighted(part) for part in given)):
        return mixture(list(given.items()) if isinstance(given, dict) else given, dimensions, get_encoder)
    if isinstance(given, Text):
        return Query(finite(get_encoder().encode_text(given.words), f"The embedding of '{given.words}'"), set())
    if isinstance(given, (str, os.PathLike)):
        given = (given,)
    if isinstance(given, tuple) and len(given) in (1, 2, 3) and isinstance(given[0], (str, os.PathLike)):
        path, part = os.path.expanduser(given[0]), given[1:]
        if part[:1] == (None,) or not all(second is None or is_number(second) for second in part):
            raise UserError(f"The part of '{path}' is {part}: expected its start and end in seconds.")
        part = tuple(None if second is None else float(second) for second in part)
        names = {as_utf8(os.path.realpath(path)), as_utf8(os.path.abspath(path))}  # a library may hold either path
        encoder = get_encoder()
        wav = read_audio(path, encoder.sample_rate, **dict(zip(("start_seconds", "stop_seconds"), part, strict=False)))
        return Query(encode_wav(encoder, wav, f"'{path}'"), names)
    try:
        array = given.detach().cpu().numpy() if hasattr(given, "detach") else np.asarray(given)
        array = array.astype(np.float32) if array.dtype.kind in "fiu" else array
    except (ValueError, TypeError):  # rows of different lengths
        array = np.asarray(None)
    if array.dtype != np.float32 or array.ndim != 1 or not len(array):
        kind = f"an array of shape {list(array.shape)}" if array.ndim else f"a {type(given).__name__}"
        raise UserError(f"The query is {kind}: expected {FORMS.format(dimensions)}.")
    if not np.isfinite(array).all():
        raise UserError("The query holds NaN or infinite values: expected finite numbers.")
    if len(array) == dimensions:
        return Query(unit(array, "The embedding is zero: expected another vector."), set())
    if len(array) < SHORTEST_SECONDS * get_encoder().sample_rate:
        raise UserError(
            f"The query has {len(array)} numbers: expected an embedding of {dimensions} numbers, or a waveform of at "
            f"least {SHORTEST_SECONDS} s."
        )
    return Query(encode_wav(get_encoder(), array, "the waveform"), set())


def encode_wav(encoder: Encoder, wav: np.ndarray, name: str) -> np.ndarray:
    """Encode a waveform; warns if it is silent."""
    if np.abs(wav).max() < SILENT:
        LOGGER.warning("The query holds only silence, so its matches mean little: %s.", name)
    return finite(encoder.encode_waveform(wav), f"The embedding of {name}")


def mixture(parts: list[Any], dimensions: int, get_encoder: Callable[[], Encoder]) -> Query:
    """Encode pairs ``(query, weight)`` as the weighted sum of the queries' embeddings, scaled to norm 1."""
    if not parts:
        raise UserError("The mixture is empty: expected at least one query and its weight.")
    total, paths = np.zeros(dimensions), set()
    for given, weight in parts:
        if not is_number(weight):
            number = repr(weight) if len(repr(weight)) < 40 else "a huge number"
            raise UserError(f"The weight of '{given}' is {number}: expected one from {-LARGEST:g} to {LARGEST:g}.")
        query = encode_query(given, dimensions, get_encoder)
        total += float(weight) * query.vector
        paths |= query.paths
    return Query(unit(total, "The mixture is zero (weights of 0, or queries cancel out): change its weights."), paths)


def finite(vector: torch.Tensor, what: str) -> np.ndarray:
    """Convert an embedding; raises a UserError if it is not finite, as of an encoder that overflows."""
    array: np.ndarray = vector.cpu().numpy()
    if not np.isfinite(array).all():
        raise UserError(f"{what} is not finite: the encoder can't embed it.")
    return array


def unit(vector: np.ndarray, message: str) -> np.ndarray:
    """Divide a vector by its norm; raises a UserError with ``message`` if the norm is almost 0."""
    norm = np.linalg.norm(vector.astype(np.float64))
    if not norm > 1e-6:
        raise UserError(message)
    scaled: np.ndarray = vector / norm
    return scaled.astype(np.float32)


def is_number(given: object) -> bool:
    """Whether ``given`` is a finite number of a size that can be computed with."""
    return isinstance(given, Real) and not isinstance(given, bool) and bool(abs(given) <= LARGEST)  # type: ignore[operator]


def is_weighted(part: object) -> bool:
    """Whether ``part`` is a pair ``(query, weight)``."""
    return isinstance(part, (tuple, list)) and len(part) == 2 and isinstance(part[1], (int, float, np.number))
