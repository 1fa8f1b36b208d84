"""In nbgrader's autograder: the sandbox in the place of the kernel that trusts.

nbgrader keeps what it does well: releasing, collecting, the gradebook, the formgrader for written
questions, feedback, export. Only one step of `nbgrader autograde` is replaced. Its `Execute` runs the
submission in one kernel, checks and all; `Judge` runs nothing of the notebook's in this process: it
grades the answers as `compresslab grade` does, and writes into every check cell what nbgrader reads its
score from (points as the cell's result, and in words above it). Before it `Restore` mends what copying,
splitting and other editors do to the cells' metadata: without it one copied cell ends autograde for everybody
behind that learner, and a notebook that lost its metadata has no score at all. It also takes out what would
run in the teacher's browser (`inert`).

In the course's nbgrader_config.py:

    from compresslab.classroom.grading.nbgrader_plugin import configure

    c = get_config()
    configure(c)
"""

import secrets
from dataclasses import replace

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearOutput,
    DeduplicateIds,
    LimitOutput,
    NbGraderPreprocessor,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
)
from traitlets import Bool, Integer
from traitlets.config import Config

from compresslab.classroom.exercises import EXERCISES, of_grade_id
from compresslab.classroom.grading import inert, submission
from compresslab.classroom.grading.grade import grade_safely, opened
from compresslab.classroom.grading.mark import Mark
from compresslab.classroom.grading.sandbox import Limits
from compresslab.classroom.grading.written import PREFIX, begins


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
        with opened(self.allow_unsandboxed) as sandbox:
            for id, cell in checks.items():
                mark = grade_safely(EXERCISES[id], found, seed, sandbox, Limits())
                # The course may have given the exercise other points than the library does.
                out_of = float(cell.metadata.nbgrader.get("points", mark.out_of))
                mark = replace(mark, points=mark.points / mark.out_of * out_of, out_of=out_of)
                cell["outputs"], cell["execution_count"] = _outputs(mark, seed), None
        return nb, resources


class Restore(NbGraderPreprocessor):
    """Puts right what happened to nbgrader's metadata on the way, and says so in the log."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Metadata as nbgrader wants them, each id once, and no check cell missing."""
        learner = resources.get("nbgrader", {}).get("student", "somebody")
        inert.make_inert_(nb)
        self._find_written(nb, resources, learner)
        self._make_whole(nb, learner)
        self._join_copies(nb, learner)
        self._add_checks(nb, resources, learner)
        return nb, resources

    def _find_written(self, nb: NotebookNode, resources: dict, learner: str) -> None:
        """Written answers whose cell lost its metadata, by the cell's id, else by the question's heading."""
        about = resources["nbgrader"]
        try:
            with Gradebook(about["db_url"]) as book:
                cells = book.find_notebook(about["notebook"], about["assignment"]).source_cells
                asked = {c.name: c.source or "" for c in cells if c.name.startswith(PREFIX)}
        except MissingEntry:
            return
        there = {_grade_id(cell) for cell in nb.cells}
        for id, question in asked.items():
            if id in there:
                continue
            named = [c for c in nb.cells if c.get("id") == id]
            alike = [c for c in nb.cells if c.cell_type != "code" and begins(c.source, question)]
            for cell in (named or alike)[:1]:
                self.log.warning("%s: %s had lost its metadata", learner, id)
                cell.metadata["nbgrader"] = {"grade_id": id, "grade": True, "solution": True}

    def _make_whole(self, nb: NotebookNode, learner: str) -> None:
        for cell in nb.cells:
            about = cell.metadata.get("nbgrader")
            if about is None and submission.exercise_of(str(cell.get("id", ""))):
                is_check = cell["id"].endswith("-check")
                about = {"grade_id": cell["id"], "grade": is_check, "solution": not is_check}
                self.log.warning("%s: %s had lost its metadata", learner, cell["id"])
            elif about is not None and not _grade_id(cell):
                del cell.metadata["nbgrader"]
                continue
            if about is not None:
                is_check = bool(about.get("grade"))
                whole = {"locked": is_check, "task": False, "solution": not is_check}
                whole |= {"grade": False, **about, "schema_version": 3}
                cell.metadata["nbgrader"] = whole | ({"points": 0} | whole if is_check else {})

    def _join_copies(self, nb: NotebookNode, learner: str) -> None:
        """Of cells with the same id the first keeps it, with the text of all that are answers."""
        alike: dict[str, list[NotebookNode]] = {}
        for cell in nb.cells:
            about = cell.metadata.get("nbgrader")
            if about is not None:
                alike.setdefault(about["grade_id"], []).append(cell)
        # Joined once for each id: a notebook may hold a hundred thousand copies.
        for id, (kept, *copies) in alike.items():
            if not copies:
                continue
            self.log.warning("%s: %s is there %d times", learner, id, 1 + len(copies))
            answers = [c for c in copies if c.metadata.nbgrader.get("solution")]
            if kept.cell_type == "code":
                more = [c.source for c in answers if c.cell_type == "code"]
                kept.source = submission.joined([kept.source, *more], id) if more else kept.source
            else:  # a copy of the question takes nothing from an answer
                kept.source = max((c.source for c in (kept, *answers)), key=len)
            for cell in copies:
                del cell.metadata["nbgrader"]

    def _add_checks(self, nb: NotebookNode, resources: dict, learner: str) -> None:
        """Check cells of the source that are not in the notebook."""
        about = resources["nbgrader"]
        there = {c.metadata.get("nbgrader", {}).get("grade_id") for c in nb.cells}
        try:
            with Gradebook(about["db_url"]) as book:
                cells = book.find_notebook(about["notebook"], about["assignment"]).grade_cells
                wanted = [c.name for c in cells if c.name.endswith("-check")]
        except MissingEntry:
            return
        for id in wanted:
            if id not in there and submission.exercise_of(id):
                self.log.warning("%s: %s was missing, added", learner, id)
                cell = new_code_cell(metadata={"nbgrader": _check_metadata(id)})
                nb.cells.append(cell)


def configure(config: Config) -> None:
    """Put `Judge` in the place of nbgrader's `Execute`, and `Restore` before all else."""
    config.Autograde.sanitize_preprocessors = [
        Restore,
        ClearOutput,
        DeduplicateIds,
        OverwriteKernelspec,
        OverwriteCells,
        CheckCellMetadata,
    ]
    config.Autograde.autograde_preprocessors = [
        Judge,
        LimitOutput,
        SaveAutoGrades,
        AssignLatePenalties,
        CheckCellMetadata,
    ]


def _check_metadata(id: str) -> dict:
    return {
        "grade_id": id,
        "grade": True,
        "solution": False,
        "task": False,
        "locked": True,
        "points": 0,
        "schema_version": 3,
    }


def _grade_id(cell: NotebookNode) -> object:
    about = cell.metadata.get("nbgrader")
    id = about.get("grade_id") if isinstance(about, dict) else None
    return id if isinstance(id, str) else None


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
        "id": cell.get("id"),
    }


def _outputs(mark: Mark, seed: int) -> list[NotebookNode]:
    """Words for learner and teacher, then the points: the form in which nbgrader gives part of them."""
    words = [f"{mark.status}: {mark.points:g} of {mark.out_of:g} points (seed {seed})"]
    words += [mark.message] if mark.message else []
    words += [f"recognised: {mark.mistake}"] if mark.mistake else []
    shown = new_output("display_data", {"text/plain": "\n".join(words)})
    points = new_output("execute_result", {"text/plain": f"{mark.points:g}"}, execution_count=None)
    return [shown, points]
