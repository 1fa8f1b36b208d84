"""Lab 11: rounding in groups, salient columns, GPTQ on a row, scales that move, a 4-bit product."""

import math
from collections.abc import Callable

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.harnesses import with_rounding
from compresslab.kernels import lowbit
from compresslab.techniques import gptq, smoothing
from compresslab.techniques.weight_only import WeightConfig, round_to_nearest

f32 = np.float32


def _numbers(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(0, 1, shape).astype(f32)


# ---- rounding in groups ----------------------------------------------------------------------------
def round_groups(weight: np.ndarray, bits: int, group: int) -> np.ndarray:
    """The library's rounding to nearest, as floats."""
    config = WeightConfig(bits, group)
    return round_to_nearest(torch.from_numpy(weight), config).dequantize().numpy()


def _rounded(
    weight: np.ndarray,
    bits: int,
    group: int,
    levels: int | None = None,
    ends: Callable = lambda w: (min(w.min(), 0), max(w.max(), 0)),
    zero: Callable = np.rint,
    clip: bool = True,
    back: bool = True,
    half: bool = True,
    chosen_by: Callable = lambda s, exact: s,
    guard: bool = True,
    code: Callable = lambda w, s, z, lo: np.rint(w / s) + z,
) -> np.ndarray:
    """The spec, with one thing or another done differently."""
    out = np.zeros_like(weight)
    high = 2**bits - 1
    for n in range(len(weight)):
        for k in range(0, weight.shape[1], group):
            w = weight[n, k : k + group]
            lo, hi = ends(w)
            exact = f32((hi - lo) / (levels or high))
            s = f32(np.float16(exact)) if half else exact
            s = s or f32(1 if guard else np.nan)
            z = zero(-lo / s)
            q = code(w, chosen_by(s, exact), z, lo)
            q = np.clip(q, 0, high) if clip else q
            out[n, k : k + group] = (q - z) * s if back else q
    return out


def _between_codes(weight: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, int, int]:
    """Weights moved away from the middle between two codes, where float32 and float64 may round apart."""
    weight = weight.copy()
    for part in weight.reshape(-1, group):
        for _ in range(100):
            lo, hi = min(part.min(), 0), max(part.max(), 0)
            step = f32(np.float16((hi - lo) / (2**bits - 1)))
            codes = np.append(part, -lo) / (step or 1)
            near = np.abs(codes - np.floor(codes) - 0.5) < 0.02
            if not near.any():
                break
            if near[-1]:
                part[part.argmin()] *= f32(1.02)
            part[near[:-1]] += f32(0.05) * step
    return weight, bits, group


def _group_cases(generator: np.random.Generator) -> list[Case]:
    steps = f32([[-1, 2, 0.4, 1.6]])
    with_zeros = _numbers(generator, 3, 16)
    with_zeros[1, 4:8] = 0
    return [
        Case("a step of 1", (steps, 2, 4)),
        Case("0 between two codes", (f32([[-0.6, 2.4]]), 2, 2)),
        Case("the last code is the third", (f32([[-1.5, 1.5]]), 2, 2)),
        Case("one group a row", _between_codes(_numbers(generator, 4, 24), 4, 24)),
        Case("groups", _between_codes(_numbers(generator, 3, 32), 4, 8)),
        Case("8 bits", _between_codes(_numbers(generator, 4, 64), 8, 64)),
        Case("a ramp", (np.linspace(-1, 2.1, 300, dtype=f32)[None], 8, 300)),
        Case("2 bits", _between_codes(_numbers(generator, 5, 16), 2, 4)),
        Case("far from 0", _between_codes(_numbers(generator, 2, 16) + f32(5), 3, 8)),
        Case("below 0", _between_codes(_numbers(generator, 2, 16) - f32(5), 3, 8)),
        Case("a group of zeros", _between_codes(with_zeros, 4, 4)),
    ]


def _many_groups(generator: np.random.Generator) -> Case:
    # Both ends of the grid occur in every group, and the step is a power of two: nothing depends on how it is
    # divided.
    codes = generator.integers(-8, 8, (800, 32, 128)) + generator.choice(
        [-0.25, 0.0, 0.25], (800, 32, 128)
    )
    codes = np.clip(codes, -8, 7)
    codes[:, :, 0], codes[:, :, 1] = -8, 7
    return Case("three million weights", ((codes / 64).astype(np.float32).reshape(800, -1), 4, 128))


ROUND_GROUPS = Exercise(
    id="llm.round_groups",
    title="Rounding in groups",
    points=2,
    reference=round_groups,
    cases=_group_cases,
    large=_many_groups,
    lines=8,
    tolerance=1e-5,
    returns="the weights that the codes stand for",
    mistakes=(
        Mistake(
            "one scale a row",
            lambda w, b, g: _rounded(w, b, w.shape[1]),
            "Every `group` neighbours of a row have a scale and a zero point of their own.",
        ),
        Mistake(
            "one scale for all",
            lambda w, b, g: _rounded(w.reshape(1, -1), b, w.size).reshape(w.shape),
            "Every `group` neighbours of a row have a scale and a zero point of their own.",
        ),
        Mistake(
            "groups down the columns",
            lambda w, b, g: _rounded(np.ascontiguousarray(w.T), b, len(w)).T.copy(),
            "A group lies along a row: inputs k, k + 1, ... of one output.",
        ),
        Mistake(
            "2^b steps",
            lambda w, b, g: _rounded(w, b, g, levels=2**b),
            "b bits have 2^b codes, and so 2^b - 1 steps between the first and the last.",
        ),
        Mistake(
            "a grid around 0",
            lambda w, b, g: _rounded(w, b, g, ends=lambda v: (-abs(v).max(), abs(v).max())),
            "This grid need not be symmetric: it reaches from the smallest weight of the group to the "
            "largest (and to 0).",
        ),
        Mistake(
            "0 left outside",
            lambda w, b, g: _rounded(w, b, g, ends=lambda v: (v.min(), v.max())),
            "The range must hold 0, even where all weights of a group have one sign: neither lo above 0 nor "
            "hi below it.",
            also=(
                lambda w, b, g: _rounded(w, b, g, ends=lambda v: (v.min(), v.max()), clip=False),
            ),
        ),
        Mistake(
            "a zero point that is no code",
            lambda w, b, g: _rounded(w, b, g, zero=lambda z: z),
            "The zero point is a code, too: round it, or 0 will not be exact.",
        ),
        Mistake(
            "a zero point cut off",
            lambda w, b, g: _rounded(w, b, g, zero=np.floor),
            "The zero point is rounded to the nearest code, not down.",
        ),
        Mistake(
            "codes",
            lambda w, b, g: _rounded(w, b, g, back=False),
            "These are the codes; wanted are the weights that they stand for, (q - z) * s.",
        ),
        Mistake(
            "no clip",
            lambda w, b, g: _rounded(w, b, g, clip=False),
            "Rounding may lead past the last code (a weight half-way, a scale rounded down): clip to "
            "0 .. 2^b - 1.",
        ),
        Mistake(
            "codes by another scale",
            lambda w, b, g: _rounded(w, b, g, chosen_by=lambda s, exact: exact or s),
            "The codes were chosen by the scale in full precision and read back by the rounded one. Round it "
            "first, then use it for both.",
        ),
        Mistake(
            "a zero point with a fraction",
            lambda w, b, g: _rounded(
                w, b, g, zero=lambda z: z, code=lambda w, s, z, lo: np.rint((w - lo) / s)
            ),
            "Counting from lo makes the zero point a fraction: 0 is not exact then. Round -lo / s by itself.",
        ),
        Mistake(
            "a group of zeros",
            lambda w, b, g: _rounded(w, b, g, guard=False),
            "A group of zeros has a scale of 0: take another (1, say) before you divide by it.",
        ),
        Mistake(
            "a scale in full precision",
            lambda w, b, g: _rounded(w, b, g, half=False),
            "The scale will be stored as float16. Round it first, then choose codes by what is stored.",
        ),
    ),
)


# ---- salient columns -------------------------------------------------------------------------------
def salient_columns(x: np.ndarray, weight: np.ndarray, share: float) -> np.ndarray:
    """Inputs with the largest mean magnitude: AWQ's criterion (section 3.1)."""
    return _largest(np.abs(x).mean(0), share)


def _largest(score: np.ndarray, share: float, whole: Callable = round) -> np.ndarray:
    count = max(1, whole(share * len(score)))
    keep = np.zeros(len(score), bool)
    keep[np.argsort(-score, kind="stable")[:count]] = True
    return keep


def _salient_cases(generator: np.random.Generator) -> list[Case]:
    def problem(n: int, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        return _numbers(generator, n, inputs), _numbers(generator, outputs, inputs)

    x, w = problem(40, 12, 5)
    swinging = x * f32(0.1)
    swinging[:, 3] = np.tile(f32([5, -5]), 20)
    one_off = _numbers(generator, 40, 10)
    one_off[:, 2] += f32(3)
    one_off[0, 6] = f32(30)
    small = _numbers(generator, 30, 20)
    small[:, 7] *= f32(6)
    return [
        Case("a quarter", (x, w, 0.25)),
        Case("more inputs than examples", (*problem(4, 30, 3), 0.1)),
        Case("a channel that swings about 0", (swinging, w, 0.1)),
        Case("a single large value", (one_off, _numbers(generator, 4, 10), 0.1)),
        Case("less than one column", (small, _numbers(generator, 3, 20), 0.01)),
        Case("all", (x, w, 1.0)),
        Case("1.8 columns", (*problem(30, 18, 4), 0.1)),
        Case("3.6 columns", (*problem(20, 24, 4), 0.15)),
    ]


def _each_row(x, w, share):
    return np.stack([_largest(np.abs(row), share) for row in w])


def _many_inputs(generator: np.random.Generator) -> Case:
    """No two columns are equally loud."""
    loud = np.float32(1 + generator.permutation(400) / 400)
    x = loud * generator.choice(np.float32([-1, 1]), (500, 400))
    return Case("500 inputs of 400 columns", (x, np.ones((4, 400), np.float32), 0.1))


SALIENT_COLUMNS = Exercise(
    id="llm.salient_columns",
    title="The columns that matter",
    points=1,
    reference=salient_columns,
    cases=_salient_cases,
    large=_many_inputs,
    lines=4,
    returns="True for the inputs to keep",
    mistakes=(
        Mistake(
            "by the weights",
            lambda x, w, s: _largest(np.abs(w).mean(0), s),
            "What matters is what the column is multiplied by: the activations decide, not the weights.",
            also=(lambda x, w, s: _largest(np.abs(w).max(0), s),),
        ),
        Mistake(
            "the smallest",
            lambda x, w, s: _largest(-np.abs(x).mean(0), s),
            "These are the inputs that matter least.",
        ),
        Mistake(
            "signs cancel",
            lambda x, w, s: _largest(x.mean(0), s),
            "A channel that swings about 0 has a mean of 0 and matters all the same: magnitudes first.",
            also=(lambda x, w, s: _largest(np.abs(x.mean(0)), s),),
        ),
        Mistake(
            "the largest value ever seen",
            lambda x, w, s: _largest(np.abs(x).max(0), s),
            "One large value among many examples does not make a channel matter: take the mean.",
        ),
        Mistake(
            "rounded down",
            lambda x, w, s: _largest(np.abs(x).mean(0), s, int),
            "share * inputs is rounded to the nearest whole number, not down.",
            also=(lambda x, w, s: _largest(np.abs(x).mean(0), s, math.ceil),),
        ),
        Mistake(
            "squares",
            lambda x, w, s: _largest(np.square(x).mean(0), s),
            "The mean of |x|, not of its square: single large values would count for more.",
        ),
        Mistake(
            "activations times weights",
            lambda x, w, s: _largest(np.abs(x).mean(0) * np.abs(w).mean(0), s),
            "That is a fair idea (it is Wanda's, for pruning), but asked are the activations alone.",
        ),
        Mistake(
            "none for a small share",
            lambda x, w, s: (
                np.zeros(x.shape[1], bool)
                if round(s * x.shape[1]) == 0
                else _largest(np.abs(x).mean(0), s)
            ),
            "At least one column is kept, however small the share.",
        ),
        Mistake(
            "for each row by itself",
            _each_row,
            "A whole column stays in float or does not: one answer an input, bool [inputs].",
        ),
    ),
)


# ---- GPTQ on a row ---------------------------------------------------------------------------------
def gptq_row(row: np.ndarray, factor: np.ndarray, scale: float, zero: int, bits: int) -> np.ndarray:
    """One row by `gptq.quantize_columns`, as floats."""
    params = (torch.full((1, 1), scale), torch.full((1, 1), float(zero)))
    codes = gptq.quantize_columns(
        torch.from_numpy(row)[None].clone(), torch.from_numpy(factor), *params, 2**bits - 1
    )
    return ((codes - zero) * scale)[0].numpy()


def _gptq(
    row: np.ndarray,
    factor: np.ndarray,
    scale: float,
    zero: int,
    bits: int,
    share: Callable = lambda u, j: u[j, j + 1 :] / u[j, j],
    sign: float = -1,
    clip: bool = True,
    error: Callable = lambda now, then, q: now - q,
    offset: bool = True,
    cut: Callable = lambda code, top: np.clip(code, 0, top),
    passed_on: Callable = lambda code, before: code,
    result: Callable = lambda out, work, scale, z: out,
) -> np.ndarray:
    """The spec, with one thing or another done differently."""
    work, out = row.copy(), np.zeros_like(row)
    z = zero if offset else 0
    for j in range(len(row)):
        code = np.rint(work[j] / scale) + z
        before, code = code, cut(code, 2**bits - 1) if clip else code
        out[j] = (code - z) * scale
        left = (passed_on(code, before) - z) * scale
        work[j + 1 :] += sign * error(work[j], row[j], left) * share(factor, j)
    return result(out, work, scale, z)


def _row_cases(generator: np.random.Generator) -> list[Case]:
    def problem(inputs: int, bits: int, zero: int, scale: float) -> tuple:
        x = generator.normal(size=(4 * inputs, inputs)) @ generator.normal(size=(inputs, inputs))
        factor = gptq.inverse_factor(gptq.hessian(torch.from_numpy(x)), 0.01).numpy()
        return generator.normal(size=inputs), factor, scale, zero, bits

    white, chain = np.eye(6), np.eye(3) + np.eye(3, k=1)
    return [
        Case("two weights", (np.array([0.4, 1.2]), np.array([[0.5, 1], [0, 1]]), 1.0, 1, 2)),
        Case("a large diagonal", (np.array([0.4, 0.65]), np.array([[2.0, 1], [0, 1]]), 1.0, 1, 2)),
        Case("a larger row", (np.array([0.4, 0.95]), np.array([[2.0, 1], [0, 1]]), 1.0, 1, 2)),
        Case("three weights", (np.array([0.4, 0.4, 0.8]), chain, 1.0, 1, 2)),
        Case("inputs that have nothing in common", (generator.normal(size=6), white, 0.5, 2, 2)),
        Case("eight weights, 2 bits", problem(8, 2, 1, 0.8)),
        Case("3 bits", problem(12, 3, 4, 0.4)),
        Case("4 bits", problem(16, 4, 7, 0.2)),
        Case("weights beyond the last code", problem(10, 2, 1, 0.3)),
        Case("one weight", (np.array([0.7]), np.array([[1.5]]), 0.5, 0, 3)),
    ]


def _many_columns(generator: np.random.Generator) -> Case:
    columns = 500
    factor = np.triu(generator.normal(0, 0.02, (columns, columns)), 1) + np.eye(columns)
    return Case("500 weights", (generator.normal(0, 1, columns), factor, 0.25, 8, 4))


GPTQ_ROW = Exercise(
    id="llm.gptq_row",
    title="GPTQ on one row",
    points=3,
    reference=gptq_row,
    cases=_row_cases,
    large=_many_columns,
    lines=7,
    tolerance=1e-6,
    returns="the row as its codes stand for it",
    mistakes=(
        Mistake(
            "rounding to nearest",
            lambda *a: _gptq(*a, share=lambda u, j: 0 * u[j, j + 1 :]),
            "Each weight is rounded for itself. Either the ones still to come do not take over the error "
            "(row j of U is not 0 behind its diagonal, column j is), or the row as it was given is what gets "
            "rounded.",
        ),
        Mistake(
            "the wrong direction",
            lambda *a: _gptq(*a, sign=1),
            "The weights to come move so that the error is *undone*: subtract.",
        ),
        Mistake(
            "not divided by the diagonal",
            lambda *a: _gptq(*a, share=lambda u, j: u[j, j + 1 :]),
            "err = (w - q) / U[j, j]: how much a direction can take over is counted against U[j, j].",
        ),
        Mistake(
            "divided twice",
            lambda *a: _gptq(*a, share=lambda u, j: u[j, j + 1 :] / u[j, j] ** 2),
            "U is a square root of H^-1: divide by U[j, j] once.",
        ),
        Mistake(
            "multiplied by the diagonal",
            lambda *a: _gptq(*a, share=lambda u, j: u[j, j + 1 :] * u[j, j]),
            "err = (w - q) / U[j, j]: divide.",
        ),
        Mistake(
            "the error of the first weight",
            lambda *a: _gptq(*a, error=lambda now, then, q: then - q),
            "The error is counted from the weight as it stands now, with what earlier columns handed over, "
            "not from the one that the row began with.",
        ),
        Mistake(
            "codes that do not exist",
            lambda *a: _gptq(*a, clip=False),
            "Codes end at 0 and at 2^bits - 1: clip, and hand over what was cut off, too.",
        ),
        Mistake(
            "an error that forgets the clip",
            lambda *a: _gptq(*a, passed_on=lambda code, before: before),
            "The error is counted after the clip: what was cut off must be taken over, too.",
        ),
        Mistake(
            "one code too many",
            lambda *a: _gptq(*a, cut=lambda code, top: np.clip(code, 0, top + 1)),
            "The last code is 2^bits - 1.",
        ),
        Mistake(
            "codes",
            lambda *a: _gptq(*a, result=lambda out, work, scale, z: np.rint(out / scale) + z),
            "These are the codes; wanted is the row that they stand for, (q - zero) * scale.",
        ),
        Mistake(
            "the row before rounding",
            lambda *a: _gptq(*a, result=lambda out, work, scale, z: work),
            "This is the row as it was updated; wanted is what its codes stand for.",
        ),
        Mistake(
            "no zero point",
            lambda *a: _gptq(*a, offset=False),
            "A code stands for (q - zero) * scale: add the zero point before you clip.",
        ),
        Mistake(
            "the whole error to each",
            lambda *a: _gptq(*a, share=lambda u, j: np.ones(len(u) - j - 1)),
            "How much each of the rest takes over stands in row j of U.",
        ),
    ),
)


# ---- a searched scale ------------------------------------------------------------------------------
ALPHAS = tuple(step / smoothing.STEPS for step in range(smoothing.STEPS))


def search_scale(x: np.ndarray, weight: np.ndarray, rounding: Callable) -> np.ndarray:
    """The library's search, with a given rounding."""

    def codes(w: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(rounding(w.numpy()))

    return smoothing.best_scale(torch.from_numpy(x), torch.from_numpy(weight), codes).numpy()


def _searched(
    x: np.ndarray,
    weight: np.ndarray,
    rounding: Callable,
    cost: Callable | None = None,
    magnitude: Callable = lambda x, w: np.abs(x).mean(0),
    normal: bool = True,
    alphas: tuple[float, ...] = ALPHAS,
    best: Callable = min,
    undone: bool = True,
    sign: int = 1,
) -> np.ndarray:
    """The spec, with one thing or another done differently."""

    def scale_of(alpha: float) -> np.ndarray:
        s = np.maximum(magnitude(x, weight), f32(1e-5)) ** f32(sign * alpha)
        return (s / np.exp(np.log(s).mean()) if normal else s).astype(f32)

    def outputs(s: np.ndarray) -> float:
        rounded = rounding(weight * s) / (s if undone else f32(1))
        return float(np.square(x @ rounded.T - x @ weight.T).mean())

    return scale_of(best(alphas, key=lambda a: (cost or outputs)(scale_of(a))))


def _search_cases(generator: np.random.Generator) -> list[Case]:
    def problem(n: int, outputs: int, inputs: int, spread: float, bits: int, group: int) -> tuple:
        x = _numbers(generator, n, inputs)
        x *= np.logspace(-spread, spread, inputs, dtype=f32)[generator.permutation(inputs)]
        return x, _numbers(generator, outputs, inputs), bits, group

    with_silence = problem(30, 8, 16, 0.8, 3, 16)
    with_silence[0][:, 5] = 0
    balanced = problem(30, 8, 16, 1.0, 3, 16)
    balanced[1][:] /= np.abs(balanced[0]).mean(0) ** f32(0.5)
    even = problem(30, 8, 16, 1.5, 2, 16)
    even[1][:] = 1 / np.abs(even[0]).mean(0)
    return [
        Case("loud and quiet inputs", problem(30, 12, 16, 1.0, 3, 16)),
        Case("groups", problem(15, 6, 32, 0.7, 3, 8)),
        Case("4 bits", problem(20, 10, 24, 1.2, 4, 24)),
        Case("inputs of one size", problem(30, 8, 16, 0.0, 3, 16)),
        Case("a silent input", with_silence),
        Case("large weights at quiet inputs", balanced),
        Case("weights that a power of 1 makes even", even),
        *(Case("once more", problem(30, 8, 16, 1.0, 3, 16)) for _ in range(3)),
        Case("louder still", problem(30, 8, 16, 2.0, 2, 16)),
    ]


def _many_inputs_to_scale(generator: np.random.Generator) -> Case:
    x = _numbers(generator, 200, 64)
    x *= np.logspace(-2, 2, 64, dtype=f32)[generator.permutation(64)]
    return Case("200 inputs of 64 columns", (x, _numbers(generator, 8, 64), 2, 16))


SEARCH_SCALE = Exercise(
    id="llm.search_scale",
    title="A scale found by trying",
    points=3,
    reference=search_scale,
    cases=_search_cases,
    large=_many_inputs_to_scale,
    lines=10,
    tolerance=1e-4,
    harness=with_rounding,
    returns="the scale of every input",
    mistakes=(
        Mistake(
            "judged by the weights",
            lambda x, w, r: _searched(x, w, r, lambda s: float(np.square(r(w * s) / s - w).mean())),
            "The error that counts is the layer's *output's*: multiply by x before you compare.",
        ),
        Mistake(
            "the scale is not undone",
            lambda x, w, r: _searched(x, w, r, undone=False),
            "The scaled weight meets x / s. Divide, or two different layers are compared.",
        ),
        Mistake(
            "no common size",
            lambda x, w, r: _searched(x, w, r, normal=False),
            "Divide the scale by its geometric mean, exp(mean(log s)): only its differences should count.",
        ),
        Mistake(
            "the worst",
            lambda x, w, r: _searched(x, w, r, best=max),
            "That alpha has the *largest* error.",
        ),
        Mistake(
            "alpha up to 1",
            lambda x, w, r: _searched(x, w, r, alphas=(*ALPHAS, 1.0)),
            "The powers are 0, 0.05, ..., 0.95: twenty of them, 1 not included.",
            also=(lambda x, w, r: _searched(x, w, r, alphas=tuple(np.linspace(0, 1, 20))),),
        ),
        Mistake(
            "the mean error, not its square",
            lambda x, w, r: _searched(
                x, w, r, lambda s: float(np.abs(x @ (r(w * s) / s).T - x @ w.T).mean())
            ),
            "Errors are squared before the mean is taken.",
        ),
        Mistake(
            "no search",
            lambda x, w, r: _searched(x, w, r, alphas=(0.5,)),
            "Every alpha is tried, and the best one kept; 0.5 is one of them.",
        ),
        Mistake(
            "quiet inputs made large",
            lambda x, w, r: _searched(x, w, r, sign=-1),
            "A loud input's column is to become larger before rounding (a positive power), and meets x / s: "
            "with x * s no scale but 1 can win.",
        ),
        Mistake(
            "by the weights' size",
            lambda x, w, r: _searched(x, w, r, magnitude=lambda x, w: np.abs(w).mean(0)),
            "The scale follows the activations: mean |x| of each input.",
        ),
        Mistake(
            "by the largest value",
            lambda x, w, r: _searched(x, w, r, magnitude=lambda x, w: np.abs(x).max(0)),
            "AWQ takes the mean magnitude of each input; the largest value is SmoothQuant's.",
        ),
    ),
)


# ---- smoothing -------------------------------------------------------------------------------------
def smoothing_scale(x: np.ndarray, weight: np.ndarray, alpha: float) -> np.ndarray:
    """The library's scale of SmoothQuant."""
    arrays = (torch.from_numpy(a) for a in (x, weight))
    x, weight = arrays
    return smoothing.smoothing_scale(x, [weight], alpha).numpy()


def _smoothed(x, w, alpha, top=lambda a: np.abs(a).max(0), least=1e-5, powers=None):
    a, b = powers(alpha) if powers else (alpha, 1 - alpha)
    x_max, w_max = (np.maximum(top(m), least) for m in (x, w))
    return np.maximum(x_max ** f32(a) / w_max ** f32(b), least).astype(f32)


def _smoothing_cases(generator: np.random.Generator) -> list[Case]:
    x, w = _numbers(generator, 20, 6), _numbers(generator, 5, 6)
    x[:, 2] *= f32(40)
    negative = x.copy()
    negative[3, 4] = f32(-100)
    silent = _numbers(generator, 10, 4)
    silent[:, 1] = 0
    pruned = _numbers(generator, 3, 4)
    pruned[:, 2] = 0
    return [
        Case("two inputs", (f32([[1, -4], [2, 0]]), f32([[0.5, 8], [-2, 1]]), 0.5)),
        Case("an outlier", (x, w, 0.5)),
        Case("more to the weights", (x, w, 0.8)),
        Case("all to the weights", (x, w, 1.0)),
        Case("nothing to the weights", (x, w, 0.0)),
        Case("a large negative value", (negative, w, 0.6)),
        Case("an input that is always 0", (silent, _numbers(generator, 3, 4), 0.5)),
        Case("a column of zeros", (_numbers(generator, 10, 4), pruned, 0.5)),
    ]


def _many_columns_to_smooth(generator: np.random.Generator) -> Case:
    x = generator.normal(0, 1, (400, 400)).astype(np.float32)
    return Case(
        "400 inputs of 400 columns", (x, generator.normal(0, 1, (8, 400)).astype(np.float32), 0.5)
    )


SMOOTHING_SCALE = Exercise(
    id="llm.smoothing_scale",
    title="Half of the difficulty each",
    points=2,
    reference=smoothing_scale,
    cases=_smoothing_cases,
    large=_many_columns_to_smooth,
    lines=3,
    tolerance=1e-4,
    returns="what each input is divided by",
    mistakes=(
        Mistake(
            "alpha at the wrong end",
            lambda x, w, a: _smoothed(x, w, a, powers=lambda p: (1 - p, p)),
            "alpha is the power of the activations: alpha = 1 gives all their difficulty to the weights.",
        ),
        Mistake(
            "signs",
            lambda x, w, a: _smoothed(x, w, a, top=lambda m: m.max(0)),
            "The largest *magnitude* counts; an outlier may well be negative.",
        ),
        Mistake(
            "means",
            lambda x, w, a: _smoothed(x, w, a, top=lambda m: np.abs(m).mean(0)),
            "A quantizer's range ends at the largest magnitude, so the maxima count, not the means.",
        ),
        Mistake(
            "the weights forgotten",
            lambda x, w, a: _smoothed(x, w, a, powers=lambda p: (p, 0)),
            "The weights' own maxima to the power 1 - alpha are divided by.",
        ),
        Mistake(
            "multiplied",
            lambda x, w, a: _smoothed(x, w, a, powers=lambda p: (p, p - 1)),
            "Divide by the weights' maxima: a column that is large already can take less.",
        ),
        Mistake(
            "upside down",
            lambda x, w, a: (1 / _smoothed(x, w, a)).astype(f32),
            "This is what the inputs would be *multiplied* by; asked is what they are divided by.",
        ),
        Mistake(
            "zeros not guarded",
            lambda x, w, a: _smoothed(x, w, a, least=0.0),
            "An input that is always 0, or a column of zeros, must not make 0 or infinity: lift the maxima "
            "to 1e-5.",
        ),
        Mistake(
            "the same power twice",
            lambda x, w, a: _smoothed(x, w, a, powers=lambda p: (p, p)),
            "The powers are alpha and 1 - alpha: together 1.",
        ),
    ),
)


# ---- a 4-bit product -------------------------------------------------------------------------------
def product_4bit(
    words: np.ndarray, x: np.ndarray, scale: np.ndarray, zero: np.ndarray, group: int
) -> np.ndarray:
    """The library's kernel on the codes that the words hold."""
    codes = (words[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32)) & np.uint32(15)
    codes = codes.reshape(len(words), -1).astype(np.uint8)
    return lowbit.matmul(x[None], lowbit.pack_weight(codes, scale, zero, 4, group))[0]


def _multiplied(
    words,
    x,
    scale,
    zero,
    group,
    code=lambda word, t: word >> (4 * t) & 15,
    of_group=lambda k, group: k // group,
    offset=lambda z: z,
    factor=lambda s: s,
):
    out = np.zeros(len(words), f32)
    for n in range(len(words)):
        for k in range(len(x)):
            g = of_group(k, group)
            q = code(int(words[n, k // 8]), k % 8)
            out[n] += factor(scale[n, g]) * (q - offset(zero[n, g])) * x[k]
    return out


def _late_zero(words, x, scale, zero, group):
    """The zero point's part taken from the sum of all of x in every group."""
    out = _multiplied(words, x, scale, zero, group, offset=lambda z: 0)
    return (out - (scale * zero).sum(1) * x.sum()).astype(f32)


def _product_cases(generator: np.random.Generator) -> list[Case]:
    def problem(outputs: int, inputs: int, group: int) -> tuple:
        words = generator.integers(0, 2**32, (outputs, inputs // 8), dtype=np.uint32)
        groups = (outputs, inputs // group)
        scale = generator.uniform(0.1, 1, groups).astype(f32)
        zero = generator.integers(0, 16, groups).astype(f32)
        return words, _numbers(generator, inputs), scale, zero, group

    first = np.zeros(8, f32)
    first[0] = 1
    one = (np.array([[0x76543210]], np.uint32), first + f32(0), f32([[1]]), f32([[0]]), 8)
    return [
        Case("the first code", one),
        Case("one word", (one[0], f32([1, 2, 3, 4, 5, 6, 7, 8]), f32([[0.5]]), f32([[3]]), 8)),
        Case("groups of 8", problem(3, 32, 8)),
        Case("groups of 16", problem(5, 64, 16)),
        Case("a group a row", problem(4, 40, 40)),
        Case("a group of half a dozen words", problem(2, 96, 48)),
    ]


PRODUCT_4BIT = Exercise(
    id="llm.product_4bit",
    title="A product with packed weights",
    points=3,
    reference=product_4bit,
    cases=_product_cases,
    lines=9,
    tolerance=1e-3,
    compiled=True,
    mistakes=(
        Mistake(
            "high bits first",
            lambda *a: _multiplied(*a, code=lambda w, t: w >> (28 - 4 * t) & 15),
            "Code 0 of a word lies in its *lowest* four bits.",
        ),
        Mistake(
            "no mask",
            lambda *a: _multiplied(*a, code=lambda w, t: w >> (4 * t)),
            "After the shift, the codes above are still there: & 15 leaves the lowest four bits.",
        ),
        Mistake(
            "a bit a place",
            lambda *a: _multiplied(*a, code=lambda w, t: w >> t & 15),
            "Code t begins at bit 4 t, not at bit t.",
        ),
        Mistake(
            "no zero point",
            lambda *a: _multiplied(*a, offset=lambda z: 0),
            "A code stands for (q - zero) * scale.",
        ),
        Mistake(
            "the zero point added",
            lambda *a: _multiplied(*a, offset=lambda z: -z),
            "A code stands for (q - zero) * scale: subtract.",
        ),
        Mistake(
            "the first group's numbers",
            lambda *a: _multiplied(*a, of_group=lambda k, g: 0),
            "Input k belongs to group k // group.",
        ),
        Mistake(
            "the scale forgotten",
            lambda *a: _multiplied(*a, factor=lambda s: 1),
            "The sum of a group is multiplied by its scale.",
        ),
        Mistake(
            "the sum over the whole row",
            _late_zero,
            "z times the sum of x is right, if the sum is over the *group's* inputs alone.",
        ),
    ),
)

EXERCISES = (
    *(ROUND_GROUPS, SALIENT_COLUMNS, GPTQ_ROW),
    *(SEARCH_SCALE, SMOOTHING_SCALE, PRODUCT_4BIT),
)
