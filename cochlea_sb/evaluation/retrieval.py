"""Query by example on labelled sounds: a model beside the raw log-mel baseline and beside chance."""

import json
import os
from pathlib import Path

import torch
from torch.nn import functional as F

from cochlea_sb.encoders.log_mel import FlattenedLogMel
from cochlea_sb.encoders.windowed import embed_bank
from cochlea_sb.metrics import query_by_example


def compare_retrieval(encoder, bank, labels, sources=None, *, ks=(1, 5, 10), seed=0):
    """Retrieval of an encoder and of what it has to beat, on the same sounds.

    Arguments
    ---------
    encoder : WindowEncoder
        In evaluation mode.
    bank : FrameBank
    labels, sources : list of str or None, [sounds]
    ks : tuple of int
    seed : int
        Of the random embeddings.

    Returns
    -------
    dict
        Figures of `query_by_example` by row: ``random``, ``log-mel``, ``model``.
    """
    baseline = FlattenedLogMel(bank.mean(), encoder.silence, encoder.hop_frames)
    chance = torch.randn(len(bank), 128, generator=torch.Generator().manual_seed(seed))
    embeddings = {
        "random": F.normalize(chance, dim=1),
        "log-mel": embed_bank(baseline.to(bank.device), bank),
        "model": embed_bank(encoder, bank),
    }
    return {name: query_by_example(vectors, labels, sources, ks) for name, vectors in embeddings.items()}


def markdown_table(results):
    """The figures as a Markdown table, one row for each embedding.

    Arguments
    ---------
    results : dict of dict
        From `compare_retrieval`.

    Returns
    -------
    str
    """
    names = [name for name in next(iter(results.values())) if name != "queries"]
    lines = ["| embedding | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row, figures in results.items():
        lines.append(f"| {row} | " + " | ".join(f"{figures[name]:.3f}" for name in names) + " |")
    return "\n".join(lines)


def write_report(results, folder, description):
    """Write ``evaluation.json`` and ``evaluation.md``.

    Arguments
    ---------
    results : dict of dict
        From `compare_retrieval`.
    folder : str or Path
    description : str
        What was measured, one sentence.
    """
    report = {"description": description, "results": results}
    write_text(Path(folder, "evaluation.json"), json.dumps(report, indent=2) + "\n")
    write_text(Path(folder, "evaluation.md"), f"{description}\n\n{markdown_table(results)}\n")


def write_text(path, text):
    """Write a file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
