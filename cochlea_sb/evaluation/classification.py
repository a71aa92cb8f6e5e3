"""Shallow classifiers on frozen embeddings (Jansen et al. 2017, sections 4.3 and 4.4).

Axes: N sounds, D embedding dimensions.
"""

import warnings
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from cochlea_sb.data.corpus import few_of_each
from cochlea_sb.errors import MissingExtra, NothingToMeasure

Vectors: TypeAlias = torch.Tensor | npt.NDArray[np.float32]


def classify(
    train: Vectors,
    train_labels: Sequence[str],
    test: Vectors,
    test_labels: Sequence[str],
    *,
    hidden_size: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Train a shallow classifier on some embeddings and measure it on others.

    Arguments
    ---------
    train, test : torch.Tensor or np.ndarray [sounds, D], unit norm
    train_labels, test_labels : list of str
    hidden_size : int, optional
        Units of one hidden layer. Without it, the classifier is a logistic regression.
    seed : int
        Seed of the hidden layer.

    Returns
    -------
    dict
        ``accuracy`` and ``mAP``, in [0, 1]. For the mAP, each class ranks the test sounds by its score; the average
        precision is then averaged over the classes.

    Raises
    ------
    NothingToMeasure
        If the training sounds have fewer than two classes, or share none with the test sounds.
    MissingExtra
        If scikit-learn is not installed.
    """
    common = set(train_labels) & set(test_labels)
    if len(set(train_labels)) < 2 or not common:
        raise NothingToMeasure(
            f"The sounds to train on have {len(set(train_labels))} labels, and {len(common)} of these are among the "
            "sounds to test: expected at least two labels, one of them in common."
        )
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import average_precision_score
        from sklearn.neural_network import MLPClassifier
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtra("Classification", "scikit-learn", "evaluate") from error
    # The regulariser expects numbers of about 1. Those of a unit vector are smaller.
    x, x_test = (np.asarray(vectors, dtype=np.float32) * vectors.shape[1] ** 0.5 for vectors in (train, test))
    if x.shape[1] > len(x):  # a linear classifier gives the same in the span of the training sounds, and is quicker
        with threadpool_limits(1):
            axes = np.linalg.svd(x, full_matrices=False)[2].T
            x, x_test = x @ axes, x_test @ axes
    if hidden_size is None:
        classifier = LogisticRegression(C=0.1, max_iter=300)
    else:
        classifier = MLPClassifier((hidden_size,), solver="lbfgs", alpha=1.0, max_iter=200, random_state=seed)
    # Several threads slow such small products down. Two warnings say nothing here: a fit that stops at its last
    # iteration is good enough, and one sound of each class is intended.
    with threadpool_limits(1), warnings.catch_warnings():
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
    """Logistic regression from a few labelled sounds of each class.

    Arguments
    ---------
    train, train_labels, test, test_labels :
        As in `classify`.
    counts : tuple of int
        Numbers of labelled sounds of each class.
    draws : int
        Number of random choices of these sounds. The figures are averaged over them. The first choice is that of
        ``train.py --labels_per_class``.

    Returns
    -------
    dict of dict
        Figures of `classify` by count.
    """
    figures = {}
    for count in counts:
        results = []
        for draw in range(draws):
            rows = few_of_each(train_labels, count, seed + draw)
            few_labels = [train_labels[row] for row in rows]
            results.append(classify(train[rows], few_labels, test, test_labels))
        figures[count] = {name: float(np.mean([result[name] for result in results])) for name in results[0]}
    return figures
