#!/usr/bin/env python3
"""Search a collection by example.

    python recipes/search.py results/cnn/1986 --data_folder ~/samples --query dog.wav

Without --data_folder the collection is the synthetic library, without --query one of its held-out sounds is sought.
"""

import argparse

import numpy as np

from cochlea_sb.cli import run
from cochlea_sb.data.corpus import column, hold_out, load_corpus
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.windowed import embed_bank
from cochlea_sb.index.interface import build_index
from cochlea_sb.inference import AudioEncoder


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="results folder of recipes/train.py")
    parser.add_argument("--data_folder", help="folder of sounds to search; default: the synthetic library")
    parser.add_argument("--query", help="sound file to search for; default: a held-out sound of the collection")
    parser.add_argument("-k", type=int, default=10, help="how many matches to print")
    parser.add_argument("--seed", type=int, default=0, help="chooses the query where none is given")
    arguments = parser.parse_args(argv)

    encoder = AudioEncoder.from_hparams(arguments.model, run_opts={"device": "cpu"})
    features = encoder.mods.compute_features
    frames, problems = load_corpus(features, arguments.data_folder)
    bank = FrameBank.from_dataset(frames, features)
    vectors = embed_bank(encoder.mods.embedding_model, bank).numpy()
    index = build_index(vectors)

    names = frames["path"]
    labels = [label or "" for label in column(frames, "label") or [""] * len(frames)]
    if arguments.query is None:
        candidates = hold_out(frames, [5])[1] or list(range(len(frames)))
        row = int(np.random.default_rng(arguments.seed).choice(candidates))
        query, name = vectors[row], names[row]
        own = [source or name for source, name in zip(column(frames, "source") or names, names, strict=True)]
        index.remove([other for other in range(len(frames)) if own[other] == own[row]])
    else:
        query, name = encoder.encode_file(arguments.query).numpy(), arguments.query

    print(f"\nIndexed {len(frames)} sounds" + (f", skipped {len(problems)} unreadable ones." if problems else "."))
    print(f"Sounds like {name}:\n")
    for rank, (score, row) in enumerate(zip(*index.query(query, arguments.k), strict=True), 1):
        print(f"{rank:4d}  {score:6.3f}  {names[row]}  {labels[row]}".rstrip())


if __name__ == "__main__":
    run(main)
