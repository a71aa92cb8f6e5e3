"""Pictures of training and evaluation. Without matplotlib, `MissingExtra` names the extra to install."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cochlea_sb.errors import MissingExtra
from cochlea_sb.files import whole_file


def new_figure(width: float = 7.0, height: float = 4.5, columns: int | None = None) -> tuple[Any, Any]:
    """A figure and its axes, or a list of ``columns`` axes side by side. Needs no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("A picture", "matplotlib", "plots") from error
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # or SpeechBrain's log.txt fills with its messages
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots() if columns is None else list(figure.subplots(1, columns, squeeze=False)[0])


@contextmanager
def pictures_where_possible() -> Iterator[None]:
    """Run the block; if matplotlib is missing, end it at its first picture with a warning that names the extra."""
    try:
        yield
    except MissingExtra as no_matplotlib:
        logging.getLogger(__name__).warning(str(no_matplotlib))


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a PNG, as a whole or not at all."""
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def loss_curve(history: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Loss and validation figures by epoch.

    Arguments
    ---------
    history : list of dict
        One for each epoch, with ``epoch``, ``train loss`` and any of ``valid loss``, ``recall@1``, ``mAP``,
        ``accuracy``.
    path : str or Path
        PNG to write.
    """
    figure, axes = new_figure()
    epochs = [row["epoch"] for row in history]
    right = axes.twinx()
    styles = {"train loss": ("C0", "-"), "valid loss": ("C0", "--"), "recall@1": ("C1", "-"), "mAP": ("C2", "-")}
    styles |= {"accuracy": ("C3", "-")}
    for name, (colour, dash) in styles.items():
        if any(name in row for row in history):
            values = [row.get(name, float("nan")) for row in history]
            (axes if "loss" in name else right).plot(epochs, values, dash, color=colour, marker=".", label=name)
    axes.set(xlabel="epoch", ylabel="loss", title="Training")
    axes.set_ylim(bottom=0)
    right.set(ylabel="recall@1, mAP, accuracy", ylim=(0, 1))
    handles = [line for side in (axes, right) for line in side.get_lines()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, path)


def embedding_map(embeddings: torch.Tensor, labels: Sequence[str | None] | None, path: str | Path) -> None:
    """Sounds on the plane of their first two principal components, coloured by label.

    Arguments
    ---------
    embeddings : torch.Tensor [sounds, D]
    labels : list of str or None, [sounds], or None
    path : str or Path
        PNG to write.
    """
    figure, axes = new_figure(8.5, 6.0)
    points = principal_plane(embeddings)
    names = sorted({label for label in labels or [] if label is not None})
    if not 2 <= len(names) <= 40:
        axes.scatter(*points.T, s=8, alpha=0.6)
    else:
        markers = "osD^"
        for number, name in enumerate(names):
            mine = points[[label == name for label in labels or ()]]
            axes.scatter(*mine.T, s=14, color=f"C{number % 10}", marker=markers[number // 10], label=name, alpha=0.8)
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
    axes.set(title="Embedding map (principal components)", xticks=[], yticks=[])
    save_figure(figure, path)


def principal_plane(embeddings: torch.Tensor) -> npt.NDArray[np.float32]:
    """Coordinates on the first two principal components, numpy [sounds, 2]."""
    centred = (embeddings - embeddings.mean(0)).float().cpu()
    with torch.random.fork_rng(devices=[]):  # quick: finds few of what may be thousands of components
        torch.manual_seed(0)
        left, sizes, _ = torch.svd_lowrank(centred, q=min(6, *centred.shape), niter=8)
    plane: npt.NDArray[np.float32] = (left * sizes)[:, :2].numpy()
    return plane


def few_labels_curve(figures: Mapping[str, Mapping[Any, Mapping[str, float]]], path: str | Path) -> None:
    """Accuracy against the number of labelled sounds of each class.

    Arguments
    ---------
    figures : dict
        ``accuracy`` by embedding and count, as in `cochlea_sb.evaluation.report.evaluate`.
    path : str or Path
        PNG to write.
    """
    figure, axes = new_figure()
    for name, by_count in figures.items():
        counts = [int(count) for count in by_count]
        axes.plot(counts, [values["accuracy"] for values in by_count.values()], marker=".", label=name)
    axes.set(xscale="log", xlabel="labelled sounds of each class", ylabel="accuracy", ylim=(0, 1))
    axes.set(title="Limited supervision", xticks=counts, xticklabels=counts)
    axes.minorticks_off()
    axes.legend(frameon=False)
    save_figure(figure, path)


def robustness_curves(figures: Mapping[str, Mapping[str, Mapping[Any, float]]], path: str | Path) -> None:
    """Recall@1 of the original against the strength of each deformation.

    Arguments
    ---------
    figures : dict
        Recall by embedding, deformation and strength. Deformations of one strength are not drawn.
    path : str or Path
        PNG to write.
    """
    kinds = [kind for kind, strengths in next(iter(figures.values())).items() if len(strengths) > 1]
    if not kinds:
        return
    figure, panels = new_figure(3.2 * len(kinds), 3.2, len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        for name, by_kind in figures.items():
            strengths = [float(strength) for strength in by_kind[kind]]
            axes.plot(strengths, list(by_kind[kind].values()), marker=".", label=name)
        axes.set(xlabel=kind, ylim=(0, 1.02))
    panels[0].set(ylabel="recall@1 of the original")
    panels[0].legend(frameon=False)
    save_figure(figure, path)


def recipe_bars(figures: Mapping[str, tuple[float, float | None]], path: str | Path) -> None:
    """Retrieval mAP by recipe, with intervals.

    Arguments
    ---------
    figures : dict
        Mean and half-width of its interval by recipe.
    path : str or Path
        PNG to write.
    """
    figure, axes = new_figure(7.0, 0.4 * len(figures) + 1.2)
    names = list(figures)[::-1]
    widths = [figures[name][1] or 0 for name in names]
    axes.barh(names, [figures[name][0] for name in names], xerr=widths, color="C0", alpha=0.8)
    axes.set(xlabel="query-by-example mAP (mean and 95 % interval)", xlim=(0, 1))
    save_figure(figure, path)


def reconstructions(
    written: torch.Tensor, frames: torch.Tensor, real: torch.Tensor, path: str | Path, count: int = 4
) -> None:
    """Windows, and below each its reconstruction by a decoder.

    Arguments
    ---------
    written, frames : torch.Tensor [n, T, M]
    real : torch.Tensor [n, T], bool
        False where the frame is padding, which stays white.
    path : str or Path
        PNG to write.
    count : int
        Number of windows to draw, from the first on.
    """
    count = min(count, len(frames))
    figure, axes = new_figure(3.2 * count, 5.0)
    axes.remove()
    grid = figure.subplots(2, count, sharex=True, sharey=True, squeeze=False)
    low, high = frames[:count].float().quantile(torch.tensor([0.01, 0.99], device=frames.device)).tolist()
    for line, values, name in zip(grid, (frames, written), ("original", "reconstruction"), strict=True):
        for axes, window, there in zip(line, values, real, strict=False):
            image = window.detach().float().masked_fill(~there[:, None], float("nan")).T.cpu()
            axes.imshow(image, origin="lower", aspect="auto", vmin=low, vmax=high)
        line[0].set(ylabel=f"{name}\nband")
    figure.supxlabel("frame")
    save_figure(figure, path)
