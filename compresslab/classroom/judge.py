"""The verdict on an answer, and the words for it.

The learner's function runs on every case. If it fails, its outputs are compared with those of every
known mistake, first on all cases, then on the failing ones alone; what is shown is the smallest failing
case, what came out, what was expected, and the hint of the mistake that was recognised.

Left out here: isolation. This runs in the learner's own process and trusts it; marks are given by
`grading`, which does not.
"""

import html
import inspect
import linecache
import time
import traceback
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Mistake

CHECK_SEED = 0


class StoppedError(Exception):
    """The learner has interrupted an answer that did not end."""


@dataclass(frozen=True)
class Outcome:
    """What one call did: a value, or an exception, or a spoilt input."""

    value: object = None
    error: Exception | None = None
    changed_input: bool = False


@dataclass(frozen=True)
class CheckResult:
    """The verdict on an answer, shown as a coloured box in a notebook and as text elsewhere.

    Attributes:
        status: "passed", "not done", "failed" or "error".
        facts: what the learner is shown, as (heading, text) pairs.
        mistake: the name of the recognised mistake, or None.
    """

    exercise: Exercise
    status: str
    facts: tuple[tuple[str, str], ...] = ()
    mistake: str | None = None
    hint: str = ""

    @property
    def passed(self) -> bool:
        """Whether the answer is right on every case."""
        return self.status == "passed"

    @property
    def headline(self) -> str:
        """One line: mark, title, verdict."""
        e = self.exercise
        words = {
            "passed": f"✔ {e.title}: right, {e.points} of {e.points} points",
            "not done": f"○ {e.title}: not done yet (about {e.lines} line{'s' * (e.lines > 1)})",
            "failed": f"✘ {e.title}: not right yet",
            "error": f"✘ {e.title}: your code stopped with an error",
        }
        return words[self.status]

    def __str__(self) -> str:
        """The headline, the facts and the hint as lines of text."""
        lines = [self.headline, *(f"  {head}: {text}" for head, text in self.facts)]
        return "\n".join([*lines, *([f"  Hint: {self.hint}"] if self.hint else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour = {"passed": "#008A64", "not done": "#6F6F6F"}.get(self.status, "#C65200")
        rows = "".join(
            "<tr style='vertical-align:baseline'><td style='text-align:left;padding:1px 12px 1px 0'>"
            f"{html.escape(head)}</td><td style='text-align:left'><code>{html.escape(text)}</code>"
            "</td></tr>"
            for head, text in self.facts
        )
        hint = f"<p><b>Hint.</b> {html.escape(self.hint)}</p>" if self.hint else ""
        return (
            f"<div style='border-left:5px solid {colour};padding:4px 12px'>"
            f"<b style='color:{colour}'>{html.escape(self.headline)}</b>"
            f"{'<table>' + rows + '</table>' if rows else ''}{hint}</div>"
        )


def judge(function: Callable, exercise: Exercise, seed: int = CHECK_SEED) -> CheckResult:
    """The verdict on an answer, which runs here and now; without any other effect."""
    if not callable(function):
        facts = (("expected", "a function"), ("got", compare.show(function)))
        return CheckResult(exercise, "failed", facts)
    cases = list(exercise.cases(np.random.default_rng(seed)))
    driven = exercise.driven(function)
    outcomes = []
    for case in cases:
        outcome = call(driven, case)
        if isinstance(outcome.error, NotImplementedError):
            return CheckResult(exercise, "not done")
        if isinstance(outcome.error, StoppedError):
            failure = _Failure(case, outcome, None, str(outcome.error))
            facts = _error_facts(
                failure, exercise.driven(exercise.reference), lambda e: _own_line(e, function)
            )
            return CheckResult(exercise, "error", facts)
        outcomes.append(outcome)
    return verdict(exercise, cases, outcomes, lambda error: _own_line(error, function))


def verdict(
    exercise: Exercise,
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    own_line: Callable[[Exception], str | None] = lambda error: None,
    expected: Sequence[object] | None = None,
) -> CheckResult:
    """The verdict on what came of the cases, wherever they were run.

    Args:
        exercise: what was asked.
        cases: its calls.
        outcomes: what each call did.
        own_line: from an error to the line of the learner's code that it came from, if that is known.
        expected: what the cases should give; None: the reference is asked.
    """
    reference = exercise.driven(exercise.reference)
    if expected is None:
        expected = expected_of(exercise, cases)
    failures = [
        _Failure(case, outcome, want, text)
        for case, outcome, want in zip(cases, outcomes, expected, strict=True)
        if (text := complaint(outcome, want, exercise.tolerance))
    ]
    if not failures:
        return CheckResult(exercise, "passed")
    worst = min(failures, key=lambda f: compare.size(f.case.args))
    if worst.outcome.error is not None:
        return CheckResult(exercise, "error", _error_facts(worst, reference, own_line))
    facts = _failure_facts(worst, exercise, len(failures), len(cases))
    mistake, sure = recognise(exercise, cases, outcomes, failures)
    if mistake is None:
        return CheckResult(exercise, "failed", facts)
    hint = mistake.hint if sure else f"Perhaps this: {mistake.hint}"
    return CheckResult(exercise, "failed", facts, mistake.name, hint)


def expected_of(exercise: Exercise, cases: Sequence[Case]) -> list[object]:
    """What the cases should give."""
    reference = exercise.driven(exercise.reference)
    return [reference(*compare.fresh(case.args)) for case in cases]


def not_compiled(exercise: Exercise) -> CheckResult:
    """The verdict on an answer whose numbers are right, but which Numba was to compile."""
    facts = (("expected", "a function compiled by Numba"), ("got", "a plain Python function"))
    hint = "The numbers are right. Keep the line @njit above the function."
    return CheckResult(exercise, "failed", facts, "not compiled", hint)


def call(function: Callable, case: Case) -> Outcome:
    """Call with fresh arguments, and see what came of it and of them."""
    args, start = compare.fresh(case.args), time.perf_counter()
    try:
        value = function(*args)
    except KeyboardInterrupt as stop:
        seconds = time.perf_counter() - start
        error = StoppedError(f"you stopped it after {seconds:.0f} seconds: does it end?")
        return Outcome(error=error.with_traceback(stop.__traceback__))
    except Exception as error:
        return Outcome(error=error)
    return Outcome(value, changed_input=not compare.identical(args, case.args))


def recognise(
    exercise: Exercise,
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    failures: Sequence["_Failure"],
) -> tuple[Mistake | None, bool]:
    """The known mistake that gives the same outputs, and whether it does so on every failing case.

    First choice is one that agrees on all cases, then on all failing ones, then on at least two and
    most of them: that is a guess, and shown as one.
    """
    failing = {id(f.case) for f in failures}
    best, agreed = None, 0
    for mistake in exercise.mistakes:
        for form in mistake.forms:
            wrong = exercise.driven(form)
            same = [
                _alike(outcome, call(wrong, case), exercise.tolerance)
                for case, outcome in zip(cases, outcomes, strict=True)
            ]
            if all(same):
                return mistake, True
            count = sum(s for s, c in zip(same, cases, strict=True) if id(c) in failing)
            if count > agreed:
                best, agreed = mistake, count
    if agreed == len(failures):
        # One case is little to tell by.
        return best, agreed > 1
    return (best, False) if agreed >= 2 and agreed > len(failures) / 2 else (None, False)


def _alike(answer: Outcome, mistake: Outcome, tolerance: float) -> bool:
    if answer.error is not None or mistake.error is not None:
        return type(answer.error) is type(mistake.error)
    if answer.changed_input != mistake.changed_input:
        return False
    return compare.difference(answer.value, mistake.value, tolerance) is None


# ---- what a learner is shown ---------------------------------------------------------------------
@dataclass(frozen=True)
class _Failure:
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


def _failure_facts(
    failure: _Failure, exercise: Exercise, failed: int, total: int
) -> tuple[tuple[str, str], ...]:
    meaning = f" {exercise.returns}" if exercise.returns else ""
    return (
        ("smallest failing case", failure.case.label),
        *_argument_facts(failure.case, exercise.driven(exercise.reference)),
        (f"expected{meaning}", compare.show(failure.expected)),
        ("got", compare.show(failure.outcome.value)),
        ("difference", failure.complaint),
        ("failing cases", f"{failed} of {total}"),
    )


def _argument_facts(case: Case, reference: Callable) -> list[tuple[str, str]]:
    names = list(inspect.signature(reference).parameters)
    return [(name, compare.show(arg)) for name, arg in zip(names, case.args, strict=False)]


def _error_facts(
    failure: _Failure, reference: Callable, own_line: Callable[[Exception], str | None]
) -> tuple[tuple[str, str], ...]:
    facts = [("case", failure.case.label), *_argument_facts(failure.case, reference)]
    line = own_line(failure.outcome.error)
    return (*facts, *([("your line", line)] if line else []), ("error", failure.complaint))


def _own_line(error: Exception, function: Callable) -> str | None:
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
