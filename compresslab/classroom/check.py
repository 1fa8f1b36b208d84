"""The two calls of a lab: `check` judges an answer and remembers it, `adopt` puts it to use.

A passed answer is what the rest of the lab runs on; otherwise the lab goes on with the library's own
function, and says so.
"""

from collections.abc import Callable

from compresslab.classroom.exercises import exercise
from compresslab.classroom.judge import CheckResult, judge
from compresslab.classroom.progress import record


def check(function: Callable, id: str) -> CheckResult:
    """Try an answer on every case of an exercise, and remember the verdict as progress.

    Args:
        function: the learner's function.
        id: the exercise.

    Raises:
        ValueError: if there is no such exercise.
    """
    result = verdict(function, id)
    record(id, result.status, result.mistake)
    return result


def adopt(function: Callable, id: str) -> Callable:
    """The learner's function if it passes, else the library's own; says which.

    Raises:
        ValueError: if there is no such exercise.
    """
    chosen = exercise(id)
    if verdict(function, id).passed:
        print(f"From here on the lab runs on your {function.__name__}.")
        return function
    print(f"From here on the lab runs on the library's own {chosen.reference.__name__}.")
    return chosen.reference


def verdict(function: Callable, id: str) -> CheckResult:
    """As `judge`, after the form that the task asks for: compiled where it says so."""
    chosen = exercise(id)
    result = judge(function, chosen)
    if result.passed and chosen.compiled and not hasattr(function, "py_func"):
        facts = (("expected", "a function compiled by Numba"), ("got", "a plain Python function"))
        hint = "The numbers are right. Keep the line @njit above the function."
        return CheckResult(chosen, "failed", facts, "not compiled", hint)
    return result
