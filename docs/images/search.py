#!/usr/bin/env python3
"""Draws docs/images/search.png: a search with the shipped model in the synthetic library, which it has not heard.

python docs/images/search.py
"""

import tempfile
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cochlea_sb import AudioEncoder, SoundLibrary
from cochlea_sb.audio import read_audio
from cochlea_sb.synthetic.library import write_library

QUERIES = ("bird/bird_003.wav", "glass_break/glass_break_001.wav", "engine/engine_002.wav")
MATCHES = 5


def main():
    figure = Figure((11, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(QUERIES), 1 + MATCHES, sharex=True, sharey=True)
    with tempfile.TemporaryDirectory() as folder:
        sounds = Path(folder).resolve() / "sounds"
        write_library(sounds, 20)
        encoder = AudioEncoder.from_hparams()
        library = SoundLibrary.create(Path(folder) / "sounds.library", encoder)
        library.add([sounds], progress=False)
        for line, query in zip(grid, QUERIES, strict=True):
            draw(line[0], encoder, sounds / query, f"query: {query.split('/')[1]}")
            for axes, match in zip(line[1:], library.search(sounds / query, k=MATCHES), strict=True):
                draw(axes, encoder, match.path, f"{match.score:.2f}  {Path(match.path).name}")
    for axes in grid[:, 0]:
        for side in axes.spines.values():
            side.set(color="C1", linewidth=2.5)
    figure.supxlabel("seconds", fontsize=9)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


def draw(axes, encoder, path, title):
    """The log-mel spectrogram of a file."""
    import torch

    features = encoder.mods.compute_features
    frames = features(torch.from_numpy(read_audio(path, features.sample_rate))[None])[0]
    seconds = len(frames) * encoder.frame_seconds
    loudest = float(frames.max())
    axes.imshow(frames.T, origin="lower", aspect="auto", extent=(0, seconds, 0, 64), vmin=loudest - 9, vmax=loudest)
    axes.set_title(title, fontsize=8)
    axes.set(xlim=(0, 4), yticks=[], facecolor="black")
    axes.tick_params(labelsize=7)


if __name__ == "__main__":
    main()
