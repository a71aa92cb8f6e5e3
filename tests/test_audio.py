"""audio.py: what was put in comes out, parts equal the whole, and whatever is broken is one sentence."""

import concurrent.futures
import os
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
from audio_files import convert, encode, noise, refusal, sine

from cochlea_sb.audio import AUDIO_EXTENSIONS, TooLong, libsndfile, read, read_audio, stream_audio
from cochlea_sb.audio import ffmpeg as ffmpeg_decoder
from cochlea_sb.errors import AudioError, UserError

RATES = (8000, 11025, 16000, 22050, 44100, 44101, 48000, 96000)
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
MP3_RATES = (8000, 11025, 16000, 22050, 44100, 48000)
FORMATS = [  # format, subtype, rates, channels, relative error of the amplitude, samples a codec may add
    ("WAV", "PCM_U8", RATES, (1, 2, 6), 0.02, 0),
    ("WAV", "PCM_16", RATES, (1, 2, 6), 0.001, 0),
    ("WAV", "PCM_24", RATES, (1, 2, 6), 0.001, 0),
    ("WAV", "PCM_32", RATES, (1, 2, 6), 0.001, 0),
    ("WAV", "FLOAT", RATES, (1, 2, 6), 0.001, 0),
    ("WAV", "DOUBLE", RATES, (1, 2, 6), 0.001, 0),
    ("WAV", "IMA_ADPCM", RATES, (1, 2), 0.05, 4200),
    ("AIFF", "PCM_16", RATES, (1, 2, 6), 0.001, 0),
    ("FLAC", "PCM_16", RATES, (1, 2, 6), 0.001, 0),
    ("OGG", "VORBIS", RATES, (1, 2, 6), 0.05, 0),
    ("OGG", "OPUS", OPUS_RATES, (1, 2, 6), 0.08, 0),
    ("MP3", "MPEG_LAYER_III", MP3_RATES, (1, 2), 0.05, 0),
]
BROKEN = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("AIFF", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None)]


@pytest.mark.parametrize(("format", "subtype", "rates", "channels", "error", "extra"), FORMATS)
def test_a_sine_keeps_frequency_amplitude_and_length(format, subtype, rates, channels, error, extra):
    for rate in rates:
        for count in channels:
            hz = 80 if count == 6 else 440  # lossy codecs keep only the lows of a sixth channel (LFE)
            wave = sine(0.6, rate, hz)
            got = read_audio(encode(np.stack([wave] * count, 1), rate, format, subtype))
            assert got.dtype == np.float32 and got.ndim == 1 and got.flags.c_contiguous and got.flags.writeable
            wanted = round(len(wave) * 16000 / rate)
            assert -1 <= len(got) - wanted <= 1 + extra * 16000 / rate, (rate, count)
            middle = np.arange(1600, wanted - 1600)
            angle = 2 * np.pi * hz * middle / 16000
            basis = np.stack([np.sin(angle), np.cos(angle)], 1)
            fit = np.linalg.lstsq(basis, got[middle], rcond=None)[0]
            assert abs(np.hypot(*fit) - 0.5) < 0.5 * error, (rate, count, fit)
            # What is not that sine is no more than the quantisation or the codec leaves.
            assert np.sqrt(np.mean((got[middle] - basis @ fit) ** 2)) < 0.5 * error, (rate, count)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
def test_the_wanted_rate_is_a_parameter(rate):
    got = read_audio(encode(sine(1, 44100), 44100), rate)
    assert abs(len(got) - rate) <= 1
    assert np.argmax(np.abs(np.fft.rfft(got[: rate // 2]))) == 220


def test_channels_are_averaged():
    channels = np.random.default_rng(0).uniform(-1, 1, (4000, 6))
    for count in (1, 2, 6):
        got = read_audio(encode(channels[:, :count], 16000, subtype="FLOAT"))
        np.testing.assert_allclose(got, channels[:, :count].mean(1), atol=1e-6)


def test_blocks_join_without_a_seam(monkeypatch):
    files = [encode(np.stack([noise(1.5, rate)] * 2, 1), rate) for rate in (16000, 44100, 44101)]
    whole = [read_audio(file) for file in files]
    monkeypatch.setattr(libsndfile, "BLOCK_SAMPLES", 3000)
    for file, expected in zip(files, whole, strict=True):
        got = read_audio(file)
        assert got.flags.writeable and len(got) == len(expected)
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("format", "subtype", "rate"),
    [("WAV", "PCM_16", rate) for rate in RATES]
    + [("WAV", "IMA_ADPCM", 22050), ("WAV", "GSM610", 8000), ("AIFF", "PCM_16", 44100), ("FLAC", "PCM_16", 44101)]
    + [("OGG", "VORBIS", 44100), ("OGG", "OPUS", 48000), ("MP3", None, 44100)],
)
def test_a_part_equals_the_slice_of_the_whole(format, subtype, rate):
    file = encode(noise(4, rate), rate, format, subtype)
    whole = read_audio(file)
    for start, stop in ((0, 0.5), (0.013, 1.0), (1.2345, 2.3456), (3.5, None), (2.999, 3.001)):
        part = read_audio(file, start_seconds=start, stop_seconds=stop)
        expected = whole[round(start * 16000) : None if stop is None else round(stop * 16000)]
        assert len(part) == len(expected)
        np.testing.assert_allclose(part, expected, atol=1e-4)


def test_a_part_must_lie_inside_the_sound(tmp_path):
    path = tmp_path / "two seconds.wav"
    path.write_bytes(encode(sine(2, 22050), 22050))
    for start, stop in ((2.0, None), (5, 6), (1, 2.5)):
        sentence = refusal(path, start_seconds=start, stop_seconds=stop)
        assert "two seconds.wav" in sentence and "2.000 s" in sentence
    assert len(read_audio(path, start_seconds=1, stop_seconds=2)) == 16000


@pytest.mark.parametrize(
    "options",
    [
        {"start_seconds": 2, "stop_seconds": 1},
        {"start_seconds": 1, "stop_seconds": 1},
        {"start_seconds": -1},
        {"start_seconds": float("nan")},
        {"stop_seconds": float("inf")},
        {"sample_rate": 0},
        {"sample_rate": 16000.5},
        {"max_seconds": 0},
    ],
)
def test_wrong_arguments_are_value_errors(options):
    with pytest.raises(UserError, match="expected") as caught:
        read_audio(encode(sine(3, 8000), 8000), **options)
    assert not isinstance(caught.value, AudioError)


@pytest.mark.parametrize("source", [None, 3, {}, {"bytes": None, "path": None}, ["a.wav"]])
def test_a_wrong_source_is_a_value_error(source):
    with pytest.raises(UserError, match="expected a path, bytes"):
        read_audio(source)


def test_all_kinds_of_source_are_equal(tmp_path):
    path = tmp_path / "sound.flac"
    data = encode(noise(1, 22050), 22050, "FLAC")
    path.write_bytes(data)
    expected = read_audio(path)
    rows = ({"bytes": data, "path": None}, {"bytes": data, "path": "gone.flac"}, {"bytes": None, "path": str(path)})
    for source in (str(path), data, bytearray(data), *rows):
        np.testing.assert_array_equal(read_audio(source), expected)
    assert refusal(b"nothing").startswith("<bytes>: ")
    assert refusal({"bytes": b"nothing", "path": "row.flac"}).startswith("row.flac: ")
    assert refusal({"bytes": b"", "path": "row.flac"}).startswith("row.flac: ")


def test_any_file_name_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = encode(sine(0.1, 8000), 8000)
    for name in ("-", "-i", "http:x.wav", "two\nlines.wav", os.fsdecode(b"caf\xe9.wav"), "ŝono.WAV"):
        with open(name, "wb") as handle:
            handle.write(data)
        assert len(read_audio(name)) == 1600
        with open(name, "wb") as handle:
            handle.write(b"hello")
        assert name.split("\n")[0][:3] in refusal(name)


def test_the_shortest_sounds():
    for rate in (8000, 16000, 44100, 96000):
        for length in (1, 2, 3, 10):
            got = read_audio(encode(np.full(length, 0.5), rate))
            assert len(got) == max(1, round(length * 16000 / rate))
            assert np.isfinite(got).all()


BAD_FILES = {
    "empty.wav": (b"", "0 bytes"),
    "header only.wav": (encode(np.zeros((0, 1)), 16000), "0 samples"),
    "text.wav": (b"I am no sound.\n" * 100, "not audio"),
    "text.m4a": (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not audio"),
    "random.wav": (np.random.default_rng(4).bytes(5000), "not audio"),
    "image.png": (b"\x89PNG\r\n\x1a\n" + bytes(2000), "not audio"),
    "samples.raw": (sine(1, 16000).astype(np.int16).tobytes(), "headerless"),
    "wave.raw": (encode(sine(1, 16000), 16000), "headerless"),
    "speech.vox": (bytes(range(256)) * 20, "not audio"),
    "nan.wav": (encode(np.full(100, np.nan), 16000, subtype="FLOAT"), "finite"),
    "inf.wav": (encode(np.full((100, 2), -np.inf), 16000, subtype="DOUBLE"), "finite"),
    "slow.wav": (encode(sine(1, 8000), 50), "50 Hz"),
    "fast.wav": (encode(sine(1, 8000), 2_000_000), "2000000 Hz"),
    "wide.wav": (encode(np.zeros((10, 300)), 8000), "300 channels"),
    "cut.wav": (encode(sine(2, 16000), 16000)[:40000], "ends before"),
    "cut.aiff": (encode(sine(2, 16000), 16000, "AIFF")[:40000], "ends before"),
    "cut.au": (encode(sine(2, 16000), 16000, "AU")[:40000], "ends before"),
    "cut.rf64": (encode(sine(2, 16000), 16000, "RF64")[:40000], "ends before"),
    "cut.w64": (encode(sine(2, 16000), 16000, "W64")[:40000], "ends before"),
    "cut.ogg": (encode(noise(4, 44100), 44100, "OGG")[:-1], "ends before"),
    "half.ogg": (encode(noise(4, 44100), 44100, "OGG")[:9000], "ends before"),
    "cut.flac": (encode(noise(2, 16000), 16000, "FLAC")[:-1], ""),
    "half.flac": (encode(noise(2, 16000), 16000, "FLAC")[:9000], ""),
    "cut.caf": (encode(noise(2, 16000), 16000, "CAF")[:9000], ""),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_sentence_with_its_name(tmp_path, name):
    data, reason = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    sentence = refusal(tmp_path / name)
    assert name in sentence and reason in sentence
    assert "get the whole file" in sentence or "expected" in sentence or "damaged" in sentence or "convert" in sentence
    assert name not in refusal(data) if not name.endswith("raw") else True


def test_what_is_no_file_is_one_sentence(tmp_path):
    assert "gone.wav: cannot be opened (No such file" in refusal(tmp_path / "gone.wav")
    assert "folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    assert "pipe.wav" in refusal(tmp_path / "pipe.wav")
    assert "cannot be opened" in refusal("nul\0byte.wav")
    assert "cannot be opened" in refusal("x" * 5000)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "private.wav"
    path.write_bytes(encode(sine(1, 8000), 8000))
    path.chmod(0)

    def refuse(*arguments, **options):  # for the superuser, whom chmod does not stop
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(read, "Content", refuse)
    sentence = refusal(path)
    assert "private.wav" in sentence and "Permission denied" in sentence


def test_some_samples_that_are_not_finite_become_zero():
    samples = sine(1, 16000).astype(np.float32)
    stereo = np.stack([samples, samples], 1)
    stereo[100], stereo[200, 0], stereo[300, 1] = np.nan, np.inf, 1e35
    got = read_audio(encode(stereo, 16000, subtype="FLOAT"))
    samples[100], samples[200], samples[300] = 0, samples[200] / 2, samples[300] / 2
    np.testing.assert_allclose(got, samples, atol=1e-6)


def test_loud_float_files_are_left_as_they_are():
    got = read_audio(encode(sine(1, 16000, amplitude=7.5), 16000, subtype="FLOAT"))
    assert abs(np.abs(got).max() - 7.5) < 0.01


def test_a_wav_may_lack_a_little_or_not_know_its_size(tmp_path):
    data = encode(sine(2, 16000), 16000)
    assert len(read_audio(data[:-1])) == 31999
    assert len(read_audio(data[:-5000])) == 29500  # a disk sector or two: found in sample packs, and it sounds well
    at = data.index(b"data") + 4
    for size in (0, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF):
        streamed = data[:at] + struct.pack("<I", size) + data[at + 4 :]
        (tmp_path / "streamed.wav").write_bytes(streamed)
        for source in (streamed, tmp_path / "streamed.wav"):
            np.testing.assert_array_equal(read_audio(source), read_audio(data))
        assert (tmp_path / "streamed.wav").read_bytes() == streamed


def claim_frames(flac, frames):
    """Write a total number of samples into a FLAC header (RFC 9639, section 8.2)."""
    flac = bytearray(flac)
    flac[21] = flac[21] & 0xF0 | frames >> 32
    flac[22:26] = struct.pack(">I", frames & 0xFFFFFFFF)
    return bytes(flac)


def test_a_streamed_flac_does_not_know_its_length():
    data = encode(noise(3, 44100), 44100, "FLAC")
    streamed = claim_frames(data, 0)
    whole = read_audio(data)
    np.testing.assert_array_equal(read_audio(streamed), whole)
    part = read_audio(streamed, start_seconds=1.25, stop_seconds=2.5)
    np.testing.assert_allclose(part, whole[20000:40000], atol=1e-4)
    assert "3.000 s" in refusal(streamed, start_seconds=4)
    assert "3.000 s" in refusal(streamed, start_seconds=2.5, stop_seconds=4)
    assert "over the limit of 1 s" in refusal(streamed, max_seconds=1)


def test_a_claim_of_many_frames_costs_no_memory():
    data = encode(noise(1, 16000), 16000, "FLAC")
    at = 40  # the size of a WAV's data
    wav = encode(noise(1, 16000), 16000)
    for source, reason in (
        (claim_frames(data, 2**36 - 1), "over the limit"),
        (claim_frames(data, 3 * 3600 * 16000), "ends before"),
        (wav[:at] + struct.pack("<I", 0x7FFFFFFF) + wav[at + 4 :], None),
    ):
        tracemalloc.start()
        try:
            assert reason in refusal(source) if reason else len(read_audio(source)) == 16000
            assert tracemalloc.get_traced_memory()[1] < 12e6
        finally:
            tracemalloc.stop()


def test_memory_is_the_output_and_a_block(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros((60 * 16000, 4), np.int16), 16000)
    tracemalloc.start()
    try:
        assert len(read_audio(path, 8000)) == 60 * 8000
        assert tracemalloc.get_traced_memory()[1] < 60 * 8000 * 4 + 3 * (4 << 20)
    finally:
        tracemalloc.stop()


def test_the_limit_names_the_remedy(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, sine(5, 8000), 8000)
    sentence = refusal(path, max_seconds=2)
    assert "long.wav: 5.0 s" in sentence and "limit of 2 s" in sentence and "start_seconds" in sentence
    assert len(read_audio(path, max_seconds=2, start_seconds=3)) == 32000


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.m4a", ()),
        ("b.m4a", ("-movflags", "+faststart")),
        ("a.aac", ()),
        ("a.webm", ()),
        ("a.wma", ()),
        ("a.mka", ("-c:a", "flac")),
    ],
)
def test_ffmpeg_reads_what_libsndfile_does_not(ffmpeg, tmp_path, name, options):
    wave = sine(3, 44100)
    path = convert(ffmpeg, tmp_path, name, np.stack([wave, wave], 1), 44100, *options)
    got = read_audio(path)
    assert got.dtype == np.float32 and got.flags.c_contiguous and got.flags.writeable
    assert abs(len(got) - 48000) < 2500  # ADTS and WMA keep the codec's padding
    middle = got[8000:24000]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 440
    assert abs(np.sqrt(np.mean(middle**2)) - 0.5 / np.sqrt(2)) < 0.02
    np.testing.assert_array_equal(read_audio(path.read_bytes()), got)


def test_a_part_through_ffmpeg(ffmpeg, tmp_path):
    path = convert(ffmpeg, tmp_path, "part.m4a", noise(4, 44100), 44100)
    whole = read_audio(path)
    for start, stop in ((0, 1), (1.2345, 2.3456), (3.1, None)):
        part = read_audio(path, start_seconds=start, stop_seconds=stop)
        expected = whole[round(start * 16000) : None if stop is None else round(stop * 16000)]
        assert len(part) == len(expected)
        np.testing.assert_allclose(part, expected, atol=1e-3)
    for start, stop in ((9, None), (9, 10), (3, 9)):
        sentence = refusal(path, start_seconds=start, stop_seconds=stop)
        assert "part.m4a" in sentence and "is 4.0" in sentence and "s long" in sentence
    for stop in (None, 1.5):
        assert "limit of 1 s" in refusal(path, stop_seconds=stop, max_seconds=1)


def test_ffmpeg_refuses_in_one_sentence(ffmpeg, tmp_path):
    whole = convert(ffmpeg, tmp_path, "whole.m4a", noise(3, 44100), 44100).read_bytes()
    fast = convert(ffmpeg, tmp_path, "fast.m4a", noise(3, 44100), 44100, "-movflags", "+faststart").read_bytes()
    playlist = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nwhole.m4a\n#EXT-X-ENDLIST\n\0"
    for name, data in (("cut.m4a", whole[:9000]), ("list.m4a", playlist), ("fast cut.m4a", fast[:9000])):
        (tmp_path / name).write_bytes(data)
        sentence = refusal(tmp_path / name)
        reason = {"cut.m4a": "FFmpeg cannot decode it", "list.m4a": "not audio", "fast cut.m4a": "ends before"}[name]
        assert name in sentence and reason in sentence


def test_a_stuck_ffmpeg_is_killed(ffmpeg, tmp_path, monkeypatch):
    path = convert(ffmpeg, tmp_path, "slow.m4a", noise(1, 44100), 44100)
    os.remove(ffmpeg)
    with open(ffmpeg, "w") as handle:
        handle.write("#!/bin/sh\nexec /bin/sleep 60\n")
    os.chmod(ffmpeg, 0o755)
    monkeypatch.setattr(ffmpeg_decoder, "_SECONDS", 0.2)
    assert "slow.m4a" in refusal(path)


def test_without_ffmpeg_the_sentence_says_so(ffmpeg, tmp_path, monkeypatch):
    path = convert(ffmpeg, tmp_path, "song.m4a", sine(1, 44100), 44100)
    monkeypatch.setenv("PATH", "")
    for source in (path, {"bytes": path.read_bytes(), "path": "song.m4a"}):
        sentence = refusal(source)
        assert "song.m4a" in sentence and "needs FFmpeg" in sentence and "install" in sentence


def test_threads_do_not_disturb_each_other():
    files = [encode(noise(1, rate, seed), rate, "FLAC") for seed, rate in enumerate(RATES)] * 6
    expected = [read_audio(file) for file in files[: len(RATES)]] * 6
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for got, wanted in zip(pool.map(read_audio, files), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(("format", "subtype"), BROKEN)
def test_no_broken_bytes_raise_anything_else(tmp_path, format, subtype):
    rng = np.random.default_rng(len(format) + len(subtype or ""))
    good = encode(sine(0.5, 22050), 22050, format, subtype)
    for trial in range(30):
        data = bytearray(good if trial % 3 else good[: rng.integers(1, len(good))])
        for _ in range(rng.integers(1, 6)):  # headers break more interestingly
            data[rng.integers(min(len(data), 128 if trial % 2 else len(data)))] = rng.integers(256)
        part = {"start_seconds": 0.1, "stop_seconds": 0.3} if trial % 5 == 0 else {}
        source = bytes(data)
        if trial % 2:
            source = tmp_path / "fuzz.bin"
            source.write_bytes(data)
        try:
            got = read_audio(source, **part)
        except AudioError as error:
            assert "\n" not in str(error) and ("fuzz.bin" in str(error) or "<bytes>" in str(error))
        else:
            assert len(got) and np.isfinite(got).all()


def test_extensions_are_lower_case_suffixes():
    assert {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".m4a", ".webm", ".opus"} <= AUDIO_EXTENSIONS
    assert ".raw" not in AUDIO_EXTENSIONS and ".txt" not in AUDIO_EXTENSIONS
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in AUDIO_EXTENSIONS)


def test_a_sound_in_blocks_is_the_same_sound(monkeypatch):
    monkeypatch.setattr(libsndfile, "BLOCK_SAMPLES", 3000)
    for rate in (16000, 44100):
        file = encode(noise(2, rate), rate, "FLAC")
        blocks = list(stream_audio(file))
        assert len(blocks) > 3
        np.testing.assert_array_equal(np.concatenate(blocks), read_audio(file))
    with pytest.raises(TooLong, match="over the limit of 1 s"):
        list(stream_audio(file, max_seconds=1))
    with pytest.raises(AudioError, match="not audio"):
        list(stream_audio(b"no sound at all" * 9))
