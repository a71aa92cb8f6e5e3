"""Find sounds that are the same to the ear, although their files differ in format, level, lead-in or length.

The embeddings propose pairs of sounds. Their loudness curves, which are 80 times shorter, refuse most of
the pairs. The waveforms decide: two sounds are the same if they correlate at some shift.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import correlate

from cochlea_sb.audio import read_audio
from cochlea_sb.errors import AudioError
from cochlea_sb.files import as_named
from cochlea_sb.library.state import State

NEIGHBOURS = 64  # windows that are looked at for each sound
SIMILAR = 0.6  # cosine from which on the waveforms of two sounds are compared
# Correlation of two waveforms that are the same: of noise, of which a lossy codec changes much, and of other sounds.
# Short low sounds, such as bass drums, correlate well with others of their kind.
SAME_NOISE, SAME = 0.9, 0.98
NOISE = 300  # effective number of frequencies in the spectrum of a sound from which on it counts as noise
ALIKE = 0.65  # correlation of two loudness curves from which on the waveforms are compared (99 % of copies: over 0.73)
FLOOR = 1e-4  # of the loudest energy: what is fainter doesn't change the loudness
SHARE = 0.5  # of the energy of both sounds that must lie where they overlap
COMPARED_SECONDS = 30.0
SAMPLE_RATE = 16_000
HOP = 80  # samples of a value of a loudness curve
KEPT = 64  # decoded sounds that are kept in memory, 2 MB each
KEPT_CURVES = 20_000  # 24 kB each


class Duplicate(NamedTuple):
    """A sound of a group of duplicates, and what tells it apart from the others.

    path : str
    seconds : float
    size : int, bytes of the file
    sample_rate : int or None, in Hz; None for formats that only FFmpeg reads
    encoding : str or None, such as ``PCM_24``
    """

    path: str
    seconds: float
    size: int
    sample_rate: int | None
    encoding: str | None


def find_duplicates(state: State, watch: Callable[[list[int]], Iterable[int]]) -> list[list[Duplicate]]:
    """Return the groups of duplicates among the files of a library, the largest group first.

    Sounds of datasets, and files that can't be read any more, are left out. Of long sounds, 30 s are compared.
    ``watch`` yields the items of a list as they are, and may show the progress.
    """
    paths = [as_named(path) for path in state.sounds["path"].to_pylist()]
    leader = list(range(len(paths)))  # union-find

    def root(row: int) -> int:
        while leader[row] != row:
            row = leader[row] = leader[leader[row]]
        return row

    @lru_cache(KEPT)
    def waveform(row: int) -> np.ndarray | None:
        try:
            seconds = min(COMPARED_SECONDS, state.sounds["seconds"][row].as_py())
            return read_audio(paths[row], SAMPLE_RATE, stop_seconds=seconds)
        except (AudioError, OSError):
            return None

    @lru_cache(KEPT_CURVES)
    def curve(row: int) -> np.ndarray | None:
        wave = waveform(row) if os.path.isfile(paths[row]) else None
        return None if wave is None else loudness_curve(wave)

    for first, second in similar_sounds(state, watch):
        if root(first) != root(second):
            curves = curve(first), curve(second)
            if curves[0] is None or curves[1] is None or not are_alike(curves[0], curves[1]):
                continue
            one, other = waveform(first), waveform(second)
            if one is not None and other is not None and are_the_same(one, other):
                heads = waveform(root(first)), waveform(root(second))  # so that A ~ B ~ C does not chain on
                if heads[0] is not None and heads[1] is not None and are_the_same(heads[0], heads[1]):
                    leader[root(second)] = root(first)
    groups: dict[int, list[int]] = {}
    for row in np.flatnonzero(state.readable).tolist():
        groups.setdefault(root(row), []).append(row)
    found = [rows for rows in groups.values() if len(rows) > 1]
    found.sort(key=lambda rows: (-len(rows), paths[rows[0]]))
    return [[described(state, row, paths[row]) for row in rows] for rows in found]


def similar_sounds(state: State, watch: Callable[[list[int]], Iterable[int]]) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows whose sounds have similar windows, each once. The middle window stands for a sound."""
    rows = np.flatnonzero(state.readable)
    seen: set[int] = set()
    for row in watch(rows.tolist()):
        middle = state.firsts[row] + state.counts[row] // 2
        scores, windows = state.nearest(state.vectors_of(np.array([middle]))[0], NEIGHBOURS)
        others = np.unique(state.rows_of(windows[scores >= SIMILAR]))
        others = others[state.readable[others] & (others != row)]
        pairs = set((np.minimum(others, row) * len(state.sounds) + np.maximum(others, row)).tolist()) - seen
        seen |= pairs
        yield from (divmod(pair, len(state.sounds)) for pair in sorted(pairs))


def loudness_curve(wave: np.ndarray) -> np.ndarray:
    """How the loudness of a waveform [samples] changes within 10 ms, once for each `HOP` samples.

    The log energies are those of 20 ms. They overlap, so that a shift of half a hop changes them little.
    """
    sums = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    starts = np.arange(0, max(1, len(wave) - 4 * HOP + 1), HOP)
    energies = sums[np.minimum(starts + 4 * HOP, len(wave))] - sums[starts]
    logs = np.log(energies + FLOOR * energies.max() + 1e-12)
    changes: np.ndarray = (logs[2:] - logs[:-2]).astype(np.float32)
    return changes


def are_alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two loudness curves correlate at a shift where at least half of the shorter one overlaps the other.

    Very short sounds, whose curves say little, are always alike.
    """
    if min(len(one), len(other)) < 8:
        return True
    products = correlate(one, other, mode="full", method="fft")
    shifts = np.arange(len(products)) - (len(other) - 1)
    starts, ends = np.maximum(0, shifts), np.minimum(len(one), shifts + len(other))
    sums = [np.concatenate([[0.0], np.cumsum(np.square(curve, dtype=np.float64))]) for curve in (one, other)]
    energies = (sums[0][ends] - sums[0][starts]) * (sums[1][ends - shifts] - sums[1][starts - shifts])
    enough = ends - starts >= min(len(one), len(other)) / 2
    return bool((products[enough] >= ALIKE * np.sqrt(energies[enough])).any())


def are_the_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two waveforms [samples] correlate at a shift where at least `SHARE` of their energies overlap.

    Example
    -------
    >>> noise = np.random.default_rng(0).standard_normal(16000)
    >>> are_the_same(noise, -0.1 * np.pad(noise, (800, 0))), are_the_same(noise, noise[::-1])
    (True, False)
    """
    products = np.abs(correlate(one, other, mode="full", method="fft"))
    shift = int(products.argmax()) - (len(other) - 1)  # the start of `other`, in samples of `one`
    start, end = max(0, shift), min(len(one), shift + len(other))
    energies = [
        float(np.square(part, dtype=np.float64).sum()) for part in (one[start:end], other[start - shift : end - shift])
    ]
    totals = [float(np.square(wave, dtype=np.float64).sum()) for wave in (one, other)]
    if min(energies) <= 0 or any(part < SHARE * total for part, total in zip(energies, totals, strict=True)):
        return False
    powers = np.square(np.abs(np.fft.rfft(one))).astype(np.float64)
    n_frequencies = powers.sum() ** 2 / max(float(np.square(powers).sum()), 1e-30)
    least = SAME_NOISE if n_frequencies >= NOISE else SAME
    return bool(products.max() >= least * (energies[0] * energies[1]) ** 0.5)


def described(state: State, row: int, path: str) -> Duplicate:
    """Describe the file of a row."""
    sample_rate, encoding = None, None
    try:
        facts = soundfile.info(os.fsencode(path))
        sample_rate, encoding = facts.samplerate, facts.subtype
    except (soundfile.SoundFileError, OSError):
        pass
    seconds = round(state.sounds["seconds"][row].as_py(), 3)
    return Duplicate(path, seconds, os.path.getsize(path), sample_rate, encoding)
