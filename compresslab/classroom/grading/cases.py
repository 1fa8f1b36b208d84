"""The calls of a grading run: which they are, which nobody can know beforehand, what they should give.

They come from the run's seed and the exercise's id, so that every exercise has numbers of its own, whichever
others are graded beside it, and a run can be repeated.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise
from compresslab.classroom.judge import expected_of, fastest

ENOUGH_DRAWN, DRAWS = 3, 5


@functools.lru_cache(maxsize=200)
def cases_of(
    exercise: Exercise, seed: int
) -> tuple[tuple[Case, ...], tuple[bool, ...], tuple[object, ...]]:
    """The cases of a grading run, which of them nobody can know beforehand, and what they should give.

    Many exercises have one case from the generator among several that are fixed, because ugly numbers teach
    best; they get more of the first kind here, from further draws.
    """
    if exercise.medals:
        cases = _draw(exercise, seed, 0)
        return tuple(cases), (True,) * len(cases), (None,) * len(cases)
    draws = [_draw(exercise, seed, number) for number in range(DRAWS)]
    reference = exercise.driven(exercise.reference)
    drawn = [_differ(same_case, reference) for same_case in zip(*draws, strict=True)]
    cases = draws[0]
    kinds = [number for number, is_drawn in enumerate(drawn) if is_drawn]
    for again in draws[1:]:
        if sum(drawn) < ENOUGH_DRAWN:
            cases += [replace(again[n], label=f"{again[n].label}, other numbers") for n in kinds]
            drawn += [True] * len(kinds)
    return tuple(cases), tuple(drawn), tuple(expected_of(exercise, cases))


def _differ(draws: Sequence[Case], reference: Callable) -> bool:
    """Whether a case's arguments and its result are others in some other draw."""
    first, *others = draws
    others = [case for case in others if not compare.identical(first.args, case.args)]
    if not others:
        return False
    result = reference(*compare.fresh(first.args))
    return any(not compare.identical(result, reference(*compare.fresh(c.args))) for c in others)


def _draw(exercise: Exercise, seed: int, number: int) -> list[Case]:
    return list(exercise.cases(_generator(exercise, seed, number)))


def _generator(exercise: Exercise, seed: int, number: int) -> np.random.Generator:
    words = int.from_bytes(hashlib.sha256(exercise.id.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, words, *([number] if number else [])])


@functools.lru_cache(maxsize=200)
def large_case(exercise: Exercise, seed: int) -> tuple[Case, object, float]:
    """The large case of a grading run, what it should give, and the seconds that the reference takes."""
    case = exercise.large(_generator(exercise, seed, DRAWS))
    seconds, outcome = fastest(exercise.driven(exercise.reference), case)
    return case, outcome.value, seconds
