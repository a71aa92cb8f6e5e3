#!/usr/bin/env python3
"""Measure an embedding on held-out sounds, and compare it with a log-mel baseline and random embeddings.

    python recipes/evaluate.py hparams/cnn.yaml --data_folder DIR
    python recipes/evaluate.py hparams/cnn.yaml --data_folder DIR --evaluate_all True    on all sounds
    python recipes/evaluate.py hparams/cnn.yaml --data_folder DIR --model user/name      a model on the Hub
    python recipes/evaluate.py hparams/cnn.yaml --data_folder fma_small --label_column artist --source_column album

It measures three things: query by example; classification by shallow classifiers on the frozen embedding, with all
labels and with few labels; and whether a deformed sound, or the second half of a sound, finds its original. It prints
tables, and writes evaluation.json, evaluation.md and the curves into the results folder.
"""

from pathlib import Path

from speechbrain.utils.distributed import infer_device

from cochlea_sb.data.corpus import column, hold_out, load_corpus
from cochlea_sb.errors import UserError
from cochlea_sb.evaluation.report import evaluate
from cochlea_sb.evaluation.tables import markdown, write_report
from cochlea_sb.hub import names_on_hub
from cochlea_sb.inference.audio_encoder import AudioEncoder
from cochlea_sb.program import run
from cochlea_sb.training.recipe import CORPUS_KEYS, load_experiment, parse_arguments


def main(argv):
    hparams_file, run_opts, overrides = parse_arguments(argv)
    hparams, _ = load_experiment(hparams_file, overrides)
    model = hparams["model"] or hparams["output_folder"]
    encoder = AudioEncoder.from_hparams(model, run_opts={"device": run_opts.device or infer_device()})
    features = encoder.mods.compute_features

    options = {key: hparams[key] for key in CORPUS_KEYS}
    frames, problems = load_corpus(features, **options, keep_audio=bool(hparams["robustness"]))
    train_rows, held_out = hold_out(frames, hparams["valid_folds"], hparams["valid_share"])
    rows = range(len(frames)) if hparams["evaluate_all"] else held_out
    if not rows:
        raise UserError(
            f"None of the {len(frames)} sounds is held out: add --evaluate_all True to measure on all sounds."
        )
    if column(frames.select(rows), "label") is None and not hparams["robustness"]:
        raise UserError("These sounds have no labels, so nothing can be measured: add a column 'label'.")

    # If all sounds are test sounds, no sounds are left to train a classifier on.
    train_rows = [] if hparams["evaluate_all"] else train_rows
    report = evaluate(
        encoder,
        frames,
        list(rows),
        train_rows,
        kinds=hparams["robustness"],
        counts=tuple(hparams["few_labels"]),
        seed=hparams["seed"],
    )
    which = "all, with the training data" if hparams["evaluate_all"] else "held out"
    given = hparams["dataset"] or hparams["data_folder"] or "the synthetic library"
    names = given if isinstance(given, list) else [given]
    where = " and ".join(name if names_on_hub(name) else Path(name).name for name in names)
    description = f"{len(rows)} sounds of {where} ({which}), own source left out."
    if problems:
        description += f" {len(problems)} files could not be read."
    Path(hparams["output_folder"]).mkdir(parents=True, exist_ok=True)
    fingerprint = encoder.identity()["fingerprint"]
    write_report(report, hparams["output_folder"], description, fingerprint)
    print(f"\n{model}: {description}\n\n{markdown(report)}\n")


if __name__ == "__main__":
    run(main)
