"""Convert decoded blocks to the requested part of a sound: mono, finite, at the requested rate.

`native` is the sample rate of the file, and `rate` the requested one, both in Hz. A frame has one sample per channel.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import soxr

from cochlea_sb.audio.ask import SLACK_SECONDS, Ask

BLOCK_SAMPLES = 1 << 20  # 4 MiB of float32: 24 s of CD mono
_LOUDEST = 1e18  # louder than any sound; with this limit, sums and filters can't overflow float32


def span(native: int, ask: Ask) -> tuple[int, int | None]:
    """Return the frames begin:end of the file to decode for a part.

    They begin before the part and end after it, because the filter of the resampler needs these samples. The first
    frame lies exactly at the time of an output sample, so that a part equals this stretch of the whole sound.
    """
    lead = 0 if native == ask.rate else math.ceil(native * max(0.05, 400 / min(native, ask.rate)))
    grid = native // math.gcd(native, ask.rate)
    begin = max(0, math.floor(ask.start * native) - lead) // grid * grid
    return begin, None if ask.stop is None else math.ceil(ask.stop * native) + lead


def mono(ask: Ask, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield [frames] for each block [frames] or [frames, channels]. Raise an error if no value is finite."""
    usable = empty = True
    for block in blocks:
        if empty:
            usable, empty = False, False
        mixed = _average(block)
        peak = max(mixed.max(), -mixed.min())
        if peak < _LOUDEST:  # also False for NaN
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
    mixed: np.ndarray = block[:, 0].copy()  # many times faster than mean(axis=1)
    for channel in range(1, block.shape[1]):
        mixed += block[:, channel]
    mixed /= block.shape[1]
    return mixed


def resample(blocks: Iterator[np.ndarray], native: int, rate: int) -> Iterator[np.ndarray]:
    """Yield mono blocks at the requested rate. A sound of one block is resampled in one call, which is faster."""
    if native == rate:
        yield from blocks
        return
    first, second = next(blocks, None), next(blocks, None)
    if first is None:
        return
    if second is None:
        samples: np.ndarray = soxr.resample(first, native, rate)
        yield (samples if len(samples) else first[:1])  # a sound shorter than one output sample becomes one sample
        return
    stream = soxr.ResampleStream(native, rate, 1)
    for block in itertools.chain((first, second), blocks):
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def take(ask: Ask, blocks: Iterator[np.ndarray], at: int = 0) -> Iterator[np.ndarray]:
    """Yield only the part. The blocks have the requested rate, and the first one starts with output sample `at`."""
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
    """Return all blocks as one array, which is empty if there are no blocks."""
    first, second = next(blocks, None), next(blocks, None)
    if first is None:
        return np.empty(0, np.float32)
    if second is None:
        return first
    joined = bytearray()  # grows in place, so no second copy is needed
    for block in itertools.chain((first, second), blocks):
        joined += np.ascontiguousarray(block).data
    return np.frombuffer(joined, np.float32)
