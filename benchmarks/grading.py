"""Submissions a minute: `compresslab grade`, nbgrader with our judge in it, and nbgrader as it comes.

    python -m benchmarks.grading --lab 00_measure_first --submissions 4

Each grades the same notebooks (the model answers) on the same machine, one after another, by the wall
clock. nbgrader as it comes runs the whole notebook in a kernel, experiments and all; that is what ours
leaves out.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import nbformat
import typer

from compresslab.kernels.simd import instruction_set
from compresslab.report import Table

ROOT = Path(__file__).parents[1]
COURSE = "c = get_config()\nc.CourseDirectory.course_id = 'c'\nc.Execute.timeout = 600\n"
OURS = "from compresslab.classroom.grading.nbgrader_plugin import configure\nconfigure(c)\n"


def main(
    lab: Annotated[str, typer.Option(help="which lab's model answers")] = "00_measure_first",
    submissions: Annotated[int, typer.Option(help="how many learners", min=1)] = 4,
    workers: Annotated[int, typer.Option(help="processes of compresslab grade", min=1)] = 2,
) -> None:
    """Grade the same class three times and print submissions a minute."""
    with tempfile.TemporaryDirectory() as folder:
        plain = _nbgrader(Path(folder) / "plain", lab, submissions, COURSE)
        judged = _nbgrader(Path(folder) / "judged", lab, submissions, COURSE + OURS)
        ours = _grade(Path(folder), lab, submissions, workers)
    rows = [
        [name, f"{seconds:.1f}", f"{60 * submissions / seconds:.1f}", f"{plain / seconds:.1f}"]
        for name, seconds in (
            ("nbgrader autograde, as it comes", plain),
            ("nbgrader autograde, with Judge", judged),
            (f"compresslab grade, {workers} workers", ours),
        )
    ]
    headings = ["", "seconds", "submissions a minute", "times faster"]
    caption = f"{submissions} submissions of {lab}, {os.cpu_count()} cores, {instruction_set()}"
    typer.echo(Table(headings, rows, caption))


def _nbgrader(course: Path, lab: str, submissions: int, config: str) -> float:
    """Seconds of `nbgrader autograde` on a class."""
    source = course / "source" / "lab"
    source.mkdir(parents=True)
    (course / "nbgrader_config.py").write_text(config, encoding="utf-8")
    shutil.copy(ROOT / "solutions" / f"{lab}.ipynb", source)
    _run(course, "generate_assignment", "lab", "--create", "--IncludeHeaderFooter.header=")
    answers = {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in nbformat.read(source / f"{lab}.ipynb", 4).cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }
    notebook = nbformat.read(course / "release" / "lab" / f"{lab}.ipynb", 4)
    for cell in notebook.cells:
        id = cell.metadata.get("nbgrader", {}).get("grade_id")
        cell.source = answers.get(id, cell.source)
    for number in range(submissions):
        place = course / "submitted" / f"learner{number}" / "lab"
        place.mkdir(parents=True)
        nbformat.write(notebook, place / f"{lab}.ipynb")
    start = time.perf_counter()
    _run(course, "autograde", "lab", "--create")
    return time.perf_counter() - start


def _run(course: Path, *arguments: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "nbgrader", *arguments]
    env = {**os.environ, "PATH": path, "HOME": str(course)}
    done = subprocess.run(command, cwd=course, env=env, capture_output=True, text=True)
    if done.returncode:
        raise typer.Exit(typer.echo(done.stderr[-2000:], err=True) or 1)


def _grade(folder: Path, lab: str, submissions: int, workers: int) -> float:
    """Seconds of `compresslab grade` on the same."""
    for number in range(submissions):
        place = folder / "class" / f"learner{number}"
        place.mkdir(parents=True)
        shutil.copy(ROOT / "solutions" / f"{lab}.ipynb", place)
    options = ["--lab", lab, "--out", str(folder / "marks.csv"), "--workers", str(workers)]
    command = [str(Path(sys.executable).parent / "compresslab"), "grade", str(folder / "class")]
    start = time.perf_counter()
    subprocess.run([*command, *options], check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
