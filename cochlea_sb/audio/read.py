"""The functions that read a sound: `read_audio` and `stream_audio`."""

import contextlib
import math
import os
import stat
from collections.abc import Iterator
from typing import Any

import numpy as np

from cochlea_sb.audio import ffmpeg, libsndfile
from cochlea_sb.audio.ask import Ask, AudioSource, one_line
from cochlea_sb.audio.content import Content
from cochlea_sb.audio.samples import join
from cochlea_sb.errors import AudioError, UserError


def read_audio(
    source: AudioSource,
    sample_rate: int = 16000,
    *,
    start_seconds: float = 0.0,
    stop_seconds: float | None = None,
    max_seconds: float = 4 * 3600,
) -> np.ndarray:
    """Decode a sound, or a part of it, to mono at a sample rate.

    A part has exactly the samples that the whole sound has there. Samples that are not finite become 0.

    Arguments
    ---------
    source : str, os.PathLike, bytes, bytearray or dict
        A file, the contents of a file, or a row of a dataset with ``Audio(decode=False)``: ``{"bytes": ..., "path":
        ...}``. If the bytes are None, the file at the path is read. Otherwise the path is only used in messages.
    sample_rate : int
        Sample rate of the result in Hz, 100 to 1,000,000.
    start_seconds, stop_seconds : float
        The part to read; ``stop_seconds=None`` reads to the end.
    max_seconds : float
        The longest part to decode.

    Returns
    -------
    np.ndarray [samples], float32
        In [-1, 1] for integer formats. Float formats and lossy codecs may exceed this range.

    Raises
    ------
    AudioError
        If the sound is missing, empty, cut off, too long or not audio, or the part is not inside it.
    UserError
        If an argument is out of range.

    Example
    -------
    >>> import io
    >>> import soundfile
    >>> wav = io.BytesIO()
    >>> soundfile.write(wav, np.zeros(44100), 44100, format="WAV")
    >>> read_audio(wav.getvalue(), stop_seconds=0.5).shape
    (8000,)
    """
    return join(_blocks(source, sample_rate, start_seconds, stop_seconds, max_seconds))


def stream_audio(
    source: AudioSource, sample_rate: int = 16000, *, max_seconds: float = 100 * 3600
) -> Iterator[np.ndarray]:
    """Decode a sound of any length block by block, with little memory.

    Yields arrays [samples], float32, of any lengths. Together they are the array that `read_audio` returns.

    Arguments
    ---------
    source, sample_rate, max_seconds :
        As in `read_audio`.

    Raises
    ------
    AudioError, UserError
        As in `read_audio`, but possibly after some blocks.
    """
    return _blocks(source, sample_rate, 0.0, None, max_seconds)


def _blocks(
    source: AudioSource, sample_rate: int, start: float, stop: float | None, max_seconds: float
) -> Iterator[np.ndarray]:
    """Yield the blocks of a part. Every failure to read becomes an `AudioError` of one sentence."""
    _check_arguments(sample_rate, start, stop, max_seconds)
    ask = Ask(*_locate(source), int(sample_rate), start, stop, max_seconds)
    if stop is not None and stop - start > max_seconds:
        raise ask.too_long(stop - start)
    some = False
    try:
        with contextlib.closing(Content(ask.source)) as content:
            for block in _decode(ask, content):
                some = True
                yield block
    except AudioError:
        raise
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise ask.error(f"cannot be opened ({reason})", "expected a file that may be read") from error
    except Exception as error:  # broken bytes can cause any exception in a decoder
        raise ask.error(f"decoding failed ({one_line(error)})", "the file is probably damaged") from error
    if not some:
        raise ask.error(f"there is not one sample after {ask.start:g} s", "expected an earlier start")


def _decode(ask: Ask, content: Content) -> Iterator[np.ndarray]:
    """Decode with libsndfile, or with FFmpeg if libsndfile can't. The contents decide, not the name."""
    reason, done = None, 0
    if not ffmpeg.is_for_ffmpeg(content):
        try:
            for block in libsndfile.decode(ask, content):
                done += len(block)
                yield block
            return
        except libsndfile.Undecodable as error:
            reason = error
            if not ffmpeg.may_be_audio(content):
                raise ask.not_audio(error) from error
    if done:  # libsndfile decoded the first of several sounds in the file
        ask = ask._replace(start=(ask.first + done) / ask.rate)
    yield from ffmpeg.decode(ask, content, reason)


def _check_arguments(rate: float, start: float, stop: float | None, max_seconds: float) -> None:
    if not 100 <= rate <= 1_000_000 or rate != int(rate):
        raise UserError(f"sample_rate is {rate}: expected a whole number of Hz from 100 to 1,000,000.")
    if not 0 <= start < math.inf or (stop is not None and not start < stop < math.inf):
        raise UserError(f"the part is {start} to {stop} s: expected 0 <= start_seconds < stop_seconds.")
    if not max_seconds > 0:
        raise UserError(f"max_seconds is {max_seconds}: expected more than 0.")


def _locate(source: AudioSource) -> tuple[str, str | bytes]:
    """Return the name of the sound for error messages, and its content."""
    path: Any = source
    if isinstance(source, dict):
        path = source.get("path")
        source = path if source.get("bytes") is None else source["bytes"]
    named = isinstance(path, (str, os.PathLike))
    name = one_line(os.fsdecode(path)) if named else "<bytes>"
    if isinstance(source, (bytes, bytearray)):
        if not source:
            raise AudioError(f"{name}: has 0 bytes; expected the contents of an audio file.")
        return name, bytes(source)
    if not named:
        raise UserError(f"source is a {type(source).__name__}: expected a path, bytes, or a row with bytes or path.")
    try:
        # An absolute path, because libsndfile reads "-" as stdin, and FFmpeg reads "-name" as an option.
        path = os.path.abspath(os.fsdecode(path))
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise AudioError(f"{name}: cannot be opened ({reason}); expected an audio file.") from error
    if stat.S_ISDIR(status.st_mode) and not os.access(path, os.R_OK | os.X_OK):
        raise AudioError(f"{name}: the folder cannot be listed (Permission denied); expected one that may be read.")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe may block forever
        raise AudioError(f"{name}: is a folder, device or pipe; expected an audio file.")
    if not status.st_size:
        raise AudioError(f"{name}: has 0 bytes; expected an audio file.")
    if path.lower().endswith(".raw"):
        raise AudioError(f"{name}: headerless audio does not say its rate and channels; convert it to WAV.")
    return name, path
