"""The results of `SoundLibrary.search` and `SoundLibrary.add`."""

from typing import NamedTuple


class Match(NamedTuple):
    """A part of a sound that is similar to the query.

    path : str, absolute path of a file, or name of a row of a dataset
    start_seconds, end_seconds : float
    score : float, cosine
    label : str, or None
    """

    path: str
    start_seconds: float
    end_seconds: float
    score: float
    label: str | None = None


class Added(NamedTuple):
    """What `SoundLibrary.add` did.

    added : int, number of new and changed sounds
    unchanged : int, number of sounds that were skipped because the library has them
    problems : dict of str, reason by path for each sound that could not be read this time
    """

    added: int
    unchanged: int
    problems: dict[str, str]
