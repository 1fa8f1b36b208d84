"""Lab 02: clipping, folding, equalisation, integer products, requantization, a byte budget."""

import itertools
import math

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.kernels import int8, panels
from compresslab.techniques import folding


# ---- clipping ------------------------------------------------------------------------------------
def best_threshold(values: torch.Tensor, thresholds: torch.Tensor, high: int) -> int:
    """Which clipping threshold t loses least: values quantized symmetrically with s = t / high.

    Args:
        values: float32 [n].
        thresholds: positive float32 [candidates].
        high: the largest code; codes are -high..high.

    Returns:
        The index of the threshold with the smallest mean squared error, the first of equals.
    """
    scale = (thresholds / high)[:, None]
    back = (values[None] / scale).round().clamp(-high, high) * scale
    return int((back - values).square().mean(dim=1).argmin())


def _threshold_cases(generator: np.random.Generator) -> list[Case]:
    normal = torch.from_numpy(generator.normal(0, 1, 400).astype(np.float32))
    outlier = torch.cat([normal, torch.tensor([30.0])])
    return [
        Case(
            "four numbers, two thresholds",
            (torch.tensor([1.0, 2.0, -1.0, 3.0]), torch.tensor([1.0, 3.0]), 3),
        ),
        Case("a normal distribution, 4 bits", (normal, torch.linspace(0.5, 4.0, 15), 7)),
        Case("one outlier, 4 bits", (outlier, torch.linspace(1.0, 30.0, 30), 7)),
        Case("one outlier, 8 bits", (outlier, torch.linspace(1.0, 30.0, 30), 127)),
        Case("equally good: the first", (torch.zeros(3), torch.tensor([2.0, 1.0]), 7)),
    ]


def _round_trip(x: torch.Tensor, t: torch.Tensor, high: int, clip: bool = True) -> torch.Tensor:
    code = (x / (t / high)).round()
    return (code.clamp(-high, high) if clip else code) * (t / high)


def _many_activations(generator: np.random.Generator) -> Case:
    values = torch.from_numpy(generator.normal(0, 1, 20_000).astype(np.float32))
    # One fits far better than the others: sums in another order choose the same.
    return Case("20,000 activations, eight thresholds", (values, torch.arange(1.0, 9.0), 7))


BEST_THRESHOLD = Exercise(
    id="ptq.best_threshold",
    title="Where to clip",
    points=2,
    reference=best_threshold,
    cases=_threshold_cases,
    large=_many_activations,
    lines=4,
    mistakes=(
        Mistake(
            "nothing clipped",
            lambda x, ts, high: int(
                torch.stack(
                    [(_round_trip(x, t, high, False) - x).square().mean() for t in ts]
                ).argmin()
            ),
            "Without clipping the codes, a tiny threshold looks perfect. Codes stop at -high and high.",
        ),
        Mistake(
            "largest error",
            lambda x, ts, high: int(
                torch.stack([(_round_trip(x, t, high) - x).abs().max() for t in ts]).argmin()
            ),
            "You minimised the worst error, so the one outlier decides. Minimise the mean square.",
        ),
        Mistake(
            "widest",
            lambda x, ts, high: int(ts.argmax()),
            "The widest threshold clips nothing but has the coarsest steps. Measure each one's error.",
        ),
        Mistake(
            "tightest",
            lambda x, ts, high: int(ts.argmin()),
            "The tightest threshold has the finest steps but clips the most. Measure each one's error.",
        ),
    ),
)


# ---- folding -------------------------------------------------------------------------------------
def _fold_cases(generator: np.random.Generator) -> list[Case]:
    def numbers(*shape: int, low: float = -1.0) -> torch.Tensor:
        return torch.from_numpy(generator.uniform(low, 1, shape).astype(np.float32))

    def case(label: str, outputs: int, *rest: int, epsilon: float = 1e-5) -> Case:
        vectors = (numbers(outputs), numbers(outputs), numbers(outputs), numbers(outputs))
        gain, shift, mean, bias = vectors
        variance = numbers(outputs, low=0.2)
        weight = numbers(outputs, *rest)
        return Case(label, (weight, bias, gain, shift, mean, variance, epsilon))

    return [
        case("one channel", 1, 2),
        case("a linear layer, square", 3, 3),
        case("a convolution", 4, 2, 3, 3),
        case("a large epsilon", 2, 3, epsilon=0.5),
        case("as many outputs as kernel columns", 3, 2, 3, 3),
    ]


def _fold(
    w, b, gain, shift, mean, variance, eps, *, root=True, inside=True, scale_bias=True, axis=0
):
    spread = variance + eps if inside else variance
    spread = spread.sqrt() if root else spread
    spread = spread if inside else spread + eps
    factor = gain / spread
    shape = [1] * w.ndim
    shape[axis] = -1
    bias = (b - mean) * factor + shift if scale_bias else b - mean + shift
    return w * factor.reshape(shape), bias


def _many_channels(generator: np.random.Generator) -> Case:
    channels = 60_000
    weight = torch.from_numpy(generator.normal(0, 1, (channels, 1, 1, 1)).astype(np.float32))
    rest = torch.from_numpy(generator.uniform(0.5, 2, (5, channels)).astype(np.float32))
    return Case("60,000 channels", (weight, *rest, 1e-5))


FOLD_BATCH_NORM = Exercise(
    id="ptq.fold_batch_norm",
    title="Fold a batch norm into its convolution",
    points=2,
    reference=folding.fold_batch_norm,
    cases=_fold_cases,
    large=_many_channels,
    lines=3,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "variance, not its root",
            lambda *a: _fold(*a, root=False),
            "Batch norm divides by the standard deviation: the square root of variance + epsilon.",
        ),
        Mistake(
            "epsilon outside",
            lambda *a: _fold(*a, inside=False),
            "Epsilon is added to the variance, under the square root.",
        ),
        Mistake(
            "bias not scaled",
            lambda *a: _fold(*a, scale_bias=False),
            "The norm scales the convolution's bias and the mean too: (bias - mean) * factor + shift.",
        ),
        Mistake(
            "mean forgotten",
            lambda w, b, g, s, m, v, e: _fold(w, b, g, s, torch.zeros_like(m), v, e),
            "The norm subtracts its running mean first. It ends up in the bias.",
        ),
        Mistake(
            "the layer's own bias lost",
            lambda w, b, g, s, m, v, e: _fold(w, torch.zeros_like(b), g, s, m, v, e),
            "The convolution has a bias of its own: it is scaled, and stays.",
        ),
        Mistake(
            "shift forgotten",
            lambda w, b, g, s, m, v, e: _fold(w, b, g, torch.zeros_like(s), m, v, e),
            "The norm adds its shift at the end.",
        ),
        Mistake(
            "epsilon forgotten",
            lambda w, b, g, s, m, v, e: _fold(w, b, g, s, m, v, 0.0),
            "Batch norm divides by the root of variance + epsilon.",
        ),
        Mistake(
            "mean added",
            lambda w, b, g, s, m, v, e: _fold(w, b, g, s, -m, v, e),
            "The norm subtracts its running mean: (bias - mean) * factor + shift.",
        ),
    ),
)


# ---- equalisation --------------------------------------------------------------------------------
def _ranges_cases(generator: np.random.Generator) -> list[Case]:
    def ranges(count: int) -> torch.Tensor:
        return torch.from_numpy(generator.uniform(0.01, 10, count).astype(np.float32))

    return [
        Case("4 against 1", (torch.tensor([4.0]), torch.tensor([1.0]))),
        Case("1 against 4", (torch.tensor([1.0]), torch.tensor([4.0]))),
        Case("equal ranges", (torch.tensor([3.0, 3.0]), torch.tensor([3.0, 3.0]))),
        Case("a dead channel on either side", (torch.tensor([0.0, 2.0]), torch.tensor([5.0, 0.0]))),
        Case("random", (ranges(8), ranges(8))),
    ]


def _alive(r1: torch.Tensor, r2: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.where((r1 > 0) & (r2 > 0), t, torch.ones_like(t))


def _many_ranges(generator: np.random.Generator) -> Case:
    ranges = torch.from_numpy(generator.uniform(0.1, 2, (2, 60_000)).astype(np.float32))
    return Case("60,000 channels", tuple(ranges))


EQUALIZING_FACTORS = Exercise(
    id="ptq.equalizing_factors",
    title="Even out two layers",
    points=1,
    reference=folding.equalizing_factors,
    cases=_ranges_cases,
    large=_many_ranges,
    lines=2,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "no root",
            lambda a, b: _alive(a, b, a / b),
            "With t = r1 / r2 the first range becomes r2 and the second r1: swapped. They should meet.",
        ),
        Mistake(
            "upside down",
            lambda a, b: _alive(a, b, torch.sqrt(b / a)),
            "The first layer is divided by t: a channel with the larger r1 needs the larger t.",
        ),
        Mistake(
            "product",
            lambda a, b: _alive(a, b, torch.sqrt(a * b)),
            "sqrt(r1 r2) is the range both shall have afterwards. Which t makes r1 / t that?",
        ),
        Mistake(
            "dead channels",
            lambda a, b: torch.sqrt(a / b),
            "A range of 0 gives a factor of 0 or infinity. No factor changes it: use 1.",
        ),
    ),
)


# ---- integer products ----------------------------------------------------------------------------
def integer_matmul(
    x: np.ndarray, zero_point: int, weight: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """The library's kernel: sum of (x - z) w + b, int32 [M, N]."""
    packed = panels.pack_weight(weight)
    shift = zero_point * packed.sums[: len(weight)]
    return int8.matmul(x, packed) + (bias - shift)


def _product_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, m: int, n: int, k: int, zero: int) -> Case:
        x = generator.integers(0, 256, (m, k)).astype(np.uint8)
        w = generator.integers(-127, 128, (n, k)).astype(np.int8)
        b = generator.integers(-1000, 1000, n).astype(np.int32)
        return Case(label, (x, zero, w, b))

    full = Case(
        "the largest codes",
        (
            np.full((1, 300), 255, np.uint8),
            0,
            np.full((1, 300), 127, np.int8),
            np.zeros(1, np.int32),
        ),
    )
    # Odd and beyond 2^24, where float32 has no odd numbers any more.
    exact = Case(
        "a sum beyond float32's whole numbers",
        (
            np.full((1, 600), 255, np.uint8),
            0,
            np.append(np.full(599, 127), 126).astype(np.int8)[None],
            np.array([1], np.int32),
        ),
    )
    return [
        case("one number", 1, 1, 1, 0),
        case("a zero point", 1, 2, 3, 100),
        case("as many rows as outputs", 3, 3, 5, 128),
        full,
        exact,
        case("more rows", 7, 4, 33, 7),
    ]


def _product(x, z, w, b, *, zero=True, bias=True, dtype=np.int64):
    with np.errstate(over="ignore"):
        left = x.astype(dtype) - (np.asarray(z).astype(dtype) if zero else dtype(0))
        total = (left @ w.astype(dtype).T).astype(np.int64)
    return (total + (b if bias else 0)).astype(np.int32)


INTEGER_MATMUL = Exercise(
    id="ptq.integer_matmul",
    title="A matrix product of integers",
    points=3,
    reference=integer_matmul,
    cases=_product_cases,
    lines=7,
    compiled=True,
    mistakes=(
        Mistake(
            "zero point forgotten",
            lambda x, z, w, b: _product(x, z, w, b, zero=False),
            "The code z stands for 0.0: each product is (x - z) * w.",
        ),
        Mistake(
            "8-bit sums",
            lambda x, z, w, b: _product(x, z, w, b, dtype=np.int8),
            "Products of bytes do not fit into a byte: widen to int32 before you multiply.",
        ),
        Mistake(
            "16-bit sums",
            lambda x, z, w, b: _product(x, z, w, b, dtype=np.int16),
            "One product fits into 16 bits; the sum of many does not. Sum in int32.",
        ),
        Mistake(
            "float sums",
            lambda x, z, w, b: _product(x, z, w, b, dtype=np.float32),
            "A float32 holds whole numbers up to 2^24 only: sum in int32.",
        ),
        Mistake(
            "zero point once",
            lambda x, z, w, b: _product(x, z, w, b, zero=False) - np.int32(z),
            "Every x has the zero point in it: subtract it from each, not once from the sum.",
        ),
        Mistake(
            "bias forgotten",
            lambda x, z, w, b: _product(x, z, w, b, bias=False),
            "Every output starts at its bias, not at 0.",
        ),
    ),
)


def requantize(
    acc: np.ndarray, multiplier: np.ndarray, zero_point: int, low: int, high: int
) -> np.ndarray:
    """Codes of int32 sums, as the kernel's epilogue computes them."""
    code = np.rint(acc.astype(np.float32) * multiplier) + np.float32(zero_point)
    return np.clip(code, low, high).astype(np.uint8)


def _sum_cases(generator: np.random.Generator) -> list[Case]:
    f32 = np.float32
    acc = generator.integers(-20000, 20000, (4, 3)).astype(np.int32)
    factors = generator.uniform(0.002, 0.01, 3).astype(f32)
    square = generator.integers(-9000, 9000, (3, 3)).astype(np.int32)
    return [
        Case("no zero point", (np.array([[100, 250]], np.int32), f32([0.1, 0.1]), 0, 0, 255)),
        Case("ties go to even", (np.array([[5, 15, 25]], np.int32), f32([0.5] * 3), 4, 0, 255)),
        Case(
            "ties beside an odd zero point",
            (np.array([[1, 3, 5]], np.int32), f32([0.5] * 3), 3, 0, 255),
        ),
        Case("negative results with a zero point", (-acc, factors, 128, 0, 255)),
        Case("a fused ReLU: low is the zero point", (acc, factors, 100, 100, 255)),
        Case("4-bit codes", (acc, factors * f32(0.1), 3, 0, 15)),
        Case("as many rows as outputs", (square, factors, 60, 0, 255)),
    ]


def _many_sums(generator: np.random.Generator) -> Case:
    # Multipliers are powers of two: the product is the same in any precision.
    acc = generator.integers(-40_000, 40_000, (2_000, 1_000)).astype(np.int32)
    multiplier = (2.0 ** -generator.integers(6, 10, 1_000)).astype(np.float32)
    return Case("two thousand rows of a thousand outputs", (acc, multiplier, 128, 0, 255))


def _codes(real: np.ndarray, zero: float, low: int, high: int) -> np.ndarray:
    return np.clip(real + zero, low, high).astype(np.uint8)


REQUANTIZE = Exercise(
    id="ptq.requantize",
    title="From sums to the next layer's codes",
    points=2,
    reference=requantize,
    cases=_sum_cases,
    large=_many_sums,
    lines=2,
    mistakes=(
        Mistake(
            "truncated",
            lambda acc, m, z, low, high: _codes(np.trunc(acc * m), z, low, high),
            "Conversion to an integer cuts towards zero. Round to the nearest with np.rint.",
        ),
        Mistake(
            "wrapped around",
            lambda acc, m, z, low, high: (np.rint(acc * m) + z).astype(np.int64).astype(np.uint8),
            "Sums outside the codes wrapped around in uint8. Clip to low..high first.",
        ),
        Mistake(
            "ReLU at code 0",
            lambda acc, m, z, low, high: _codes(np.rint(acc * m), z, 0, high),
            "The real number 0 has the code of the zero point, so that is where ReLU stops: `low` says it.",
        ),
        Mistake(
            "zero point forgotten",
            lambda acc, m, z, low, high: _codes(np.rint(acc * m), 0, low, high),
            "The code of 0.0 is the zero point: add it after rounding.",
        ),
        Mistake(
            "zero point before rounding",
            lambda acc, m, z, low, high: _codes(np.rint(acc * m + np.float32(z)), 0, low, high),
            "With an odd zero point, adding it before rounding turns ties the other way: round, then add.",
        ),
        Mistake(
            "clipped before the zero point",
            lambda acc, m, z, low, high: (
                (np.clip(np.rint(acc * m), low, high) + z).astype(np.int64).astype(np.uint8)
            ),
            "The sum with the zero point may leave low..high again: clip last.",
        ),
        Mistake(
            "divided",
            lambda acc, m, z, low, high: _codes(np.rint(acc / m), z, low, high),
            "The multiplier is s_x s_w / s_y: multiply by it.",
        ),
        Mistake(
            "ties up",
            lambda acc, m, z, low, high: _codes(np.floor(acc * m + np.float32(0.5)), z, low, high),
            "floor(x + 0.5) sends ties upwards. np.rint sends them to even.",
        ),
    ),
)


# ---- a byte budget -------------------------------------------------------------------------------
def exhaustive(loss: np.ndarray, size: np.ndarray, budget: int) -> np.ndarray:
    """The choice with the least total loss whose total size fits, by trying all of them.

    Args:
        loss: float64 [layers, widths], what each layer loses at each width.
        size: int64 [layers, widths], the bytes it takes there.
        budget: bytes for all layers.

    Returns:
        int64 [layers], the chosen width of each layer; of equal losses the first in order.

    Raises:
        ValueError: if nothing fits.
    """
    layers = np.arange(len(loss))
    fitting = (
        choice
        for choice in itertools.product(range(loss.shape[1]), repeat=len(loss))
        if size[layers, choice].sum() <= budget
    )
    best = min(fitting, key=lambda choice: loss[layers, choice].sum(), default=None)
    if best is None:
        raise ValueError(f"budget must be at least {size.min(axis=1).sum()} bytes, got {budget}")
    return np.array(best, np.int64)


def _budget_cases(generator: np.random.Generator) -> list[Case]:
    loss = np.sort(generator.uniform(0, 10, (4, 3)), axis=1)
    size = -np.sort(-generator.integers(10, 1000, (4, 3)), axis=1)
    cheap = np.array([[0.0, 5.0], [0.0, 0.1]])
    return [
        Case("one layer", (np.array([[0.0, 1.0]]), np.array([[100, 50]]), 60)),
        Case("two layers: squeeze the patient one", (cheap, np.array([[100, 50], [100, 50]]), 150)),
        Case("everything fits", (cheap, np.array([[100, 50], [100, 50]]), 200)),
        Case("equals: the first", (np.zeros((2, 2)), np.array([[9, 5], [9, 5]]), 14)),
        Case("four layers", (loss, size, int(size.sum(axis=0)[1]))),
        Case("four layers, tight", (loss, size, int(size.min(axis=1).sum()) + 200)),
    ]


def _same_everywhere(loss: np.ndarray, size: np.ndarray, budget: int) -> np.ndarray:
    for width in range(loss.shape[1]):
        if size[:, width].sum() <= budget:
            return np.full(len(loss), width, np.int64)
    return np.full(len(loss), loss.shape[1] - 1, np.int64)


SPEND_BUDGET = Exercise(
    id="ptq.spend_budget",
    title="Spend a byte budget where it hurts least",
    points=3,
    reference=exhaustive,
    cases=_budget_cases,
    lines=6,
    mistakes=(
        Mistake(
            "budget ignored",
            lambda loss, size, budget: loss.argmin(axis=1).astype(np.int64),
            "These are the widths with the least loss, but together they do not fit the budget.",
        ),
        Mistake(
            "smallest everywhere",
            lambda loss, size, budget: size.argmin(axis=1).astype(np.int64),
            "That fits, with bytes to spare. Spend them where they save the most loss.",
        ),
        Mistake(
            "one width for all",
            _same_everywhere,
            "Layers may have different widths: that is the point of mixed precision.",
        ),
        Mistake(
            "the last of equals",
            lambda loss, size, budget: (
                loss.shape[1] - 1 - exhaustive(loss[:, ::-1], size[:, ::-1], budget)
            ),
            "Several choices lose equally little: keep the first in order, so compare with <.",
        ),
        Mistake(
            "largest layer only",
            lambda loss, size, budget: _shrink_largest(loss, size, budget),
            "Shrinking the largest layer first ignores how much it loses. Try all combinations.",
        ),
    ),
)


def _shrink_largest(loss: np.ndarray, size: np.ndarray, budget: int) -> np.ndarray:
    choice = np.zeros(len(loss), np.int64)
    layers = np.arange(len(loss))
    while size[layers, choice].sum() > budget:
        can = np.where(choice < loss.shape[1] - 1, size[layers, choice], -math.inf)
        choice[int(np.argmax(can))] += 1
    return choice


EXERCISES = (
    BEST_THRESHOLD,
    FOLD_BATCH_NORM,
    EQUALIZING_FACTORS,
    INTEGER_MATMUL,
    REQUANTIZE,
    SPEND_BUDGET,
)
