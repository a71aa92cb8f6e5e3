"""Decode with FFmpeg, if it is installed: M4A, WebM, WMA, films, and files that libsndfile can't decode."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import textwrap
import threading
from collections.abc import Generator, Iterator

import numpy as np

from cochlea_sb.audio.ask import FFMPEG_EXTENSIONS, Ask, is_much, one_line
from cochlea_sb.audio.content import Content
from cochlea_sb.audio.lengths import container_cut, skip_tag
from cochlea_sb.audio.mpeg import frame_at
from cochlea_sb.audio.samples import BLOCK_SAMPLES, mono, take

_SECONDS = 600  # to decode a block of a minute; a decoder that takes longer hangs
# No playlists, which name other files to open, and no images or texts.
_DEMUXERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,matroska,webm,mov,mp4,mp3,mpc,mpc8,"
    "mpeg,mpegts,mxf,ogg,oma,rm,shn,swf,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
# MP4's boxes, EBML (Matroska, WebM), ASF (WMA), AC-3, DTS, FLV, MPEG-PS, TTA, WavPack, Monkey's Audio, Musepack, AMR.
_MAGIC = re.compile(
    rb"(?s)....(?:ftyp|moov|mdat|wide|free)|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75\x8e\x66\xcf\x11|\x0b\x77|\x7f\xfe\x80\x01|FLV\x01"
    rb"|\x00\x00\x01\xba|TTA[12]|wvpk|MAC |MP\+|MPCK|#!AMR|RIFF....AVI |\.RMF|tBaK|G.{187}G"
)
_ADTS = re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")  # AAC, whose sync word libsndfile takes for MP3's
_DURATION = re.compile(r"^\[info\]\s+Duration: (\d+):(\d\d):(\d\d\.\d+),", re.MULTILINE)


def is_for_ffmpeg(content: Content) -> bool:
    """Tell whether the first bytes belong to a format that only FFmpeg decodes."""
    at = skip_tag(content)
    head = content.at(at, 256)
    if _ADTS.match(head) and len(head) >= 7:
        size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        return size >= 7 and (at + size >= content.size or bool(_ADTS.match(content.at(at + size, 2))))
    return bool(_MAGIC.match(head)) and frame_at(head, 0) is None


def may_be_audio(content: Content) -> bool:
    """Tell whether FFmpeg should try to decode the bytes. It does not try texts and web pages."""
    head = content.at(skip_tag(content), 512)
    return bool(head) and any(byte < 9 or byte > 126 for byte in head) and not head.lstrip()[:1] == b"<"


def decode(ask: Ask, content: Content, reason: object = None) -> Iterator[np.ndarray]:
    """Yield the requested part as mono blocks at the requested rate; `reason` says why libsndfile failed."""
    program = shutil.which("ffmpeg")
    if program is None:
        suffix = os.path.splitext(ask.name)[1].lower()
        if reason is not None and suffix not in FFMPEG_EXTENSIONS:
            raise ask.not_audio(reason)
        remedy = "install it (apt, brew or winget install ffmpeg) or convert the file to WAV"
        raise ask.error("this format needs FFmpeg, which is not on the PATH", remedy)
    if cut := container_cut(content):
        raise ask.cut(cut)
    with tempfile.TemporaryDirectory() as folder:
        # A file without a suffix, because FFmpeg trusts suffixes. Not a pipe, because an M4A may end with its index.
        path = os.path.join(folder, "sound")
        if isinstance(ask.source, bytes):
            with open(path, "wb") as handle:
                handle.write(ask.source)
        else:
            try:
                os.symlink(ask.source, path)
            except OSError:  # on Windows, links need a privilege
                path = ask.source
        with contextlib.closing(_blocks(ask, program, path, reason)) as blocks:
            yield from take(ask, mono(ask, blocks))


def _blocks(ask: Ask, program: str, path: str, reason: object) -> Generator[np.ndarray, None, None]:
    """Yield blocks [samples] from the start of the sound at the requested rate. No shell is used.

    Audio before the part is decoded and dropped, because FFmpeg's own seeking (-ss) is about 20 ms wrong in M4A and
    Matroska.
    """
    command = [program, "-nostdin", "-hide_banner", "-nostats", "-v", "level+info"]
    command += ["-protocol_whitelist", "file,pipe", "-format_whitelist", _DEMUXERS, "-i", f"file:{path}"]
    # Without rematrix_maxval, FFmpeg divides the sum of two channels by the square root of 2 instead of 2.
    command += ["-map", "0:a:0", "-af", f"aresample={ask.rate}:ochl=mono:rematrix_maxval=1", "-f", "f32le", "pipe:1"]
    done = 0
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None  # a pipe
        try:
            while True:
                timer = threading.Timer(_SECONDS, process.kill)
                timer.start()
                try:
                    block = process.stdout.read(4 * BLOCK_SAMPLES)
                finally:
                    timer.cancel()
                if len(block) < 4:
                    break
                done += len(block) // 4
                yield np.frombuffer(bytearray(block[: len(block) // 4 * 4]), np.float32)
            status = process.wait()
        finally:  # also if the caller stops early
            process.kill()
        log.seek(0)
        said = log.read(1 << 16).decode("utf-8", "replace")
        if (size := log.seek(0, os.SEEK_END)) > 1 << 16:
            log.seek(max(1 << 16, size - (1 << 14)))
            said += log.read().decode("utf-8", "replace").partition("\n")[2]
    _check(ask, said, status, done / ask.rate, reason)


def _check(ask: Ask, said: str, status: int, seconds: float, reason: object) -> None:
    """Raise an error if FFmpeg's log says that the file holds no sound or is cut. `reason` is libsndfile's message."""
    if "matches no streams" in said and "Stream #0" in said:
        raise ask.error("it holds no sound", "expected a film or file with a sound track")
    if not seconds and reason is not None:
        raise ask.not_audio(reason)
    if "partial file" in said or "ended prematurely" in said:
        raise ask.cut("FFmpeg finds a part of it")
    errors = [line.rpartition("[error] ")[2] for line in said.splitlines() if "[error] " in line]
    declared = _DURATION.search(said)
    if seconds and declared and "Video: " not in said and "Estimating duration from bitrate" not in said:
        hours, minutes, rest = declared.groups()
        length = int(hours) * 3600 + int(minutes) * 60 + float(rest)
        if is_much(length - seconds, length) and seconds < 0.9 * length:
            raise ask.cut(f"{1 - seconds / length:.0%} of the audio is missing")
    if status or not seconds:
        why = textwrap.shorten(one_line(errors[0]), 200) if errors else f"status {status}"
        raise ask.error(f"FFmpeg cannot decode it ({why})", "the file is probably damaged or cut off")
