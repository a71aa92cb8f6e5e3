"""The bytes of a sound, in memory or in a file. A `Content` can also be a range of them, with some bytes replaced."""

import contextlib
import io
import os
from typing import Any

TAG_SIZE = 128  # bytes, of an ID3v1 tag at the end of a file


class Content:
    """Bytes [begin, end) of a file or of bytes in memory.

    Arguments
    ---------
    source : str or bytes
        A path, or the bytes.
    """

    def __init__(self, source: str | bytes) -> None:
        self._handle: Any = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115
        self._begin = 0
        self.size = self._handle.seek(0, os.SEEK_END)
        self._replaced: dict[int, bytes] = {}
        self.path = None if isinstance(source, bytes) else source

    def close(self) -> None:
        self._handle.close()

    def part(self, begin: int, end: int | None = None, replaced: dict[int, bytes] | None = None) -> "Content":
        """Return the range [begin, end), with the same handle. `replaced` maps offsets in the range to new bytes."""
        part = object.__new__(Content)
        part._handle, part._begin, part.path = self._handle, self._begin + begin, None
        part.size = max(0, min(end if end is not None else self.size, self.size) - begin)
        part._replaced = {at - begin: new for at, new in self._replaced.items()} | (replaced or {})
        return part

    def at(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start`, or fewer at the end of the content."""
        size = min(size, self.size - start)
        if start < 0 or size <= 0:
            return b""
        self._handle.seek(self._begin + start)
        data: bytes = self._handle.read(size)
        if self._replaced:
            patched = bytearray(data)
            for at, new in self._replaced.items():
                low, high = max(at, start), min(at + len(new), start + len(data))
                if low < high:
                    patched[low - start : high - start] = new[low - at : high - at]
            data = bytes(patched)
        return data

    def find(self, wanted: bytes, start: int = 0) -> int:
        """Return the first position of `wanted` from `start`, or -1."""
        while block := self.at(start, 1 << 20):
            if (found := block.find(wanted)) >= 0:
                return start + found
            start += max(1, len(block) - len(wanted) + 1)
        return -1


class ContentFile:
    """A content with the methods of a file, for libsndfile. A seek before the start is ignored.

    `claimed_size` is a false, larger size. A decoder that guesses the length of a sound from the size of its file then
    reads all bytes. The last `TAG_SIZE` of the claimed bytes are zeros: some builds of libsndfile refuse an MP3 if they
    can't read there, where they look for a tag (ID3v1).
    """

    def __init__(self, content: Content, claimed_size: int | None = None) -> None:
        self._content = content
        self._size = claimed_size or content.size
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = (0, self._at, self._size)[whence]
        if origin + offset >= 0:
            self._at = origin + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = b""
        with contextlib.suppress(OSError):  # an exception in a callback is printed and lost
            data = self._content.at(self._at, len(buffer))
        if not data and self._at >= max(self._content.size, self._size - TAG_SIZE):
            data = bytes(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def write(self, data: bytes) -> int:
        raise io.UnsupportedOperation("write")
