"""What the learner has done so far: one small JSON file, exercise id -> latest verdict and best.

It lies in COMPRESSLAB_PROGRESS, else in the user's data folder. A file that cannot be read is put aside
under another name, never overwritten; where nothing can be written, the course works without memory.
"""

import json
import os
import warnings
from pathlib import Path

import platformdirs

from compresslab.classroom.exercises import EXERCISES
from compresslab.data.files import write_whole
from compresslab.report import Table


def progress_file() -> Path:
    """Where progress is kept."""
    override = os.environ.get("COMPRESSLAB_PROGRESS")
    if override:
        return Path(override)
    return Path(platformdirs.user_data_dir("compresslab")) / "progress.json"


def read() -> dict[str, dict]:
    """Verdicts by exercise id; empty if there are none. A damaged file is renamed and reported."""
    path = progress_file()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or not all(isinstance(v, dict) for v in stored.values()):
            raise ValueError("not an object of objects")
    except FileNotFoundError:
        return {}
    except OSError:
        return {}
    except ValueError as error:
        aside = path.with_suffix(".damaged.json")
        warnings.warn(f"{path} could not be read ({error}); it is now {aside}", stacklevel=2)
        os.replace(path, aside)
        return {}
    return stored


def record(id: str, status: str, mistake: str | None) -> None:
    """Remember a verdict; once passed, an exercise stays passed."""
    stored = read()
    entry = stored.setdefault(id, {"tries": 0, "passed": False})
    if status != "not done":
        entry["tries"] = int(entry.get("tries", 0)) + 1
    entry["passed"] = bool(entry.get("passed")) or status == "passed"
    entry["last"] = mistake or status
    text = json.dumps(stored, indent=1, ensure_ascii=False, sort_keys=True)
    try:
        write_whole(progress_file(), lambda path: path.write_text(text, encoding="utf-8"))
    except OSError:
        return


def summary() -> Table:
    """Every exercise of the course with its verdict and points."""
    stored = read()
    rows, earned = [], 0
    for exercise in EXERCISES.values():
        entry = stored.get(exercise.id, {})
        done = bool(entry.get("passed"))
        earned += exercise.points * done
        state = "passed" if done else entry.get("last", "not done")
        points = f"{exercise.points * done} / {exercise.points}"
        rows.append([exercise.id, exercise.title, str(state), str(entry.get("tries", 0)), points])
    total = sum(e.points for e in EXERCISES.values())
    headings = ["exercise", "what", "state", "tries", "points"]
    return Table(headings, rows, f"{earned} of {total} points")
