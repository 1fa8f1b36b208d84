"""Marks for one notebook: its answers run in a sandbox, what comes out is judged here.

    points = points of the exercise * cases passed / cases     rounded down to quarters; below half of them 0

counted over all cases and over those that come from the seed, whichever is less: a table of the cases
that a learner's own check shows is worth nothing. An answer that is right but slow on a case with very many
numbers earns half. A build earns the points of its stages, an open exercise those of its medal.

The seed is new in every grading run and stands in the report, so that marks can be repeated, and results
cannot be known beforehand. Expected values, tolerances, references and mistakes stay in this process, which
never runs, imports or unpickles anything of the submission's: it reads text, and numbers.

A case that hands back nothing (an endless loop, a crash, too much memory) fails; the others count.
"""

import atexit
import builtins
import contextlib
import inspect
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from compresslab.classroom import stub
from compresslab.classroom.complaints import complaint
from compresslab.classroom.exercise import Case, Exercise
from compresslab.classroom.exercises import LABS
from compresslab.classroom.grading import bounds, compiled, protocol, submission
from compresslab.classroom.grading.cases import cases_of, large_case
from compresslab.classroom.grading.helpers import used_helpers
from compresslab.classroom.grading.mark import Mark, message_of, name_of, points_of, status_of
from compresslab.classroom.grading.sandbox import Limits, Said, Sandbox, SandboxError, printable
from compresslab.classroom.harnesses import AFTERWARDS
from compresslab.classroom.judge import looped, not_compiled, slow, verdict
from compresslab.classroom.result import CheckResult, Outcome
from compresslab.classroom.steps import MOST_LINES

JUDGING_SECONDS = 60.0
JUDGING_MEMORY = 3 * 2**30
LARGE_ANSWER = 64 * 2**20
ENDINGS = {
    "time": "it ran longer than {wall:g} seconds and was stopped",
    "output": "its results were larger than {output_mb} MB and were cut off",
    "processes": "it started more than {processes} processes and was stopped",
    "refused": "it asked for more than {processes} processes and threads, which were refused",
    "memory": "all its processes together took too much memory",
    "lost": "it brought the sandbox down, which was started anew",
}


class RemoteError(Exception):
    """An exception of the learner's code whose class is not one of Python's own."""


def lab_name(lab: str) -> str:
    """A lab's full name ("12_capstone"), from its number or its name.

    Raises:
        ValueError: if there is no such lab.
    """
    number = lab[:2]
    if len(number) < 2 or not number.isdecimal() or int(number) >= len(LABS):
        raise ValueError(f"lab must begin with a number from 00 to {len(LABS) - 1}, got {lab!r}")
    return list(LABS)[int(number)]


def exercises_of(lab: str) -> list[Exercise]:
    """The exercises of a lab, by its number or name ("12" or "12_capstone").

    Raises:
        ValueError: if there is no such lab.
    """
    return list(LABS[lab_name(lab)])


def grade_notebook(
    path: Path,
    learner: str,
    lab: str,
    seed: int,
    unsandboxed: bool = False,
    limits: Limits | None = None,
) -> list[Mark]:
    """The marks of one notebook, one for every exercise of the lab.

    Args:
        path: the notebook.
        learner: whose it is.
        lab: as in `exercises_of`.
        seed: of the cases.
        unsandboxed: run without bubblewrap where there is none.
        limits: for each exercise.

    Raises:
        SandboxError: if there is no sandbox to be had; never for what is in the notebook.
    """
    exercises = exercises_of(lab)
    found = submission.read(Path(path), learner, {e.id for e in exercises})
    return grade_submission(found, exercises, seed, unsandboxed, limits)


def grade_submission(
    found: submission.Submission,
    exercises: Sequence[Exercise],
    seed: int,
    unsandboxed: bool = False,
    limits: Limits | None = None,
) -> list[Mark]:
    """As `grade_notebook`, of a submission that was read."""
    with opened(unsandboxed) as sandbox:
        return [grade_safely(e, found, seed, sandbox, limits or Limits()) for e in exercises]


_mine = threading.local()


@contextlib.contextmanager
def opened(unsandboxed: bool) -> Iterator[Sandbox]:
    """This thread's sandbox, kept open from one submission to the next: most of a start is importing torch.

    Answers of several learners share it as those of one do: each runs in a fork of a process that runs
    nothing of theirs, and finds nothing of those before it. After an error of the sandbox itself it is
    given up.
    """
    sandbox = getattr(_mine, "sandbox", None)
    if sandbox is None or sandbox.unsandboxed != unsandboxed:
        if sandbox is not None:
            sandbox.__exit__()
        sandbox = _mine.sandbox = Sandbox(unsandboxed).__enter__()
        atexit.register(sandbox.__exit__)
    try:
        yield sandbox
    except BaseException:
        _mine.sandbox = None
        sandbox.__exit__()
        raise


def grade_safely(
    exercise: Exercise, found: submission.Submission, seed: int, sandbox: Sandbox, limits: Limits
) -> Mark:
    """`grade_exercise`; whatever goes wrong in the judging itself costs that exercise alone, and is told."""
    try:
        seconds = 2 * limits.wall + JUDGING_SECONDS
        with bounds.at_most(seconds), bounds.no_more_than(JUDGING_MEMORY):
            return grade_exercise(exercise, found, seed, sandbox, limits)
    except SandboxError:
        raise
    except Exception as error:
        message = f"judging failed, look at it by hand: {type(error).__name__}: {error}"
        blank = Mark(found.learner, exercise.id, 0.0, exercise.points, status="lost")
        return replace(blank, message=printable(message))


def grade_exercise(
    exercise: Exercise, found: submission.Submission, seed: int, sandbox: Sandbox, limits: Limits
) -> Mark:
    """The mark of one answer, run in a sandbox that is open."""
    remarks = [r for r in found.remarks if r.startswith(exercise.id) or not _names_exercise(r)]
    if exercise.id in found.answers:
        used = submission.used_answers(found, exercise.id)
        remarks += [f"it was run with your answers to {', '.join(used)}"] if used else []
    blank = Mark(found.learner, exercise.id, 0.0, exercise.points)
    if exercise.id not in found.answers:
        message = "; ".join(remarks) or "no answer cell"
        return replace(blank, status="missing", message=printable(message))
    if exercise.kind != "warm-up" and (
        odd := submission.suspect(_all_of_it(exercise, found), exercise)
    ):
        return replace(blank, status="failed", message=printable("; ".join([*remarks, odd])))
    cases, drawn, expected = cases_of(exercise, seed)
    said: list[Said] = []
    if stub.only_raises_not_done(found.answers[exercise.id], name_of(exercise)):
        outcomes, remark = [Outcome(error=NotImplementedError()) for _ in cases], ""
    else:
        ended, said = sandbox.run(_task(exercise, found), [c.args for c in cases], limits)
        outcomes, remark = _outcomes(cases, said, ended, limits)
    outcomes = [_looked_at(exercise, c, o) for c, o in zip(cases, outcomes, strict=True)]
    result = verdict(exercise, cases, outcomes, expected=expected)
    right = _right(exercise, outcomes, expected)
    if exercise.kind == "warm-up":
        result = replace(result, points=points_of(exercise.points, right, drawn))
    seen = any(s.status == "compiled" for s in said)
    doubt = _doubt(exercise, found) if exercise.compiled and result.points and seen else ""
    if exercise.compiled and result.points and (doubt or not seen):
        result, remark = not_compiled(exercise), "; ".join(filter(None, [remark, doubt]))
    elif result.passed and exercise.large is not None:
        result, more = _raced(exercise, found, result, seed, sandbox, limits)
        said = [*said, *more]
    status = status_of(exercise, found, outcomes, result)
    message = message_of(exercise, status, result, sum(right), len(cases))
    words = [*remarks, *([remark] if remark else []), message]
    return Mark(
        found.learner,
        exercise.id,
        math.floor(4 * result.points + 1e-9) / 4,
        exercise.points,
        result.mistake or "",
        status,
        printable("; ".join(word for word in words if word)),
        max((s.seconds for s in said), default=0.0),
        max((s.memory for s in said), default=0),
    )


def _right(
    exercise: Exercise, outcomes: Sequence[Outcome], expected: Sequence[object]
) -> list[bool]:
    """Which cases are right; of an open exercise, which handed back anything."""
    if exercise.medals:
        return [outcome.error is None for outcome in outcomes]
    return [
        complaint(outcome, want, exercise.tolerance) is None
        for outcome, want in zip(outcomes, expected, strict=True)
    ]


def _raced(
    exercise: Exercise,
    found: submission.Submission,
    right: CheckResult,
    seed: int,
    sandbox: Sandbox,
    limits: Limits,
) -> tuple[CheckResult, list[Said]]:
    """The verdict on a right answer after its large case.

    A loop over its numbers ends at the lines of Python that are allowed. An answer can take that count away,
    and be slow in other ways: the kernel ends it at the processor time that is allowed, in whole seconds.
    Nothing that the answer says of its own time is believed.
    """
    case, expected, library = large_case(exercise, seed)
    allowed = math.ceil(exercise.seconds_allowed(library)) + 1
    # Two processes: the answer's and its case's. A third would have a clock of its own.
    room = replace(limits, cpu=allowed, processes=2, answer=LARGE_ANSWER, output=2 * LARGE_ANSWER)
    room = replace(room, lines=0 if exercise.compiled else MOST_LINES)
    ended, said = sandbox.run(_task(exercise, found), [case.args], room)
    out_of_time = ended == "time" or any(
        s.case == 0 and s.status == "died" and s.detail in ("SIGXCPU", "SIGKILL") for s in said
    )
    if any(s.case == 0 and s.status == "lines" for s in said):
        return looped(exercise, case), said
    if out_of_time:
        return slow(exercise, case, allowed, library), said
    outcomes, _ = _outcomes([case], said, ended, limits)
    outcome = _looked_at(exercise, case, outcomes[0])
    text = complaint(outcome, expected, exercise.tolerance)
    if text is None:
        return right, said
    facts = (("smallest failing case", case.label), ("difference", text))
    return CheckResult(exercise, "failed", facts), said


def _doubt(exercise: Exercise, found: submission.Submission) -> str:
    """Why it cannot be seen that an answer is compiled, which says so itself; "" if it can."""
    task = _task(exercise, found)
    source = "\n".join([*task["before"], task["answer"]])
    return compiled.complaint(source, task["function"], task["imports"])


def _names_exercise(remark: str) -> bool:
    return "." in remark.split(" ")[0].rstrip(":")


def _all_of_it(exercise: Exercise, found: submission.Submission) -> str:
    before, answer = _before(exercise, found), found.answers[exercise.id]
    return "\n".join([*submission.needed(found.imports, *before, answer), *before, answer])


def _before(exercise: Exercise, found: submission.Submission) -> list[str]:
    """What runs before the answer because it is used there: other cells' statements, and other answers."""
    others = [found.answers[other] for other in submission.used_answers(found, exercise.id)]
    return [*used_helpers(found.helpers, [*others, found.answers[exercise.id]]), *others]


def _task(exercise: Exercise, found: submission.Submission) -> dict:
    answer, before = found.answers[exercise.id], _before(exercise, found)
    harness = None if exercise.harness in AFTERWARDS else exercise.harness
    return {
        "id": exercise.id,
        "answer": answer,
        "before": before,
        "imports": submission.needed(found.imports, *before, answer),
        "function": name_of(exercise),
        "compiled": exercise.compiled,
        "harness": inspect.getsource(harness) if harness else "",
        "harness_name": harness.__name__ if harness else "",
    }


def _outcomes(
    cases: Sequence[Case], said: Sequence[Said], ended: str, limits: Limits
) -> tuple[list[Outcome], str]:
    """What each case did, and what is to be said of all of them."""
    of_case = {s.case: s for s in said if s.case >= 0}
    before = [s for s in said if s.case < 0 and s.status != "ready"]
    about = ENDINGS.get(ended, "").format(
        wall=limits.wall, processes=limits.processes, output_mb=limits.output // 2**20
    )
    stopped = next((s for s in before if s.status in ("stopped", "missing")), None)
    imports = [s.detail for s in before if s.status == "import"]
    remark = "; ".join([*([about] if about else []), *imports[:2]])
    died = [s for s in said if s.case >= 0 and s.status == "died"]
    # After a case that used up its time the others are not run: they would do the same.
    missing = about or (str(_outcome(died[-1]).error) if died else "it handed back nothing")
    outcomes = []
    for number in range(len(cases)):
        if stopped is not None:
            outcomes.append(Outcome(error=_error(stopped.detail)))
        elif number in of_case:
            outcomes.append(_outcome(of_case[number]))
        else:
            outcomes.append(Outcome(error=RemoteError(missing)))
    return outcomes, remark


def _outcome(said: Said) -> Outcome:
    if said.status in ("value", "changed"):
        try:
            return Outcome(protocol.unpack(said.payload), changed_input=said.status == "changed")
        except protocol.ProtocolError as error:
            return Outcome(error=RemoteError(f"its result is no value: {error}"))
    if said.status == "not done":
        return Outcome(error=NotImplementedError())
    if said.status == "died":
        why = {
            "SIGXCPU": "it took too much processor time",
            "SIGKILL": "it was killed: too much processor time or memory",
            "SIGSEGV": "it crashed Python",
        }
        return Outcome(error=RemoteError(why.get(said.detail, f"its process died: {said.detail}")))
    if said.status == "too large":
        return Outcome(error=RemoteError(f"its result is too large: {said.detail}"))
    return Outcome(error=_error(said.detail))


def _looked_at(exercise: Exercise, case: Case, outcome: Outcome) -> Outcome:
    """What only looks at what came back does so here, where no answer can reach it."""
    if outcome.error is not None:
        return outcome
    try:
        value = outcome.value
        if exercise.harness in AFTERWARDS:
            value = exercise.harness(lambda *_: value)(*case.args)
        if exercise.look is not None:
            value = exercise.look(value, *case.args)
    except Exception as error:
        return Outcome(error=RemoteError(f"its result has another form: {type(error).__name__}"))
    return Outcome(value, changed_input=outcome.changed_input)


def _error(text: str) -> Exception:
    """An exception of the same name as the one that was met, if it is one of Python's."""
    name, _, words = text.partition(": ")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not UnicodeDecodeError:
        try:
            return kind(words)
        except TypeError:
            pass
    return RemoteError(text)
