"""Lab 15: divergence of two models, rounding to MXFP4, the fast Hadamard transform, Wanda's choice."""

from collections.abc import Callable

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.kernels import hadamard as kernel
from compresslab.numerics import microscaling
from compresslab.techniques import one_shot

f32 = np.float32
BLOCK = microscaling.MXFP4.block


def _numbers(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(0, 1, shape).astype(f32)


# ---- divergence ------------------------------------------------------------------------------------
def divergence(reference: np.ndarray, logits: np.ndarray) -> float:
    """The mean over rows of KL(p || q), nats; p of the reference."""
    p, q = (torch.from_numpy(a).double().log_softmax(1) for a in (reference, logits))
    return float((p.exp() * (p - q)).sum(1).mean())


def _softmax_log(x: np.ndarray, axis: int | None = 1, shift: bool | None = True) -> np.ndarray:
    """Log-probabilities; `shift` None takes nothing off, False neither, in float32."""
    x = x.astype(f32 if shift is False else np.float64)
    x = x - x.max(axis, keepdims=True) if shift else x
    with np.errstate(all="ignore"):
        return x - np.log(np.exp(x).sum(axis, keepdims=True))


def _diverged(
    reference: np.ndarray,
    logits: np.ndarray,
    axis: int | None = 1,
    shift: bool | None = True,
    term: Callable = lambda p, q: np.exp(p) * (p - q),
    total: Callable = lambda t: t.sum(1).mean(),
) -> float:
    """The spec, with one thing or another done differently."""
    p, q = (_softmax_log(a, axis, shift) for a in (reference, logits))
    with np.errstate(all="ignore"):
        return float(total(term(p, q)))


def _middle(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The terms of the Jensen-Shannon divergence."""
    m = np.log((np.exp(p) + np.exp(q)) / 2)
    return (np.exp(p) * (p - m) + np.exp(q) * (q - m)) / 2


def _divergence_cases(generator: np.random.Generator) -> list[Case]:
    two = f32([[0, 0]]), f32([[1, -1]])
    x = _numbers(generator, 4, 7)
    far_apart = f32([[2000], [4000], [6000], [8000]])
    return [
        Case("two words", two),
        Case("the same model", (x, x.copy())),
        Case("the same but for a number added to all logits", (x, x + f32(3))),
        Case("three words, two tokens", (_numbers(generator, 2, 3), _numbers(generator, 2, 3))),
        Case("many words", (3 * _numbers(generator, 5, 40), 3 * _numbers(generator, 5, 40))),
        Case("large logits", (x + f32(2000), f32(2000) + 50 * _numbers(generator, 4, 7))),
        Case("tokens far apart", (x + far_apart, far_apart + _numbers(generator, 4, 7))),
        Case("words far apart", (x, 1000 * _numbers(generator, 4, 7))),
        Case("one word is nearly sure", (f32([[9, 0, 0]]), f32([[2, 0, 0]]))),
        Case("one token", (_numbers(generator, 1, 5), _numbers(generator, 1, 5))),
    ]


def _many_words(generator: np.random.Generator) -> Case:
    return Case(
        "300 tokens, 5,000 words", (_numbers(generator, 300, 5000), _numbers(generator, 300, 5000))
    )


DIVERGENCE = Exercise(
    id="today.mean_divergence",
    title="How far apart two models are",
    points=2,
    reference=divergence,
    cases=_divergence_cases,
    large=_many_words,
    lines=5,
    tolerance=1e-4,
    returns="the mean divergence, in nats",
    mistakes=(
        Mistake(
            "the other way round",
            lambda r, x: _diverged(x, r),
            "The reference weighs the words: its probability stands in front of each logarithm. This is "
            "KL(q || p).",
        ),
        Mistake(
            "in bits",
            lambda r, x: _diverged(r, x) / np.log(2),
            "Nats are asked for: the natural logarithm.",
        ),
        Mistake(
            "a sum over tokens",
            lambda r, x: _diverged(r, x, total=lambda t: t.sum()),
            "Add up the words of a token, and take the *mean* over tokens.",
        ),
        Mistake(
            "a mean over words, too",
            lambda r, x: _diverged(r, x, total=lambda t: t.mean()),
            "Add up the words of a token; the mean is over tokens alone.",
        ),
        Mistake(
            "one distribution over all",
            lambda r, x: _diverged(r, x, axis=None),
            "Every token has a distribution of its own: the softmax runs along a row.",
        ),
        Mistake(
            "a softmax over tokens",
            lambda r, x: _diverged(r, x, axis=0),
            "The softmax runs along a row, over the words of one token.",
        ),
        Mistake(
            "exponentials of large logits",
            lambda r, x: _diverged(r, x, shift=False),
            "exp(2000) is infinite. Take the largest logit of each row off first: the "
            "softmax stays "
            "the same.",
        ),
        Mistake(
            "one largest logit for all rows",
            lambda r, x: _diverged(
                *(a.astype(np.float64) - a.max() for a in (r, x)),
                shift=None,
                term=lambda p, q: np.exp(p) * (p - q),
            ),
            "Every row has a largest logit of its own to take off: of a row far below the others nothing is "
            "left.",
        ),
        Mistake(
            "probabilities that have become 0",
            lambda r, x: _diverged(
                r, x, term=lambda p, q: np.exp(p) * np.log(np.exp(p) / np.exp(q))
            ),
            "A probability of a large negative logit is 0, and its logarithm infinite. Keep logarithms: the "
            "logit, less its row's largest, less the logarithm of the sum of exponentials.",
            also=(
                lambda r, x: _diverged(
                    r,
                    x,
                    term=lambda p, q: np.exp(p) * np.log((np.exp(p) + 1e-12) / (np.exp(q) + 1e-12)),
                ),
                lambda r, x: _diverged(
                    r, x, term=lambda p, q: np.exp(p) * np.log(np.exp(p) / (np.exp(q) + 1e-12))
                ),
            ),
        ),
        Mistake(
            "cross-entropy",
            lambda r, x: _diverged(r, x, term=lambda p, q: -np.exp(p) * q),
            "This is not 0 for equal models: the logarithm of p belongs into it, too.",
        ),
        Mistake(
            "the middle of both",
            lambda r, x: _diverged(r, x, term=_middle),
            "That is the Jensen-Shannon divergence; asked is KL(p || q), with q in the logarithm as it is.",
        ),
        Mistake(
            "the likeliest word alone",
            lambda r, x: _diverged(
                r, x, term=lambda p, q: np.where(p == p.max(1, keepdims=True), p - q, 0)
            ),
            "All words count, each as much as the reference finds it likely.",
            also=(
                lambda r, x: _diverged(
                    r,
                    x,
                    term=lambda p, q: (
                        np.where(p == p.max(1, keepdims=True), np.exp(p), 0) * (p - q)
                    ),
                ),
            ),
        ),
        Mistake(
            "logits for logarithms",
            lambda r, x: float((np.exp(_softmax_log(r)) * (r - x)).sum(1).mean()),
            "Logits are logarithms only up to a number added to each row: make log-probabilities of both.",
        ),
    ),
)


# ---- MXFP4 -----------------------------------------------------------------------------------------
def round_mxfp4(weight: np.ndarray) -> np.ndarray:
    """The library's MXFP4, as floats."""
    return microscaling.quantize(torch.from_numpy(weight), microscaling.MXFP4).dequantize().numpy()


def _nearest(size: np.ndarray) -> np.ndarray:
    """Elements next to positive numbers, halves to even codes; beyond 6 they would go on."""
    exponent = np.frexp(size)[1] - 1
    gap = f32(2.0) ** (np.maximum(exponent, 0) - 1)
    return np.rint(size / gap) * gap


def _down(size: np.ndarray) -> np.ndarray:
    table = f32(microscaling.ELEMENTS)
    return table[np.abs(size[..., None] - table).argmin(-1)]


def _up(size: np.ndarray) -> np.ndarray:
    table = f32(microscaling.ELEMENTS)[::-1]
    return table[np.abs(size[..., None] - table).argmin(-1)]


def _rounded(
    weight: np.ndarray,
    block: int = BLOCK,
    scale: Callable = lambda top: 2.0 ** (np.frexp(top)[1] - 3),
    nearest: Callable = _nearest,
    cut: bool = True,
    back: bool = True,
    guard: bool = True,
) -> np.ndarray:
    """The spec, with one thing or another done differently."""
    x = weight.reshape(len(weight), -1, block)
    top = np.abs(x).max(2, keepdims=True)
    with np.errstate(all="ignore"):
        s = np.where(top > 0, scale(top).astype(f32), f32(1 if guard else 0))
        size = np.abs(x / s)
        found = nearest(np.minimum(size, 6) if cut else size)
    found = np.copysign(found, x)
    return (found * s if back else found).astype(f32).reshape(weight.shape)


def _mxfp4_cases(generator: np.random.Generator) -> list[Case]:
    elements = f32(microscaling.ELEMENTS)
    all_of_them = np.tile(np.concatenate([elements, -elements]), (1, 2))
    halves = np.tile(f32([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -2.5, -0.25, 4, 0, 6]), 3)[:32][None]
    small = _numbers(generator, 2, 32)
    small[0] *= f32(1e-3)
    with_zeros = _numbers(generator, 2, 64)
    with_zeros[1, :32] = 0
    cut = _numbers(generator, 1, 32)
    cut[0, 5] = 7.5
    return [
        Case("numbers that are elements", (all_of_them,)),
        Case("halves between two elements", (halves,)),
        Case("the largest is 7.5", (cut,)),
        Case("one block a row", (_numbers(generator, 3, 32),)),
        Case("two blocks a row", (_numbers(generator, 3, 64) * f32([1] * 32 + [9] * 32),)),
        Case("a row of small numbers", (small,)),
        Case("a block of zeros", (with_zeros,)),
        Case("32 rows", (_numbers(generator, 32, 32),)),
        Case("powers of two", (f32(2.0) ** generator.integers(-5, 6, (2, 32)).astype(f32),)),
    ]


def _many_blocks(generator: np.random.Generator) -> Case:
    return Case("a million weights", (_numbers(generator, 500, 2048),))


ROUND_MXFP4 = Exercise(
    id="today.round_mxfp4",
    title="Four-bit floats that share a scale",
    points=3,
    reference=round_mxfp4,
    cases=_mxfp4_cases,
    large=_many_blocks,
    lines=8,
    tolerance=1e-6,
    returns="the weights that the codes stand for",
    mistakes=(
        Mistake(
            "the largest becomes 6",
            lambda w: _rounded(w, scale=lambda top: top / 6),
            "A scale of MXFP4 is a power of two: eight bits of exponent and no mantissa.",
        ),
        Mistake(
            "the next larger power",
            lambda w: _rounded(w, scale=lambda top: 2.0 ** np.ceil(np.log2(top / 6))),
            "The exponent of the largest number is taken down, minus 2: what then lies above 6 is cut off.",
            also=(lambda w: _rounded(w, scale=lambda top: 2.0 ** (np.ceil(np.log2(top)) - 2)),),
        ),
        Mistake(
            "an exponent that is not lowered by 2",
            lambda w: _rounded(w, scale=lambda top: 2.0 ** (np.frexp(top)[1] - 1)),
            "The largest element is 6 = 1.5 * 2^2: so the block's exponent is lowered by 2.",
            also=(
                lambda w: _rounded(w, scale=lambda top: 2.0 ** (np.frexp(top)[1] - 2)),
                lambda w: _rounded(w, scale=lambda top: 2.0 ** (np.frexp(top)[1] - 4)),
            ),
        ),
        Mistake(
            "an exponent rounded to the nearest",
            lambda w: _rounded(w, scale=lambda top: 2.0 ** (np.rint(np.log2(top)) - 2)),
            "The exponent is rounded *down*: floor, not round.",
        ),
        Mistake(
            "one scale a row",
            lambda w: _rounded(w, block=w.shape[1]),
            "Every 32 neighbours of a row have a scale of their own.",
        ),
        Mistake(
            "one scale for all",
            lambda w: _rounded(w.reshape(1, -1), block=w.size).reshape(w.shape),
            "Every 32 neighbours of a row have a scale of their own.",
        ),
        Mistake(
            "blocks down the columns",
            lambda w: (
                _rounded(np.ascontiguousarray(w.T)).T.copy()
                if len(w) % BLOCK == 0
                else _rounded(w, 16)
            ),
            "A block lies along a row: 32 inputs of one output.",
        ),
        Mistake(
            "blocks of 16",
            lambda w: _rounded(w, 16),
            "Sixteen numbers are a block of NVFP4; MXFP4's has 32.",
        ),
        Mistake(
            "nothing is cut off",
            lambda w: _rounded(w, cut=False),
            "6 is the largest element: what is larger becomes 6.",
        ),
        Mistake(
            "halves go down",
            lambda w: _rounded(w, nearest=_down),
            "A number half-way between two elements goes to the one whose code is even (the "
            "codes 0 to 7 stand "
            "for 0, 0.5, 1, 1.5, 2, 3, 4, 6): np.rint does so, once the numbers are in units of the gap.",
            also=(lambda w: _rounded(w, nearest=_up),),
        ),
        Mistake(
            "even steps",
            lambda w: _rounded(w, nearest=np.rint),
            "These are integers. The elements lie 0.5 apart below 2, 1 apart up to 4, and then 2 apart.",
        ),
        Mistake(
            "finer and finer below 1",
            lambda w: _rounded(
                w,
                nearest=lambda v: (
                    np.rint(v / 2.0 ** (np.frexp(v)[1] - 2)) * 2.0 ** (np.frexp(v)[1] - 2)
                ),
            ),
            "Below 1 there is only 0.5: the gap is never smaller than 0.5.",
        ),
        Mistake(
            "steps of one half throughout",
            lambda w: _rounded(w, nearest=lambda v: np.rint(2 * v) / 2),
            "Elements lie 0.5 apart only below 2. From 2 to 4 they are 1 apart, and there is none between 4 "
            "and 6.",
        ),
        Mistake(
            "elements",
            lambda w: _rounded(w, back=False),
            "These are elements; wanted are the weights that they stand for: times the scale.",
        ),
        Mistake(
            "no signs",
            lambda w: np.abs(_rounded(w)),
            "The sign is a bit of its own: put it back.",
        ),
        Mistake(
            "a block of zeros",
            lambda w: _rounded(w, guard=False),
            "A block of zeros has no exponent: take any scale for it (1, say) before you divide.",
        ),
    ),
)


# ---- the fast transform ----------------------------------------------------------------------------
def hadamard(x: np.ndarray) -> np.ndarray:
    """Every row in the axes of Hadamard's matrix, by the library's kernel."""
    return kernel.transform(x)


def _staged(
    x: np.ndarray,
    halves: Callable = lambda n: [2**i for i in range(n.bit_length() - 1)],
    pair: Callable = lambda a, b: (a + b, a - b),
    factor: Callable = lambda n: n**-0.5,
    joined: Callable = lambda a, b: np.stack([a, b], 2),
) -> np.ndarray:
    """The spec, with one thing or another done differently."""
    n = x.shape[1]
    y = x.astype(np.float64)
    for half in halves(n):
        v = y.reshape(len(x), -1, 2, half)
        y = joined(*pair(v[:, :, 0], v[:, :, 1])).reshape(len(x), n)
    return (y * factor(n)).astype(f32)


def _hadamard_cases(generator: np.random.Generator) -> list[Case]:
    lone = np.zeros((1, 8), f32)
    lone[0, 3] = 8
    return [
        Case("two numbers", (f32([[3, 1]]),)),
        Case("four numbers", (f32([[1, 2, 3, 4]]),)),
        Case("one number", (f32([[5]]),)),
        Case("one large number among zeros", (lone,)),
        Case("eight rows of eight", (_numbers(generator, 8, 8),)),
        Case("three rows of 16", (_numbers(generator, 3, 16),)),
        Case("a row of 64", (_numbers(generator, 1, 64),)),
        Case("equal numbers", (np.ones((2, 4), f32),)),
    ]


def _many_rows(generator: np.random.Generator) -> Case:
    return Case("64 rows of 4,096", (_numbers(generator, 64, 4096),))


HADAMARD = Exercise(
    id="today.hadamard",
    title="The fast Hadamard transform",
    points=2,
    reference=hadamard,
    cases=_hadamard_cases,
    large=_many_rows,
    lines=7,
    tolerance=1e-4,
    returns="the transformed rows",
    mistakes=(
        Mistake(
            "no factor",
            lambda x: _staged(x, factor=lambda n: 1.0),
            "Rows become longer here. Divided by the root of n, the transform keeps their lengths.",
        ),
        Mistake(
            "divided by n",
            lambda x: _staged(x, factor=lambda n: 1 / n),
            "Divide by the *root* of n: each of the log2 n stages makes rows sqrt(2) times as long.",
            also=(lambda x: _staged(x, factor=lambda n: 0.5),),
        ),
        Mistake(
            "one stage",
            lambda x: _staged(x, halves=lambda n: [1] if n > 1 else []),
            "That is the first stage. Then come pairs that lie 2 apart, 4 apart, up to n / 2.",
            also=(lambda x: _staged(x, halves=lambda n: [n // 2] if n > 1 else []),),
        ),
        Mistake(
            "the last stage is missing",
            lambda x: _staged(x, halves=lambda n: [2**i for i in range(n.bit_length() - 2)]),
            "The last stage pairs numbers that lie n / 2 apart.",
        ),
        Mistake(
            "always neighbours",
            lambda x: _staged(x, halves=lambda n: [1] * (n.bit_length() - 1)),
            "Every stage pairs numbers twice as far apart as the one before: 1, 2, 4, ...",
        ),
        Mistake(
            "the difference turned round",
            lambda x: _staged(x, pair=lambda a, b: (a + b, b - a)),
            "The second of a pair becomes a - b, the first minus the second.",
        ),
        Mistake(
            "difference first",
            lambda x: _staged(x, pair=lambda a, b: (a - b, a + b)),
            "The sum takes the place of the first, the difference that of the second.",
        ),
        Mistake(
            "sums first, then differences",
            lambda x: _staged(x, joined=lambda a, b: np.concatenate([a, b], 1)),
            "Sum and difference go back to the places of the two numbers they were made from.",
        ),
        Mistake(
            "down the columns",
            lambda x: (
                _staged(np.ascontiguousarray(x.T)).T.copy()
                if len(x) & (len(x) - 1) == 0
                else _staged(x, factor=lambda n: 1.0)
            ),
            "Each *row* is transformed, along its numbers.",
        ),
        Mistake(
            "the first number used when it has changed",
            lambda x: _staged(x, pair=lambda a, b: (a + b, a + b - b)),
            "a - b needs the first number as it was: keep it before you write the sum into its place.",
        ),
    ),
)


# ---- Wanda -----------------------------------------------------------------------------------------
def wanda(weight: np.ndarray, x: np.ndarray, keep: int, of: int) -> np.ndarray:
    """The library's choice: `keep` of every `of` neighbours by |w| ||x||."""
    h = torch.from_numpy(x.astype(np.float64))
    pruned = one_shot.prune_layer(
        torch.from_numpy(weight), h.T @ h / len(h), "wanda", pattern=(int(keep), int(of))
    )
    return pruned.numpy()


def _chosen(
    weight: np.ndarray,
    x: np.ndarray,
    keep: int,
    of: int,
    size: Callable = lambda x: np.sqrt(np.square(x, dtype=np.float64).sum(0)),
    score: Callable = lambda w, s: np.abs(w) * s,
    largest: bool = True,
    rows: bool = False,
    result: Callable = lambda w, kept: w * kept,
) -> np.ndarray:
    """The spec, with one thing or another done differently."""
    s = score(weight, size(x))
    groups = s.reshape(len(weight), -1) if rows else s.reshape(-1, of)
    count = keep * groups.shape[1] // of
    order = np.argsort(-groups if largest else groups, axis=1, kind="stable")[:, :count]
    kept = np.zeros(groups.shape, bool)
    np.put_along_axis(kept, order, True, axis=1)
    return result(weight, kept.reshape(weight.shape))


def _above_the_last(weight: np.ndarray, x: np.ndarray, keep: int, of: int) -> np.ndarray:
    """What is not below the last of those that stay."""
    score = np.abs(weight) * np.sqrt(np.square(x, dtype=np.float64).sum(0))
    groups = score.reshape(-1, of)
    least = np.sort(groups, axis=1)[:, -keep][:, None]
    return weight * (groups >= least).reshape(weight.shape)


def _wanda_cases(generator: np.random.Generator) -> list[Case]:
    def problem(n: int, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        loud = f32(np.exp(generator.normal(0, 1, inputs)))
        return _numbers(generator, outputs, inputs), _numbers(generator, n, inputs) * loud

    w, x = problem(12, 8, 3)
    swinging = x.copy()
    swinging[:, 2] = np.tile(f32([4, -4]), 6)
    rare = np.abs(_numbers(generator, 20, 8)) + f32(1)
    rare[:, 1] = 0
    rare[0, 1] = f32(15)
    return [
        Case("2 of 4", (w, x, 2, 4)),
        Case(
            "a small weight that meets a large input",
            (f32([[1, 2, 3, 4]]), f32([[9, 1, 1, 1]]), 2, 4),
        ),
        Case("an input that swings about 0", (w, swinging, 2, 4)),
        Case("an input that is rarely there", (_numbers(generator, 4, 8), rare, 2, 4)),
        Case("1 of 4", (*problem(9, 16, 4), 1, 4)),
        Case("3 of 4", (*problem(9, 16, 4), 3, 4)),
        Case("4 of 8", (*problem(30, 24, 8), 4, 8)),
        Case("all stay", (*problem(5, 8, 2), 4, 4)),
        Case("equal scores", (f32([[1, 1, 1, 1], [1, 2, 1, 2]]), f32([[1, 1, 1, 1]]), 1, 4)),
    ]


def _many_weights(generator: np.random.Generator) -> Case:
    """Scores 3^a 2^b, no two of a group with the same a: they differ by an eighth or more."""
    x = np.float32(2) ** generator.integers(0, 4, 1024) * generator.choice(
        np.float32([-1, 1]), (64, 1024)
    )
    powers = generator.permuted(np.tile(np.float32([1, 3, 9, 27]), (600 * 256, 1)), axis=1)
    return Case("600,000 weights", (powers.reshape(600, 1024), x.astype(f32), 2, 4))


WANDA = Exercise(
    id="today.wanda",
    title="Weights and what they meet",
    points=2,
    reference=wanda,
    cases=_wanda_cases,
    large=_many_weights,
    lines=6,
    tolerance=1e-6,
    returns="the weight with zeros",
    mistakes=(
        Mistake(
            "by the weights alone",
            lambda w, x, k, m: _chosen(w, x, k, m, size=lambda x: 1.0),
            "That is magnitude: every input counts the same (a norm without an axis is one "
            "number for all). A "
            "weight counts times the length of the input that it meets.",
        ),
        Mistake(
            "by the inputs alone",
            lambda w, x, k, m: _chosen(w, x, k, m, score=lambda w, s: np.broadcast_to(s, w.shape)),
            "The weight's own size counts as well: |w| times the length of its input.",
        ),
        Mistake(
            "the mean of |x|",
            lambda w, x, k, m: _chosen(w, x, k, m, size=lambda x: np.abs(x).mean(0)),
            "The length of an input over the examples is the root of the sum of its squares.",
        ),
        Mistake(
            "the largest value ever seen",
            lambda w, x, k, m: _chosen(w, x, k, m, size=lambda x: np.abs(x).max(0)),
            "The length of an input over the examples is the root of the sum of its squares, not its largest "
            "value.",
        ),
        Mistake(
            "signs cancel",
            lambda w, x, k, m: _chosen(w, x, k, m, size=lambda x: np.abs(x.sum(0))),
            "An input that swings about 0 has a sum of 0 and matters all the same: squares first.",
        ),
        Mistake(
            "squares without the root",
            lambda w, x, k, m: _chosen(w, x, k, m, size=lambda x: np.square(x).sum(0)),
            "The *root* of the sum of squares: without it inputs count twice as much as weights.",
        ),
        Mistake(
            "the last of equals",
            lambda w, x, k, m: np.ascontiguousarray(_chosen(w[:, ::-1], x[:, ::-1], k, m)[:, ::-1]),
            "Of equal scores the first stay: sort so that equal ones keep their order.",
        ),
        Mistake(
            "all of the equal ones",
            lambda w, x, k, m: _above_the_last(w, x, k, m),
            "`keep` of every group stay, not more: a threshold lets all equal scores pass.",
        ),
        Mistake(
            "weights with their signs",
            lambda w, x, k, m: _chosen(w, x, k, m, score=lambda w, s: w * s),
            "A large negative weight matters: take its magnitude.",
        ),
        Mistake(
            "the smallest stay",
            lambda w, x, k, m: _chosen(w, x, k, m, largest=False),
            "The largest scores stay; these are the others.",
        ),
        Mistake(
            "over the whole row",
            lambda w, x, k, m: _chosen(w, x, k, m, rows=True),
            "`keep` of *every* `of` neighbours stay: the best of each small group, not of the row.",
        ),
        Mistake(
            "as many as should stay are gone",
            lambda w, x, k, m: _chosen(w, x, m - k, m),
            "`keep` is how many stay, not how many go.",
        ),
        Mistake(
            "the mask",
            lambda w, x, k, m: _chosen(w, x, k, m, result=lambda w, kept: kept.astype(f32)),
            "This says which stay; wanted is the weight, 0 where it does not stay.",
        ),
        Mistake(
            "scores in place of weights",
            lambda w, x, k, m: _chosen(
                w,
                x,
                k,
                m,
                result=lambda w, kept: (w * np.sqrt(np.square(x).sum(0)) * kept).astype(f32),
            ),
            "The score chooses; what stays is the weight as it was.",
        ),
    ),
)

EXERCISES = (DIVERGENCE, ROUND_MXFP4, HADAMARD, WANDA)
