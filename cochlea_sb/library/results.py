"""The results of `SoundLibrary.search` and `SoundLibrary.add`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cochlea_sb.files import as_named

if TYPE_CHECKING:
    from cochlea_sb.library.state import State


class Match(NamedTuple):
    """A part of a sound that is similar to the query.

    path : str, absolute path of a file, or ``dataset:NAME#ROW``
    start_seconds, end_seconds : float, the part of the sound
    score : float, cosine of the part's embedding and the query
    label : str, or None
    copies : tuple of str, paths of sounds that are left out because they are almost equal (``fold_copies``)
    """

    path: str
    start_seconds: float
    end_seconds: float
    score: float
    label: str | None = None
    copies: tuple[str, ...] = ()


class Added(NamedTuple):
    """What `SoundLibrary.add` did.

    added : int, number of new, changed and moved sounds (see `SoundLibrary.add`)
    unchanged : int, number of sounds that were skipped because they are already in the library
    problems : dict of str, the reason for each sound that this call could not read; the keys are paths
    relabelled : int, number of unchanged sounds that now have another label
    """

    added: int
    unchanged: int
    problems: dict[str, str]
    relabelled: int = 0


def match_of(state: State, row: int, window: int, score: float) -> Match:
    """Describe a window of the sound in a row of ``state.sounds`` as a `Match`."""
    path, seconds, label = (state.sounds[name][int(row)].as_py() for name in ("path", "seconds", "label"))
    start = round(int(window - state.firsts[row]) * state.manifest["hop_seconds"], 6)
    end = min(start + state.manifest["window_seconds"], seconds)
    return Match(as_named(path), start, max(start, round(end, 6)), float(score), label)
