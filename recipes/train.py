#!/usr/bin/env python3
"""Train an embedding of sounds without labels. The function main, at the bottom, shows the steps.

    python recipes/train.py hparams/cnn.yaml                          on the synthetic library
    python recipes/train.py hparams/cnn.yaml --data_folder ~/samples  on your own folder
    python recipes/train.py hparams/cnn.yaml --dataset user/name      on a dataset on the Hub
    python recipes/train.py hparams/bag_of_audio_words.yaml           another kind of encoder
    python recipes/train.py hparams/cnn.yaml --help                   all options

After an interruption, run the same command again: training goes on from the last checkpoint.
`cochlea_sb.AudioEncoder.from_hparams` loads the model from the results folder.
"""

import json
from functools import partial
from pathlib import Path

import speechbrain as sb

from cochlea_sb.cli import run
from cochlea_sb.data.corpus import column, few_of_each, hold_out, load_corpus, write_problems
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.data.source_frames import source_frames
from cochlea_sb.errors import UserError
from cochlea_sb.features import LogMel
from cochlea_sb.files import write_text
from cochlea_sb.hub import names_on_hub
from cochlea_sb.inference.audio_encoder import copy_weights
from cochlea_sb.inference.model_folder import save_model
from cochlea_sb.machine import check_device
from cochlea_sb.training.distributed import a_lost_process_is_told, leave_group, own_share
from cochlea_sb.training.fit import fit_encoder
from cochlea_sb.training.loader import make_loader
from cochlea_sb.training.pairs import MixedBatches, PairBatches, group_rows, own_pairs
from cochlea_sb.training.recipe import CORPUS_KEYS, check_same_run, load_experiment, parse_arguments
from cochlea_sb.training.shared_bank import load_bank


def make_pairs(frames, groups, batch_size, seed, hparams, device, band=1.0, steps=None):
    """Batches of pairs. The device that holds the frames draws the pairs."""
    most = hparams["memory_gb"]
    max_bytes = None if most is None else most * 10**9
    bank = load_bank(frames, hparams["compute_features"], device, max_bytes=max_bytes)
    return PairBatches(
        bank,
        batch_size,
        steps or hparams["steps_per_epoch"],
        seed,
        deformation=hparams["deformation"],
        crop_frames=hparams["crop_frames"],
        proximity_seconds=hparams["proximity_seconds"],
        groups=groups,
        max_seconds=hparams["max_seconds"],
        band=band,
    )


def train_pairs(frames, groups, hparams, device):
    """Batches of pairs of the corpus and of ``n_sources`` synthetic sources, which have no labels."""
    batch_size, band = hparams["batch_size"], hparams["length_band"]
    processes = own_share().total
    if batch_size % processes:
        raise UserError(
            f"batch_size is {batch_size} and there are {processes} processes: expected a multiple of the number of "
            "processes, because each of them encodes an equal part of a batch."
        )
    n_sources = hparams["n_sources"] if hparams["pair_by"] != "label" else 0
    own = own_pairs(batch_size, hparams["synthetic_share"] if n_sources else 0.0, None if groups else len(frames))
    corpus = make_pairs(frames, groups, own, hparams["seed"], hparams, device, band)  # finds mistakes in seconds
    if corpus.bank.on_disk:
        device = "cpu"
        if sb.utils.distributed.if_main_process():
            print(f"The frames are read from the disk: {corpus.bank}; memory is for --memory_gb at most.")
    if own == batch_size:
        return corpus
    compute = partial(source_frames, hparams["compute_features"], n_sources, num_proc=hparams["num_proc"])
    sources = sb.utils.distributed.run_on_main(compute)
    others = make_pairs(sources, sources["source"][:], batch_size - own, hparams["seed"] + 1, hparams, device)
    return MixedBatches(corpus, others)


def train_with_brain(hparams, run_opts, device, frames, train_rows, held_out_rows):
    """Train with the Brain of the yaml, on batches of pairs."""
    train_rows, groups = group_rows(frames, train_rows, hparams["pair_by"])
    held_out_rows, held_out_groups = group_rows(frames, held_out_rows, hparams["pair_by"])
    if hparams["length_band"] < 1:
        n_frames = frames["n_frames"]
        train_rows = sorted(train_rows, key=lambda row: n_frames[row])
    train_loader = make_loader(train_pairs(frames.select(train_rows), groups, hparams, device), device)
    held_out, valid_loader = frames.select(held_out_rows), None
    # Validation needs sounds of at least two groups. It draws about as many pairs as there are held-out sounds.
    if len(held_out) > 1 and (held_out_groups is None or held_out_groups[0] != held_out_groups[-1]):
        size = min(hparams["batch_size"], len(held_out))
        steps = -(-len(held_out) // size)
        pairs = make_pairs(held_out, held_out_groups, size, hparams["seed"], hparams, device, steps=steps)
        valid_loader = make_loader(pairs, device)
    if hparams["start_from"] is not None:
        copy_weights(hparams["start_from"], hparams["compute_features"], hparams["embedding_model"])
    brain = hparams["brain"](
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
        labels=column(held_out, "label"),
        sources=column(held_out, "source"),
        export=partial(save_model, hparams["output_folder"], hparams["compute_features"]),
    )
    brain.fit(hparams["epoch_counter"], train_loader, valid_loader)


def train_without_gradients(hparams, run_opts, device, frames, train_rows, held_out_rows):
    """Train by the ``fit`` method of the encoder, which reads all frames."""
    held_out = frames.select(held_out_rows)
    bank, valid_bank = (
        FrameBank.from_dataset(part, hparams["compute_features"], device) if len(part) else None
        for part in (frames.select(train_rows), held_out)
    )
    fit_encoder(
        hparams["embedding_model"].to(device),
        bank,
        valid_bank,
        hparams["output_folder"],
        labels=column(held_out, "label"),
        sources=column(held_out, "source"),
        seed=hparams["seed"],
        export=partial(save_model, hparams["output_folder"], hparams["compute_features"]),
    )


def write_training(hparams_file, hparams, frames, skipped, path):
    """Write what the model card tells about the training: the recipe and the corpus, without private paths."""
    seconds = sum(frames["n_frames"]) * hparams["compute_features"].hop / hparams["sample_rate"]
    labelled = hparams.get("pair_by") == "label" or hparams["labels_per_class"] is not None
    dataset = hparams["dataset"] if names_on_hub(hparams["dataset"] or "") else None
    kind = "dataset" if dataset else "folder" if hparams["data_folder"] or hparams["dataset"] else "synthetic"
    facts = {"recipe": Path(hparams_file).name, "corpus": kind, "dataset": dataset, "sounds": len(frames)}
    if hparams.get("n_sources") and hparams["pair_by"] != "label":
        facts["synthetic_sources"] = hparams["n_sources"]
    facts |= {"hours": round(seconds / 3600, 2), "skipped": skipped, "labels": labelled}
    write_text(path, json.dumps(facts, indent=1) + "\n")


def main(argv):
    hparams_file, run_opts, overrides = parse_arguments(argv)
    check_device(run_opts.device)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams, text = load_experiment(hparams_file, overrides)
    if run_opts.ckpt_interval_steps > 0:
        hparams["ckpt_interval_minutes"] = 0  # SpeechBrain accepts an interval in steps or in minutes
    if "deformation" in hparams and type(hparams["compute_features"]) is not LogMel:
        raise UserError(
            f"compute_features is {type(hparams['compute_features']).__name__}: expected LogMel, because deformations "
            "change mel energies; for other features use the recipes bag_of_audio_words_*.yaml."
        )
    output_folder = Path(hparams["output_folder"])
    check_same_run(output_folder, text)

    options = {key: hparams[key] for key in CORPUS_KEYS}
    frames, problems = sb.utils.distributed.run_on_main(partial(load_corpus, hparams["compute_features"], **options))
    train_rows, held_out_rows = hold_out(frames, hparams["valid_folds"], hparams["valid_share"])
    if hparams["labels_per_class"] is not None:
        labels = column(frames, "label")
        if labels is None:
            raise UserError(
                "These sounds have no labels, which labels_per_class needs: add a column 'label', or omit this option."
            )
        few = few_of_each([labels[row] for row in train_rows], hparams["labels_per_class"], hparams["seed"])
        train_rows = [train_rows[row] for row in few]

    sb.create_experiment_directory(output_folder)
    main_process = sb.utils.distributed.if_main_process()
    if main_process:
        write_text(output_folder / "train.yaml", text)
        write_problems(problems, output_folder / "skipped.csv")
        write_training(hparams_file, hparams, frames, len(problems), output_folder / "training.json")

    device = run_opts.device or sb.utils.distributed.infer_device()
    train = train_with_brain if "brain" in hparams else train_without_gradients
    with a_lost_process_is_told():
        train(hparams, run_opts, device, frames, train_rows, held_out_rows)
        leave_group()

    if not main_process:
        return
    epochs = f", after {hparams['epoch_counter'].current} epochs," if "epoch_counter" in hparams else ""
    print(f"The model{epochs} is in {output_folder}")
    if problems:
        print(f"Skipped {len(problems)} of {len(problems) + len(frames)} files that could not be read as audio:")
        for _, problem in problems[:20]:
            print(f"  {problem}")
        print(f"All of them are listed in {output_folder}/skipped.csv")


if __name__ == "__main__":
    run(main)
