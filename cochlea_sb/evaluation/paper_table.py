"""The paper's tables out of many runs: means and intervals over folds and seeds, and what share is recovered.

Seeds of a fold are measured on the same sounds: they are averaged first, and intervals are over the F folds.
"""

import json
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from cochlea_sb.errors import NothingToMeasure
from cochlea_sb.evaluation.plots import few_labels_curve, pictures_where_possible, recipe_bars, robustness_curves
from cochlea_sb.evaluation.report import table
from cochlea_sb.files import write_text

FIGURES = {
    "mAP": lambda report, row: report["retrieval"][row]["mAP"],
    "P@1": lambda report, row: report["retrieval"][row]["P@1"],
    "accuracy": lambda report, row: report["classification"][row]["logistic regression"]["accuracy"],
    "accuracy, hidden layer": lambda report, row: report["classification"][row]["hidden layer"]["accuracy"],
    "class mAP": lambda report, row: report["classification"][row]["logistic regression"]["mAP"],
}
RECOVERED = {"mAP": "recovered, retrieval", "accuracy": "recovered, classification"}


def read_runs(folder, recipe, folds, seeds, name="evaluation.json"):
    """What the finished runs of a recipe left.

    Arguments
    ---------
    folder : str or Path
        With ``recipe/fold1-seed1`` and so on, each with a file ``done`` once it is.
    recipe : str
    folds, seeds : list of int
    name : str
        Of the file.

    Returns
    -------
    dict
        Its content by (fold, seed).
    """
    runs = {}
    for fold in folds:
        for seed in seeds:
            run = Path(folder, recipe, f"fold{fold}-seed{seed}")
            if (run / "done").is_file():
                runs[fold, seed] = json.loads((run / name).read_text(encoding="utf-8"))
    return runs


def mean_and_interval(values):
    """Mean and the half-width of its 95 % confidence interval (Student's t); None for one value.

    Arguments
    ---------
    values : array_like
        Independent ones: of folds, not of seeds, which are measured on the same sounds.

    Returns
    -------
    mean, half_width : float

    Example
    -------
    >>> mean, half_width = mean_and_interval([1.0, 2.0, 3.0])
    >>> f"{mean:.1f} +- {half_width:.2f}"
    '2.0 +- 2.48'
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()), None
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def recovered(ours, baseline, supervised, *, draws=10_000, seed=0):
    """Share of the way from the baseline to the supervised figure; its interval by bootstrap over the folds.

    Arguments
    ---------
    ours, baseline, supervised : array_like [F]
        A figure for each fold.
    draws : int
    seed : int

    Returns
    -------
    share, low, high : float or None
        All None where supervision does not beat the baseline, the bounds also where there is one fold.

    Example
    -------
    >>> share, low, high = recovered([0.6, 0.7], [0.4, 0.4], [0.8, 0.8])
    >>> f"{share:.3f} ({low:.2f} to {high:.2f})"
    '0.625 (0.50 to 0.75)'
    """
    figures = np.array([ours, baseline, supervised], dtype=float)

    def share(folds):
        ours, baseline, supervised = figures[:, folds].mean(-1)
        return (ours - baseline) / np.where(supervised > baseline, supervised - baseline, np.nan)

    n_folds = figures.shape[1]
    whole = float(share(np.arange(n_folds)))
    if np.isnan(whole) or n_folds < 2:
        return (None if np.isnan(whole) else whole), None, None
    shares = share(np.random.default_rng(seed).integers(n_folds, size=(draws, n_folds)))
    return whole, *map(float, np.nanpercentile(shares, [2.5, 97.5]))


def by_fold(runs, take):
    """A figure, averaged over the seeds, of each fold.

    Arguments
    ---------
    runs : dict
        By (fold, seed).
    take : callable
        From a run to the figure.

    Returns
    -------
    list of float
        In the order of the folds.
    """
    return [
        float(np.mean([take(run) for key, run in runs.items() if key[0] == fold]))
        for fold in sorted({fold for fold, _ in runs})
    ]


def summarise(folder, recipes, folds, seeds, supervised=("supervised", "supervised_triplets"), few=()):
    """All figures of all recipes, over the folds that each of them has finished.

    Arguments
    ---------
    folder : str or Path
        As in `read_runs`.
    recipes : list of str
        In the order of the table; those without a finished run are left out.
    folds, seeds : list of int
    supervised : tuple of str
        Recipes that use labels: the better of them, by its mean, is what the others are held against.
    few : tuple of int
        Labels of each class with which the recipe ``supervised-<count>-labels`` was trained.

    Returns
    -------
    dict
        ``folds``; ``recipes``: by recipe, ``log-mel`` first, ``[mean, half_width]`` of each figure,
        ``[share, low, high]`` of what is recovered, and ``runs``, their number; ``few labels``: accuracy by row and
        count; ``recall@1`` and ``recall@10`` by recipe, kind and strength.

    Raises
    ------
    UserError
        If no fold has been finished.
    """
    runs = {recipe: found for recipe in recipes if (found := read_runs(folder, recipe, folds, seeds))}
    common = [fold for fold in folds if all(any(key[0] == fold for key in found) for found in runs.values())]
    if not runs or not common:
        raise NothingToMeasure(f"'{folder}' holds no fold that all recipes have finished: run the same command again.")
    runs = {name: {key: run for key, run in found.items() if key[0] in common} for name, found in runs.items()}
    # Every run of log-mel frames measures the baseline, too.
    baselines = {
        (key[0], (name, key[1])): run
        for name, found in runs.items()
        for key, run in found.items()
        if any("log-mel" in run.get(part, ()) for part in ("retrieval", "recall@1"))
    }
    rows = [("log-mel", "log-mel", baselines)] if baselines else []
    rows += [(name, "model", found) for name, found in runs.items()]

    figures = {}
    for name, row, found in rows:
        figures[name] = {"runs": len(found)}
        for figure, take in FIGURES.items():
            with suppress(KeyError):  # not every corpus has labels, nor sounds to train classifiers on
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

    limited = {}
    for name, row, found in rows:
        if few and name not in supervised and all("few labels" in run for run in found.values()):
            limited[name] = {
                str(count): mean_and_interval(
                    by_fold(found, lambda run, row=row, count=count: run["few labels"][row][str(count)]["accuracy"])
                )
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

    summary = {"folds": common, "recipes": figures, "few labels": limited}
    for at_k in ("recall@1", "recall@10"):
        recall = summary[at_k] = {}
        for name, found in runs.items():
            reports = [run[at_k] for run in found.values() if at_k in run]
            if reports:
                if "log-mel" in reports[0]:
                    recall.setdefault("log-mel", mean_of([report["log-mel"] for report in reports]))
                recall[name] = mean_of([report["model"] for report in reports])
    return summary


def mean_of(reports):
    """Mean of dictionaries of dictionaries of numbers, key by key."""
    return {
        kind: {strength: float(np.mean([report[kind][strength] for report in reports])) for strength in strengths}
        for kind, strengths in reports[0].items()
    }


def markdown(summary):
    """The tables as Markdown.

    Arguments
    ---------
    summary : dict
        From `summarise`.

    Returns
    -------
    str
    """
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
        parts.append(table("accuracy with so many labels a class", cells))
    for at_k in ("recall@1", "recall@10"):
        for kind in next(iter(summary[at_k].values()), ()):
            cells = {name: by_kind[kind] for name, by_kind in summary[at_k].items()}
            parts.append(table(f"{at_k}, {kind}", cells))
    return "\n\n".join(parts)


def written(figure):
    """A cell: a mean and its half-width, a share and its interval, a number, or nothing."""
    if isinstance(figure, int):
        return f"{figure}"
    value, *spread = figure or [None]
    if value is None:
        return ""
    if len(spread) == 2:
        return f"{value:.0%}" + ("" if None in spread else f" ({spread[0]:.0%} to {spread[1]:.0%})")
    return f"{value:.3f}" + ("" if None in spread else f" ± {spread[0]:.3f}")


def write_tables(summary, folder, description):
    """Write ``table.json``, ``table.md`` and the pictures.

    Arguments
    ---------
    summary : dict
        From `summarise`.
    folder : str or Path
    description : str
    """
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
