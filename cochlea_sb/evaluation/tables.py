"""Writes a report of `cochlea_sb.evaluation.report` as Markdown, JSON and pictures, without importing an encoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cochlea_sb.evaluation.plots import few_labels_curve, pictures_where_possible, robustness_curves
from cochlea_sb.files import write_text


def markdown(report: dict[str, Any]) -> str:
    """A report of `cochlea_sb.evaluation.report.evaluate` as Markdown tables."""
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


def table(corner: str, rows: Mapping[str, Mapping[Any, float | str]]) -> str:
    """A Markdown table of numbers or texts by row and column. ``corner`` heads the first column.

    All rows have the same columns. The column ``queries`` is left out.

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
        cells = (value if isinstance(value := figures[name], str) else f"{value:.3f}" for name in names)
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_report(report: dict[str, Any], folder: str | Path, description: str, fingerprint: str | None = None) -> None:
    """Write ``evaluation.json``, ``evaluation.md`` and, if matplotlib is installed, the curves into ``folder``.

    ``description`` is a sentence that names the measured sounds. ``fingerprint`` is the fingerprint of the model: the
    model card shows the figures only if the published model has the same fingerprint.
    """
    folder = Path(folder)
    write_text(folder / "evaluation.md", f"{description}\n\n{markdown(report)}\n")
    facts = {"description": description, "fingerprint": fingerprint}
    write_text(folder / "evaluation.json", json.dumps(facts | report, indent=1) + "\n")
    for picture in ("few_labels.png", "robustness.png"):  # of an earlier report
        (folder / picture).unlink(missing_ok=True)
    with pictures_where_possible():
        if "few labels" in report:
            few_labels_curve(report["few labels"], folder / "few_labels.png")
        if "recall@1" in report:
            robustness_curves(report["recall@1"], folder / "robustness.png")
