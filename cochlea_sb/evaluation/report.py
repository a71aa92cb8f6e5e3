"""All that is measured of one model on one labelled corpus, as a dictionary, as Markdown and as pictures."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from cochlea_sb.audio import read_audio
from cochlea_sb.data.corpus import column
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.log_mel import FlattenedLogMel
from cochlea_sb.encoders.windowed import encode_bank
from cochlea_sb.errors import NothingToMeasure, UserError
from cochlea_sb.evaluation.classification import classify, classify_with_few
from cochlea_sb.evaluation.plots import few_labels_curve, pictures_where_possible, robustness_curves
from cochlea_sb.evaluation.retrieval import query_by_example
from cochlea_sb.evaluation.robustness import STRENGTHS, recall_of, robustness
from cochlea_sb.features import LogMel
from cochlea_sb.files import write_text

PROBES = {"logistic regression": None, "hidden layer": 128}  # units of the hidden layer
# Ways in which a sound may come back, by their first words.
KINDS = [kind.split()[0] for kind in STRENGTHS] + ["excerpt"]


def evaluate(
    encoder,
    frames,
    rows,
    train_rows=(),
    *,
    kinds=tuple(KINDS),
    counts=(1, 2, 5, 10, 20),
    max_queries=500,
    seed=0,
    progress=True,
):
    """Measure a model: retrieval, classification, limited supervision, robustness.

    Arguments
    ---------
    encoder : AudioEncoder
    frames : datasets.Dataset
        From `cochlea_sb.data.corpus.load_corpus`; with its audio where sounds are to be deformed.
    rows : list of int
        Sounds to measure on: queries and what they may find; the test sounds of the classifiers; and those that are
        deformed, whose originals are sought among all sounds.
    train_rows : list of int
        Labelled sounds that classifiers are trained on; without any, nothing is classified.
    kinds : tuple of str
        Ways in which sounds come back and their originals are sought: some of `KINDS`. An excerpt is the second half
        of a sound, sought among the first halves of all.
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
        embedding and classifier), ``few labels`` (the same by embedding and count), ``recall@1`` and ``recall@10`` (by
        embedding, deformation and strength), whichever could be measured. The embedding ``log-mel`` is the baseline;
        beside a model of other features it is called ``frames``.

    Raises
    ------
    UserError
        If a kind is unknown.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UserError(f"robustness names '{unknown[0]}': expected some of {', '.join(KINDS)}.")
    model = encoder.mods.embedding_model
    bank = FrameBank.from_dataset(frames, encoder.mods.compute_features, encoder.device)
    baseline = FlattenedLogMel(model.silence, bank.frames.shape[1], model.hop_frames, level=model.level).fit(bank)
    name = "log-mel" if type(encoder.mods.compute_features) is LogMel else "frames"
    encoders = {name: baseline.to(encoder.device), "model": model}
    chance = torch.randn(len(bank), 128, generator=torch.Generator().manual_seed(seed))
    embeddings = {"random": F.normalize(chance, dim=1)}
    embeddings |= {name: encode_bank(one, bank).cpu() for name, one in encoders.items()}
    labels, sources = column(frames, "label") or [None] * len(frames), column(frames, "source")
    label, source = ([values[row] for row in rows] if values else None for values in (labels, sources))
    report = {}
    with suppress(NothingToMeasure):  # no sound has another of its label
        retrieval = {name: query_by_example(vectors[rows], label, source) for name, vectors in embeddings.items()}
        report["retrieval"] = retrieval

    known, asked = ([row for row in some if labels[row] is not None] for some in (train_rows, rows))
    known_labels, asked_labels = ([labels[row] for row in some] for some in (known, asked))
    if len(set(known_labels)) > 1 and set(known_labels) & set(asked_labels):
        report["classification"], report["few labels"] = {}, {}
        for name in tqdm(encoders, desc="Classifying", disable=not progress):
            split = embeddings[name][known], known_labels, embeddings[name][asked], asked_labels
            report["classification"][name] = {
                probe: classify(*split, hidden_size=size, seed=seed) for probe, size in PROBES.items()
            }
            report["few labels"][name] = classify_with_few(*split, counts, seed=seed)

    if len(rows) > max_queries:
        rows = sorted(np.random.default_rng(seed).choice(rows, max_queries, replace=False).tolist())
    strengths = {kind: values for kind, values in STRENGTHS.items() if kind.split()[0] in kinds}
    if strengths and "audio" in frames.column_names:
        audio = (row["audio"] for row in frames.select(rows).select_columns("audio"))
        wavs = [torch.from_numpy(read_audio(sound, encoder.sample_rate)) for sound in audio]
        report |= robustness(
            lambda wav: encoder.mods.compute_features(wav.to(encoder.device)),
            encoders,
            wavs,
            rows,
            embeddings,
            sources,
            strengths=strengths,
            seed=seed,
            progress=progress,
        )
    if "excerpt" in kinds:
        first, second = halves(bank)
        for name, one in encoders.items():
            originals, queries = encode_bank(one, first).cpu(), encode_bank(one, second).cpu()[rows]
            for at_k, recall in recall_of(queries, rows, originals, sources).items():
                kinds_of = report.setdefault(at_k, {}).setdefault(name, {})
                kinds_of["excerpt"] = {"the other half": recall}
    return report


def halves(bank):
    """The first and the second halves of all sounds, as two banks; of one frame, both are that frame."""
    owners = torch.repeat_interleave(torch.arange(len(bank), device=bank.device), bank.lengths)
    within = torch.arange(len(bank.frames), device=bank.device) - (bank.ends - bank.lengths)[owners]
    half = bank.lengths // 2
    first, second = within < half.clamp(min=1)[owners], within >= half[owners]
    return tuple(
        FrameBank(bank.frames[part], torch.bincount(owners[part]), bank.silence, bank.level) for part in (first, second)
    )


def markdown(report: dict[str, Any]) -> str:
    """A report as Markdown tables.

    Arguments
    ---------
    report : dict
        From `evaluate`.

    Returns
    -------
    str
    """
    parts = [table("embedding", report["retrieval"])] if "retrieval" in report else []
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
    for at_k in ("recall@1", "recall@10"):
        for kind in report[at_k]["model"] if at_k in report else ():
            rows = {name: by_kind[kind] for name, by_kind in report[at_k].items()}
            parts += [f"{at_k.capitalize()} of the original, {kind}:", table("embedding", rows)]
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


def write_report(report, folder, description, fingerprint=None):
    """Write ``evaluation.json``, ``evaluation.md`` and, where there is matplotlib, the curves.

    Arguments
    ---------
    report : dict
        From `evaluate`.
    folder : str or Path
    description : str
        What was measured, one sentence.
    fingerprint : str, optional
        Of the model, by which its card knows that these figures are its own.
    """
    folder = Path(folder)
    write_text(folder / "evaluation.md", f"{description}\n\n{markdown(report)}\n")
    facts = {"description": description, "fingerprint": fingerprint}
    write_text(folder / "evaluation.json", json.dumps(facts | report, indent=1) + "\n")
    for picture in ("few_labels.png", "robustness.png"):  # of another time
        (folder / picture).unlink(missing_ok=True)
    with pictures_where_possible():
        if "few labels" in report:
            few_labels_curve(report["few labels"], folder / "few_labels.png")
        if "recall@1" in report:
            robustness_curves(report["recall@1"], folder / "robustness.png")
