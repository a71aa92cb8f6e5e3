"""Serve any sound as 16-bit WAV, by byte ranges, and decode only the part that is asked for."""

import re
import struct

import numpy as np
from starlette.responses import Response

from cochlea_sb.audio import read_audio

SAMPLE_RATE = 44_100
HEADER = 44  # bytes
MOST_AT_ONCE = 4 << 20  # bytes of one answer; a browser asks for the next range itself


def wav_range(path: str, seconds: float, asked: str | None) -> Response:
    """Answer a request for a sound as mono WAV at 44.1 kHz, with the status 200, 206 or 416."""
    samples = round(seconds * SAMPLE_RATE)
    size = HEADER + 2 * samples
    first, last, status = 0, size - 1, 200
    if asked is not None:
        found = re.fullmatch(r"bytes=(\d{1,15})-(\d{0,15})", asked.strip())
        if found is None or int(found[1]) >= size:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        first, status = int(found[1]), 206
        last = min(int(found[2]) if found[2] else size - 1, size - 1, first + MOST_AT_ONCE - 1)
    content = wav_bytes(path, samples, first, last + 1)
    headers = {"Accept-Ranges": "bytes"}
    if status == 206:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Response(content, status, headers, "audio/wav")


def wav_bytes(path: str, samples: int, first: int, end: int) -> bytes:
    """Bytes ``first`` to ``end`` of the WAV file that a sound of so many samples would be."""
    data = 2 * samples
    header = (
        b"RIFF"
        + struct.pack("<I", 36 + data)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    )
    header += b"data" + struct.pack("<I", data)
    part = header[first:end]
    if end > HEADER:
        one, other = max(first - HEADER, 0) // 2, -(-(end - HEADER) // 2)
        wav = read_audio(path, SAMPLE_RATE, start_seconds=one / SAMPLE_RATE, stop_seconds=other / SAMPLE_RATE)
        wav = np.pad(wav[: other - one], (0, max(0, other - one - len(wav))))
        pcm = (np.clip(wav, -1, 1) * 32767).astype("<i2").tobytes()
        skipped = max(first - HEADER, 0) - 2 * one
        part += pcm[skipped : skipped + end - max(first, HEADER)]
    return part
