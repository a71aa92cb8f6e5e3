"""Decode anything, safely: a file, its bytes or a dataset row becomes a mono waveform, or one sentence says why not.

Every road into the project starts here (training data, queries, libraries). Decoding goes block by block, so memory
is the waveform plus one block whatever a header claims. libsndfile does the work; FFmpeg, where it is installed, the
formats libsndfile lacks. Names: `native` the file's own rate, `rate` the wanted one (both in Hz), frame one sample of
every channel.
"""

import contextlib
import io
import itertools
import math
import mmap
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import soundfile
import soxr

from cochlea_sb.errors import AudioError, UserError

# A file, its contents, or a row of a dataset.
AudioSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | dict[str, Any]

_FFMPEG_EXTENSIONS = frozenset(".3gp .aac .ac3 .amr .ape .m4a .m4b .mka .mkv .mov .mp4 .tta .webm .wma .wv".split())
AUDIO_EXTENSIONS = _FFMPEG_EXTENSIONS.union(
    ".8svx .aif .aifc .aiff .au .avr .bwf .caf .flac .iff .ircam .mp2 .mp3 .nist .oga .ogg .opus .paf .pvf .rf64 .sd2 "
    ".sds .sf .snd .sph .svx .voc .w64 .wav .wave .wve .xi".split()
)
_BLOCK_SAMPLES = 1 << 20  # 4 MiB of float32: 24 s of CD mono
_FFMPEG_SECONDS = 600  # decoding runs at hundreds of times real time; slower than this is stuck
_FFMPEG_DEMUXERS = "aac,ac3,amr,ape,asf,matroska,webm,mov,mp4,tta,wv"  # no playlists: those name other files to open
# The boxes of MP4, EBML (Matroska, WebM), ASF (WMA) and ADTS (AAC).
_FFMPEG_MAGIC = re.compile(rb"(?s)....ftyp|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75\x8e\x66\xcf\x11|\xff[\xf0\xf1\xf8\xf9]")
_LOUDEST = 1e18  # no sound is this loud, and its sums and filters cannot overflow float32
# libsndfile shortens the frame count of a cut file to what is there and notes the declared size in its log.
_CUT_CHUNK = re.compile(r"(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)")
# Writers into a pipe cannot know the size, and declare about the largest one.
_PLACEHOLDERS = ((0x7FFF0000, 0x80000000), (0xFFFF0000, 0xFFFFFFFF), (1 << 62, 1 << 64))


def read_audio(
    source: AudioSource,
    sample_rate: int = 16000,
    *,
    start_seconds: float = 0.0,
    stop_seconds: float | None = None,
    max_seconds: float = 4 * 3600,
) -> np.ndarray:
    """Decode a sound, or a part of it, to mono at the wanted rate.

    A part equals the same samples of the whole. Samples that are not finite become 0.

    Arguments
    ---------
    source : str, os.PathLike, bytes, bytearray or dict
        A file, a file's contents, or a `datasets` row of ``Audio(decode=False)``: ``{"bytes": ..., "path": ...}``,
        where the path is read if the bytes are None, and otherwise only names the sound.
    sample_rate : int
        Wanted rate in Hz, 100 to 1,000,000.
    start_seconds, stop_seconds : float
        The part to read; ``stop_seconds=None`` reads to the end.
    max_seconds : float
        The longest part to decode.

    Returns
    -------
    np.ndarray [samples], float32
        In [-1, 1] for integer formats; float formats and lossy codecs may exceed that.

    Raises
    ------
    AudioError
        If the sound is missing, empty, cut off, too long or not audio, or the part is not inside it.
    UserError
        If an argument is out of its range.

    Example
    -------
    >>> wav = io.BytesIO()
    >>> soundfile.write(wav, np.zeros(44100), 44100, format="WAV")
    >>> read_audio(wav.getvalue(), stop_seconds=0.5).shape
    (8000,)
    """
    _check_arguments(sample_rate, start_seconds, stop_seconds, max_seconds)
    ask = _Ask(*_locate(source), int(sample_rate), start_seconds, stop_seconds, max_seconds)
    if stop_seconds is not None and stop_seconds - start_seconds > max_seconds:
        raise ask.too_long(stop_seconds - start_seconds)
    try:
        try:
            file = _open(ask.content)
        except soundfile.SoundFileError as error:
            samples = _read_with_ffmpeg(ask, error)
        else:
            with file:
                samples = _read_with_libsndfile(ask, file)
    except AudioError:
        raise
    except OSError as error:
        raise ask.error(
            f"cannot be opened ({_one_line(error.strerror)})", "expected a file that may be read"
        ) from error
    except Exception as error:  # a decoder fed with broken bytes may raise anything
        raise ask.error(f"decoding failed ({_one_line(error)})", "the file is probably damaged") from error
    if not len(samples):
        raise ask.error(f"there is not one sample after {ask.start:g} s", "expected an earlier start")
    return samples


class _Ask(NamedTuple):
    """What the caller wants: `content` is an absolute path (str) or bytes; times in seconds."""

    name: str
    content: str | bytes
    rate: int
    start: float
    stop: float | None
    max_seconds: float

    def error(self, problem: str, remedy: str) -> AudioError:
        return AudioError(f"{self.name}: {problem}; {remedy}.")

    def outside(self, duration: float) -> AudioError:
        until = "the end" if self.stop is None else f"{self.stop:g} s"
        return self.error(f"is {duration:.3f} s long", f"expected a part inside that, not {self.start:g} s to {until}")

    def too_long(self, seconds: float) -> AudioError:
        remedy = "read a part with start_seconds and stop_seconds, or raise max_seconds"
        return self.error(f"{seconds:,.1f} s of audio is over the limit of {self.max_seconds:,g} s", remedy)


class _Memory(io.BytesIO):
    """Bytes for libsndfile's callbacks: a broken header's seek before the start fails without a traceback."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that does not seek to where it already is after every read.

    soundfile does so in files that call themselves seekable; it costs time, and fails at the end of a streamed FLAC.
    """

    def seekable(self) -> bool:
        return False


def _check_arguments(rate: float, start: float, stop: float | None, max_seconds: float) -> None:
    if not 100 <= rate <= 1_000_000 or rate != int(rate):
        raise UserError(f"sample_rate is {rate}: expected a whole number of Hz from 100 to 1,000,000.")
    if not 0 <= start < math.inf or (stop is not None and not start < stop < math.inf):
        raise UserError(f"the part is {start} to {stop} s: expected 0 <= start_seconds < stop_seconds.")
    if not max_seconds > 0:
        raise UserError(f"max_seconds is {max_seconds}: expected more than 0.")


def _one_line(text: object) -> str:
    """Printable text for the middle of a sentence: no line breaks, no full stop (file names may hold any byte)."""
    return " ".join(str(text).encode("utf-8", "replace").decode().split()).rstrip(".")


def _locate(source: AudioSource) -> tuple[str, str | bytes]:
    """Return the name for errors and the content."""
    path: Any = source
    if isinstance(source, dict):
        path = source.get("path")
        source = path if source.get("bytes") is None else source["bytes"]
    named = isinstance(path, (str, os.PathLike))
    name = _one_line(os.fsdecode(path)) if named else "<bytes>"
    if isinstance(source, (bytes, bytearray)):
        if not source:
            raise AudioError(f"{name}: has 0 bytes; expected the contents of an audio file.")
        return name, bytes(source)
    if not named:
        raise UserError(f"source is a {type(source).__name__}: expected a path, bytes, or a row with bytes or path.")
    try:
        # Absolute, as libsndfile takes "-" for stdin and FFmpeg takes other names for options.
        path = os.path.abspath(os.fsdecode(path))
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = _one_line(getattr(error, "strerror", None) or error)
        raise AudioError(f"{name}: cannot be opened ({reason}); expected an audio file.") from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe could wait for ever
        raise AudioError(f"{name}: is a folder, device or pipe; expected an audio file.")
    if not status.st_size:
        raise AudioError(f"{name}: has 0 bytes; expected an audio file.")
    if path.lower().endswith(".raw"):
        raise AudioError(f"{name}: headerless audio does not say its rate and channels; convert it to WAV.")
    return name, path


def _bytes_at(content: str | bytes, start: int, size: int) -> bytes:
    if isinstance(content, bytes):
        return content[start : start + size]
    with open(content, "rb") as handle:
        handle.seek(start)
        return handle.read(size)


def _open(content: str | bytes) -> _ForwardFile:
    """Open with libsndfile; a WAV streamed with size 0 is opened as if it had declared its real size."""
    if isinstance(content, bytes):
        target: _Memory | bytes | str = _Memory(content)
    else:  # soundfile cannot encode a name that is not UTF-8
        target = os.fsencode(content) if os.name == "posix" else content
    file = _ForwardFile(target)
    if file.frames or file.format not in ("WAV", "WAVEX"):
        return file
    at = _bytes_at(content, 0, 4096).find(b"data\0\0\0\0") + 4
    left = (len(content) if isinstance(content, bytes) else os.path.getsize(content)) - at - 4
    if at < 4 or not left:
        return file
    file.close()
    size = min(left, 0xFFFFFFFF).to_bytes(4, "little")
    if isinstance(content, bytes):
        return _ForwardFile(_Memory(content[:at] + size + content[at + 4 :]))
    with open(content, "rb") as handle:
        # Copy on write: the change stays in this process, and the file is not loaded whole.
        patched = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
    patched[at : at + 4] = size
    return _ForwardFile(patched)


def _read_with_libsndfile(ask: _Ask, file: _ForwardFile) -> np.ndarray:
    native, total = file.samplerate, file.frames
    if file.format == "RAW":  # guessed from the name's ending
        raise ask.error("headerless audio does not say its rate and channels", "convert it to WAV")
    if not 100 <= native <= 1_000_000 or not 1 <= file.channels <= 256:
        claim = f"the header says {native} Hz and {file.channels} channels"
        raise ask.error(claim, "expected 100 Hz to 1 MHz and at most 256 channels")
    if not total:
        raise ask.error("the audio is 0 samples long", "expected at least one")
    _refuse_if_cut(ask, file)
    known = total < 1 << 62  # a streamed FLAC does not know its length
    if known and (ask.start * native >= total or (ask.stop or 0) * native > total + 1):
        raise ask.outside(total / native)
    if known and ask.stop is None and total / native - ask.start > ask.max_seconds:
        raise ask.too_long(total / native - ask.start)

    begin, end, skip, keep = _span(native, ask.rate, ask.start, ask.stop)
    end = min(end or total, total)
    if known:
        _seek(file, begin)
    elif (length := sum(map(len, _sound_blocks(file, begin)))) < begin:
        raise ask.outside(length / native)
    blocks = _sound_blocks(file, end - begin)
    samples = _resample(_mono_blocks(ask, blocks, native, ask.start * native - begin), native, ask.rate)
    if not known and keep is not None and len(samples) < skip + keep - 1:
        raise ask.outside(begin / native + len(samples) / ask.rate)
    if known and file.format == "FLAC" and file.tell() < end:
        raise _cut(ask, f"{end - file.tell()} samples are missing")
    return samples[skip : None if keep is None else skip + keep]


def _refuse_if_cut(ask: _Ask, file: _ForwardFile) -> None:
    """Raise if the file ends before its header says (FLAC shows it while decoding; MP3 never says)."""
    missing = 0.0
    for declared, present in re.findall(_CUT_CHUNK, file.extra_info):
        declared, present = int(declared), int(present)
        if 0 < present < declared and not any(low <= declared <= high for low, high in _PLACEHOLDERS):
            missing = 1 - present / declared
    # Old sample packs hold files that lack a padding or a disk sector at their end, and sound well.
    lost_seconds = file.frames / file.samplerate * missing / (1 - missing)
    if missing > 0.25 or lost_seconds > 0.25:
        raise _cut(ask, f"{missing:.0%} of the audio is missing")
    if file.format == "OGG" and not _ogg_ends(ask.content):
        raise _cut(ask, "its last page is missing")


def _cut(ask: _Ask, what: str) -> AudioError:
    return ask.error(f"the file ends before its header says ({what})", "get the whole file again")


def _ogg_ends(content: str | bytes) -> bool:
    """Tell whether the last Ogg page is whole and carries the end-of-stream flag (RFC 3533, section 6)."""
    size = len(content) if isinstance(content, bytes) else os.path.getsize(content)
    tail = _bytes_at(content, max(0, size - (1 << 17)), 1 << 17)  # a page is at most 65,307 bytes
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27 or not page[5] & 4:
        return False
    return 27 + page[26] + sum(page[27 : 27 + page[26]]) <= len(page)


def _span(native: int, rate: int, start: float, stop: float | None) -> tuple[int, int | None, int, int | None]:
    """Native frames begin:end to decode, and the output samples to skip and to keep of what comes out.

    The lead-in on each side covers the resampler's filter. It begins at a frame that falls on an output sample
    exactly (every whole second at the latest), so that a part has the whole's samples and not ones between them.
    """
    lead = 0 if native == rate else math.ceil(native * max(0.05, 400 / min(native, rate)))
    grid = native // math.gcd(native, rate)
    begin = max(0, math.floor(start * native) - lead) // grid * grid
    skip = round(start * rate) - begin * rate // native
    if stop is None:
        return begin, None, skip, None
    return begin, math.ceil(stop * native) + lead, skip, max(1, round(stop * rate) - round(start * rate))


def _seek(file: _ForwardFile, frame: int) -> None:
    if not frame:
        return
    try:
        file.seek(frame)
    except soundfile.SoundFileError:
        sum(map(len, _sound_blocks(file, frame)))  # GSM 6.10 and a few others only play forwards


def _sound_blocks(file: _ForwardFile, frames: int) -> Iterator[np.ndarray]:
    size = max(1, _BLOCK_SAMPLES // file.channels)
    while frames and len(block := file.read(min(size, frames), dtype="float32")):
        frames -= len(block)
        yield block


def _mono_blocks(ask: _Ask, blocks: Iterator[np.ndarray], native: int, lead: float) -> Iterator[np.ndarray]:
    """Yield [frames] for each block [frames] or [frames, channels]; raise if they are too many or of no use."""
    limit = lead + ask.max_seconds * native if ask.stop is None else math.inf  # a part's end bounds it already
    frames, usable = 0, False
    for block in blocks:
        frames += len(block)
        if frames > limit:
            raise ask.too_long(frames / native)
        mono = _average(block)
        peak = max(mono.max(), -mono.min())
        if peak < _LOUDEST:  # false for NaN too
            usable = True
        else:
            finite = np.abs(block) < _LOUDEST
            usable = usable or bool(finite.any())
            mono = _average(np.where(finite, block, np.float32(0)))
        yield mono
    if not frames:
        raise ask.error("no samples could be decoded", "the file is probably damaged or cut off")
    if not usable:
        raise ask.error("not one sample is a finite number", "expected audio in [-1, 1]")


def _average(block: np.ndarray) -> np.ndarray:
    if block.ndim == 1:
        return block
    mono: np.ndarray = block[:, 0].copy()  # adding columns is many times faster than mean(axis=1)
    for channel in range(1, block.shape[1]):
        mono += block[:, channel]
    mono /= block.shape[1]
    return mono


def _resample(blocks: Iterator[np.ndarray], native: int, rate: int) -> np.ndarray:
    """Join mono blocks at the wanted rate; a sound of one block takes the short way."""
    first = next(blocks)
    second = next(blocks, None)
    if second is None:
        if native == rate:
            return first
        samples: np.ndarray = soxr.resample(first, native, rate)
        return samples if len(samples) else first[:1]  # a click shorter than one output sample is a sound all the same
    joined = bytearray()  # grows in place: no second copy at the end
    stream = None if native == rate else soxr.ResampleStream(native, rate, 1)
    for block in itertools.chain((first, second), blocks):
        joined += (stream.resample_chunk(block) if stream else block).data
    if stream:
        joined += stream.resample_chunk(np.empty(0, np.float32), last=True).data
    return np.frombuffer(joined, np.float32)


def _read_with_ffmpeg(ask: _Ask, error: Exception) -> np.ndarray:
    """Decode a container that libsndfile does not know; `error` is what libsndfile said."""
    head = _bytes_at(ask.content, 0, 64)
    suffix = "" if isinstance(ask.content, bytes) else os.path.splitext(ask.content)[1].lower()
    binary = any(byte < 9 for byte in head)
    if not _FFMPEG_MAGIC.match(head) and not (suffix in _FFMPEG_EXTENSIONS and binary):
        said = f"this is not audio that can be read ({_one_line(getattr(error, 'error_string', error))})"
        kinds = "WAV, FLAC, OGG, MP3, AIFF or, with FFmpeg, M4A, MP4, AAC, WebM or WMA"
        raise ask.error(said, f"expected {kinds}") from error
    program = shutil.which("ffmpeg")
    if program is None:
        remedy = "install it (apt, brew or winget install ffmpeg) or convert the file to WAV"
        raise ask.error("this format needs FFmpeg, which is not on the PATH", remedy) from error
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(ask.content, bytes):  # M4A cannot be read from a pipe: its table of contents may come last
            path = os.path.join(folder, "sound")
            with open(path, "wb") as handle:
                handle.write(ask.content)
        else:
            path = ask.content
        with contextlib.closing(_ffmpeg_blocks(ask, program, path)) as blocks:
            return _resample(_mono_blocks(ask, blocks, ask.rate, 0), ask.rate, ask.rate)


def _ffmpeg_blocks(ask: _Ask, program: str, path: str) -> Generator[np.ndarray, None, None]:
    """Yield [samples] blocks of the wanted part at the wanted rate; never through a shell.

    The start is decoded and dropped: FFmpeg's own seeking (-ss) is some 20 ms off in M4A and Matroska.
    """
    command = [program, "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe"]
    command += ["-format_whitelist", _FFMPEG_DEMUXERS, "-i", f"file:{path}", "-map", "0:a:0"]
    # Without rematrix_maxval two channels would come out as their sum over the root of 2.
    command += ["-af", f"aresample={ask.rate}:ochl=mono:rematrix_maxval=1", "-f", "f32le", "pipe:1"]
    first = round(ask.start * ask.rate)
    last = 1 << 62 if ask.stop is None else max(first + 1, round(ask.stop * ask.rate))
    done = 0
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None  # a pipe
        timer = threading.Timer(_FFMPEG_SECONDS, process.kill)
        timer.start()
        try:
            while block := process.stdout.read(4 * min(_BLOCK_SAMPLES, last - done)):
                done += len(block) // 4
                if done > first:
                    yield np.frombuffer(bytearray(block), np.float32)[-(done - first) :]
            status = 0 if done >= last else process.wait()
        finally:  # also when the reader has had enough
            timer.cancel()
            process.kill()
        log.seek(0)
        said = log.read(4096).decode("utf-8", "replace").strip()
    if status or "partial file" in said:
        reason = _one_line(said.splitlines()[-1].split(": ")[-1]) if said else f"status {status}"
        raise ask.error(f"FFmpeg cannot decode it ({reason})", "the file is probably damaged or holds no sound")
    if done <= first or (ask.stop is not None and done < last - 1):
        raise ask.outside(done / ask.rate)
