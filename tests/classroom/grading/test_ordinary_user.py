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


def ordinary(home, *arguments):
    """Run the course's command as nobody; what it did."""
    command = ["-B", "-m", "compresslab.cli", *map(str, arguments)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(home)}
    if os.getuid() == 0:
        environment["HOME"] = str(Path.home())
        facts = [str(home), str(NOBODY), sys.executable, sys.base_prefix]
        # In the course's folder, which an instructor has and need not be able to write.
        command = ["unshare", "--mount", "sh", "-c", AS_NOBODY, "sh", *facts, *command]
    else:
        command = [sys.executable, *command]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
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


def test_his_home_holds_nothing_of_the_answers(home, made):
    left = {path.name for path in home.iterdir()}
    assert left <= {
        *("class", "marks.csv", "marks.json", "written", "feedback", "pairs.html"),
        *("said", ".cache", ".config", ".local", "marks.csv.records"),
    }
