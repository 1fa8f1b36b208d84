"""What is taken from a learner's notebook: the answer cells by their ids, and imports.

Nothing else is looked at: not the checks, the points or the outputs, which a learner may have changed. A
notebook is read as JSON of limited size; one that is broken is a submission without answers, with the reason.
"""

import ast
import contextlib
import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

from compresslab.classroom.exercises import of_grade_id

LARGEST = 20 * 2**20
LONGEST_SOURCE = 100_000


@dataclass(frozen=True)
class Submission:
    """A learner's answers.

    Attributes:
        learner: who.
        answers: source by exercise id.
        imports: the import statements of all code cells, one a line.
        remarks: what was odd about the notebook, in words for a teacher.
    """

    learner: str
    answers: dict[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def read(path: Path, learner: str, wanted: set[str]) -> Submission:
    """Read a notebook; never raises for what is in it.

    Args:
        path: the notebook.
        learner: whose it is.
        wanted: the ids of the lab's exercises.
    """
    try:
        cells = _cells(json.loads(content(path).decode("utf-8-sig")))
    except (OSError, ValueError, RecursionError) as error:
        return Submission(learner, remarks=(f"the notebook cannot be read: {str(error)[:120]}",))
    return of_cells(cells, learner, wanted)


def content(path: Path) -> bytes:
    """The bytes of a file that is one: no link, no pipe, not too large.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is something else, or larger than 20 MB.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no file")
        if about.st_size > LARGEST:
            raise ValueError(f"it has {about.st_size // 2**20} MB, allowed are 20")
        return file.read(LARGEST + 1)


def of_cells(cells: list, learner: str, wanted: set[str]) -> Submission:
    """What is taken from a notebook's cells, each as JSON has it; never raises for what is in them."""
    parts: dict[str, list[str]] = {}
    imports: dict[str, None] = {}
    remarks = []
    for cell in cells:
        source = _source(cell)
        if source is None:
            continue
        plain, rewritten = without_magic(source)
        imports |= dict.fromkeys(_imports(plain))
        id = _answered(cell)
        if id in wanted:
            parts.setdefault(id, []).append(plain)
            if rewritten:
                remarks.append(f"{id}: lines of shell or magic were not run")
    # A cell that was split has its id twice; of two whole answers the later one defines the function.
    answers = {id: "\n".join(sources) for id, sources in parts.items()}
    remarks += [
        f"{id} has {len(p)} answer cells, run in order" for id, p in parts.items() if len(p) > 1
    ]
    remarks += [f"{id} has no answer cell" for id in sorted(wanted - set(answers))]
    return Submission(learner, answers, tuple(imports), tuple(remarks))


def _cells(notebook: object) -> list:
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise ValueError("it has no list of cells")
    return cells


def _source(cell: object) -> str | None:
    """The text of a code cell; None for any other."""
    if not isinstance(cell, dict) or cell.get("cell_type") != "code":
        return None
    source = cell.get("source", "")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    return source if isinstance(source, str) and len(source) < LONGEST_SOURCE else None


def _answered(cell: dict) -> str | None:
    """The exercise that a cell answers."""
    about = cell.get("metadata")
    about = about.get("nbgrader") if isinstance(about, dict) else None
    if not isinstance(about, dict) or about.get("solution") is not True:
        return None
    id = about.get("grade_id")
    exercise = of_grade_id(id) if isinstance(id, str) and not id.endswith("-check") else None
    return exercise.id if exercise else None


def without_magic(source: str) -> tuple[str, bool]:
    """Source that Python takes, and whether lines for IPython (%time, !pip, name?) had to be rewritten.

    They become calls of `get_ipython()`, which does nothing while grading.
    """
    try:
        ast.parse(source)
    except SyntaxError:
        body = re.sub(r"^\s*%%[^\n]*\n", "", source)
        with contextlib.suppress(SyntaxError, ValueError, IndexError, RecursionError):
            return TransformerManager().transform_cell(body), True
    except (ValueError, RecursionError, MemoryError):
        pass
    return source, False


def _imports(source: str) -> list[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    kinds = (ast.Import, ast.ImportFrom)
    return [ast.unparse(node) for node in tree.body if isinstance(node, kinds)]


def needed(imports: tuple[str, ...], answer: str) -> list[str]:
    """The imports that bind a name which the answer mentions; all of them if it cannot be parsed."""
    try:
        mentioned = {n.id for n in ast.walk(ast.parse(answer)) if isinstance(n, ast.Name)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return list(imports)
    kept = []
    for statement in imports:
        names = {
            (alias.asname or alias.name).split(".")[0]
            for alias in ast.parse(statement).body[0].names
        }
        if names & mentioned or "*" in names:
            kept.append(statement)
    return kept
