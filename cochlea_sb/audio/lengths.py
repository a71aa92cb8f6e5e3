"""Find the true length of the sound in a file, and files that hold several sounds.

A header has a wrong length if a recorder lost power, if the file was written to a pipe, or if files were cut or joined.
Each format has its own function here. For all other formats, the length in the header is trusted.
"""

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from cochlea_sb.audio.content import Content
from cochlea_sb.audio.mpeg import mpeg_links

_MOST_CHUNKS = 10_000
# A program that does not know the size writes 0 or a size near the largest possible one; SoX: 0x7F000008 in AIFF.
_PLACEHOLDERS = ((0, 0), (0x7F000000, 0x80000010), (0xFFFF0000, 0xFFFFFFFF), (0x7F << 56, (1 << 64) - 1))
_OGG_START = re.compile(rb"OggS\x00[\x02\x03\x06\x07]")  # RFC 3533, section 6: version 0, first page of a stream
_LATER_START = re.compile(rb"(?s)RIFF....WAVEfmt |fLaC\x00\x00\x00\x22|OggS\x00\x02")
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object "file properties"
_INSIDE_WAV = {0x50, 0x55, *range(0x674F, 0x6772), 0x566F}  # MPEG and Ogg Vorbis: the data chunk holds a complete file


class Link(NamedTuple):
    """A sound in a content. Most contents have one; chained OGGs and joined MP3s have several.

    `frames` is the true number of frames, or None if the header is right. If `seekable` is False, the sound must be
    decoded from its start. `last_seek` is the last frame to which a seek is exact. `missing` is the missing fraction of
    the declared length. `cut` describes anything else that is missing.
    """

    content: Content
    frames: int | None = None
    seekable: bool = True
    last_seek: int | None = None
    missing: float = 0.0
    cut: str | None = None


def find_links(content: Content) -> list[Link]:
    """Return the sounds in a content, in their order. The list is empty if the content holds only tags."""
    head = content.at(0, 20)
    for magic, find in _FINDERS.items():
        if head.startswith(magic):
            return find(content)
    links = _mpeg(content)
    if not links or links[0].content is content:  # not found: the file may begin with other bytes
        after = _LATER_START.search(content.at(0, 1 << 16), 1)
        return find_links(content.part(after.start())) if after else links
    return links


def skip_tag(content: Content, at: int = 0) -> int:
    """Return the position after the ID3v2 tags at `at`."""
    while (head := content.at(at, 10)).startswith(b"ID3") and len(head) == 10:
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        at += 10 + length + (10 if head[5] & 16 else 0)
    return at


def _mpeg(content: Content) -> list[Link]:
    begin = skip_tag(content)
    if begin and content.at(begin, 4) in (b"fLaC", b"OggS", b"RIFF"):
        return find_links(content.part(begin))
    links = []
    found = mpeg_links(content, begin)
    for link in found:
        missing = (link.declared or 0) - link.samples
        if link.declared is not None and missing > -3000:  # the header is right, or the file is cut
            # The frames that seem to be missing follow after other bytes.
            share = max(0, missing / max(1, link.declared)) if link is found[-1] else 0.0
            links.append(Link(content.part(link.begin, link.end), missing=share))
        else:  # without this header, libsndfile guesses the length from the first frame
            links.append(Link(content.part(link.audio, link.end), link.samples))
    head = content.at(begin, 4)
    is_free = (
        head[:1] == b"\xff" and len(head) == 4 and head[1] >= 0xE0 and head[2] < 16
    )  # free format: frames of any size
    return links or ([Link(content)] if is_free or not (begin or head[:1] == b"\xff") else [])


def _riff(content: Content) -> list[Link]:
    head = content.at(0, 12)
    order = ">" if head.startswith(b"RIFX") else "<"
    large = head[:4] in (b"RF64", b"BW64")
    replaced = {0: b"RF64"} if large else {}
    chunks = _chunks(content, 12, order + "4sI", 2)
    if b"data" not in chunks:
        return [Link(content)]
    at, size = chunks[b"data"]
    kind = int.from_bytes(content.at(chunks.get(b"fmt ", (0, 0))[0], 2), "little" if order == "<" else "big")
    rest = content.size - at
    ds64 = chunks.get(b"ds64", (0, 0))[0]
    if large and ds64 and size == 0xFFFFFFFF:
        size = int.from_bytes(content.at(ds64 + 8, 8), "little")
    if kind in _INSIDE_WAV and (
        inside := _inside(content.part(at, at + size if _is_known(content, at, size) else None))
    ):
        return inside
    unknown = size > rest and not _is_known(content, at, size)
    if unknown or (size < rest and _goes_on(content, at, size, order + "I")):
        size = rest
        if large and ds64:
            replaced[ds64 + 8] = struct.pack("<Q", rest)
            replaced[ds64] = struct.pack("<Q", content.size - 8)
        elif large:  # the header of a plain WAV can hold the true length
            replaced = {0: b"RIFF", 4: b"\xff\xff\xff\xff", at - 4: struct.pack("<I", min(rest, 0xFFFFFFFF))}
        else:
            replaced[at - 4] = struct.pack(order + "I", min(rest, 0xFFFFFFFF))
            replaced[4] = struct.pack(order + "I", min(content.size - 8, 0xFFFFFFFF))
    if large and head[:4] == b"RF64" and len(replaced) == 1:
        replaced = {}
    if not replaced and (following := _following(content, int.from_bytes(head[4:8], "little") + 8, b"WAVE")):
        return following
    return [Link(content.part(0, None, replaced) if replaced else content)]


def _following(content: Content, end: int, kind: bytes) -> list[Link]:
    """Return the sounds of files that were joined. The list is empty if no file of the same kind begins at `end`."""
    end += end % 2
    if content.at(end, 4) != content.at(0, 4) or content.at(end + 8, 4) != kind:
        return []
    return [*find_links(content.part(0, end)), *find_links(content.part(end))]


def _inside(content: Content) -> list[Link] | None:
    """Return the sounds of a file that is stored inside another file, or None if there is no such file."""
    if content.at(0, 4) == b"OggS":
        return _ogg(content)
    links = _mpeg(content)
    return links if links and links[0].content is not content else None


def _form(content: Content) -> list[Link]:
    chunks = _chunks(content, 12, ">4sI", 2)
    name = b"SSND" if content.at(8, 3) == b"AIF" else b"BODY"
    if name not in chunks:
        return [Link(content)]
    at, size = chunks[name]
    rest = content.size - at
    if _is_known(content, at, size):
        following = _following(content, int.from_bytes(content.at(4, 4), "big") + 8, content.at(8, 4))
        # libsndfile notices a cut AIFF, but not a cut 8SVX.
        return following or [Link(content, missing=max(0, 1 - rest / size) if name == b"BODY" else 0)]
    replaced = {at - 4: struct.pack(">I", min(rest, 0xFFFFFFFF)), 4: struct.pack(">I", content.size - 8 & 0xFFFFFFFF)}
    if name == b"SSND" and b"COMM" in chunks:
        comm = chunks[b"COMM"][0]
        channels, _, bits = struct.unpack(">HIH", content.at(comm, 8).ljust(8, b"\0"))
        replaced[comm + 2] = struct.pack(">I", (rest - 8) // max(1, channels * ((bits + 7) // 8)) & 0xFFFFFFFF)
    return [Link(content.part(0, None, replaced))]


def _caf(content: Content) -> list[Link]:
    chunks = _chunks(content, 8, ">4sQ", 1)
    if b"data" not in chunks:
        return [Link(content)]
    at, size = chunks[b"data"]
    rest = content.size - at
    if size == rest or 0 < size < rest:
        return [Link(content)]
    missing = 1 - rest / size if _is_known(content, at, size) else 0  # libsndfile refuses all cut files
    return [Link(content.part(0, None, {at - 8: struct.pack(">Q", rest)}), missing=missing)]


def _w64(content: Content) -> list[Link]:
    chunks = _chunks(content, 40, "<4s12xQ", 8, includes_head=True)
    if b"data" not in chunks or _is_known(content, *chunks[b"data"]):
        return [Link(content)]
    at = chunks[b"data"][0]
    sizes = {16: struct.pack("<Q", content.size), at - 8: struct.pack("<Q", content.size - at + 24)}
    return [Link(content.part(0, None, sizes))]


def _au(content: Content) -> list[Link]:
    order = ">" if content.at(0, 4) == b".snd" else "<"
    offset, size = struct.unpack(order + "II", content.at(4, 8).ljust(8, b"\0"))
    if _is_known(content, offset, size):
        return [Link(content)]
    return [Link(content.part(0, None, {8: struct.pack(order + "I", max(0, content.size - offset) & 0xFFFFFFFF)}))]


def _chunks(
    content: Content, at: int, form: str, padding: int, includes_head: bool = False
) -> dict[bytes, tuple[int, int]]:
    """Return the start and the declared size of the body of each chunk up to the audio."""
    chunks: dict[bytes, tuple[int, int]] = {}
    head = struct.calcsize(form)
    for _ in range(_MOST_CHUNKS):
        data = content.at(at, head)
        if len(data) < head:
            break
        name, size = struct.unpack(form, data)
        size = max(0, size - head) if includes_head else size
        chunks.setdefault(name, (at + head, size))
        if name in (b"data", b"SSND", b"BODY"):
            break
        at += head + size + -size % padding
    return chunks


def _is_known(content: Content, at: int, size: int) -> bool:
    """Tell whether the declared size of a chunk is none of the values that mean an unknown size."""
    rest = content.size - at
    return 0 < size <= rest or not any(low <= size <= high for low, high in _PLACEHOLDERS)


def _goes_on(content: Content, at: int, size: int, form: str) -> bool:
    """Tell whether the audio of a WAV continues far beyond its declared end, where the next chunk should begin."""
    end = at + size
    rest = content.size - end
    if rest <= size // 4 or (size and rest < 1024):
        return False
    for shift in {size % 2, 0}:
        name, length = content.at(end + shift, 4), content.at(end + shift + 4, 4)
        if len(length) < 4 or (size and not any(name)):
            return False  # padding
        if name.isascii() and name.decode().isprintable() and struct.unpack(form, length)[0] <= rest:
            return False
    return True


def _flac(content: Content) -> list[Link]:
    """Compare the number of samples in the header of a FLAC (RFC 9639, section 8.2) with its last frames."""
    info = content.at(8, 18)
    if len(info) < 18:
        return [Link(content)]
    declared = int.from_bytes(info[13:18], "big") & (1 << 36) - 1
    found = _flac_end(content, int.from_bytes(info[:2], "big")) if declared else 0
    following = content.find(content.at(0, 8), 8)
    if following > 0:  # joined files
        return [*_flac(content.part(0, following)), *_flac(content.part(following))]
    if declared and found <= declared:
        return [Link(content)]
    unknown = bytes([info[13] & 0xF0]) + bytes(4)
    return [Link(content.part(0, None, {21: unknown}) if declared else content, seekable=False)]


def _flac_end(content: Content, block: int) -> int:
    """Return the first sample of the last frame (RFC 9639, section 9.1), or 0 if the last bytes hold no frame."""
    tail = content.at(max(0, content.size - (1 << 16)), 1 << 16)
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        head = tail[at : at + 16]
        if len(head) < 16 or head[1] not in (0xF8, 0xF9) or head[2] >> 4 == 0 or head[3] & 1:
            continue
        length = 1 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length()
        number = head[4] & (0x7F if length == 1 else 0x7F >> length)
        for byte in head[5 : 4 + length]:
            number = number << 6 | byte & 0x3F
        end = 4 + length + {6: 1, 7: 2}.get(head[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
        if length <= 7 and end < 16 and _crc8(head[:end]) == head[end]:
            return number if head[1] & 1 else number * block
    return 0


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value << 1 ^ 0x107 if value & 0x80 else value << 1
    return value


def _ogg(content: Content) -> list[Link]:
    """Find chained streams (RFC 3533, section 4). Streams that are interleaved, as in films, are left to FFmpeg."""
    starts: list[int] = []
    at, size = 0, 1 << 20
    while len(block := content.at(at, size)) > 27:
        for match in _OGG_START.finditer(block, 0, len(block) - 27):
            starts.append(at + match.start())
        at += len(block) - 27 if len(block) == size else len(block)
    starts = [start for start in starts if _is_stream(content, start)]
    bounds = [*starts[1:], content.size]
    links = [_ogg_link(content.part(begin, end)) for begin, end in zip(starts, bounds, strict=True)]
    if len(links) == 1:
        links = [links[0]._replace(content=content)]
    # In a recording of a radio stream, a song may lack its end. Only the last stream of a file can be cut.
    return [link._replace(cut=None) for link in links[:-1]] + links[-1:] or [Link(content)]


def _is_stream(content: Content, start: int) -> bool:
    """Tell whether a stream of Vorbis or Opus begins at the bytes "OggS". They may also be part of a packet."""
    page = content.at(start, 64)
    body = page[27 + page[26] :]
    return body.startswith((b"\x01vorbis", b"OpusHead", b"Speex   ", b"\x7fFLAC"))


def container_cut(content: Content) -> str | None:
    """Say what is missing in a container that only FFmpeg decodes, or return None if it is complete."""
    head = content.at(0, 1 << 13)
    if head.startswith(b"OggS"):
        return _ogg_cut(content.at(max(0, content.size - (1 << 17)), 1 << 17))
    declared = 0
    if head.startswith(b"RIFF"):
        declared = int.from_bytes(head[4:8], "little")
    elif head.startswith(_ASF) and (at := head.find(_ASF_FILE)) > 0:
        declared = int.from_bytes(head[at + 40 : at + 48], "little")
    share = 1 - content.size / max(1, declared)
    return f"{share:.0%} of the file is missing" if share > 0.01 and declared < 0xFFFFFF00 else None


def _ogg_cut(tail: bytes) -> str | None:
    page = tail[max(0, tail.rfind(b"OggS")) :]
    whole = len(page) >= 27 and page[5] & 4 and 27 + page[26] + sum(page[27 : 27 + page[26]]) <= len(page)
    return None if whole else "its last page is missing"


def _ogg_link(content: Content) -> Link:
    tail = content.at(max(0, content.size - (1 << 17)), 1 << 17)  # a page is at most 65,307 bytes
    last = tail.rfind(b"OggS")
    # After a seek into the last page, libvorbis is wrong by the trimmed samples.
    before = tail.rfind(b"OggS", 0, max(0, last))
    granule = int.from_bytes(tail[before + 6 : before + 14], "little", signed=True) if before >= 0 else 0
    opus = content.at(28, 8) == b"OpusHead"
    rate = int.from_bytes(content.at(40, 4), "little") if opus else 48000
    return Link(
        content,
        seekable=not opus or rate not in (8000, 12000, 16000, 24000),  # here, Opus depends on all earlier samples
        last_seek=max(0, granule) if not opus else None,
        cut=_ogg_cut(tail),
    )


def _nist(content: Content) -> list[Link]:
    """Read the number of samples from the header of a NIST file, a text of 1,024 bytes."""
    head = content.at(0, 1024)
    facts = {name: int(value) for name, value in re.findall(rb"(\w+) -i (\d{1,12})\b", head)}
    size = facts.get(b"sample_count", 0) * facts.get(b"channel_count", 1) * facts.get(b"sample_n_bytes", 2)
    rest = content.size - len(head)
    coded = b"pcm" in head and b"shorten" not in head
    return [Link(content, missing=max(0, 1 - rest / size) if size and coded else 0)]


def _voc(content: Content) -> list[Link]:
    """Add the blocks of a Creative Voice file. A block begins with its type and a length of three bytes."""
    at = int.from_bytes(content.at(20, 2), "little")
    for _ in range(_MOST_CHUNKS):
        head = content.at(at, 4)
        if len(head) < 4 or not head[0]:
            break
        size = int.from_bytes(head[1:], "little")
        if at + 4 + size > content.size:
            return [Link(content, missing=1 - (content.size - at - 4) / size)]
        at += 4 + size
    return [Link(content)]


def _avr(content: Content) -> list[Link]:
    """Read the number of frames from the header of an AVR file (Audio Visual Research, Atari ST)."""
    stereo, bits = content.at(12, 2) != b"\0\0", int.from_bytes(content.at(14, 2), "big")
    size = int.from_bytes(content.at(26, 4), "big") * (2 if stereo else 1) * (bits // 8)
    return [Link(content, missing=max(0, 1 - (content.size - 128) / size) if size else 0)]


def _sds(content: Content) -> list[Link]:
    """Read a MIDI sample dump: a header with numbers in groups of seven bits, then packets of 127 bytes."""
    head = content.at(0, 21)
    samples = head[10] | head[11] << 7 | head[12] << 14 if len(head) == 21 else 0
    packets = -(-samples // (120 // max(1, -(-head[6] // 7)))) if samples else 0
    return [Link(content, missing=max(0, 1 - (content.size - 21) // 127 / packets) if packets else 0)]


_FINDERS: dict[bytes, Callable[[Content], list[Link]]] = {
    b"RIFF": _riff,
    b"RIFX": _riff,
    b"RF64": _riff,
    b"BW64": _riff,
    b"FORM": _form,
    b"caff": _caf,
    b"riff": _w64,
    b".snd": _au,
    b"dns.": _au,
    b"fLaC": _flac,
    b"OggS": _ogg,
    b"NIST_1A": _nist,
    b"Creative Voice File": _voc,
    b"2BIT": _avr,
    b"\xf0\x7e": _sds,
}
