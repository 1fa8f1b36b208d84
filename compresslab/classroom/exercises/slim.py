"""Lab 07: the cost of a separable convolution, the shuffle, a depthwise loop, what a stack sees, sharing."""

import numpy as np

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.techniques import blocks

f32 = np.float32
Shapes = tuple[tuple[int, ...], ...]


def _numbers(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(0, 1, shape).astype(f32)


# ---- the cost of a separable convolution -----------------------------------------------------------
def separable_cost(
    inputs: int, outputs: int, kernel: int, height: int, width: int
) -> tuple[int, int]:
    """Weights (no norms) and MACs."""
    cost = blocks.Separable.cost(inputs, outputs, height * width, kernel)
    return cost.parameters - 2 * (inputs + outputs), cost.macs


def _cost_cases(generator: np.random.Generator) -> list[Case]:
    sizes = generator.integers(2, 40, (3, 2))
    return [
        Case("the smallest", (1, 2, 3, 1, 2)),
        Case("8 to 16 channels on 4x4", (8, 16, 3, 4, 4)),
        Case("a 5x5 kernel", (6, 6, 5, 3, 7)),
        *(Case("some layer", (int(c), int(m), 3, 8, 6)) for c, m in sizes),
    ]


def _wide_cost(generator: np.random.Generator) -> Case:
    inputs = int(generator.integers(5_000, 6_000))
    return Case("five thousand channels to ten thousand", (inputs, 10_007, 3, 7, 7))


SEPARABLE_COST = Exercise(
    id="slim.separable_cost",
    title="What a separable convolution costs",
    points=1,
    reference=separable_cost,
    cases=_cost_cases,
    large=_wide_cost,
    lines=2,
    returns="(weights, MACs)",
    mistakes=(
        Mistake(
            "the product instead of the sum",
            lambda c, m, k, h, w: (k * k * c * m, k * k * c * m * h * w),
            "That is the standard convolution. Separable means two layers, whose costs are added.",
        ),
        Mistake(
            "the pointwise layer forgotten",
            lambda c, m, k, h, w: (k * k * c, k * k * c * h * w),
            "The depthwise layer only filters each channel. The 1x1 layer that mixes them is missing.",
        ),
        Mistake(
            "a depthwise layer that mixes channels",
            lambda c, m, k, h, w: (k * k * c * c + c * m, (k * k * c * c + c * m) * h * w),
            "Depthwise: every channel has one k x k filter of its own, and sees no other channel.",
        ),
        Mistake(
            "depthwise over the outputs",
            lambda c, m, k, h, w: (k * k * m + c * m, (k * k * m + c * m) * h * w),
            "The depthwise layer comes first: it works on the inputs.",
        ),
        Mistake(
            "MACs without positions",
            lambda c, m, k, h, w: (c * (k * k + m), c * (k * k + m)),
            "Every weight is used once at every position of the output.",
        ),
        Mistake(
            "MACs before weights",
            lambda c, m, k, h, w: (c * (k * k + m) * h * w, c * (k * k + m)),
            "First the weights, then the MACs.",
        ),
        Mistake(
            "MACs without the positions of the 1x1",
            lambda c, m, k, h, w: (k * k * c + c * m, k * k * c * h * w + c * m),
            "The 1x1 layer, too, is applied at every position.",
        ),
    ),
)


# ---- the shuffle -----------------------------------------------------------------------------------
def shuffle(x: np.ndarray, groups: int) -> np.ndarray:
    """ShuffleNet's permutation of the channels."""
    n, c, *image = x.shape
    return x.reshape(n, groups, c // groups, *image).swapaxes(1, 2).reshape(x.shape).copy()


def _shuffle_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("six channels, two groups", (np.arange(6, dtype=f32).reshape(1, 6, 1, 1), 2)),
        Case("six channels, three groups", (np.arange(6, dtype=f32).reshape(1, 6, 1, 1), 3)),
        Case("one group: nothing to mix", (_numbers(generator, 2, 4, 2, 2), 1)),
        Case("a batch of images", (_numbers(generator, 3, 8, 2, 3), 2)),
        Case("four groups of three", (_numbers(generator, 2, 12, 3, 1), 4)),
    ]


def _shuffled(x, groups, inverse=False):
    n, c, *image = x.shape
    first = c // groups if inverse else groups
    return x.reshape(n, first, c // first, *image).swapaxes(1, 2).reshape(x.shape).copy()


def _many_channels(generator: np.random.Generator) -> Case:
    return Case(
        "120,000 channels", (generator.normal(0, 1, (1, 120_000, 1, 1)).astype(np.float32), 4)
    )


SHUFFLE = Exercise(
    id="slim.shuffle",
    title="Groups that meet again",
    points=2,
    reference=shuffle,
    cases=_shuffle_cases,
    large=_many_channels,
    lines=3,
    mistakes=(
        Mistake(
            "the inverse shuffle",
            lambda x, g: _shuffled(x, g, inverse=True),
            "Channels lie as [groups, channels of a group]. You read them as [channels of a group, groups].",
        ),
        Mistake(
            "reshaped without swapping",
            lambda x, g: x.copy(),
            "Reshaping alone moves nothing: the two axes have to be swapped in between.",
        ),
        Mistake(
            "reshaped to swapped sizes",
            lambda x, g: x.swapaxes(0, 1).reshape(x.shape).copy(),
            "That mixes images of the batch. Swap the groups with the channels inside them.",
        ),
        Mistake(
            "groups moved as a whole",
            lambda x, g: np.roll(x, x.shape[1] // g, axis=1),
            "Whole groups have moved, so the next layer's groups see the same neighbours again.",
        ),
        Mistake(
            "in reverse",
            lambda x, g: x[:, ::-1].copy(),
            "Reversed channels stay in their groups. Take the first of every group, then the second of "
            "every group.",
        ),
    ),
)


# ---- a depthwise convolution -----------------------------------------------------------------------
def depthwise(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """One filter a channel, no padding."""
    channels, height, width = x.shape
    k = weight.shape[1]
    out = np.zeros((channels, height - k + 1, width - k + 1), f32)
    for i in range(k):
        for j in range(k):
            out += weight[:, i, j, None, None] * x[:, i : i + out.shape[1], j : j + out.shape[2]]
    return out


def _depthwise_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, channels: int, height: int, width: int, kernel: int) -> Case:
        x = _numbers(generator, channels, height, width)
        return Case(label, (x, _numbers(generator, channels, kernel, kernel)))

    return [
        case("a 1x1 kernel scales channels", 2, 2, 2, 1),
        case("one channel", 1, 4, 4, 3),
        case("three channels", 3, 5, 6, 3),
        case("the kernel covers the image", 2, 3, 3, 3),
        case("an even kernel", 2, 4, 5, 2),
    ]


def _large_image(generator: np.random.Generator) -> Case:
    x = generator.normal(0, 1, (32, 130, 130)).astype(np.float32)
    return Case(
        "32 channels of 130 x 130", (x, generator.normal(0, 1, (32, 3, 3)).astype(np.float32))
    )


def _padded(x, w):
    k = w.shape[1]
    around = ((0, 0), (k // 2, (k - 1) // 2), (k // 2, (k - 1) // 2))
    return depthwise(np.pad(x, around), w)


def _sums_channels(x, w):
    return np.repeat(depthwise(x, w).sum(0, keepdims=True), len(x), axis=0)


DEPTHWISE = Exercise(
    id="slim.depthwise",
    title="One filter a channel",
    points=2,
    reference=depthwise,
    cases=_depthwise_cases,
    large=_large_image,
    lines=6,
    tolerance=1e-4,
    mistakes=(
        Mistake(
            "channels added up",
            _sums_channels,
            "A standard convolution adds over the input channels; a depthwise one keeps each to itself.",
            also=(lambda x, w: depthwise(x, w).sum(0, keepdims=True),),
        ),
        Mistake(
            "one filter for all",
            lambda x, w: depthwise(x, np.broadcast_to(w[:1], w.shape)),
            "Every channel has its own filter: channel c uses weight[c].",
        ),
        Mistake(
            "the kernel flipped",
            lambda x, w: depthwise(x, w[:, ::-1, ::-1]),
            "Networks correlate: out[y, x] adds weight[i, j] * x[y + i, x + j], without flipping.",
        ),
        Mistake(
            "rows and columns swapped",
            lambda x, w: depthwise(x, w.swapaxes(1, 2)),
            "weight[c, i, j]: i goes down the rows, j along the columns.",
        ),
        Mistake(
            "the image's size kept",
            lambda x, w: _padded(x, w),
            "There is no padding here: the output is smaller by k - 1.",
        ),
        Mistake(
            "divided by the number of weights",
            lambda x, w: depthwise(x, w) / f32(w[0].size),
            "That is an average. The products are only added.",
        ),
    ),
)


# ---- what a stack sees -----------------------------------------------------------------------------
def receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many input pixels in a row one output sees."""
    field, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * step
        step *= stride
    return field


def _field_cases(generator: np.random.Generator) -> list[Case]:
    some = tuple(map(tuple, generator.integers(1, 5, (2, 4)).tolist()))
    return [
        Case("no layer", ((), ())),
        Case("one 3x3", ((3,), (1,))),
        Case("two 3x3", ((3, 3), (1, 1))),
        Case("a stride first", ((3, 3), (2, 1))),
        Case("a stride last: nothing comes after it", ((3, 3), (1, 2))),
        Case("convolution and pooling, twice", ((3, 2, 3, 2), (1, 2, 1, 2))),
        Case("some stack", some),
        Case("1x1 layers see nothing more", ((1, 3, 1), (1, 2, 1))),
    ]


def _field(kernels, strides, grow=lambda k: k - 1, before=False):
    field, step = 1, 1
    for k, s in zip(kernels, strides, strict=True):
        step *= s if before else 1
        field += grow(k) * step
        step *= 1 if before else s
    return field


RECEPTIVE_FIELD = Exercise(
    id="slim.receptive_field",
    title="What a stack sees",
    points=2,
    reference=receptive_field,
    cases=_field_cases,
    lines=4,
    mistakes=(
        Mistake(
            "strides ignored",
            lambda ks, ss: _field(ks, (1,) * len(ss)),
            "Behind a stride of 2 neighbours are two pixels of the image apart: the next kernel "
            "reaches twice as far.",
        ),
        Mistake(
            "kernels added up",
            lambda ks, ss: _field(ks, ss, grow=lambda k: k) - 1 if ks else 1,
            "A kernel of k adds k - 1 pixels: its first one was seen already.",
            also=(lambda ks, ss: sum(ks),),
        ),
        Mistake(
            "a layer's own stride counted for itself",
            lambda ks, ss: _field(ks, ss, before=True),
            "A layer's stride spreads what comes *after* it. Its own kernel still works on the finer grid.",
        ),
        Mistake(
            "the output's own pixel forgotten",
            lambda ks, ss: _field(ks, ss) - 1,
            "Without any layer an output is one pixel: begin at 1.",
        ),
        Mistake(
            "kernels multiplied",
            lambda ks, ss: int(np.prod(ks)) if ks else 1,
            "Two 3x3 kernels see 5 pixels in a row, not 9.",
        ),
    ),
)


# ---- sharing ---------------------------------------------------------------------------------------
def shared_cost(
    layers: tuple[str, ...], weights: tuple[int, ...], positions: int
) -> tuple[int, int]:
    """Each name's weights once; MACs every time."""
    first = dict(zip(layers, weights, strict=True))
    return sum(first.values()), positions * sum(weights)


def _shared_cases(generator: np.random.Generator) -> list[Case]:
    names = tuple(generator.choice(list("abc"), 7).tolist())
    sizes = dict(zip("abc", generator.integers(1, 90, 3).tolist(), strict=True))
    return [
        Case("nothing is shared", (("stem", "head"), (9, 20), 4)),
        Case("one block three times", (("a", "a", "a"), (10, 10, 10), 2)),
        Case("two in turn", (("a", "b", "a", "b"), (3, 5, 3, 5), 1)),
        Case("equal sizes, but not the same block", (("a", "b"), (7, 7), 3)),
        Case("some network", (names, tuple(sizes[n] for n in names), 6)),
        Case("a block behind others", (("stem", "a", "a", "head"), (9, 30, 30, 12), 5)),
    ]


SHARED_COST = Exercise(
    id="slim.shared_cost",
    title="Stored once, paid every time",
    points=1,
    reference=shared_cost,
    cases=_shared_cases,
    lines=2,
    returns="(weights in the file, MACs)",
    mistakes=(
        Mistake(
            "stored every time",
            lambda names, w, p: (sum(w), p * sum(w)),
            "A block that is used again lies in the file once.",
        ),
        Mistake(
            "computed once",
            lambda names, w, p: (
                sum(dict(zip(names, w, strict=True)).values()),
                p * sum(dict(zip(names, w, strict=True)).values()),
            ),
            "Its input is another one each time, so the work has to be done each time.",
        ),
        Mistake(
            "shared because equally large",
            lambda names, w, p: (sum(set(w)), p * sum(w)),
            "Two blocks of the same size are still two blocks. Only the same *name* is the same block.",
        ),
        Mistake(
            "neighbours only",
            lambda names, w, p: (
                sum(v for i, v in enumerate(w) if i == 0 or names[i] != names[i - 1]),
                p * sum(w),
            ),
            "A block can come back later, with another one in between.",
        ),
    ),
)

EXERCISES = (SEPARABLE_COST, SHUFFLE, DEPTHWISE, RECEPTIVE_FIELD, SHARED_COST)
