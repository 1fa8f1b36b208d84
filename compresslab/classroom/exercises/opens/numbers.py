"""Lab 01, open: sixteen levels for the weights of a language model.

Every group of 64 weights is divided by its largest magnitude, each weight goes to the nearest of sixteen
levels, and is multiplied by the magnitude again. NF4 (Dettmers et al. 2023, section 3) takes quantiles of a
normal distribution for levels; here they may be anything.
"""

import functools

import numpy as np

from compresslab import pretrained
from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.network.select import linear_layers, matrix

LEVELS, GROUP = 16, 64
GIVEN = 2_000


def sixteen_levels(groups: np.ndarray) -> np.ndarray:
    """Lloyd's levels, each weight counted with the square of what its group is multiplied by."""
    return _lloyd(groups, 150)


def _lloyd(groups: np.ndarray, rounds: int) -> np.ndarray:
    largest = np.abs(groups).max(1, keepdims=True)
    x = (groups / largest).ravel()
    counted = np.broadcast_to(largest**2, groups.shape).ravel()
    levels = np.linspace(-1, 1, LEVELS)
    for _ in range(rounds):
        nearest = _nearest(x, levels)
        total = np.bincount(nearest, counted, LEVELS)
        means = np.bincount(nearest, counted * x, LEVELS) / np.maximum(total, 1e-12)
        levels = np.where(total > 0, means, levels)
    return np.sort(levels).astype(np.float32)


def _nearest(x: np.ndarray, levels: np.ndarray) -> np.ndarray:
    borders = (levels[1:] + levels[:-1]) / 2
    return np.searchsorted(borders, x)


@functools.cache
def _groups() -> np.ndarray:
    """All groups of the course's language model whose largest is not 0, float32 [groups, 64]."""
    model = pretrained.language_model()
    rows = [matrix(layer).detach().numpy().ravel() for layer in linear_layers(model).values()]
    groups = np.concatenate([r[: len(r) // GROUP * GROUP] for r in rows]).reshape(-1, GROUP)
    return groups[np.abs(groups).max(1) > 0]


def _cases(generator: np.random.Generator) -> list[Case]:
    groups = _groups()
    order = generator.permutation(len(groups))
    label = f"{GIVEN:,} groups of {GROUP} weights of a language model; measured on the others"
    return [Case(label, (groups[order[:GIVEN]],), hidden=(groups[order[GIVEN:]],))]


def measured(case: Case, levels: object) -> float | str:
    """Decibels of the other groups' weights over their error."""
    fine = isinstance(levels, np.ndarray) and levels.dtype == np.float32
    if not fine or levels.shape != (LEVELS,) or not np.isfinite(levels).all():
        return (
            f"there must be {LEVELS} finite levels in a float32 array, got {compare.show(levels)}"
        )
    (groups,) = case.hidden
    levels = np.sort(levels.astype(np.float64))
    largest = np.abs(groups).max(1, keepdims=True)
    rounded = levels[_nearest(groups / largest, levels)] * largest
    return float(10 * np.log10(np.square(groups).sum() / np.square(groups - rounded).sum()))


# ---- other ways ------------------------------------------------------------------------------------
def _uniform(groups):
    return np.linspace(-1, 1, LEVELS, dtype=np.float32)


def _three_rounds(groups):
    return _lloyd(groups, 3)


def _quantiles(groups):
    x = (groups / np.abs(groups).max(1, keepdims=True)).ravel()
    return np.quantile(x, np.linspace(0, 1, LEVELS)).astype(np.float32)


def _of_the_weights(groups):
    return np.quantile(groups.ravel(), (np.arange(LEVELS) + 0.5) / LEVELS).astype(np.float32)


def _asymmetric_integers(groups):
    return (np.arange(-8, 8) / 8).astype(np.float32)


SIXTEEN_LEVELS = Exercise(
    id="numbers.sixteen_levels",
    title="Sixteen levels",
    points=12,
    reference=sixteen_levels,
    cases=_cases,
    lines=12,
    medals=Medals(
        bronze=20.1,
        silver=20.6,
        gold=21.05,
        measure=measured,
        unit="dB on the other groups",
        plain=_uniform,
    ),
    mistakes=(
        Mistake(
            "evenly spaced levels",
            _uniform,
            "Your levels are evenly spaced, and the weights are not: most of a group is much smaller "
            "than its "
            "largest. Put more levels where the weights are.",
        ),
        Mistake(
            "the integers from -8 to 7",
            _asymmetric_integers,
            "These are the integers of four bits. The largest of a group is often positive, and 7 / "
            "8 of it is "
            "a "
            "large error where it hurts most.",
        ),
        Mistake(
            "as many weights to each level",
            _quantiles,
            "With quantiles every level gets as many weights, so the few large ones share two "
            "levels, and they "
            "make most of the error. What matters is the sum of squared errors.",
        ),
        Mistake(
            "levels of weights that were not divided",
            _of_the_weights,
            "Levels meet weights that were divided by the largest of their group: they must reach "
            "from -1 to 1.",
        ),
        Mistake(
            "a few rounds only",
            _three_rounds,
            "Moving every level into the middle of its weights is right. Go on: after three rounds "
            "the levels "
            "are still on their way.",
        ),
    ),
)

EXERCISES = (SIXTEEN_LEVELS,)
