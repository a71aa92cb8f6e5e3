"""What a file really holds decides: neither a declared length, nor the name, nor the first decoder that is asked."""

import struct
import subprocess

import numpy as np
import pytest
from audio_files import convert, encode, noise, refusal, sine

from cochlea_sb.audio import read_audio

CUT = [  # format, subtype, rate
    *[("WAV", subtype, 22050) for subtype in ("PCM_16", "FLOAT", "IMA_ADPCM", "GSM610")],
    *[(name, None, 44100) for name in ("AIFF", "CAF", "W64", "RF64", "AU", "FLAC", "OGG", "MP3")],
    *[(name, None, 16000) for name in ("VOC", "SVX", "NIST", "AVR", "SDS")],
    ("OGG", "OPUS", 48000),
    ("CAF", "ALAC_16", 44100),
]
FFMPEG = {  # file name: options; "VIDEO" adds a picture
    "flac.ogg": "-c:a flac",
    "film.ogv": "VIDEO -c:v libtheora -c:a libvorbis",
    "alac.caf": "-c:a alac",
    "ima4.caf": "-c:a adpcm_ima_qt",
    "mp2.wav": "-c:a mp2",
    "ac3.wav": "-c:a ac3",
    "g722.wav": "-c:a g722 -ar 16000",
    "a.eac3": "-c:a eac3",
    "a.dts": "-c:a dca -strict -2",
    "a.avi": "VIDEO -c:v mpeg4 -c:a libmp3lame",
    "a.mpg": "VIDEO -c:v mpeg2video -c:a mp2",
    "a.ts": "VIDEO -c:v mpeg2video -c:a mp2",
    "a.flv": "VIDEO -c:v flv -c:a libmp3lame",
    "a.tta": "-c:a tta",
    "a.wv": "-c:a wavpack",
}


def seconds(source, **options):
    return len(read_audio(source, **options)) / 16000


def chunk(name, body, size=None):
    return name + struct.pack("<I", len(body) if size is None else size) + body


def replace(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def bursts(rate=44100):
    """A loud noise that dies away, and a tone: a VBR encoder gives the two very different bitrates."""
    times = np.arange(6 * rate) / rate
    loud = np.random.default_rng(0).standard_normal(len(times)) * np.exp(-times / 0.15)
    return 0.2 * np.sin(2 * np.pi * 440 * times) + 0.6 * loud


def frame_size(head):
    """Bytes of a frame of MPEG 1 layer 3 at 44.1 kHz."""
    kbps = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[head[2] >> 4]
    return 144 * kbps * 1000 // 44100 + (head[2] >> 1 & 1)


def test_a_vbr_mp3_without_its_header_is_read_to_the_end():
    data = encode(bursts(), 44100, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.0)
    assert seconds(data) == 6
    at = data.find(b"\xff\xfb")
    for lost in range(1, 8):  # the header's frame, then frames of the sound
        at += frame_size(data[at:])
        assert abs(seconds(data[at:]) - (6.034 - 0.0261 * (lost - 1))) < 0.03


def test_a_wrong_count_of_frames_does_not_cut_a_sound():
    wave = sine(6, 44100)
    mp3, flac = encode(wave, 44100, "MP3"), encode(wave, 44100, "FLAC")
    xing = max(mp3.find(b"Xing"), mp3.find(b"Info"))
    assert abs(seconds(replace(mp3, xing + 8, struct.pack(">I", 40))) - 6) < 0.06
    assert seconds(replace(flac, 21, bytes([flac[21] & 0xF0]) + struct.pack(">I", 44100))) == 6
    wav = encode(wave, 44100)
    assert seconds(replace(wav, 40, struct.pack("<I", 88200))) == 6


@pytest.mark.parametrize("name", ["WAV", "AIFF", "FLAC", "OGG", "MP3", "OPUS"])
def test_joined_files_are_read_to_the_end(name):
    def file(length, rate):
        return encode(sine(length, rate), rate, *(("OGG", "OPUS") if name == "OPUS" else (name,)))

    rate, other = (48000, 16000) if name == "OPUS" else (44100, 22050)
    assert abs(seconds(file(2, rate) + file(3, rate)) - 5) < 0.02
    assert abs(seconds(file(2, rate) + file(3, other) + file(1, rate)) - 6) < 0.03
    joined = read_audio(file(2, rate) + file(3, other))
    np.testing.assert_array_equal(
        read_audio(file(2, rate) + file(3, other), start_seconds=1.5, stop_seconds=3), joined[24000:48000]
    )


def test_what_is_before_between_and_behind_sounds_is_skipped():
    mp3, junk = encode(noise(6, 44100), 44100, "MP3"), np.random.default_rng(0).integers(0, 255, 1000, np.uint8)
    tag = b"ID3\3\0\0\0\0\x07\x76" + bytes(1014)
    assert seconds(mp3 + tag + mp3) == 12
    assert seconds(junk.tobytes() + mp3) == seconds(mp3 + b"<html>sorry</html>" * 100) == 6
    assert abs(seconds(mp3[:20000] + junk.tobytes() + mp3[20000:]) - 6) < 0.1
    for name in ("WAV", "FLAC", "OGG"):
        assert seconds(b"HTTP/1.1 200 OK\r\n\r\n" + encode(sine(2, 44100), 44100, name)) == 2


@pytest.mark.parametrize(("format", "subtype", "rate"), CUT)
def test_a_cut_file_is_refused(format, subtype, rate):
    data = encode(noise(6, rate), rate, format, subtype)
    for share in (0.1, 0.5, 0.9):
        refusal(data[: int(len(data) * share)])
    assert 5.9 < seconds(data) < 6.3


@pytest.mark.parametrize("name", ["a.wma", "a.m4a", "a.webm", "flac.ogg", "a.wv", "a.tta", "alac.mov", "a.avi"])
def test_a_cut_file_is_refused_by_ffmpeg_too(ffmpeg, tmp_path, name):
    options = {"a.avi": "-c:a libmp3lame", "alac.mov": "-c:a alac", "flac.ogg": "-c:a flac", "a.webm": "-c:a libopus"}
    path = convert(ffmpeg, tmp_path, name, noise(6, 44100), 44100, *options.get(name, "").split())
    data = path.read_bytes()
    assert 5.9 < seconds(data) < 6.1
    for share in (0.1, 0.5, 0.9):
        refusal(data[: int(len(data) * share)])


def test_lengths_that_were_unknown_at_writing():
    pcm = (sine(3, 44100) * 32767).astype("<i2").tobytes()
    form = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 44100, 88200, 2, 16))
    aiff, caf, w64, au = (encode(sine(3, 44100), 44100, name) for name in ("AIFF", "CAF", "W64", "AU"))

    def wav(*chunks, name=b"RIFF", size=0):
        return name + struct.pack("<I", size) + b"WAVE" + b"".join(chunks)

    sound, common, audio = aiff.find(b"SSND"), aiff.find(b"COMM"), caf.find(b"data")
    piped = replace(aiff, common + 10, struct.pack(">I", 0x7F000000 // 2))
    cases = {
        f"WAV {size:x}": wav(form, chunk(b"data", pcm, size)) for size in (0, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF - 36)
    }
    cases |= {
        "long chunks": wav(chunk(b"bext", b"x" * 6000), chunk(b"iXML", b"<a/>" * 999), form, chunk(b"data", pcm, 0)),
        "a title 'data'": wav(chunk(b"LIST", b"INFOINAM\x0c\0\0\0data" + bytes(8)), form, chunk(b"data", pcm, 0)),
        "RF64": wav(chunk(b"ds64", bytes(28)), form, chunk(b"data", pcm, 0xFFFFFFFF), name=b"RF64", size=0xFFFFFFFF),
        "RF64 without ds64": wav(form, chunk(b"data", pcm, 0xFFFFFFFF), name=b"RF64", size=0xFFFFFFFF),
        "BW64": wav(
            chunk(b"ds64", struct.pack("<QQQI", len(pcm) + 72, len(pcm), 0, 0)),
            form,
            chunk(b"data", pcm, 0xFFFFFFFF),
            name=b"BW64",
            size=0xFFFFFFFF,
        ),
        "AIFF from a pipe": replace(replace(piped, 4, b"\x7f\0\0\x08"), sound + 4, b"\x7f\0\0\x08"),
        "AIFF 0": replace(replace(replace(aiff, common + 10, bytes(4)), 4, bytes(4)), sound + 4, bytes(4)),
        "CAF": replace(caf, audio + 4, struct.pack(">q", -1)),
        "W64": replace(w64, w64.find(b"data\xf3") + 16, bytes(8)),
        "AU": replace(au, 8, b"\xff\xff\xff\xff"),
    }
    for name, data in cases.items():
        whole = read_audio(data)
        assert abs(len(whole) - 48000) < 40, name
        np.testing.assert_array_equal(read_audio(data, start_seconds=2, stop_seconds=2.5).shape, (8000,))


def test_the_contents_decide_not_the_name(ffmpeg, tmp_path):
    wave = noise(3, 44100)
    aac = convert(ffmpeg, tmp_path, "a.aac", wave, 44100).read_bytes()
    m4a = convert(ffmpeg, tmp_path, "a.m4a", wave, 44100).read_bytes()
    files = {"aac": aac, "m4a": m4a} | {
        name: encode(wave, 44100, name) for name in ("WAV", "FLAC", "OGG", "MP3", "AIFF")
    }
    for kind, data in files.items():
        for name in ("a.mp3", "a.wav", "a.ogg", "a.au", "a.m4a", "a.txt", "a"):
            (tmp_path / name).write_bytes(data)
            assert abs(seconds(tmp_path / name) - 3) < 0.05, (kind, name)


@pytest.mark.parametrize("name", FFMPEG)
def test_ffmpeg_is_asked_for_what_libsndfile_cannot_read(ffmpeg, tmp_path, name):
    words = FFMPEG[name].split()
    picture = "-f lavfi -i testsrc=d=3:s=64x64:r=25".split() if "VIDEO" in words else []
    words = [word for word in words if word != "VIDEO"]
    tone = "-f lavfi -i sine=440:d=3:r=44100".split()
    path = tmp_path / name
    subprocess.run([ffmpeg, "-v", "error", *picture, *tone, *words, str(path)], check=True)
    whole = read_audio(path)
    assert abs(len(whole) / 16000 - 3) < 0.05
    np.testing.assert_array_equal(read_audio({"bytes": path.read_bytes(), "path": None}), whole)
    np.testing.assert_allclose(read_audio(path, start_seconds=1, stop_seconds=2), whole[16000:32000], atol=1e-6)


def test_ffmpeg_is_asked_for_any_ac3(ffmpeg, tmp_path):
    for seed in range(8):  # compressed bytes, whose first ones differ
        path = tmp_path / f"{seed}.ac3"
        hiss = f"anoisesrc=a=0.1:seed={seed}:d=0.5:r=44100"
        subprocess.run([ffmpeg, "-v", "error", "-f", "lavfi", "-i", hiss, path], check=True)
        assert 0.4 < seconds(path) < 0.7


def test_a_whole_file_inside_a_wav(ffmpeg, tmp_path):
    """Formats 0x55 (MP3) and 0x674F (Ogg Vorbis)."""
    for kind, name in ((0x55, "MP3"), (0x674F, "OGG"), (0x6771, "OGG")):
        inside = encode(sine(3, 44100), 44100, name)
        form = chunk(b"fmt ", struct.pack("<HHIIHHH", kind, 1, 44100, 16000, 1, 0, 0))
        for size in (None, 0, 0xFFFFFFFF):
            body = form + chunk(b"data", inside, size)
            wav = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body
            assert seconds(wav) == 3, (name, size)


@pytest.mark.parametrize(
    ("format", "subtype", "rate"),
    [("OGG", "VORBIS", 44100), ("OGG", "VORBIS", 22050), ("OGG", "OPUS", 48000), ("OGG", "OPUS", 16000)]
    + [("MP3", None, 44100), ("MP3", None, 16000), ("MP3", "VBR", 44100), ("FLAC", None, 48000), ("CAF", None, 44100)],
)
def test_any_part_equals_the_whole(format, subtype, rate):
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.3} if subtype == "VBR" else {}
    times = np.arange(12 * rate) / rate  # no part of a sweep is like another
    wave = 0.3 * np.sin(2 * np.pi * (150 + 200 * times) * times) + 0.2 * noise(12, rate)
    file = encode(wave, rate, format, None if subtype == "VBR" else subtype, **options)
    whole, draw = read_audio(file), np.random.default_rng(0)
    for start in draw.uniform(0, 11.9, 20):
        stop = start + 0.01 + draw.uniform(0, 1) ** 3 * (11.98 - start)
        part = read_audio(file, start_seconds=start, stop_seconds=stop)
        np.testing.assert_allclose(part, whole[round(start * 16000) : round(stop * 16000)], atol=1e-5)
        tail = read_audio(file, start_seconds=start)
        np.testing.assert_allclose(tail, whole[round(start * 16000) :], atol=1e-5)


def test_a_part_may_end_a_little_after_the_sound():
    for rate in (22050, 44100, 48000, 96000):
        file = encode(noise(1.23456, rate), rate)
        whole = read_audio(file)
        end = np.ceil(len(whole) / 160) / 100
        np.testing.assert_allclose(read_audio(file, start_seconds=1, stop_seconds=end), whole[16000:], atol=1e-6)
    assert "is 1.235 s long" in refusal(file, start_seconds=1, stop_seconds=1.5)


def test_a_wrong_seek_table_does_not_stop_a_part(ffmpeg, tmp_path):
    wave = noise(20, 44100)
    flac = encode(wave, 44100, "FLAC")
    points = b"".join(struct.pack(">QQH", 44100 * n, 1 << 40, 4096) for n in range(20))  # far beyond the file
    table = b"\x03" + len(points).to_bytes(3, "big") + points
    at = 4 + 4 + 34
    stale = flac[:at] + table + flac[at:]
    assert len(read_audio(stale)) == 320000
    np.testing.assert_allclose(
        read_audio(stale, start_seconds=10, stop_seconds=11), read_audio(flac)[160000:176000], atol=1e-5
    )


def test_sentences_tell_what_is_wrong(ffmpeg, tmp_path):
    tags = b"ID3\3\0\0\0\0\x07\x76" + bytes(1014)
    for data in (tags, tags + b"\xff\xfb\x90\x00" + bytes(50)):
        assert "it holds tags, but no audio" in refusal(data)
    page = tmp_path / "page.mp3"
    page.write_bytes(b"<html>404 not found</html>" * 50)
    assert "pipe" not in refusal(page) and "not audio that can be read" in refusal(page)
    film = tmp_path / "film.mp4"
    subprocess.run([ffmpeg, "-v", "error", *"-f lavfi -i testsrc=d=1:s=64x64".split(), str(film)], check=True)
    assert "it holds no sound; expected a film or file with a sound track." in refusal(film)
    whole = convert(ffmpeg, tmp_path, "a.m4a", noise(3, 44100), 44100, "-movflags", "faststart").read_bytes()
    broken = bytearray(whole)
    for at in range(whole.find(b"mdat") + 40, len(broken) - 200, 3):
        broken[at] = at * 7 & 255
    assert len(refusal(bytes(broken))) < 400
