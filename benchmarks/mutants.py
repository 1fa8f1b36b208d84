"""Mistakes made by rule: every model answer, changed in one place, and what the check says of it.

    python -m benchmarks.mutants [LAB ...]      writes docs/hints.md

A rule changes one place of an answer: an operator, a comparison, a constant, an axis, a rounding, a type, a
clamp or an absolute value that is missing. What the check then says is one of

    named       the hint of a known mistake, or of how the numbers stand to the right ones
    told        the line that stopped, or how the result differs, without a hint
    passed      nothing: either the change changes nothing, or the check has a hole

Those that pass are listed, to be looked at. Left out: mistakes in two places, and those of thought.
"""

import ast
import contextlib
import copy
import io
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.page import markdown
from compresslab.classroom.exercise import Exercise
from compresslab.classroom.exercises import LABS, of_grade_id
from compresslab.classroom.judge import judge
from compresslab.classroom.release import read_solution
from compresslab.report import Table

ROOT = Path(__file__).parents[1]
SECONDS = 20

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
class Mutant:
    """An answer with one change: which, at which line, and the code."""

    change: str
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


def _swap_operator(node: ast.BinOp) -> str:
    before, node.op = type(node.op).__name__, SWAPS[type(node.op)]()
    return f"{before} to {type(node.op).__name__}"


def _swap_comparison(node: ast.Compare) -> str:
    before, node.ops[0] = type(node.ops[0]).__name__, COMPARISONS[type(node.ops[0])]()
    return f"{before} to {type(node.ops[0]).__name__}"


def _next_constant(node: ast.Constant) -> str:
    before, node.value = node.value, node.value + 1
    return f"{before} to {node.value}"


def _rename(node: ast.Attribute) -> str:
    before, node.attr = node.attr, CALLS[node.attr]
    return f"{before} to {node.attr}"


def _rename_name(node: ast.Name) -> str:
    before = node.id
    node.id = {"round": "int", "max": "min", "min": "max", "sum": "max"}[before]
    return f"{before} to {node.id}"


def _other_axis(node: ast.keyword) -> str:
    value = node.value
    if not isinstance(value, ast.Constant) or type(value.value) is not int:
        return ""
    before, value.value = value.value, 1 if value.value == 0 else 0
    return f"{node.arg} {before} to {value.value}"


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _drop_call(node: ast.Call) -> str:
    """`np.clip(x, …)` or `x.clip(…)` becomes x."""
    name, owner = _called(node), node.func.value
    module = isinstance(owner, ast.Name) and owner.id in ("np", "torch")
    if module and not node.args:
        return ""
    kept = node.args[0] if module else owner
    # A call cannot turn into another kind of node in place: it becomes one that hands back its argument.
    node.func, node.args, node.keywords = (
        ast.parse("(lambda same: same)", mode="eval").body,
        [kept],
        [],
    )
    return f"without {name}"


def _drop_sign(node: ast.UnaryOp) -> str:
    before, node.op = type(node.op).__name__, ast.UAdd()
    return f"without {before}"


def _shift_slice(node: ast.Subscript) -> str:
    lower = node.slice.lower
    node.slice.lower = ast.BinOp(lower, ast.Add(), ast.Constant(1))
    return "slice begins one later"


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


def verdict_on(mutant: Mutant, exercise: Exercise, space: dict) -> str:
    """ "named", "told" or "passed"."""  # noqa: D210
    own, quiet = dict(space), io.StringIO()
    try:
        with _stopped_after(SECONDS), contextlib.redirect_stdout(quiet), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(mutant.source, "<mutant>", "exec"), own)
            result = judge(own[exercise.id.split(".")[1]], exercise)
    except Exception:
        return "told"
    if result.status in ("passed", "slow"):
        return "passed"
    return "named" if result.hint else "told"


def counted(lab: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """A row for every warm-up and build of a lab, and those of its mutants that pass."""
    for exercise, source, space in answers(lab):
        if exercise.kind == "open":
            continue
        found, through = {"named": 0, "told": 0, "passed": 0}, []
        for mutant in mutants(source):
            said = verdict_on(mutant, exercise, space)
            found[said] += 1
            if said == "passed":
                through.append([exercise.id, str(mutant.line), mutant.change])
        wrong = found["named"] + found["told"]
        share = f"{100 * found['named'] / max(wrong, 1):.0f}"
        row = [exercise.id, str(wrong), str(found["named"]), share, str(found["passed"])]
        print(*row, flush=True)
        yield row, through


def main(labs: list[str]) -> None:
    """Write the page."""
    rows, through = [], []
    for lab in labs:
        for row, passed in counted(lab):
            rows.append(row)
            through += passed
    wrong, named = (sum(int(row[i]) for row in rows) for i in (1, 2))
    headings = ["exercise", "wrong", "named by a hint", "%", "change nothing"]
    text = f"""# What the check says of mistakes made by rule

`python -m benchmarks.mutants` changes every model answer in one place (an operator, a comparison, a
constant, an axis, a rounding, a type, a missing clamp) and asks the check. Of {wrong:,} that were rejected
{named:,} ({100 * named / max(wrong, 1):.0f} %) got a hint, of a known mistake or of how the numbers stand to
the right ones; the others were told the line that stopped or how the result differs. Open tasks have no wrong
answer, and are not here.

{markdown(Table(headings, rows))}

## Those that pass

A change may leave every result as it is: a tie that cannot occur, a constant that only has to be small, a
type that is converted afterwards. Where it does not, a case is missing.

{markdown(Table(["exercise", "line of the answer", "change"], through))}
"""
    (ROOT / "docs" / "hints.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    wanted = sys.argv[1:]
    main([lab for lab in LABS if not wanted or lab[:2] in wanted])
