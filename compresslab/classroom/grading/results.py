"""The results of a grading run, as `grade` has written them beside its CSV."""

import json
from dataclasses import dataclass
from pathlib import Path

from compresslab.classroom.exercises import EXERCISES
from compresslab.classroom.grading.grade import lab_name
from compresslab.classroom.grading.mark import Mark


@dataclass(frozen=True)
class Results:
    """What a grading run has found: the lab, the seed, and everybody's marks in the order of the class."""

    lab: str
    seed: int
    marks: tuple[Mark, ...]

    @property
    def title(self) -> str:
        """The lab as a heading."""
        number, _, words = self.lab.partition("_")
        return f"Lab {number}: {words.replace('_', ' ')}"

    @property
    def learners(self) -> dict[str, list[Mark]]:
        """The marks of each learner."""
        found: dict[str, list[Mark]] = {}
        for mark in self.marks:
            found.setdefault(mark.learner, []).append(mark)
        return found


def read_results(path: Path) -> Results:
    """The JSON that grading wrote beside its CSV.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is something else, with its name.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        run, marks = content["run"], tuple(Mark(**mark) for mark in content["marks"])
        unknown = {m.exercise for m in marks} - EXERCISES.keys()
        if unknown:
            raise ValueError(f"there is no exercise {sorted(unknown)[0]!r}")
        return Results(lab_name(run["lab"]), int(run["seed"]), marks)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result of grading: {error}") from error
