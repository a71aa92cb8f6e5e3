"""Find the frames of MPEG audio (MP1, MP2, MP3), and count them, because a header may be missing or wrong.

ISO/IEC 11172-3, section 2.4.2.3; the headers Xing and VBRI as LAME and Fraunhofer write them.
"""

import re
from functools import cache
from typing import NamedTuple

from cochlea_sb.audio.content import Content

_BLOCK = 1 << 18  # bytes
_TAG = re.compile(rb"Xing|Info|VBRI")
_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]")
_KBPS = {  # (MPEG version is 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_IN_A_ROW = 3  # least number of frames of a sound; fewer can occur by chance
_MOST_LINKS, _MOST_TRIES = 10_000, 200_000  # for bytes that somebody made to be slow


class Frame(NamedTuple):
    size: int  # bytes
    samples: int
    rate: int  # Hz
    kind: int  # version, layer and rate: the same in all frames of a sound


class MpegLink(NamedTuple):
    """Frames [begin, end). `audio` is the first frame with sound. `declared` is the number of samples in a header."""

    begin: int
    audio: int
    end: int
    samples: int
    declared: int | None
    rate: int


@cache
def _frame(first: int, second: int) -> Frame | None:
    """Return the frame whose header consists of 0xFF and these bytes."""
    version, layer = first >> 3 & 3, 4 - (first >> 1 & 3)
    kbps, rate, padding = second >> 4, second >> 2 & 3, second >> 1 & 1
    if first & 0xE0 != 0xE0 or version == 1 or layer == 4 or kbps in (0, 15) or rate == 3:
        return None
    one = version == 3
    hertz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits = _KBPS[one, layer][kbps - 1] * 1000
    samples = 384 if layer == 1 else 1152 if one or layer == 2 else 576
    size = (12 * bits // hertz + padding) * 4 if layer == 1 else samples // 8 * bits // hertz + padding
    return Frame(size, samples, hertz, (first & 0xFE) << 8 | second & 0x0C)


def frame_at(data: bytes, at: int) -> Frame | None:
    """Return the frame that begins at `at`, or None."""
    return _frame(data[at + 1], data[at + 2]) if at + 4 <= len(data) and data[at] == 0xFF else None


def mpeg_links(content: Content, begin: int) -> list[MpegLink]:
    """Return the runs of frames after `begin`. The list is empty if the bytes are not MPEG audio."""
    links: list[MpegLink] = []
    start = _next_start(content, begin, anywhere=False)
    while start is not None and len(links) < _MOST_LINKS:
        links.append(_walk(content, start))
        start = _next_start(content, links[-1].end, anywhere=True)
    return links


def _next_start(content: Content, at: int, anywhere: bool) -> int | None:
    """Return the start of the next run of frames. The first run must start within 64 KiB."""
    limit, tries = content.size if anywhere else at + (1 << 16), 0
    while at < limit and tries < _MOST_TRIES and len(block := content.at(at, _BLOCK)) >= 4:
        for match in _SYNC.finditer(block):
            tries += 1
            if _are_frames(content, at + match.start()):
                return at + match.start()
        at += len(block) - 3
    return None


def _are_frames(content: Content, at: int) -> bool:
    kind = None
    for _ in range(_IN_A_ROW):
        frame = frame_at(content.at(at, 4), 0)
        if frame is None or kind not in (None, frame.kind):
            return kind is not None and (at == content.size or content.at(at, 3) in (b"TAG", b"APE"))
        kind, at = frame.kind, at + frame.size
    return True


def _walk(content: Content, begin: int) -> MpegLink:
    """Count frames of one kind, up to bytes that are not a frame, or to the header of another sound."""
    head = content.at(begin, 4)
    first = frame_at(head, 0)
    assert first is not None  # found by _next_start
    declared = _declared(content.at(begin, first.size), first)
    audio = begin if declared is None else begin + first.size
    at, count = audio, 0
    while len(block := content.at(at, _BLOCK)) >= 4:
        offset = 0
        tag = _next_tag(block, 0)
        while (
            (frame := frame_at(block, offset)) and frame.kind == first.kind and at + offset + frame.size <= content.size
        ):
            if offset + frame.size > tag:
                if tag - offset < 48:
                    return MpegLink(begin, audio, at + offset, count * first.samples, declared, first.rate)
                tag = _next_tag(block, tag + 1)
            offset += frame.size
            count += 1
        at += offset
        if offset + 4 <= len(block):  # not a frame
            break
    return MpegLink(begin, audio, at, count * first.samples, declared, first.rate)


def _next_tag(block: bytes, start: int) -> int:
    match = _TAG.search(block, start)
    return match.start() if match else 1 << 62


def _declared(data: bytes, frame: Frame) -> int | None:
    """Return the samples that a Xing or VBRI header declares: -1 for none, None without such a header."""
    match = _TAG.search(data, 4, 48)
    if match is None:
        return None
    if match.group() == b"VBRI":
        return int.from_bytes(data[match.start() + 14 : match.start() + 18], "big") * frame.samples
    has_count = data[match.start() + 7 : match.start() + 8] and data[match.start() + 7] & 1
    return int.from_bytes(data[match.end() + 4 : match.end() + 8], "big") * frame.samples if has_count else -1
