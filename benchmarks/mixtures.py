#!/usr/bin/env python3
"""Test vector arithmetic: does a query {kick: 1, hat: 1} find mixtures of a kick and a hat?

    python benchmarks/mixtures.py --model MODEL                                   on the synthetic library
    python benchmarks/mixtures.py --model MODEL --data_folder drums --kinds bd hh  on a labelled folder

Half of the sounds of each kind are the queries. The other sounds are mixed in pairs, as waveforms of equal energy. A
query ranks the mixtures together with their single sounds. The result is the share of triples (mixture, sound of one
kind, sound of the other kind) in which the mixture ranks above both sounds, averaged over pairs of queries. A random
ranking gives a third.
"""

import argparse

import numpy as np

from cochlea_sb import AudioEncoder
from cochlea_sb.audio import read_audio
from cochlea_sb.data.sounds import load_sounds
from cochlea_sb.synthetic.library import synthetic_library

SYNTHETIC = ["kick", "hat"]


def loudness(wav):
    return np.sqrt(np.square(wav).mean()) + 1e-9


def mix(one, other):
    """The sum of two waveforms, scaled to equal energy, with the length of the longer waveform."""
    mixed = np.zeros(max(len(one), len(other)), np.float32)
    for wav in (one, other):
        mixed[: len(wav)] += wav / (loudness(wav) * np.sqrt(len(wav)))
    return mixed / np.abs(mixed).max() * 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_folder")
    parser.add_argument("--kinds", nargs=2, default=SYNTHETIC)
    parser.add_argument("--most", type=int, default=40, help="maximum number of sounds of a kind")
    arguments = parser.parse_args()
    encoder = AudioEncoder.from_hparams(arguments.model, run_opts={"device": "cpu"})
    sounds = load_sounds(arguments.data_folder) if arguments.data_folder else synthetic_library(arguments.most)
    labels, rng = list(sounds["label"]), np.random.default_rng(0)

    def encode(wav):
        return encoder.encode_batch(wav)[0, 0].cpu().numpy()

    examples, alone = [], []
    for kind in arguments.kinds:
        rows = [row for row, label in enumerate(labels) if label == kind]
        if len(rows) < 4:
            raise SystemExit(f"There are {len(rows)} sounds labelled '{kind}': expected at least 4.")
        rows = rng.permutation(rows)[: arguments.most].tolist()
        wavs = [read_audio(sounds[row]["audio"], encoder.sample_rate) for row in rows]
        examples.append(np.stack([encode(wav) for wav in wavs[::2]]))
        alone.append(wavs[1::2])
    n = min(map(len, alone))
    mixtures = np.stack([encode(mix(one, other)) for one, other in zip(alone[0][:n], alone[1][:n], strict=True)])
    singles = [np.stack([encode(wav) for wav in wavs[:n]]) for wavs in alone]
    queries = (examples[0][:, None] + examples[1][None]).reshape(-1, mixtures.shape[1])
    scores, first, second = (queries @ vectors.T for vectors in (mixtures, *singles))
    above = (scores[:, :, None, None] > first[:, None, :, None]) & (scores[:, :, None, None] > second[:, None, None, :])
    beats = [(scores[:, :, None] > other[:, None]).mean() for other in (first, second)]
    where = arguments.data_folder or "the synthetic library"
    print(f"{where}, {len(queries)} queries {{{arguments.kinds[0]}: 1, {arguments.kinds[1]}: 1}}, {n} mixtures")
    print(f"a mixture ranks above both single sounds: {above.mean():.3f} (chance 0.333)", end="; ")
    print(", ".join(f"above {kind} alone: {beat:.3f}" for kind, beat in zip(arguments.kinds, beats, strict=True)))


if __name__ == "__main__":
    main()
