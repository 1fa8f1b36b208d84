"""What is taken from a learner's notebook: the answer cells by their ids, and imports.

Nothing else is looked at: not the checks, the points or the outputs, which a learner may have changed. A
notebook is read as JSON of limited size; one that is broken is a submission without answers, with the reason.
Cells lose their metadata on the way (copied by hand, opened elsewhere, turned into text): an answer is then
found by its function's name, and the report says so.
"""

import ast
import json
import os
import stat
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compresslab.classroom.exercise import Exercise
from compresslab.classroom.exercises import of_grade_id
from compresslab.classroom.grading import bounds
from compresslab.classroom.grading.helpers import Step, foreign_names, joined_by_name, statements
from compresslab.classroom.grading.magic import Budget
from compresslab.classroom.stub import at_the_top, functions, is_stub, parsed

LARGEST = 20 * 2**20
LONGEST_SOURCE = 100_000
MOST_IMPORTS = 200
READING_SECONDS, READING_MEMORY = 30.0, 2 * 2**30


@dataclass(frozen=True)
class Submission:
    """A learner's answers.

    Attributes:
        learner: who.
        answers: source by exercise id.
        imports: the import statements of all code cells, one a line.
        remarks: what was odd about the notebook, in words for a teacher.
        helpers: by name, the statements of other code cells that bind it: functions, classes, constants.
    """

    learner: str
    answers: dict[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    helpers: dict[str, str] = field(default_factory=dict)


def read(path: Path, learner: str, wanted: set[str]) -> Submission:
    """Read a notebook; never raises for what is in it.

    Args:
        path: the notebook.
        learner: whose it is.
        wanted: the ids of the lab's exercises.
    """
    try:
        return of_bytes(content(path), learner, wanted)
    except (OSError, ValueError) as error:
        return Submission(learner, remarks=(_unread(error),))


def of_bytes(notebook: bytes, learner: str, wanted: set[str]) -> Submission:
    """As `read`, from the notebook's bytes."""
    try:
        cells = _cells(json.loads(notebook.decode("utf-8-sig")))
    except (ValueError, RecursionError) as error:
        return Submission(learner, remarks=(_unread(error),))
    return of_cells(cells, learner, wanted)


def _unread(error: Exception) -> str:
    return f"the notebook cannot be read: {str(error)[:120]}"


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
    """What is taken from a notebook's cells, each as JSON has it; never raises for what is in them.

    A notebook that takes too long or too much memory to be looked at is one without answers.

    An answer is the cell that was handed out for it. Where that is gone, or is as it was handed out, the
    answer is looked for by the cell's id, then by the function's name (in a cell that became text, too).
    """
    try:
        with bounds.at_most(READING_SECONDS), bounds.no_more_than(READING_MEMORY):
            return _taken(cells, learner, wanted)
    except (TimeoutError, MemoryError, RecursionError):
        why = "the notebook takes too long or too much memory to be read"
        return Submission(learner, remarks=(why,))


def _taken(cells: list, learner: str, wanted: set[str]) -> Submission:
    budget, answers, remarks = Budget(), {}, []
    names = {id.split(".")[1] for id in wanted}
    read = (_read_cell(cell, names, budget) for cell in cells)
    found = [cell for cell in read if cell is not None]
    imports = dict.fromkeys(line for cell in found if cell.code for line in cell.imports)
    for id in sorted(wanted):
        chosen, remark = _chosen(found, id)
        if not chosen:
            remarks.append(f"{id} has no answer cell")
            continue
        plain = [budget.without_magic(cell.source) for cell in chosen]
        answers[id] = "\n".join(source for source, _ in plain)
        remarks += [f"{id}{remark}"] if remark else []
        remarks += [f"{id}: {said}" for said in dict.fromkeys(said for _, said in plain) if said]
    # A helper may stand in the cell of another answer; the answers themselves are joined by the grader.
    others = [
        step
        for c in found
        if c.code
        for step in c.helpers
        if not c.answers or step.name not in names
    ]
    return Submission(learner, answers, tuple(imports), tuple(remarks), joined_by_name(others))


@dataclass(frozen=True)
class _Cell:
    """A cell of the notebook as far as it matters here.

    Attributes:
        source: its text.
        code: whether it is a code cell.
        answers: the exercise that its metadata say it answers, or "".
        named: the exercise that its id says it answers, or "".
        functions: the functions that it defines, and whether each is more than a stub.
        imports: its import statements.
        helpers: by name, the statements that bind it at the top.
        fenced: whether it stood between the fences of a text, as examples do.
    """

    source: str
    code: bool
    answers: str
    named: str
    functions: dict[str, bool]
    imports: tuple[str, ...]
    helpers: list[Step]
    fenced: bool


def _read_cell(cell: object, names: set[str], budget: Budget) -> _Cell | None:
    """A cell; one that Python does not take and that may define one of these names is looked at closer."""
    source = _source(cell)
    if source is None:
        return None
    code, tree, fenced = cell["cell_type"] == "code", parsed(source), False
    plain = whole = source
    # A code cell may hold a helper below its magic; a text is of interest where it names an answer.
    if tree is None and (code or any(name in source for name in names)):
        source = source if code else _unfenced(source)
        fenced = source != whole
        source = source if parsed(source) else textwrap.dedent(source)
        plain = budget.without_magic(source)[0]
        tree = parsed(plain)
    return _Cell(
        source,
        code,
        _answered(cell),
        _of_id(cell.get("id")),
        {} if tree is None else functions(tree),
        _imports(source, tree),
        [] if tree is None else statements(plain, tree),
        fenced,
    )


FENCES = ("```", "~~~")


def _unfenced(text: str) -> str:
    """The code between the fences of a Markdown cell; all of it if there are none.

    Of several pieces those count that Python takes. A fence that is never closed ends with the cell.
    """
    pieces: list[list[str]] = []
    fence = ""
    for line in text.splitlines():
        sign = line.strip()[:3]
        if fence and sign == fence:
            fence = ""
        elif fence:
            pieces[-1].append(line)
        elif sign in FENCES:
            fence, pieces = sign, [*pieces, []]
    code = ["\n".join(piece) for piece in pieces]
    taken = [piece for piece in code if parsed(textwrap.dedent(piece)) is not None]
    return "\n".join(taken or code) or text


def _chosen(cells: list[_Cell], id: str) -> tuple[list[_Cell], str]:
    """The cells that hold an answer, and what is to be said of how they were found."""
    name = id.split(".")[1]
    own = [cell for cell in cells if cell.code and cell.answers == id]
    # A copy of the cell as it was handed out takes nothing away from the answer above it.
    done = [cell for cell in own if cell.functions.get(name, True)]
    if any(cell.functions.get(name) for cell in own) or (done and not _defines(cells, name)):
        many = f" has {len(done)} answer cells, run in order" if len(done) > 1 else ""
        last = max(number for number, cell in enumerate(cells) if cell in own)
        if any(c.code and not c.answers and c.functions.get(name) for c in cells[last + 1 :]):
            many += (
                ": a cell further down defines it once more; the one that was handed out was graded"
            )
        return done, many
    by_id = [c for c in cells if c.code and c.named == id and c.functions.get(name, not own)]
    if by_id:
        return by_id[-1:], ": the cell had lost its metadata and was found by its id"
    for code, where in ((True, "another cell"), (False, "a cell that is text")):
        found = [c for c in cells if c.code == code and c.functions.get(name)]
        # Beside a cell to answer in, code in a text is an example.
        found = [c for c in found if not (own and c.fenced)]
        if found:
            return found[-1:], f": the answer was found in {where}, by the function's name"
    return done or own, ""


def _defines(cells: list[_Cell], name: str) -> bool:
    return any(cell.functions.get(name) for cell in cells)


def exercise_of(grade_id: str) -> str:
    """The exercise that an answer cell or a check cell of that id is of, or ""."""
    exercise = of_grade_id(grade_id)
    return exercise.id if exercise else ""


def joined(sources: Sequence[str], grade_id: str) -> str:
    """The text of several cells that answer one exercise, without those that are as they were handed out."""
    name = exercise_of(grade_id).partition(".")[2]
    kept = [source for source in sources if not is_stub(source, name)]
    return "\n".join(kept or sources[:1])


LONGEST_OPEN, LONGEST_LITERAL = 8_000, 400
BEHIND = {
    "_getframe",
    "_current_frames",
    "f_locals",
    "f_globals",
    "f_back",
    "tb_frame",
    "gc",
    "builtins",
}
BEHIND |= {"__closure__", "cell_contents", "__code__", "__globals__", "__wrapped__"}
BEHIND |= {"__builtins__", "ctypes", "inspect", "settrace", "setprofile", "fork", "forkpty"}
"""Names of what looks behind the harness: no build and no open task needs them."""


def suspect(source: str, exercise: Exercise) -> str:
    """Why a build or an open task is to be looked at by hand before it earns anything; "" if it is not.

    An open task is to find its numbers, not to bring them: long texts and long lists in it are refused.
    """
    tree = parsed(source)
    nodes = list(ast.walk(tree)) if tree is not None else []
    # A sentence that stands by itself is a description.
    told = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in (n for n in nodes if id(n) not in told):
        names = {getattr(node, "id", ""), getattr(node, "attr", "")}
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {part for a in node.names for part in a.name.split(".")}
            names |= set((getattr(node, "module", None) or "").split("."))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        behind = names & BEHIND
        if behind:
            return f"it uses {min(behind)}, which the task does not need: look at it by hand"
        if exercise.medals and _length(node) > LONGEST_LITERAL:
            said = f"it brings more than {LONGEST_LITERAL} numbers or letters in one piece"
            return f"{said}: look at it by hand"
    if exercise.medals and len(source) > LONGEST_OPEN:
        return f"it is longer than {LONGEST_OPEN:,} letters: look at it by hand"
    return ""


def _length(node: ast.AST) -> int:
    """Of a literal: its letters, or its parts; a description of a function does not count."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return len(node.value)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value.bit_length() // 8
    return len(node.elts) if isinstance(node, ast.List | ast.Tuple | ast.Set) else 0


def _cells(notebook: object) -> list:
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise ValueError("it has no list of cells")
    return cells


def _source(cell: object) -> str | None:
    """The text of a cell; None where there is none to look at."""
    if not isinstance(cell, dict) or cell.get("cell_type") not in ("code", "markdown", "raw"):
        return None
    source = cell.get("source", "")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    return source if isinstance(source, str) and len(source) < LONGEST_SOURCE else None


def _answered(cell: dict) -> str:
    """The exercise that a cell's metadata say it answers, or ""."""
    about = cell.get("metadata")
    about = about.get("nbgrader") if isinstance(about, dict) else None
    if not isinstance(about, dict) or about.get("solution") is not True:
        return ""
    return _of_id(about.get("grade_id"))


def _of_id(id: object) -> str:
    exercise = of_grade_id(id) if isinstance(id, str) and not id.endswith("-check") else None
    return exercise.id if exercise else ""


# ---- names ---------------------------------------------------------------------------------------
def _imports(source: str, tree: ast.Module | None) -> tuple[str, ...]:
    """The import statements of a cell; of one that Python does not take, those that stand on a line alone."""
    kinds = (ast.Import, ast.ImportFrom)
    if tree is not None:
        return tuple(ast.unparse(node) for node in at_the_top(tree) if isinstance(node, kinds))
    lines = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    trees = [tree for line in lines[:MOST_IMPORTS] if (tree := parsed(line)) is not None]
    return tuple(ast.unparse(n) for t in trees for n in t.body if isinstance(n, kinds))


def needed(imports: tuple[str, ...], *answers: str) -> list[str]:
    """The imports that bind a name which one of the answers mentions; what is no Python mentions none."""
    trees = [tree for answer in answers if (tree := parsed(answer)) is not None]
    mentioned = {n.id for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Name)}
    kept = []
    for statement in imports:
        names = {
            (alias.asname or alias.name).split(".")[0]
            for alias in ast.parse(statement).body[0].names
        }
        if names & mentioned or "*" in names:
            kept.append(statement)
    return kept


def used_answers(found: Submission, id: str) -> list[str]:
    """The other exercises whose functions an answer calls, each after those that it calls itself."""
    by_name = {other.split(".")[1]: other for other in found.answers if other != id}
    order: dict[str, None] = {}

    def visit(source: str, above: tuple[str, ...]) -> None:
        for name in sorted(foreign_names(source) & by_name.keys()):
            other = by_name[name]
            if other not in order and other not in above:
                visit(found.answers[other], (*above, other))
                order[other] = None

    visit(found.answers[id], (id,))
    return list(order)
