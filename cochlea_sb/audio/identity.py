"""A hash of the sound in a file, which stays the same when only tags, pictures or comments of the file change."""

import hashlib
from collections.abc import Iterator

from cochlea_sb.audio.content import Content
from cochlea_sb.audio.lengths import skip_tag

_BLOCK = 1 << 20  # bytes


def sound_hash(source: str | bytes) -> str:
    """Return a BLAKE2b hash, in hexadecimal, of the bytes that hold the sound, for the contents or the path of a file.

    Tags are left out in WAV, AIFF, FLAC, MP3, AAC, MP4 and Ogg. In other formats, all bytes are hashed.

    Raises
    ------
    OSError
        If the file can't be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    content = Content(source)
    try:
        some = False
        for block in _sound(content):
            digest.update(block)
            some = some or bool(block)
        if not some:
            for block in _span(content, 0, content.size):
                digest.update(block)
    finally:
        content.close()
    return digest.hexdigest()


def _sound(content: Content) -> Iterator[bytes]:
    """Yield the bytes that determine the sound of a file. Yield nothing if the format has no function here."""
    start, end = skip_tag(content), _before_tags(content)
    head = content.at(start, 12)
    if head[:4] in (b"RIFF", b"RIFX") and head[8:] == b"WAVE":
        yield from _chunks(content, start + 12, {b"fmt ", b"data"}, "big" if head[:4] == b"RIFX" else "little")
    elif head[:4] == b"FORM" and head[8:11] == b"AIF":
        yield from _chunks(content, start + 12, {b"COMM", b"SSND"}, "big")
    elif head[:4] == b"fLaC":
        yield content.at(start + 8, 34)  # STREAMINFO (RFC 9639, section 8.2)
        start += 4
        while len(block := content.at(start, 4)) == 4:
            start += 4 + int.from_bytes(block[1:], "big")
            if block[0] & 0x80:
                break
        yield from _span(content, start, end)
    elif head[:4] == b"OggS":
        yield from _ogg(content, start)
    elif head[4:8] == b"ftyp":
        yield from _boxes(content)
    elif len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # MPEG audio, AAC
        yield from _span(content, start, end)


def _span(content: Content, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _BLOCK):
        yield content.at(at, min(_BLOCK, end - at))


def _before_tags(content: Content) -> int:
    """Return the end of the audio, before an ID3v1 tag and an APE tag."""
    end = content.size
    if content.at(end - 128, 3) == b"TAG":
        end -= 128
    footer = content.at(end - 32, 32)
    if footer[:8] == b"APETAGEX":
        end -= int.from_bytes(footer[12:16], "little") + (32 if footer[23] & 0x80 else 0)
    return max(0, end)


def _chunks(content: Content, at: int, wanted: set[bytes], order: str) -> Iterator[bytes]:
    """Yield the bodies of the wanted chunks of a RIFF or an AIFF."""
    while len(head := content.at(at, 8)) == 8:
        size = int.from_bytes(head[4:], "big" if order == "big" else "little")
        last = head[:4] in (b"data", b"SSND") and (not size or at + 8 + size > content.size)  # unknown length
        stop = content.size if last else min(content.size, at + 8 + size)
        if head[:4] in wanted:
            yield from _span(content, at + 8, stop)
        at = stop + size % 2


def _boxes(content: Content) -> Iterator[bytes]:
    """Yield the bodies of the boxes "mdat" of an MP4 (ISO/IEC 14496-12, section 4.2)."""
    at = 0
    while len(head := content.at(at, 16)) >= 8:
        size, body = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, body = int.from_bytes(head[8:], "big"), 16
        stop = content.size if size < body else min(content.size, at + size)
        if head[4:8] == b"mdat":
            yield from _span(content, at + body, stop)
        at = stop


def _ogg(content: Content, at: int) -> Iterator[bytes]:
    """Yield the bodies of pages (RFC 3533, section 6), except pages with comments, whose granule position is 0."""
    data = b""
    while data or at < content.size:
        if len(data) < 1 << 17:  # larger than any page
            block = content.at(at, _BLOCK)
            data, at = data + block, at + len(block)
        start = 0
        while data[start : start + 4] == b"OggS" and len(data) - start > 26:
            body = start + 27 + data[start + 26]
            end = body + sum(data[start + 27 : body])
            if end > len(data) and at < content.size:
                break
            if data[start + 5] & 2 or any(data[start + 6 : start + 14]):
                yield data[body:end]
            start = end
        if start == 0:  # not a page, or a cut one: yield the rest of the file
            yield data
            yield from _span(content, at, content.size)
            return
        data = data[start:]
