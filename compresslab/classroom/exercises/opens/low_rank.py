"""Lab 06, open: the ranks of a network's layers under a budget of numbers."""

import numpy as np

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.classroom.exercises.opens import networks
from compresslab.classroom.exercises.opens.networks import Arrays

EXAMPLES = 2_000
FRACTIONS = (0.088, 0.1, 0.114)
"""Of a network's numbers, about what the budgets are."""


def price(weight: np.ndarray, rank: int) -> int:
    """Numbers that a layer takes: two factors, or the matrix where that is no more."""
    m, n = weight.shape
    return min(rank * (m + n), m * n)


def cut(weight: np.ndarray, rank: int, moment: np.ndarray) -> np.ndarray:
    """The product of that rank nearest for such inputs; the weight itself where that does not pay."""
    if rank * sum(weight.shape) >= weight.size:
        return weight
    (root,) = _roots([moment])
    u, s, vt = np.linalg.svd(weight @ root, full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vt[:rank] @ np.linalg.inv(root)).astype(np.float32)


def choose_ranks(
    weights: Arrays, biases: Arrays, images: np.ndarray, labels: np.ndarray, budget: int
) -> tuple[int, ...]:
    """By trying: numbers are moved from layer to layer as long as the loss on the images falls."""
    return _tried(weights, biases, images, labels, budget)


def _tried(weights, biases, images, labels, budget):
    roots = _roots(_moments(weights, biases, images))
    parts = [np.linalg.svd(w @ r, full_matrices=False) for w, r in zip(weights, roots, strict=True)]
    inverses = [np.linalg.inv(r) for r in roots]

    def loss(ranks):
        cuts = [
            (u[:, :k] * s[:k]) @ vt[:k] @ back if k * sum(w.shape) < w.size else w
            for (u, s, vt), back, w, k in zip(parts, inverses, weights, ranks, strict=True)
        ]
        z = networks.outputs(cuts, biases, images)
        z = z - z.max(1, keepdims=True)
        return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]).mean())

    ranks = list(_same_rank(weights, biases, images, labels, budget))
    best, step = loss(ranks), 8
    while step:
        found = None
        for giver in range(len(ranks)):
            for taker in range(len(ranks)):
                more = list(ranks)
                more[giver] -= step
                if giver == taker or more[giver] < 1:
                    continue
                while more[taker] < min(weights[taker].shape):
                    more[taker] += 1
                    if sum(price(w, r) for w, r in zip(weights, more, strict=True)) > budget:
                        more[taker] -= 1
                        break
                if (now := loss(more)) < best:
                    best, found = now, more
        ranks, step = (found, step) if found else (ranks, step // 2)
    return tuple(ranks)


def _roots(moments: Arrays) -> list[np.ndarray]:
    # A little of the mean on the diagonal: directions that no input has would make the root singular.
    return [np.linalg.cholesky(m + 1e-4 * np.trace(m) / len(m) * np.eye(len(m))) for m in moments]


def _moments(weights: Arrays, biases: Arrays, x: np.ndarray) -> list[np.ndarray]:
    """Of each layer's inputs, float64 [inputs, inputs]."""
    found = []
    for w, b in zip(weights, biases, strict=True):
        found.append((x.T @ x / len(x)).astype(np.float64))
        x = np.maximum(x @ w.T + b, 0)
    return found


def _same_fraction(weights, biases, images, labels, budget):
    """The plain way: the same fraction of every layer."""
    fraction = budget / sum(w.size for w in weights)
    return tuple(max(1, int(fraction * w.size / sum(w.shape))) for w in weights)


def _same_rank(weights, biases, images, labels, budget):
    rank = 1
    while sum(price(w, rank + 1) for w in weights) <= budget:
        rank += 1
    return tuple(min(rank, *w.shape) for w in weights)


def _smallest_first(weights, biases, images, labels, budget):
    """As much as fits to the last layer, then to the one before it."""
    ranks, left = [1] * len(weights), budget - sum(price(w, 1) for w in weights)
    for i in reversed(range(len(weights))):
        while ranks[i] < min(weights[i].shape):
            more = price(weights[i], ranks[i] + 1) - price(weights[i], ranks[i])
            if more > left:
                break
            ranks[i], left = ranks[i] + 1, left - more
    return tuple(ranks)


def _too_much(weights, biases, images, labels, budget):
    return _same_fraction(weights, biases, images, labels, 2 * budget)


def measured(case: Case, ranks: object) -> float | str:
    """Accuracy of the network with these ranks; a sentence if they break the rules."""
    weights, biases, images, _, budget = case.args
    if type(ranks) not in (tuple, list) or len(ranks) != len(weights):
        return f"there must be {len(weights)} ranks, one a layer"
    for rank, weight in zip(ranks, weights, strict=True):
        whole = isinstance(rank, int | np.integer) and not isinstance(rank, bool)
        if not whole or not 1 <= rank <= min(weight.shape):
            return (
                f"a rank must be an integer from 1 to {min(weight.shape)}, got {compare.show(rank)}"
            )
    used = sum(price(w, int(r)) for w, r in zip(weights, ranks, strict=True))
    if used > budget:
        return f"these ranks take {used:,} numbers, allowed are {budget:,}"
    moments = _moments(weights, biases, images)
    parts = zip(weights, ranks, moments, strict=True)
    return networks.accuracy([cut(w, int(r), m) for w, r, m in parts], biases)


def _cases(generator: np.random.Generator) -> list[Case]:
    cases, (x, y) = [], networks.images()
    # Budgets that differ, so that no ranks are right for all three.
    for seed, fraction in enumerate(generator.permutation(FRACTIONS)):
        weights, biases = networks.mlp(seed)
        whole = sum(w.size for w in weights)
        budget = int(whole * fraction * generator.uniform(0.985, 1.015))
        some = generator.choice(len(x), EXAMPLES, replace=False)
        label = f"network {seed + 1}: {budget:,} numbers, {100 * budget / whole:.0f} % of {whole:,}"
        cases.append(Case(label, (weights, biases, x[some], y[some], budget)))
    return cases


CHOOSE_RANKS = Exercise(
    id="low_rank.choose_ranks",
    title="Ranks under a budget",
    points=9,
    reference=choose_ranks,
    cases=_cases,
    lines=15,
    medals=Medals(
        bronze=40.0,
        silver=59.3,
        gold=59.8,
        measure=measured,
        unit="% of the validation images, mean of three networks",
        plain=_same_fraction,
    ),
    mistakes=(
        Mistake(
            "the same fraction of every layer",
            _same_fraction,
            "Every layer gets the same fraction here. Look at the spectra: how much of its outputs does "
            "each "
            "layer lose with the next direction, and how many numbers does that direction cost?",
        ),
        Mistake(
            "the same rank everywhere",
            _same_rank,
            "A direction of a small layer costs fewer numbers than one of a large layer, and the layers "
            "do not "
            "need equally many.",
        ),
        Mistake(
            "the last layers first",
            _smallest_first,
            "The last layers have all they could use now, and the first one starves.",
        ),
        Mistake(
            "over the budget",
            _too_much,
            "A layer of rank k takes k (m + n) numbers, or m n if that is less. Add them up before you "
            "hand the "
            "ranks back.",
        ),
    ),
)

EXERCISES = (CHOOSE_RANKS,)
