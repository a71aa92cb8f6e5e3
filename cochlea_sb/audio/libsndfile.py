"""Decode with libsndfile: WAV, FLAC, OGG, Opus, MP3, AIFF and about twenty old formats."""

import os
import re
from collections.abc import Iterator

import numpy as np
import soundfile

from cochlea_sb.audio.ask import SLACK_SECONDS, Ask, is_much, one_line
from cochlea_sb.audio.content import Content, ContentFile
from cochlea_sb.audio.lengths import Link, find_links
from cochlea_sb.audio.samples import BLOCK_SAMPLES, mono, resample, span, take

# For a cut file, libsndfile reports only the frames that exist, and writes the declared size to its log.
_CUT_CHUNK = re.compile(r"(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)")
_ENDLESS = 1 << 40  # bytes; a length that is guessed from this size is longer than any sound
# An MP3 frame depends on up to nine earlier frames, Vorbis on one, Opus on about 80 ms (RFC 7845, section 4.6).
_LEAD_SECONDS = {"MP3": 1.0, "OGG": 1.0}


class Undecodable(Exception):
    """libsndfile can't read the sound. Another decoder may be able to."""


def decode(ask: Ask, content: Content) -> Iterator[np.ndarray]:
    """Yield the requested part as mono blocks at the requested rate.

    Raises
    ------
    Undecodable
        If libsndfile can't read the sound.
    AudioError
        If the sound is cut, or the part is not inside it.
    """
    links = find_links(content)
    if not links:
        raise Undecodable("it holds tags, but no audio")
    try:
        if len(links) > 1 or not links[0].seekable:
            yield from take(ask, (block for link in links for block in _from_start(ask, link)))
        else:
            yield from _from_near(ask, links[0])
    except soundfile.SoundFileError as error:
        reason = one_line(getattr(error, "error_string", error))
        raise ask.error(f"decoding failed ({reason})", "the file is probably damaged") from error


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file without the seek that soundfile does after each read.

    soundfile seeks to the current position in files that are seekable. This takes time, and fails at the end of a
    streamed FLAC.
    """

    def seekable(self) -> bool:
        return False


def _open(ask: Ask, link: Link) -> _ForwardFile:
    """Open one sound, and check its header."""
    try:
        file = _open_link(link)
    except soundfile.SoundFileError as error:
        raise Undecodable(getattr(error, "error_string", error)) from error
    try:
        _check(ask, link, file)
    except BaseException:
        file.close()
        raise
    return file


def _open_link(link: Link) -> _ForwardFile:
    content = link.content
    if content.path is not None and os.name == "posix":  # not by name: libsndfile trusts suffixes
        file = _ForwardFile(os.open(content.path, os.O_RDONLY | os.O_CLOEXEC))
    else:
        file = _ForwardFile(ContentFile(content))
    if link.frames is not None and file.frames < link.frames:
        file.close()
        file = _ForwardFile(ContentFile(content, _ENDLESS))
    return file


def _check(ask: Ask, link: Link, file: _ForwardFile) -> None:
    native, total = file.samplerate, file.frames
    if not 100 <= native <= 1_000_000 or not 1 <= file.channels <= 256:
        claim = f"the header says {native} Hz and {file.channels} channels"
        raise ask.error(claim, "expected 100 Hz to 1 MHz and at most 256 channels")
    if not total:
        raise ask.error("the audio is 0 samples long", "expected at least one")
    missing = link.missing
    for declared, present in re.findall(_CUT_CHUNK, file.extra_info):
        if 0 < int(present) < int(declared):
            missing = 1 - int(present) / int(declared)
    if missing and is_much(total / native * missing / (1 - missing), total / native / (1 - missing)):
        raise ask.cut(f"{missing:.0%} of the audio is missing")
    if link.cut:
        raise ask.cut(link.cut)


def _from_start(ask: Ask, link: Link) -> Iterator[np.ndarray]:
    with _open(ask, link) as file:
        blocks = _blocks(ask, file, file.frames)
        yield from resample(mono(ask, blocks), file.samplerate, ask.rate)


def _from_near(ask: Ask, link: Link) -> Iterator[np.ndarray]:
    """Seek to shortly before the part. If the decoder can't, decode from the start."""
    with _open(ask, link) as file:
        native = file.samplerate
        total = file.frames if link.frames is None else link.frames
        late = ask.stop is not None and ask.stop > total / native + SLACK_SECONDS
        if ask.start * native >= total or late:
            raise ask.outside(total / native)
        if ask.stop is None and total / native - ask.start > ask.max_seconds:
            raise ask.too_long(total / native - ask.start)
        begin, end = span(native, ask)
        end = min(end or total, total)
        try:
            _seek(file, begin, link)
        except soundfile.SoundFileError:  # GSM 6.10 can't seek; the seek table of a FLAC may be wrong
            yield from take(ask, _from_start(ask, link))
            return
        blocks = _blocks(ask, file, end - begin)
        yield from take(ask, resample(mono(ask, blocks), native, ask.rate), begin * ask.rate // native)


def _seek(file: _ForwardFile, frame: int, link: Link) -> None:
    """Go exactly to a frame. If a seek of the decoder is not exact, seek to an earlier frame and read from there."""
    near = frame - int(_LEAD_SECONDS.get(file.format, 0) * file.samplerate)
    if link.last_seek is not None:
        near = min(near, link.last_seek - file.samplerate)
    near = max(0, min(near, frame))
    if near:
        file.seek(near)
    for _ in _read(file, frame - near):
        pass


def _read(file: _ForwardFile, frames: int) -> Iterator[np.ndarray]:
    size = max(1, BLOCK_SAMPLES // file.channels)
    while frames > 0 and len(block := file.read(min(size, frames), dtype="float32")):
        frames -= len(block)
        yield block


def _blocks(ask: Ask, file: _ForwardFile, frames: int) -> Iterator[np.ndarray]:
    for block in _read(file, frames):
        frames -= len(block)
        yield block
    if frames and file.format == "FLAC" and frames < 1 << 40:
        raise ask.cut(f"{frames} samples are missing")
