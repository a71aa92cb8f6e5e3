"""Shallow classifiers on frozen embeddings (Jansen et al. 2017, sections 4.3 and 4.4)."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from cochlea_sb.data.corpus import few_of_each
from cochlea_sb.errors import MissingExtra, NothingToMeasure

Array: TypeAlias = npt.NDArray[np.float32]
Vectors: TypeAlias = torch.Tensor | Array


def classify(
    train: Vectors,
    train_labels: Sequence[str],
    test: Vectors,
    test_labels: Sequence[str],
    *,
    hidden_size: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Train a shallow classifier on the embeddings ``train`` and measure it on the embeddings ``test``.

    Arguments
    ---------
    train, test : torch.Tensor or np.ndarray [sounds, dimensions], unit norm
    train_labels, test_labels : list of str
    hidden_size : int, optional
        Number of units of the one hidden layer. Without this argument, the classifier is a logistic regression.
    seed : int
        Seed for the initial weights of the hidden layer.

    Returns
    -------
    dict
        ``accuracy`` and ``mAP``, in [0, 1]. For the mAP, the test sounds are ranked for each class by the score of the
        class; the average precision of these rankings is averaged over the classes.

    Raises
    ------
    NothingToMeasure
        If the training sounds have fewer than two classes, or no class in common with the test sounds.
    MissingExtra
        If scikit-learn is not installed.
    """
    x, x_test = prepared(train, train_labels, test, test_labels)
    return fit_and_measure(x, train_labels, x_test, test_labels, hidden_size, seed)


def prepared(
    train: Vectors, train_labels: Sequence[str], test: Vectors, test_labels: Sequence[str]
) -> tuple[Array, Array]:
    """Embeddings of training and test sounds as classifiers want them; raises what `classify` raises for its labels."""
    common = set(train_labels) & set(test_labels)
    if len(set(train_labels)) < 2 or not common:
        raise NothingToMeasure(
            f"The training sounds have {len(set(train_labels))} labels, and the test sounds have {len(common)} of "
            "these: expected at least two labels, and at least one of them among the test sounds."
        )
    # The regulariser expects values of about 1, but the values of a unit vector are about 1 / sqrt(dimensions).
    x, x_test = (np.asarray(vectors, dtype=np.float32) * vectors.shape[1] ** 0.5 for vectors in (train, test))
    return in_the_span(x, x_test)


def in_the_span(x: Array, x_test: Array) -> tuple[Array, Array]:
    """Coordinates of ``x`` and ``x_test`` [sounds, dimensions] in the span of ``x``, if it has fewer dimensions.

    Fewer dimensions make the fit faster. A linear classifier loses nothing in the span of the training sounds.
    """
    if x.shape[1] <= len(x):
        return x, x_test
    with one_thread():
        axes = np.linalg.svd(x, full_matrices=False)[2].T
        return x @ axes, x_test @ axes


def one_thread() -> AbstractContextManager[Any]:
    """A block in one thread: several slow such small matrix products down. Raises `MissingExtra` like `classify`."""
    try:
        import sklearn  # noqa: F401
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtra("Classification", "scikit-learn", "evaluate") from error
    limits: AbstractContextManager[Any] = threadpool_limits(1)
    return limits


def fit_and_measure(
    x: Array, train_labels: Sequence[str], x_test: Array, test_labels: Sequence[str], hidden_size: int | None, seed: int
) -> dict[str, float]:
    """The figures of `classify`, from `prepared` embeddings."""
    with one_thread(), warnings.catch_warnings():
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import average_precision_score
        from sklearn.neural_network import MLPClassifier

        if hidden_size is None:
            classifier = LogisticRegression(C=0.1, max_iter=300)
        else:
            classifier = MLPClassifier((hidden_size,), solver="lbfgs", alpha=1.0, max_iter=200, random_state=seed)
        # Two warnings are of no use here: a fit that stops at the last iteration is good enough, and training on one
        # sound of each class is intended.
        warnings.simplefilter("ignore")
        scores = classifier.fit(x, train_labels).predict_proba(x_test)
    truth = np.array(test_labels)[:, None] == classifier.classes_
    asked = truth.any(0)
    return {
        "accuracy": float((classifier.classes_[scores.argmax(1)] == test_labels).mean()),
        "mAP": float(average_precision_score(truth[:, asked], scores[:, asked], average="macro")),
    }


def classify_with_few(
    train: Vectors,
    train_labels: Sequence[str],
    test: Vectors,
    test_labels: Sequence[str],
    counts: Sequence[int] = (1, 2, 5, 10, 20),
    *,
    draws: int = 5,
    seed: int = 0,
) -> dict[int, dict[str, float]]:
    """The figures of `classify`, by count, for logistic regressions that train on ``count`` sounds of each class.

    The training sounds are drawn ``draws`` times at random, and the figures are averaged over the draws. The first draw
    takes the same sounds as ``train.py --labels_per_class``.
    """
    x, x_test = prepared(train, train_labels, test, test_labels)  # once: each draw then has far fewer dimensions
    figures = {}
    for count in counts:
        results = []
        for draw in range(draws):
            rows = few_of_each(train_labels, count, seed + draw)
            few_labels = [train_labels[row] for row in rows]
            few, few_test = in_the_span(x[rows], x_test)
            results.append(fit_and_measure(few, few_labels, few_test, test_labels, None, seed))
        figures[count] = {name: float(np.mean([result[name] for result in results])) for name in results[0]}
    return figures
