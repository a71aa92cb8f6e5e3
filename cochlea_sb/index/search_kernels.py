"""Compiled functions that search a `RandomProjectionIndex`: estimate cosines from codes, and compare the best exactly.

Codes (RaBitQ: Gao & Long, SIGMOD 2024, section 3; with several bits: Gao et al., SIGMOD 2025). A vector ``x`` in a cell
with the centre ``c`` has the rotated residual ``r = P (x - c)``, where ``P`` is a random rotation. The code of ``x``
has two bits for each coordinate of ``r``. They stand for a level ``y`` of -3, -1, 1 or 3: the sign of the coordinate,
and 3 if its absolute value exceeds the root mean square of all coordinates. A float is stored, too: ``scale = |r|^2 /
<r, y>``.

Estimate. The cosine with a unit query ``q`` is

    <q, x> = <q, c> + <P q, r>  ~  <q, c> + scale * <P q, y>.

The estimate is unbiased over random rotations. Its error is close to normal, with a standard deviation proportional to
``scale * |q|``. If ``q`` is near the centre, ``q - c`` is much shorter than ``q``. In this case ``<P (q - c), r>`` is
estimated instead, with a smaller error, and ``<c, x - c>``, which is stored as ``centre_dot``, is added.

Speed. The rotated query is rounded to seven levels, ``P q ~ step * v`` with integers ``v`` from -3 to 3. In two's
complement, ``v`` has three bits with the weights 1, 2 and -4. Each bit of all coordinates forms a bit-plane, so
``<v, y>`` is computed by ANDs and popcounts of 64-bit words.

All functions that search are in this file, because numba does not compile a cached function again when the file of a
function that it calls changes.

Axes: Q queries, S slots for vectors, C cells, D dimensions, R rotated dimensions (D rounded up to W words of 64 bits).
"""

import numpy as np
from numba.extending import intrinsic

from .compiled import compiled

LEVELS = np.float32(3)  # a rotated coordinate is rounded to -3 .. 3 steps
STEP = 0.65  # standard deviations of the coordinates; near the optimum for seven levels of a normal distribution
RECENTRE_WITHIN = 0.5  # squared distance of query and centre below which the query's residual is rounded
NEAREST = 1 / 8, 64, 128  # share, least and most of the centres that are compared exactly in the first round
TOGETHER = 32  # vectors that are compared exactly before the worst match so far is looked up again
PATIENCE = 8  # number of skipped near cells in a row after which the search ends
TAKEN = np.int64(np.iinfo(np.int64).max)
NONE, NO_BITS = np.float32(0), np.uint64(0)
ALL = np.float32(1e30)  # a reach or margin that leaves nothing out
LOWEST = np.float32(-1e35)  # below every estimate, and above those of vectors that are not allowed
CERTAIN = np.float32(1 - 1e-6)  # a score that no other vector exceeds
SMALLEST = np.float32(1e-6)  # lower bound of scales and spreads, larger than rounding errors of float32

# The compiler may reorder sums, which lets it vectorise them. It may assume that there is no NaN; infinities may occur.
FAST = {"reassoc", "contract", "nsz", "arcp", "nnan"}


@intrinsic
def popcount(typing_context, word):
    """Number of one bits in an unsigned integer."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return word(word), generate


@compiled(fastmath={"reassoc", "contract"})
def normalise(row, unit):
    """Write a row [D], scaled to norm 1, to ``unit``; zeros stay zeros. Returns False if the row is not finite."""
    scale, squares = np.float64(1), np.float64(0)
    for j in range(row.shape[0]):
        squares += np.float64(row[j]) * np.float64(row[j])
    if not 1e-100 < squares < 1e100:  # zeros, squares that over- or underflow, and values that are not finite
        largest = np.float64(0)
        for j in range(row.shape[0]):
            if not abs(row[j]) < np.inf:
                return False
            largest = max(largest, abs(np.float64(row[j])))
        scale, squares = (largest if largest > 0 else 1.0), 0.0
        for j in range(row.shape[0]):
            squares += (row[j] / scale) ** 2
    inverse = 1 / np.sqrt(squares) if squares > 0 else 0.0
    for j in range(row.shape[0]):
        unit[j] = row[j] / scale * inverse
    return True


@compiled(fastmath=FAST)
def dot(x, y):
    """``<x, y>``."""
    total = np.float32(0)
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total


@compiled(fastmath=FAST)
def rotate(query, rotation, rotated):
    """Write ``rotation @ query``, [R]."""
    for j in range(rotation.shape[0]):
        rotated[j] = dot(rotation[j], query)


@compiled(fastmath=FAST)
def round_to_planes(rotated, planes):
    """Write the bit-planes [W, 3] of ``v`` for a rotated query [R] ~ step * v; returns ``step`` and ``sum_j v_j``."""
    squares = dot(rotated, rotated)
    step = np.float32(STEP) * np.sqrt(squares / np.float32(rotated.shape[0]))
    per_step = 1 / step if step > 0 else np.float32(0)
    total, bit = np.int32(0), np.uint64(1)
    for w in range(planes.shape[0]):
        one, two, four = np.uint64(0), np.uint64(0), np.uint64(0)
        for j in range(64):
            level = np.int32(min(max(np.rint(rotated[64 * w + j] * per_step), -LEVELS), LEVELS))
            total += level
            bits = np.uint64(np.uint32(level))  # two's complement
            one |= (bits & bit) << np.uint64(j)
            two |= (bits >> np.uint64(1) & bit) << np.uint64(j)
            four |= (bits >> np.uint64(2) & bit) << np.uint64(j)
        planes[w, 0], planes[w, 1], planes[w, 2] = one, two, four
    return step, np.float32(total)


@compiled(inline="always")
def weigh(word, one, two, four):
    """``sum_j word_j v_j`` over 64 coordinates, from the bits of ``word`` and the three bit-planes of ``v``."""
    ones, twos, fours = popcount(word & one), popcount(word & two), popcount(word & four)
    return np.int64(ones + (twos << np.uint64(1))) - np.int64(fours << np.uint64(2))


@compiled(inline="always")
def plane_of(planes, w):
    """The three bit-planes of word w; zeros beyond the last word."""
    return (planes[w, 0], planes[w, 1], planes[w, 2]) if w < planes.shape[0] else (NO_BITS, NO_BITS, NO_BITS)


@compiled(fastmath=FAST)
def estimate(codes, scales, centre_dots, share, start, n, capacity, planes, step, total, offset, margin, out):
    """Write upper bounds of the cosines of a query with the n vectors of a cell: estimates plus ``margin * scale``.

    The bits ``high`` and ``low`` of a code stand for the level ``y = 4 high + 2 low - 3``. So the bound is
    ``offset + share * centre_dot + scale * (step * (4 <high, v> + 2 <low, v> - 3 sum(v)) + margin)``, where ``offset``
    is the inner product of query and centre. ``share`` is 1 if ``v`` stands for the query's residual, and 0 if ``v``
    stands for the query. Word w of the i-th vector of a cell is ``codes[2 W start + w capacity + i]``; the first W
    words hold the high bits.
    """
    n_words, constant, twice = planes.shape[0], margin - np.float32(3) * step * total, np.float32(2) * step
    first = 2 * n_words * start
    scales, centre_dots = scales[start : start + n], centre_dots[start : start + n]
    for w in range(0, n_words, 2):  # two words at a time, so that fewer sums are written
        other = min(w + 1, n_words - 1)
        (a1, a2, a4), (b1, b2, b4) = plane_of(planes, w), plane_of(planes, w + 1)
        # Slices, because numba would check whether an index that is a sum is negative, which is three times slower.
        high_a, high_b = codes[first + w * capacity :][:n], codes[first + other * capacity :][:n]
        low_a, low_b = codes[first + (n_words + w) * capacity :][:n], codes[first + (n_words + other) * capacity :][:n]
        if w == 0:
            for i in range(n):
                out[i] = offset + share * centre_dots[i] + scales[i] * constant
        for i in range(n):
            high = weigh(high_a[i], a1, a2, a4) + weigh(high_b[i], b1, b2, b4)
            product = 2 * high + weigh(low_a[i], a1, a2, a4) + weigh(low_b[i], b1, b2, b4)
            out[i] += scales[i] * twice * np.float32(np.int32(product))


@compiled(fastmath=FAST)
def estimate_in_cell(
    rotated, planes, step, total, offset, squared, centre, codes, scales, centre_dots, start, n, capacity,
    margin, residual, residual_planes, out,
):  # fmt: skip
    """`estimate` for a cell, from the query's residual if it is much shorter than the query.

    The error of an estimate is proportional to the length of the vector that was rounded: 1 for the query, or the
    length of the residual. The margin is multiplied by this length, which is returned. ``squared`` is the squared
    distance of query and centre.
    """
    if squared > RECENTRE_WITHIN:
        estimate(
            codes, scales, centre_dots, np.float32(0), start, n, capacity,
            planes, step, total, offset, margin, out,
        )  # fmt: skip
        return np.float32(1)
    for j in range(rotated.shape[0]):
        residual[j] = rotated[j] - centre[j]
    length = max(np.sqrt(dot(residual, residual)), SMALLEST)
    step, total = round_to_planes(residual, residual_planes)
    margin *= length
    estimate(
        codes, scales, centre_dots, np.float32(1), start, n, capacity,
        residual_planes, step, total, offset, margin, out,
    )  # fmt: skip
    return length


@compiled(inline="always")
def worse(score, slot, other_score, other_slot, ids):
    """Whether a match ranks below another: its score is lower, or the scores are equal and its id is larger."""
    return score < other_score or (score == other_score and ids[slot] > ids[other_slot])


@compiled()
def offer(score, slot, scores, slots, n_found, ids):
    """Put a match into a heap of the best k, whose root is the worst; returns the number of matches in the heap."""
    k = scores.shape[0]
    if n_found < k:
        i = n_found
        n_found += 1
        while i > 0:
            parent = (i - 1) // 2
            if not worse(score, slot, scores[parent], slots[parent], ids):
                break
            scores[i], slots[i] = scores[parent], slots[parent]
            i = parent
    else:
        if not worse(scores[0], slots[0], score, slot, ids):
            return n_found
        i = sink(score, slot, scores, slots, k, ids)
    scores[i], slots[i] = score, slot
    return n_found


@compiled()
def sink(score, slot, scores, slots, size, ids):
    """Move worse matches up from the root of a heap of ``size`` matches; returns the position for the given match."""
    i = 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and worse(scores[child + 1], slots[child + 1], scores[child], slots[child], ids):
            child += 1
        if not worse(scores[child], slots[child], score, slot, ids):
            break
        scores[i], slots[i] = scores[child], slots[child]
        i = child
    return i


@compiled()
def sort_heap(scores, slots, n_found, ids):
    """Sort a heap in place, best match first."""
    for size in range(n_found - 1, 0, -1):
        score, slot = scores[size], slots[size]
        scores[size], slots[size] = scores[0], slots[0]
        i = sink(score, slot, scores, slots, size, ids)
        scores[i], slots[i] = score, slot


@compiled(fastmath=FAST)
def select(values, n, floor, ceiling, chosen, maxima):
    """Write the positions of the first n values that lie in [floor, ceiling); returns how many there are.

    Most values lie below the floor. So the largest of each eight values is found first, in loops without branches.
    ``chosen`` has room for n + 1 positions, and ``maxima`` for n / 8 values.
    """
    n_groups, n_chosen = n // 8, 0
    a, b, c, d = values[:n_groups], values[n_groups:], values[2 * n_groups :], values[3 * n_groups :]
    e, f, g, h = values[4 * n_groups :], values[5 * n_groups :], values[6 * n_groups :], values[7 * n_groups :]
    for i in range(n_groups):
        maxima[i] = max(max(max(a[i], b[i]), max(c[i], d[i])), max(max(e[i], f[i]), max(g[i], h[i])))
    for i in range(n_groups):
        if maxima[i] >= floor:
            for position in range(i, 8 * n_groups, n_groups):
                chosen[n_chosen] = position
                n_chosen += np.int64((values[position] >= floor) & (values[position] < ceiling))
    for position in range(8 * n_groups, n):
        chosen[n_chosen] = position
        n_chosen += np.int64((values[position] >= floor) & (values[position] < ceiling))
    return n_chosen


@compiled(inline="always")
def sortable(bits):
    """Bits of a float32, as an int32, mapped to an int32 in the same order; the inverse is the same."""
    return np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))


@compiled()
def extremes(values, n):
    """Minimum and maximum of the first n values, compared as integers, because such a loop vectorises."""
    bits, ends = values.view(np.int32)[:n], np.array([2**31 - 1, -(2**31)], np.int32)
    for i in range(n):
        ends[0] = min(ends[0], sortable(bits[i]))
        ends[1] = max(ends[1], sortable(bits[i]))
    ends[0], ends[1] = sortable(ends[0]), sortable(ends[1])
    floats = ends.view(np.float32)
    return floats[0], floats[1]


@compiled(fastmath=FAST)
def value_that_k_reach(values, n, k):
    """A value that at least k, and few more, of the first n values reach, by bisection; `LOWEST` if n < k."""
    if n < k:
        return LOWEST
    low, high = extremes(values, n)
    low = max(low, LOWEST)
    for _ in range(8):
        middle = (low + high) / 2
        n_reach = 0
        for i in range(n):
            n_reach += values[i] >= middle
        low, high = (middle, high) if n_reach >= k else (low, middle)
    return low


@compiled(fastmath=FAST)
def search(
    queries, rotation, mean_centre, centres, centre_codes, cell_floats, vectors, ids, codes, scales, centre_dots,
    layout, largest, allowed, reach, margin, scores, slots,
):  # fmt: skip
    """Find the best vectors for each query, best first.

    For each query, the cosines of all centres are estimated, and the nearest centres are compared exactly. Their cells
    are visited in the order of distance, as far as ``reach`` allows. The next nearest centres follow, unless `PATIENCE`
    cells in a row are skipped. In a cell, a vector is compared exactly if its estimate plus the margin reaches the
    score of the worst match so far.

    Arguments
    ---------
    queries : [Q, D] float32, of any norm
    rotation ... centre_codes : the first fields of `pool.Cells`
    cell_floats : [4, C] float32, its other fields: scales, squared_norms, spreads, rank_weights
    vectors ... centre_dots : the fields of `pool.Pool`
    layout : [4, C] int64, the fields of `pool.Layout`, and the number of allowed vectors
    largest : int, at least the number of vectors in the largest cell
    allowed : [S] bool, slots that may be found; or [0] for all
    reach : float32
        A cell is visited if ``gap / deviation * log2(rank + 2) <= reach``. The gap is the score of the worst match so
        far minus the cosine of the centre. The deviation is the distance of the centre times the spread of the cell.
        The rank is the number of nearer cells that hold allowed vectors.
    margin : float32, in units of the scale of a vector; `ALL` if the result must be exact
    scores, slots : [Q, k] float32, int64, written; at least k vectors must be allowed

    Returns
    -------
    int : -1; or the row of the first query that is not finite; or -2 if numbers of the index are not finite
    """
    centre_scales, squared_norms, spreads, rank_weights = cell_floats[0], cell_floats[1], cell_floats[2], cell_floats[3]
    starts, counts, capacities, n_allowed = layout[0], layout[1], layout[2], layout[3]
    n_cells, n_words, k = starts.shape[0], rotation.shape[0] // 64, scores.shape[1]
    # Few arrays that hold several others, because an allocation takes about as long as a hundred multiplications.
    both_planes = np.empty((2, n_words, 3), np.uint64)
    planes, residual_planes = both_planes[0], both_planes[1]
    rows_of_floats = np.empty((4, 64 * n_words), np.float32)
    rotated, residual, query = rows_of_floats[0], rows_of_floats[1], rows_of_floats[2][: queries.shape[1]]
    cosines = rows_of_floats[3]  # of at most `TOGETHER` vectors
    longest = max(n_cells, largest)
    floats, whole = np.empty((5, longest), np.float32), np.empty((3, longest + 1), np.int64)
    nearness, similarity, distance, bounds, maxima = floats[0], floats[1], floats[2], floats[3], floats[4]
    near, queue, candidates = whole[0], whole[1], whole[2]  # distances are squared
    n_in_first_round = min(max(int(NEAREST[0] * n_cells), NEAREST[1]), NEAREST[2])
    enough = CERTAIN if margin < ALL else np.float32(np.inf)
    for row in range(queries.shape[0]):
        if not normalise(queries[row], query):
            return row
        best, best_slots = scores[row], slots[row]
        rotate(query, rotation, rotated)
        step, total = round_to_planes(rotated, planes)
        offset = dot(rotated, mean_centre)
        estimate(
            centre_codes, centre_scales, centre_scales, NONE, 0, n_cells, n_cells,
            planes, step, total, offset, NONE, nearness,
        )  # fmt: skip
        for cell in range(n_cells):
            nearness[cell] = np.float32(2) * nearness[cell] - squared_norms[cell]

        n_found, rank, n_skipped, n_nearest = 0, 0, 0, n_in_first_round
        threshold, cut = LOWEST, np.float32(np.inf)
        while n_skipped < PATIENCE and threshold < enough and cut > LOWEST:
            last_cut = cut
            cut = value_that_k_reach(nearness, n_cells, n_nearest)  # `LOWEST` in the last round
            n_nearest *= 4  # each further round compares three times as many as all before
            n_near = select(nearness, n_cells, cut, last_cut, near, maxima)
            for i in range(n_near):
                similarity[i] = dot(rotated, centres[near[i]])
                distance[i] = max(np.float32(1) + squared_norms[near[i]] - np.float32(2) * similarity[i], SMALLEST)
                queue[i] = (np.int64(distance.view(np.int32)[i]) << 32) + i  # sorts by distance; i is kept below
            for _ in range(n_near):
                first_in_queue = TAKEN
                for i in range(n_near):
                    first_in_queue = min(first_in_queue, queue[i])
                place = first_in_queue & 0xFFFFFFFF
                queue[place] = TAKEN
                cell, offset = near[place], similarity[place]
                if n_allowed[cell] == 0:
                    continue
                deviation = np.sqrt(distance[place]) * spreads[cell]
                is_out_of_reach = threshold - offset > reach * rank_weights[rank] * deviation + SMALLEST
                rank += 1
                if is_out_of_reach:
                    n_skipped += 1
                    if n_skipped == PATIENCE:
                        break
                    continue
                n_skipped, first, n = 0, starts[cell], counts[cell]
                estimate_in_cell(
                    rotated, planes, step, total, offset, distance[place], centres[cell],
                    codes, scales, centre_dots, first, n, capacities[cell], margin, residual, residual_planes, bounds,
                )  # fmt: skip
                if allowed.shape[0] > 0:
                    passes = allowed[first : first + n]
                    for i in range(n):
                        bounds[i] = bounds[i] if passes[i] else np.float32(-np.inf)
                # If fewer than k matches were found, vectors with the best bounds come first: the threshold rises.
                floor, ceiling = threshold if n_found == k else value_that_k_reach(bounds, n, k), np.float32(np.inf)
                while floor < ceiling and threshold < enough:
                    n_candidates = select(bounds, n, floor, ceiling, candidates, maxima)
                    for begin in range(0, n_candidates, TOGETHER):
                        n_compared = 0
                        for j in range(begin, min(begin + TOGETHER, n_candidates)):
                            candidates[n_compared] = candidates[j]  # overwrites only what was compared before
                            n_compared += bounds[candidates[j]] >= threshold
                        for j in range(n_compared):  # a separate loop, so that memory accesses overlap
                            cosines[j] = dot(query, vectors[first + candidates[j]])
                        for j in range(n_compared):
                            if cosines[j] >= threshold:
                                n_found = offer(cosines[j], first + candidates[j], best, best_slots, n_found, ids)
                                if n_found == k:
                                    threshold = best[0]
                        if threshold >= enough:  # such as silence, of which there may be thousands of windows
                            break
                    floor, ceiling = threshold, floor
                if threshold >= enough:
                    break
        if n_found < k:
            return -2
        sort_heap(best, best_slots, n_found, ids)
    return -1


@compiled(fastmath=FAST)
def compare(queries, vectors, ids, among, scores, slots):
    """Find the best vectors for each query by comparing all vectors in the slots ``among``; see `search`."""
    query = np.empty(queries.shape[1], np.float32)
    for row in range(queries.shape[0]):
        if not normalise(queries[row], query):
            return row
        n_found, k = 0, scores.shape[1]
        for slot in among:
            cosine = dot(query, vectors[slot])
            if n_found < k or cosine >= scores[row, 0]:
                n_found = offer(cosine, slot, scores[row], slots[row], n_found, ids)
        sort_heap(scores[row], slots[row], n_found, ids)
    return -1
