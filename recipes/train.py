#!/usr/bin/env python3
"""Train an embedding of sounds without labels. The function main, at the bottom, shows the steps.

    python recipes/train.py hparams/cnn.yaml                          on the synthetic library
    python recipes/train.py hparams/cnn.yaml --data_folder ~/samples  on your own folder
    python recipes/train.py hparams/cnn.yaml --dataset user/name      on a dataset on the Hub
    python recipes/train.py hparams/cnn.yaml --dataset user/name --streaming True     without storing its sounds
    python recipes/train.py hparams/bag_of_audio_words.yaml           another kind of encoder
    python recipes/train.py hparams/cnn.yaml --help                   all options

After an interruption, run the same command again: training goes on from the last checkpoint.
`cochlea_sb.AudioEncoder.from_hparams` loads the model from the results folder.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import speechbrain as sb

from cochlea_sb.data.corpus import column, few_of_each, hold_out, load_corpus, write_problems
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.data.frames import compute_frames, split_readable
from cochlea_sb.data.source_frames import source_frames
from cochlea_sb.data.stream_bank import StreamBank
from cochlea_sb.data.streams import SoundStream
from cochlea_sb.errors import UserError
from cochlea_sb.features import LogMel
from cochlea_sb.files import write_text
from cochlea_sb.hub import names_on_hub
from cochlea_sb.inference.audio_encoder import copy_weights
from cochlea_sb.inference.model_folder import save_model
from cochlea_sb.machine import check_device
from cochlea_sb.program import run
from cochlea_sb.training.distributed import a_lost_process_is_told, collected, leave_group, own_share
from cochlea_sb.training.fit import fit_encoder
from cochlea_sb.training.loader import make_loader
from cochlea_sb.training.pairs import MixedBatches, PairBatches, group_rows, own_pairs
from cochlea_sb.training.recipe import (
    CORPUS_KEYS,
    PAIR_KEYS,
    STREAM_KEYS,
    check_same_run,
    load_experiment,
    parse_arguments,
)
from cochlea_sb.training.shared_bank import load_bank
from cochlea_sb.training.streamed_pairs import StreamedPairs


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
        groups=groups,
        band=band,
        **{key: hparams[key] for key in PAIR_KEYS},
    )


def open_stream(hparams):
    """The sounds of ``--streaming True``. Whatever a stream can't do is refused here."""
    wanted = {"pair_by": "sound", "length_band": 1, "labels_per_class": None}
    for key, value in wanted.items():
        if hparams[key] != value:
            raise UserError(f"{key} is {hparams[key]!r}: with streaming, expected {value!r}; or leave streaming out.")
    # A continued run reads the shards in another order, because it starts a new pass.
    log = Path(hparams["train_log"])
    epochs = len(log.read_text(encoding="utf-8").splitlines()) if log.is_file() else 0
    options = {key: hparams[key] for key in STREAM_KEYS}
    return SoundStream(**options, seed=hparams["seed"] + epochs)


def load_held_out(stream, hparams):
    """The frames of the held-out sounds of a stream, or None; and those that can't be read, with the reason."""
    sounds = stream.held_out()
    if sounds is None:
        print("The start of the stream has fewer than two sounds to hold out, so there is no validation.")
        return None, []
    return split_readable(compute_frames(sounds, hparams["compute_features"], num_proc=hparams["num_proc"]))


def streamed_pairs(bank, batch_size, hparams):
    """Batches of pairs of a stream. ``bank`` holds its newest sounds."""
    return StreamedPairs(
        bank,
        batch_size,
        hparams["steps_per_epoch"],
        hparams["seed"],
        draws_per_sound=hparams["draws_per_sound"],
        **{key: hparams[key] for key in PAIR_KEYS},
    )


def train_pairs(frames, groups, hparams, device):
    """Batches of pairs of the corpus and of ``n_sources`` synthetic sources, which have no labels.

    ``frames`` is the corpus: a dataset of frames, or the bank of a stream.
    """
    batch_size, band = hparams["batch_size"], hparams["length_band"]
    processes = own_share().total
    if batch_size % processes:
        raise UserError(
            f"batch_size is {batch_size} and there are {processes} processes: expected a multiple of the number of "
            "processes, because each of them encodes an equal part of a batch."
        )
    n_sources = hparams["n_sources"] if hparams["pair_by"] != "label" else 0
    n_sounds = len(frames)
    if isinstance(frames, StreamBank):  # each process holds some of the sounds
        n_sounds = processes * min(collected(len(frames)))
    own = own_pairs(batch_size, hparams["synthetic_share"] if n_sources else 0.0, None if groups else n_sounds)
    if isinstance(frames, StreamBank):
        corpus = streamed_pairs(frames, own, hparams)
    else:
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


def train_on_rows(hparams, run_opts, device, frames, train_rows, held_out_rows):
    """Train with the Brain of the yaml, on a corpus whose frames are all computed."""
    train_rows, groups = group_rows(frames, train_rows, hparams["pair_by"])
    held_out_rows, held_out_groups = group_rows(frames, held_out_rows, hparams["pair_by"])
    if hparams["length_band"] < 1:
        n_frames = frames["n_frames"]
        train_rows = sorted(train_rows, key=lambda row: n_frames[row])
    pairs = train_pairs(frames.select(train_rows), groups, hparams, device)
    train_with_brain(hparams, run_opts, device, pairs, frames.select(held_out_rows), held_out_groups)


def train_with_brain(hparams, run_opts, device, pairs, held_out, held_out_groups=None):
    """Train with the Brain of the yaml, on batches of pairs. ``held_out`` may be None."""
    valid_loader = None
    # Validation needs sounds of at least two groups. It draws about as many pairs as there are held-out sounds.
    if held_out and len(held_out) > 1 and (held_out_groups is None or held_out_groups[0] != held_out_groups[-1]):
        size = min(hparams["batch_size"], len(held_out))
        steps = -(-len(held_out) // size)
        valid_pairs = make_pairs(held_out, held_out_groups, size, hparams["seed"], hparams, device, steps=steps)
        valid_loader = make_loader(valid_pairs, device)
    if hparams["start_from"] is not None:
        copy_weights(hparams["start_from"], hparams["compute_features"], hparams["embedding_model"])
    brain = hparams["brain"](
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
        labels=held_out and column(held_out, "label"),
        sources=held_out and column(held_out, "source"),
        export=partial(save_model, hparams["output_folder"], hparams["compute_features"]),
    )
    brain.fit(hparams["epoch_counter"], make_loader(pairs, device), valid_loader)


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


def write_training(hparams_file, hparams, n_sounds, n_frames, problems):
    """Write what the model card tells about the training: the recipe and the corpus, without private paths."""
    folder = Path(hparams["output_folder"])
    write_problems(problems, folder / "skipped.csv")
    seconds = n_frames * hparams["compute_features"].hop / hparams["sample_rate"]
    labelled = hparams.get("pair_by") == "label" or hparams["labels_per_class"] is not None
    dataset = hparams["dataset"] if names_on_hub(hparams["dataset"] or "") else None
    kind = "dataset" if dataset else "folder" if hparams["data_folder"] or hparams["dataset"] else "synthetic"
    facts = {"recipe": Path(hparams_file).name, "corpus": kind, "dataset": dataset, "sounds": n_sounds}
    if hparams.get("n_sources") and hparams["pair_by"] != "label":
        facts["synthetic_sources"] = hparams["n_sources"]
    facts |= {"hours": round(seconds / 3600, 2), "skipped": len(problems), "labels": labelled}
    write_text(folder / "training.json", json.dumps(facts, indent=1) + "\n")


def begin_results(output_folder, text):
    """Make the results folder, with the yaml of the run."""
    sb.create_experiment_directory(output_folder)
    if sb.utils.distributed.if_main_process():
        write_text(Path(output_folder) / "train.yaml", text)


def train_on_stream(hparams_file, hparams, text, run_opts, device):
    """Train on a stream of sounds. Returns the unreadable sounds and the number of the others."""
    stream = open_stream(hparams)
    capacity = round(hparams["buffer_hours"] * 3600 * hparams["sample_rate"] / hparams["compute_features"].hop)
    bank = StreamBank(stream.part(*own_share()), capacity, hparams["compute_features"], device)
    pairs = train_pairs(bank, None, hparams, device)
    held_out, unreadable = sb.utils.distributed.run_on_main(partial(load_held_out, stream, hparams))
    begin_results(hparams["output_folder"], text)
    main_process = sb.utils.distributed.if_main_process()  # unknown after training
    read = [bank.report]
    try:
        with a_lost_process_is_told():
            train_with_brain(hparams, run_opts, device, pairs, held_out)
            read = collected(bank.report)
            leave_group()
    finally:
        problems = [*unreadable, *(pair for part in read for pair in part.problems.items())]
        n_sounds, n_frames = sum(part.n_sounds for part in read), sum(part.n_frames for part in read)
        if main_process:
            write_training(hparams_file, hparams, n_sounds, n_frames, problems)
    return problems, n_sounds


def train_on_corpus(hparams_file, hparams, text, run_opts, device):
    """Train on the frames of all sounds. Returns the unreadable sounds and the number of the others."""
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
    begin_results(hparams["output_folder"], text)
    if sb.utils.distributed.if_main_process():
        write_training(hparams_file, hparams, len(frames), sum(frames["n_frames"]), problems)
    train = train_on_rows if "brain" in hparams else train_without_gradients
    with a_lost_process_is_told():
        train(hparams, run_opts, device, frames, train_rows, held_out_rows)
        leave_group()
    return problems, len(frames)


def main(argv):
    hparams_file, run_opts, overrides = parse_arguments(argv)
    check_device(run_opts.device)
    if run_opts.device == "cpu" and run_opts.distributed_backend == "nccl":  # SpeechBrain's default, for GPUs
        run_opts = replace(run_opts, distributed_backend="gloo")
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams, text = load_experiment(hparams_file, overrides)
    if run_opts.ckpt_interval_steps > 0:
        hparams["ckpt_interval_minutes"] = 0  # SpeechBrain accepts an interval in steps or in minutes
    if "deformation" in hparams and type(hparams["compute_features"]) is not LogMel:
        raise UserError(
            f"compute_features is {type(hparams['compute_features']).__name__}: expected LogMel, because deformations "
            "change mel energies; for other features use the recipes bag_of_audio_words_*.yaml."
        )
    check_same_run(hparams["output_folder"], text)

    device = run_opts.device or sb.utils.distributed.infer_device()
    train = train_on_stream if hparams.get("streaming") else train_on_corpus
    main_process = sb.utils.distributed.if_main_process()  # unknown after training
    problems, n_sounds = train(hparams_file, hparams, text, run_opts, device)

    if not main_process:
        return
    output_folder = Path(hparams["output_folder"])
    epochs = f", after {hparams['epoch_counter'].current} epochs," if "epoch_counter" in hparams else ""
    print(f"The model{epochs} is in {output_folder}")
    if problems:
        print(f"Skipped {len(problems)} of {len(problems) + n_sounds} files that could not be read as audio:")
        for _, problem in problems[:20]:
            print(f"  {problem}")
        print(f"All of them are listed in {output_folder}/skipped.csv")


if __name__ == "__main__":
    run(main)
