"""Compiled functions that encode, write, find and delete the vectors of an index.

The docstring of `search_kernels` defines the codes. No function here calls a function of another file, because numba
would not compile it again when the other file changes.

Axes: N vectors, n some of them, S slots, C cells, D dimensions, R rotated dimensions, W = R / 64 words.
"""

import numpy as np

from .compiled import compiled
from .search_kernels import FAST, SMALLEST


@compiled(fastmath=FAST)
def sum_rows(vectors, labels, sums, counts):
    """Add the rows of each label to sums [C, D] and their number to counts [C]; rows with a label < 0 are skipped."""
    for i in range(vectors.shape[0]):
        label = labels[i]
        if label >= 0:
            counts[label] += 1
            for j in range(vectors.shape[1]):
                sums[label, j] += vectors[i, j]


@compiled(fastmath=FAST)
def encode(rotated, centres, labels, codes, scales, centre_dots):
    """Encode residuals ``r = P (x - c)`` of vectors by two bits for each coordinate; returns ``|r|^2``, [n].

    Takes rotated vectors [n, R], rotated centres [C, R] and labels [n]. Writes codes [n, 2 W] (first W words of high
    bits, then W words of low bits), scales [n] = ``|r|^2 / <r, y>`` with levels ``y``, and centre_dots [n] = ``<r, P
    c>``.
    """
    squared = np.empty(rotated.shape[0], np.float32)
    residual = np.empty(rotated.shape[1], np.float32)
    n_words = codes.shape[1] // 2
    for i in range(rotated.shape[0]):
        centre = centres[labels[i]]
        squares, centre_dot, product = np.float32(0), np.float32(0), np.float32(0)
        for j in range(rotated.shape[1]):
            x = rotated[i, j] - centre[j]
            residual[j] = x
            squares += x * x
            centre_dot += x * centre[j]
        root_mean_square = np.sqrt(squares / rotated.shape[1])
        for w in range(n_words):
            highs, lows = np.uint64(0), np.uint64(0)
            for j in range(64):
                x = residual[64 * w + j]
                large = abs(x) > root_mean_square
                product += 3 * abs(x) if large else abs(x)
                highs |= np.uint64(x > 0) << np.uint64(j)
                lows |= np.uint64((x > 0) == large) << np.uint64(j)
            codes[i, w], codes[i, n_words + w] = highs, lows
        scales[i] = max(squares / product if product > 0 else np.float32(0), SMALLEST)
        centre_dots[i] = centre_dot
        squared[i] = squares
    return squared


@compiled()
def write_codes(rows, slots, labels, starts, capacities, codes):
    """Copy code words [n, 2 W] to the codes of a pool, in the order that `search_kernels.estimate` defines."""
    for i in range(slots.shape[0]):
        cell = labels[i]
        for w in range(rows.shape[1]):
            codes[rows.shape[1] * starts[cell] + w * capacities[cell] + slots[i] - starts[cell]] = rows[i, w]


@compiled()
def read_codes(codes, slots, labels, starts, capacities, rows):
    """The inverse of `write_codes`."""
    for i in range(slots.shape[0]):
        cell = labels[i]
        for w in range(rows.shape[1]):
            rows[i, w] = codes[rows.shape[1] * starts[cell] + w * capacities[cell] + slots[i] - starts[cell]]


@compiled()
def find(wanted, ids, starts, counts, slots):
    """Write the slots of wanted ids, which must ascend; returns the number of ids that were found."""
    n = 0
    if wanted.shape[0] == 0:
        return n
    low, span = wanted[0], wanted[-1] - wanted[0] + 1
    dense = 0 < span <= 2 * ids.shape[0]  # then a table is faster than a binary search; a sum of huge ids can wrap
    table = np.zeros(span if dense else 0, np.bool_)
    if dense:
        for i in range(wanted.shape[0]):
            table[wanted[i] - low] = True
    for cell in range(starts.shape[0]):
        for slot in range(starts[cell], starts[cell] + counts[cell]):
            if low <= ids[slot] <= wanted[-1]:
                present = table[ids[slot] - low] if dense else wanted[np.searchsorted(wanted, ids[slot])] == ids[slot]
                if present and n < slots.shape[0]:
                    slots[n] = slot
                    n += 1
    return n


@compiled()
def delete(slots, labels, vectors, ids, codes, scales, centre_dots, starts, counts, capacities):
    """Delete the vectors in slots [n] of the cells ``labels`` [n], and move the last vector of the cell into each gap.

    Slots must descend, so that no vector that is still to be deleted moves.
    """
    n_words = codes.shape[0] // max(1, ids.shape[0])
    for i in range(slots.shape[0]):
        slot, cell = slots[i], labels[i]
        counts[cell] -= 1
        last = starts[cell] + counts[cell]
        vectors[slot], ids[slot] = vectors[last], ids[last]
        scales[slot], centre_dots[slot] = scales[last], centre_dots[last]
        for w in range(n_words):
            word = n_words * starts[cell] + w * capacities[cell] - starts[cell]
            codes[word + slot] = codes[word + last]
