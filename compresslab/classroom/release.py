"""From one edited text to two notebooks: `solutions/NN_subject.py` -> solutions/*.ipynb and labs/*.ipynb.

A solution is a jupytext py:percent script. Its answer cells carry nbgrader's metadata and hold the model
answer between the markers

    ### BEGIN SOLUTION
    ### END SOLUTION

and its check cells are graded tests with the exercise's points. The lab is the same notebook with each
region replaced by a stub that says "not done yet", and without outputs. The solution notebook is executed
and keeps its outputs, so that it can be read on the web; timestamps and progress bars are taken out.

Cells that ask or answer a question, that only draw or only import are folded; one click opens them.

Cell ids follow from the exercise or the position and the executed notebook remembers the hash of its
text, so releasing an unchanged solution changes nothing.
"""

import ast
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.output_widget import OutputWidget
from nbformat import NotebookNode

from compresslab import claims
from compresslab.classroom.exercises import of_grade_id
from compresslab.classroom.still import without_widgets
from compresslab.classroom.worked import worked_cases
from compresslab.progress_bar import CLASS as PROGRESS
from compresslab.writing import write_whole

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_TIMEOUT = 300


class ReleaseError(ValueError):
    """A solution that cannot become a lab; names the file and the cell."""


@dataclass(frozen=True)
class Lab:
    """A released pair of notebooks: the lab, and the solution without outputs."""

    name: str
    lab: NotebookNode
    solution: NotebookNode
    source_hash: str


# ---- reading and checking ------------------------------------------------------------------------
def read_solution(path: Path) -> Lab:
    """Parse and check one solution.

    Raises:
        ReleaseError: for an unclosed or nested marker, a marker outside an answer cell, an answer cell
            without a region, an unknown, repeated or unchecked exercise, or wrong points.
    """
    text = path.read_text(encoding="utf-8")
    solution = jupytext.reads(text, fmt="py:percent")
    solution.metadata = NotebookNode(kernelspec=NotebookNode(KERNEL))
    solution.nbformat, solution.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for position, cell in enumerate(solution.cells):
        place = f"{path.name}, cell {position + 1}"
        cell.source = cell.source.strip("\n")
        grade = cell.metadata.get("nbgrader", {})
        _check_region(cell, grade, place)
        grade_id = grade.get("grade_id")
        if grade_id:
            if grade_id in seen:
                raise ReleaseError(
                    f"{place}: grade_id {grade_id!r} was used by cell {seen[grade_id]}"
                )
            seen[grade_id] = position + 1
            _check_exercise(grade, place)
        cell.id = _cell_id(grade_id, position)
        if cell.cell_type == "code" and not grade and gives_away(cell.source):
            cell.metadata["jupyter"] = {"source_hidden": True}
    _check_pairs(seen, path.name)
    lab = nbformat.from_dict(solution)
    for cell in lab.cells:
        if cell.cell_type == "code":
            asked = of_grade_id(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
            cell.source = stub(cell.source, worked_cases(asked) if asked else ())
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Lab(path.stem, lab, solution, digest)


def _cell_id(grade_id: str | None, position: int) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "-", grade_id or f"cell-{position + 1:03d}")[:64]


def _check_region(cell: NotebookNode, grade: dict, place: str) -> None:
    inside, regions = False, 0
    for number, line in enumerate(cell.source.splitlines(), 1):
        if line.strip() == BEGIN:
            if inside:
                raise ReleaseError(f"{place}, line {number}: {BEGIN} inside an open region")
            inside, regions = True, regions + 1
        elif line.strip() == END:
            if not inside:
                raise ReleaseError(f"{place}, line {number}: {END} without a {BEGIN}")
            inside = False
        elif "BEGIN SOLUTION" in line or "END SOLUTION" in line:
            raise ReleaseError(f"{place}, line {number}: a marker must stand alone, got {line!r}")
    if inside:
        raise ReleaseError(f"{place}: {BEGIN} is never closed")
    is_answer = bool(grade.get("solution")) and cell.cell_type == "code"
    if is_answer and not regions:
        raise ReleaseError(f"{place}: answer cell {grade.get('grade_id')!r} has no answer region")
    if regions and not is_answer:
        raise ReleaseError(f"{place}: an answer region outside an answer cell")


def _check_exercise(grade: dict, place: str) -> None:
    grade_id = grade["grade_id"]
    if grade_id.startswith("written-"):
        return
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", grade_id):
        raise ReleaseError(
            f"{place}: grade_id must be of letters, digits, _ and -, got {grade_id!r}"
        )
    exercise = of_grade_id(grade_id)
    if exercise is None:
        raise ReleaseError(f"{place}: the library knows no exercise {grade_id!r}")
    if grade_id.endswith("-check") and grade.get("points") != exercise.points:
        raise ReleaseError(
            f"{place}: {grade_id!r} gives {grade.get('points')} points, "
            f"the exercise {exercise.points}"
        )


def _check_pairs(seen: dict[str, int], name: str) -> None:
    for grade_id, cell in seen.items():
        if grade_id.startswith("written-"):
            continue
        partner = grade_id.removesuffix("-check")
        partner = partner if grade_id.endswith("-check") else f"{grade_id}-check"
        if partner not in seen:
            raise ReleaseError(f"{name}, cell {cell}: {grade_id!r} has no cell {partner!r}")


def gives_away(source: str) -> bool:
    """Whether a cell is shown folded: it asks or answers a question, only draws, or only imports.

    The code of a question is read twice otherwise, and that of its answer before it.
    """
    if "= predict(" in source or ".reveal(" in source:
        return True
    nodes = ast.parse(source).body
    if all(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes):
        return bool(nodes)
    drawing = [isinstance(n, ast.FunctionDef) and "axes" in ast.unparse(n) for n in nodes]
    return all(drawing) and bool(nodes)


def stub(source: str, worked: Sequence[str] = ()) -> str:
    """The cell with each answer region replaced by worked cases and a line that raises "not done yet"."""
    lines, inside = [], False
    for line in source.splitlines():
        if line.strip() == BEGIN:
            indent = line[: len(line) - len(line.lstrip())]
            lines += [
                *(f"{indent}{line}" for line in worked),
                f"{indent}# your code here",
                f'{indent}raise NotImplementedError("not done yet")',
            ]
            inside = True
        elif line.strip() == END:
            inside = False
        elif not inside:
            lines.append(line)
    return "\n".join(lines)


# ---- writing -------------------------------------------------------------------------------------
def release(
    solutions: Path, labs: Path, only: Iterable[str] = (), force: bool = False
) -> list[Path]:
    """Release every solution (or those named); returns the files that changed.

    Args:
        solutions: folder of the py:percent scripts; executed notebooks are written beside them.
        labs: folder of the labs.
        only: names such as "01_numbers"; if empty, all.
        force: execute solutions again even if their code has not changed.
    """
    wanted = set(only)
    paths = sorted(p for p in solutions.glob("[0-9][0-9]_*.py") if not wanted or p.stem in wanted)
    unknown = wanted - {p.stem for p in paths}
    if unknown:
        raise ReleaseError(f"no solution named {', '.join(sorted(unknown))} in {solutions}")
    released = [read_solution(path) for path in paths]
    changed = []
    for lab in released:
        changed += write_if_new(labs / f"{lab.name}.ipynb", nbformat.writes(lab.lab) + "\n")
        target = solutions / f"{lab.name}.ipynb"
        if force or stored_hash(target) != lab.source_hash:
            executed = (None if force else with_old_outputs(lab, target)) or execute(lab, solutions)
            changed += write_if_new(target, nbformat.writes(executed) + "\n")
    return changed


def write_if_new(path: Path, text: str) -> list[Path]:
    """Write a file unless it says the same already; returns it in a list if it was written."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return []
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return [path]


def stored_hash(path: Path) -> str | None:
    """The hash of the text that a notebook was made from; None if it has none."""
    if not path.is_file():
        return None
    return nbformat.read(path, as_version=4).metadata.get("compresslab", {}).get("source_hash")


def with_old_outputs(lab: Lab, path: Path) -> NotebookNode | None:
    """The solution with its old outputs, where only words and imports have changed since; else None."""
    if not path.is_file():
        return None
    old = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    notebook = nbformat.from_dict(lab.solution)
    new = [c for c in notebook.cells if c.cell_type == "code"]
    same = [_without_imports(c.source) for c in old] == [_without_imports(c.source) for c in new]
    if not same or not all(c.execution_count for c in old):
        return None
    for before, now in zip(old, new, strict=True):
        now.outputs, now.execution_count = before.outputs, before.execution_count
    return _with_hash(notebook, lab)


def _without_imports(source: str) -> str:
    """A cell's code but for where its names come from."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.unparse(tree)


def _with_hash(notebook: NotebookNode, lab: Lab) -> NotebookNode:
    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(KERNEL), compresslab={"source_hash": lab.source_hash}
    )
    return notebook


def execute(lab: Lab, folder: Path) -> NotebookNode:
    """Run a solution from top to bottom and return it with clean outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
        ReleaseError: if a model answer does not pass its check.
    """
    notebook = nbformat.from_dict(lab.solution)
    client = client_of(notebook, folder)
    with tempfile.TemporaryDirectory() as scratch:  # an author's run is no learner's progress
        own = {"COMPRESSLAB_PROGRESS": f"{scratch}/progress.json", claims.STRICT: "1"}
        client.execute(env={**os.environ, **own})
    for position, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            clean(cell)
            # What fails while it is being shown stops no cell.
            failed = [o.evalue for o in cell.outputs if o.output_type == "error"]
            if failed:
                raise ReleaseError(f"{lab.name}, cell {position + 1}: {failed[0]}")
            if cell.metadata.get("nbgrader", {}).get("grade") and "✔" not in _texts(cell):
                raise ReleaseError(
                    f"{lab.name}, cell {position + 1}: the model answer fails its check"
                )
    return _with_hash(notebook, lab)


def client_of(
    notebook: NotebookNode, folder: Path, timeout: float = CELL_TIMEOUT, allow_errors: bool = False
) -> NotebookClient:
    """What executes a notebook in a folder; `timeout` seconds for a cell."""
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=timeout, allow_errors=allow_errors, resources=resources
    )
    client.widget_registry = {"@jupyter-widgets/output": {"OutputModel": _Output}}
    return client


class _Output(OutputWidget):
    """An output widget that keeps what it shows to itself.

    nbclient's own sends it back to the kernel, on the very socket on which it waits for the cell's reply. If
    the reply arrives at that moment, it is not noticed, and the cell "runs" until its time is up.
    """

    def sync_state(self) -> None:
        """Send nothing: no cell asks the kernel what a widget shows."""


def clean(cell: NotebookNode) -> None:
    """Take out what differs from run to run or cannot be seen on the web."""
    cell.metadata.pop("execution", None)
    kept = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        if PROGRESS in output.get("data", {}).get("text/html", ""):
            continue
        kept.append(output)
    cell.outputs = without_widgets(kept)


def _texts(cell: NotebookNode) -> str:
    return "\n".join(o.get("data", {}).get("text/plain", o.get("text", "")) for o in cell.outputs)
