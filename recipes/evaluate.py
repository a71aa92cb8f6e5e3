#!/usr/bin/env python3
"""Measure a trained embedding: query by example on held-out, labelled sounds, beside log-mel and chance.

    python recipes/evaluate.py hparams/cnn.yaml --data_folder DIR
    python recipes/evaluate.py hparams/cnn.yaml --data_folder DIR --evaluate_all True    also what was trained on

Prints a table and leaves evaluation.json and evaluation.md in the results folder.
"""

from speechbrain.utils.distributed import infer_device

from cochlea_sb.cli import run
from cochlea_sb.data.corpus import column, hold_out, load_corpus
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.evaluation.retrieval import compare_retrieval, markdown_table, write_report
from cochlea_sb.experiment import CORPUS_KEYS, load_experiment, parse_arguments
from cochlea_sb.inference import AudioEncoder


def main(argv):
    hparams_file, run_opts, overrides = parse_arguments(argv)
    hparams, _ = load_experiment(hparams_file, overrides)
    encoder = AudioEncoder.from_hparams(
        hparams["output_folder"], run_opts={"device": run_opts.device or infer_device()}
    )
    features = encoder.mods.compute_features

    frames, problems = load_corpus(features, **{key: hparams[key] for key in CORPUS_KEYS})
    _, held_out = hold_out(frames, hparams["valid_folds"], hparams["valid_share"])
    rows = range(len(frames)) if hparams["evaluate_all"] else held_out
    if not rows:
        raise ValueError(
            f"Of {len(frames)} sounds none are held out: add --evaluate_all True to measure on all of them."
        )
    chosen = frames.select(rows)
    labels = column(chosen, "label")
    if labels is None:
        raise ValueError("These sounds have no labels, so retrieval can't be measured: add a column 'label'.")

    bank = FrameBank.from_dataset(chosen, features, encoder.device)
    results = compare_retrieval(encoder.mods.embedding_model, bank, labels, column(chosen, "source"))
    kind = "all" if hparams["evaluate_all"] else "held-out"
    where = hparams["data_folder"] or hparams["dataset"] or "the synthetic library"
    description = f"Query by example among {len(bank)} {kind} sounds of {where}, own source left out."
    if problems:
        description += f" {len(problems)} files could not be read."
    write_report(results, hparams["output_folder"], description)
    print(f"\n{description}\n\n{markdown_table(results)}\n")


if __name__ == "__main__":
    run(main)
