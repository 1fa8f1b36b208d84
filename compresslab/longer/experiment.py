"""What an experiment is that takes longer than a lab may: a question, one run for a seed, and what was found.

    rows = experiment.run(seed, experiment.size)      {"labels": {"test accuracy, %": 91.2}, ...}

A run returns numbers only. A finding is a sentence and its margin, computed from the rows of *one* run: how
far the sentence is from failing, in its own unit. So a finding that is stated anew needs no new runs, and
every finding has a margin for each seed.
"""

import ast
import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from torch import nn

from compresslab.data import Examples
from compresslab.experiment import built, fit_all
from compresslab.syntax import dump

Rows = dict[str, dict[str, float]]
SMALL = 96
"""Examples of a run that only shows that an experiment runs."""


@dataclass(frozen=True)
class Finding:
    """A sentence without measured numbers, and its margin in a run's rows: above zero where it holds."""

    sentence: str
    margin: Callable[[Rows], float]
    unit: str


@dataclass(frozen=True)
class Experiment:
    """A question and how it is answered.

    Attributes:
        question: what is asked, in a sentence.
        run: from a seed and a number of training examples to rows of columns of numbers.
        size: training examples of a full run.
        findings: what came out; empty where nothing beyond the seeds did.
        note: what the table leaves open.
        digits: after the point, in the table.
    """

    question: str
    run: Callable[[int, int], Rows]
    size: int
    findings: tuple[Finding, ...] = ()
    note: str = ""
    digits: int = 1


def fingerprint(module: ModuleType) -> str:
    """A hash of the code that `run` rests on: the module's statements that it reaches by their names.

    Stored runs belong to it. Documentation, findings and what only they use may change; a change in the
    library that the experiment calls is not noticed.
    """
    statements = {name: node for node in _parsed(module) for name in _bound(node)}
    reached, waiting = {}, ["run"]
    while waiting:
        name = waiting.pop()
        if name in statements and name not in reached:
            reached[name] = _text(statements[name], name)
            waiting += [n.id for n in ast.walk(statements[name]) if isinstance(n, ast.Name)]
    text = "\n".join(f"{name}: {reached[name]}" for name in sorted(reached))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(node: ast.stmt, name: str) -> str:
    """A statement as text; of an import, only where this name comes from."""
    if isinstance(node, ast.ImportFrom):
        return f"{node.module}: " + next(a.name for a in node.names if name in (a.name, a.asname))
    return dump(node)


def _parsed(module: ModuleType) -> list[ast.stmt]:
    """The statements of a module, without their documentation."""
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree.body


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement gives something to."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]


def check_rows(rows: Rows) -> Rows:
    """The rows, if every one has the same columns and all numbers are finite.

    Raises:
        ValueError: naming the row and the column that is not so.
    """
    if not rows:
        raise ValueError("rows must hold at least one row, got none")
    columns = list(next(iter(rows.values())))
    for name, row in rows.items():
        if list(row) != columns:
            raise ValueError(f"row {name!r} must have the columns {columns}, got {list(row)}")
        for column, number in row.items():
            if not math.isfinite(number):
                raise ValueError(f"row {name!r}, column {column!r} must be finite, got {number}")
    return rows


def reached(rows: Rows, name: str) -> float:
    """The test accuracy of a row, in per cent: what most findings compare."""
    return rows[name]["test accuracy, %"]


def grow(
    make: Callable[[], nn.Module],
    examples: Examples,
    epochs: float,
    lr: float,
    seed: int,
    **options: object,
) -> nn.Module:
    """A network built and trained from one seed, as the labs do it for several (`experiment.fit_all`)."""
    return fit_all(
        *(built(make, (seed,)), examples, epochs, lr), seeds=(seed,), label="", **options
    )[0]


def train(
    network: nn.Module, examples: Examples, epochs: float, lr: float, seed: int, **options: object
) -> nn.Module:
    """Train a network further, in place; as `grow`."""
    return fit_all([network], examples, epochs, lr, seeds=(seed,), label="", **options)[0]
