"""What the learner has done so far: one small JSON file, exercise id -> latest verdict and best.

Beside the exercises, under `PREDICTIONS`, it holds what was predicted: question -> choice.

It lies in COMPRESSLAB_PROGRESS, else in the user's data folder. Two notebooks may be open at once: a verdict
is added under a lock to what the file holds at that moment. A file that is damaged is put aside under a
name of its own; one that may not be read is left alone. Where nothing can be written, the course works
without memory. In a browser, which has no locks, the last of two pages to write at one moment is kept.
"""

import contextlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from compresslab.writing import named_path, write_whole

if TYPE_CHECKING:
    from compresslab.report import Table

PREDICTIONS = "predictions"
"""The key of what was predicted; no exercise has such an id, for theirs have a dot."""


def progress_file() -> Path:
    """Where progress is kept."""
    override = named_path("COMPRESSLAB_PROGRESS")
    if override:
        return override
    import platformdirs

    return Path(platformdirs.user_data_dir("compresslab")) / "progress.json"


def read() -> dict[str, dict]:
    """Verdicts by exercise id; empty if there are none. A damaged file is renamed and reported."""
    try:
        return _stored(progress_file())
    except OSError:
        return {}


def _stored(path: Path) -> dict[str, dict]:
    """What the file holds; nothing if there is none.

    Raises:
        OSError: if it cannot be read, though it is there.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or not all(isinstance(v, dict) for v in stored.values()):
            raise ValueError("not an object of objects")
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        aside = _unused(path)
        warnings.warn(f"{path} could not be read ({error}); it is now {aside}", stacklevel=3)
        os.replace(path, aside)
        return {}
    return stored


def _unused(path: Path) -> Path:
    """A name beside it under which nothing lies yet."""
    names = (f".damaged{'' if n == 1 else f'-{n}'}.json" for n in itertools.count(1))
    return next(p for name in names if not (p := path.with_suffix(name)).exists())


def record(
    id: str, status: str, mistake: str | None, points: float | None = None, of: float | None = None
) -> None:
    """Remember a verdict, with its points of so many; a pass stays, and so do points."""
    _change(lambda stored: _add(stored.setdefault(id, {}), status, mistake, points, of))


def predict(question: str, choice: str) -> None:
    """Remember what was chosen as the answer to a question."""
    _change(lambda stored: stored.setdefault(PREDICTIONS, {}).update({question: choice}))


def predicted(question: str) -> str | None:
    """What was chosen before; None if nothing was."""
    choice = read().get(PREDICTIONS, {}).get(question)
    return choice if isinstance(choice, str) else None


def _change(change: Callable[[dict[str, dict]], None]) -> None:
    """Change what is stored, under the lock; nothing where it cannot be written."""
    path = progress_file()
    if path.is_dir():
        warnings.warn(f"{path} is a folder, no file: progress is not kept", stacklevel=4)
        return
    with contextlib.suppress(OSError), _locked(path):
        stored = _stored(path)
        change(stored)
        text = json.dumps(stored, indent=1, ensure_ascii=False, sort_keys=True)
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def earned(entry: dict, most: float) -> float:
    """The points of an exercise that gives at most so many, from what is stored of it."""
    points, of = entry.get("points"), entry.get("of")
    if not _is_number(of):
        of = _first_worth(points, bool(entry.get("passed")), most)
    if _is_number(points) and 0 <= points <= of:
        return points * most / of if of else 0
    # Written before points were, or damaged.
    return most if entry.get("passed") else 0


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _first_worth(points: object, passed: bool, most: float) -> float:
    """What an exercise gave when it was not yet said with the points: a build 4 at most, an open one 3."""
    if most <= 4:
        return most
    # All stages of a build are passed together, so that less than 4 with a pass is an open exercise's medal.
    return 3 if passed and _is_number(points) and points <= 3 else 4


def _add(
    entry: dict, status: str, mistake: str | None, points: float | None, of: float | None
) -> None:
    tries = entry.get("tries", 0)
    entry["tries"] = (tries if type(tries) is int else 0) + (status != "not done")
    # A pass from before points were kept has all of them.
    if points is not None and ("points" in entry or not entry.get("passed")):
        before = entry.get("points", 0) if of is None else earned(entry, of)
        entry["points"] = max(before if _is_number(before) else 0, points)
        entry |= {} if of is None else {"of": of}
    entry["passed"] = bool(entry.get("passed")) or status == "passed"
    entry["last"] = mistake or status


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else adds to the file; not waited for longer than a learner would."""
    try:
        import filelock
    except ImportError:  # in a browser, which has no locks
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.with_name(f".{path.name}.lock")
    lock = filelock.FileLock(place, timeout=5)
    try:
        lock.acquire()
    except filelock.Timeout:
        warnings.warn(
            f"{place} is held by another process; progress is written without it", stacklevel=4
        )
        yield
        return
    try:
        yield
    finally:
        lock.release()


def summary() -> "Table":
    """Every exercise of the course with its verdict and points."""
    from compresslab.classroom.exercises import EXERCISES
    from compresslab.report import Table

    stored = read()
    rows, together = [], 0.0
    for exercise in EXERCISES.values():
        entry = stored.get(exercise.id, {})
        points = earned(entry, exercise.points)
        together += points
        state = "passed" if entry.get("passed") else entry.get("last", "not done")
        points = f"{points:g} / {exercise.points}"
        rows.append([exercise.id, exercise.title, str(state), str(entry.get("tries", 0)), points])
    total = sum(e.points for e in EXERCISES.values())
    headings = ["exercise", "what", "state", "tries", "points"]
    return Table(headings, rows, f"{together:g} of {total} points")
