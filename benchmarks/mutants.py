"""Mistakes made by rule: every model answer, changed in one place, and what the check says of it.

    python -m benchmarks.mutants [LAB ...]      all labs, or some ("04")

A rule changes one place of an answer: an operator, a comparison, a constant, an axis, a rounding, a type, a
clamp or an absolute value that is missing. What the check then says is one of

    named       the hint of a known mistake, or of how the numbers stand to the right ones
    stopped     the line that stopped with an error, and the error
    told        how the result differs, without a hint
    passed      nothing: either the change changes nothing, or the check has a hole

What the wrong answers give is kept for the check itself (`classroom.by_rule`), but where they train. Those
that pass are listed, to be looked at. What was said of an answer is kept in docs/results/hints.json and
not asked again before the answer changes; the page, docs/hints.md, is written from there. Left out: mistakes
in two places, and those of thought.
"""

import ast
import contextlib
import copy
import hashlib
import io
import json
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.page import markdown
from compresslab.classroom import by_rule
from compresslab.classroom.calls import CHECK_SEED, call, calls_of, expected_of
from compresslab.classroom.exercise import Exercise
from compresslab.classroom.exercises import LABS, of_grade_id
from compresslab.classroom.judge import judge
from compresslab.classroom.release import read_solution
from compresslab.classroom.result import Outcome
from compresslab.report import Table
from compresslab.writing import write_whole

ROOT = Path(__file__).parents[1]
RECORDS, PAGE = ROOT / "docs" / "results" / "hints.json", ROOT / "docs" / "hints.md"
SECONDS = 20
TRAINS = 1.0
"""Seconds of the reference over a check's cases beyond which it trains: its numbers are a machine's own."""

SWAPS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.MatMult: ast.Mult,
}
COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
SIGNS = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.MatMult: "@",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.USub: "minus",
    ast.Not: "not",
    ast.Invert: "~",
}
CALLS = {
    "rint": "floor",
    "round": "floor",
    "floor": "ceil",
    "ceil": "floor",
    "mean": "sum",
    "sum": "mean",
    "max": "min",
    "min": "max",
    "amax": "amin",
    "maximum": "minimum",
    "minimum": "maximum",
    "float32": "float64",
    "int32": "int64",
    "int64": "int32",
    "uint8": "int8",
    "argsort": "argmax",
    "sqrt": "abs",
}
DROPPED = ("clip", "clamp", "abs", "square", "cumsum", "sort")
AXES = ("axis", "dim")


@dataclass(frozen=True)
class Asked:
    """What the check said of one exercise's mistakes.

    Attributes:
        exercise: its id.
        answer: the model answer's fingerprint.
        named: how many got a hint.
        stopped: how many ended with an error, whose line is shown.
        told: how many were rejected without either.
        through: line and change of those that passed.
    """

    exercise: str
    answer: str
    named: int
    stopped: int
    told: int
    through: list[tuple[int, str]]

    @property
    def wrong(self) -> int:
        """How many were rejected."""
        return self.named + self.stopped + self.told

    @property
    def percent(self) -> float:
        """How many of those that ended without an error got a hint."""
        return 100 * self.named / max(self.named + self.told, 1)


@dataclass(frozen=True)
class Change:
    """What a rule has changed: the rule by its name in `by_rule.HINTS`, what stands there now, and before."""

    rule: str
    wrong: str = ""
    right: str = ""

    def __str__(self) -> str:
        """In the page's words."""
        return (
            f"{self.rule}: {self.right} to {self.wrong}"
            if self.wrong
            else f"{self.rule} {self.right}"
        )


@dataclass(frozen=True)
class Mutant:
    """An answer with one change: which, at which line, and the code."""

    change: Change
    line: int
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every answer that a rule makes from this one."""
    tree = ast.parse(source)
    for number, node in enumerate(ast.walk(tree)):
        for change in _changes(node):
            changed = copy.deepcopy(tree)
            twin = next(n for i, n in enumerate(ast.walk(changed)) if i == number)
            told = change(twin)
            text = ast.unparse(ast.fix_missing_locations(changed))
            if told and text != ast.unparse(tree):
                yield Mutant(told, getattr(node, "lineno", 0), text)


def _changes(node: ast.AST) -> Iterator:
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield _swap_operator
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield _swap_comparison
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield _next_constant
    if isinstance(node, ast.Attribute) and node.attr in CALLS:
        yield _rename
    if isinstance(node, ast.Name) and node.id in ("round", "max", "min", "sum"):
        yield _rename_name
    if isinstance(node, ast.keyword) and node.arg in AXES:
        yield _other_axis
    if isinstance(node, ast.Call) and _called(node) in DROPPED:
        yield _drop_call
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield _drop_sign
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and node.slice.lower:
        yield _shift_slice


def _swap_operator(node: ast.BinOp) -> Change:
    before, node.op = SIGNS[type(node.op)], SWAPS[type(node.op)]()
    return Change("operator", SIGNS[type(node.op)], before)


def _swap_comparison(node: ast.Compare) -> Change:
    before, node.ops[0] = SIGNS[type(node.ops[0])], COMPARISONS[type(node.ops[0])]()
    return Change("comparison", SIGNS[type(node.ops[0])], before)


def _next_constant(node: ast.Constant) -> Change:
    before, node.value = node.value, node.value + 1
    return Change("constant", str(node.value), str(before))


def _rename(node: ast.Attribute) -> Change:
    before, node.attr = node.attr, CALLS[node.attr]
    return Change("function", node.attr, before)


def _rename_name(node: ast.Name) -> Change:
    before = node.id
    node.id = {"round": "int", "max": "min", "min": "max", "sum": "max"}[before]
    return Change("function", node.id, before)


def _other_axis(node: ast.keyword) -> Change | None:
    value = node.value
    if not isinstance(value, ast.Constant) or type(value.value) is not int:
        return None
    before, value.value = value.value, 1 if value.value == 0 else 0
    return Change("axis", str(value.value), str(before))


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _drop_call(node: ast.Call) -> Change | None:
    """`np.clip(x, …)` or `x.clip(…)` becomes x."""
    name, owner = _called(node), node.func.value
    module = isinstance(owner, ast.Name) and owner.id in ("np", "torch")
    if module and not node.args:
        return None
    kept = node.args[0] if module else owner
    # A call cannot turn into another kind of node in place: it becomes one that hands back its argument.
    node.func, node.args, node.keywords = (
        ast.parse("(lambda same: same)", mode="eval").body,
        [kept],
        [],
    )
    return Change("missing", right=name)


def _drop_sign(node: ast.UnaryOp) -> Change:
    before, node.op = SIGNS[type(node.op)], ast.UAdd()
    return Change("sign", right=before)


def _shift_slice(node: ast.Subscript) -> Change:
    lower = node.slice.lower
    node.slice.lower = ast.BinOp(lower, ast.Add(), ast.Constant(1))
    return Change("slice")


def answers(lab: str) -> Iterator[tuple[Exercise, str, dict]]:
    """Every model answer of a lab, with what its cell may use."""
    notebook = read_solution(ROOT / "solutions" / f"{lab}.py").solution
    setup = next(c.source for c in notebook.cells if c.cell_type == "code")
    tree = ast.parse(setup)
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    space = {"np": np, "torch": torch}
    exec(compile(tree, lab, "exec"), space)
    for cell in notebook.cells:
        id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        found = of_grade_id(id)
        if found and not id.endswith("-check"):
            yield found, cell.source, space


@contextlib.contextmanager
def _stopped_after(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError(f"it did not end within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def function_of(mutant: Mutant, exercise: Exercise, space: dict) -> Callable:
    """The changed answer."""
    own = dict(space)
    exec(compile(mutant.source, "<mutant>", "exec"), own)
    return own[exercise.id.split(".")[1]]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def learnt(exercise: Exercise, source: str, space: dict) -> list[dict]:
    """What each wrong answer gives for the cases of a check, as `by_rule` keeps it; nothing if they train."""
    cases = calls_of(exercise, CHECK_SEED)
    start = time.perf_counter()
    right = [by_rule.digest(Outcome(value)) for value in expected_of(exercise, cases)]
    # A warm-up never trains; its reference may have been compiled just now.
    if exercise.kind != "warm-up" and time.perf_counter() - start > TRAINS:
        return []
    rows: list[dict] = []
    for mutant in mutants(source):
        try:
            with _stopped_after(SECONDS), _quiet():
                driven = exercise.driven(function_of(mutant, exercise, space))
                found = [by_rule.digest(call(driven, case)) for case in cases]
        except Exception:
            continue  # it has no results
        wrong = [f for f, r in zip(found, right, strict=True) if not by_rule.same(f, r)]
        known = any(all(map(by_rule.same, row["cases"], found)) for row in rows)
        # Of a sentence alone, which the look at a build gives, two mistakes may have the same.
        if known or None in found or all(f[0] in ("e", "s") for f in wrong):
            continue
        change = vars(mutant.change)
        rows.append({"exercise": exercise.id, **change, "cases": found})
    return rows


def verdict_on(mutant: Mutant, exercise: Exercise, space: dict) -> str:
    """ "named", "stopped", "told" or "passed"."""  # noqa: D210
    try:
        with _stopped_after(SECONDS), _quiet():
            result = judge(function_of(mutant, exercise, space), exercise)
    except Exception:
        return "stopped"
    if result.status in ("passed", "slow"):
        return "passed"
    if result.hint:
        return "named"
    return "stopped" if result.status == "error" else "told"


def fingerprint(source: str) -> str:
    """Of an answer, so that it is known whether it has changed."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def counted(exercise: Exercise, source: str, space: dict) -> Asked:
    """What the check says of every answer that a rule makes from this one."""
    found, through = {"named": 0, "stopped": 0, "told": 0, "passed": 0}, []
    for mutant in mutants(source):
        said = verdict_on(mutant, exercise, space)
        found[said] += 1
        if said == "passed":
            through.append((mutant.line, str(mutant.change)))
    del found["passed"]
    return Asked(exercise.id, fingerprint(source), **found, through=through)


def read() -> dict[str, Asked]:
    """What is kept, by exercise."""
    if not RECORDS.is_file():
        return {}
    rows = json.loads(RECORDS.read_text(encoding="utf-8"))
    return {r["exercise"]: Asked(**r | {"through": [tuple(t) for t in r["through"]]}) for r in rows}


def asked_now() -> dict[str, str]:
    """The exercises that have wrong answers, in the order of the course, and their answers' fingerprints."""
    return {
        exercise.id: fingerprint(source)
        for lab in LABS
        for exercise, source, _ in answers(lab)
        if exercise.kind != "open"
    }


def page(rows: Sequence[Asked]) -> str:
    """docs/hints.md."""
    wrong, named, stopped, told = (
        sum(getattr(r, name) for r in rows) for name in ("wrong", "named", "stopped", "told")
    )
    headings = [
        "exercise",
        "wrong",
        "stopped",
        "named by a hint",
        "% of the others",
        "change nothing",
    ]
    table = [
        [
            *(r.exercise, str(r.wrong), str(r.stopped), str(r.named)),
            *(f"{r.percent:.0f}" if r.named + r.told else "-", str(len(r.through))),
        ]
        for r in rows
    ]
    passed = [[r.exercise, str(line), change] for r in rows for line, change in r.through]
    return f"""# What the check says of mistakes made by rule

`python -m benchmarks.mutants` changes every model answer in one place (an operator, a comparison, a
constant, an axis, a rounding, a type, a missing clamp) and asks the check. Of {wrong:,} that were
rejected {stopped:,} ended with an error, whose line is shown. Of the others {named:,} of {named + told:,}
({100 * named / max(named + told, 1):.0f} %) got a hint: of a known mistake, of a mistake of this kind that
gives the same results (`classroom/by_rule.py`), or of how the numbers stand to the right ones. The rest were
told how the result differs. Open tasks have no wrong answer, and are not here. The check knows mistakes of
these kinds from this command, but where an answer trains; so a high percentage says that results tell the
mistakes apart, not that every mistake of a learner is foreseen.

{markdown(Table(headings, table))}

## Those that pass

A change may leave every result as it is: a tie that cannot occur, a constant that only has to be small, a
type that is converted afterwards. Where it does not, a case is missing.

{markdown(Table(["exercise", "line of the answer", "change"], passed))}
"""


def main(labs: Sequence[str]) -> None:
    """Ask what was not asked yet, keep it exercise by exercise, and write the page."""
    kept, digests = read(), read_digests()
    for lab in labs:
        for exercise, source, space in answers(lab):
            known = kept.get(exercise.id)
            if exercise.kind == "open" or (known and known.answer == fingerprint(source)):
                continue
            digests[exercise.id] = learnt(exercise, source, space)
            keep(by_rule.DATA, [row for id in sorted(digests) for row in digests[id]])
            by_rule.known.cache_clear()
            row = kept[exercise.id] = counted(exercise, source, space)
            print(row.exercise, row.wrong, row.named, f"{row.percent:.0f} %", flush=True)
            keep(RECORDS, [vars(kept[id]) for id in sorted(kept)])
    rows = [kept[id] for id in asked_now() if id in kept]
    write_whole(PAGE, lambda f: f.write_text(page(rows), encoding="utf-8"))


def read_digests() -> dict[str, list[dict]]:
    """What `by_rule` keeps, by exercise."""
    rows = by_rule.known() if by_rule.DATA.is_file() else {}
    return {id: list(found) for id, found in rows.items()}


def keep(path: Path, rows: Sequence[dict]) -> None:
    """Write a row a line, so that a change shows which exercise it is of."""
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    wanted = sys.argv[1:]
    main([lab for lab in LABS if not wanted or lab[:2] in wanted])
