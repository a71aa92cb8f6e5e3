"""Makes the paper's tables from the reports of many runs, for recipes/reproduce.py.

Runs of one fold with different seeds are measured on the same sounds, so they are not independent. They are averaged
first; means and intervals are then computed over the folds. A "figure" is a number such as mAP, a key of `FIGURES`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from cochlea_sb.errors import NothingToMeasure
from cochlea_sb.evaluation.plots import few_labels_curve, pictures_where_possible, recipe_bars, robustness_curves
from cochlea_sb.evaluation.tables import table
from cochlea_sb.files import write_text

FIGURES: dict[str, Callable[..., float]] = {
    "mAP": lambda report, row: report["retrieval"][row]["mAP"],
    "P@1": lambda report, row: report["retrieval"][row]["P@1"],
    "accuracy": lambda report, row: report["classification"][row]["logistic regression"]["accuracy"],
    "accuracy, hidden layer": lambda report, row: report["classification"][row]["hidden layer"]["accuracy"],
    "class mAP": lambda report, row: report["classification"][row]["logistic regression"]["mAP"],
}
RECOVERED = {"mAP": "recovered, retrieval", "accuracy": "recovered, classification"}


def read_runs(
    folder: str | Path, recipe: str, folds: Sequence[int], seeds: Sequence[int], name: str = "evaluation.json"
) -> dict[tuple[int, int], Any]:
    """Read the JSON file ``name`` of each finished run of a recipe: its content by (fold, seed).

    The runs are in folders such as ``folder/recipe/fold1-seed1``. A finished run has a file ``done``.
    """
    runs = {}
    for fold in folds:
        for seed in seeds:
            run = Path(folder, recipe, f"fold{fold}-seed{seed}")
            if (run / "done").is_file():
                runs[fold, seed] = json.loads((run / name).read_text(encoding="utf-8"))
    return runs


def mean_and_interval(values: npt.ArrayLike) -> tuple[float, float | None]:
    """Mean, and half-width of its 95 % confidence interval (Student's t), of independent values: one for each fold.

    The half-width is None if there is only one value.

    Example
    -------
    >>> mean, half_width = mean_and_interval([1.0, 2.0, 3.0])
    >>> f"{mean:.1f} +- {half_width:.2f}"
    '2.0 +- 2.48'
    """
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return float(sample.mean()), None
    return float(sample.mean()), float(stats.t.ppf(0.975, len(sample) - 1) * stats.sem(sample))


def recovered(
    ours: Sequence[float],
    baseline: Sequence[float],
    supervised: Sequence[float],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float | None, float | None, float | None]:
    """The share (ours - baseline) / (supervised - baseline) of the means, and the bounds of its 95 % interval.

    Each argument has a figure for each fold. The interval is a bootstrap over the folds with ``draws`` resamples. All
    results are None if supervision does not beat the baseline. The bounds are None if there is only one fold.

    Example
    -------
    >>> share, low, high = recovered([0.6, 0.7], [0.4, 0.4], [0.8, 0.8])
    >>> f"{share:.3f} ({low:.2f} to {high:.2f})"
    '0.625 (0.50 to 0.75)'
    """
    figures = np.array([ours, baseline, supervised], dtype=float)

    def share(folds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        ours, baseline, supervised = figures[:, folds].mean(-1)
        shares: npt.NDArray[np.float64] = (ours - baseline) / np.where(
            supervised > baseline, supervised - baseline, np.nan
        )
        return shares

    n_folds = figures.shape[1]
    whole = float(share(np.arange(n_folds)))
    if np.isnan(whole) or n_folds < 2:
        return (None if np.isnan(whole) else whole), None, None
    shares = share(np.random.default_rng(seed).integers(n_folds, size=(draws, n_folds)))
    low, high = np.nanpercentile(shares, [2.5, 97.5])
    return whole, float(low), float(high)


def by_fold(runs: Mapping[Any, Any], take: Callable[[Any], float]) -> list[float]:
    """For each fold, in ascending order, the mean over the seeds of the figure that ``take`` reads from a report."""
    return [
        float(np.mean([take(run) for key, run in runs.items() if key[0] == fold]))
        for fold in sorted({fold for fold, _ in runs})
    ]


def summarise(
    folder: str | Path,
    recipes: Sequence[str],
    folds: Sequence[int],
    seeds: Sequence[int],
    supervised: Sequence[str] = ("supervised", "supervised_triplets"),
    few: Sequence[int] = (),
) -> dict[str, Any]:
    """All figures of all recipes, over the folds that every recipe has finished.

    Arguments
    ---------
    folder : str or Path
        Folder of the runs; see `read_runs`.
    recipes : list of str
        In the order of the table. A recipe without a finished run is left out.
    folds, seeds : list of int
    supervised : tuple of str
        Recipes that use labels. For each figure, the recipe with the best mean is the reference of `recovered`.
    few : tuple of int
        Numbers of labelled sounds of each class. The runs ``supervised-<count>-labels`` trained on these sounds alone.

    Returns
    -------
    dict
        - ``folds``: list of int.
        - ``recipes``: a dict for each recipe, ``log-mel`` first. It holds ``(mean, half_width)`` of each figure,
          ``(share, low, high)`` of each recovered share, and the number of ``runs``.
        - ``few labels``: ``(mean, half_width)`` of the accuracy, by recipe (or ``supervised network``) and number of
          labels.
        - ``recall@1`` and ``recall@10``: means, by recipe, kind and strength of the deformation.

    Raises
    ------
    NothingToMeasure
        If no fold has been finished by all recipes.
    """
    runs = {recipe: found for recipe in recipes if (found := read_runs(folder, recipe, folds, seeds))}
    common = [fold for fold in folds if all(any(key[0] == fold for key in found) for found in runs.values())]
    if not runs or not common:
        raise NothingToMeasure(f"'{folder}' holds no fold that all recipes have finished: run the same command again.")
    runs = {name: {key: run for key, run in found.items() if key[0] in common} for name, found in runs.items()}
    # Every run whose encoder reads log-mel features also measures the baseline.
    baselines = {
        (key[0], (name, key[1])): run
        for name, found in runs.items()
        for key, run in found.items()
        if any("log-mel" in run.get(part, ()) for part in ("retrieval", "recall@1"))
    }
    rows: list[tuple[str, str, dict[Any, Any]]] = [("log-mel", "log-mel", baselines)] if baselines else []
    rows += [(name, "model", found) for name, found in runs.items()]

    figures: dict[str, dict[str, Any]] = {}
    for name, row, found in rows:
        figures[name] = {"runs": len(found)}
        for figure, take in FIGURES.items():
            with suppress(KeyError):  # without labels or training sounds, a report has no such figure
                figures[name][figure] = mean_and_interval(by_fold(found, partial(take, row=row)))
    references = [name for name in supervised if name in runs]
    for figure, title in RECOVERED.items():
        if references and all(figure in figures.get(name, ()) for name in (*references, "log-mel")):
            take = FIGURES[figure]
            best = max(references, key=lambda name: figures[name][figure][0])
            reference = by_fold(runs[best], partial(take, row="model"))
            baseline = by_fold(baselines, partial(take, row="log-mel"))
            for name, found in runs.items():
                if name not in supervised:
                    ours = by_fold(found, partial(take, row="model"))
                    figures[name][title] = recovered(ours, baseline, reference)

    limited: dict[str, dict[str, Any]] = {}
    for name, row, found in rows:
        if few and name not in supervised and all("few labels" in run for run in found.values()):
            limited[name] = {
                str(count): mean_and_interval(by_fold(found, partial(few_labels_accuracy, row=row, count=count)))
                for count in few
            }
    networks = {
        str(count): read_runs(folder, f"supervised-{count}-labels", common, seeds, "history.json") for count in few
    }
    if networks and all(networks.values()):
        limited["supervised network"] = {
            count: mean_and_interval(by_fold(found, lambda history: history[-1]["accuracy"]))
            for count, found in networks.items()
        }

    summary: dict[str, Any] = {"folds": common, "recipes": figures, "few labels": limited}
    for at_k in ("recall@1", "recall@10"):
        recall: dict[str, Any] = {}
        summary[at_k] = recall
        for name, found in runs.items():
            reports = [run[at_k] for run in found.values() if at_k in run]
            if reports:
                if "log-mel" in reports[0]:
                    recall.setdefault("log-mel", mean_of([report["log-mel"] for report in reports]))
                recall[name] = mean_of([report["model"] for report in reports])
    return summary


def few_labels_accuracy(report: Mapping[str, Any], row: str, count: int) -> float:
    return float(report["few labels"][row][str(count)]["accuracy"])


def mean_of(reports: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Average nested dictionaries of numbers, key by key."""
    return {
        kind: {strength: float(np.mean([report[kind][strength] for report in reports])) for strength in strengths}
        for kind, strengths in reports[0].items()
    }


def markdown(summary: Mapping[str, Any]) -> str:
    """The result of `summarise` as Markdown tables."""
    written_names = {name for figures in summary["recipes"].values() for name in figures}
    names = [name for name in (*FIGURES, *RECOVERED.values(), "runs") if name in written_names]
    cells = {
        recipe: {name: written(figures.get(name)) for name in names} for recipe, figures in summary["recipes"].items()
    }
    parts = [table("recipe", cells)]
    if summary["few labels"]:
        cells = {
            name: {count: written(figure) for count, figure in by_count.items()}
            for name, by_count in summary["few labels"].items()
        }
        parts.append(table("accuracy by labelled sounds of each class", cells))
    for at_k in ("recall@1", "recall@10"):
        for kind in next(iter(summary[at_k].values()), ()):
            cells = {name: by_kind[kind] for name, by_kind in summary[at_k].items()}
            parts.append(table(f"{at_k}, {kind}", cells))
    return "\n\n".join(parts)


def written(figure: int | Sequence[float | None] | None) -> str:
    """The text of a cell: a mean and its half-width, a share and its bounds, a number of runs, or "" for None."""
    if isinstance(figure, int):
        return f"{figure}"
    value, *spread = figure or (None,)
    if value is None:
        return ""
    if len(spread) == 2:
        return f"{value:.0%}" + ("" if None in spread else f" ({spread[0]:.0%} to {spread[1]:.0%})")
    return f"{value:.3f}" + ("" if None in spread else f" ± {spread[0]:.3f}")


def write_tables(summary: Mapping[str, Any], folder: str | Path, description: str) -> None:
    """Write the result of `summarise` into ``folder``: ``table.json``, ``table.md`` and pictures."""
    folder = Path(folder)
    write_text(folder / "table.json", json.dumps(summary, indent=1) + "\n")
    write_text(folder / "table.md", f"{description}\n\n{markdown(summary)}\n")
    few = {
        name: {count: {"accuracy": figure[0]} for count, figure in by_count.items()}
        for name, by_count in summary["few labels"].items()
    }
    with pictures_where_possible():
        bars = {name: figures["mAP"] for name, figures in summary["recipes"].items() if "mAP" in figures}
        if bars:
            recipe_bars(bars, folder / "retrieval.png")
        if few:
            few_labels_curve(few, folder / "few_labels.png")
        if summary["recall@1"]:
            robustness_curves(summary["recall@1"], folder / "robustness.png")
