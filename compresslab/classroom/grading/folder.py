"""A class's submissions: found in a folder, graded by any executor, written as CSV and JSON.

    FOLDER/alice/12_capstone.ipynb      a folder a learner, or
    FOLDER/bob.ipynb                    a file a learner

Each learner's record is written the moment it is there, whole or not at all, into a folder beside the
CSV. A run that was interrupted goes on where it stopped: a record is believed if it is of the same
notebook (by its hash), lab, seed and version. The seed of a run stands in `run.json` there, and is drawn
anew only with a new folder of records or when one is asked for; grading twice gives the same marks.

Submissions go through a `concurrent.futures.Executor`: processes here, or a Dask cluster's
(`distributed.Client(...).get_executor()`). One whose worker dies is tried once more, then marked as lost.
"""

import csv
import hashlib
import json
import multiprocessing
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tqdm.auto import tqdm

from compresslab.classroom.grading import submission
from compresslab.classroom.grading.grade import Mark, exercises_of, grade_notebook
from compresslab.classroom.grading.sandbox import Limits, SandboxError, printable
from compresslab.data.files import write_whole

COLUMNS = (
    "learner",
    "exercise",
    "points",
    "out_of",
    "mistake",
    "status",
    "message",
    "seconds",
    "memory",
)
TRIES = 2


@dataclass(frozen=True)
class Job:
    """One submission to be graded."""

    learner: str
    path: str
    lab: str
    seed: int
    unsandboxed: bool
    limits: Limits


def submissions(folder: Path, lab: str) -> dict[str, Path]:
    """The notebooks of a lab by learner, in the order of their names.

    In a learner's own folder the notebook named like the lab counts, else the only one there. A folder with
    none, or with several that could be meant, is a submission that is missing: it gets its rows.

    Raises:
        FileNotFoundError: if there is no such folder, or nothing in it.
        ValueError: if a learner has a folder and a notebook beside it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    found: dict[str, Path] = {}
    for learner, path in _found(folder, lab):
        if learner in found:
            raise ValueError(f"two submissions of learner {learner!r}: {found[learner]} and {path}")
        found[learner] = path
    if not found:
        raise FileNotFoundError(f"no notebook of lab {lab!r} in {folder}")
    return found


def _found(folder: Path, lab: str) -> Iterator[tuple[str, Path]]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.suffix == ".ipynb" and not entry.is_dir():
            yield printable(entry.stem, 200), entry
        elif entry.is_dir():
            yield printable(entry.name, 200), _of_learner(entry, lab)


def _of_learner(folder: Path, lab: str) -> Path:
    """The notebook that counts; if none does, a path that is not there and will be reported as missing."""
    notebooks = [] if folder.is_symlink() else sorted(folder.rglob("*.ipynb"))
    notebooks = [p for p in notebooks if ".ipynb_checkpoints" not in p.parts]
    named = [p for p in notebooks if p.stem.startswith(lab[:2])]
    # "12_capstone" before "12_capstone (1)".
    named.sort(key=lambda p: (p.stem != lab, len(p.stem), p))
    if named or len(notebooks) == 1:
        return (named or notebooks)[0]
    return folder / f"one notebook of lab {lab} among {len(notebooks)}.ipynb"


def grade(job: Job) -> list[dict]:
    """Grade one submission: what an executor runs, with plain dictionaries as a result."""
    marks = grade_notebook(
        Path(job.path), job.learner, job.lab, job.seed, job.unsandboxed, job.limits
    )
    return [mark.as_dict() for mark in marks]


def grade_folder(
    folder: Path,
    lab: str,
    out: Path,
    executor: Executor,
    seed: int | None = None,
    unsandboxed: bool = False,
    limits: Limits | None = None,
    progress: bool = True,
) -> list[Mark]:
    """Grade a class; writes OUT (CSV) and, beside it, the same as JSON and the records.

    Args:
        folder: as in `submissions`.
        lab: its number or name.
        out: the CSV's path.
        executor: runs `grade`.
        seed: of the cases; None: the one of the records that are there, or a new one.
        unsandboxed: allow grading without bubblewrap.
        limits: for each exercise.
        progress: whether to show a bar.

    Raises:
        FileNotFoundError: if there is nothing to grade.
        ValueError: if there is no such lab.
        SandboxError: if there is no sandbox, and none is not allowed.
    """
    exercises_of(lab)
    out, found = Path(out), submissions(folder, lab)
    records = out.with_suffix(".records")
    about = _run(records, lab, seed)
    jobs = {
        learner: Job(learner, str(path), lab, about["seed"], unsandboxed, limits or Limits())
        for learner, path in found.items()
    }
    marks = {name: m for name, job in jobs.items() if (m := _known(records, job)) is not None}
    waiting = [job for name, job in jobs.items() if name not in marks]
    with tqdm(total=len(jobs), initial=len(marks), desc="grading", disable=not progress) as bar:
        for job, found_marks in _graded(waiting, executor):
            marks[job.learner] = found_marks
            _remember(records, job, found_marks)
            bar.update()
    rows = [mark for name in jobs for mark in marks[name]]
    _write(rows, out, about)
    return rows


def _graded(jobs: Sequence[Job], executor: Executor) -> Iterator[tuple[Job, list[Mark]]]:
    tries = dict.fromkeys(jobs, 1)
    waiting: dict[Future, Job] = {executor.submit(grade, job): job for job in jobs}
    while waiting:
        for future in as_completed(list(waiting)):
            job = waiting.pop(future)
            try:
                yield job, [Mark(**mark) for mark in future.result()]
            except SandboxError:
                for other in waiting:
                    other.cancel()
                raise
            except BrokenExecutor:
                # A judging process died and took the pool with it; nobody knows whose submission it was.
                yield from _one_by_one([job, *waiting.values()])
                return
            # A worker may die in ways of its own: no submission ends the batch.
            except Exception as error:
                if tries[job] < TRIES:
                    tries[job] += 1
                    waiting[executor.submit(grade, job)] = job
                else:
                    yield job, _lost(job, error)


def _one_by_one(jobs: Sequence[Job]) -> Iterator[tuple[Job, list[Mark]]]:
    """Each in a process of its own, so that one that dies takes nobody along."""
    spawn = multiprocessing.get_context("spawn")
    for job in jobs:
        with ProcessPoolExecutor(1, mp_context=spawn) as alone:
            try:
                yield job, [Mark(**mark) for mark in alone.submit(grade, job).result()]
            except SandboxError:
                raise
            except Exception as error:
                yield job, _lost(job, error)


def _lost(job: Job, error: Exception) -> list[Mark]:
    why = f"grading failed {TRIES} times, look at it by hand: {type(error).__name__}: {error}"
    return [
        Mark(job.learner, e.id, 0.0, e.points, status="lost", message=printable(why, 300))
        for e in exercises_of(job.lab)
    ]


# ---- records -------------------------------------------------------------------------------------
def _run(records: Path, lab: str, seed: int | None) -> dict:
    """What the run is: the seed that is asked for, or the one that was, or a new one."""
    path = records / "run.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if seed is None:
        seed = before["seed"] if before.get("lab") == lab else secrets.randbelow(2**31)
    about = {"lab": lab, "seed": seed, "version": version("compresslab")}
    _write_text(path, json.dumps(about))
    return about


def _stamp(job: Job) -> dict:
    """What marks depend on."""
    try:
        content = hashlib.sha256(submission.content(Path(job.path))).hexdigest()
    except (OSError, ValueError):
        content = ""
    return {
        "learner": job.learner,
        "notebook": content,
        "lab": job.lab,
        "seed": job.seed,
        "version": version("compresslab"),
        "unsandboxed": job.unsandboxed,
    }


def _record(records: Path, learner: str) -> Path:
    # A name may hold anything that a folder's name can; two that differ in case are two.
    return records / f"{hashlib.sha256(os.fsencode(learner)).hexdigest()[:24]}.json"


def _known(records: Path, job: Job) -> list[Mark] | None:
    try:
        record = json.loads(_record(records, job.learner).read_text(encoding="utf-8"))
        if record["stamp"] == _stamp(job) and all(m["status"] != "lost" for m in record["marks"]):
            return [Mark(**mark) for mark in record["marks"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _remember(records: Path, job: Job, marks: Sequence[Mark]) -> None:
    content = {"stamp": _stamp(job), "marks": [mark.as_dict() for mark in marks]}
    _write_text(_record(records, job.learner), json.dumps(content, ensure_ascii=False))


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


# ---- what the teacher gets -----------------------------------------------------------------------
def _write(marks: Sequence[Mark], out: Path, about: dict) -> None:
    def table(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for mark in marks:
                row = mark.as_dict()
                writer.writerow([_harmless(row[column]) for column in COLUMNS])

    write_whole(out, table)
    content = {"run": about, "marks": [mark.as_dict() for mark in marks]}
    _write_text(out.with_suffix(".json"), json.dumps(content, indent=1, ensure_ascii=False))


def _harmless(cell: object) -> object:
    """Text that a spreadsheet would take for a formula, made text."""
    is_formula = isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{cell}" if is_formula else cell
