"""What is taken from a learner's notebook: the answer cells by their ids, and the first cell's imports.

Nothing else is looked at: not the checks, the points or the outputs, which a learner may have changed. A
notebook is read as JSON of limited size; one that is broken is a submission without answers, with the reason.
"""

import ast
import json
from dataclasses import dataclass, field
from pathlib import Path

from compresslab.classroom.exercises import of_grade_id

LARGEST = 20 * 2**20
DEEPEST_SOURCE = 100_000


@dataclass(frozen=True)
class Submission:
    """A learner's answers.

    Attributes:
        learner: who.
        answers: source by exercise id.
        imports: the import statements of the notebook's first code cell, one a line.
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
        if path.is_symlink():
            return Submission(learner, remarks=("the notebook is a link, which is not followed",))
        if path.stat().st_size > LARGEST:
            size = path.stat().st_size // 2**20
            return Submission(learner, remarks=(f"the notebook has {size} MB, allowed are 20",))
        cells = _cells(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        return Submission(learner, remarks=(f"the notebook cannot be read: {str(error)[:120]}",))
    return of_cells(cells, learner, wanted)


def of_cells(cells: list, learner: str, wanted: set[str]) -> Submission:
    """What is taken from a notebook's cells, each as JSON has it; never raises for what is in them."""
    answers, remarks, imports = {}, [], None
    for cell in cells:
        source = _source(cell)
        if source is None:
            continue
        imports = _imports(source) if imports is None else imports
        id = _answered(cell)
        if id not in wanted:
            continue
        if id in answers:
            remarks.append(f"{id} has several answer cells: the last one counts")
        answers[id], left_out = _without_magic(source)
        if left_out:
            remarks.append(f"{id}: {left_out} lines of shell or magic were left out")
    remarks += [f"{id} has no answer cell" for id in sorted(wanted - set(answers))]
    return Submission(learner, answers, tuple(imports or ()), tuple(remarks))


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
    return source if isinstance(source, str) and len(source) < DEEPEST_SOURCE else None


def _answered(cell: dict) -> str | None:
    """The exercise that a cell answers."""
    about = cell.get("metadata")
    about = about.get("nbgrader") if isinstance(about, dict) else None
    if not isinstance(about, dict) or about.get("solution") is not True:
        return None
    id = about.get("grade_id")
    exercise = of_grade_id(id) if isinstance(id, str) and not id.endswith("-check") else None
    return exercise.id if exercise else None


def _without_magic(source: str) -> tuple[str, int]:
    lines = source.splitlines()
    kept = [line for line in lines if not line.lstrip().startswith(("!", "%"))]
    return "\n".join(kept) + "\n", len(lines) - len(kept)


def _imports(source: str) -> list[str]:
    try:
        tree = ast.parse(_without_magic(source)[0])
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
