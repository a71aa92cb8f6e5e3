"""The arithmetic of `RandomProjectionIndex`, compiled by numba: estimate by popcounts, compare exactly what may matter.

A vector ``x`` in a leaf with the centre ``c`` keeps two bits for each coordinate of its rotated residual
``r = P (x - c)``: whether it is positive, and whether it is larger than the coordinates' root mean square. Together
they are a level ``y`` of -3, -1, 1 or 3. With one float, ``scale = |r|^2 / <r, y>``, a query's cosine with it is

    <q, x> = <q, c> + <P q, r>  ~  <q, c> + scale * <P q, y>.

Over random rotations ``P`` that is unbiased, and the error is close to normal with a standard deviation in proportion
to ``scale * |q|`` (RaBitQ: Gao & Long, SIGMOD 2024, section 3; with more bits than one: Gao et al., SIGMOD 2025). Near
the centre ``q - c`` is much shorter than ``q``, and ``<P (q - c), r>`` is estimated with as much less error;
``<c, x - c>`` is kept as ``along``.

The rotated query is rounded to seven levels, ``P q ~ step * v`` with ``v`` in -3 .. 3, and ``v`` is cut into three
bit-planes of weights 1, 2 and -4. So ``<v, y>`` is made of ANDs and popcounts of words of 64 bits. No instruction is
named here: loops run over arrays and the compiler chooses.

All is in one file since numba keeps compiled code until the file of a function changes, not that of one it calls.

Axes: N slots for vectors, L leaves, D dimensions, R rotated dimensions, D rounded up to W words of 64.
"""

import numpy as np
from numba import njit
from numba.extending import intrinsic

LEVELS = np.float32(3)  # a rotated coordinate is rounded to -3 .. 3 steps
STEP = 0.65  # of the coordinates' standard deviation: near the best for seven levels and a normal distribution
RECENTRED = 0.5  # squared distance to a leaf's centre within which the query's residual to it is worth rounding
MARGIN = 8  # scales of a leaf's code by signs
PATIENCE = 8  # so many leaves in a row that are not worth a visit end the search
LAST = np.int64(np.iinfo(np.int64).max)
SMALLEST = np.float32(1e-6)  # of scales and spreads; covers the rounding of float32

# Sums may be reordered, which lets the compiler use vectors; nothing is NaN, infinities keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp", "nnan"}


@intrinsic
def popcount(typing_context, word):
    """Number of ones in an unsigned integer."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return word(word), generate


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def normalise(row, unit):
    """Scale a row to norm 1, [D] float into float32, zeros to zeros; returns False where it is not finite."""
    scale, squares = np.float64(1), np.float64(0)
    for j in range(row.shape[0]):
        squares += np.float64(row[j]) * np.float64(row[j])
    if not 1e-100 < squares < 1e100:  # zeros, values whose squares leave the range, and what is not finite
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


@njit(cache=True, nogil=True)
def normalise_all(rows, unit):
    """`normalise` of each row, [N, D]; returns the first that is not finite, or -1."""
    for i in range(rows.shape[0]):
        if not normalise(rows[i], unit[i]):
            return i
    return -1


@njit(cache=True, nogil=True, fastmath=FAST)
def dot(x, y):
    total = np.float32(0)
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total


@njit(cache=True, nogil=True, fastmath=FAST)
def rotate(query, rotation, rotated):
    """Write ``rotation @ query``, [R]."""
    for j in range(rotation.shape[0]):
        rotated[j] = dot(rotation[j], query)


@njit(cache=True, nogil=True, fastmath=FAST)
def round_to_planes(rotated, planes):
    """Fill bit-planes [W, 3] uint64 of a rotated query, [R]; returns the size of a step and the sum of the levels."""
    squares = dot(rotated, rotated)
    step = np.float32(STEP) * np.sqrt(squares / np.float32(rotated.shape[0]))
    per_step = 1 / step if step > 0 else np.float32(0)
    total, bit = np.int32(0), np.uint64(1)
    for w in range(planes.shape[0]):
        one, two, four = np.uint64(0), np.uint64(0), np.uint64(0)
        for j in range(64):
            level = np.int32(min(max(np.rint(rotated[64 * w + j] * per_step), -LEVELS), LEVELS))
            total += level
            bits = np.uint64(np.uint32(level))  # as a two's complement
            one |= (bits & bit) << np.uint64(j)
            two |= (bits >> np.uint64(1) & bit) << np.uint64(j)
            four |= (bits >> np.uint64(2) & bit) << np.uint64(j)
        planes[w, 0], planes[w, 1], planes[w, 2] = one, two, four
    return step, np.float32(total)


@njit(cache=True, nogil=True, fastmath=FAST)
def encode_signs(residuals, signs, scales):
    """Signs [W, L] uint64 of rotated residuals, [L, R], and scales [L] for an estimate from them alone."""
    for i in range(residuals.shape[0]):
        squares, sizes = dot(residuals[i], residuals[i]), np.float32(0)
        for w in range(signs.shape[0]):
            word = np.uint64(0)
            for j in range(64):
                sizes += abs(residuals[i, 64 * w + j])
                word |= np.uint64(residuals[i, 64 * w + j] > 0) << np.uint64(j)
            signs[w, i] = word
        scales[i] = squares / sizes if sizes > 0 else np.float32(0)


@njit(cache=True, nogil=True, inline="always")
def weigh(word, one, two, four):
    """The levels in bit-planes of weights 1, 2 and -4, summed up where a word has ones; float32."""
    ones, twos, fours = popcount(word & one), popcount(word & two), popcount(word & four)
    return np.float32(np.int32(ones + (twos << np.uint64(1)) - (fours << np.uint64(2))))


@njit(cache=True, nogil=True, fastmath=FAST)
def estimate_by_signs(signs, scales, planes, step, total, offset, out):
    """Estimated similarities of vectors to a query, [L], from their signs [W, L] alone."""
    for w in range(planes.shape[0]):
        one, two, four, words = planes[w, 0], planes[w, 1], planes[w, 2], signs[w]
        for i in range(out.shape[0]):
            product = weigh(words[i], one, two, four)
            out[i] = product if w == 0 else out[i] + product
    twice = np.float32(2)
    for i in range(out.shape[0]):
        out[i] = offset + scales[i] * step * (twice * out[i] - total)


@njit(cache=True, nogil=True, fastmath=FAST)
def estimate(codes, scales, alongs, share, start, n, room, planes, step, total, offset, slack, out):
    """Estimated similarities of the n vectors from slot ``start`` on to a query, into ``out``.

    The codes of a leaf lie together: word w of its i-th vector at ``2 W start + w room + i``, first all words of high
    bits, then those of low bits. ``offset`` is the query's similarity to the vectors' centre; ``share`` of each
    vector's ``along`` and ``slack`` of its scale are added.
    """
    n_words, constant, twice = planes.shape[0], slack - np.float32(3) * step * total, np.float32(2)
    first = 2 * n_words * start
    for w in range(n_words):
        one, two, four = planes[w, 0], planes[w, 1], planes[w, 2]
        # Slices, as sums in the index of an array might be negative and so count from its end: that is thrice as slow.
        highs, lows = codes[first + w * room :][:n], codes[first + (n_words + w) * room :][:n]
        for i in range(n):
            product = twice * weigh(highs[i], one, two, four) + weigh(lows[i], one, two, four)
            out[i] = product if w == 0 else out[i] + product
    scales, alongs = scales[start : start + n], alongs[start : start + n]
    for i in range(n):
        out[i] = offset + share * alongs[i] + scales[i] * (constant + twice * step * out[i])


@njit(cache=True, nogil=True, fastmath=FAST)
def estimate_in_leaf(
    rotated, planes, step, total, offset, distance, centre, codes, scales, alongs, start, n, room,
    slack, residual, residual_planes, out,
):  # fmt: skip
    """`estimate` for a leaf, from the query's residual to its centre where that is much shorter than the query.

    The error shrinks with what is rounded, and so does the slack: by the factor that is returned.
    """
    if distance > RECENTRED:
        estimate(codes, scales, alongs, np.float32(0), start, n, room, planes, step, total, offset, slack, out)
        return np.float32(1)
    for j in range(rotated.shape[0]):
        residual[j] = rotated[j] - centre[j]
    length = max(np.sqrt(dot(residual, residual)), SMALLEST)
    step, total = round_to_planes(residual, residual_planes)
    slack *= length
    estimate(codes, scales, alongs, np.float32(1), start, n, room, residual_planes, step, total, offset, slack, out)
    return length


@njit(cache=True, nogil=True, fastmath=FAST)
def sum_rows(vectors, labels, sums, counts):
    """Add up the rows of each label into sums [L, D] and counts [L]; labels below 0 are left out."""
    for i in range(vectors.shape[0]):
        label = labels[i]
        if label >= 0:
            counts[label] += 1
            for j in range(vectors.shape[1]):
                sums[label, j] += vectors[i, j]


@njit(cache=True, nogil=True, fastmath=FAST)
def encode(rotated, centres, labels, codes, scales, alongs):
    """Code vectors, rotated to [n, R], about the centres of their labels, [L, R]; returns the squared residuals, [n].

    Written are codes [n, 2 W] uint64, scales [n] and alongs [n] float32, the residuals' products with the centres.
    """
    squared = np.empty(rotated.shape[0], np.float32)
    residual = np.empty(rotated.shape[1], np.float32)
    for i in range(rotated.shape[0]):
        centre = centres[labels[i]]
        for j in range(rotated.shape[1]):
            residual[j] = rotated[i, j] - centre[j]
        squares = dot(residual, residual)
        deviation = np.sqrt(squares / rotated.shape[1])
        product = np.float32(0)
        n_words = codes.shape[1] // 2
        for w in range(n_words):
            highs, lows = np.uint64(0), np.uint64(0)
            for j in range(64):
                x = residual[64 * w + j]
                large = abs(x) > deviation
                product += 3 * abs(x) if large else abs(x)
                highs |= np.uint64(x > 0) << np.uint64(j)
                lows |= np.uint64((x > 0) == large) << np.uint64(j)
            codes[i, w], codes[i, n_words + w] = highs, lows
        scales[i] = max(squares / product if product > 0 else np.float32(0), SMALLEST)
        alongs[i] = dot(residual, centre)
        squared[i] = squares
    return squared


@njit(cache=True, nogil=True, inline="always")
def worse(score, slot, other_score, other_slot, ids):
    """Whether the first stands behind the other: a lower score, at a tie the larger id."""
    return score < other_score or (score == other_score and ids[slot] > ids[other_slot])


@njit(cache=True, nogil=True)
def offer(score, slot, scores, slots, n_found, ids):
    """Put a match into a heap with its worst at the root; returns the number held."""
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


@njit(cache=True, nogil=True)
def sink(score, slot, scores, slots, size, ids):
    """Where a match belongs that starts at the root of a heap of ``size``; those that are worse move up."""
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


@njit(cache=True, nogil=True)
def sort_heap(scores, slots, n_found, ids):
    """Turn the heap into a list, best first."""
    for size in range(n_found - 1, 0, -1):
        score, slot = scores[size], slots[size]
        scores[size], slots[size] = scores[0], slots[0]
        i = sink(score, slot, scores, slots, size, ids)
        scores[i], slots[i] = score, slot


@njit(cache=True, nogil=True, fastmath=FAST)
def select(values, n, floor, ceiling, chosen):
    """Write the places of those of the first n values that are in [floor, ceiling); returns their number."""
    n_chosen = 0
    for start in range(0, n, 16):  # most blocks hold none, which is seen without a branch for each
        stop = min(start + 16, n)
        n_inside = 0
        for i in range(start, stop):
            n_inside += (values[i] >= floor) & (values[i] < ceiling)
        if n_inside > 0:
            for i in range(start, stop):
                if floor <= values[i] < ceiling:
                    chosen[n_chosen] = i
                    n_chosen += 1
    return n_chosen


@njit(cache=True, nogil=True)
def smallest(values):
    """The least of positive float32 values: their bits are in the same order, and the compiler takes many at a time."""
    bits = values.view(np.int32)
    least = bits[:1].copy()
    for i in range(bits.shape[0]):
        least[0] = min(least[0], bits[i])
    return least.view(np.float32)[0]


@njit(cache=True, nogil=True, fastmath=FAST)
def value_that_k_reach(values, n, k):
    """A value that at least k of the first n values reach, and few more; minus infinity where n < k."""
    if n < k:
        return np.float32(-np.inf)
    low, high = values[0], values[0]
    for i in range(n):
        low, high = min(low, values[i]), max(high, values[i])
    for _ in range(8):
        middle = (low + high) / 2
        n_reach = 0
        for i in range(n):
            n_reach += values[i] >= middle
        low, high = (middle, high) if n_reach >= k else (low, middle)
    return low


@njit(cache=True, nogil=True, fastmath=FAST)
def search(
    queries, rotation, middle, centres, signs, leaf_floats, vectors, ids, codes, scales, alongs,
    places, largest, reach, slack, allowed, scores, slots,
):  # fmt: skip
    """The best vectors of each query, best first.

    Arguments
    ---------
    queries : [Q, D] float32, of any norm
    rotation ... signs : the first fields of `random_projection.Leaves`
    leaf_floats : [4, L] float32, its others: scales, squares, spreads, patience
    vectors ... alongs : the fields of `pool.Pool`
    places : [3, L] int64, the fields of `pool.Places`
    largest : int
        At least the largest count.
    reach : float32
        A leaf is visited where ``z * log2(rank + 2) <= reach``: ``z`` is the gap between the worst match so far and the
        similarity of the leaf's centre, in units of its distance times its spread; ``rank`` counts the nearer leaves.
    slack : float32
        A vector is compared exactly where its estimate plus ``slack * scale`` reaches the worst match so far.
    allowed : [N] or [0] bool
        Slots that may be found; all where it is empty.
    scores, slots : [Q, k] float32, int64
        Written. At least k vectors must be there to be found.

    Returns
    -------
    int
        The first query that is not finite, where the search ends, or -1; -2 where numbers of the index are not.
    """
    sign_scales, squares, spreads, patience = leaf_floats[0], leaf_floats[1], leaf_floats[2], leaf_floats[3]
    starts, counts, rooms = places[0], places[1], places[2]
    n_leaves, n_words, k = starts.shape[0], rotation.shape[0] // 64, scores.shape[1]
    planes, residual_planes = np.empty((n_words, 3), np.uint64), np.empty((n_words, 3), np.uint64)
    rotated, residual = np.empty(64 * n_words, np.float32), np.empty(64 * n_words, np.float32)
    similarity, distance = np.empty(n_leaves, np.float32), np.empty(n_leaves, np.float32)
    query = np.empty(queries.shape[1], np.float32)
    near, near_similarity = np.empty(n_leaves, np.int64), np.empty(n_leaves, np.float32)
    near_distance, queue = np.empty(n_leaves, np.float32), np.empty(n_leaves, np.int64)
    bounds, cosines = np.empty(largest, np.float32), np.empty(largest, np.float32)
    candidates = np.empty(largest, np.int64)
    # Signs tell a leaf's distance with a standard deviation of about 1.2 scales: a query that is far from all leaves,
    # and so about as far from each, needs a margin.
    margin = np.float32(MARGIN) * sign_scales.mean()
    for row in range(queries.shape[0]):
        if not normalise(queries[row], query):
            return row
        best, best_slots = scores[row], slots[row]
        rotate(query, rotation, rotated)
        step, total = round_to_planes(rotated, planes)
        estimate_by_signs(signs, sign_scales, planes, step, total, dot(rotated, middle), similarity)
        mean = np.float32(0)
        for leaf in range(n_leaves):  # squared distances to the leaves' centres
            distance[leaf] = max(np.float32(1) + squares[leaf] - np.float32(2) * similarity[leaf], SMALLEST)
            mean += distance[leaf]
        nearest = smallest(distance)
        cut = max((nearest + mean / n_leaves) / 2, nearest + margin)
        n_near = select(distance, n_leaves, np.float32(-np.inf), cut, near)
        for i in range(n_near):
            near_similarity[i] = dot(rotated, centres[near[i]])
            near_distance[i] = max(np.float32(1) + squares[near[i]] - np.float32(2) * near_similarity[i], SMALLEST)
            queue[i] = (np.int64(near_distance.view(np.int32)[i]) << 32) + i  # in the order of the distances

        # The near leaves in order of distance, as far as it is worth while; then, if it still is, the others.
        n_found, rank, misses, position, n_taken = 0, 0, 0, 0, 0
        threshold = np.float32(-np.inf)
        while position < n_leaves and misses < PATIENCE:
            is_near = n_taken < n_near
            if is_near:
                first_in_queue = LAST
                for i in range(n_near):
                    first_in_queue = min(first_in_queue, queue[i])
                place = first_in_queue & 0xFFFFFFFF
                queue[place] = LAST
                n_taken += 1
                leaf, offset, squared = near[place], near_similarity[place], near_distance[place]
            else:
                leaf = position
                position += 1
                if distance[leaf] < cut:
                    continue
                offset, squared = similarity[leaf], distance[leaf]
            doubt = np.sqrt(squared) * spreads[leaf]
            if counts[leaf] == 0 or threshold - offset > reach * patience[rank] * doubt + SMALLEST:
                rank += is_near
                misses += is_near and counts[leaf] > 0
                continue
            rank += 1
            misses = 0
            if not is_near:
                offset = dot(rotated, centres[leaf])
            first, n = starts[leaf], counts[leaf]
            estimate_in_leaf(
                rotated, planes, step, total, offset, squared, centres[leaf],
                codes, scales, alongs, first, n, rooms[leaf], slack, residual, residual_planes, bounds,
            )  # fmt: skip
            # Until k matches are held, the best by estimate go first: they raise the threshold for the others.
            ceiling = np.float32(np.inf)
            floor = threshold if n_found == k else value_that_k_reach(bounds, n, k)
            for _ in range(2):
                n_candidates = select(bounds, n, floor, ceiling, candidates)
                for j in range(n_candidates):  # apart from the heap, so that the delays of memory overlap
                    cosines[j] = dot(query, vectors[first + candidates[j]])
                for j in range(n_candidates):
                    slot = first + candidates[j]
                    if allowed.shape[0] == 0 or allowed[slot]:
                        n_found = offer(cosines[j], slot, best, best_slots, n_found, ids)
                if n_found == k:
                    threshold = best[0]
                if floor <= threshold or floor == -np.inf:
                    break
                ceiling, floor = floor, threshold
        if n_found < k:
            return -2
        sort_heap(best, best_slots, n_found, ids)
    return -1


@njit(cache=True, nogil=True, fastmath=FAST)
def compare(queries, vectors, ids, among, scores, slots):
    """The best of the vectors in the slots ``among`` for each query, by comparing all; as `search` in all else."""
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


@njit(cache=True, nogil=True)
def find(wanted, ids, starts, counts, slots):
    """Slots of the wanted ids, which are in ascending order, into ``slots``; returns how many are there."""
    n = 0
    if wanted.shape[0] == 0:
        return n
    for leaf in range(starts.shape[0]):
        for slot in range(starts[leaf], starts[leaf] + counts[leaf]):
            if wanted[0] <= ids[slot] <= wanted[-1]:
                place = np.searchsorted(wanted, ids[slot])
                if wanted[place] == ids[slot] and n < slots.shape[0]:
                    slots[n] = slot
                    n += 1
    return n


@njit(cache=True, nogil=True)
def take_out(gone, leaves, vectors, ids, codes, scales, alongs, starts, counts, rooms):
    """Empty slots, given in descending order with their leaves: the last of a leaf moves to each empty place."""
    n_words = codes.shape[0] // max(1, ids.shape[0])
    for i in range(gone.shape[0]):
        slot, leaf = gone[i], leaves[i]
        counts[leaf] -= 1
        last = starts[leaf] + counts[leaf]
        vectors[slot], ids[slot] = vectors[last], ids[last]
        scales[slot], alongs[slot] = scales[last], alongs[last]
        for w in range(n_words):
            word = n_words * starts[leaf] + w * rooms[leaf] - starts[leaf]
            codes[word + slot] = codes[word + last]


@njit(cache=True, nogil=True)
def write_codes(rows, slots, leaves, starts, rooms, codes):
    """Put code words, [n, 2 W], where those of the slots belong."""
    for i in range(slots.shape[0]):
        leaf = leaves[i]
        for w in range(rows.shape[1]):
            codes[rows.shape[1] * starts[leaf] + w * rooms[leaf] + slots[i] - starts[leaf]] = rows[i, w]


@njit(cache=True, nogil=True)
def read_codes(codes, slots, leaves, starts, rooms, rows):
    """The inverse of `write_codes`."""
    for i in range(slots.shape[0]):
        leaf = leaves[i]
        for w in range(rows.shape[1]):
            rows[i, w] = codes[rows.shape[1] * starts[leaf] + w * rooms[leaf] + slots[i] - starts[leaf]]
