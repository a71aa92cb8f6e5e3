"""A request to read a sound, and the error messages for requests that fail."""

import os
from typing import Any, NamedTuple, TypeAlias

from cochlea_sb.errors import AudioError

# A file, its contents, or a row of a dataset.
AudioSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | dict[str, Any]

FFMPEG_EXTENSIONS = frozenset(
    ".3gp .aac .ac3 .amr .ape .avi .dts .eac3 .flv .m4a .m4b .mka .mkv .mov .mp4 .mpg .ogv .spx .ts .tta .webm .wma "
    ".wv".split()
)
AUDIO_EXTENSIONS = FFMPEG_EXTENSIONS.union(
    ".8svx .aif .aifc .aiff .au .avr .bwf .caf .flac .iff .ircam .mp2 .mp3 .nist .oga .ogg .opus .paf .pvf .rf64 .sd2 "
    ".sds .sf .snd .sph .svx .voc .w64 .wav .wave .wve .xi".split()
)
KINDS = "WAV, FLAC, OGG, MP3, AIFF or, with FFmpeg, M4A, MP4, AAC, WebM or WMA"
# A part may end this much after the sound, because its times may be rounded. It is then cut at the end of the sound.
SLACK_SECONDS = 0.1


class TooLong(AudioError):
    """A sound, or a part of it, is longer than ``max_seconds``."""


class Ask(NamedTuple):
    """A request: `source` is an absolute path (str) or bytes, `rate` is in Hz, times are in seconds."""

    name: str
    source: str | bytes
    rate: int
    start: float
    stop: float | None
    max_seconds: float

    @property
    def first(self) -> int:
        """The first output sample of the part."""
        return round(self.start * self.rate)

    @property
    def last(self) -> int | None:
        """The output sample after the last one of the part; None for the end of the sound."""
        return None if self.stop is None else max(self.first + 1, round(self.stop * self.rate))

    def error(self, problem: str, remedy: str) -> AudioError:
        return AudioError(f"{self.name}: {problem}; {remedy}.")

    def outside(self, seconds: float) -> AudioError:
        until = "the end" if self.stop is None else f"{self.stop:g} s"
        return self.error(f"is {seconds:.3f} s long", f"expected a part inside that, not {self.start:g} s to {until}")

    def too_long(self, seconds: float) -> TooLong:
        remedy = "read a part with start_seconds and stop_seconds, or increase max_seconds"
        return TooLong(
            f"{self.name}: {seconds:,.1f} s of audio is over the limit of {self.max_seconds:,g} s; {remedy}."
        )

    def cut(self, what: str) -> AudioError:
        return self.error(f"the file ends before its header says ({what})", "get the whole file again")

    def not_audio(self, reason: object) -> AudioError:
        return self.error(f"this is not audio that can be read ({one_line(reason)})", f"expected {KINDS}")


def one_line(text: object) -> str:
    """Make a text printable on one line and without a full stop, because file names may hold any byte."""
    return " ".join(str(text).encode("utf-8", "replace").decode().split()).rstrip(".")


def is_much(missing: float, whole: float) -> bool:
    """Tell whether too many seconds are missing. Files of old sample packs often lack a few bytes, and are accepted."""
    return missing > 0.25 or missing > 0.25 * whole
