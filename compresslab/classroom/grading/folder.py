"""A class's submissions, graded by any executor, written as CSV and JSON.

Each learner's record is written the moment it is there, whole or not at all, into a folder beside the
CSV. A run that was interrupted goes on where it stopped: a record is believed if it is of the same
notebook (by the hash of what was graded), lab, seed and version. The seed of a run stands in `run.json`
there, and is drawn anew only with a new folder of records or when one is asked for; grading twice gives the
same marks.

    marks.csv   marks.json          what the teacher gets
    marks.csv.records/run.json      the lab and the seed
    marks.csv.records/HASH.json     a learner's marks
    marks.csv.records/notebooks/    what came out of zip files (`collect`)

Submissions go through a `concurrent.futures.Executor`: processes here, or a Dask cluster's
(`distributed.Client(...).get_executor()`). One whose worker dies is tried once more, then marked as lost.
"""

import csv
import hashlib
import json
import multiprocessing
import os
import re
import secrets
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from tqdm.auto import tqdm

from compresslab.classroom.grading import collect, submission
from compresslab.classroom.grading.grade import exercises_of, grade_submission, lab_name
from compresslab.classroom.grading.mark import Mark
from compresslab.classroom.grading.sandbox import Limits, SandboxError, printable
from compresslab.writing import write_whole

FORMULAS = frozenset("=+-@")
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
    remark: str = ""


def grade(job: Job) -> dict:
    """Grade one submission: what an executor runs.

    Returns:
        "notebook", the hash of what was graded (the file may change meanwhile), and "marks", plain
        dictionaries.
    """
    exercises = exercises_of(job.lab)
    try:
        content = submission.content(Path(job.path))
        found = submission.of_bytes(content, job.learner, {e.id for e in exercises})
    except (OSError, ValueError):
        content = b""
        found = submission.read(Path(job.path), job.learner, set())  # says why
    marks = grade_submission(found, exercises, job.seed, job.unsandboxed, job.limits)
    if job.remark:
        marks = [replace(m, message=_joined(job.remark, m.message)) for m in marks]
    return {"notebook": _hash(content), "marks": [mark.as_dict() for mark in marks]}


def _joined(*texts: str) -> str:
    return printable("; ".join(text for text in texts if text))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if content else ""


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
        folder: a folder of submissions, or a zip file of one; see `collect`.
        lab: its number or name.
        out: the CSV's path.
        executor: runs `grade`.
        seed: of the cases; None: the one of the records that are there, or a new one.
        unsandboxed: allow grading without bubblewrap.
        limits: for each exercise.
        progress: whether to show a bar.

    Raises:
        FileNotFoundError: if there is nothing to grade.
        ValueError: if there is no such lab, or the records beside OUT are another lab's, another class's or
            broken.
        SandboxError: if there is no sandbox, and none is not allowed.
    """
    lab, out = lab_name(lab), Path(out)
    records = out.with_name(f"{out.name}.records")
    _refuse_other_results(out)
    about = _run(records, lab, seed)
    found = collect.submissions(folder, lab, records / "notebooks")
    _refuse_another_class(records, found)
    _write_text(records / "run.json", json.dumps(about))
    options = (lab, about["seed"], unsandboxed, limits or Limits())
    jobs = {who: Job(who, str(f.path), *options, f.remark) for who, f in found.items()}
    marks = {name: m for name, job in jobs.items() if (m := _known(records, job)) is not None}
    waiting = [job for name, job in jobs.items() if name not in marks]
    with tqdm(total=len(jobs), initial=len(marks), desc="grading", disable=not progress) as bar:
        for job, result in _graded(waiting, executor):
            marks[job.learner] = [Mark(**mark) for mark in result["marks"]]
            _remember(records, job, result)
            bar.update()
    rows = [mark for name in jobs for mark in marks[name]]
    _write(rows, out, about)
    return rows


def _graded(jobs: Sequence[Job], executor: Executor) -> Iterator[tuple[Job, dict]]:
    tries = dict.fromkeys(jobs, 1)
    waiting: dict[Future, Job] = {executor.submit(grade, job): job for job in jobs}
    while waiting:
        for future in as_completed(list(waiting)):
            job = waiting.pop(future)
            try:
                yield job, future.result()
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


def _one_by_one(jobs: Sequence[Job]) -> Iterator[tuple[Job, dict]]:
    """Each in a process of its own, so that one that dies takes nobody along."""
    spawn = multiprocessing.get_context("spawn")
    for job in jobs:
        with ProcessPoolExecutor(1, mp_context=spawn) as alone:
            try:
                yield job, alone.submit(grade, job).result()
            except SandboxError:
                raise
            except Exception as error:
                yield job, _lost(job, error)


def _lost(job: Job, error: Exception) -> dict:
    why = f"grading failed {TRIES} times, look at it by hand: {type(error).__name__}: {error}"
    blank = Mark(job.learner, "", 0.0, 0, status="lost", message=printable(why, 300))
    marks = [replace(blank, exercise=e.id, out_of=e.points) for e in exercises_of(job.lab)]
    return {"notebook": "", "marks": [mark.as_dict() for mark in marks]}


# ---- records -------------------------------------------------------------------------------------
def _run(records: Path, lab: str, seed: int | None) -> dict:
    """What the run is: the seed that is asked for, or the one that was, or a new one.

    Raises:
        ValueError: if what is there is broken, or of another lab, whose marks would be overwritten.
    """
    path = records / "run.json"
    before = _read_run(path) if path.is_file() else {}
    if before and before["lab"] != lab:
        raise ValueError(
            f"{records} holds the marks of lab {before['lab']}, not {lab}: give another --out, or delete it"
        )
    if seed is None:
        seed = before["seed"] if before else secrets.randbelow(2**31)
    return {"lab": lab, "seed": seed, "version": version("compresslab")}


def _read_run(path: Path) -> dict:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        return {"lab": lab_name(before["lab"]), "seed": int(before["seed"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is broken ({error}): delete its folder to grade anew, with another seed"
        ) from error


def _stamp(job: Job, notebook: str) -> dict:
    """What marks depend on."""
    return {
        "learner": job.learner,
        "notebook": notebook,
        "lab": job.lab,
        "seed": job.seed,
        "version": version("compresslab"),
        "unsandboxed": job.unsandboxed,
        "remark": job.remark,
    }


def _refuse_another_class(records: Path, found: Mapping[str, object]) -> None:
    """Marks of learners of whom none is there any more would be gone from the table.

    Raises:
        ValueError: if there are such marks, and no others.
    """
    names = set()
    for path in records.glob("*.json"):
        try:
            stamp = json.loads(path.read_text(encoding="utf-8")).get("stamp")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(stamp, dict) and isinstance(stamp.get("learner"), str):
            names.add(stamp["learner"])
    if names and not names & set(found):
        raise ValueError(
            f"{records} holds the marks of another class ({printable(min(names), 40)} and so on): give "
            "another --out, or delete it"
        )


def _record(records: Path, learner: str) -> Path:
    # A name may hold anything that a folder's name can; two that differ in case are two.
    return records / f"{hashlib.sha256(os.fsencode(learner)).hexdigest()[:24]}.json"


def _known(records: Path, job: Job) -> list[Mark] | None:
    """The marks that are recorded; None if there are none, or not of this notebook."""
    path = _record(records, job.learner)
    if not path.is_file():
        return None
    try:
        notebook = _hash(submission.content(Path(job.path)))
    except (OSError, ValueError):
        notebook = ""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["stamp"] == _stamp(job, notebook):
            marks = [Mark(**mark) for mark in record["marks"]]
            return None if any(mark.status == "lost" for mark in marks) else marks
    except (OSError, ValueError, KeyError, TypeError) as error:
        about = f"{path}, the record of {job.learner!r}, is broken ({error}): graded anew"
        warnings.warn(about, stacklevel=2)
    return None


def _remember(records: Path, job: Job, result: dict) -> None:
    content = {"stamp": _stamp(job, result["notebook"]), "marks": result["marks"]}
    _write_text(_record(records, job.learner), json.dumps(content, ensure_ascii=False))


def _beside(out: Path) -> Path:
    """Where the same goes as JSON. Never the CSV itself: "marks.11" and "marks.12" are two runs."""
    return out.with_suffix(".json") if out.suffix == ".csv" else out.with_name(f"{out.name}.json")


def _refuse_other_results(out: Path) -> None:
    """What is there already must be of a run with this very name.

    Raises:
        ValueError: if writing would replace another run's results, or a file that is none.
    """
    beside, another = _beside(out), "give another --out, or delete it"
    for place in (out, beside):
        if place.is_dir():
            raise ValueError(
                f"{place} is a folder: give --out the name of a file, {place / 'marks.csv'} say"
            )
    head = out.read_bytes()[:1000].removeprefix(b"\xef\xbb\xbf") if out.is_file() else b""
    if out.is_file() and re.split(rb"[,;\t\r\n]", head)[: len(COLUMNS)] != [
        c.encode() for c in COLUMNS
    ]:
        raise ValueError(f"{out} is there and is no table of marks: {another}")
    if beside.is_file():
        try:
            table = json.loads(beside.read_text(encoding="utf-8"))["run"].get("table", out.name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{beside} is there and holds no marks: {another}") from error
        if table != out.name:
            raise ValueError(f"{beside} holds the marks of {table}, not of {out.name}: {another}")


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
                writer.writerow([harmless(row[column]) for column in COLUMNS])

    write_whole(out, table)
    content = {"run": about | {"table": out.name}, "marks": [mark.as_dict() for mark in marks]}
    _write_text(_beside(out), json.dumps(content, indent=1, ensure_ascii=False))


def harmless(cell: object) -> object:
    """Text that a spreadsheet would take for a formula, made text; also behind blanks, or in wide signs.

    What begins with the sign that is put before a formula gets one more, so that `as_typed` finds it again.
    """
    return f"'{cell}" if isinstance(cell, str) and _is_formula(cell.lstrip("'")) else cell


def as_typed(cell: str) -> str:
    """What `harmless` was given."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell.lstrip("'")) else cell


def _is_formula(text: str) -> bool:
    visible = (c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Zs", "Zl", "Zp"))
    first = unicodedata.normalize("NFKC", next(visible, ""))
    # A tab or a line's end at the beginning opens a field of its own in some programs.
    return first in FORMULAS or text.startswith(("\t", "\r", "\n"))
