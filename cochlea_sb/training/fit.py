"""Train an encoder that needs no gradients, and measure the mAP that every kind of training reports."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.windowed import encode_bank
from cochlea_sb.errors import NothingToMeasure
from cochlea_sb.evaluation import plots
from cochlea_sb.evaluation.retrieval import query_by_example
from cochlea_sb.files import write_text


def fit_encoder(
    encoder: Any,
    bank: FrameBank,
    valid_bank: FrameBank | None,
    output_folder: str | os.PathLike[str],
    *,
    labels: Sequence[str | None] | None = None,
    sources: Sequence[str | None] | None = None,
    seed: int = 0,
    export: Callable[[Any], None] | None = None,
) -> None:
    """Fit an encoder on its device by ``encoder.fit(bank, seed)``, export it, and measure it on ``valid_bank``.

    Writes pictures, and ``history.json`` with the mAP if there are labels, to ``output_folder``. The arguments
    ``labels``, ``sources`` and ``export`` are described in `cochlea_sb.training.brain.EmbeddingBrain`.
    """
    encoder.eval().fit(bank, seed)
    if export is not None:
        export(encoder)
    history: dict[str, float] = {"epoch": 1}
    if valid_bank is not None:
        embeddings = encode_bank(encoder, valid_bank).cpu()
        history |= mean_average_precision(embeddings, labels, sources)
        with plots.pictures_where_possible():
            plots.embedding_map(embeddings, labels, Path(output_folder) / "embedding_map.png")
    write_text(Path(output_folder) / "history.json", json.dumps([history], indent=1) + "\n")


def mean_average_precision(
    embeddings: torch.Tensor, labels: Sequence[str | None] | None, sources: Sequence[str | None] | None
) -> dict[str, float]:
    """Return ``{"mAP": ...}`` of embeddings [sounds, D], or ``{}`` if no query can find a sound of its label."""
    if labels is not None:
        with suppress(NothingToMeasure):
            return {"mAP": query_by_example(embeddings, labels, sources)["mAP"]}
    return {}
