"""Pictures of training and evaluation, each written as a PNG to ``path``.

If matplotlib is missing, `new_figure` raises `MissingExtra`, which names the extra to install.
"""

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
    """A figure and its axes, or with ``columns`` a figure and a list of axes side by side. Needs no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("A picture", "matplotlib", "plots") from error
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # keeps its messages out of SpeechBrain's log.txt
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots() if columns is None else list(figure.subplots(1, columns, squeeze=False)[0])


@contextmanager
def pictures_where_possible() -> Iterator[None]:
    """Run the block. If matplotlib is missing, the block ends at its first picture with a warning, not an error."""
    try:
        yield
    except MissingExtra as no_matplotlib:
        logging.getLogger(__name__).warning(str(no_matplotlib))


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a PNG. If writing fails, no partial file is left."""
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def loss_curve(history: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draw the losses and the validation figures of each epoch.

    ``history`` has a dict for each epoch, with ``epoch``, ``train loss`` and any of ``valid loss``, ``recall@1``,
    ``mAP`` and ``accuracy``.
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
    """Draw embeddings [sounds, dimensions] on the plane of their first two principal components.

    The points are coloured by label if there are 2 to 40 different labels.
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
    """The coordinates [sounds, 2] of embeddings [sounds, dimensions] on their first two principal components."""
    centred = (embeddings - embeddings.mean(0)).float().cpu()
    with torch.random.fork_rng(devices=[]):  # computes 6 of thousands of components, which is fast
        torch.manual_seed(0)
        left, sizes, _ = torch.svd_lowrank(centred, q=min(6, *centred.shape), niter=8)
    plane: npt.NDArray[np.float32] = (left * sizes)[:, :2].numpy()
    return plane


def few_labels_curve(figures: Mapping[str, Mapping[Any, Mapping[str, float]]], path: str | Path) -> None:
    """Draw the accuracy of each embedding over the number of labelled sounds of each class.

    ``figures`` is the entry ``few labels`` of a report from `cochlea_sb.evaluation.report.evaluate`.
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
    """Draw recall@1 (by embedding, deformation and strength) over the strength, a panel for each deformation.

    Deformations that were measured at a single strength are not drawn.
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
    """Draw the retrieval mAP of each recipe: the mean, and the half-width of its 95 % interval if there is one."""
    figure, axes = new_figure(7.0, 0.4 * len(figures) + 1.2)
    names = list(figures)[::-1]
    widths = [figures[name][1] or 0 for name in names]
    axes.barh(names, [figures[name][0] for name in names], xerr=widths, color="C0", alpha=0.8)
    axes.set(xlabel="query-by-example mAP (mean and 95 % interval)", xlim=(0, 1))
    save_figure(figure, path)


def reconstructions(
    written: torch.Tensor, frames: torch.Tensor, real: torch.Tensor, path: str | Path, count: int = 4
) -> None:
    """Draw the first ``count`` windows of ``frames``, and below each window the decoder's reconstruction, ``written``.

    ``frames`` and ``written`` have the shape [windows, frames, mel bands]. ``real`` [windows, frames] is False for the
    frames that are padding; they stay white.
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
