"""What shallow classifiers make of frozen embeddings (Jansen et al. 2017, sections 4.3 and 4.4).

Axes: N sounds, D embedding dimensions.
"""

import warnings

import numpy as np

from cochlea_sb.data.corpus import few_of_each
from cochlea_sb.errors import MissingExtra, NothingToMeasure


def classify(train, train_labels, test, test_labels, *, hidden_size=None, seed=0):
    """Train a shallow classifier on some embeddings, measure it on others.

    Arguments
    ---------
    train, test : torch.Tensor or np.ndarray [sounds, D], unit norm
    train_labels, test_labels : list of str
    hidden_size : int, optional
        Units of one hidden layer; by default there is none (logistic regression).
    seed : int
        Of the hidden layer.

    Returns
    -------
    dict
        ``accuracy``, and ``mAP``: the mean over the classes of the average precision with which the test sounds,
        ranked by a class's score, are those of the class. Both in [0, 1].

    Raises
    ------
    UserError
        If scikit-learn is missing, or there is only one class to train on, or none of them to test.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import average_precision_score
        from sklearn.neural_network import MLPClassifier
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtra("Classification", "scikit-learn", "evaluate") from error
    if len(set(train_labels)) < 2 or not set(train_labels) & set(test_labels):
        raise NothingToMeasure(
            f"The sounds to train on have {len(set(train_labels))} labels, of which the sounds to test have "
            f"{len(set(train_labels) & set(test_labels))}: expected at least two, and one in common."
        )
    # Unit vectors as they are would be tiny numbers to a regulariser made for numbers of about 1.
    train, test = (np.asarray(vectors, dtype=np.float32) * vectors.shape[1] ** 0.5 for vectors in (train, test))
    if train.shape[1] > len(train):  # rotated into the span of the training sounds: the same to a linear classifier
        with threadpool_limits(1):
            axes = np.linalg.svd(train, full_matrices=False)[2].T
            train, test = train @ axes, test @ axes
    if hidden_size is None:
        classifier = LogisticRegression(C=0.1, max_iter=300)
    else:
        classifier = MLPClassifier((hidden_size,), solver="lbfgs", alpha=1.0, max_iter=200, random_state=seed)
    # Products this small are slower by several threads. What is warned of: after so many iterations a fit is good
    # enough, and one sound of each class is what was asked for.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = classifier.fit(train, train_labels).predict_proba(test)
    truth = np.array(test_labels)[:, None] == classifier.classes_
    asked = truth.any(0)
    return {
        "accuracy": float((classifier.classes_[scores.argmax(1)] == test_labels).mean()),
        "mAP": float(average_precision_score(truth[:, asked], scores[:, asked], average="macro")),
    }


def classify_with_few(train, train_labels, test, test_labels, counts=(1, 2, 5, 10, 20), *, draws=5, seed=0):
    """Logistic regression from a few labelled sounds of each class.

    Arguments
    ---------
    As in `classify`, and:
    counts : tuple of int
        Labelled sounds of each class.
    draws : int
        Random choices of them to average over. The first is that of ``train.py --labels_per_class``.

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
