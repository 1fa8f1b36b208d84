"""The course as a whole: its labs in order, what each builds on, how long it takes, what is done of it.

All of it but what builds on what is read from the labs themselves: title, objectives, time, exercises with
their points. Neither torch nor the exercises are imported: the start page is made before they are needed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from compresslab.classroom import progress
from compresslab.language import translated

NEEDS = {
    "01": ("00",),
    "02": ("01",),
    "03": ("02",),
    "04": ("00",),
    "05": ("04",),
    "06": ("00",),
    "07": ("00",),
    "08": ("00",),
    "09": ("08",),
    "10": ("03",),
    "11": ("02", "06"),
    "12": ("03", "04", "08"),
    "13": ("02", "11"),
    "14": ("02", "04", "08"),
    "15": ("11",),
}
"""Which labs a lab builds on, by their numbers; whatever is not named can be left for later."""

GRID = (
    ("", "01", "02", "03", "10"),
    ("", "06", "", "11", "13"),
    ("00", "04", "05", "", "12"),
    ("", "08", "09", "", "14"),
    ("", "07", "", "", "15"),
)
PLACES = {lab: (x, y) for y, row in enumerate(GRID) for x, lab in enumerate(row) if lab}
"""Column and row of each lab on the map."""


@dataclass(frozen=True)
class LabPage:
    """One lab: number, title, file, text of all cells, minutes to work through, exercises' ids and points."""

    number: str
    title: str
    file: str
    text: str
    goal: str
    minutes: int
    exercises: Mapping[str, float]

    @property
    def points(self) -> float:
        """What its exercises give."""
        return sum(self.exercises.values())

    def earned(self, stored: Mapping[str, dict]) -> float:
        """Points of its exercises so far.

        Args:
            stored: verdicts by exercise id, as `progress.read` gives them.
        """
        return sum(progress.earned(stored.get(id, {}), most) for id, most in self.exercises.items())


FORMS = (
    r"# Lab (\d\d) · (.+?)\n.*?\*\*You will\*\* (.+?)\.?\n\*\*Time:\*\* (\d+) minutes",
    r"# 实验 (\d\d) · (.+?)\n.*?\*\*你将\*\* ?(.+?)。?\s*\*\*时间：\*\* 学完约需 (\d+) 分钟",
)
"""How a lab begins, in English and in Chinese."""


def read_labs(folder: Path, strict: bool = True) -> list[LabPage]:
    """The labs of a folder, in order.

    Args:
        folder: where they are.
        strict: whether a notebook that has a lab's name and is none is an error; else it is passed over, and
            so are copies: a learner may keep anything beside the labs.

    Raises:
        ValueError: for a lab whose first cell lacks title, objectives or time.
    """
    paths = sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"), key=lambda p: (len(p.name), p.name))
    labs: dict[str, LabPage] = {}
    for path in paths:
        try:
            lab = _read(path)
        except (ValueError, AttributeError):  # nbformat's own errors are ValueErrors, too
            if strict:
                raise
            continue
        if strict or lab.number in PLACES:
            labs.setdefault(lab.number, lab)
    return [labs[number] for number in sorted(labs)]


def _read(path: Path) -> LabPage:
    import nbformat  # its validator takes seconds to load, and every lab's exercises come by this module

    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells)
    found = next((f for form in FORMS if (f := re.search(form, text, re.DOTALL))), None)
    if not found:
        raise ValueError(f"{path.name} must begin with title, **You will** and **Time:**, does not")
    number, title, goal, minutes = found.groups()
    grades = [cell.metadata.get("nbgrader", {}) for cell in cells if cell.cell_type == "code"]
    exercises = {
        id_of(grade["grade_id"]): grade.get("points", 0)
        for grade in grades
        if grade.get("grade_id", "").endswith("-check")
    }
    goal = " ".join(goal.split())
    return LabPage(number, title, path.name, text, goal, int(minutes), exercises)


def id_of(grade_id: str) -> str:
    """An exercise's id: nbgrader's have a hyphen where ours have a dot, and a check's ends in `-check`."""
    return grade_id.removesuffix("-check").replace("-", ".", 1)


# ---- as people see it ----------------------------------------------------------------------------
def labs_table(labs: Sequence[LabPage], language: str | None = None) -> str:
    """Markdown: number, linked title, what one does there, minutes, points; None: the reader's language."""
    said = partial(translated, language=language)
    headings = [said(h) for h in ("lab", "you will", "minutes", "points to earn")]
    lines = [f"| | {' | '.join(headings)} |", "|---|---|---|---:|---:|"]
    for lab in labs:
        cells = [
            lab.number,
            f"[{lab.title}]({lab.file})",
            lab.goal,
            str(lab.minutes),
            f"{lab.points:g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    hours = sum(lab.minutes for lab in labs) / 60
    points = sum(lab.points for lab in labs)
    total, time = said("all of it"), said(f"{hours:.0f} hours")
    return "\n".join([*lines, f"| | {total} | | {time} | {points:g} |"])


def name_of_map() -> str:
    """What the map is called, for readers who do not see it."""
    return translated("The labs, and what each builds on")


def state(lab: LabPage, earned: float) -> str:
    """What is done of a lab, and how long it takes."""
    points = translated(f"{earned:g} of {lab.points:g} points")
    return f"{points} · {lab.minutes} min"


def needs(lab: LabPage) -> str:
    """What a lab builds on; "" if on nothing."""
    others = ", ".join(NEEDS.get(lab.number, ()))
    return translated(f"needs {others}") if others else ""


def next_step(labs: Sequence[LabPage], stored: Mapping[str, dict]) -> str:
    """The first lab with something left to do, as a sentence."""
    for lab in labs:
        earned = lab.earned(stored)
        if earned < lab.points:
            how = translated("Go on with") if earned else translated("Next:")
            points = f"{earned:g} of {lab.points:g}"
            left = translated(f"{points} points so far, {lab.minutes} minutes in all")
            return translated(f"{how} lab {lab.number}, {lab.title} ({left}).")
    return translated("Everything is done. Lab 12's project has no end.")
