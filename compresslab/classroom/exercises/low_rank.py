"""Lab 06: two factors, the worthwhile rank, energy, whitening, a split convolution, LoRA."""

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.harnesses import as_one_kernel, product_and_balance
from compresslab.techniques import lowrank as library

f32 = np.float32
Pair = tuple[np.ndarray, np.ndarray]


def _numbers(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(0, 1, shape).astype(f32)


def _svd(weight):
    return np.linalg.svd(weight, full_matrices=False)


# ---- two factors -----------------------------------------------------------------------------------
def svd_factors(weight: np.ndarray, rank: int) -> Pair:
    """The library's factors."""
    return tuple(f.numpy() for f in library.factors(torch.from_numpy(weight), rank))


def _factor_cases(generator: np.random.Generator) -> list[Case]:
    two = f32([[3, 0], [0, -2]])
    return [
        Case("rank 1 of a diagonal matrix", (two, 1)),
        Case("rank 2 of three", (_numbers(generator, 3, 5), 2)),
        Case("a tall matrix", (_numbers(generator, 7, 3), 2)),
        Case("full rank: nothing is lost", (_numbers(generator, 4, 6), 4)),
        Case("a square one", (_numbers(generator, 5, 5), 3)),
    ]


def _with_parts(weight, rank, left, right, cut=None):
    u, s, vt = _svd(weight)
    keep = cut or slice(0, rank)
    u, s, vt = u[:, keep], s[keep], vt[keep]
    return right(s)[:, None] * vt, u * left(s)


SVD_FACTORS = Exercise(
    id="low_rank.svd_factors",
    title="Two thin factors",
    points=2,
    reference=svd_factors,
    cases=_factor_cases,
    harness=product_and_balance,
    returns="(shape of A, of B, B @ A, squared length of A's rows, of B's columns)",
    lines=3,
    tolerance=1e-4,
    mistakes=(
        Mistake(
            "all of S in one factor",
            lambda w, k: _with_parts(w, k, lambda s: s, np.ones_like),
            "The product is right, but one factor is large and the other of size 1: training takes steps of "
            "very different size in them. Give each the square root.",
            also=(lambda w, k: _with_parts(w, k, np.ones_like, lambda s: s),),
        ),
        Mistake(
            "S forgotten",
            lambda w, k: _with_parts(w, k, np.ones_like, np.ones_like),
            "The singular values say how much each direction counts; without them all count alike.",
        ),
        Mistake(
            "S twice",
            lambda w, k: _with_parts(w, k, lambda s: s, lambda s: s),
            "Each factor has all of S now, so the product has its square.",
        ),
        Mistake(
            "the smallest kept",
            lambda w, k: _with_parts(w, k, np.sqrt, np.sqrt, slice(min(w.shape) - k, min(w.shape))),
            "Singular values come in falling order: the first ones are what to keep.",
        ),
        Mistake(
            "B before A",
            lambda w, k: tuple(reversed(svd_factors(w, k))),
            "A [rank, n], which is applied first, comes first; then B [m, rank].",
        ),
        Mistake(
            "V taken for its transpose",
            lambda w, k: (
                np.sqrt(_svd(w)[1][:k])[:, None] * _svd(w)[2][:, :k].T,
                svd_factors(w, k)[1],
            ),
            "NumPy's third result is V *transposed*: its rows are the directions. Take rows, not columns.",
        ),
        Mistake(
            "both transposed",
            lambda w, k: tuple(f.T for f in svd_factors(w, k)),
            "A is [rank, n] and B is [m, rank], so that B @ A has the weight's shape.",
        ),
        Mistake(
            "nothing cut off",
            lambda w, k: _with_parts(w, min(w.shape), np.sqrt, np.sqrt),
            "The factors have full rank. Keep only the first `rank` columns, values and rows.",
        ),
    ),
)


# ---- when it pays ----------------------------------------------------------------------------------
def worthwhile_rank(outputs: int, inputs: int) -> int:
    """The largest rank whose factors have fewer numbers than the matrix."""
    rank = outputs * inputs // (outputs + inputs)
    return rank - 1 if rank * (outputs + inputs) == outputs * inputs else rank


def _worth_cases(generator: np.random.Generator) -> list[Case]:
    sizes = generator.integers(20, 900, (4, 2))
    return [
        Case("a small matrix", (3, 5)),
        Case("exactly break-even", (4, 4)),
        Case("one number less", (2, 3)),
        Case("nothing pays", (1, 9)),
        Case("exactly break-even, not square", (6, 3)),
        Case("a wide one", (26, 1000)),
        *(Case("some layer", (int(m), int(n))) for m, n in sizes),
    ]


def _a_wide_layer(_: np.random.Generator) -> Case:
    return Case("a layer of 400,000 by 400,000", (400_000, 400_000))


WORTHWHILE_RANK = Exercise(
    id="low_rank.worthwhile_rank",
    title="When does it pay?",
    points=1,
    reference=worthwhile_rank,
    cases=_worth_cases,
    large=_a_wide_layer,
    lines=2,
    mistakes=(
        Mistake(
            "break-even counted as a gain",
            lambda m, n: m * n // (m + n),
            "At break-even the factors are exactly as large as the matrix: nothing is gained.",
        ),
        Mistake(
            "half of the smaller side",
            lambda m, n: min(m, n) // 2,
            "That is right only for square matrices. Count the numbers of both factors.",
        ),
        Mistake(
            "only one factor counted",
            lambda m, n: max(0, (m * n - 1) // max(m, n)),
            "There are two factors: [m, k] and [k, n].",
        ),
        Mistake(
            "the smaller side",
            lambda m, n: min(m, n),
            "At full rank the factors are larger than the matrix.",
        ),
    ),
)


# ---- energy ----------------------------------------------------------------------------------------
def rank_for_energy(singular_values: np.ndarray, share: float) -> int:
    """The library's choice."""
    return library.rank_for_energy(torch.from_numpy(singular_values), share)


def _energy_cases(generator: np.random.Generator) -> list[Case]:
    some = np.sort(generator.uniform(0.1, 5, 12))[::-1].copy()
    return [
        Case("four fifths of the energy", (np.array([2.0, 1.0]), 0.8)),
        Case("just above", (np.array([2.0, 1.0]), 0.81)),
        Case("values, not energies, would need one more", (np.array([4.0, 3.0, 2.0, 1.0]), 0.8)),
        Case("half", (some, 0.5)),
        Case("nearly all", (some, 0.99)),
        Case("all but a thousandth", (some, 0.999)),
        # Added one by one these squares are less than their sum in pairs, by a rounding error.
        Case("all", (np.array([5.1, 5.0, 4.6, 4.4, 3.2, 1.1, 0.6, 0.2, 0.2]), 1.0)),
        Case("a rank of 1 in truth", (np.array([3.0, 0.0, 0.0]), 0.9)),
    ]


def _first(values, bound):
    """How many until the running sum reaches the bound."""
    return min(int(np.count_nonzero(np.cumsum(values) < bound - 1e-12)) + 1, len(values))


def _many_values(_: np.random.Generator) -> Case:
    # All are equal, and the share ends in the middle of one: sums in another order find the same rank.
    return Case("100,000 singular values", (np.ones(100_000), 70_000.5 / 100_000))


RANK_FOR_ENERGY = Exercise(
    id="low_rank.rank_for_energy",
    title="How many directions?",
    points=1,
    reference=rank_for_energy,
    cases=_energy_cases,
    large=_many_values,
    lines=2,
    mistakes=(
        Mistake(
            "values instead of squares",
            lambda s, q: _first(s, q * s.sum()),
            "The energy of a direction is the *square* of its singular value: the error is a sum of squares.",
        ),
        Mistake(
            "one too few",
            lambda s, q: _first(s**2, q * (s**2).sum()) - 1,
            "The direction with which the share is reached has to be kept, too.",
        ),
        Mistake(
            "one too many",
            lambda s, q: _first(s**2, q * (s**2).sum()) + 1,
            "Stop as soon as the share is reached.",
        ),
        Mistake(
            "a share of the length",
            lambda s, q: _first(s**2, (q**2) * (s**2).sum()),
            "The share is one of the energy, the sum of squares, not of its root.",
        ),
        Mistake(
            "a share of the ranks",
            lambda s, q: int(np.ceil(q * len(s))),
            "That is a share of the number of directions, whatever they hold.",
        ),
        Mistake(
            "against the largest",
            lambda s, q: int((s >= (1 - q) * s[0]).sum()),
            "Not each value against the first: all kept ones together against all.",
        ),
        Mistake(
            "no room for rounding",
            lambda s, q: int((np.cumsum(s**2) / (s**2).sum() >= q).argmax()) + 1,
            "A running sum may end a rounding error below the sum, and then no entry reaches a share of 1: "
            "what is the place of the largest of nothing but False? Leave room, such as 1e-9.",
            also=(lambda s, q: int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), q)) + 1,),
        ),
    ),
)


# ---- whitening -------------------------------------------------------------------------------------
def whitened_product(weight: np.ndarray, rank: int, moment: np.ndarray) -> np.ndarray:
    """The library's product."""
    first, second = library.factors(torch.from_numpy(weight), rank, torch.from_numpy(moment))
    return (second @ first).numpy()


def _whitening_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, outputs: int, inputs: int, rank: int, scale: np.ndarray) -> Case:
        x = generator.normal(0, 1, (inputs, 40)) @ np.diag(generator.uniform(0.5, 1, 40))
        x = scale[:, None] * (x + 0.5 * x[::-1])
        return Case(label, (generator.normal(0, 1, (outputs, inputs)), rank, x @ x.T / 40))

    one = np.array([[1.0, 0.0], [0.0, 2.0]])
    return [
        Case("the large weight never sees an input", (one, 1, np.diag([9.0, 0.25]))),
        case("one strong input", 3, 4, 1, np.array([8.0, 1, 1, 1])),
        case("two of five", 6, 5, 2, np.array([3.0, 2, 1, 1, 0.3])),
        case("all alike, but correlated", 4, 6, 3, np.ones(6)),
        case("full rank", 3, 5, 3, np.array([4.0, 1, 1, 2, 1])),
    ]


def _cut(matrix, rank):
    u, s, vt = _svd(matrix)
    return u[:, :rank] * s[:rank] @ vt[:rank]


WHITENED_PRODUCT = Exercise(
    id="low_rank.whitened_product",
    title="The best rank for these inputs",
    points=2,
    reference=whitened_product,
    cases=_whitening_cases,
    lines=4,
    tolerance=1e-4,
    mistakes=(
        Mistake(
            "plain SVD",
            lambda w, k, c: _cut(w, k),
            "That is nearest to W in all directions alike; the inputs do not come from all directions alike.",
        ),
        Mistake(
            "not turned back",
            lambda w, k, c: _cut(w @ np.linalg.cholesky(c), k),
            "This approximates W L. Multiply by the inverse of L from the right to come back to W.",
        ),
        Mistake(
            "the moment instead of its root",
            lambda w, k, c: _cut(w @ c, k) @ np.linalg.inv(c),
            "|M L| measures the outputs' error if L L^T is the moment. With the moment itself, its square is "
            "taken.",
        ),
        Mistake(
            "L transposed",
            lambda w, k, c: (
                _cut(w @ np.linalg.cholesky(c).T, k) @ np.linalg.inv(np.linalg.cholesky(c).T)
            ),
            "E|Mx|^2 = tr(M C M^T) = |M L|^2 with C = L L^T: it is L, not its transpose.",
        ),
        Mistake(
            "turned back by the transpose",
            lambda w, k, c: (
                _cut(w @ np.linalg.cholesky(c), k) @ np.linalg.inv(np.linalg.cholesky(c)).T
            ),
            "The cut approximates W L: what undoes L is its inverse, not the inverse's transpose.",
        ),
        Mistake(
            "L once more",
            lambda w, k, c: _cut(w @ np.linalg.cholesky(c), k) @ np.linalg.cholesky(c).T,
            "Multiply by the *inverse* of L to come back to W.",
        ),
        Mistake(
            "only the diagonal",
            lambda w, k, c: (
                _cut(w @ np.diag(np.sqrt(np.diag(c))), k) @ np.diag(1 / np.sqrt(np.diag(c)))
            ),
            "That weighs every input by its own size, and takes no notice that inputs go together. Use the "
            "whole moment.",
        ),
    ),
)


# ---- a convolution ---------------------------------------------------------------------------------
def split_convolution(weight: np.ndarray, rank: int) -> Pair:
    """The library's split by channel."""
    outputs, inputs, height, width = weight.shape
    layer = torch.nn.Conv2d(inputs, outputs, (height, width), bias=False)
    layer.weight.data.copy_(torch.from_numpy(weight))
    thin, mix = library.factored(layer, rank)
    return thin.weight.detach().numpy(), mix.weight.detach().numpy()


def _split_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("one input channel, rank 1", (_numbers(generator, 3, 1, 2, 2), 1)),
        Case("1x1 kernels", (_numbers(generator, 4, 5, 1, 1), 2)),
        Case("3x3, rank 3", (_numbers(generator, 6, 4, 3, 3), 3)),
        Case("an oblong kernel", (_numbers(generator, 5, 3, 1, 4), 2)),
        Case("full rank", (_numbers(generator, 4, 3, 3, 3), 4)),
    ]


def _split(weight, rank):
    m, c, h, w = weight.shape
    first, second = svd_factors(weight.reshape(m, -1), rank)
    return first.reshape(rank, c, h, w), second[:, :, None, None]


def _wrongly_reshaped(weight, rank):
    m, c, h, w = weight.shape
    first, second = svd_factors(weight.transpose(0, 2, 3, 1).reshape(m, -1), rank)
    return first.reshape(rank, c, h, w), second[:, :, None, None]


def _by_kernel(weight, rank):
    """Every kernel's own best rank: an error that people make by leaving NumPy to batch the SVD."""
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    cut = (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]
    return _split(cut.astype(f32), min(rank, len(weight)))


def _many_columns(generator: np.random.Generator) -> Case:
    weight = generator.normal(0, 1, (96, 64, 3, 3)).astype(np.float32)
    return Case("a kernel of 96 by 64 channels", (weight, 96))


SPLIT_CONVOLUTION = Exercise(
    id="low_rank.split_convolution",
    title="A convolution in two",
    points=2,
    reference=split_convolution,
    cases=_split_cases,
    large=_many_columns,
    harness=as_one_kernel,
    returns="(shape of thin, of mix, both as one kernel, squared length of thin's filters)",
    lines=4,
    tolerance=1e-4,
    mistakes=(
        Mistake(
            "channels and kernel mixed up",
            _wrongly_reshaped,
            "The matrix's columns run over [c, h, w] in that order, and so must the thin kernels that "
            "its rows become again.",
        ),
        Mistake(
            "each kernel on its own",
            _by_kernel,
            "`np.linalg.svd` of a 4-d array cuts every h x w kernel by itself. Flatten the weight to "
            "[m, c*h*w] first.",
        ),
        Mistake(
            "mix before thin",
            lambda w, k: tuple(reversed(_split(w, k))),
            "The thin filters come first, then what mixes them.",
        ),
        Mistake(
            "all of S in one",
            lambda w, k: _weighted(w, k, lambda s: s),
            "The convolution is right, but one factor is large, the other of length 1. Give each the square "
            "root of S.",
            also=(lambda w, k: _weighted(w, k, np.ones_like),),
        ),
        Mistake(
            "flat factors",
            lambda w, k: tuple(f.reshape(len(f), -1) for f in _split(w, k)),
            "These are matrices. Convolutions want [k, c, h, w] and [m, k, 1, 1].",
        ),
        Mistake(
            "S forgotten",
            lambda w, k: _unscaled(w, k),
            "Without the singular values all filters count alike.",
        ),
    ),
)


def _unscaled(weight, rank):
    m, c, h, w = weight.shape
    u, _, vt = _svd(weight.reshape(m, -1))
    return vt[:rank].reshape(rank, c, h, w), u[:, :rank, None, None]


def _weighted(weight, rank, part):
    """S split into `part` of it for the thin filters and the rest for the mix."""
    s = _svd(weight.reshape(len(weight), -1))[1][:rank]
    thin, mix = _unscaled(weight, rank)
    return part(s)[:, None, None, None] * thin, (s / part(s))[:, None, None] * mix


# ---- LoRA ------------------------------------------------------------------------------------------
def lora_output(
    x: np.ndarray, weight: np.ndarray, down: np.ndarray, up: np.ndarray, alpha: float
) -> np.ndarray:
    """Frozen layer and correction, without ever making the sum of both matrices."""
    return x @ weight.T + f32(alpha / len(down)) * ((x @ down.T) @ up.T)


def _lora_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, rows: int, inputs: int, outputs: int, rank: int, alpha: float) -> Case:
        sizes = ((rows, inputs), (outputs, inputs), (rank, inputs), (outputs, rank))
        return Case(label, (*(_numbers(generator, *s) for s in sizes), alpha))

    start = case("B is 0, as at the start", 2, 3, 4, 2, 4.0)
    start.args[3][...] = 0
    return [
        start,
        case("rank 1, alpha 1", 1, 3, 2, 1, 1.0),
        case("alpha is twice the rank", 3, 5, 4, 2, 4.0),
        case("a square layer", 4, 6, 6, 3, 1.5),
        case("rank as large as the layer", 2, 4, 4, 4, 4.0),
    ]


def _wide_lora(generator: np.random.Generator) -> Case:
    sizes = ((24, 768), (768, 768), (8, 768), (768, 8))
    x, weight, down, up = (_numbers(generator, *size) / f32(28) for size in sizes)
    return Case("24 rows through a layer of 768 inputs and outputs", (x, weight, down, up, 16.0))


LORA_OUTPUT = Exercise(
    id="low_rank.lora_output",
    title="A correction of low rank",
    points=2,
    reference=lora_output,
    cases=_lora_cases,
    large=_wide_lora,
    lines=1,
    tolerance=1e-4,
    mistakes=(
        Mistake(
            "alpha not divided by the rank",
            lambda x, w, a, b, alpha: x @ w.T + f32(alpha) * (x @ a.T @ b.T),
            "The scale is alpha / r, so that one learning rate suits every rank.",
        ),
        Mistake(
            "no scale at all",
            lambda x, w, a, b, alpha: x @ w.T + x @ a.T @ b.T,
            "alpha / r is missing.",
        ),
        Mistake(
            "the correction alone",
            lambda x, w, a, b, alpha: f32(alpha / len(a)) * (x @ a.T @ b.T),
            "The frozen layer's own output belongs to it.",
        ),
        Mistake(
            "subtracted",
            lambda x, w, a, b, alpha: x @ w.T - f32(alpha / len(a)) * (x @ a.T @ b.T),
            "The correction is added.",
        ),
        Mistake(
            "divided by the layer's width",
            lambda x, w, a, b, alpha: x @ w.T + f32(alpha / a.shape[1]) * (x @ a.T @ b.T),
            "r is the rank: the number of A's rows.",
        ),
    ),
)

EXERCISES = (
    SVD_FACTORS,
    WORTHWHILE_RANK,
    RANK_FOR_ENERGY,
    WHITENED_PRODUCT,
    SPLIT_CONVOLUTION,
    LORA_OUTPUT,
)
