"""The paper's tables out of many runs: means and intervals over folds and seeds, and what share is recovered.

Axes: R runs of a recipe, F folds.
"""

import json
from pathlib import Path

import numpy as np
from scipy import stats

from cochlea_sb.evaluation.report import table
from cochlea_sb.files import write_text
from cochlea_sb.plots import few_labels_curve, recipe_bars, robustness_curves

FIGURES = {
    "mAP": lambda report, row: report["retrieval"][row]["mAP"],
    "P@1": lambda report, row: report["retrieval"][row]["P@1"],
    "accuracy": lambda report, row: report["classification"][row]["logistic regression"]["accuracy"],
    "accuracy, hidden layer": lambda report, row: report["classification"][row]["hidden layer"]["accuracy"],
    "class mAP": lambda report, row: report["classification"][row]["logistic regression"]["mAP"],
}
RECOVERED = {"mAP": "recovered, retrieval", "accuracy": "recovered, classification"}


def read_runs(folder, recipe):
    """What `recipes/evaluate.py` left of a recipe's runs.

    Arguments
    ---------
    folder : str or Path
        With ``recipe/fold1-seed1/evaluation.json`` and so on.
    recipe : str

    Returns
    -------
    dict
        Report by (fold, seed).
    """
    runs = {}
    for file in sorted(Path(folder, recipe).glob("fold*-seed*/evaluation.json")):
        fold, seed = file.parent.name.removeprefix("fold").split("-seed")
        runs[int(fold), int(seed)] = json.loads(file.read_text(encoding="utf-8"))
    return runs


def mean_and_interval(values):
    """Mean and the half-width of its 95 % confidence interval (Student's t); NaN for one value.

    Arguments
    ---------
    values : array_like [R]

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
        return float(values.mean()), float("nan")
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
    share, low, high : float

    Example
    -------
    >>> share, low, high = recovered([0.6, 0.7], [0.4, 0.4], [0.8, 0.8])
    >>> f"{share:.3f} ({low:.2f} to {high:.2f})"
    '0.625 (0.50 to 0.75)'
    """
    figures = np.array([ours, baseline, supervised], dtype=float)

    def share(folds):
        ours, baseline, supervised = figures[:, folds].mean(-1)
        return (ours - baseline) / (supervised - baseline)

    n = figures.shape[1]
    shares = share(np.random.default_rng(seed).integers(n, size=(draws, n)))
    return float(share(np.arange(n))), *map(float, np.percentile(shares, [2.5, 97.5]))


def by_fold(runs, figure, row="model"):
    """A figure averaged over the seeds, by fold: dict."""
    folds = sorted({fold for fold, _ in runs})
    return {fold: np.mean([FIGURES[figure](runs[key], row) for key in runs if key[0] == fold]) for fold in folds}


def summarise(folder, recipes, supervised=("supervised", "supervised_triplets"), few=()):
    """All figures of all recipes.

    Arguments
    ---------
    folder : str or Path
        As in `read_runs`.
    recipes : list of str
        In the order of the table.
    supervised : tuple of str
        Recipes that use labels: the better of them, by its mean, is what the others are held against.
    few : tuple of int
        Labels of each class with which the recipe ``supervised-<count>-labels`` was trained.

    Returns
    -------
    dict
        ``recipes``: by recipe, ``log-mel`` first, ``[mean, half_width]`` of each figure and ``[share, low, high]`` of
        what is recovered, and ``runs``, their number; ``few labels``: accuracy by row and count.

    Raises
    ------
    ValueError
        If no run has been evaluated.
    """
    runs = {recipe: found for recipe in recipes if (found := read_runs(folder, recipe))}
    if not runs:
        raise ValueError(f"'{folder}' holds no evaluated run: expected RECIPE/foldF-seedS/evaluation.json in it.")
    # The baseline does not depend on what was trained: any run of a fold has it.
    baseline_runs = {(fold, 0): run for found in runs.values() for (fold, _), run in found.items()}
    rows = [("log-mel", "log-mel", baseline_runs)] + [(recipe, "model", found) for recipe, found in runs.items()]
    result = {}
    for name, row, found in rows:
        result[name] = {
            figure: mean_and_interval([take(run, row) for run in found.values()]) for figure, take in FIGURES.items()
        }
        result[name]["runs"] = len(found)
    for figure, title in RECOVERED.items():
        references = [name for name in supervised if name in runs]
        if not references:
            continue
        reference = by_fold(runs[max(references, key=lambda name: result[name][figure][0])], figure)
        baseline = by_fold(baseline_runs, figure, "log-mel")
        for name, found in runs.items():
            ours = by_fold(found, figure)
            if name not in supervised and set(ours) <= set(reference):
                result[name][title] = recovered(
                    *([values[fold] for fold in ours] for values in (ours, baseline, reference))
                )
    summary = {"recipes": result, "few labels": {}}
    counts = list(map(str, few))
    for name, row, found in rows:
        if counts and name not in supervised:
            summary["few labels"][name] = {
                count: mean_and_interval([run["few labels"][row][count]["accuracy"] for run in found.values()])
                for count in counts
            }
    networks = {count: read_histories(folder, f"supervised-{count}-labels") for count in counts}
    if all(networks.values()) and networks:
        summary["few labels"]["supervised network"] = {
            count: mean_and_interval(accuracies) for count, accuracies in networks.items()
        }
    robust = {
        name: [run["robustness"] for run in found.values() if "robustness" in run] for name, found in runs.items()
    }
    first = next((reports for reports in robust.values() if reports), None)
    summary["robustness"] = {
        name: mean_of([each["model"] for each in reports]) for name, reports in robust.items() if reports
    }
    if first:
        summary["robustness"] = {"log-mel": mean_of([each["log-mel"] for each in first])} | summary["robustness"]
    return summary


def read_histories(folder, recipe):
    """The classifier's own accuracy at the end of each run of a supervised recipe: list of float."""
    files = sorted(Path(folder, recipe).glob("fold*-seed*/history.json"))
    return [json.loads(file.read_text(encoding="utf-8"))[-1]["accuracy"] for file in files]


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
    names = [*FIGURES, *RECOVERED.values(), "runs"]
    lines = ["| recipe | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for recipe, figures in summary["recipes"].items():
        lines.append(f"| {recipe} | " + " | ".join(written(figures.get(name)) for name in names) + " |")
    parts = ["\n".join(lines)]
    if summary["few labels"]:
        counts = list(next(iter(summary["few labels"].values())))
        lines = [
            "| accuracy with so many labels a class | " + " | ".join(counts) + " |",
            "|---" * (len(counts) + 1) + "|",
        ]
        for name, by_count in summary["few labels"].items():
            lines.append(f"| {name} | " + " | ".join(written(by_count[count]) for count in counts) + " |")
        parts.append("\n".join(lines))
    if summary["robustness"]:
        for kind in next(iter(summary["robustness"].values())):
            rows = {name: by_kind[kind] for name, by_kind in summary["robustness"].items()}
            parts.append(table(f"recall@1, {kind}", rows))
    return "\n\n".join(parts)


def written(figure):
    """A cell: a mean and its half-width, a share and its interval, a number, or nothing."""
    if figure is None:
        return ""
    if isinstance(figure, int):
        return f"{figure}"
    if len(figure) == 3:
        share, low, high = figure
        return f"{share:.0%} ({low:.0%} to {high:.0%})"
    mean, half_width = figure
    return f"{mean:.3f}" + (f" ± {half_width:.3f}" if np.isfinite(half_width) else "")


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
    recipe_bars({name: figures["mAP"] for name, figures in summary["recipes"].items()}, folder / "retrieval.png")
    if summary["few labels"]:
        few_labels_curve(
            {
                name: {count: {"accuracy": figure[0]} for count, figure in by_count.items()}
                for name, by_count in summary["few labels"].items()
            },
            folder / "few_labels.png",
        )
    if summary["robustness"]:
        robustness_curves(summary["robustness"], folder / "robustness.png")
