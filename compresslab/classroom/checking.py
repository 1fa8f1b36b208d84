"""The two calls of a lab: `check` judges an answer and remembers it, `adopt` puts it to use.

A passed answer is what the rest of the lab runs on; otherwise the lab goes on with the library's own
function, and says so.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from compresslab import ownership
from compresslab.classroom.exercises import exercise
from compresslab.classroom.judge import judge, not_compiled
from compresslab.classroom.progress import record
from compresslab.classroom.result import CheckResult
from compresslab.notice import tell
from compresslab.ownership import plain


def check(function: Callable, id: str) -> CheckResult:
    """Try an answer on every case of an exercise, and remember the verdict as progress.

    Args:
        function: the learner's function.
        id: the exercise.

    Raises:
        ValueError: if there is no such exercise.
    """
    if is_the_librarys(function, id):
        return CheckResult(exercise(id), "not done", NOT_YOURS)
    result = verdict(function, id)
    record(id, result.status, result.mistake, result.points, result.exercise.points)
    _last[id] = function, result
    return result


def adopt(function: Callable, id: str) -> Callable:
    """The learner's function if it passes, else the library's own; says which.

    Raises:
        ValueError: if there is no such exercise.
    """
    chosen = exercise(id)
    known, result = _last.get(id, (None, None))
    if not is_the_librarys(function, id):
        # What the check has just found out is not found out again: an open exercise takes seconds.
        result = result if known is function else verdict(function, id)
        if result.passed:
            name = getattr(function, "__name__", id.partition(".")[2])
            tell(f"From here on the lab runs on your {name}.", "held")
            return function
        if result.status == "slow":
            tell("Your answer is right, and too slow for what follows.")
    tell(f"From here on the lab runs on the library's own {chosen.reference.__name__}.")
    return chosen.reference


_last: dict[str, tuple[Callable, CheckResult]] = {}
"""By exercise, the function that was checked last, and the verdict."""

NOT_YOURS = (
    ("got", "the library's own function, which `adopt` put in the place of an unfinished answer"),
    ("next", "run the cell with your answer again, then this one"),
)


def is_the_librarys(function: Callable, id: str) -> bool:
    """Whether this is the library's own answer, in whatever form, or another function of the library's.

    Raises:
        ValueError: if there is no such exercise.
    """
    answer, reference = plain(function), plain(exercise(id).reference)
    module = getattr(answer, "__module__", None) or ""
    # Known mistakes are written down in the library, too, and are no answers of its own.
    own = ownership.is_the_librarys(answer) and not module.startswith(exercise.__module__)
    return answer is reference or own


def verdict(function: Callable, id: str) -> CheckResult:
    """As `judge`, after the form that the task asks for: compiled where it says so."""
    chosen = exercise(id)
    with told_if_long():
        result = judge(function, chosen)
    if result.passed and chosen.compiled and not hasattr(function, "py_func"):
        return not_compiled(chosen)
    return result


PATIENCE = 10.0
"""Seconds after which a check says that it is still running."""
STILL_RUNNING = (
    "Still running, after ten seconds. Kernel > Interrupt Kernel stops it, and says at which line "
    "of yours."
)


@contextmanager
def told_if_long(seconds: float = PATIENCE) -> Iterator[None]:
    """Say so, once, if the block takes longer: a loop that does not end looks like a slow one."""
    timer = threading.Timer(seconds, tell, [STILL_RUNNING])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
