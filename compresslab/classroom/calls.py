"""Calls of an exercise's cases: what an answer does with them, and what the library's own functions do.

What the reference and the known mistakes give for a case is the same every time, and some of them train: it
is remembered, so that a second check, and the next learner's mark, need not wait for it again.
"""

import functools
import time
from collections.abc import Callable, Sequence

import numpy as np

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise
from compresslab.classroom.result import Outcome, StoppedError

CHECK_SEED = 0
REMEMBERED_CASES, REMEMBERED = 8, 200
"""Lists of cases that are kept, and outcomes of the library's own functions."""


@functools.lru_cache(maxsize=REMEMBERED_CASES)
def calls_of(exercise: Exercise, seed: int) -> tuple[Case, ...]:
    """The cases of a check, made once."""
    return tuple(exercise.cases(np.random.default_rng(seed)))


@functools.lru_cache(maxsize=REMEMBERED)
def result_of(exercise: Exercise, known: Callable, case: Case) -> tuple[object, bool]:
    """What one of the library's own functions gives for a case, and whether it changed its input.

    An error is not remembered: it may be of the moment, such as too little memory.
    """
    args = compare.fresh(case.args)
    value = exercise.driven(known)(*args)
    return value, not compare.identical(args, case.args)


def outcome_of(exercise: Exercise, known: Callable, case: Case) -> Outcome:
    """What a known mistake does with a case."""
    try:
        value, changed = result_of(exercise, known, case)
    except Exception as error:
        return Outcome(error=error)
    return Outcome(value, changed_input=changed)


def expected_of(exercise: Exercise, cases: Sequence[Case]) -> list[object]:
    """What the cases should give."""
    return [result_of(exercise, exercise.reference, case)[0] for case in cases]


def call(function: Callable, case: Case) -> Outcome:
    """Call with fresh arguments, and see what came of it and of them."""
    args = compare.fresh(case.args)
    outcome = call_once(function, args)
    if outcome.error is not None:
        return outcome
    return Outcome(outcome.value, changed_input=not compare.identical(args, case.args))


def call_once(function: Callable, args: tuple) -> Outcome:
    """Call with these arguments; what it did to them is not looked at."""
    start = time.perf_counter()
    try:
        return Outcome(function(*args))
    except KeyboardInterrupt as stop:
        seconds = time.perf_counter() - start
        error = StoppedError(f"you stopped it after {seconds:.0f} seconds: does it end?")
        return Outcome(error=error.with_traceback(stop.__traceback__))
    except Exception as error:
        return Outcome(error=error)
