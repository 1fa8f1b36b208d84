"""Lab 10: signs in words, XNOR and popcount, the optimal scale, the gradient of a sign, thresholds."""

from collections.abc import Callable

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.harnesses import with_gradient
from compresslab.kernels import xnor
from compresslab.runtime.bits import integer_thresholds
from compresslab.techniques import binarize

f32 = np.float32


# ---- signs in words ------------------------------------------------------------------------------
def pack_signs(x: np.ndarray) -> np.ndarray:
    """The library's packing: uint64 [M, ceil(K / 64)]."""
    return xnor.pack_signs(x)


def _sign_cases(generator: np.random.Generator) -> list[Case]:
    def numbers(m: int, k: int) -> np.ndarray:
        return generator.normal(0, 1, (m, k)).astype(f32)

    return [
        Case("one whole word", (numbers(1, 64),)),
        Case("zeros of both signs", (np.tile(f32([[0.0, -0.0, 1.0, -1.0]]), (1, 16)),)),
        Case("three numbers: 61 bits to spare", (f32([[1, -2, 3]]),)),
        Case("two rows of 65", (numbers(2, 65),)),
        Case("five rows of 130", (numbers(5, 130),)),
    ]


def _many_signs(generator: np.random.Generator) -> Case:
    return Case("six million numbers", (generator.normal(0, 1, (1_500, 4_000)).astype(np.float32),))


def _packed(x, *, above=False, big=False, fill=0, inverted=False):
    positive = x > 0 if above else x >= 0
    positive = ~positive if inverted else positive
    bits = np.full((len(x), -(-x.shape[1] // 64) * 64), fill, np.uint8)
    bits[:, : x.shape[1]] = positive
    if big:
        bits = bits.reshape(len(x), -1, 64)[..., ::-1].reshape(len(x), -1)
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)


PACK_SIGNS = Exercise(
    id="binary.pack_signs",
    digits=64,
    title="Sixty-four signs in a word",
    points=2,
    reference=pack_signs,
    cases=_sign_cases,
    large=_many_signs,
    lines=4,
    mistakes=(
        Mistake(
            "zero counted as minus",
            lambda x: _packed(x, above=True),
            "sign(0) is +1 here: the bit is 1 where x >= 0.",
        ),
        Mistake(
            "unused bits set",
            lambda x: _packed(x, fill=1),
            "The bits beyond K must be 0 in every operand, so that they agree and count for nothing. (A "
            "padding of zeros *before* the comparison gives ones.)",
        ),
        Mistake(
            "words back to front",
            lambda x: _packed(x, big=True),
            "Element 64 w + b is bit b of word w, counted from the least significant: "
            "np.packbits has a bitorder.",
            also=(
                lambda x: np.packbits(np.pad(x >= 0, [(0, 0), (0, -x.shape[1] % 64)]), axis=1).view(
                    np.uint64
                ),
            ),
        ),
        Mistake(
            "minus is one",
            lambda x: _packed(x, inverted=True),
            "The other way round: bit 1 stands for +1.",
        ),
        Mistake(
            "rows run together",
            lambda x: _packed(x.reshape(1, -1)).reshape(1, -1),
            "Every row starts a word of its own, or its dot product would begin in the middle of one.",
        ),
    ),
)


# ---- XNOR and popcount ---------------------------------------------------------------------------
def xnor_matmul(a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """The library's product of sign words: int32 [M, N]."""
    return xnor.matmul(a, xnor.pack_weight(b, count))


def _product_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, m: int, n: int, k: int) -> Case:
        one, two = (generator.normal(0, 1, (rows, k)).astype(f32) for rows in (m, n))
        return Case(label, (xnor.pack_signs(one), xnor.pack_signs(two), k))

    same = xnor.pack_signs(generator.normal(0, 1, (1, 64)).astype(f32))
    return [
        Case("a row with itself: all 64 agree", (same, same.copy(), 64)),
        case("one number", 1, 1, 1),
        case("five numbers: 59 bits to spare", 2, 3, 5),
        case("three words", 3, 2, 192),
        case("more outputs than rows", 2, 7, 100),
    ]


def _bit_product(a, b, count, rule: Callable, last: bool = False):
    different = np.bitwise_count(a[:, None] ^ b[None]).astype(np.int64)
    different = different[..., -1] if last else different.sum(2)
    return rule(different, count, 64 * a.shape[1]).astype(np.int32)


XNOR_MATMUL = Exercise(
    id="binary.xnor_matmul",
    title="A matrix product of bits",
    points=3,
    reference=xnor_matmul,
    cases=_product_cases,
    lines=7,
    compiled=True,
    mistakes=(
        Mistake(
            "agreements counted",
            lambda a, b, k: _bit_product(a, b, k, lambda d, k, w: k - d),
            "That is how many agree. Each one that differs also takes one away: K - 2 * differences.",
        ),
        Mistake(
            "differences counted",
            lambda a, b, k: _bit_product(a, b, k, lambda d, k, w: d),
            "That is how many differ. Of K products so many are -1, and the others +1.",
        ),
        Mistake(
            "padding counted",
            lambda a, b, k: _bit_product(a, b, k, lambda d, k, w: w - 2 * d),
            "Unused bits agree, and you counted them as products: K is not the number of bits in the words.",
            also=(lambda a, b, k: _bit_product(a, b, k, lambda d, k, w: 2 * (w - d) - k),),
        ),
        Mistake(
            "one word only",
            lambda a, b, k: _bit_product(a, b, k, lambda d, k, w: k - 2 * d, last=True),
            "A row has several words: add their counts up before you use the sum.",
        ),
        Mistake(
            "and instead of xor",
            lambda a, b, k: (
                k - 2 * np.bitwise_count(a[:, None] & b[None]).astype(np.int64).sum(2)
            ).astype(np.int32),
            "AND counts places where both are +1. XOR finds those that differ.",
        ),
        Mistake(
            "sign turned",
            lambda a, b, k: _bit_product(a, b, k, lambda d, k, w: 2 * d - k),
            "Where bits differ the product is -1: that must lower the sum.",
        ),
    ),
)


# ---- the optimal scale ---------------------------------------------------------------------------
def best_scale(weight: np.ndarray) -> np.ndarray:
    """The library's alpha of each output."""
    return binarize.channel_scale(torch.from_numpy(weight)).numpy()


def _weight_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("one output", (f32([[0.5, -1.5, 1.0]]),)),
        Case("outputs of different size", (f32([[1, -1, 3, 1], [10, -20, 10, 0]]),)),
        Case("all zero", (np.zeros((2, 3), f32),)),
        Case("a convolution", (generator.normal(0, 1, (4, 3, 3, 3)).astype(f32),)),
    ]


def _rows(w):
    return w.reshape(len(w), -1)


def _many_filters(generator: np.random.Generator) -> Case:
    return Case("300 filters of 1,000", (generator.normal(0, 1, (300, 1_000)).astype(np.float32),))


BEST_SCALE = Exercise(
    id="binary.best_scale",
    title="The best scale for a row of signs",
    points=1,
    reference=best_scale,
    cases=_weight_cases,
    large=_many_filters,
    lines=1,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "mean of the weights",
            lambda w: _rows(w).mean(1),
            "W times its own sign is its magnitude: average those.",
        ),
        Mistake(
            "root mean square",
            lambda w: np.sqrt(np.square(_rows(w)).mean(1)),
            "That keeps the length of W; the nearest multiple of s is the projection, W.s / n.",
        ),
        Mistake(
            "largest magnitude",
            lambda w: np.abs(_rows(w)).max(1),
            "That would be min-max. The error is least at the mean magnitude.",
        ),
        Mistake(
            "one scale for all",
            lambda w: np.full(len(w), np.abs(w).mean(), f32),
            "Every output has a scale of its own.",
        ),
        Mistake(
            "not divided",
            lambda w: np.abs(_rows(w)).sum(1),
            "s.s is n, the number of weights of an output: divide by it.",
        ),
    ),
)


# ---- the gradient of a sign ----------------------------------------------------------------------
def binary_sign(x: torch.Tensor) -> torch.Tensor:
    """The library's sign."""
    return binarize.sign(x)


def _gradient_cases(generator: np.random.Generator) -> list[Case]:
    random = torch.from_numpy(generator.normal(0, 1.2, (4, 5)).astype(f32))
    return [
        Case("small numbers", (torch.tensor([0.3, -0.4, 0.9]),)),
        Case("zero", (torch.tensor([0.0, 0.5, -0.5]),)),
        Case("beyond one on both sides", (torch.tensor([-1.5, 0.2, 1.5, -7.0]),)),
        Case("hardly below zero", (torch.tensor([-1e-7, 1e-7, -0.2]),)),
        Case("random, two dimensions", (random,)),
    ]


def _through(x, value, slope):
    return value.detach() + slope - slope.detach()


def _hard(x):
    return torch.where(x >= 0, 1.0, -1.0)


def _many_inputs(generator: np.random.Generator) -> Case:
    return Case("300,000 numbers", (torch.from_numpy(generator.normal(0, 1, 300_000)).float(),))


SIGN_GRADIENT = Exercise(
    id="binary.binary_sign",
    title="A sign that can be trained",
    points=2,
    reference=binary_sign,
    cases=_gradient_cases,
    large=_many_inputs,
    lines=2,
    tolerance=1e-5,
    harness=with_gradient,
    returns="(value, gradient of its weighted sum)",
    mistakes=(
        Mistake(
            "true gradient",
            _hard,
            "The numbers are right, and the gradient is 0 everywhere. Let clamp(x, -1, 1) supply the "
            "gradient, and the sign the value.",
        ),
        Mistake(
            "zero stays zero",
            lambda x: _through(x, torch.sign(x), x.clamp(-1, 1)),
            "torch.sign(0) is 0, and one bit cannot say 0: take x >= 0.",
            also=(
                lambda x: torch.sign(x),
                lambda x: _through(x, torch.sign(x), x),
            ),
        ),
        Mistake(
            "not clipped",
            lambda x: _through(x, _hard(x), x),
            "Where |x| > 1 the gradient must stop: pushing x further out changes nothing any more.",
        ),
        Mistake(
            "not a sign",
            lambda x: x.clamp(-1, 1),
            "This is the backward half. The value must be -1 or +1.",
            also=(torch.tanh,),
        ),
        Mistake(
            "smooth gradient",
            lambda x: _through(x, _hard(x), torch.tanh(x)),
            "A possible choice, but not the straight-through estimator's: inside [-1, 1] the slope is 1.",
        ),
    ),
)


# ---- one step of BinaryConnect -------------------------------------------------------------------
def connect_step(weight: torch.Tensor, gradient: torch.Tensor, lr: float) -> torch.Tensor:
    """A step of BinaryConnect: the real weight moves and is clipped (algorithm 1)."""
    return (weight - lr * gradient).clamp(-1, 1)


def _step_cases(generator: np.random.Generator) -> list[Case]:
    def numbers(spread: float) -> torch.Tensor:
        return torch.from_numpy(generator.normal(0, spread, (3, 4)).astype(f32))

    return [
        Case("a small step", (torch.tensor([0.2, -0.3, 0.1]), torch.tensor([1.0, -1.0, 2.0]), 0.1)),
        Case(
            "steps beyond one",
            (torch.tensor([0.9, -0.9, 0.5]), torch.tensor([-3.0, 4.0, 0.1]), 0.1),
        ),
        Case(
            "weights at the border",
            (torch.tensor([1.0, -1.0, 1.0]), torch.tensor([-1.0, -2.0, 0.0]), 0.5),
        ),
        Case(
            "weights that begin outside", (torch.tensor([1.5, -2.0]), torch.tensor([0.7, 0.3]), 0.1)
        ),
        Case("random", (numbers(0.6).clamp(-1, 1), numbers(2.0), 0.3)),
    ]


def _many_weights(generator: np.random.Generator) -> Case:
    weight, gradient = torch.from_numpy(generator.normal(0, 1, (2, 200, 1_000)).astype(np.float32))
    return Case("200,000 weights", (weight.clamp(-1, 1), gradient, 0.1))


CONNECT_STEP = Exercise(
    id="binary.connect_step",
    title="A step of BinaryConnect",
    points=1,
    reference=connect_step,
    cases=_step_cases,
    large=_many_weights,
    lines=1,
    tolerance=1e-6,
    mistakes=(
        Mistake(
            "not clipped",
            lambda w, g, lr: w - lr * g,
            "A real weight beyond 1 would take many steps to come back, and its sign says nothing more.",
        ),
        Mistake(
            "clipped before the step",
            lambda w, g, lr: w.clamp(-1, 1) - lr * g,
            "The weight that comes out must lie within -1 and 1: clip after the step.",
        ),
        Mistake(
            "the sign moved",
            lambda w, g, lr: (_hard(w) - lr * g).clamp(-1, 1),
            "The step is taken by the real weight. A sign that moves by lr is the same sign again, and the "
            "small steps would never add up.",
            also=(lambda w, g, lr: _hard(w) - lr * g,),
        ),
        Mistake(
            "uphill",
            lambda w, g, lr: (w + lr * g).clamp(-1, 1),
            "Descent goes against the gradient.",
        ),
        Mistake(
            "binarized again",
            lambda w, g, lr: _hard(w - lr * g),
            "Keep the real weight: it is the memory in which small steps add up. The forward pass binarizes.",
        ),
        Mistake(
            "learning rate forgotten",
            lambda w, g, lr: (w - g).clamp(-1, 1),
            "The step is the learning rate times the gradient.",
        ),
        Mistake(
            "gradient clipped",
            lambda w, g, lr: w - lr * g.clamp(-1, 1),
            "It is the weight that must stay within -1 and 1, not the gradient.",
        ),
        Mistake(
            "gradient stopped at the border",
            lambda w, g, lr: (w - lr * g * (w.abs() < 1)).clamp(-1, 1),
            "A weight at the border may come back: clip after the step, not the gradient.",
        ),
    ),
)


# ---- thresholds ----------------------------------------------------------------------------------
def sign_threshold(
    alpha: np.ndarray,
    gain: np.ndarray,
    shift: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The library's search over every value of the dot product."""
    numbers = (torch.from_numpy(np.asarray(v, np.float64)) for v in (alpha, gain, shift, mean))
    a, g, b, m = numbers
    sd = torch.from_numpy(np.asarray(deviation, np.float64))
    return integer_thresholds(lambda dot: g * (a * dot.double() - m) / sd + b, count, len(alpha))


def _norm_cases(generator: np.random.Generator) -> list[Case]:
    f64 = np.float64

    def random(label: str, channels: int, signs: np.ndarray) -> Case:
        alpha, deviation = generator.uniform(0.1, 1, (2, channels))
        gain = generator.uniform(0.5, 2, channels) * signs
        border = generator.uniform(-30, 30, channels)
        mean = generator.normal(0, 1, channels)
        return Case(
            label, (alpha, gain, gain * (mean - alpha * border) / deviation, mean, deviation, 64)
        )

    one = f64([1.0])
    return [
        random("one channel", 1, np.ones(1)),
        Case(
            "the sign of 0 is +1: a border that is whole", (one, 2 * one, -6 * one, 0 * one, one, 9)
        ),
        Case("the same, turned round", (one, -2 * one, 6 * one, 0 * one, one, 9)),
        random("negative gains", 3, -np.ones(3)),
        random("both", 8, np.where(np.arange(8) % 2, 1.0, -1.0)),
    ]


def _many_sums(generator: np.random.Generator) -> Case:
    channels, count = 1_500, 1_500
    alpha, deviation = generator.uniform(0.1, 1, (2, channels))
    gain = generator.uniform(0.5, 2, channels) * generator.choice([-1.0, 1.0], channels)
    shift, mean = generator.normal(0, 20, (2, channels))
    label = "1,500 channels with 1,500 inputs each"
    return Case(label, (alpha, gain, shift, mean, deviation, count))


def _threshold(a, g, b, m, s, k, *, scale=True, turned="right", rounding="right", mean=True):
    border = ((m if mean else 0 * m) - b * s / g) / (a if scale else 1)
    up, down = np.ceil(border), np.floor(border) + 1
    if rounding == "floor":
        up = down = np.floor(border)
    if rounding == "trunc":
        up, down = np.trunc(border), np.trunc(border)
    if rounding == "floor for flips":
        return np.where(g > 0, up, np.floor(border)).astype(np.int64), g < 0
    if rounding == "rint":
        up = down = np.rint(border)
    if turned == "right" and rounding == "right":
        first = np.where(g > 0, up, down)
    else:
        first = up
    flip = g < 0 if turned in ("right", "ceil") else np.zeros(len(g), bool)
    return first.astype(np.int64), flip


SIGN_THRESHOLD = Exercise(
    id="binary.sign_threshold",
    title="A batch norm and a sign in one comparison",
    points=3,
    reference=sign_threshold,
    cases=_norm_cases,
    large=_many_sums,
    lines=5,
    returns="(threshold of each channel, whether it is turned round)",
    mistakes=(
        Mistake(
            "negative gains not turned",
            lambda *v: _threshold(*v, turned="never"),
            "Where the gain is negative the norm falls as the dot product rises: +1 is *below* the border, "
            "and flip must say so.",
        ),
        Mistake(
            "border on the wrong side",
            lambda *v: _threshold(*v, turned="ceil"),
            "For a negative gain, +1 holds up to the border itself: the flipped comparison starts at the "
            "next whole number *above* it, floor(border) + 1.",
        ),
        Mistake(
            "flip inverted",
            lambda *v: (_threshold(*v)[0], ~_threshold(*v)[1]),
            "The thresholds are right. flip is True where the gain is negative.",
        ),
        Mistake(
            "truncated",
            lambda *v: _threshold(*v, rounding="trunc"),
            "astype cuts towards 0, which for a negative border is the wrong way: round up first.",
        ),
        Mistake(
            "down for negative gains",
            lambda *v: _threshold(*v, rounding="floor for flips"),
            "floor(border) itself still gives +1 there: the flipped comparison starts one above it.",
        ),
        Mistake(
            "rounded down",
            lambda *v: _threshold(*v, rounding="floor"),
            "The dot product is whole and must *reach* the border: round the border up.",
        ),
        Mistake(
            "rounded to nearest",
            lambda *v: _threshold(*v, rounding="rint"),
            "A border of 3.2 is not reached by 3: round it up, not to the nearest.",
        ),
        Mistake(
            "alpha forgotten",
            lambda *v: _threshold(*v, scale=False),
            "The norm sees alpha times the dot product: divide the border by alpha.",
        ),
        Mistake(
            "mean forgotten",
            lambda *v: _threshold(*v, mean=False),
            "The norm subtracts its mean first.",
        ),
    ),
)

EXERCISES = (PACK_SIGNS, XNOR_MATMUL, BEST_SCALE, SIGN_GRADIENT, CONNECT_STEP, SIGN_THRESHOLD)
