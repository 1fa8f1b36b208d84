"""nbgrader itself: release, autograde with the sandbox in it, gradebook, feedback."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from compresslab.classroom.exercises import LABS
from compresslab.classroom.grading.sandbox import MISSING, bubblewrap

pytest.importorskip(
    "nbgrader", reason="nbgrader is not installed: pip install compresslab[instructor]"
)
pytestmark = pytest.mark.skipif(bubblewrap() is None, reason=MISSING)
ROOT = Path(__file__).parents[3]
WRITTEN = 2
CONFIG = """
from compresslab.classroom.grading.nbgrader_plugin import configure
c = get_config()
c.CourseDirectory.course_id = "compression"
configure(c)
c.Judge.seed = 3
"""


def nbgrader(course, *arguments):
    bin = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "HOME": str(course)}
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def with_answers(lab, answers):
    """The released lab with some cells filled in."""
    lab = nbformat.from_dict(lab)
    for cell in lab.cells:
        id = cell.metadata.get("nbgrader", {}).get("grade_id")
        if id in answers:
            cell.source = answers[id]
    return lab


def copied(notebook):
    """An answer cell copied with its metadata, and a check cell, too."""
    for id in ("combine-gaps", "combine-gaps-check"):
        place, cell = next(
            (i, c)
            for i, c in enumerate(notebook.cells)
            if c.metadata.get("nbgrader", {}).get("grade_id") == id
        )
        notebook.cells.insert(place + 1, nbformat.from_dict(dict(cell, id=f"{id[-5:]}-copy")))
    return notebook


def split(notebook):
    """The answer's imports in a cell of their own, as splitting leaves it."""
    place, cell = next(
        (i, c)
        for i, c in enumerate(notebook.cells)
        if c.metadata.get("nbgrader", {}).get("grade_id") == "combine-gaps"
    )
    head = nbformat.from_dict(dict(cell, id="head", source="import math\nROOM = math.pi"))
    notebook.cells.insert(place, head)
    return notebook


def stripped(notebook):
    """Metadata and ids lost, as another editor leaves it."""
    for number, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = {}, f"cell-{number}"
    return notebook


def outdated(notebook):
    """Metadata of another version, or none."""
    for cell in notebook.cells:
        about = cell.metadata.get("nbgrader")
        if about:
            about.pop("schema_version")
    return notebook


CHANGES = {"copied": copied, "split": split, "stripped": stripped, "outdated": outdated}


def test_a_class_is_released_graded_and_answered(tmp_path):
    from nbgrader.api import Gradebook

    course = tmp_path / "course"
    (course / "source" / "12").mkdir(parents=True)
    (course / "nbgrader_config.py").write_text(CONFIG)
    source = nbformat.read(ROOT / "solutions" / "12_capstone.ipynb", 4)
    for cell in source.cells:  # the course gives this one more points than the library does
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "combine-gaps-check":
            cell.metadata.nbgrader.points = 4
    nbformat.write(source, course / "source" / "12" / "12_capstone.ipynb")
    nbgrader(course, "generate_assignment", "12", "--create", "--IncludeHeaderFooter.header=")
    released = nbformat.read(course / "release" / "12" / "12_capstone.ipynb", 4)
    ids = {c.metadata.get("nbgrader", {}).get("grade_id"): c for c in source.cells}
    right = {i: c.source for i, c in ids.items() if i in ("combine-gaps", "combine-pareto_mask")}
    evil = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef gaps(k, b): return k"
    classes = {
        "alice": right,
        "bob": {"combine-gaps": evil, "combine-pareto_mask": "import sys\nsys.exit(0)"},
        **dict.fromkeys(CHANGES, right),
        "carol": {"combine-pareto_mask": "def pareto_mask(c, a):\n    return a == a.max()"},
    }
    for learner, answers in classes.items():
        folder = course / "submitted" / learner / "12"
        folder.mkdir(parents=True)
        notebook = with_answers(released, answers)
        if learner == "carol":
            for cell in notebook.cells:
                if cell.metadata.get("nbgrader", {}).get("grade"):
                    cell.metadata.nbgrader.points, cell.source = 1000, "1000"
        nbformat.write(CHANGES.get(learner, lambda n: n)(notebook), folder / "12_capstone.ipynb")
    nbgrader(course, "autograde", "12", "--create")
    nbgrader(course, "generate_feedback", "12")
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        scores = {s.student.id: s.score for s in book.assignment_submissions("12")}
        assert book.find_assignment("12").max_code_score == WRITTEN + sum(
            e.points for e in LABS["12_capstone"]
        )
    assert scores["alice"] == 5
    assert {learner: scores[learner] for learner in CHANGES} == dict.fromkeys(CHANGES, 5)
    assert scores["bob"] == 0
    assert scores["carol"] < 1
    page = (course / "feedback" / "alice" / "12" / "12_capstone.html").read_text(encoding="utf-8")
    assert "passed: 4 of 4 points (seed 3)" in page
    assert "not done: 0 of 3 points" in page


@pytest.mark.attack("files")
@pytest.mark.parametrize("kind", ["code", "markdown"])
def test_twenty_thousand_copies_of_a_cell_are_joined_in_seconds(monkeypatch, kind):
    from compresslab.classroom.grading import nbgrader_plugin as plugin

    def without_course(_):
        raise plugin.MissingEntry("no course here")

    monkeypatch.setattr(plugin, "Gradebook", without_course)
    id = "combine-gaps" if kind == "code" else "written-ptq_written"
    about = {"grade_id": id, "solution": True, "grade": kind == "markdown", "locked": False}
    new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
    many = [new(f"x{n} = {n}", metadata={"nbgrader": dict(about)}) for n in range(20_000)]
    notebook = nbformat.v4.new_notebook(cells=many)
    start = time.process_time()
    resources = {"nbgrader": {"student": "ada", "db_url": "", "notebook": "n", "assignment": "a"}}
    plugin.Restore().preprocess(notebook, resources)
    assert time.process_time() - start < 15
    first, *others = notebook.cells
    assert first.metadata.nbgrader.grade_id == id
    assert not any("nbgrader" in cell.metadata for cell in others)
    if kind == "code":
        assert first.source.split("\n") == [f"x{n} = {n}" for n in range(20_000)]
    else:
        assert first.source == "x10000 = 10000"
