"""Training an encoder that needs no gradients, and the retrieval figure that every kind of training reports."""

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
    """Fit an encoder, save it and measure it.

    Arguments
    ---------
    encoder : WindowEncoder with a method ``fit(bank, seed)``
        On the device to fit it on.
    bank, valid_bank : FrameBank
        To learn from, and to measure on; the latter may be None.
    output_folder : str or Path
        Gets the pictures, and ``history.json`` with the mAP where there are labels.
    labels, sources, export :
        As in `cochlea_sb.training.brain.EmbeddingBrain`.
    seed : int
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
    """``{"mAP": ...}`` of embeddings [sounds, D]; empty without labels, or where no two sounds share one."""
    if labels is not None:
        with suppress(NothingToMeasure):
            return {"mAP": query_by_example(embeddings, labels, sources)["mAP"]}
    return {}
