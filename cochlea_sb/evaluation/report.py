"""All that is measured of one model on one labelled corpus, as a dictionary, as Markdown and as pictures."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from cochlea_sb.audio import read_audio
from cochlea_sb.data.corpus import column
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.log_mel import FlattenedLogMel
from cochlea_sb.encoders.windowed import embed_bank
from cochlea_sb.evaluation.classification import classify, classify_with_few
from cochlea_sb.evaluation.robustness import robustness
from cochlea_sb.files import write_text
from cochlea_sb.metrics import query_by_example
from cochlea_sb.plots import few_labels_curve, pictures_where_possible, robustness_curves

PROBES = {"logistic regression": None, "hidden layer": 128}  # units of the hidden layer


def evaluate(
    encoder, frames, rows, train_rows=(), *, counts=(1, 2, 5, 10, 20), max_queries=500, seed=0, progress=True
):  # fmt: skip
    """Measure a model: retrieval, classification, limited supervision, robustness.

    Arguments
    ---------
    encoder : AudioEncoder
    frames : datasets.Dataset
        From `cochlea_sb.data.corpus.load_corpus`, with labels; with its audio where robustness is wanted.
    rows : list of int
        Sounds to measure on: queries and what they may find; the test sounds of the classifiers; and those that are
        deformed, whose originals are sought among all sounds.
    train_rows : list of int
        Labelled sounds that classifiers are trained on; without any, nothing is classified.
    counts : tuple of int
        Labelled sounds of each class for limited supervision.
    max_queries : int
        Sounds that are deformed, drawn at random where there are more.
    seed : int
    progress : bool

    Returns
    -------
    dict
        ``retrieval`` (figures of `query_by_example` by embedding), ``classification`` (figures of `classify` by
        embedding and classifier), ``few labels`` (the same by embedding and count) and ``robustness`` (recall@1 by
        embedding, deformation and strength), whichever could be measured.
    """
    model = encoder.mods.embedding_model
    bank = FrameBank.from_dataset(frames, encoder.mods.compute_features, encoder.device)
    device = next(model.parameters()).device  # the bank may lie elsewhere, memory-mapped
    baseline = FlattenedLogMel(bank.mean(), model.silence, model.hop_frames).to(device)
    chance = torch.randn(len(bank), 128, generator=torch.Generator().manual_seed(seed))
    embeddings = {"random": F.normalize(chance, dim=1)}
    embeddings |= {name: embed_bank(one, bank).cpu() for name, one in (("log-mel", baseline), ("model", model))}
    labels, sources = column(frames, "label"), column(frames, "source")
    label, source = ([values[row] for row in rows] if values else None for values in (labels, sources))
    report = {
        "retrieval": {name: query_by_example(vectors[rows], label, source) for name, vectors in embeddings.items()}
    }

    known, asked = ([row for row in some if labels[row] is not None] for some in (train_rows, rows))
    known_labels, asked_labels = ([labels[row] for row in some] for some in (known, asked))
    if len(set(known_labels)) > 1 and set(known_labels) & set(asked_labels):
        report["classification"], report["few labels"] = {}, {}
        for name in tqdm(("log-mel", "model"), desc="Classifying", disable=not progress):
            split = embeddings[name][known], known_labels, embeddings[name][asked], asked_labels
            report["classification"][name] = {
                probe: classify(*split, hidden_size=size, seed=seed) for probe, size in PROBES.items()
            }
            report["few labels"][name] = classify_with_few(*split, counts, seed=seed)

    if "audio" in frames.column_names:
        if len(rows) > max_queries:
            rows = sorted(np.random.default_rng(seed).choice(rows, max_queries, replace=False).tolist())
        audio = (row["audio"] for row in frames.select(rows).select_columns("audio"))
        wavs = [torch.from_numpy(read_audio(sound, encoder.sample_rate)) for sound in audio]
        report["robustness"] = robustness(
            lambda wav: encoder.mods.compute_features(wav.to(encoder.device)),
            {"log-mel": baseline, "model": model},
            wavs,
            rows,
            embeddings,
            sources,
            seed=seed,
            progress=progress,
        )
    return report


def markdown(report):
    """A report as Markdown tables.

    Arguments
    ---------
    report : dict
        From `evaluate`.

    Returns
    -------
    str
    """
    parts = [table("embedding", report["retrieval"])]
    if "classification" in report:
        rows = {
            name: {
                f"{probe}: {figure}": value for probe, figures in probes.items() for figure, value in figures.items()
            }
            for name, probes in report["classification"].items()
        }
        parts += ["Classification on the frozen embedding:", table("embedding", rows)]
        rows = {
            name: {f"{count} of each": figures["accuracy"] for count, figures in by_count.items()}
            for name, by_count in report["few labels"].items()
        }
        parts += ["Accuracy of logistic regression from a few labelled sounds:", table("embedding", rows)]
    if "robustness" in report:
        for kind in report["robustness"]["model"]:
            rows = {name: by_kind[kind] for name, by_kind in report["robustness"].items()}
            parts += [f"Recall@1 of the original, {kind}:", table("embedding", rows)]
    return "\n\n".join(parts)


def table(corner, rows):
    """A Markdown table.

    Arguments
    ---------
    corner : str
        Heading of the first column.
    rows : dict of dict
        Number, or text, by row and column; all rows have the same columns.

    Returns
    -------
    str

    Example
    -------
    >>> print(table("embedding", {"model": {"mAP": 0.5, "queries": 3}}))
    | embedding | mAP |
    |---|---|
    | model | 0.500 |
    """
    names = [name for name in next(iter(rows.values())) if name != "queries"]
    lines = [f"| {corner} | " + " | ".join(map(str, names)) + " |", "|---" * (len(names) + 1) + "|"]
    for row, figures in rows.items():
        cells = (figures[name] if isinstance(figures[name], str) else f"{figures[name]:.3f}" for name in names)
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_report(report, folder, description):
    """Write ``evaluation.json``, ``evaluation.md`` and, where there is matplotlib, the curves.

    Arguments
    ---------
    report : dict
        From `evaluate`.
    folder : str or Path
    description : str
        What was measured, one sentence.
    """
    folder = Path(folder)
    write_text(folder / "evaluation.md", f"{description}\n\n{markdown(report)}\n")
    write_text(folder / "evaluation.json", json.dumps({"description": description} | report, indent=1) + "\n")
    with pictures_where_possible():
        if "few labels" in report:
            few_labels_curve(report["few labels"], folder / "few_labels.png")
        if "robustness" in report:
            robustness_curves(report["robustness"], folder / "robustness.png")
