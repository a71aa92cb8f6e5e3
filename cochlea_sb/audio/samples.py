"""From a decoder's blocks to the part that was asked for: mono, finite, at the wanted rate.

`native` is a file's own rate and `rate` the wanted one, both in Hz; a frame is one sample of every channel.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import soxr

from cochlea_sb.audio.ask import SLACK_SECONDS, Ask

BLOCK_SAMPLES = 1 << 20  # 4 MiB of float32: 24 s of CD mono
_LOUDEST = 1e18  # no sound is this loud, and its sums and filters cannot overflow float32


def span(native: int, ask: Ask) -> tuple[int, int | None]:
    """Native frames begin:end to decode for a part.

    The lead-in on each side covers the resampler's filter. It begins at a frame that falls on an output sample
    exactly (every whole second at the latest), so that a part has the whole's samples and not ones between them.
    """
    lead = 0 if native == ask.rate else math.ceil(native * max(0.05, 400 / min(native, ask.rate)))
    grid = native // math.gcd(native, ask.rate)
    begin = max(0, math.floor(ask.start * native) - lead) // grid * grid
    return begin, None if ask.stop is None else math.ceil(ask.stop * native) + lead


def mono(ask: Ask, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield [frames] for each block [frames] or [frames, channels]; raise if none holds a finite number."""
    usable = empty = True
    for block in blocks:
        if empty:
            usable, empty = False, False
        mixed = _average(block)
        peak = max(mixed.max(), -mixed.min())
        if peak < _LOUDEST:  # false for NaN too
            usable = True
        else:
            finite = np.abs(block) < _LOUDEST
            usable = usable or bool(finite.any())
            mixed = _average(np.where(finite, block, np.float32(0)))
        yield mixed
    if not usable:
        raise ask.error("not one sample is a finite number", "expected audio in [-1, 1]")


def _average(block: np.ndarray) -> np.ndarray:
    if block.ndim == 1:
        return block
    mixed: np.ndarray = block[:, 0].copy()  # adding columns is many times faster than mean(axis=1)
    for channel in range(1, block.shape[1]):
        mixed += block[:, channel]
    mixed /= block.shape[1]
    return mixed


def resample(blocks: Iterator[np.ndarray], native: int, rate: int) -> Iterator[np.ndarray]:
    """Yield mono blocks at the wanted rate; a sound of one block takes the short way."""
    if native == rate:
        yield from blocks
        return
    first, second = next(blocks, None), next(blocks, None)
    if first is None:
        return
    if second is None:
        samples: np.ndarray = soxr.resample(first, native, rate)
        yield samples if len(samples) else first[:1]  # a click shorter than one output sample is a sound all the same
        return
    stream = soxr.ResampleStream(native, rate, 1)
    for block in itertools.chain((first, second), blocks):
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def take(ask: Ask, blocks: Iterator[np.ndarray], at: int = 0) -> Iterator[np.ndarray]:
    """Yield the part alone, from blocks at the wanted rate, the first of which begins with output sample `at`."""
    first, last = ask.first, ask.last
    limit = first + ask.max_seconds * ask.rate + 1
    for block in blocks:
        before, at = at, at + len(block)
        if at > first:
            if last is None and at > limit:
                raise ask.too_long((at - first) / ask.rate)
            wanted = block[max(0, first - before) : None if last is None else last - before]
            if len(wanted):
                yield wanted
        if last is not None and at >= last:
            return
    if at <= first or (last is not None and at < last - SLACK_SECONDS * ask.rate - 1):
        raise ask.outside(at / ask.rate)


def join(blocks: Iterator[np.ndarray]) -> np.ndarray:
    """Return all blocks as one array; empty if there is none."""
    first, second = next(blocks, None), next(blocks, None)
    if first is None:
        return np.empty(0, np.float32)
    if second is None:
        return first
    joined = bytearray()  # grows in place: no second copy at the end
    for block in itertools.chain((first, second), blocks):
        joined += np.ascontiguousarray(block).data
    return np.frombuffer(joined, np.float32)
