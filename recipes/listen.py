#!/usr/bin/env python3
"""Hear the deformations of training: each at its extremes and at a random strength, and all of them together.

    python recipes/listen.py dog.wav --output heard

Training deforms mel energies. This recipe draws strengths from the same ranges, which it reads from the yaml, but
deforms the waveform. It writes 16-bit WAV files and spectrograms.png. It needs librosa: pip install
'cochlea_sb[listen]'.
"""

import argparse
import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch
from rendering import UNCHANGED, band_axis, extremes, render

from cochlea_sb.audio import read_audio
from cochlea_sb.augment.combined import Composition
from cochlea_sb.errors import AudioError, UserError
from cochlea_sb.evaluation.plots import new_figure, save_figure
from cochlea_sb.features import hz_to_mel
from cochlea_sb.program import first_line, run
from cochlea_sb.synthetic.library import CLASSES, synthesise, wav_bytes
from cochlea_sb.training.recipe import load_experiment

HPARAMS = Path(__file__).parent.parent / "hparams" / "cnn.yaml"
DRAWS_OF_ALL = 3
DYNAMIC_RANGE_DB = 80
TICKS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)


def row_of(draw, row):
    """The draw of a single example, from the draw of a batch."""
    return draw._make(value[row] for value in draw)


def singles(deformation):
    """The single deformations of a `Composition`, or the deformation itself if it is single."""
    if not isinstance(deformation, Composition):
        return [deformation]
    return [one for part in deformation.deformations for one in singles(part)]


def render_all(wav, deformation, draw, row, features, other):
    """Deform a waveform by the draw of example ``row``. Returns the names of single deformations, and the waveform."""
    if not isinstance(deformation, Composition):
        name, wav = render(wav, deformation, row_of(draw, row), features, other)
        return [name], wav
    names = []
    for kind, examples, inner in zip(draw.kinds, draw.examples, draw.draws, strict=True):
        if examples.start <= row < examples.stop:
            part = deformation.deformations[kind]
            done, wav = render_all(wav, part, inner, row - examples.start, features, other)
            names += done
    return names, wav


def deform_in_all_ways(wav, deformation, features, other, generator):
    """Deform a waveform [samples] by each single deformation and by all together. `Mixture` adds ``other`` [samples].

    Returns
    -------
    rows : list of dict
        Waveforms by name: a row with the original, a row for each single deformation, and a row with several draws of
        all deformations together.
    draws : dict
        For each name in the last row, the deformations that were drawn, in words.
    """
    parts = singles(deformation)
    batch = torch.zeros(len(parts), 1, features.n_mels)  # a draw depends only on the shape
    rows = [{"original": wav}]
    for one in parts:
        drawn = row_of(one.draw(batch, generator), 0)
        ends = extremes(one)
        row = dict(render(wav, one, draw, features, other) for draw in [*ends[:1], drawn, *ends[1:]])
        rows.append({name: deformed for name, deformed in row.items() if not torch.equal(deformed, wav)})
    rows.append({})
    draws = {}
    for number in range(1, DRAWS_OF_ALL + 1):
        draw = deformation.draw(batch, generator)
        row = int(torch.randint(len(batch), (), generator=generator))
        names, deformed = render_all(wav, deformation, draw, row, features, other)
        rows[-1][f"all_together_{number}"] = deformed
        changes = [spoken(name) for name in names if name != UNCHANGED]
        draws[f"all_together_{number}"] = ", ".join(changes) or spoken(UNCHANGED)
    return [row for row in rows if row], draws


def spoken(name):
    return name.replace("_", " ")


def read_part(path, rate, start, seconds):
    """At most ``seconds`` of a file from ``start`` on, torch.Tensor [samples]."""
    try:
        wav = read_audio(path, rate, start_seconds=start, stop_seconds=start + seconds)
    except AudioError:  # the file may end before start + seconds
        wav = read_audio(path, rate, start_seconds=start)
    return torch.from_numpy(wav)


def write_wav(path, wav, rate):
    """Write a 16-bit WAV. A waveform that would clip is attenuated. Returns the attenuation in dB, 0 or more."""
    peak = max(1.0, float(wav.abs().max()))
    soundfile.write(path, np.round(wav.numpy() / peak * 32767).astype(np.int16), rate, subtype="PCM_16")
    return 20 * float(np.log10(peak))


def spectrograms(rows, draws, features, path):
    """Draw the log-mel spectrograms of all waveforms, with the same colour scale and time axis."""
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
    first_mel, band_mels = band_axis(features)
    ticks = [hz for hz in TICKS_HZ if features.low_hz < hz < features.high_hz]
    bands = (hz_to_mel(torch.tensor(ticks)) - first_mel) / band_mels
    grid[0, 0].set_yticks(bands.tolist(), [f"{hz:,}" for hz in ticks])
    grid[0, 0].set_xlim(0, max(level.shape[1] for row in levels for level in row.values()) * seconds_per_frame)
    figure.supxlabel("seconds", fontsize=9)
    figure.supylabel("Hz", fontsize=9)
    figure.colorbar(image, ax=figure.axes, label="energy of a band, dB (a full-scale sine: 0)", shrink=0.3)
    save_figure(figure, path)


def main(argv):
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("file", help="sound to deform")
    parser.add_argument("--output", required=True, help="folder to write to; files of the same names are replaced")
    parser.add_argument("--hparams", default=HPARAMS, help="training yaml; default: hparams/cnn.yaml")
    parser.add_argument("--other", help="sound to mix in; default: a sound of the synthetic library")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random strengths")
    parser.add_argument("--start", type=float, default=0.0, help="second of the file to start from")
    parser.add_argument("--seconds", type=float, default=30.0, help="maximum number of seconds to read from the file")
    arguments = parser.parse_args(argv)

    torch.set_num_threads(1)  # frames are so small that several threads on a busy machine take ten times as long
    with TemporaryDirectory() as unused:  # the yaml's checkpointer creates a folder
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

    rows, draws = deform_in_all_ways(wav, hparams["deformation"], features, other, generator)
    sounds = {name: sound for row in rows for name, sound in row.items()}
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    lowered_db = {name: write_wav(output / f"{name}.wav", sound, rate) for name, sound in sounds.items()}
    print(f"Wrote {len(sounds)} sounds to {output}, from {len(wav) / rate:.1f} s of {arguments.file}.")
    print(f"Deformations that mix in another sound used {other_name}.")
    for name, done in draws.items():
        print(f"  {name}: {done}")
    lowered = [name for name, decibels in lowered_db.items() if decibels]
    if lowered:
        print(f"Attenuated by up to {max(lowered_db.values()):.1f} dB to avoid clipping: {', '.join(lowered)}.")
    spectrograms(rows, draws, features, output / "spectrograms.png")
    print(f"The spectrograms are in {output / 'spectrograms.png'}")


if __name__ == "__main__":
    run(main)
