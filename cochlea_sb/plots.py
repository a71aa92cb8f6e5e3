"""Pictures of a training run. Matplotlib is optional: without it, `ValueError` names the extra."""

import os

import torch


def new_figure(width=7.0, height=4.5):
    """A figure and its axes, drawn without a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("Pictures need matplotlib: pip install 'cochlea_sb[plots]'.") from error
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def save_figure(figure, path):
    """Write a PNG, whole or not at all."""
    partial = f"{path}.partial"
    figure.savefig(partial, format="png", dpi=120)
    os.replace(partial, path)


def loss_curve(history, path):
    """Loss and validation figures by epoch.

    Arguments
    ---------
    history : list of dict
        One for each epoch: ``epoch``, ``train loss``, and any of ``valid loss``, ``recall@1``, ``mAP``.
    path : str or Path
        PNG to write.
    """
    figure, axes = new_figure()
    epochs = [row["epoch"] for row in history]
    right = axes.twinx()
    styles = {"train loss": ("C0", "-"), "valid loss": ("C0", "--"), "recall@1": ("C1", "-"), "mAP": ("C2", "-")}
    for name, (colour, dash) in styles.items():
        if any(name in row for row in history):
            values = [row.get(name, float("nan")) for row in history]
            (axes if "loss" in name else right).plot(epochs, values, dash, color=colour, marker=".", label=name)
    axes.set(xlabel="epoch", ylabel="loss", title="Training")
    axes.set_ylim(bottom=0)
    right.set(ylabel="recall@1, mAP", ylim=(0, 1))
    handles = [line for side in (axes, right) for line in side.get_lines()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, path)


def embedding_map(embeddings, labels, path):
    """Sounds on the plane of their two principal components, coloured by label where there is one.

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
            mine = points[[label == name for label in labels]]
            axes.scatter(*mine.T, s=14, color=f"C{number % 10}", marker=markers[number // 10], label=name, alpha=0.8)
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
    axes.set(title="Embedding map (principal components)", xticks=[], yticks=[])
    save_figure(figure, path)


def principal_plane(embeddings):
    """Coordinates on the first two principal components, numpy [sounds, 2]."""
    centred = (embeddings - embeddings.mean(0)).float().cpu()
    _, axes = torch.linalg.eigh(centred.T @ centred)  # ascending eigenvalues
    return (centred @ axes[:, -2:].flip(1)).numpy()
