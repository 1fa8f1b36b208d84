"""Lab 00, open: how many times faster, from a clock that lies in all the usual ways.

Pairs of functions were timed in turn, one call of each, on a simulated machine whose true times are known:

    time = true time * warm-up * frequency * noise + interruption

Warm-up is over after some calls, the frequency falls and rises for both alike, noise is even on the scale of
logarithms, interruptions only add. Nobody's machine decides the outcome.
"""

import numpy as np

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake

PAIRS, CALLS = 400, 60
NEAR = 0.01
"""How far off a ratio may be, as a fraction of it."""


def times_faster(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where the logarithms of the pairs' ratios lie densest, warm-up left out."""
    logs = np.log(other[:, 5:] / one[:, 5:])
    middle = np.median(logs, axis=1, keepdims=True)
    for width in (0.13, 0.08, 0.07):
        near = np.exp(-(((logs - middle) / width) ** 2) / 2)
        middle = (logs * near).sum(1, keepdims=True) / near.sum(1, keepdims=True)
    return np.exp(middle[:, 0])


# ---- the machine -----------------------------------------------------------------------------------
def _simulated(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds of both, float64 [PAIRS, CALLS], and how many times faster the first truly is."""
    true = np.exp(generator.uniform(-0.7, 0.7, PAIRS))
    base = generator.uniform(2e-4, 2e-3, PAIRS)
    shape = (PAIRS, CALLS)
    calls = np.arange(CALLS)
    warm = 1 + generator.uniform(1, 4, (PAIRS, 1)) * np.exp(-calls / 2)
    steps = generator.random(shape) < 0.04
    # A frequency that changes at some calls, to somewhere between the full one and two thirds of it.
    levels = np.where(steps, generator.uniform(1.0, 1.5, shape), np.nan)
    levels[:, 0] = 1.0
    for call in calls[1:]:
        levels[:, call] = np.where(np.isnan(levels[:, call]), levels[:, call - 1], levels[:, call])
    both = warm * levels
    found = []
    for factor in (np.ones(PAIRS), true):
        noise = np.exp(0.03 * generator.standard_normal(shape))
        hit = generator.random(shape) < generator.uniform(0.05, 0.25, (PAIRS, 1))
        more = hit * generator.exponential(1.0, shape) * base[:, None]
        found.append(base[:, None] * factor[:, None] * both * noise + more)
    return found[0], found[1], true


def _cases(generator: np.random.Generator) -> list[Case]:
    one, other, true = _simulated(generator)
    label = f"{PAIRS} pairs of functions, {CALLS} calls of each in turn"
    return [Case(label, (one, other), hidden=(true,))]


def measured(case: Case, found: object) -> float | str:
    """Per cent of the ratios that are within a hundredth of the true one."""
    if not isinstance(found, np.ndarray) or found.shape != (PAIRS,) or found.dtype.kind != "f":
        return f"there must be a float array of {PAIRS} ratios, got {compare.show(found)}"
    (true,) = case.hidden
    near = np.abs(found.astype(np.float64) / true - 1) < NEAR
    return 100 * float(near.mean())


# ---- other ways ------------------------------------------------------------------------------------
def _of_means(one, other):
    return other.mean(1) / one.mean(1)


def _of_minima(one, other):
    return other.min(1) / one.min(1)


def _of_medians(one, other):
    return np.median(other, axis=1) / np.median(one, axis=1)


def _of_first_calls(one, other):
    return other[:, 0] / one[:, 0]


def _other_way_round(one, other):
    return np.median(one / other, axis=1)


TIMES_FASTER = Exercise(
    id="measuring.times_faster",
    title="A clock that lies",
    points=9,
    reference=times_faster,
    cases=_cases,
    lines=8,
    medals=Medals(
        bronze=40.0,
        silver=56.0,
        gold=73.0,
        measure=measured,
        unit="% of the ratios within a hundredth of the true one",
        plain=_of_means,
    ),
    mistakes=(
        Mistake(
            "the means of all calls",
            _of_means,
            "Warm-up and interruptions are in your means. Both only add: leave out the first calls, "
            "and take "
            "something that a few large values do not move.",
        ),
        Mistake(
            "the two smallest times",
            _of_minima,
            "The smallest time of each comes from another call, and the frequency may have been "
            "another one "
            "then. Calls of the same column saw the same frequency: compare them with one another.",
        ),
        Mistake(
            "the two medians",
            _of_medians,
            "Each median comes from another call, at another frequency. Take the ratio of each pair "
            "of calls "
            "first, and the middle of the ratios then.",
        ),
        Mistake(
            "the first calls",
            _of_first_calls,
            "A single call is noise, and the first one is the worst of all.",
        ),
        Mistake(
            "the other way round",
            _other_way_round,
            "How many times faster the *first* one is: its time stands below the line.",
        ),
    ),
)

EXERCISES = (TIMES_FASTER,)
