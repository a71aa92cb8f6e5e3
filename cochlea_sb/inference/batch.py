"""Encode many sounds: threads decode the next sounds while the encoder works.

Axes: W windows, D embedding dimensions.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cochlea_sb.audio import TooLong, read_audio, sound_hash, stream_audio
from cochlea_sb.errors import AudioError, one_line
from cochlea_sb.inference.read_ahead import in_batches, read_ahead
from cochlea_sb.inference.streaming import encode_stream
from cochlea_sb.machine import n_cores, torch_threads

if TYPE_CHECKING:
    from cochlea_sb.data.sounds import Source
    from cochlea_sb.inference.encoder import Encoder

LOGGER = logging.getLogger(__name__)
BATCH_SECONDS = 120  # of sound in a batch
LONG_SECONDS = 1800  # a longer sound is decoded and encoded piece by piece


class Encoded(NamedTuple):
    """An encoded sound. If the sound could not be read, ``problem`` is the reason and W is 0."""

    source: Source
    windows: np.ndarray  # [W, D] float32, unit norm
    seconds: float
    content: str  # `cochlea_sb.audio.sound_hash` of the file, or of the bytes of a dataset row
    problem: str | None


class Decoded(NamedTuple):
    source: Source
    wav: np.ndarray  # [samples] float32; empty if `problem`, if `is_long`, or if `known` (see `encode_sounds`)
    content: str
    problem: str | None
    is_long: bool = False  # is decoded later

    def __len__(self) -> int:
        return len(self.wav)

    @property
    def is_known(self) -> bool:
        """Whether the sound was not decoded because its embeddings are known."""
        return not len(self.wav) and self.problem is None and not self.is_long


def encode_sounds(
    encoder: Encoder,
    sources: Iterable[Source],
    hop_seconds: float | None = None,
    *,
    threads: int | None = None,
    known: Any = None,
) -> Iterator[Encoded]:
    """Encode the windows of sounds. Yields an `Encoded` for each source, in the order of the sources.

    By default, half of the cores decode. An encoder on the CPU uses the other cores. Memory holds about an hour of
    sound, plus half an hour for each thread. Sounds whose content hash is in ``known`` are neither decoded nor encoded:
    ``known.recall(hashes)`` returns their windows and seconds (see `cochlea_sb.library.writer.KnownContents`).
    """
    threads = decoding_threads(threads)
    with torch_threads(max(1, n_cores() - threads)):
        decoded = decode_ahead(encoder, sources, threads, known)
        yield from encode_batches(encoder, decoded, hop_seconds, known)


def encode_groups(
    encoder: Encoder,
    groups: Sequence[Sequence[Source]],
    hop_seconds: float | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[int], Any] = lambda sounds: None,
) -> Iterator[list[Encoded]]:
    """Encode groups of sounds, such as shards. Yields a list of `Encoded` for each group.

    Threads decode the next group while the encoder works. No batch holds sounds of two groups, because the last digits
    of an embedding can depend on its batch: so a group has the same embeddings in any list of groups. ``progress`` is
    called with numbers of encoded sounds.
    """
    threads = decoding_threads(threads)
    with torch_threads(max(1, n_cores() - threads)):
        decoded = decode_ahead(encoder, chain.from_iterable(groups), threads)
        for group in groups:
            encoded = []
            for one in encode_batches(encoder, islice(decoded, len(group)), hop_seconds):
                encoded.append(one)
                progress(1)
            yield encoded


def decoding_threads(threads: int | None) -> int:
    return max(1, n_cores() // 2) if threads is None else threads


def decode_ahead(encoder: Encoder, sources: Iterable[Source], threads: int, known: Any = None) -> Iterator[Decoded]:
    read = partial(decode, sample_rate=encoder.sample_rate, known=() if known is None else known)
    return read_ahead(read, sources, threads=threads)


def encode_batches(
    encoder: Encoder, decoded: Iterable[Decoded], hop_seconds: float | None, known: Any = None
) -> Iterator[Encoded]:
    for batch in in_batches(decoded, BATCH_SECONDS * encoder.sample_rate):
        yield from encode_decoded(encoder, batch, hop_seconds, known)


def encode_decoded(
    encoder: Encoder, batch: list[Decoded], hop_seconds: float | None, known: Any = None
) -> Iterator[Encoded]:
    wavs = [sound.wav for sound in batch if len(sound)]
    windows = iter(encoder.encode_waveform_windows(wavs, hop_seconds) if wavs else ())
    nothing = np.zeros((0, encoder.embedding_size), np.float32)
    contents = [sound.content for sound in batch if sound.is_known]
    recalled: Iterator[tuple[np.ndarray, float]] = iter(known.recall(contents) if contents else ())
    for sound in batch:
        if sound.is_known:
            yield Encoded(sound.source, *next(recalled), sound.content, None)
            continue
        seconds, vectors, problem = len(sound) / encoder.sample_rate, nothing, sound.problem
        try:
            if sound.is_long:
                blocks = stream_audio(to_read(sound.source), encoder.sample_rate)
                tensor, seconds = encode_stream(encoder, blocks, hop_seconds)
                vectors = tensor.cpu().numpy()
            elif len(sound):
                vectors = next(windows).cpu().numpy()
        except AudioError as error:
            problem = str(error)
        if not np.isfinite(vectors).all():  # float16 may overflow
            vectors, problem = nothing, not_finite(encoder, sound.source)
        yield Encoded(sound.source, vectors, seconds, sound.content, problem)


def not_finite(encoder: Encoder, source: Source) -> str:
    """Why a sound has no embedding, although it could be read."""
    told = f"{source.path}: the embedding that '{encoder._name}' gave is not finite"
    return f"{told}; if the encoder has a precision, use fp32."


def decode(source: Source, sample_rate: int, known: Any = ()) -> Decoded:
    """Decode a source, if its content is not known."""
    content = ""
    try:
        audio = to_read(source)
        content = hash_of(audio["bytes"] if isinstance(audio, dict) else audio)
        if content and content in known:
            return Decoded(source, np.zeros(0, np.float32), content, None)
        return Decoded(source, read_audio(audio, sample_rate, max_seconds=LONG_SECONDS), content, None)
    except TooLong:
        return Decoded(source, np.zeros(0, np.float32), content, None, is_long=True)
    except (AudioError, OSError) as error:
        return Decoded(source, np.zeros(0, np.float32), content, str(error))
    except Exception as error:  # one odd file must not end the run for all
        LOGGER.exception("'%s' could not be read", source.path)
        problem = f"{source.path}: could not be read ({type(error).__name__}: {one_line(error)}); see the log."
        return Decoded(source, np.zeros(0, np.float32), content, problem)


def to_read(source: Source) -> Any:
    """Return the argument of `read_audio` for a source."""
    # hasattr instead of isinstance(source.audio, Row), because importing `Row` would import `datasets`.
    return {"bytes": source.audio.fetch(), "path": source.path} if hasattr(source.audio, "fetch") else source.audio


def hash_of(audio: str | bytes) -> str:
    """Return the `sound_hash`, or an empty string if the file can't be read. `decode` later reports the reason."""
    try:
        if isinstance(audio, str) and not os.path.isfile(audio):  # opening a pipe could block
            return ""
        return sound_hash(audio)
    except (OSError, ValueError):
        return ""
