"""Grading as an instructor without any rights: from a folder of submissions to pages, by the commands.

Where the tests run as root (as in CI), the commands run under a number that no user has: nothing here is that
one's but a home and the submissions. Whoever runs the tests as an ordinary user is one already.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks import classroom
from compresslab.classroom.grading.grade import exercises_of
from compresslab.classroom.grading.sandbox import MISSING, bubblewrap

ROOT = Path(__file__).parents[3]
NOBODY = 64_123
LAB = "00_measure_first"
# Python may lie in root's own home, which others may not enter: there it is shown to this process alone. By
# `env`, since the command that setpriv itself starts still has root's rights when it is looked up.
AS_NOBODY = """
set -e
home=$1 number=$2 python=$3 prefix=$4; shift 4
become="setpriv --reuid=$number --regid=$number --clear-groups env HOME=$home"
if ! $become "$python" -c "" 2>"$home/said"; then
    mkdir "$home/.python"
    mount --bind "$prefix" "$home/.python"
    mount -t tmpfs tmpfs "$HOME"
    chmod 755 "$HOME"
    mkdir -p "$prefix"
    mount --move "$home/.python" "$prefix"
    rmdir "$home/.python"
fi
exec $become "$python" "$@"
"""


def ordinary(home, *arguments, module="compresslab.cli", folder=ROOT):
    """Run a module's command as nobody; what it did."""
    command = ["-B", "-m", module, *map(str, arguments)]
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # nbgrader calls alembic
    environment = {"PATH": programs, "PYTHONPATH": str(ROOT), "HOME": str(home)}
    if os.getuid() == 0:
        environment["HOME"] = str(Path.home())
        facts = [str(home), str(NOBODY), sys.executable, sys.base_prefix]
        # In the course's folder, which an instructor has and need not be able to write.
        command = ["unshare", "--mount", "sh", "-c", AS_NOBODY, "sh", *facts, *command]
    else:
        command = [sys.executable, *command]
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def home():
    """A folder of that user's, where everybody may enter."""
    if bubblewrap() is None:
        pytest.skip(MISSING)
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    try:
        if os.getuid() == 0:
            os.chown(place, NOBODY, NOBODY)
            if not all(map(shutil.which, ("unshare", "setpriv"))):
                pytest.skip("there is no unshare or no setpriv (util-linux)")
            if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
                pytest.skip("no other user can be shown this Python here")
        yield place
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def made(home):
    """A small class, and what each answer is."""
    kinds = classroom.make_class(home / "class", LAB, 3, 1, 0.06)
    if os.getuid() == 0:
        for path in [home / "class", *(home / "class").rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    assert {"model", "mistake", "stub", "hostile"} <= {
        k for answers in kinds.values() for k in answers.values()
    }
    return kinds


def test_he_grades_a_class_and_gets_the_pages(home, made):
    students, marks = home / "class", home / "marks.json"
    done = ordinary(home, "grade", students, "--lab", "00", "--out", marks.with_suffix(".csv"))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(marks.read_text(encoding="utf-8"))
    assert classroom.wrong_marks(results, made) == []
    for arguments in (
        ("written", students, "--lab", "00", "--out", home / "written"),
        ("feedback", marks, "--out", home / "feedback", "--written", home / "written"),
        ("similar", students, "--lab", "00", "--out", home / "pairs.html"),
    ):
        done = ordinary(home, *arguments)
        assert done.returncode == 0, (arguments, done.stdout + done.stderr)
    with (home / "feedback" / "moodle.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(made)
    assert len(list((home / "feedback" / "learners").glob("*.html"))) == len(made)
    owners = {p.stat().st_uid for p in home.rglob("*") if p != home / "said"}
    assert owners == {NOBODY if os.getuid() == 0 else os.getuid()}
    assert len(results["marks"]) == len(made) * len(exercises_of(LAB))


CONFIG = """
from compresslab.classroom.grading.nbgrader_plugin import configure
c = get_config()
c.CourseDirectory.course_id = "compression"
configure(c)
"""


def test_he_grades_the_class_with_nbgrader(home, made):
    pytest.importorskip("nbgrader", reason="nbgrader is not installed")
    from nbgrader.api import Gradebook

    course, name = home / "course", f"{LAB}.ipynb"
    shutil.rmtree(course, ignore_errors=True)
    (course / "source" / "00").mkdir(parents=True)
    (course / "nbgrader_config.py").write_text(CONFIG)
    shutil.copy(ROOT / "solutions" / name, course / "source" / "00")
    some = dict(list(made.items())[:1])
    for learner in some:
        (course / "submitted" / learner / "00").mkdir(parents=True)
        shutil.copy(home / "class" / learner / name, course / "submitted" / learner / "00")
    if os.getuid() == 0:
        for path in [course, *course.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    for arguments in (
        ("generate_assignment", "00", "--create", "--IncludeHeaderFooter.header="),
        ("autograde", "00", "--create"),
        ("generate_feedback", "00"),
    ):
        done = ordinary(home, *arguments, module="nbgrader", folder=course)
        assert done.returncode == 0, (arguments, done.stderr[-3000:])
    points = {e.id.replace(".", "-") + "-check": e.points for e in exercises_of(LAB)}
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        for learner, answers in some.items():
            grades = book.find_submission_notebook(LAB, "00", learner).grades
            scores = {grade.name: grade.score for grade in grades}
            for id, kind in answers.items():
                check = id.replace(".", "-") + "-check"
                if kind == "model":
                    assert scores[check] == points[check], (learner, id)
                if kind in ("stub", "hostile"):
                    assert scores[check] == 0, (learner, id)
            assert (course / "feedback" / learner / "00" / f"{LAB}.html").stat().st_uid == (
                NOBODY if os.getuid() == 0 else os.getuid()
            )


def test_his_home_holds_nothing_of_the_answers(home, made):
    left = {path.name for path in home.iterdir()}
    assert left <= {
        *("class", "marks.csv", "marks.json", "written", "feedback", "pairs.html", "course"),
        *("said", ".cache", ".config", ".local", "marks.csv.records"),
    }
