"""The verdict on an answer, and the words for it.

The learner's function runs on every case. If it fails, its outputs are compared with those of every
known mistake, first on all cases, then on the failing ones alone; what is shown is the smallest failing
case, what came out, what was expected, and the hint of the mistake that was recognised: a known one, else one
that a rule makes (`by_rule`), else how the numbers stand to the right ones (`relation`).

Left out here: isolation. This runs in the learner's own process and trusts it; marks are given by
`grading`, which does not.
"""

import inspect
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from compresslab.classroom import by_rule, compare
from compresslab.classroom.calls import (
    CHECK_SEED,
    call,
    call_once,
    calls_of,
    expected_of,
    outcome_of,
)
from compresslab.classroom.complaints import (
    Failure,
    argument_facts,
    complaint,
    error_facts,
    failure_facts,
    own_line_of,
)
from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.relation import relation
from compresslab.classroom.result import CheckResult, Outcome, StoppedError
from compresslab.classroom.steps import MOST_LINES, Lines
from compresslab.classroom.stub import still_raises
from compresslab.language import translated


def judge(function: Callable, exercise: Exercise, seed: int = CHECK_SEED) -> CheckResult:
    """The verdict on an answer, which runs here and now; without any other effect."""
    if not callable(function):
        facts = (("expected", "a function"), ("got", compare.show(function)))
        return CheckResult(exercise, "failed", facts)
    cases = calls_of(exercise, seed)
    driven = exercise.driven(function)
    outcomes = []
    for case in cases:
        outcome = call(driven, case)
        if isinstance(outcome.error, NotImplementedError):
            hint = STILL_THERE if still_there(function) else ""
            return CheckResult(exercise, "not done", worked_cases(exercise, cases), hint=hint)
        if isinstance(outcome.error, StoppedError):
            failure = Failure(case, outcome, None, str(outcome.error))
            facts = error_facts(
                failure, exercise.driven(exercise.reference), lambda e: own_line_of(e, function)
            )
            return CheckResult(exercise, "error", facts)
        outcomes.append(outcome)
    result = verdict(exercise, cases, outcomes, lambda error: own_line_of(error, function))
    if result.passed and exercise.large is not None:
        return raced(function, exercise, exercise.large(np.random.default_rng(seed)))
    if result.status == "failed" and result.mistake is None and seed == CHECK_SEED:
        return replace(result, hint=by_rule.hint(exercise.id, outcomes) or result.hint)
    return result


STILL_THERE = (
    "The line that raises NotImplementedError still stands in your function, which ends there: "
    "delete it."
)


def still_there(function: Callable) -> bool:
    """Whether the line of the stub stands in a function beside others, as far as its text is known."""
    try:
        return still_raises(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):
        return False


def worked_cases(exercise: Exercise, cases: Sequence[Case]) -> tuple[tuple[str, str], ...]:
    """What a learner sees before the first try: the smallest calls, with what they should give."""
    if exercise.kind != "warm-up":
        stages = [f"{name} ({points})" for name, points in exercise.stages]
        return (("stages (points)", ", ".join(stages)),) if stages else _thresholds(exercise)
    reference = exercise.driven(exercise.reference)
    facts = []
    telling = [c for c in cases if all(compare.size(a) for a in c.args)] or cases
    for case in sorted(telling, key=lambda c: compare.size(c.args))[:WORKED]:
        facts += [("for example", case.label), *argument_facts(case, reference)]
        value = reference(*compare.fresh(case.args))
        facts.append(
            (f"gives{f' {exercise.returns}' if exercise.returns else ''}", compare.show(value))
        )
    return tuple(facts)


def raced(function: Callable, exercise: Exercise, case: Case) -> CheckResult:
    """The verdict on an answer that is right, after a case with very many numbers.

    A loop over them is known by the lines of Python that it runs, on every machine alike. Any other slow way
    is held against the reference, which runs beside it; of three runs the best counts.
    """
    driven, reference = exercise.driven(function), exercise.driven(exercise.reference)
    if not exercise.compiled:
        with Lines(function) as lines:
            call_once(driven, compare.fresh(case.args))
        if lines.too_many:
            return looped(exercise, case)
    library, expected = fastest(reference, case)
    allowed = exercise.seconds_allowed(library)
    seconds, outcome = fastest(driven, case, allowed)
    text = complaint(outcome, expected.value, exercise.tolerance)
    if text:
        failure = Failure(case, outcome, expected.value, text)
        if outcome.error is not None:
            facts = error_facts(failure, reference, lambda error: own_line_of(error, function))
            return CheckResult(exercise, "error", facts)
        return CheckResult(exercise, "failed", failure_facts(failure, exercise, 1, 1))
    if seconds > allowed:
        return slow(exercise, case, seconds, library)
    return CheckResult(exercise, "passed", points=exercise.points)


def looped(exercise: Exercise, case: Case) -> CheckResult:
    """The verdict on an answer that is right and runs lines of Python for every number of the large case."""
    facts = (
        ("large case", case.label),
        ("yours ran", f"more than {MOST_LINES:,} lines of Python"),
        ("allowed", f"{MOST_LINES:,} lines of Python"),
    )
    return CheckResult(exercise, "slow", facts, "slow", SLOW_HINT, exercise.points / 2)


def slow(exercise: Exercise, case: Case, seconds: float, library: float) -> CheckResult:
    """The verdict on an answer that is right and too slow.

    Args:
        exercise: what was asked.
        case: the large call.
        seconds: that the answer took for it, at least.
        library: seconds that the reference took.
    """
    facts = (
        ("large case", case.label),
        ("yours took", f"{seconds:.2g} seconds"),
        ("the library's", f"{library:.2g} seconds"),
        ("allowed", f"{exercise.seconds_allowed(library):.2g} seconds"),
    )
    return CheckResult(exercise, "slow", facts, "slow", SLOW_HINT, exercise.points / 2)


SLOW_HINT = (
    "Every result is right. But a network has millions of weights, and here Python touches them one by one. "
    "Say the same of whole arrays: no `for` over their numbers."
)
WORKED, RUNS = 2, 3


def fastest(function: Callable, case: Case, enough: float = 0.0) -> tuple[float, Outcome]:
    """The least of a few runs' seconds, and what came out; no further run once it is quick enough."""
    best = float("inf")
    for _ in range(RUNS):
        args = compare.fresh(case.args)
        start = time.perf_counter()
        outcome = call_once(function, args)
        best = min(best, time.perf_counter() - start)
        if best <= enough or best > 2 * max(enough, 1.0) or outcome.error is not None:
            break
    unchanged = compare.identical(args, case.args)
    return best, Outcome(outcome.value, outcome.error, not unchanged)


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
    if exercise.medals:
        return medal_verdict(exercise, cases, outcomes, own_line)
    reference = exercise.driven(exercise.reference)
    if expected is None:
        expected = expected_of(exercise, cases)
    failures = [
        Failure(case, outcome, want, text)
        for case, outcome, want in zip(cases, outcomes, expected, strict=True)
        if (text := complaint(outcome, want, exercise.tolerance))
    ]
    if not failures:
        return CheckResult(exercise, "passed", points=exercise.points)
    failed = len(failures)
    points, stage = of_stages(exercise, cases, [f.case for f in failures])
    if stage:
        failures = [f for f in failures if f.case.stage == stage]
    worst = min(failures, key=lambda f: compare.size(f.case.args))
    which = _stage_facts(exercise, stage)
    if worst.outcome.error is not None:
        facts = (*which, *error_facts(worst, reference, own_line))
        return CheckResult(exercise, "error", facts, points=points)
    facts = (*which, *failure_facts(worst, exercise, failed, len(cases)))
    mistake, sure = recognise(exercise, cases, outcomes, failures)
    if mistake is None:
        seen = relation([f.outcome.value for f in failures], [f.expected for f in failures])
        return CheckResult(exercise, "failed", facts, hint=seen, points=points)
    hint = mistake.hint if sure else f"Perhaps this: {mistake.hint}"
    return CheckResult(exercise, "failed", facts, mistake.name, hint, points)


def of_stages(
    exercise: Exercise, cases: Sequence[Case], failed: Sequence[Case]
) -> tuple[float, str]:
    """The points of a build's stages before the first that is not right, and that one's name; else 0 and "".

    A stage builds on those before it: what is right by chance in a later one earns nothing.
    """
    wrong, points = {case.stage for case in failed}, 0
    for name, worth in exercise.stages:
        if name in wrong:
            return float(points), name
        points += worth
    return 0.0, ""


def _stage_facts(exercise: Exercise, stage: str) -> tuple[tuple[str, str], ...]:
    if not stage:
        return ()
    names = [name for name, _ in exercise.stages]
    return (("stage", f"{names.index(stage) + 1} of {len(names)}: {stage}"),)


def medal_verdict(
    exercise: Exercise,
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    own_line: Callable[[Exception], str | None] = lambda error: None,
) -> CheckResult:
    """The verdict on an open exercise: its outcome is measured here, from what the answer returned.

    Of several cases the mean counts; one that breaks the rules costs all.
    """
    medals, reference = exercise.medals, exercise.driven(exercise.reference)
    measured = []
    for case, outcome in zip(cases, outcomes, strict=True):
        if outcome.error is not None:
            failure = Failure(case, outcome, None, complaint(outcome, None, 0.0) or "")
            return CheckResult(exercise, "error", error_facts(failure, reference, own_line))
        broken = "the function changed its input; work on a copy" if outcome.changed_input else ""
        value = broken or medals.measure(case, outcome.value)
        if isinstance(value, str):
            facts = (("case", case.label), ("against the rules", value))
            return _recognised(exercise, cases, outcomes, facts)
        measured.append(value)
    mean = float(np.mean(measured))
    name, fraction = medals.of(mean)
    facts = (("reached", f"{mean:.4g} {translated(medals.unit)}"), *_thresholds(exercise))
    points = exercise.points * fraction
    if name == "gold":
        return CheckResult(exercise, "passed", facts, points=points, medal=name)
    found = _recognised(exercise, cases, outcomes, facts)
    return replace(found, status="passed" if name else "failed", points=points, medal=name)


def _thresholds(exercise: Exercise) -> tuple[tuple[str, str], ...]:
    medals = exercise.medals
    return (
        (
            "bronze, silver, gold",
            f"{medals.bronze:g}, {medals.silver:g}, {medals.gold:g} {translated(medals.unit)}",
        ),
    )


def _recognised(
    exercise: Exercise,
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    facts: tuple[tuple[str, str], ...],
) -> CheckResult:
    """Failed, with the hint of the known way that gives the same on every case, if there is one."""
    for mistake in exercise.mistakes:
        for form in mistake.forms:
            pairs = zip(cases, outcomes, strict=True)
            if all(_alike(o, outcome_of(exercise, form, c), exercise.tolerance) for c, o in pairs):
                return CheckResult(exercise, "failed", facts, mistake.name, mistake.hint)
    return CheckResult(exercise, "failed", facts)


def not_compiled(exercise: Exercise) -> CheckResult:
    """The verdict on an answer whose numbers are right, but which Numba was to compile."""
    facts = (("expected", "a function compiled by Numba"), ("got", "a plain Python function"))
    hint = "The numbers are right. Keep the line @njit above the function."
    return CheckResult(exercise, "failed", facts, "not compiled", hint)


def recognise(
    exercise: Exercise,
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    failures: Sequence["Failure"],
) -> tuple[Mistake | None, bool]:
    """The known mistake that gives the same outputs, and whether it does so on every failing case.

    First choice is one that agrees on all cases, then on all failing ones, then on at least two and
    most of them: that is a guess, and shown as one.
    """
    failing = {id(f.case) for f in failures}
    others = [(c, o) for c, o in zip(cases, outcomes, strict=True) if id(c) not in failing]
    best, agreed = None, 0
    for mistake in exercise.mistakes:
        for form in mistake.forms:

            def same(case: Case, outcome: Outcome, form: Callable = form) -> bool:
                return _alike(outcome, outcome_of(exercise, form, case), exercise.tolerance)

            count = sum(same(f.case, f.outcome) for f in failures)
            # The others only where it matters: a build takes a second for each.
            if count == len(failures) and all(same(*other) for other in others):
                return mistake, True
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
