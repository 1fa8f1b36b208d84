"""In nbgrader's autograder: the sandbox in the place of the kernel that trusts.

nbgrader keeps what it does well: releasing, collecting, the gradebook, the formgrader for written
questions, feedback, export. Only one step of `nbgrader autograde` is replaced. Its `Execute` runs the
submission in one kernel, checks and all; `Judge` runs nothing of the notebook's in this process: it
grades the answers as `compresslab grade` does, and writes into every check cell what nbgrader reads its
score from (points as the cell's result, and in words above it).

In the course's nbgrader_config.py:

    from compresslab.classroom.grading.nbgrader_plugin import configure

    c = get_config()
    configure(c)
"""

import secrets

from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    LimitOutput,
    NbGraderPreprocessor,
    SaveAutoGrades,
)
from traitlets import Bool, Integer
from traitlets.config import Config

from compresslab.classroom.exercises import EXERCISES, of_grade_id
from compresslab.classroom.grading import submission
from compresslab.classroom.grading.grade import Mark, grade_safely
from compresslab.classroom.grading.sandbox import Limits, Sandbox


class Judge(NbGraderPreprocessor):
    """Grades a submission's answers in a sandbox."""

    seed = Integer(-1, help="Of the cases; -1: drawn anew for every run of autograde.").tag(
        config=True
    )
    allow_unsandboxed = Bool(
        False, help="Grade without bubblewrap: only if every submission is trusted."
    ).tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Write a result into every check cell."""
        learner = str(resources.get("nbgrader", {}).get("student", "somebody"))
        checks = {id: cell for cell in nb.cells if (id := _checked(cell)) is not None}
        seed = secrets.randbelow(2**31) if self.seed < 0 else self.seed
        found = submission.of_cells([_plain(cell) for cell in nb.cells], learner, set(checks))
        with Sandbox(self.allow_unsandboxed) as sandbox:
            for id, cell in checks.items():
                mark = grade_safely(EXERCISES[id], found, seed, sandbox, Limits())
                cell["outputs"], cell["execution_count"] = _outputs(mark, seed), None
        return nb, resources


def configure(config: Config) -> None:
    """Put `Judge` in the place of nbgrader's `Execute`."""
    config.Autograde.autograde_preprocessors = [
        Judge,
        LimitOutput,
        SaveAutoGrades,
        AssignLatePenalties,
        CheckCellMetadata,
    ]


def _checked(cell: NotebookNode) -> str | None:
    """The exercise that a check cell is of."""
    about = cell.get("metadata", {}).get("nbgrader", {})
    id = str(about.get("grade_id", ""))
    is_check = cell.get("cell_type") == "code" and about.get("grade") and id.endswith("-check")
    exercise = of_grade_id(id) if is_check else None
    return exercise.id if exercise else None


def _plain(cell: NotebookNode) -> dict:
    return {
        "cell_type": cell.get("cell_type"),
        "source": cell.get("source"),
        "metadata": dict(cell.get("metadata", {})),
    }


def _outputs(mark: Mark, seed: int) -> list[NotebookNode]:
    """Words for learner and teacher, then the points: the form in which nbgrader gives part of them."""
    words = [f"{mark.status}: {mark.points:g} of {mark.out_of} points (seed {seed})"]
    words += [mark.message] if mark.message else []
    words += [f"recognised: {mark.mistake}"] if mark.mistake else []
    shown = new_output("display_data", {"text/plain": "\n".join(words)})
    points = new_output("execute_result", {"text/plain": f"{mark.points:g}"}, execution_count=None)
    return [shown, points]
