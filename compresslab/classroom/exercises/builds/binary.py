"""Lab 10: XNOR's layer, from real weights to packed words and back to real outputs."""

from collections.abc import Callable

import numpy as np

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.kernels import xnor

STORED, SIGNS, REALS = "what is stored", "inputs of +1 and -1", "any inputs"


def xnor_layer(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, Callable]:
    """The library's: words uint64 [outputs, words], alpha float32 [outputs], run(x) -> float32."""
    words, alpha = xnor.pack_rows(weight, magnitudes=True)
    inputs = weight.shape[1]

    def run(x: np.ndarray) -> np.ndarray:
        rows, beta = xnor.pack_rows(x, magnitudes=True)
        dots = xnor.matmul(rows, xnor.pack_weight(words, inputs))
        return beta[:, None] * alpha * dots.astype(np.float32)

    return words, alpha, run


def at_work(function: Callable) -> Callable:
    """What is stored, or what comes out."""

    def run(stage, weight, x):
        words, alpha, layer = function(weight)
        return (words, alpha) if stage == "what is stored" else layer(x)

    return run


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(stage: str, label: str, rows: int, outputs: int, inputs: int) -> Case:
        weight = generator.normal(0, 0.3, (outputs, inputs)).astype(np.float32)
        x = generator.normal(0, 1, (rows, inputs)).astype(np.float32)
        x = np.where(x >= 0, np.float32(1), np.float32(-1)) if stage == SIGNS else x
        return Case(label, (stage, weight, x), stage)

    zero = case(STORED, "a weight of 0 counts as +1", 1, 2, 3)
    zero.args[1][0, 1] = 0
    return [
        zero,
        case(STORED, "three inputs", 1, 2, 3),
        case(STORED, "exactly one word", 1, 3, 64),
        case(STORED, "a word and a bit", 1, 3, 65),
        case(STORED, "150 inputs", 1, 4, 150),
        case(SIGNS, "one output, three inputs", 2, 1, 3),
        case(SIGNS, "64 inputs", 3, 4, 64),
        case(SIGNS, "100 inputs", 3, 5, 100),
        case(REALS, "three real inputs", 2, 2, 3),
        case(REALS, "130 real inputs", 4, 3, 130),
        case(REALS, "128 real inputs", 2, 6, 128),
    ]


def _signs(x, at_zero=1.0):
    return np.where(x > 0, 1.0, np.where(x < 0, -1.0, at_zero))


def _words(x, at_zero=1.0, order="little", ones=True):
    bits = _signs(x, at_zero) > 0
    bits = bits if ones else ~bits
    padded = np.zeros((len(x), -(-x.shape[1] // 64) * 64), bool)
    padded[:, : x.shape[1]] = bits
    return np.packbits(padded, axis=1, bitorder=order).view(np.uint64)


def _built(
    words: Callable = _words,
    alpha: Callable = lambda w: np.abs(w).mean(1),
    beta: Callable = lambda x: np.abs(x).mean(1, keepdims=True),
    dots: Callable = lambda x, w: _signs(x) @ _signs(w).T,
) -> Callable:
    """The way with floats, with one thing or another done differently."""

    def layer(weight):
        a = alpha(weight).astype(np.float32)
        return words(weight), a, lambda x: (beta(x) * a * dots(x, weight)).astype(np.float32)

    return layer


def _width(x):
    return -(-x.shape[1] // 64) * 64


XNOR_LAYER = Exercise(
    id="binary.xnor_layer",
    title="XNOR's layer, from packing to output",
    points=16,
    reference=xnor_layer,
    cases=_cases,
    harness=at_work,
    lines=15,
    tolerance=1e-4,
    stages=((STORED, 4), (SIGNS, 8), (REALS, 4)),
    mistakes=(
        Mistake(
            "the highest bit first",
            _built(words=lambda w: _words(w, order="big")),
            "Input k is bit k % 64 of its word, the lowest first: `bitorder='little'`.",
        ),
        Mistake(
            "a 1 for -1",
            _built(words=lambda w: _words(w, ones=False)),
            "A 1 stands for +1 and a 0 for -1.",
        ),
        Mistake(
            "0 taken for -1",
            _built(words=lambda w: _words(w, at_zero=-1.0)),
            "The sign of 0 is +1 here: a bit is set where the weight is at least 0.",
        ),
        Mistake(
            "the mean without absolute values",
            _built(alpha=lambda w: w.mean(1)),
            "alpha is the mean of the *absolute* values of a row.",
        ),
        Mistake(
            "the largest instead of the mean",
            _built(alpha=lambda w: np.abs(w).max(1)),
            "The scale with the least squared error is the mean of the absolute values, not the largest.",
        ),
        Mistake(
            "one scale for all",
            _built(alpha=lambda w: np.full(len(w), np.abs(w).mean())),
            "Each output has a scale of its own.",
        ),
        Mistake(
            "padding counted as agreement",
            _built(dots=lambda x, w: _signs(x) @ _signs(w).T + (_width(w) - w.shape[1])),
            "The bits behind the last input agree in x and in the weight, and are no inputs: n counts "
            "inputs, not bits.",
            also=(_built(dots=lambda x, w: _signs(x) @ _signs(w).T - (_width(w) - w.shape[1])),),
        ),
        Mistake(
            "counted without a sign",
            _built(dots=lambda x, w: (d := _signs(x) @ _signs(w).T) + 2.0**64 * (d < 0)),
            "`np.bitwise_count` counts in unsigned numbers, and n minus twice the count wraps around: make "
            "the counts int64 first.",
        ),
        Mistake(
            "agreements instead of the product",
            _built(dots=lambda x, w: (_signs(x) @ _signs(w).T + w.shape[1]) / 2),
            "Agreements count +1 and all others -1: n - 2 * popcount(xor).",
        ),
        Mistake(
            "disagreements minus agreements",
            _built(dots=lambda x, w: -(_signs(x) @ _signs(w).T)),
            "xor is 1 where the signs *differ*: those are what is subtracted.",
        ),
        Mistake(
            "beta forgotten",
            _built(beta=lambda x: 1.0),
            "For inputs that are not +1 and -1 the row's mean absolute value, beta, is a factor, too.",
        ),
        Mistake(
            "one beta for all rows",
            _built(beta=lambda x: np.abs(x).mean()),
            "Each row of x has a beta of its own: what one example gives must not depend on the others.",
        ),
    ),
)

EXERCISES = (XNOR_LAYER,)
