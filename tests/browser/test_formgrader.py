"""nbgrader's formgrader over what our grader has graded: a written answer is read, the mark stays."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import address_of, ended

from compresslab.classroom.exercises import LABS
from compresslab.classroom.grading.sandbox import MISSING, bubblewrap

pytest.importorskip(
    "nbgrader", reason="nbgrader is not installed: pip install compresslab[instructor]"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bubblewrap() is None, reason=MISSING),
]
ROOT = Path(__file__).parents[2]
CONFIG = """
from compresslab.classroom.grading.nbgrader_plugin import configure
c = get_config()
c.CourseDirectory.course_id = "compression"
c.Exchange.root = "exchange"
configure(c)
c.Judge.seed = 3
"""
NAME, WRITTEN = "12_capstone", "written-combine_written"
ANSWERED = ("combine-gaps", "combine-pareto_mask")
EVIL = (
    "**Measured** on validation data: $x^2$. <script>document.title = 'gone'</script>"
    "<img src='missing:' onerror=\"document.title = 'gone'\">"
    "\n\n`<script>document.title = 'gone'</script>\n\n`\n\n[a](javascript:document.title='gone')"
    "[b](&#106;avascript:document.title='gone') <svg/onload=\"document.title='gone'\">"
)


def nbgrader(course, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=course,
        env=surroundings(course),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def surroundings(course):
    home = course / "home"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    folders = {f"JUPYTER_{k.upper()}_DIR": str(home / k) for k in ("config", "data", "runtime")}
    return {**os.environ, "HOME": str(home), "PATH": path, **folders}


def with_answers(notebook, answers):
    for cell in notebook.cells:
        id = cell.metadata.get("nbgrader", {}).get("grade_id")
        cell.source = answers.get(id, cell.source)
    return notebook


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A course folder in which two learners' lab has gone through `nbgrader autograde`."""
    course = tmp_path_factory.mktemp("formgrader")
    (course / "source" / "12").mkdir(parents=True)
    (course / "exchange").mkdir()
    (course / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    source = nbformat.read(ROOT / "solutions" / f"{NAME}.ipynb", 4)
    nbformat.write(source, course / "source" / "12" / f"{NAME}.ipynb")
    nbgrader(course, "generate_assignment", "12", "--create", "--IncludeHeaderFooter.header=")
    released = nbformat.read(course / "release" / "12" / f"{NAME}.ipynb", 4)
    ids = {c.metadata.get("nbgrader", {}).get("grade_id"): c.source for c in source.cells}
    answers = {id: ids[id] for id in ANSWERED} | {WRITTEN: EVIL}
    for learner, answered in (("alice", answers), ("bob", {})):
        folder = course / "submitted" / learner / "12"
        folder.mkdir(parents=True)
        nbformat.write(with_answers(copy.deepcopy(released), answered), folder / f"{NAME}.ipynb")
    nbgrader(course, "autograde", "12", "--create")
    return course


@pytest.fixture(scope="module")
def server(graded):
    """The address of a JupyterLab on loopback in that folder; it is ended by its own process id."""
    log = graded / "jupyter.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port", "0", "--allow-root"]
    with log.open("wb") as out:
        started = subprocess.Popen(
            [*command, "--ip", "127.0.0.1"],
            cwd=graded,
            env=surroundings(graded),
            stdout=out,
            stderr=out,
        )
    try:
        yield address_of(log, started)
    finally:
        ended(started)


def test_a_written_answer_is_read_and_marked_and_the_mark_comes_back(graded, server, page):
    port, token = server
    base, outside = f"http://127.0.0.1:{port}", []
    page.on("request", lambda r: outside.append(r.url) if "127.0.0.1" not in r.url else None)
    page.goto(f"{base}/lab?token={token}")
    page.goto(f"{base}/formgrader/manage_submissions/12")
    page.wait_for_selector("text=needs manual grading")
    page.goto(f"{base}/formgrader/gradebook/12/{NAME}")
    page.wait_for_selector("table a[href*=submissions]")
    # The names are hidden until they are asked for; alice is the one who has points for code.
    points = sum(exercise.points for exercise in LABS[NAME])
    page.click(f"tr:has-text('Submission'):not(:has-text('0 / {points}')) a[href*=submissions]")
    page.wait_for_selector("text=on validation data")
    said = re.findall(r"passed: (\d) of (\d) points \(seed 3\)", page.inner_text("body"))
    assert len(said) == len(ANSWERED)
    assert all(points == out_of for points, out_of in said)
    # What a learner writes is text and formulas, never a program.
    assert page.title() != "gone"
    schemes = page.evaluate(
        "[...new Set([...document.querySelectorAll('a')].map(a => a.protocol))]"
    )
    assert set(schemes) <= {"http:", "https:", ":"}
    place = page.locator(".score").last
    place.fill("1.5")
    place.press("Tab")
    remark = page.locator("textarea.comment").last
    remark.fill("well measured")
    remark.press("Tab")
    page.wait_for_timeout(1000)
    page.reload()
    page.wait_for_function("[...document.querySelectorAll('.score')].at(-1)?.value == '1.5'")
    assert page.locator("textarea.comment").last.input_value() == "well measured"
    # nbgrader's own page asks for MathJax; nothing that a learner wrote asks for anything.
    asked = {re.sub(r"^\w+://([^/]+)/.*", r"\1", url) for url in outside if url.startswith("http")}
    assert asked <= {"cdnjs.cloudflare.com"}

    nbgrader(graded, "generate_feedback", "12")
    feedback = graded / "feedback" / "alice" / "12" / f"{NAME}.html"
    page.goto(feedback.as_uri())
    assert page.title() != "gone"
    assert "well measured" in page.content()
