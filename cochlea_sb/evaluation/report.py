"""Measures one model on one corpus. `cochlea_sb.evaluation.tables` writes the report to files."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import datasets
import numpy as np
import torch
from torch.nn import functional as F

from cochlea_sb.audio import read_audio
from cochlea_sb.data.corpus import column
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.log_mel import FlattenedLogMel
from cochlea_sb.encoders.windowed import encode_bank
from cochlea_sb.errors import NothingToMeasure, UserError
from cochlea_sb.evaluation.classification import classify, classify_with_few
from cochlea_sb.evaluation.retrieval import query_by_example
from cochlea_sb.evaluation.robustness import STRENGTHS, recall_of, robustness
from cochlea_sb.features import LogMel
from cochlea_sb.machine import progress_bar

PROBES = {"logistic regression": None, "hidden layer": 128}  # number of units of the hidden layer
# Names of the deformations: the first word of each key of STRENGTHS, and the excerpt.
KINDS = [kind.split()[0] for kind in STRENGTHS] + ["excerpt"]


def evaluate(
    encoder: Any,
    frames: datasets.Dataset,
    rows: list[int],
    train_rows: Sequence[int] = (),
    *,
    kinds: Sequence[str] = tuple(KINDS),
    counts: Sequence[int] = (1, 2, 5, 10, 20),
    max_queries: int = 500,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure retrieval, classification, classification from few labels, and robustness to deformations.

    Arguments
    ---------
    encoder : AudioEncoder
    frames : datasets.Dataset
        From `cochlea_sb.data.corpus.load_corpus`. All deformations but the excerpt need the column ``audio``.
    rows : list of int
        Sounds to measure on. They are the queries and candidates of retrieval, the test sounds of the classifiers,
        and the sounds that are deformed.
    train_rows : list of int
        Sounds that train the classifiers; sounds without a label are ignored. If none is left, nothing is classified.
    kinds : tuple of str
        Deformations of the queries, some of `KINDS`. A deformed query has to find its original among all sounds. The
        excerpt is the second half of a sound; it has to find the first half among the first halves of all sounds.
    counts : tuple of int
        Numbers of labelled sounds of each class, for classification from few labels.
    max_queries : int
        Maximum number of sounds to deform. From more sounds, a random subset is drawn.
    seed, progress : int, bool
        Seed of all random draws; whether to show progress bars.

    Returns
    -------
    dict
        The parts that could be measured: ``retrieval`` (figures of `query_by_example` by embedding),
        ``classification`` (figures of `classify` by embedding and classifier), ``few labels`` (figures of `classify` by
        embedding and count), ``recall@1`` and ``recall@10`` (by embedding, deformation and strength). The embeddings
        are ``model``, the baseline `FlattenedLogMel` and, for retrieval, ``random``. The baseline is named ``log-mel``,
        or ``frames`` if the model does not read log-mel features.

    Raises
    ------
    UserError
        If a name in ``kinds`` is unknown.
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
    report: dict[str, Any] = {}
    with suppress(NothingToMeasure):
        query_labels = [labels[row] for row in rows]
        query_sources = [sources[row] for row in rows] if sources else None
        report["retrieval"] = {
            name: query_by_example(vectors[rows], query_labels, query_sources) for name, vectors in embeddings.items()
        }

    train, test = ([row for row in some if labels[row] is not None] for some in (train_rows, rows))
    train_labels, test_labels = ([labels[row] for row in some] for some in (train, test))
    classification, few = {}, {}
    with suppress(NothingToMeasure):
        for name in progress_bar(encoders, desc="Classifying", show=progress and bool(train)):
            split = embeddings[name][train], train_labels, embeddings[name][test], test_labels
            classification[name] = {
                probe: classify(*split, hidden_size=size, seed=seed) for probe, size in PROBES.items()
            }
            few[name] = classify_with_few(*split, counts, seed=seed)
        report |= {"classification": classification, "few labels": few}

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


def halves(bank: FrameBank) -> tuple[FrameBank, FrameBank]:
    """The first halves of all sounds, and the second halves, as two banks. A sound of one frame is in both banks."""
    owners = torch.repeat_interleave(torch.arange(len(bank), device=bank.device), bank.lengths)
    within = torch.arange(len(bank.frames), device=bank.device) - (bank.ends - bank.lengths)[owners]
    half = bank.lengths // 2
    first, second = within < half.clamp(min=1)[owners], within >= half[owners]
    halves_of = [
        FrameBank(bank.frames[part], torch.bincount(owners[part]), bank.silence, bank.level) for part in (first, second)
    ]
    return halves_of[0], halves_of[1]
