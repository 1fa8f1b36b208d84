"""Lab 04: a global mask, a Taylor score, a schedule, 2:4, a sparse product, channels cut out."""

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.kernels import sparse
from compresslab.techniques import prune

f32 = np.float32
Arrays = tuple[np.ndarray, ...]


def _numbers(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(0, 1, shape).astype(f32)


# ---- a global mask -------------------------------------------------------------------------------
def global_mask(weights: Arrays, sparsity: float) -> Arrays:
    """The library's selection by magnitude over all layers."""
    scores = {str(i): torch.from_numpy(np.abs(w)) for i, w in enumerate(weights)}
    return tuple(k.numpy() for k in prune.select(scores, sparsity).keep.values())


def _mask_cases(generator: np.random.Generator) -> list[Case]:
    small, large = _numbers(generator, 3, 4), 5 * _numbers(generator, 2, 5)
    return [
        Case("one layer", ((f32([[0.1, -3.0, 2.0, -0.5]]),), 0.5)),
        Case("a small layer beside a large one", ((small, large), 0.5)),
        Case("nothing to remove", ((small,), 0.0)),
        Case("a share that is no whole number of weights", ((_numbers(generator, 7),), 0.4)),
        Case(
            "equal sizes on both sides of the border", ((f32([1, -1, 1, 2]), f32([1, 3, -1])), 0.45)
        ),
        Case("a convolution too", ((_numbers(generator, 4, 2, 3, 3), small), 0.9)),
        Case("three layers", (tuple(_numbers(generator, *s) for s in ((2, 3), (4,), (3, 3))), 0.6)),
    ]


def _lowest(weights, sparsity, score=np.abs, count=round):
    flat = np.concatenate([score(w).ravel() for w in weights])
    keep = np.ones(flat.size, bool)
    keep[np.argsort(flat, kind="stable")[: count(sparsity * flat.size)]] = False
    cuts = np.cumsum([w.size for w in weights])[:-1]
    return tuple(k.reshape(w.shape) for k, w in zip(np.split(keep, cuts), weights, strict=True))


def _border(weights, sparsity, shift=1):
    sizes = np.sort(np.concatenate([np.abs(w).ravel() for w in weights]))
    place = round(sparsity * sizes.size) - shift
    return sizes[place] if 0 <= place < sizes.size else -np.inf


def _many_weights(generator: np.random.Generator) -> Case:
    """All magnitudes differ: which are the smallest is no matter of order."""
    sizes = generator.permutation(120_000).astype(np.float32) + 1
    signs = generator.choice(np.float32([-1, 1]), 120_000)
    return Case("120,000 weights", (tuple((sizes * signs).reshape(3, 200, 200)), 0.9))


GLOBAL_MASK = Exercise(
    id="prune.global_mask",
    title="The smallest weights of the whole network",
    points=3,
    reference=global_mask,
    cases=_mask_cases,
    large=_many_weights,
    lines=6,
    mistakes=(
        Mistake(
            "layer by layer",
            lambda ws, s: tuple(_lowest((w,), s)[0] for w in ws),
            "You took the same share of every layer. Put all magnitudes in one list and find the smallest "
            "of them all.",
        ),
        Mistake(
            "signed values",
            lambda ws, s: _lowest(ws, s, score=lambda w: w),
            "-3 is a large weight. Compare magnitudes.",
        ),
        Mistake(
            "the largest removed",
            lambda ws, s: _lowest(ws, s, score=lambda w: -np.abs(w)),
            "You removed the largest weights: True must mean *keep*.",
            also=(lambda ws, s: tuple(~k for k in _lowest(ws, s)),),
        ),
        Mistake(
            "a threshold",
            lambda ws, s: tuple(np.abs(w) > _border(ws, s) for w in ws),
            "A threshold removes all equals at the border, or none. Exactly round(sparsity * n) go: sort, "
            "and take the first.",
            also=(lambda ws, s: tuple(np.abs(w) >= _border(ws, s, 0) for w in ws),),
        ),
        Mistake(
            "cut off",
            lambda ws, s: _lowest(ws, s, count=int),
            "round(sparsity * n) of them go: int() cuts off.",
        ),
        Mistake(
            "a share of the range",
            lambda ws, s: tuple(np.abs(w) > s * max(np.abs(v).max() for v in ws) for w in ws),
            "That threshold is a share of the largest weight. How many weights lie below it is another "
            "matter.",
        ),
    ),
)


# ---- Taylor --------------------------------------------------------------------------------------
def taylor_score(weight: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """|w| times the mean magnitude of its gradient over the batches."""
    return np.abs(weight) * np.abs(gradients).mean(axis=0)


def _gradient_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("one batch", (f32([2.0, -1.0]), f32([[0.5, 3.0]]))),
        Case("gradients that cancel", (f32([2.0, -1.0, 0.5]), f32([[1, 1, 1], [-1, -1, 1]]))),
        Case("a weight of 0", (f32([0.0, 1.0]), f32([[9, 1], [9, 2]]))),
        Case("a layer, four batches", (_numbers(generator, 3, 5), _numbers(generator, 4, 3, 5))),
    ]


def _many_scores(generator: np.random.Generator) -> Case:
    weight, *gradients = generator.normal(0, 1, (3, 1_000, 2_000)).astype(np.float32)
    return Case("two million weights", (weight, np.stack(gradients)))


TAYLOR_SCORE = Exercise(
    id="prune.taylor_score",
    title="What the loss says about a weight",
    points=2,
    reference=taylor_score,
    cases=_gradient_cases,
    large=_many_scores,
    lines=1,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "the sign cancels",
            lambda w, g: np.abs(w * g.mean(axis=0)),
            "At a minimum of the loss the gradients of different batches point both ways and cancel. Take "
            "the magnitude of each batch's gradient first.",
        ),
        Mistake(
            "the formula as it stands",
            lambda w, g: -(w * g).mean(axis=0),
            "A change in either direction counts: take magnitudes before the mean.",
        ),
        Mistake(
            "gradient only",
            lambda w, g: np.abs(g).mean(axis=0),
            "Removing w changes the loss by about w times its gradient: the weight belongs in it.",
        ),
        Mistake(
            "magnitude only",
            lambda w, g: np.abs(w),
            "The gradients are not used: the loss has no say.",
        ),
        Mistake(
            "summed",
            lambda w, g: np.abs(w) * np.abs(g).sum(axis=0),
            "The mean over the batches, so that scores do not depend on how many there were.",
        ),
        Mistake(
            "signed",
            lambda w, g: w * np.abs(g).mean(axis=0),
            "A score says how much a weight matters, whatever its sign.",
        ),
    ),
)


# ---- the schedule --------------------------------------------------------------------------------
def _step_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("the start", (0, 100, 0.9)),
        Case("half way", (50, 100, 0.8)),
        Case("the end", (100, 100, 0.9)),
        Case("after the end", (130, 100, 0.9)),
        Case(
            "somewhere", (int(generator.integers(1, 99)), 100, float(generator.uniform(0.3, 0.99)))
        ),
    ]


def cubic_sparsity(step: int, steps: int, final: float) -> float:
    """The library's schedule."""
    return prune.cubic(step, steps, final)


CUBIC = Exercise(
    id="prune.cubic_sparsity",
    title="Much at first, little at the end",
    points=1,
    reference=cubic_sparsity,
    cases=_step_cases,
    lines=2,
    tolerance=1e-6,
    mistakes=(
        Mistake(
            "linear",
            lambda t, n, s: s * min(t / n, 1),
            "That prunes as much in the last step as in the first. The cube does most of it early.",
        ),
        Mistake(
            "upside down",
            lambda t, n, s: s * min(t / n, 1) ** 3,
            "That starts slowly and ends with a blow. It is the *rest* that shrinks with the cube.",
        ),
        Mistake(
            "what is left",
            lambda t, n, s: s * (1 - min(t / n, 1)) ** 3,
            "That is what is still to be pruned. Subtract it from the final sparsity.",
        ),
        Mistake(
            "past the end",
            lambda t, n, s: s - s * (1 - t / n) ** 3,
            "After the last step the sparsity stays: t / T is at most 1.",
        ),
        Mistake(
            "quadratic",
            lambda t, n, s: s - s * (1 - min(t / n, 1)) ** 2,
            "The name says it: the exponent is 3.",
        ),
    ),
)


# ---- 2:4 -----------------------------------------------------------------------------------------
def two_of_four(weight: np.ndarray) -> np.ndarray:
    """The library's choice of two in every four."""
    score = torch.from_numpy(np.abs(weight))
    return prune.select_n_of_m({"w": score}).keep["w"].numpy()


def _four_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("one group", (f32([[0.1, -5.0, 2.0, 0.3]]),)),
        Case("a large and a small group", (f32([[9, 8, 7, 6, 0.1, 0.2, 0.3, 0.4]]),)),
        Case("four of one size: the first two", (f32([[1, -1, 1, 1]]),)),
        Case("four rows of four", (_numbers(generator, 4, 4),)),
        Case("many", (_numbers(generator, 6, 16),)),
    ]


def _best_two(w, axis=2, sign=1, score=np.abs):
    groups = score(w).reshape(len(w), -1, 4) * sign
    chosen = np.argsort(-groups, axis=2, kind="stable")[..., :2]
    keep = np.zeros(groups.shape, bool)
    np.put_along_axis(keep, chosen, True, axis=2)
    return keep.reshape(w.shape)


def _many_groups(generator: np.random.Generator) -> Case:
    sizes = generator.permutation(200_000).astype(np.float32).reshape(500, 400) + 1
    return Case(
        "50,000 groups of four", (sizes * generator.choice(np.float32([-1, 1]), (500, 400)),)
    )


TWO_OF_FOUR = Exercise(
    id="prune.two_of_four",
    title="Two of every four",
    points=2,
    reference=two_of_four,
    cases=_four_cases,
    large=_many_groups,
    lines=5,
    mistakes=(
        Mistake(
            "the best half of the row",
            lambda w: np.abs(w) >= np.median(np.abs(w), axis=1, keepdims=True),
            "Half of each row, but not two in every group of four: the hardware reads groups.",
        ),
        Mistake(
            "a threshold",
            lambda w: (
                np.abs(w).reshape(len(w), -1, 4)
                >= np.sort(np.abs(w).reshape(len(w), -1, 4), axis=2)[..., 2:3]
            ).reshape(w.shape),
            "Of equals only the first two stay: a threshold keeps all of them.",
        ),
        Mistake(
            "the last of equals",
            lambda w: _best_two(w[:, ::-1])[:, ::-1].copy(),
            "Of equals the first stay.",
        ),
        Mistake(
            "the smallest kept",
            lambda w: _best_two(w, sign=-1),
            "np.argsort sorts upwards: the largest come last. True means keep.",
        ),
        Mistake(
            "signed values",
            lambda w: _best_two(w, score=lambda v: v),
            "-5 is the largest of its group. Compare magnitudes.",
        ),
        Mistake(
            "down the columns",
            lambda w: (
                _best_two(np.ascontiguousarray(w.T)).T.copy()
                if len(w) % 4 == 0
                else _best_two(-w * 0)
            ),
            "A group is four neighbours in a row (inputs of one output), not in a column.",
        ),
    ),
)


# ---- a sparse product ----------------------------------------------------------------------------
def csr_matvec(
    starts: np.ndarray, columns: np.ndarray, values: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """The library's product of a CSR matrix and one vector."""
    weight = sparse.Csr(starts, columns, values, (len(starts) - 1, len(x)))
    return sparse.matmul(weight, x[:, None])[:, 0]


def _csr_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, outputs: int, inputs: int, zeros: float) -> Case:
        dense = _numbers(generator, outputs, inputs)
        dense[generator.random(dense.shape) < zeros] = 0
        made = sparse.Csr.of(dense)
        return Case(label, (made.starts, made.columns, made.values, _numbers(generator, inputs)))

    one = sparse.Csr.of(f32([[0, 0, 2]]))
    empty = sparse.Csr.of(f32([[0, 0, 3], [0, 0, 0], [4, 0, 5]]))
    return [
        Case("one nonzero", (one.starts, one.columns, one.values, f32([7, 8, 9]))),
        Case("an empty row", (empty.starts, empty.columns, empty.values, f32([1, 2, 3]))),
        case("no zeros at all", 2, 3, 0.0),
        case("random", 8, 20, 0.7),
    ]


def _rows(starts, columns, values, x, *, gather=True, last=False, shift=0, scatter=False):
    out = np.zeros(len(starts) - 1, f32)
    for n in range(len(out)):
        for p in range(starts[n], min(starts[n + 1] + shift, len(values))):
            term = values[p] * (x[columns[p]] if gather else x[p % len(x)])
            out[n] = term if last else out[n] + term
    return out


CSR_MATVEC = Exercise(
    id="prune.csr_matvec",
    title="Multiply the nonzeros only",
    points=3,
    reference=csr_matvec,
    cases=_csr_cases,
    lines=6,
    tolerance=1e-4,
    compiled=True,
    mistakes=(
        Mistake(
            "columns not looked up",
            lambda *a: _rows(*a, gather=False),
            "The p-th nonzero belongs to input columns[p], not to input p.",
        ),
        Mistake(
            "overwritten",
            lambda *a: _rows(*a, last=True),
            "Each nonzero adds to the row's sum; you kept only the last one.",
        ),
        Mistake(
            "one too many",
            lambda *a: _rows(*a, shift=1),
            "Row n owns values[starts[n]] up to, and not including, values[starts[n + 1]].",
        ),
        Mistake(
            "one too few",
            lambda *a: _rows(*a, shift=-1),
            "range(starts[n], starts[n + 1]) already leaves the next row's first value out.",
        ),
    ),
)


# ---- surgery -------------------------------------------------------------------------------------
def cut_channels(
    first: np.ndarray, gain: np.ndarray, shift: np.ndarray, second: np.ndarray, keep: np.ndarray
) -> Arrays:
    """The convolution, its norm and the linear layer behind the flatten, without some channels."""
    repeat = second.shape[1] // len(keep)
    return first[keep], gain[keep], shift[keep], second[:, np.repeat(keep, repeat)]


def _cut_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, channels: int, pixels: int, keep: list[bool]) -> Case:
        first = _numbers(generator, channels, 2, 3, 3)
        second = _numbers(generator, 4, channels * pixels)
        vectors = _numbers(generator, channels), _numbers(generator, channels)
        return Case(label, (first, *vectors, second, np.array(keep)))

    return [
        case("one pixel a channel", 3, 1, [True, False, True]),
        case("four pixels a channel", 3, 4, [True, False, True]),
        case("nothing to cut", 2, 4, [True, True]),
        case("the last channel only", 4, 2, [False, False, False, True]),
    ]


def _zeroed(w, g, b, v, k):
    wide = np.repeat(k, v.shape[1] // len(k))
    return w * k[:, None, None, None], g * k, b * k, v * wide


def _many_channels(generator: np.random.Generator) -> Case:
    channels = 120_000
    first, gain, shift = generator.normal(0, 1, (3, channels)).astype(np.float32)
    second = generator.normal(0, 1, (2, 2 * channels)).astype(np.float32)
    keep = np.arange(channels) % 3 > 0
    return Case("120,000 channels", (first.reshape(-1, 1, 1, 1), gain, shift, second, keep))


CUT_CHANNELS = Exercise(
    id="prune.cut_channels",
    title="Channels really removed",
    points=2,
    reference=cut_channels,
    cases=_cut_cases,
    large=_many_channels,
    lines=3,
    mistakes=(
        Mistake(
            "pixels before channels",
            lambda w, g, b, v, k: (w[k], g[k], b[k], v[:, np.tile(k, v.shape[1] // len(k))]),
            "Flattened, all pixels of channel 0 come first, then those of channel 1: each entry of keep "
            "must be repeated in place, not the whole list.",
        ),
        Mistake(
            "zeroed, not removed",
            _zeroed,
            "That is a mask: the zeros are still there, still stored and still multiplied.",
        ),
        Mistake(
            "the reader left whole",
            lambda w, g, b, v, k: (w[k], g[k], b[k], v),
            "The linear layer still expects the features of the channels that are gone.",
        ),
        Mistake(
            "the norm left whole",
            lambda w, g, b, v, k: (w[k], g, b, v[:, np.repeat(k, v.shape[1] // len(k))]),
            "The batch norm has a gain and a shift for every channel: cut those as well.",
        ),
        Mistake(
            "the wrong ones",
            lambda w, g, b, v, k: cut_channels(w, g, b, v, ~k),
            "True in keep means that the channel stays.",
        ),
    ),
)

EXERCISES = (GLOBAL_MASK, TAYLOR_SCORE, CUBIC, TWO_OF_FOUR, CSR_MATVEC, CUT_CHANNELS)
