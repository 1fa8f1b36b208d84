"""Lab 05: the next mask, the rewind, the random ticket, signs only, the distance of two masks."""

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.techniques import prune
from compresslab.techniques import tickets as library

f32 = np.float32
Arrays = tuple[np.ndarray, ...]


def _numbers(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(0, 1, shape).astype(f32)


def _mask(arrays: Arrays) -> prune.Mask:
    return prune.Mask({str(i): torch.from_numpy(a) for i, a in enumerate(arrays)})


# ---- the next mask -------------------------------------------------------------------------------
def next_mask(weight: np.ndarray, mask: np.ndarray, remaining: float) -> np.ndarray:
    """The library's choice of the weights that stay."""
    score = torch.where(torch.from_numpy(mask), torch.from_numpy(np.abs(weight)), -1.0)
    return prune.select({"w": score}, 1 - remaining).keep["w"].numpy()


def _round_cases(generator: np.random.Generator) -> list[Case]:
    weight = _numbers(generator, 4, 10)
    half = np.abs(weight) >= np.median(np.abs(weight))
    first = np.ones((4, 10), bool)
    gone = f32([[9, 1, 2, 3, -4, 5, 6, -7]])
    back = np.array([[False, True, True, True, True, True, True, True]])
    return [
        Case("the first round", (weight, first, 0.5)),
        Case("a weight that is gone has grown", (gone, back, 0.5)),
        Case(
            "a weight that stays is 0",
            (f32([0, 9, -2, 3]), np.array([True, False, True, True]), 0.75),
        ),
        Case("equal sizes", (np.ones((2, 5), f32), np.ones((2, 5), bool), 0.5)),
        Case("the second round", (weight, half, 0.25)),
        Case("very few", (weight, half, 0.05)),
        Case("no whole number", (_numbers(generator, 1, 7), np.ones((1, 7), bool), 0.35)),
    ]


def _largest(weight, mask, count, score=np.abs):
    flat = np.where(mask, score(weight), -np.inf).ravel()
    keep = np.ones(flat.size, bool)
    keep[np.argsort(flat, kind="stable")[: flat.size - count]] = False
    return keep.reshape(weight.shape)


def _many_weights(generator: np.random.Generator) -> Case:
    """All magnitudes differ: which are the smallest is no matter of order."""
    sizes = generator.permutation(120_000).astype(np.float32).reshape(300, 400) + 1
    return Case("120,000 weights", (sizes, generator.random((300, 400)) < 0.6, 0.4))


NEXT_MASK = Exercise(
    id="tickets.next_mask",
    title="The next mask",
    points=2,
    reference=next_mask,
    cases=_round_cases,
    large=_many_weights,
    lines=5,
    mistakes=(
        Mistake(
            "what was gone came back",
            lambda w, m, r: _largest(w, np.ones_like(m), round(r * w.size)),
            "A weight that an earlier round removed must stay removed, however large it looks now.",
        ),
        Mistake(
            "a share of what is left",
            lambda w, m, r: _largest(w, m, round(r * int(m.sum()))),
            "`remaining` is a share of *all* weights, not of those that are left.",
        ),
        Mistake(
            "the smallest kept",
            lambda w, m, r: _largest(w, m, round(r * w.size), score=lambda v: -np.abs(v)),
            "The ticket keeps the largest magnitudes.",
        ),
        Mistake(
            "signed values",
            lambda w, m, r: _largest(w, m, round(r * w.size), score=lambda v: v),
            "Compare magnitudes: -4 is larger than 3.",
        ),
        Mistake(
            "places lost to the gone",
            lambda w, m, r: _largest(w, np.ones_like(m), round(r * w.size)) & m,
            "What was gone must not take up places: rank it below everything that is left, then count.",
        ),
        Mistake(
            "the first of equals",
            lambda w, m, r: np.flip(_largest(np.flip(w), np.flip(m), round(r * w.size))),
            "Of equals the last in order stay: sort upwards and let the first go.",
        ),
        Mistake(
            "all that were left",
            lambda w, m, r: m.copy(),
            "That is the old mask. This round has to remove some more.",
        ),
    ),
)


# ---- rewinding -----------------------------------------------------------------------------------
def rewind(initial: np.ndarray, trained: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The ticket before its own training."""
    return initial * mask


def _rewind_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, *shape: int) -> Case:
        initial = _numbers(generator, *shape)
        trained = initial + _numbers(generator, *shape)
        return Case(label, (initial, trained, np.abs(trained) > 0.8))

    nothing = (f32([1, 2]), f32([3, -4]), np.array([False, False]))
    return [
        Case("one stays", (f32([0.5, -0.1]), f32([-2.0, 0.05]), np.array([True, False]))),
        Case("none stays", nothing),
        case("a layer", 3, 5),
        case("a convolution", 2, 3, 3, 3),
    ]


def _many_initial(generator: np.random.Generator) -> Case:
    initial, trained = generator.normal(0, 1, (2, 300, 400)).astype(np.float32)
    return Case("120,000 weights", (initial, trained, generator.random((300, 400)) < 0.5))


REWIND = Exercise(
    id="tickets.rewind",
    title="Back to the start",
    points=1,
    reference=rewind,
    cases=_rewind_cases,
    large=_many_initial,
    lines=1,
    tolerance=1e-6,
    mistakes=(
        Mistake(
            "not rewound",
            lambda i, t, m: t * m,
            "That is the pruned, trained network. The hypothesis is about the *initial* values.",
        ),
        Mistake(
            "not masked",
            lambda i, t, m: i.copy(),
            "That is the dense network's start. Only the ticket's weights are there; the others are 0.",
        ),
        Mistake(
            "pruned, with trained values",
            lambda i, t, m: np.where(m, i, t),
            "What is pruned is 0, not its trained value.",
        ),
        Mistake(
            "the trained signs",
            lambda i, t, m: np.abs(i) * np.sign(t) * m,
            "Each weight goes back to exactly what it was, sign included.",
        ),
        Mistake(
            "the losers",
            lambda i, t, m: i * ~m,
            "You kept the weights that lost: True means that a weight stays.",
        ),
    ),
)


# ---- the random ticket ---------------------------------------------------------------------------
def random_ticket(masks: Arrays, noise: Arrays) -> Arrays:
    """As many weights in each layer: those with the smallest noise."""
    return tuple(_with_least(n, int(m.sum())) for m, n in zip(masks, noise, strict=True))


def _with_least(noise: np.ndarray, count: int) -> np.ndarray:
    keep = np.zeros(noise.size, bool)
    keep[np.argsort(noise.ravel(), kind="stable")[:count]] = True
    return keep.reshape(noise.shape)


def _ticket_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, *layers: tuple[int, int, float]) -> Case:
        masks, noise = [], []
        for rows, columns, share in layers:
            order = generator.permutation(rows * columns).reshape(rows, columns)
            masks.append(order < max(1, round(share * rows * columns)))
            noise.append(generator.random((rows, columns)).astype(f32))
        return Case(label, (tuple(masks), tuple(noise)))

    return [
        case("one layer", (2, 4, 0.5)),
        case("a full and a nearly empty layer", (3, 4, 1.0), (4, 5, 0.1)),
        case("three layers", (5, 6, 0.5), (4, 4, 0.25), (3, 3, 0.8)),
        case("one weight", (1, 3, 0.3)),
        Case("equal noise", ((np.arange(40).reshape(4, 10) % 3 == 0,), (np.ones((4, 10), f32),))),
    ]


def _globally(masks, noise):
    flat = np.concatenate([n.ravel() for n in noise])
    keep = _with_least(flat, sum(int(m.sum()) for m in masks))
    cuts = np.cumsum([n.size for n in noise])[:-1]
    return tuple(k.reshape(n.shape) for k, n in zip(np.split(keep, cuts), noise, strict=True))


def _many_places(generator: np.random.Generator) -> Case:
    noise = generator.permutation(120_000).astype(np.float32).reshape(300, 400)
    return Case("120,000 weights", ((generator.random((300, 400)) < 0.3,), (noise,)))


RANDOM_TICKET = Exercise(
    id="tickets.random_ticket",
    title="A fair control",
    points=2,
    reference=random_ticket,
    cases=_ticket_cases,
    large=_many_places,
    lines=4,
    mistakes=(
        Mistake(
            "one count for all layers",
            _globally,
            "The same number of weights in all, but not in each layer. Then two things differ, and the "
            "comparison says nothing about either.",
        ),
        Mistake(
            "about as many",
            lambda ms, ns: tuple(n < m.mean() for m, n in zip(ms, ns, strict=True)),
            "Each weight stays with the right probability, so the count is right only on average. Keep "
            "exactly as many.",
        ),
        Mistake(
            "the winning mask itself",
            lambda ms, ns: tuple(m.copy() for m in ms),
            "That is the winning ticket. The control has other places and the same number of them.",
        ),
        Mistake(
            "within the winning mask",
            lambda ms, ns: tuple(m & (n < 0.5) for m, n in zip(ms, ns, strict=True)),
            "The random ticket may use any weight of the layer, and must use as many.",
        ),
    ),
)


# ---- signs only ----------------------------------------------------------------------------------
def signs_only(initial: np.ndarray) -> np.ndarray:
    """The library's start from signs: one magnitude for the layer, its root mean square."""
    state = {"a.weight": torch.from_numpy(initial.copy())}
    return library.with_signs_only(state, ["a"])["a.weight"].numpy()


def _sign_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("two weights", (f32([3.0, -4.0]),)),
        Case("already of one size", (f32([-2, 2, 2]),)),
        Case("a layer off centre", (_numbers(generator, 3, 5) + 1,)),
        Case("a convolution", (_numbers(generator, 2, 3, 3, 3),)),
    ]


def _many_signs(generator: np.random.Generator) -> Case:
    # Halves and ones: the mean of their squares is the same in any precision.
    size = generator.integers(1, 3, (2_000, 2_000)).astype(np.float32) / 2
    return Case(
        "four million weights", (np.where(generator.random(size.shape) < 0.5, size, -size),)
    )


SIGNS_ONLY = Exercise(
    id="tickets.signs_only",
    title="Only the signs",
    points=1,
    reference=signs_only,
    cases=_sign_cases,
    large=_many_signs,
    lines=1,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "signs of size one",
            lambda w: np.sign(w),
            "Weights of ±1 are far too large to train. Use the layer's own size, its root mean square.",
        ),
        Mistake(
            "mean magnitude",
            lambda w: np.sign(w) * np.abs(w).mean(),
            "The root of the mean square, so that the layer's energy stays what it was.",
        ),
        Mistake(
            "standard deviation",
            lambda w: np.sign(w) * w.std(),
            "The standard deviation takes the mean off first. The size of weights is measured from 0.",
        ),
        Mistake(
            "magnitudes only",
            lambda w: np.full_like(w, np.sqrt(np.square(w).mean())),
            "The other way round: the signs stay, the magnitudes go.",
        ),
    ),
)


# ---- the distance of masks -----------------------------------------------------------------------
def mask_distance(one: Arrays, other: Arrays) -> float:
    """The library's distance."""
    return library.mask_distance(_mask(one), _mask(other))


def _pair_cases(generator: np.random.Generator) -> list[Case]:
    def masks(share: float) -> Arrays:
        return tuple(generator.random(shape) < share for shape in ((3, 4), (2, 10)))

    same = masks(0.5)
    return [
        Case("one layer", ((np.array([True, True, False]),), (np.array([True, False, False]),))),
        Case("a mask and itself", (same, tuple(m.copy() for m in same))),
        Case("opposites", (same, tuple(~m for m in same))),
        Case("two layers of different size", (masks(0.3), masks(0.6))),
        Case("sparse masks", (masks(0.1), masks(0.1))),
    ]


def _pairs(one, other):
    return list(zip(one, other, strict=True))


def _many_bits(generator: np.random.Generator) -> Case:
    one, other = generator.random((2, 300, 400)) < 0.4
    return Case("120,000 weights", ((one,), (other,)))


MASK_DISTANCE = Exercise(
    id="tickets.mask_distance",
    title="How far apart are two masks?",
    points=1,
    reference=mask_distance,
    cases=_pair_cases,
    large=_many_bits,
    lines=2,
    tolerance=1e-6,
    mistakes=(
        Mistake(
            "how alike",
            lambda a, b: float(
                sum((x == y).sum() for x, y in _pairs(a, b)) / sum(x.size for x in a)
            ),
            "That is the share that agrees: the distance of a mask to itself must be 0.",
        ),
        Mistake(
            "mean over layers",
            lambda a, b: float(np.mean([(x ^ y).mean() for x, y in _pairs(a, b)])),
            "Layers have different sizes: count over all weights together.",
        ),
        Mistake(
            "difference of the counts",
            lambda a, b: float(
                abs(sum(int(x.sum()) for x in a) - sum(int(y.sum()) for y in b))
                / sum(x.size for x in a)
            ),
            "Two masks with equally many weights can differ everywhere. Compare place by place.",
        ),
        Mistake(
            "one way only",
            lambda a, b: float(
                sum((x & ~y).sum() for x, y in _pairs(a, b)) / sum(x.size for x in a)
            ),
            "Count the places that differ either way.",
        ),
        Mistake(
            "of those that stay",
            lambda a, b: float(
                sum((x ^ y).sum() for x, y in _pairs(a, b)) / max(1, sum(x.sum() for x in a))
            ),
            "Divide by all places, not by those that stay.",
        ),
        Mistake(
            "not a share",
            lambda a, b: float(sum((x ^ y).sum() for x, y in _pairs(a, b))),
            "Divide by the number of weights.",
        ),
    ),
)

EXERCISES = (NEXT_MASK, REWIND, RANDOM_TICKET, SIGNS_ONLY, MASK_DISTANCE)
