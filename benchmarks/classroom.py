"""A class of 200, graded: `python -m benchmarks.classroom --lab 12 --learners 200 --workers 2`.

Submissions are made from what is known of each exercise, so that it is known what each mark may be:

    kind              what a cell holds                                       points
    model             the model answer                                        all
    mistake           a known mistake, of those that stand by themselves      not all
    wrong             a function that hands back its first argument           not all
    stub              as it was handed out                                    0
    broken            a syntax error                                          0
    hostile           a fork bomb, an endless loop, sys.exit, much memory     0

Reported are submissions a minute, the largest memory of a grading process, and how many marks were other
than they had to be. `--kill N` kills the run N times at random moments and starts it again: the marks must be
the same as of a run that was left alone.

`--cluster` grades on a Dask cluster instead, a scheduler and that many worker processes on this machine's
loopback, and `--kill-workers N` kills N of them while they grade; nothing starts them again.

`--page` adds what came out to docs/results/classroom.json, one entry for each lab, number of workers, kind of
executor and machine, and writes docs/classroom.md.
"""

import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import nbformat
import psutil
import typer

from benchmarks.cluster import cluster, end
from benchmarks.mistakes import mistakes
from compresslab.classroom.grading.grade import exercises_of, lab_name
from compresslab.classroom.release import read_solution
from compresslab.longer.stored import machine
from compresslab.writing import write_whole

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "results" / "classroom.json"
PAGE = ROOT / "docs" / "classroom.md"
HOSTILE = (
    "import os\nwhile True: os.fork()",
    "while True: pass",
    "import sys\nsys.exit(0)",
    "x = [bytearray(10**8) for _ in range(10**4)]",
)
KINDS = ("model", "model", "model", "mistake", "mistake", "wrong", "stub", "broken")


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
            exercise_id = id.replace("-", ".", 1)
            cell.source = _source(kinds[id], cell.source, model[id], exercise_id, generator)
    return notebook


def _source(kind: str, stub: str, model: str, id: str, generator: random.Random) -> str:
    if kind == "model":
        return model
    if kind == "broken":
        return model + "\nreturn ("
    if kind == "mistake" and (known := mistakes(id)):
        return generator.choice(known)
    head = next(line for line in stub.splitlines() if line.startswith("def "))
    names = head[head.index("(") + 1 : head.rindex(")")]
    if kind in ("wrong", "mistake"):
        return f"{head}\n    return {names.split(',')[0].split(':')[0].strip()}\n"
    if kind == "hostile":
        body = "\n".join(f"    {line}" for line in generator.choice(HOSTILE).splitlines())
        return f"{head}\n{body}\n"
    return stub


def make_class(
    folder: Path, lab: str, learners: int, seed: int, hostile: float
) -> dict[str, dict[str, str]]:
    """Write the submissions; gives, for each learner, the kind of each answer by exercise id.

    Args:
        folder: where they go.
        lab: the lab's name.
        learners: how many.
        seed: of who does what.
        hostile: the fraction of answers that attack.
    """
    generator = random.Random(seed)

    def kind() -> str:
        return "hostile" if generator.random() < hostile else generator.choice(KINDS)

    made = {}
    for number in range(learners):
        kinds = {e.id.replace(".", "-", 1): kind() for e in exercises_of(lab)}
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
        right = (
            full
            if kind == "model"
            else not full
            if kind in ("wrong", "mistake")
            else mark["points"] == 0
        )
        if not right:
            found.append(f"{mark['learner']}, {mark['exercise']}, {kind}: {mark}")
    if len(results["marks"]) != sum(map(len, made.values())):
        found.append(f"{len(results['marks'])} marks for {sum(map(len, made.values()))} answers")
    return found


def grade(
    folder: Path,
    lab: str,
    out: Path,
    workers: int,
    kill_after: float = float("inf"),
    scheduler: str | None = None,
    others: Sequence[subprocess.Popen] = (),
) -> tuple[bool, int]:
    """Run the command; whether it ended by itself, and the largest memory of one of its processes.

    Args:
        folder: the submissions.
        lab: the lab's name.
        out: where the marks go.
        workers: processes, where there is no scheduler.
        kill_after: seconds after which it is ended.
        scheduler: a Dask scheduler's address.
        others: processes whose memory counts as well.
    """
    command = [sys.executable, "-m", "compresslab.cli", "grade", str(folder), "--lab", lab]
    command += ["--out", str(out), "--seed", "11"]
    command += ["--scheduler", scheduler] if scheduler else ["--workers", str(workers)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        end, most = time.monotonic() + kill_after, 0
        while process.poll() is None and time.monotonic() < end:
            most = max(most, *(_largest(p.pid) for p in (process, *others)))
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


@dataclass(frozen=True)
class Graded:
    """What came out of one class."""

    lab: str
    learners: int
    workers: int
    hostile: int
    """Answers that attack."""
    answers: int
    a_minute: float
    largest: int
    """Bytes of the largest grading process."""
    undeserved: int
    """Points given for answers that deserve none."""
    marked_down: int
    """Model answers without full marks."""
    other: int
    """Marks other than they had to be, of any kind, and missing ones."""
    killed: int
    """How often a second run was ended before it was done."""
    same: bool
    """Whether the marks were the same after that."""
    machine: str
    date: str
    cluster: bool = False
    """Whether the workers were those of a Dask cluster."""
    workers_killed: int = 0
    """Workers that were killed while they graded, and not started again."""

    def place(self) -> tuple[str, int, bool, str]:
        """What one entry is kept for."""
        return self.lab, self.workers, self.cluster, self.machine

    def answers_a_minute(self) -> float:
        """The speed that labs with more exercises and with fewer have in common."""
        return self.a_minute * self.answers / self.learners

    def executor(self) -> str:
        """The workers, in words."""
        killed = f", {self.workers_killed} of them killed" if self.workers_killed else ""
        return f"{self.workers}{' of a Dask cluster' if self.cluster else ''}{killed}"


HEADINGS = (
    "lab | learners | answers, of them attacks | workers | submissions a minute | answers a minute | "
    "largest process, MB | "
    "undeserved points | model answers marked down | marks that cannot be right | killed and resumed | "
    "machine | date"
)


def write_page(entries: list[Graded], page: Path = PAGE) -> None:
    """docs/classroom.md, from what is kept."""
    rows = [
        f"{e.lab} | {e.learners} | {e.answers}, {e.hostile} | {e.executor()} | {e.a_minute:.0f} | "
        f"{e.answers_a_minute():.0f} | "
        f"{e.largest / 2**20:.0f} | {e.undeserved} | {e.marked_down} | {e.other} | "
        f"{f'{e.killed} times: ' + ('the same marks' if e.same else 'other marks') if e.killed else ''} | "
        f"{e.machine} | {e.date}"
        for e in entries
    ]
    lines = [
        "# A class, graded",
        "",
        "Generated by `python -m benchmarks.classroom --page`; not edited by hand. Submissions are made "
        "of model answers, known mistakes and other wrong answers, untouched cells, syntax errors, and "
        "attacks on the grader, so that it is known what each mark may be. The minute is one of the whole "
        "command, its start included.",
        "",
        f"| {HEADINGS} |",
        "|" + "---|" * len(HEADINGS.split("|")),
        *(f"| {row} |" for row in rows),
        "",
    ]
    write_whole(page, lambda path: path.write_text("\n".join(lines), encoding="utf-8"))


def read_entries(path: Path = RECORDS) -> list[Graded]:
    """What is kept of earlier classes."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return [Graded(**entry) for entry in kept]


def keep(entry: Graded) -> None:
    """Keep one, in the place of an earlier one of the same lab, workers and machine, and write the page."""
    others = [e for e in read_entries() if e.place() != entry.place()]
    entries = sorted([*others, entry], key=Graded.place)
    text = "[\n" + ",\n".join(json.dumps(asdict(e)) for e in entries) + "\n]\n"
    write_whole(RECORDS, lambda path: path.write_text(text, encoding="utf-8"))
    write_page(entries)


def main(
    lab: Annotated[str, typer.Option(help="its number or name")] = "00",
    learners: Annotated[int, typer.Option(min=1)] = 200,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    kill: Annotated[int, typer.Option(help="times that the run is killed", min=0)] = 0,
    hostile: Annotated[
        float, typer.Option(help="the fraction of answers that attack", min=0, max=1)
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="of the class")] = 1,
    on_cluster: Annotated[
        bool, typer.Option("--cluster", help="on a Dask cluster of so many workers, on loopback")
    ] = False,
    kill_workers: Annotated[
        int, typer.Option(help="workers of the cluster that are killed while they grade", min=0)
    ] = 0,
    page: Annotated[bool, typer.Option(help="keep it, and write docs/classroom.md")] = False,
) -> None:
    """Make a class, grade it, and hold the marks against what is known of each answer."""
    lab = lab_name(lab)
    if kill_workers and (not on_cluster or kill_workers >= workers):
        raise typer.BadParameter(
            "--kill-workers needs --cluster, and one worker that is left alone"
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "class", Path(scratch) / "marks.csv"
        made = make_class(folder, lab, learners, seed, hostile)
        if on_cluster:
            ended, most, seconds = _on_cluster(folder, lab, out, workers, kill_workers)
        else:
            start = time.perf_counter()
            ended, most = grade(folder, lab, out, workers)
            seconds = time.perf_counter() - start
        if not ended:
            raise typer.Exit(1)
        results = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
        wrong = wrong_marks(results, made)
        for line in wrong[:20]:
            typer.echo(f"    {line}")
        done, same = _killed(folder, lab, Path(scratch), workers, kill, results, seconds)
    kinds = [kind for answers in made.values() for kind in answers.values()]
    marks = [(m, made[m["learner"]][m["exercise"]]) for m in results["marks"]]
    entry = Graded(
        lab=lab[:2],
        learners=learners,
        workers=workers,
        hostile=kinds.count("hostile"),
        answers=len(kinds),
        a_minute=60 * learners / seconds,
        largest=most,
        undeserved=sum(m["points"] for m, kind in marks if kind in ("stub", "broken", "hostile")),
        marked_down=sum(m["points"] < m["out_of"] for m, kind in marks if kind == "model"),
        other=len(wrong),
        killed=done,
        same=same,
        machine=machine(),
        date=datetime.date.today().isoformat(),
        cluster=on_cluster,
        workers_killed=kill_workers,
    )
    typer.echo("\n".join(f"{name}: {value}" for name, value in asdict(entry).items()))
    if page:
        keep(entry)
    if wrong or not same:
        raise typer.Exit(1)


def _on_cluster(
    folder: Path, lab: str, out: Path, workers: int, kill: int
) -> tuple[bool, int, float]:
    """As `grade`, and the seconds; some of the workers are killed, one after another."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        cluster(workers, Path(scratch)) as (where, all_of),
    ):
        # From when each grades: a worker that is killed before that takes no submission along.
        timers = [threading.Timer(30.0 + 20 * i, end, [p]) for i, p in enumerate(all_of[:kill])]
        for timer in timers:
            timer.start()
        start = time.perf_counter()
        try:
            ended, most = grade(folder, lab, out, workers, scheduler=where, others=all_of)
        finally:
            for timer in timers:
                timer.cancel()
        seconds = time.perf_counter() - start
        gone = sum(p.poll() is not None for p in all_of)
        if gone != kill:
            raise RuntimeError(f"{gone} workers ended, not the {kill} that were to be killed")
        return ended, most, seconds


def _killed(
    folder: Path, lab: str, scratch: Path, workers: int, times: int, wanted: dict, seconds: float
) -> tuple[int, bool]:
    """How often the run was killed, at random moments, and whether the marks are the same after the last."""
    if not times:
        return 0, True
    generator, out, done, ended = random.Random(times), scratch / "killed.csv", 0, False
    while done < times and not ended:
        ended, _ = grade(
            folder, lab, out, workers, generator.uniform(3, max(4.0, 2 * seconds / times))
        )
        done += not ended
    if not ended:
        ended, _ = grade(folder, lab, out, workers)
    if not ended:
        return done, False
    found = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    plain = ("learner", "exercise", "points", "status", "mistake")
    return done, [[m[k] for k in plain] for m in found["marks"]] == [
        [m[k] for k in plain] for m in wanted["marks"]
    ]


if __name__ == "__main__":
    typer.run(main)
