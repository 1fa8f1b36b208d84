"""The check where there is NumPy and nothing else, as in a browser: exercises with recorded cases.

    from compresslab.classroom.light import check
    check(pack4, "numbers.pack4")

An exercise on plain values needs the library's function and the known mistakes only for what they give on its
cases. `record` writes that down when labs are released: recorded/ID.json has each case's arguments, what they
should give, and what every form of every mistake gives. Read again it is an `Exercise` like any other, whose
functions look their answer up, and `judge` says of an answer what it says in a lab.

    numbers, texts, lists    as JSON has them
    {"array": base64 of the bytes, "dtype": "float32", "shape": [2, 3]}
    {"scalar": 0.5, "dtype": "float64"},  {"tuple": [...]}

What was passed is kept in a file beside the pages, which the browser keeps as it keeps them;
`so_far` reads it.

Left out: the large case that tells a loop from whole arrays (there are no threads, and clocks are coarse),
exercises on tensors, networks or compiled code.
"""

import base64
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from compresslab.classroom import compare, progress
from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.judge import CHECK_SEED, call, judge
from compresslab.classroom.result import CheckResult, Outcome

RECORDED = Path(__file__).with_name("recorded")
CLOSE = 1e-4
"""Within which two processors give the same."""
PLAIN = (bool, int, float, str, type(None))


def check(function: Callable, id: str) -> CheckResult:
    """Try an answer on the recorded cases of an exercise, and remember the verdict as progress.

    Args:
        function: the learner's function.
        id: the exercise, such as "numbers.pack4".

    Raises:
        ValueError: if no cases of it are recorded.
    """
    result = judge(function, read(id))
    progress.record(id, result.status, result.mistake, result.points, result.exercise.points)
    return result


def ids(folder: Path = RECORDED) -> list[str]:
    """The exercises that are recorded."""
    return sorted(path.stem for path in folder.glob("*.json"))


# ---- writing -------------------------------------------------------------------------------------
def can_be_recorded(exercise: Exercise) -> bool:
    """Whether an exercise is a warm-up on plain values and NumPy arrays."""
    if exercise.kind != "warm-up" or exercise.harness or exercise.look or exercise.compiled:
        return False
    cases = exercise.cases(np.random.default_rng(CHECK_SEED))
    return all(
        is_plain(case.args) and is_plain(exercise.reference(*compare.fresh(case.args)))
        for case in cases
    )


def is_plain(value: object) -> bool:
    """Whether a value is a number, a text, an array of numbers, or a tuple or list of such."""
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biufU"
    return isinstance(value, PLAIN)


@np.errstate(all="ignore")
def record(exercise: Exercise) -> str:
    """An exercise with all that came out of its cases, as JSON.

    Raises:
        ValueError: for one that `can_be_recorded` refuses.
    """
    if not can_be_recorded(exercise):
        raise ValueError(f"exercise must be a warm-up on plain values, {exercise.id} is none")
    cases = list(exercise.cases(np.random.default_rng(CHECK_SEED)))
    mistakes = [
        {
            "name": mistake.name,
            "hint": mistake.hint,
            "forms": [[_written(call(form, case)) for case in cases] for form in mistake.forms],
        }
        for mistake in exercise.mistakes
    ]
    content = {
        "id": exercise.id,
        "title": exercise.title,
        "points": exercise.points,
        "lines": exercise.lines,
        "tolerance": exercise.tolerance,
        "returns": exercise.returns,
        "digits": exercise.digits,
        "arguments": list(inspect.signature(exercise.reference).parameters),
        "cases": [{"label": case.label, "args": to_json(case.args)} for case in cases],
        "expected": [_written(call(exercise.reference, case)) for case in cases],
        "mistakes": mistakes,
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _written(outcome: Outcome) -> dict:
    if outcome.error is not None:
        return {"error": type(outcome.error).__name__}
    found = {"value": to_json(outcome.value) if is_plain(outcome.value) else {"other": True}}
    return {**found, "changed": True} if outcome.changed_input else found


def to_json(value: object) -> object:
    """A plain value as JSON has it (see the module)."""
    if isinstance(value, tuple):
        return {"tuple": [to_json(v) for v in value]}
    if isinstance(value, list):
        return [to_json(v) for v in value]
    if isinstance(value, np.ndarray):
        text = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {"array": text, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return {"scalar": value.item(), "dtype": value.dtype.str}
    return value


def agrees(one: object, other: object, tolerance: float) -> bool:
    """Whether two records, read as JSON, say the same: processors differ in the last digits of a product."""
    if isinstance(one, dict) and isinstance(other, dict):
        if {"array", "scalar"} & one.keys():
            return compare.difference(of_json(one), of_json(other), tolerance) is None
        return one.keys() == other.keys() and all(agrees(one[k], other[k], tolerance) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(agrees(a, b, tolerance) for a, b in pairs)
    if isinstance(one, float) and isinstance(other, float):
        return compare.difference(one, other, tolerance) is None
    return one == other


# ---- reading -------------------------------------------------------------------------------------
def of_json(value: object) -> object:
    """The plain value that `to_json` wrote."""
    if isinstance(value, list):
        return [of_json(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(of_json(v) for v in value["tuple"])
    if "array" in value:
        data = np.frombuffer(base64.b64decode(value["array"]), np.dtype(value["dtype"]))
        return data.reshape(value["shape"]).copy()
    if "scalar" in value:
        return np.dtype(value["dtype"]).type(value["scalar"])
    return object()  # something that is never equal to an answer


class Recorded:
    """A function that knows what it gives on the recorded cases, and nothing else."""

    def __init__(
        self, name: str, arguments: Sequence[str], cases: Sequence[Case], outcomes: Sequence[dict]
    ) -> None:
        """Args: the function's name and arguments, its calls, and what each did, as `record` writes it."""
        self.__name__ = name
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature([inspect.Parameter(a, kind) for a in arguments])
        self.known = list(zip(cases, outcomes, strict=True))

    def __call__(self, *args: object) -> object:
        """What came out of this case.

        Raises:
            Exception: what the function raised, by its name.
            ValueError: for arguments that are none of the cases'.
        """
        for case, outcome in self.known:
            if compare.identical(args, case.args):
                return _again(outcome, args)
        raise ValueError(f"{self.__name__} is known on its recorded cases only")


def _again(outcome: dict, args: tuple) -> object:
    if "error" in outcome:
        raise _errors().get(outcome["error"], RuntimeError)(outcome["error"])
    if outcome.get("changed"):
        for argument in args:
            if isinstance(argument, np.ndarray) and argument.size:
                argument.flat[0] = argument.flat[0] == 0  # any other number will do
    return of_json(outcome["value"])


def _errors() -> dict[str, type[Exception]]:
    found, left = {}, [Exception]
    while left:
        kind = left.pop()
        found[kind.__name__] = kind
        left += kind.__subclasses__()
    return found


def read(id: str, folder: Path = RECORDED) -> Exercise:
    """A recorded exercise.

    Raises:
        ValueError: if there is none of this id.
    """
    path = folder / f"{id}.json"
    if id not in ids(folder):
        raise ValueError(f"id must be one of {', '.join(ids(folder))}, got {id!r}")
    content = json.loads(path.read_text(encoding="utf-8"))
    cases = [Case(c["label"], of_json(c["args"])) for c in content["cases"]]
    name, arguments = id.partition(".")[2], content["arguments"]
    mistakes = []
    for told in content["mistakes"]:
        first, *others = (Recorded(name, arguments, cases, form) for form in told["forms"])
        mistakes.append(Mistake(told["name"], first, told["hint"], tuple(others)))
    return Exercise(
        id=id,
        title=content["title"],
        points=content["points"],
        reference=Recorded(name, arguments, cases, content["expected"]),
        cases=lambda _generator: cases,
        mistakes=tuple(mistakes),
        lines=content["lines"],
        tolerance=content["tolerance"],
        returns=content["returns"],
        digits=content["digits"],
    )
