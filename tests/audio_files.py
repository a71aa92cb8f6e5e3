"""Audio files for the tests of `cochlea_sb.audio`, and the sentence that refuses one."""

import io
import subprocess

import numpy as np
import pytest
import soundfile

from cochlea_sb.audio import read_audio
from cochlea_sb.errors import AudioError


def encode(samples, rate, format="WAV", subtype=None, **options):
    """Return the bytes of an audio file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype, **options)
    return file.getvalue()


def sine(seconds, rate, hz=440.0, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def noise(seconds, rate, seed=0):
    """Noise with most of its energy below 2 kHz."""
    white = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    smooth = np.convolve(white, np.hanning(max(3, rate // 2000)), "same")
    return 0.5 * smooth / np.abs(smooth).max()


def refusal(source, **options):
    """Return the sentence with which a source is refused."""
    with pytest.raises(AudioError) as caught:
        read_audio(source, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


def convert(ffmpeg, tmp_path, name, samples, rate, *options):
    wav, path = tmp_path / "in.wav", tmp_path / name
    soundfile.write(wav, samples, rate)
    subprocess.run([ffmpeg, "-v", "error", "-y", "-i", str(wav), *options, str(path)], check=True)
    return path
