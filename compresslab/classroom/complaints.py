"""What a learner is shown of a case that went wrong: its arguments, both results, the line of the error."""

import inspect
import linecache
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise
from compresslab.classroom.result import Outcome


@dataclass(frozen=True)
class Failure:
    """A case, what the answer gave, what was expected, and what is wrong in a line."""

    case: Case
    outcome: Outcome
    expected: object
    complaint: str = field(compare=False)


def complaint(outcome: Outcome, expected: object, tolerance: float) -> str | None:
    """What is wrong with what a call did; None if nothing is."""
    if outcome.error is not None:
        return f"{type(outcome.error).__name__}: {outcome.error}"
    if outcome.changed_input:
        return "the function changed its input; work on a copy"
    return compare.difference(outcome.value, expected, tolerance)


def failure_facts(
    failure: Failure, exercise: Exercise, failed: int, total: int
) -> tuple[tuple[str, str], ...]:
    """What is shown of the smallest case whose result differs, and how many do."""
    if isinstance(failure.outcome.value, str) and exercise.look is not None:
        # What was looked at is a sentence already; it does not know of an input that was written into.
        wrong = failure.complaint if failure.outcome.changed_input else failure.outcome.value
        seen = ("what is wrong", wrong)
        return (("case", failure.case.label), seen, ("failing cases", f"{failed} of {total}"))
    meaning = f" {exercise.returns}" if exercise.returns else ""
    return (
        ("smallest failing case", failure.case.label),
        *argument_facts(failure.case, exercise.driven(exercise.reference)),
        (f"expected{meaning}", compare.show(failure.expected)),
        ("got", compare.show(failure.outcome.value)),
        *bit_facts(failure.expected, failure.outcome.value, exercise.digits),
        ("difference", failure.complaint),
        ("failing cases", f"{failed} of {total}"),
    )


def bit_facts(expected: object, got: object, digits: int) -> list[tuple[str, str]]:
    """The first number that differs, in binary digits; nothing but for whole numbers of one shape."""
    numbers = [compare.whole_numbers(value) for value in (expected, got)] if digits else [None]
    if any(found is None for found in numbers) or numbers[0].shape != numbers[1].shape:
        return []
    differ = np.flatnonzero(numbers[0] != numbers[1])
    if not differ.size:
        return []
    places = digits + (digits - 1) // 4
    shown = [f"{int(found[differ[0]]) & (2**digits - 1):0{places}_b}" for found in numbers]
    if shown[0] == shown[1]:  # the same bits in another dtype, which `difference` names
        return []
    return list(zip(("expected, in bits", "got, in bits"), shown, strict=True))


def argument_facts(case: Case, reference: Callable) -> list[tuple[str, str]]:
    """Every argument of a case by its name."""
    parameters = inspect.signature(reference).parameters.values()
    # Where what comes back is looked at, the arguments are the harness's, not the answer's.
    names = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
    shown = zip(names, case.args, strict=False)
    # A build's stage is told by itself.
    return [(name, compare.show(arg)) for name, arg in shown if name != "stage"]


def error_facts(
    failure: Failure, reference: Callable, own_line: Callable[[Exception], str | None]
) -> tuple[tuple[str, str], ...]:
    """What is shown of a case in which the answer raised an error."""
    facts = [("case", failure.case.label), *argument_facts(failure.case, reference)]
    line = own_line(failure.outcome.error)
    return (*facts, *([("your line", line)] if line else []), ("error", failure.complaint))


def own_line_of(error: Exception, function: Callable) -> str | None:
    """The last line of the learner's own code that ran before the error."""
    code = getattr(getattr(function, "py_func", function), "__code__", None)
    if not isinstance(code, types.CodeType):
        return None
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename == code.co_filename
    ]
    if not frames:
        return None
    text = frames[-1].line or linecache.getline(frames[-1].filename, frames[-1].lineno).strip()
    return f"{frames[-1].lineno}: {text}"
