"""Is what a library finds alike? Retrieval figures of a labelled library, through its index.

Axes: S sounds, W windows, D embedding dimensions.
"""

import numpy as np


def search_quality(library, *, effort=None, n_windows=1000, ks=(1, 5, 10)):
    """Every labelled sound asks for others of its label, as `SoundLibrary.search` would find them.

    A query is the mean of a sound's windows. Sounds are ranked by the best of their windows among the ``n_windows``
    nearest; a sound with none of these is not found. The query itself is left out.

    Arguments
    ---------
    library : SoundLibrary
    effort : float in (0, 1], optional
        As in `RandomProjectionIndex.query`; 1 is exact search.
    n_windows : int
    ks : tuple of int
        Ranks at which precision is taken.

    Returns
    -------
    dict
        ``mAP`` and ``P@k``, all in [0, 1], and ``queries``, their number.

    Raises
    ------
    ValueError
        If no sound has another of its label.
    """
    state = library._state
    rows = np.flatnonzero(state.readable)
    names = state.sounds["label"].take(rows).to_pylist()
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names)) if name is not None}
    labels = np.full(len(state.known), -1)
    labels[rows] = [numbers.get(name, -1) for name in names]
    sizes = np.bincount(labels[labels >= 0], minlength=len(numbers))
    asking = [row for row in rows.tolist() if labels[row] >= 0 and sizes[labels[row]] > 1]
    if not asking:
        raise ValueError("No sound of the library has another of its label: retrieval can't be measured.")
    average, at_k = [], {k: [] for k in ks}
    for row in asking:
        vectors = state.vectors_of(state.windows_of(np.array([row])))
        _, windows = state.nearest(vectors.mean(0), n_windows, effort)
        found = state.rows_of(windows)
        found = found[np.sort(np.unique(found, return_index=True)[1])]  # sounds, by their best window
        right = labels[found[state.known[found] & (found != row)]] == labels[row]
        hits = np.cumsum(right)
        average.append((hits / np.arange(1, len(hits) + 1) * right).sum() / (sizes[labels[row]] - 1))
        for k in ks:
            at_k[k].append(right[:k].sum() / k)
    result = {"mAP": float(np.mean(average))} | {f"P@{k}": float(np.mean(values)) for k, values in at_k.items()}
    return result | {"queries": len(asking)}
