"""A mark: the points of one exercise, its status, and the line that says why."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from compresslab.classroom import stub
from compresslab.classroom.exercise import Exercise
from compresslab.classroom.grading import submission
from compresslab.classroom.result import CheckResult, Outcome


@dataclass(frozen=True)
class Mark:
    """One exercise of one learner.

    Attributes:
        learner: who.
        exercise: its id.
        points: given.
        out_of: what can be had.
        mistake: the known mistake that was recognised, or "".
        status: "passed", "partly", "failed", "error", "not done", "missing", or "lost": grading failed,
            and is tried again by the next run.
        message: what happened, for a teacher.
        seconds: processor time of the slowest case.
        memory: bytes of the largest.
    """

    learner: str
    exercise: str
    points: float
    out_of: int
    mistake: str = ""
    status: str = ""
    message: str = ""
    seconds: float = 0.0
    memory: int = 0

    def as_dict(self) -> dict[str, object]:
        """As JSON has it."""
        return asdict(self)


def points_of(points: int, right: Sequence[bool], drawn: Sequence[bool]) -> float:
    """By the share of cases that are right: of all, and of those that nobody can know beforehand."""
    if all(right):
        return float(points)
    of_drawn = [r for r, is_drawn in zip(right, drawn, strict=True) if is_drawn]
    share = min(sum(some) / len(some) for some in (right, of_drawn) if some)
    return 0.0 if share < 0.5 else math.floor(4 * points * share) / 4


def status_of(
    exercise: Exercise,
    found: submission.Submission,
    outcomes: Sequence[Outcome],
    result: CheckResult,
) -> str:
    """One word for what came out: passed, partly, failed, error, not done."""
    if result.points:
        return "passed" if result.points == exercise.points else "partly"
    if not all(isinstance(o.error, NotImplementedError) for o in outcomes):
        return result.status
    # What the answer calls may not be done, in the library or in another cell: that is an error of its own.
    return "not done" if stub.is_stub(found.answers[exercise.id], name_of(exercise)) else "error"


def name_of(exercise: Exercise) -> str:
    """The name of the function that an exercise asks for."""
    return exercise.id.split(".")[1]


def message_of(
    exercise: Exercise, status: str, result: CheckResult, passed: int, cases: int
) -> str:
    """The line of the report that says why points are missing; empty if none are."""
    if status == "not done":
        return "the cell is as it was handed out"
    facts = dict(result.facts)
    if result.medal:
        return f"{result.medal}: {facts['reached']}"
    if status == "passed":
        return ""
    if result.status == "slow":
        return f"right, but slow: {facts['large case']}, more than {facts['allowed']}"
    if exercise.medals:
        return facts.get("against the rules") or facts.get("error") or facts.get("reached", "")
    if "stage" in facts:
        said = facts.get("what is wrong") or facts.get("difference") or facts.get("error", "")
        return f"stage {facts['stage']}: {said}"
    shown = [facts.get("smallest failing case") or facts.get("case", "")]
    shown.append(facts.get("difference") or facts.get("error", ""))
    return f"{passed} of {cases} cases; " + ": ".join(text for text in shown if text)
