"""Lab 13, open: the bits of every matrix of a language model under a budget of bytes."""

import functools
import math

import numpy as np

from compresslab import pretrained
from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.data import corpus
from compresslab.gpt import GPT, perplexity
from compresslab.network.select import linear_layers, matrix, set_matrix, word_tables
from compresslab.techniques.weight_only import WeightConfig, round_to_nearest

BITS, GROUP = (2, 3, 4, 5, 6, 8), 32
SCALE_BYTES = 2
AVERAGES = (2.45, 2.6, 2.8)
"""Bits a weight that the budgets are worth; at whole numbers the plain way is hard to beat."""
CALIBRATION, VALIDATION = 8, 32
UNIT = 256
"""Bytes to a step of the search: so few of them decide nothing."""


def bytes_of(weights: int, bits: int) -> int:
    """Bytes of a matrix: its codes, and for each group a scale and a zero point."""
    groups = weights // GROUP
    return (weights * bits + groups * bits + 7) // 8 + groups * SCALE_BYTES


class _Rounded:
    """The course's GPT, whose matrices can have any of BITS."""

    def __init__(self) -> None:
        self.model: GPT = pretrained.language_model()
        tables = {n: self.model.get_submodule(n) for n in word_tables(self.model)}
        self.layers = {**linear_layers(self.model), **tables}
        floats = {name: matrix(layer).clone() for name, layer in self.layers.items()}
        self.rounded = {
            (name, bits): round_to_nearest(w, WeightConfig(bits, GROUP)).dequantize()
            for name, w in floats.items()
            for bits in BITS
        } | {(name, 0): w for name, w in floats.items()}
        self.sizes = [w.numel() for w in floats.values()]

    def loss(self, bits: dict[str, int], passages: corpus.Passages) -> float:
        """Of the next token, in nats; matrices that are not named stay floats."""
        for name, layer in self.layers.items():
            set_matrix(layer, self.rounded[name, bits.get(name, 0)])
        return math.log(perplexity(self.model, passages))


@functools.cache
def _network() -> _Rounded:
    return _Rounded()


@functools.cache
def table() -> tuple[np.ndarray, np.ndarray]:
    """Bytes and rise of the loss of each matrix by itself, [matrices, len(BITS)], on calibration text."""
    network, text = _network(), corpus.load("python", "train", 20_000).first(CALIBRATION)
    sizes = np.array([[bytes_of(n, b) for b in BITS] for n in network.sizes])
    before = network.loss({}, text)
    rise = [[network.loss({name: b}, text) - before for b in BITS] for name in network.layers]
    return sizes, np.array(rise)


@functools.cache
def _validation() -> tuple[corpus.Passages, float]:
    text = corpus.load("python", "val").first(VALIDATION)
    return text, _network().loss({}, text)


# ---- ways to choose --------------------------------------------------------------------------------
def choose_bits(
    sizes: np.ndarray, rise: np.ndarray, bits: tuple[int, ...], budget: int
) -> tuple[int, ...]:
    """The plan with the least sum of rises within the budget: dynamic programming over bytes.

    That the rises add up is an assumption: several rough matrices make each other worse.
    """
    steps = budget // UNIT
    best, chosen = np.zeros(steps + 1), []
    for size, value in zip(-(-sizes // UNIT), rise, strict=True):
        options = np.full((len(bits), steps + 1), np.inf)
        for k, (s, v) in enumerate(zip(size, value, strict=True)):
            if s <= steps:
                options[k, s:] = best[: steps + 1 - s] + v
        chosen.append(options.argmin(0))
        best = options.min(0)
    left, plan = steps, []
    for row in range(len(sizes) - 1, -1, -1):
        k = int(chosen[row][left])
        plan.append(bits[k])
        left -= int(-(-sizes[row, k] // UNIT))
    return tuple(reversed(plan))


def _greedy(sizes, rise, bits, budget):
    """One step up at a time, where a byte takes away most of the rise."""
    level, rows = np.zeros(len(sizes), int), np.arange(len(sizes))
    while True:
        up = np.minimum(level + 1, len(bits) - 1)
        more = sizes[rows, up] - sizes[rows, level]
        gain = rise[rows, level] - rise[rows, up]
        fits = (more > 0) & (sizes[rows, level].sum() + more <= budget)
        if not fits.any():
            return tuple(bits[k] for k in level)
        level[np.where(fits, gain / np.maximum(more, 1), -np.inf).argmax()] += 1


def _same(sizes, rise, bits, budget):
    """The plain way: the same bits for all; what is left lifts the first matrices by one step."""
    k = max([i for i in range(len(bits)) if sizes[:, i].sum() <= budget], default=0)
    level = np.full(len(sizes), k)
    rows = np.arange(len(sizes))
    for row in rows:
        trial = level.copy()
        trial[row] = min(k + 1, len(bits) - 1)
        if sizes[rows, trial].sum() <= budget:
            level = trial
    return tuple(bits[i] for i in level)


def _in_order_of(key):
    """Eight bits for the matrices in some order as long as that fits, two for the others."""

    def chosen(sizes, rise, bits, budget):
        level, rows = np.zeros(len(sizes), int), np.arange(len(sizes))
        for row in np.argsort(key(sizes, rise), kind="stable"):
            trial = level.copy()
            trial[row] = len(bits) - 1
            if sizes[rows, trial].sum() <= budget:
                level = trial
        return tuple(bits[i] for i in level)

    return chosen


def _over(sizes, rise, bits, budget):
    return _greedy(sizes, rise, bits, budget + budget // 4)


def _positions(sizes, rise, bits, budget):
    """Indices into `bits` where the bits themselves are asked for."""
    return tuple(bits.index(b) for b in _greedy(sizes, rise, bits, budget))


def measured(case: Case, plan: object) -> float | str:
    """How sure of the right token the rounded model is, in per cent of the float one."""
    sizes, _, bits, budget = case.args
    if isinstance(plan, np.ndarray) and plan.ndim == 1:
        plan = list(plan)
    if type(plan) not in (tuple, list):
        return f"the plan must be a tuple, a list or an array, got {type(plan).__name__}"
    if len(plan) != len(sizes):
        return f"there must be {len(sizes)} numbers of bits, one a matrix, got {len(plan)}"
    for b in plan:
        if isinstance(b, bool) or not isinstance(b, int | np.integer) or b not in bits:
            return f"bits must be integers, each one of {', '.join(map(str, bits))}, got {compare.show(b)}"
    used = sum(int(row[bits.index(int(b))]) for row, b in zip(sizes, plan, strict=True))
    if used > budget:
        return f"this plan takes {used:,} bytes, allowed are {budget:,}"
    network, (text, before) = _network(), _validation()
    named = dict(zip(network.layers, map(int, plan), strict=True))
    return 100 * math.exp(before - network.loss(named, text))


def _cases(generator: np.random.Generator) -> list[Case]:
    sizes, rise = table()
    weights, cases = sum(_network().sizes), []
    for average in AVERAGES:
        low, high = sizes[:, 0].sum(), sizes[:, 1].sum()
        share = average - BITS[0] + generator.uniform(-0.01, 0.01)
        budget = int(low + share * (high - low))
        label = (
            f"{budget:,} bytes for {weights:,} weights, about {8 * budget / weights:.1f} bits each"
        )
        cases.append(Case(label, (sizes.copy(), rise.copy(), BITS, budget)))
    return cases


CHOOSE_BITS = Exercise(
    id="real.choose_bits",
    title="Bits under a budget",
    points=3,
    reference=choose_bits,
    cases=_cases,
    lines=15,
    medals=Medals(
        bronze=34.0,
        silver=38.0,
        # The text is the standard library's own: under Python 3.13 every good way ends lower.
        gold=40.0,
        measure=measured,
        unit="% of the float model's certainty, mean of three budgets",
        plain=_same,
    ),
    mistakes=(
        Mistake(
            "the same bits for all",
            _same,
            "Every matrix gets the same bits, and what is left goes to the first ones. The table says "
            "where the next bit takes away most of the loss, and what it costs there.",
        ),
        Mistake(
            "all or nothing",
            _in_order_of(lambda sizes, rise: -rise[:, 0]),
            "Few matrices have 8 bits here, and all the others 2. The third bit takes away most of the "
            "loss, the eighth next to none: go up one step at a time.",
            also=(_in_order_of(lambda sizes, rise: np.arange(len(sizes))),),
        ),
        Mistake(
            "indices, not bits",
            _positions,
            "These are positions in `bits`; asked for are the bits that stand there.",
        ),
        Mistake(
            "over the budget",
            _over,
            "Add up the bytes of the plan, sizes[i, k] for the k that you chose, before you hand it back.",
        ),
    ),
)

EXERCISES = (CHOOSE_BITS,)
