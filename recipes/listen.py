#!/usr/bin/env python3
"""Hear what training does to a sound: each deformation at its extremes and at a drawn strength, and all together.

    python recipes/listen.py dog.wav --output heard

Training deforms mel energies; here the waveform itself is deformed alike, as `cochlea_sb.waveforms` does it, with the
strengths of the yaml. Leaves 16-bit WAV files and spectrograms.png.
"""

import argparse
import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from waveforms import (
    add_noise,
    band_axis,
    equalize,
    mix,
    resize_frequencies,
    shift_pitch,
    shift_time,
    stretch,
)

from cochlea_sb.audio import read_audio
from cochlea_sb.augment.combined import Composition, OneKindPerBatch, OneKindPerExample
from cochlea_sb.augment.energies import uniform
from cochlea_sb.augment.equalization import Equalization
from cochlea_sb.augment.frequency_resize import FrequencyResize
from cochlea_sb.augment.gain import Gain
from cochlea_sb.augment.gaussian_noise import GaussianNoise
from cochlea_sb.augment.mixture import Mixture
from cochlea_sb.augment.pitch_shift import PitchShift
from cochlea_sb.augment.spectral_noise import SpectralNoise
from cochlea_sb.augment.temporal_proximity import TemporalProximity
from cochlea_sb.augment.time_stretch import TimeStretch
from cochlea_sb.augment.translation import Translation
from cochlea_sb.cli import run
from cochlea_sb.errors import AudioError, UserError
from cochlea_sb.evaluation.plots import new_figure, save_figure
from cochlea_sb.features import LogMel, hz_to_mel
from cochlea_sb.synthetic.library import CLASSES, synthesise, wav_bytes
from cochlea_sb.training.recipe import load_experiment

HPARAMS = Path(__file__).parent.parent / "hparams" / "cnn.yaml"
DRAWS_OF_ALL = 3
DYNAMIC_RANGE_DB = 80
TICKS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)


class Scene(NamedTuple):
    """What the deformations need besides a sound.

    features : LogMel, whose rate and bands count
    other : torch.Tensor [samples], what `Mixture` adds
    generator : torch.Generator
    """

    features: LogMel
    other: torch.Tensor
    generator: torch.Generator

    def axis(self):
        """The mel axis, as the functions of `cochlea_sb.waveforms` take it."""
        features = self.features
        return {"n_mels": features.n_mels, "low_hz": features.low_hz, "high_hz": features.high_hz}


# Each of these deforms a waveform as a `Deformation` would deform its energies, at the strength that ``pick`` picks
# from a range (low, high), and returns it with a name that tells the strength.


def time_stretch(wav, deformation, pick, scene):
    rate = deformation.max_rate ** pick(-1, 1)
    return f"time_stretch_rate_{rate:.3g}", stretch(wav, rate, scene.features.sample_rate)


def pitch_shift(wav, deformation, pick, scene):
    semitones = pick(-deformation.max_semitones, deformation.max_semitones)
    return f"pitch_shift_{semitones:+.3g}_semitones", shift_pitch(wav, semitones, scene.features.sample_rate)


def frequency_resize(wav, deformation, pick, scene):
    change = deformation.max_change
    scale, share = 1 + pick(-change, change), pick(-change, change) / 4
    bands = share * scene.features.n_mels
    resized = resize_frequencies(wav, scale, bands, scene.features.sample_rate, **scene.axis())
    return f"frequency_resize_scale_{scale:.3g}_shift_{bands:+.2g}_bands", resized


def translation(wav, deformation, pick, scene):
    rate = scene.features.sample_rate
    seconds = round(pick(-deformation.max_frames, deformation.max_frames)) * scene.features.hop / rate
    bands = pick(-deformation.max_bands, deformation.max_bands)
    higher = resize_frequencies(wav, 1, -bands, rate, **scene.axis())
    return f"translation_{seconds:+.3g}_seconds_{bands:+.2g}_bands", shift_time(higher, seconds, rate)


def equalization(wav, deformation, pick, scene):
    gains_db = (deformation.spread_db * torch.randn(5, generator=scene.generator)).tolist()  # knows no extremes
    name = "_".join(f"{gain:+.0f}" for gain in gains_db)
    return f"equalization_{name}_dB", equalize(wav, gains_db, scene.features.sample_rate, **scene.axis())


def mixture(wav, deformation, pick, scene):
    ratio = pick(0, deformation.max_ratio)
    return f"mixture_ratio_{ratio:.2g}", mix(wav, scene.other, ratio)


def gaussian_noise(wav, deformation, pick, scene):
    snr_db = pick(deformation.snr_low_db, deformation.snr_high_db)
    seed = int(torch.randint(2**31, (), generator=scene.generator))  # or a sound's length would change later draws
    return f"gaussian_noise_{snr_db:.0f}_dB", add_noise(wav, snr_db, torch.Generator().manual_seed(seed))


def gain(wav, deformation, pick, scene):
    gain_db = pick(-deformation.max_db, deformation.max_db)
    return f"gain_{gain_db:+.0f}_dB", wav * 10 ** (gain_db / 20)


def spectral_noise(wav, deformation, pick, scene):
    window = torch.hann_window(scene.features.window)
    size = {"n_fft": scene.features.window, "hop_length": scene.features.window // 4, "window": window}
    padded = torch.nn.functional.pad(wav, (0, max(0, scene.features.window - len(wav))))
    spectrum = torch.stft(padded, **size, return_complex=True)
    factor = 1 + (deformation.spread * torch.randn(spectrum.shape, generator=scene.generator)).abs()
    deformed = torch.istft(spectrum * factor.sqrt(), **size, length=len(padded))[: len(wav)]
    return f"spectral_noise_{deformation.spread:.2g}", deformed


def temporal_proximity(wav, deformation, pick, scene):
    return "as_it_is", wav


KINDS = {
    TimeStretch: time_stretch,
    PitchShift: pitch_shift,
    FrequencyResize: frequency_resize,
    Translation: translation,
    Equalization: equalization,
    Mixture: mixture,
    GaussianNoise: gaussian_noise,
    Gain: gain,
    SpectralNoise: spectral_noise,
    TemporalProximity: temporal_proximity,
}


def deform(wav, deformation, pick, scene):
    """Deform with one deformation; `UserError` if it has no counterpart here."""
    if type(deformation) not in KINDS:
        known = ", ".join(kind.__name__ for kind in KINDS)
        raise UserError(f"{type(deformation).__name__} can't be heard here: expected deformations among {known}.")
    return KINDS[type(deformation)](wav, deformation, pick, scene)


def leaves(deformation):
    """The single deformations inside one that combines others."""
    if not isinstance(deformation, Composition):
        return [deformation]
    return [leaf for part in deformation.deformations for leaf in leaves(part)]


def draw_all(wav, deformation, pick, scene):
    """Deform as training does, by one draw: the names of what was done, and the waveform."""
    if not isinstance(deformation, Composition):
        name, wav = deform(wav, deformation, pick, scene)
        return [name], wav
    parts = list(deformation.deformations)
    if isinstance(deformation, (OneKindPerBatch, OneKindPerExample)):
        parts = [parts[int(torch.randint(len(parts), (), generator=scene.generator))]]
    names = []
    for part in parts:
        done, wav = draw_all(wav, part, pick, scene)
        names += done
    return names, wav


def deform_in_all_ways(wav, deformation, scene):
    """What there is to hear.

    Returns
    -------
    rows : list of dict
        Waveforms by name: the sound itself, a row for each deformation, and one for all of them together.
    draws : dict
        What was done for each of that last row, by name.
    """

    def drawn(low, high):
        return float(uniform(low, high, torch.empty(1), scene.generator))

    rows = [{"original": wav}]
    for leaf in leaves(deformation):
        row = dict(deform(wav, leaf, pick, scene) for pick in (min, drawn, max))
        rows.append({name: deformed for name, deformed in row.items() if not torch.equal(deformed, wav)})
    rows.append({})
    draws = {}
    for number in range(1, DRAWS_OF_ALL + 1):
        names, deformed = draw_all(wav, deformation, drawn, scene)
        rows[-1][f"all_together_{number}"] = deformed
        draws[f"all_together_{number}"] = ", ".join(spoken(name) for name in names)
    return [row for row in rows if row], draws


def spoken(name):
    return name.replace("_", " ")


def read_part(path, rate, start, seconds):
    """Up to so many seconds of a file, torch.Tensor [samples]."""
    try:
        wav = read_audio(path, rate, start_seconds=start, stop_seconds=start + seconds)
    except AudioError:  # perhaps it is shorter than that
        wav = read_audio(path, rate, start_seconds=start)
    return torch.from_numpy(wav)


def write_wav(path, wav, rate):
    """Write 16 bits, turned down only if they would clip.

    Returns
    -------
    float
        By how many dB it was turned down, 0 or more.
    """
    peak = max(1.0, float(wav.abs().max()))
    soundfile.write(path, np.round(wav.numpy() / peak * 32767).astype(np.int16), rate, subtype="PCM_16")
    return 20 * float(np.log10(peak))


def spectrograms(rows, draws, features, path):
    """Log-mel spectrograms side by side, in one scale of colours and one of time."""
    levels = [{name: features(wav[None])[0].T * (10 / np.log(10)) for name, wav in row.items()} for row in rows]  # dB
    loudest = max(float(level.max()) for row in levels for level in row.values())
    n_columns = max(map(len, rows))
    figure, whole = new_figure(4.5 * n_columns, 2.1 * len(rows))
    whole.remove()
    grid = figure.subplots(len(rows), n_columns, sharex=True, sharey=True, squeeze=False)
    seconds_per_frame = features.hop / features.sample_rate
    for line, row in zip(grid, levels, strict=True):
        for axes in line[len(row) :]:
            axes.remove()
        for axes, (name, level) in zip(line, row.items(), strict=False):
            n_mels, n_frames = level.shape
            image = axes.imshow(
                level,
                origin="lower",
                aspect="auto",
                extent=(0, n_frames * seconds_per_frame, -0.5, n_mels - 0.5),
                vmin=loudest - DYNAMIC_RANGE_DB,
                vmax=loudest,
            )
            axes.set_title("\n".join([spoken(name), *textwrap.wrap(draws.get(name, ""), 62)]), fontsize=8)
            axes.tick_params(labelsize=7)
    first_mel, band_mels = band_axis(features.n_mels, features.low_hz, features.high_hz)
    ticks = [hz for hz in TICKS_HZ if features.low_hz < hz < features.high_hz]
    bands = (hz_to_mel(torch.tensor(ticks)) - first_mel) / band_mels
    grid[0, 0].set_yticks(bands.tolist(), [f"{hz:,}" for hz in ticks])
    grid[0, 0].set_xlim(0, max(level.shape[1] for row in levels for level in row.values()) * seconds_per_frame)
    figure.supxlabel("seconds", fontsize=9)
    figure.supylabel("Hz", fontsize=9)
    figure.colorbar(image, ax=figure.axes, label="energy of a band, dB (a full-scale sine: 0)", shrink=0.3)
    save_figure(figure, path)


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="sound to deform")
    parser.add_argument("--output", required=True, help="folder to write to; files of the same names are replaced")
    parser.add_argument("--hparams", default=HPARAMS, help="training yaml; default: hparams/cnn.yaml")
    parser.add_argument("--other", help="sound to mix in; default: one of the synthetic library")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn strengths")
    parser.add_argument("--start", type=float, default=0.0, help="second of the file to start from")
    parser.add_argument("--seconds", type=float, default=30.0, help="how much of the file to take")
    arguments = parser.parse_args(argv)

    torch.set_num_threads(1)  # a frame is so little work that threads beside another program took ten times as long
    with TemporaryDirectory() as unused:  # where the yaml's checkpointer makes its folder
        hparams, _ = load_experiment(arguments.hparams, {"output_folder": unused})
    if "deformation" not in hparams:
        raise UserError(f"'{arguments.hparams}' has no key 'deformation': give a training yaml.")
    features = hparams["compute_features"]
    rate = features.sample_rate
    generator = torch.Generator().manual_seed(arguments.seed)
    wav = read_part(arguments.file, rate, arguments.start, arguments.seconds)
    if arguments.other is None:
        kind = list(CLASSES)[int(torch.randint(len(CLASSES), (), generator=generator))]
        other_name = f"{kind} of the synthetic library"
        other = torch.from_numpy(read_audio(wav_bytes(synthesise(kind, take=0), 16000), rate))
    else:
        other_name, other = arguments.other, read_part(arguments.other, rate, 0.0, arguments.seconds)

    rows, draws = deform_in_all_ways(wav, hparams["deformation"], Scene(features, other, generator))
    sounds = {name: sound for row in rows for name, sound in row.items()}
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    lowered_db = {name: write_wav(output / f"{name}.wav", sound, rate) for name, sound in sounds.items()}
    print(f"Wrote {len(sounds)} sounds to {output}, from {len(wav) / rate:.1f} s of {arguments.file}.")
    print(f"Mixed in is {other_name}.")
    for name, done in draws.items():
        print(f"  {name}: {done}")
    lowered = [name for name, decibels in lowered_db.items() if decibels]
    if lowered:
        print(f"Turned down by up to {max(lowered_db.values()):.1f} dB so as not to clip: {', '.join(lowered)}.")
    spectrograms(rows, draws, features, output / "spectrograms.png")
    print(f"Pictures of all: {output / 'spectrograms.png'}")


if __name__ == "__main__":
    run(main)
