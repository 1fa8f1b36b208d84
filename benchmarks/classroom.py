"""A class of 200, graded: `python -m benchmarks.classroom --lab 12 --learners 200 --workers 2`.

Submissions are made from what is known of each exercise, so that every mark is known beforehand:

    kind              what a cell holds                                       points
    model             the model answer                                        all
    wrong             a function that hands back its first argument           less than all
    stub              as it was handed out                                    0
    broken            a syntax error                                          0
    hostile           a fork bomb, an endless loop, sys.exit, much memory     0

Reported are submissions a minute, the largest memory of a grading process, and how many marks were other
than they had to be. `--kill N` kills the run N times at random moments and starts it again: the marks must be
the same as of a run that was left alone.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import nbformat
import psutil
import typer

from compresslab.classroom.grading.grade import exercises_of, lab_name
from compresslab.classroom.release import read_solution

ROOT = Path(__file__).parents[1]
HOSTILE = (
    "import os\nwhile True: os.fork()",
    "while True: pass",
    "import sys\nsys.exit(0)",
    "x = [bytearray(10**8) for _ in range(10**4)]",
)
KINDS = ("model", "model", "model", "wrong", "wrong", "stub", "broken", "hostile")


def answers(lab: str) -> dict[str, str]:
    """The model answers of a lab, by grade id."""
    solution = read_solution(ROOT / "solutions" / f"{lab}.py").solution
    return {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in solution.cells
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution")
    }


def submission(lab: str, kinds: dict[str, str], generator: random.Random) -> nbformat.NotebookNode:
    """A lab as it was handed out, each exercise answered in the way that `kinds` says."""
    notebook = nbformat.read(ROOT / "labs" / f"{lab}.ipynb", 4)
    model = answers(lab)
    for cell in notebook.cells:
        id = cell.metadata.get("nbgrader", {}).get("grade_id")
        if id in kinds:
            cell.source = _source(kinds[id], cell.source, model[id], generator)
    return notebook


def _source(kind: str, stub: str, model: str, generator: random.Random) -> str:
    if kind == "model":
        return model
    if kind == "broken":
        return model + "\nreturn ("
    head = next(line for line in stub.splitlines() if line.startswith("def "))
    names = head[head.index("(") + 1 : head.rindex(")")]
    if kind == "wrong":
        return f"{head}\n    return {names.split(',')[0].split(':')[0].strip()}\n"
    if kind == "hostile":
        body = "\n".join(f"    {line}" for line in generator.choice(HOSTILE).splitlines())
        return f"{head}\n{body}\n"
    return stub


def make_class(folder: Path, lab: str, learners: int, seed: int) -> dict[str, dict[str, str]]:
    """Write the submissions; gives, for each learner, the kind of each answer by exercise id."""
    generator = random.Random(seed)
    made = {}
    for number in range(learners):
        kinds = {e.id.replace(".", "-", 1): generator.choice(KINDS) for e in exercises_of(lab)}
        path = folder / f"learner{number:04d}" / f"{lab}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(submission(lab, kinds, generator), path)
        made[path.parent.name] = {id.replace("-", ".", 1): kind for id, kind in kinds.items()}
    return made


def wrong_marks(results: dict, made: dict[str, dict[str, str]]) -> list[str]:
    """What is other than it had to be, in words."""
    found = []
    for mark in results["marks"]:
        kind = made[mark["learner"]][mark["exercise"]]
        full = mark["points"] == mark["out_of"]
        right = full if kind == "model" else not full if kind == "wrong" else mark["points"] == 0
        if not right:
            found.append(f"{mark['learner']}, {mark['exercise']}, {kind}: {mark}")
    if len(results["marks"]) != sum(map(len, made.values())):
        found.append(f"{len(results['marks'])} marks for {sum(map(len, made.values()))} answers")
    return found


def grade(
    folder: Path, lab: str, out: Path, workers: int, kill_after: float = float("inf")
) -> tuple[bool, int]:
    """Run the command; whether it ended by itself, and the largest memory of one of its processes."""
    command = [sys.executable, "-m", "compresslab.cli", "grade", str(folder), "--lab", lab]
    command += ["--out", str(out), "--workers", str(workers), "--seed", "11"]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        end, most = time.monotonic() + kill_after, 0
        while process.poll() is None and time.monotonic() < end:
            most = max(most, _largest(process.pid))
            time.sleep(0.2)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            return False, most
        return process.returncode == 0, most


def _largest(number: int) -> int:
    """Bytes of the largest process among one and what it started."""
    try:
        of = psutil.Process(number)
        return max(p.memory_info().rss for p in (of, *of.children(recursive=True)))
    except psutil.Error:
        return 0


def main(
    lab: Annotated[str, typer.Option(help="its number or name")] = "12",
    learners: Annotated[int, typer.Option(min=1)] = 200,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    kill: Annotated[int, typer.Option(help="times that the run is killed", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="of the class")] = 1,
) -> None:
    """Make a class, grade it, and hold the marks against what is known of each answer."""
    lab = lab_name(lab)
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "class", Path(scratch) / "marks.csv"
        made = make_class(folder, lab, learners, seed)
        start = time.perf_counter()
        ended, most = grade(folder, lab, out, workers)
        if not ended:
            raise typer.Exit(1)
        seconds = time.perf_counter() - start
        results = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
        wrong = wrong_marks(results, made)
        typer.echo(
            f"{learners} submissions of lab {lab}, {len(exercises_of(lab))} exercises, {workers} workers: "
            f"{60 * learners / seconds:.0f} a minute, largest process {most / 2**20:.0f} MB, "
            f"{len(wrong)} marks other than they had to be"
        )
        for line in wrong[:20]:
            typer.echo(f"    {line}")
        if kill:
            _killed(folder, lab, Path(scratch), workers, kill, results, seconds)


def _killed(
    folder: Path, lab: str, scratch: Path, workers: int, times: int, wanted: dict, seconds: float
) -> None:
    generator, out = random.Random(times), scratch / "killed.csv"
    for _ in range(times):
        grade(folder, lab, out, workers, generator.uniform(3, max(4.0, 2 * seconds / times)))
    ended, _ = grade(folder, lab, out, workers)
    found = json.loads(out.with_suffix(".json").read_text(encoding="utf-8")) if ended else None
    plain = ("learner", "exercise", "points", "status", "mistake")
    same = found is not None and [{k: m[k] for k in plain} for m in found["marks"]] == [
        {k: m[k] for k in plain} for m in wanted["marks"]
    ]
    typer.echo(f"killed {times} times and resumed: {'the same marks' if same else 'OTHER MARKS'}")


if __name__ == "__main__":
    typer.run(main)
