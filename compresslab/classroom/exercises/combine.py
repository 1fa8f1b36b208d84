"""Lab 12: a step of k-means, the gradient of a shared value, gaps, Huffman's lengths, the Pareto front."""

import numpy as np

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.harnesses import any_best_code
from compresslab.numerics import codebook, entropy
from compresslab.numerics import gaps as zero_runs

f32 = np.float32


# ---- a step of k-means -----------------------------------------------------------------------------
def move_centroids(values: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's two steps: codes of the nearest centroids, then each centroid to the mean of its values."""
    codes = codebook.nearest(values, centroids)
    return _means(values, codes, centroids), codes


def _means(values: np.ndarray, codes: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    moved = centroids.copy()
    for k in range(len(centroids)):
        if (codes == k).any():
            moved[k] = values[codes == k].mean(dtype=np.float64)
    return moved


def _kmeans_cases(generator: np.random.Generator) -> list[Case]:
    def spread(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        values = generator.normal(0, 1, n).astype(f32)
        return values, np.sort(generator.choice(values, k, replace=False)) + f32(0.01)

    lonely = generator.uniform(-1, 1, 30).astype(f32)
    return [
        Case("two heaps", (np.array([-1.1, -0.9, 2, 2.5], f32), np.array([-2, 1], f32))),
        Case("half-way between two", (np.array([0, 1, 2, 3, 5], f32), np.array([0, 2, 4], f32))),
        Case("a centroid that nothing is near", (lonely, np.array([-0.5, 0.5, 9], f32))),
        Case("one centroid", (generator.normal(3, 1, 12).astype(f32), np.array([0], f32))),
        Case("60 values, 4 centroids", spread(60, 4)),
        Case("200 values, 15 centroids", spread(200, 15)),
    ]


def _many_values(generator: np.random.Generator) -> Case:
    # Sums of these are exact in any order, and none lies in the middle of two centroids.
    values = generator.integers(-120, 120, 400_000).astype(np.float32) / 64
    centroids = (np.arange(15) / 4 - 1.75 + 1 / 256).astype(np.float32)
    return Case("400,000 weights", (values, centroids))


def _distance_to(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return np.abs(values[:, None] - centroids[None])


def _empty_to_zero(values, centroids):
    codes = codebook.nearest(values, centroids)
    counts = np.bincount(codes, minlength=len(centroids))
    sums = np.bincount(codes, values.astype(np.float64), len(centroids))
    return (sums / np.maximum(counts, 1)).astype(f32), codes


def _empty_to_nan(values, centroids):
    codes = codebook.nearest(values, centroids)
    members = [values[codes == k] for k in range(len(centroids))]
    return np.array([m.mean() if len(m) else np.nan for m in members], f32), codes


def _medians(values, centroids):
    codes = codebook.nearest(values, centroids)
    members = [values[codes == k] for k in range(len(centroids))]
    return np.array(
        [np.median(m) if len(m) else c for m, c in zip(members, centroids, strict=True)], f32
    ), codes


def _codes_after(values, centroids):
    moved, _ = move_centroids(values, centroids)
    return moved, _distance_to(values, moved).argmin(1).astype(np.uint8)


def _from_below(values, centroids):
    codes = (np.searchsorted(centroids, values, side="right") - 1).clip(0).astype(np.uint8)
    return _means(values, codes, centroids), codes


def _upwards(values, centroids):
    middles = codebook.borders(centroids)
    codes = np.searchsorted(middles, values, side="right").astype(np.uint8)
    return _means(values, codes, centroids), codes


def _signed(values, centroids):
    codes = (values[:, None] - centroids[None]).argmin(1).astype(np.uint8)
    return _means(values, codes, centroids), codes


def _counts_cut_short(values, centroids):
    codes = codebook.nearest(values, centroids)
    sums, counts = np.bincount(codes, values.astype(np.float64)), np.bincount(codes)
    return (sums / np.maximum(counts, 1)).astype(f32), codes


def _halfway(values, centroids):
    moved, codes = move_centroids(values, centroids)
    return (moved + centroids) / 2, codes


MOVE_CENTROIDS = Exercise(
    id="combine.move_centroids",
    title="A step of k-means",
    points=2,
    reference=move_centroids,
    cases=_kmeans_cases,
    large=_many_values,
    lines=5,
    tolerance=1e-5,
    returns="(centroids, codes)",
    mistakes=(
        Mistake(
            "an empty centroid becomes 0",
            _empty_to_zero,
            "A centroid that no value is nearest to has no mean. Leave it where it is.",
        ),
        Mistake(
            "an empty centroid becomes NaN",
            _empty_to_nan,
            "The mean of nothing is NaN, and it spreads. A centroid without values stays where it is.",
        ),
        Mistake(
            "medians",
            _medians,
            "The squared error of a heap is smallest at its mean, not at its median.",
        ),
        Mistake(
            "codes of the moved centroids",
            _codes_after,
            "One step: first the codes, for the centroids that came in, then the means. Return those codes.",
        ),
        Mistake(
            "the next centroid below",
            _from_below,
            "A value belongs to the centroid that is nearest, above or below.",
        ),
        Mistake(
            "half-way goes up",
            _upwards,
            "A value half-way between two centroids goes to the lower one.",
        ),
        Mistake(
            "distances with a sign",
            _signed,
            "The nearest has the smallest distance, whichever side it is on: take absolute values.",
        ),
        Mistake(
            "fewer centroids than came in",
            _counts_cut_short,
            "Return as many centroids as came in. (np.bincount stops at the largest code that occurs, unless "
            "you tell it minlength.)",
        ),
        Mistake(
            "half a step",
            _halfway,
            "The new centroid is the mean itself, not half-way to it.",
        ),
        Mistake(
            "centroids that stay",
            lambda v, c: (c.copy(), codebook.nearest(v, c)),
            "The codes are right. Now each centroid has to move to the mean of its values.",
        ),
        Mistake(
            "codes before centroids",
            lambda v, c: move_centroids(v, c)[::-1],
            "First the centroids, then the codes.",
        ),
    ),
)


# ---- the gradient of a shared value ----------------------------------------------------------------
def centroid_gradient(gradient: np.ndarray, codes: np.ndarray, colours: int) -> np.ndarray:
    """The sum of the gradients of all weights that share a value; code 0 is a pruned weight."""
    sums = np.bincount(codes.reshape(-1), gradient.reshape(-1).astype(np.float64), colours + 1)
    return sums[1:].astype(f32)


def _gradient_cases(generator: np.random.Generator) -> list[Case]:
    def some(shape: tuple[int, ...], colours: int, low: int = 0) -> tuple:
        codes = generator.integers(low, colours + 1, shape).astype(np.uint8)
        return generator.normal(0.2, 1, shape).astype(f32), codes, colours

    pair = np.array([[1, 2], [4, 8]], f32), np.array([[1, 2], [0, 2]], np.uint8), 2
    gradient, codes, _ = some((5, 6), 3)
    return [
        Case("two by two", pair),
        Case("a colour that no weight has", (gradient, codes, 5)),
        Case("nothing pruned", some((4, 9), 3, low=1)),
        Case("everything pruned", (gradient, np.zeros((5, 6), np.uint8), 2)),
        Case("a convolution", some((4, 3, 3, 3), 7)),
    ]


def _by_colour(gradient, codes, colours, reduce, first=1):
    members = [gradient[codes == k] for k in range(first, colours + first)]
    return np.array([reduce(m) if m.size else 0 for m in members], f32)


def _wrapped(gradient, codes, colours):
    sums = np.zeros(colours)
    np.add.at(sums, codes.astype(np.int64) - 1, gradient)
    return sums.astype(f32)


def _many_gradients(generator: np.random.Generator) -> Case:
    # Sums of these are exact in any order.
    gradient = generator.integers(-120, 120, (300, 400)).astype(np.float32) / 64
    codes = generator.integers(0, 8, (300, 400)).astype(np.uint8)
    return Case("120,000 weights", (gradient, codes, 7))


CENTROID_GRADIENT = Exercise(
    id="combine.centroid_gradient",
    title="The gradient of a shared value",
    points=1,
    reference=centroid_gradient,
    cases=_gradient_cases,
    large=_many_gradients,
    lines=3,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "means",
            lambda g, c, k: _by_colour(g, c, k, np.mean),
            "If w1 = w2 = c, then dL/dc = dL/dw1 + dL/dw2: a sum, by the chain rule.",
        ),
        Mistake(
            "pruned weights in the first colour",
            lambda g, c, k: _by_colour(g, c, k, np.sum, first=0),
            "Code 0 is a pruned weight, which is no parameter. Colour k has code k, from 1 on.",
        ),
        Mistake(
            "pruned weights as a colour of their own",
            lambda g, c, k: _by_colour(g, c, k + 1, np.sum, first=0),
            "Return `colours` gradients: the zero of pruned weights is not trained.",
        ),
        Mistake(
            "pruned weights in the last colour",
            _wrapped,
            "Code 0 minus 1 is -1, which is the *last* place. Leave pruned weights out first.",
        ),
        Mistake(
            "as many colours as occur",
            lambda g, c, k: centroid_gradient(g, c, int(c.max())),
            "A colour that no weight has still has a gradient, 0: always return `colours` numbers.",
        ),
        Mistake(
            "absolute values",
            lambda g, c, k: _by_colour(np.abs(g), c, k, np.sum),
            "Gradients have signs, and may cancel: that is what the shared value wants together.",
        ),
        Mistake(
            "the last one",
            lambda g, c, k: _by_colour(g, c, k, lambda m: m[-1]),
            "Every weight of the colour counts. (`out[codes] += g` keeps one of them: indices that repeat "
            "are written once. See np.add.at.)",
        ),
    ),
)


# ---- gaps ------------------------------------------------------------------------------------------
def gaps(keep: np.ndarray, bits: int) -> np.ndarray:
    """Zeros between one weight and the next; the largest symbol stands for so many zeros and no weight."""
    return zero_runs.gaps(keep, bits)


def _gap_cases(generator: np.random.Generator) -> list[Case]:
    def line(*places: int, size: int = 24) -> np.ndarray:
        keep = np.zeros(size, bool)
        keep[list(places)] = True
        return keep

    return [
        Case("the first, then neighbours", (line(0, 1, 4), 3)),
        Case("as many zeros as the largest symbol", (line(3, 7), 2)),
        Case("a run of two bridges and more", (line(10, 19), 2)),
        Case("nothing kept", (line(size=9), 2)),
        Case("everything kept", (np.ones(5, bool), 3)),
        Case("one in five of 80", (generator.random(80) < 0.2, 3)),
    ]


def _gaps_with(keep, bits, bridge=0, offset=0, tail=False):
    """Gaps with another bridge, another start of counting, or the zeros at the end."""
    top, out, run = 2**bits - 1 + bridge, [], 0
    for kept in keep:
        if kept:
            out, run = [*out, run + offset], 0
            continue
        run += 1
        if run == top:
            out, run = [*out, 2**bits - 1], 0
    return np.array([*out, run] if tail and run else out, np.uint8)


def _fillers(keep, bits):
    """The paper's way: a bridge is a zero that is kept as a weight, and takes a place itself."""
    top, out, run = 2**bits - 1, [], 0
    for kept in keep:
        if kept or run == top:
            out, run = [*out, run], 0
        else:
            run += 1
    return np.array(out, np.uint8)


def _no_bridge_for_equal(keep, bits):
    top, out, run = 2**bits - 1, [], 0
    for kept in keep:
        if not kept:
            run += 1
            continue
        while run > top:
            out, run = [*out, top], run - top
        out, run = [*out, run], 0
    return np.array(out, np.uint8)


def _no_rest(keep, bits):
    top, out, run = 2**bits - 1, [], 0
    for kept in keep:
        if not kept:
            run += 1
            continue
        out += [top] * (run // top) + ([run % top] if run % top or run < top else [])
        run = 0
    return np.array(out, np.uint8)


def _gaps_with_largest(keep, top):
    out, run = [], 0
    for kept in keep:
        if not kept:
            run += 1
            continue
        out += [top] * (run // top) + [run % top]
        run = 0
    return np.array(out).astype(np.uint8)


def _symbols_of_first(keep, bits):
    places = np.flatnonzero(keep)
    return 1 + int(places[0]) // (2**bits - 1) if places.size else 0


def _many_zeros(generator: np.random.Generator) -> Case:
    return Case("200,000 weights, two in a hundred stay", (generator.random(200_000) < 0.02, 5))


GAPS = Exercise(
    id="combine.gaps",
    title="Distances instead of a mask",
    points=2,
    reference=gaps,
    cases=_gap_cases,
    large=_many_zeros,
    lines=8,
    mistakes=(
        Mistake(
            "distances instead of zeros in between",
            lambda k, b: _gaps_with(k, b, offset=1),
            "Neighbours have 0 zeros between them. Count the zeros, not the steps.",
        ),
        Mistake(
            "positions",
            lambda k, b: np.flatnonzero(k).astype(np.uint8),
            "Those are the places themselves. A gap starts anew behind every weight.",
        ),
        Mistake(
            "no bridges",
            lambda k, b: (np.diff(np.flatnonzero(k), prepend=-1) - 1).astype(np.uint8),
            "A gap of 2^b - 1 zeros or more does not fit. Bridge it: the symbol 2^b - 1, without a weight.",
        ),
        Mistake(
            "differences of positions",
            lambda k, b: np.diff(np.flatnonzero(k)).astype(np.uint8),
            "That leaves out the first gap, and counts steps instead of the zeros in between.",
        ),
        Mistake(
            "the first gap missing",
            lambda k, b: _gaps_with(k, b)[_symbols_of_first(k, b) :],
            "The zeros in front of the first weight are a gap, too.",
        ),
        Mistake(
            "a gap as long as the bridge",
            _no_bridge_for_equal,
            "A gap of exactly 2^b - 1 must not be written as one symbol: that is the bridge, which has no "
            "weight after it. It takes the bridge and a 0.",
            also=(_no_rest,),
        ),
        Mistake(
            "symbols of one more value",
            lambda k, b: _gaps_with_largest(k, 2**b),
            "b bits hold 0 to 2^b - 1: that is the largest symbol.",
        ),
        Mistake(
            "long gaps cut short",
            lambda k, b: np.minimum(np.diff(np.flatnonzero(k), prepend=-1) - 1, 2**b - 1).astype(
                np.uint8
            ),
            "Cutting loses zeros, and every weight behind moves. Write as many bridges as it takes.",
        ),
        Mistake(
            "bridges with one zero too few",
            lambda k, b: _gaps_with(k, b, bridge=-1),
            "The bridge 2^b - 1 stands for exactly 2^b - 1 zeros.",
        ),
        Mistake(
            "bridges with one zero too many",
            lambda k, b: _gaps_with(k, b, bridge=1),
            "Your bridge stands for 2^b zeros, as in the paper, whose filler is a weight of 0 and takes a "
            "place itself. Here a bridge is no weight: it is due as soon as 2^b - 1 zeros are counted.",
            also=(_fillers,),
        ),
        Mistake(
            "the zeros at the end",
            lambda k, b: _gaps_with(k, b, tail=True),
            "Behind the last weight nothing is written: the shape says how long the layer is.",
        ),
        Mistake(
            "whole bridges at the end",
            lambda k, b: _gaps_with(k, b),
            "Behind the last weight nothing is written, not even bridges: write them once a weight follows.",
        ),
    ),
)


# ---- Huffman's lengths -----------------------------------------------------------------------------
def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of each symbol's code."""
    return entropy.code_lengths(counts)


def _huffman_cases(generator: np.random.Generator) -> list[Case]:
    many = generator.integers(1, 200, 15)
    many[3] = 0
    return [
        Case("halves, quarters, eighths", (np.array([4, 2, 1, 1]),)),
        Case("one symbol that never occurs", (np.array([5, 0, 3, 9, 1]),)),
        Case("two symbols", (np.array([99, 1]),)),
        Case("a single one", (np.array([0, 7, 0]),)),
        Case("Fibonacci's counts: the deepest tree", (np.array([1, 1, 2, 3, 5, 8, 13]),)),
        Case("15 colours", (many,)),
    ]


def _merged(counts, pick, alone=1, every=False):
    """Huffman with another choice of the two that are merged."""
    lengths = np.zeros(len(counts), np.int64)
    groups = [(int(n), [s]) for s, n in enumerate(counts) if n or every]
    if len(groups) == 1:
        lengths[groups[0][1]] = alone
    while len(groups) > 1:
        groups.sort(key=lambda g: g[0])
        (n, one), (m, other) = pick(groups)
        lengths[one + other] += 1
        groups.append((n + m, one + other))
    return lengths


def _one_side(counts):
    lengths, groups = (
        np.zeros(len(counts), np.int64),
        [(int(n), [s]) for s, n in enumerate(counts) if n],
    )
    if len(groups) == 1:
        lengths[groups[0][1]] = 1
    while len(groups) > 1:
        groups.sort(key=lambda g: g[0])
        (n, one), (m, other) = groups.pop(0), groups.pop(0)
        lengths[one] += 1
        groups.append((n + m, one + other))
    return lengths


def _unsorted(counts, front=False, joined=sum):
    """The pair is put back without sorting again, or does not count as the sum."""
    lengths, groups = (
        np.zeros(len(counts), np.int64),
        [(int(n), [s]) for s, n in enumerate(counts) if n],
    )
    if len(groups) == 1:
        lengths[groups[0][1]] = 1
    groups.sort(key=lambda g: g[0])
    while len(groups) > 1:
        (n, one), (m, other) = groups.pop(0), groups.pop(0)
        lengths[one + other] += 1
        pair = (joined((n, m)), one + other)
        groups = [pair, *groups] if front else [*groups, pair]
        if joined is not sum:
            groups.sort(key=lambda g: g[0])
    return lengths


def _rounded_up(counts):
    used = counts > 0
    share = np.where(used, counts, 1) / counts.sum()
    return np.where(used, np.maximum(np.ceil(-np.log2(share)), 1), 0).astype(np.int64)


def _fixed(counts):
    bits = max(1, int(np.ceil(np.log2(max(np.count_nonzero(counts), 2)))))
    return np.where(counts > 0, bits, 0)


def _unary(counts):
    order = np.argsort(-counts, kind="stable")
    lengths, used = np.zeros(len(counts), np.int64), int(np.count_nonzero(counts))
    for rank, symbol in enumerate(order[:used]):
        lengths[symbol] = max(1, min(rank + 1, used - 1))
    return lengths


CODE_LENGTHS = Exercise(
    id="combine.code_lengths",
    title="Huffman's lengths",
    points=3,
    reference=code_lengths,
    cases=_huffman_cases,
    lines=9,
    tolerance=1e-9,
    harness=any_best_code,
    returns="(bits of the whole text, sum of 2^-length, lengths of absent symbols)",
    mistakes=(
        Mistake(
            "a lone symbol without a bit",
            lambda c: _merged(c, lambda g: (g.pop(0), g.pop(0)), alone=0),
            "With one kind of symbol nothing is merged, but a code of no bits cannot be written. Give it 1.",
        ),
        Mistake(
            "symbols that never occur get a code",
            lambda c: _merged(c, lambda g: (g.pop(0), g.pop(0)), every=True),
            "Leave out what never occurs: its length is 0, and nobody else's grows for it.",
        ),
        Mistake(
            "the commonest merged first",
            lambda c: _merged(c, lambda g: (g.pop(), g.pop())),
            "Whoever is merged gets longer. So merge the two *rarest*.",
        ),
        Mistake(
            "rarest with commonest",
            lambda c: _merged(c, lambda g: (g.pop(0), g.pop())),
            "Take the two rarest groups, every time anew.",
        ),
        Mistake(
            "Shannon's lengths",
            _rounded_up,
            "-log2(p), rounded up, is a prefix code, but not the shortest: it leaves room. Merge.",
        ),
        Mistake(
            "the same length for all",
            _fixed,
            "That is no better than packing. What is common should be shorter than what is rare.",
        ),
        Mistake(
            "a chain",
            _unary,
            "Your lengths are those of a chain: each symbol a bit longer than the one before. A merged pair "
            "counts as the *sum* of both, and has to be sorted in again.",
            also=(lambda c: _unsorted(c, front=True), lambda c: _unsorted(c, joined=max)),
        ),
        Mistake(
            "pairs at the end of the queue",
            _unsorted,
            "A merged pair may be rarer than others that still wait: sort it in again before the next merge.",
        ),
        Mistake(
            "only one side grows",
            _one_side,
            "A merge makes the codes of *all* symbols on both sides a bit longer: one side gets a 0, the "
            "other a 1.",
        ),
    ),
)


# ---- the Pareto front ------------------------------------------------------------------------------
def pareto_mask(costs: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
    """Which points no other dominates: at least as good in both, and better in one."""
    cheaper = costs[None] <= costs[:, None]
    better = accuracies[None] >= accuracies[:, None]
    strictly = (costs[None] < costs[:, None]) | (accuracies[None] > accuracies[:, None])
    return ~(cheaper & better & strictly).any(axis=1)


def _pareto_cases(generator: np.random.Generator) -> list[Case]:
    def points(n: int) -> tuple[np.ndarray, np.ndarray]:
        costs = generator.integers(1, 12, n).astype(f32)
        return costs, generator.integers(80, 92, n).astype(f32)

    twins = np.array([3, 3, 5], f32), np.array([90, 90, 91], f32)
    same_cost = np.array([2, 2, 4, 4], f32), np.array([80, 85, 85, 90], f32)
    chain = np.array([5, 1, 3, 4, 2], f32), np.array([95, 80, 88, 92, 79], f32)
    return [
        Case("three steps and two that are dominated", chain),
        Case("twins: neither dominates the other", twins),
        Case("same cost or same accuracy", same_cost),
        Case("a single one", (np.array([7], f32), np.array([50], f32))),
        Case("twelve", points(12)),
        Case("forty", points(40)),
    ]


def _many_networks(generator: np.random.Generator) -> Case:
    costs, accuracies = generator.integers(0, 100_000, (2, 4_000)).astype(np.float32)
    return Case("four thousand networks", (costs, accuracies))


def _front(costs, accuracies, dominated):
    n = range(len(costs))
    pairs = [[dominated(costs[j], accuracies[j], costs[i], accuracies[i]) for j in n] for i in n]
    return ~np.array(pairs).any(axis=1)


def _first_of_twins(costs, accuracies):
    best, order = -np.inf, np.lexsort((-accuracies, costs))
    mask = np.zeros(len(costs), bool)
    for i in order:
        if accuracies[i] > best:
            mask[i], best = True, accuracies[i]
    return mask


PARETO_MASK = Exercise(
    id="combine.pareto_mask",
    title="Who is dominated",
    points=1,
    reference=pareto_mask,
    cases=_pareto_cases,
    large=_many_networks,
    lines=4,
    mistakes=(
        Mistake(
            "better in both only",
            lambda c, a: _front(c, a, lambda cj, aj, ci, ai: cj < ci and aj > ai),
            "At the same cost the less accurate one is dominated, too: better in one is enough, if it is no "
            "worse in the other.",
        ),
        Mistake(
            "everything dominates itself",
            lambda c, a: _front(c, a, lambda cj, aj, ci, ai: cj <= ci and aj >= ai),
            "A point is at least as good as itself in both. To dominate, another must be better in one.",
        ),
        Mistake(
            "only the first of twins",
            _first_of_twins,
            "Of two equal points neither is better in anything, so neither dominates: both stay.",
        ),
        Mistake(
            "along the wrong axis",
            lambda c, a: (
                ~(
                    (c[:, None] <= c) & (a[:, None] >= a) & ((c[:, None] < c) | (a[:, None] > a))
                ).any(axis=1)
            ),
            "That finds the points that dominate nobody. Asked for are those that nobody dominates: the "
            "other axis.",
        ),
        Mistake(
            "the dominated ones",
            lambda c, a: ~pareto_mask(c, a),
            "True is for those on the front, False for those that are dominated.",
        ),
        Mistake(
            "costs to be large",
            lambda c, a: pareto_mask(-c, a),
            "A cost is to be small: bytes, milliseconds.",
        ),
        Mistake(
            "the best only",
            lambda c, a: (a == a.max()) | (c == c.min()),
            "The front has more than its two ends: everything in between that nobody dominates.",
        ),
    ),
)

EXERCISES = (MOVE_CENTROIDS, CENTROID_GRADIENT, GAPS, CODE_LENGTHS, PARETO_MASK)
