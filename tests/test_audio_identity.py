"""The hash of a sound: tags don't change it, other audio does."""

import struct
import subprocess

import numpy as np
import pytest
from audio_files import convert, encode, noise

from cochlea_sb.audio import read_audio, sound_hash


def tagged(ffmpeg, path, title):
    """The file again, with a title and a long comment, without a change of its audio."""
    other = path.with_name(f"{title}{path.suffix}")
    options = ["-c", "copy", "-metadata", f"title={title}", "-metadata", f"comment={title * 400}"]
    subprocess.run([ffmpeg, "-v", "error", "-i", str(path), *options, str(other)], check=True)
    return other


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.flac", "a.mp3", "a.m4a", "a.ogg", "a.opus"])
def test_tags_are_not_hashed(ffmpeg, tmp_path, name):
    options = {"a.ogg": ["-c:a", "libvorbis"], "a.opus": ["-c:a", "libopus"]}.get(name, [])
    first, second = (
        convert(ffmpeg, tmp_path, f"{seed}{name}", noise(3, 44100, seed), 44100, *options) for seed in (1, 2)
    )
    one, two = tagged(ffmpeg, first, "one"), tagged(ffmpeg, first, "another")
    assert one.read_bytes() != two.read_bytes()
    assert sound_hash(str(one)) == sound_hash(str(two)) == sound_hash(one.read_bytes())
    assert sound_hash(str(second)) != sound_hash(str(first))
    np.testing.assert_array_equal(read_audio(one), read_audio(two))


def test_tags_at_both_ends_of_an_mp3():
    mp3 = encode(noise(2, 44100), 44100, "MP3")
    id3 = b"ID3\3\0\0\0\0\x07\x76" + bytes(1014)
    ape = struct.pack("<8sIIII8x", b"APETAGEX", 2000, 32 + 40, 1, 0)
    wanted = sound_hash(mp3)
    assert sound_hash(id3 + mp3) == sound_hash(mp3 + b"TAG" + bytes(125)) == wanted
    assert sound_hash(id3 + mp3 + b"x" * 40 + ape + b"TAG" + bytes(125)) == wanted
    assert sound_hash(mp3[:-1000]) != wanted


def test_any_bytes_have_a_hash():
    draw = np.random.default_rng(0)
    files = [encode(noise(0.3, 16000), 16000, name) for name in ("WAV", "AIFF", "FLAC", "OGG", "MP3", "CAF", "AU")]
    hashes = set()
    for file in [*files, b"", b"a", b"OggS", b"fLaC", b"RIFF....WAVE", b"....ftyp", b"\xff\xff"]:
        for share in (1, 0.7, 0.3):
            changed = bytearray(file[: int(len(file) * share)])
            for _ in range(20):
                hashes.add(sound_hash(bytes(changed)))
                if changed:
                    changed[draw.integers(len(changed))] = draw.integers(256)
    assert len(hashes) > 200 and all(len(one) == 32 for one in hashes)
