"""Measures one model on one labelled corpus. `cochlea_sb.evaluation.tables` writes the result down."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import datasets
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
from cochlea_sb.evaluation.retrieval import query_by_example
from cochlea_sb.evaluation.robustness import STRENGTHS, recall_of, robustness
from cochlea_sb.features import LogMel

PROBES = {"logistic regression": None, "hidden layer": 128}  # units of the hidden layer
# The deformations of a query, by their first words.
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
    """Measure a model: retrieval, classification, limited supervision, robustness.

    Arguments
    ---------
    encoder : AudioEncoder
    frames : datasets.Dataset
        From `cochlea_sb.data.corpus.load_corpus`. Deformations also need its column ``audio``.
    rows : list of int
        Sounds to measure on. They are the queries and candidates of retrieval, the test sounds of the classifiers,
        and the sounds that are deformed. The original of a deformed sound is sought among all sounds.
    train_rows : list of int
        Sounds that train the classifiers, if they have labels. Without any, nothing is classified.
    kinds : tuple of str
        Deformations of the queries, some of `KINDS`. An excerpt is the second half of a sound; it is sought among the
        first halves of all sounds.
    counts : tuple of int
        Numbers of labelled sounds of each class for limited supervision.
    max_queries : int
        Limit on the number of deformed sounds. If there are more, they are drawn at random.
    seed : int
    progress : bool
        Show progress bars.

    Returns
    -------
    dict
        The parts that could be measured: ``retrieval`` (figures of `query_by_example` by embedding),
        ``classification`` (figures of `classify` by embedding and classifier), ``few labels`` (the same by embedding
        and count), ``recall@1`` and ``recall@10`` (by embedding, deformation and strength). The baseline is the
        embedding ``log-mel``, or ``frames`` if the model reads other features.

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
        for name in tqdm(encoders, desc="Classifying", disable=not progress or not train):
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
    """The first and the second halves of all sounds, as two banks. A sound of one frame is in both."""
    owners = torch.repeat_interleave(torch.arange(len(bank), device=bank.device), bank.lengths)
    within = torch.arange(len(bank.frames), device=bank.device) - (bank.ends - bank.lengths)[owners]
    half = bank.lengths // 2
    first, second = within < half.clamp(min=1)[owners], within >= half[owners]
    halves_of = [
        FrameBank(bank.frames[part], torch.bincount(owners[part]), bank.silence, bank.level) for part in (first, second)
    ]
    return halves_of[0], halves_of[1]
