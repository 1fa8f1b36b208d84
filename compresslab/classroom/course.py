"""The course as a whole: its labs in order, what each builds on, how long it takes, what is done of it.

All of it is read from the labs themselves (title, objectives, time, exercises), but for what builds on what.
The map draws that: from left to right what comes later, from top to bottom the families of techniques.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from compresslab import alternative_text, shown_words
from compresslab.classroom import progress
from compresslab.classroom.exercises import EXERCISES, of_grade_id
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
}
"""Which labs a lab builds on, by their numbers; whatever is not named can be left for later."""

GRID = (
    ("", "01", "02", "03", "10"),
    ("", "06", "", "11", "13"),
    ("00", "04", "05", "", "12"),
    ("", "08", "09", "", "14"),
    ("", "07", "", "", ""),
)
PLACES = {lab: (x, y) for y, row in enumerate(GRID) for x, lab in enumerate(row) if lab}
"""Column and row of each lab on the map."""
NOT_BEGUN, BEGUN, DONE = "#FFFFFF", "#FCE3B4", "#A6D8C7"


@dataclass(frozen=True)
class LabPage:
    """One lab: number, title, file, text of all cells, minutes to work through, exercises' ids."""

    number: str
    title: str
    file: str
    text: str
    goal: str
    minutes: int
    exercises: tuple[str, ...]

    @property
    def points(self) -> float:
        """What its exercises give."""
        return sum(EXERCISES[id].points for id in self.exercises)

    def earned(self, stored: Mapping[str, dict]) -> float:
        """Points of its exercises so far.

        Args:
            stored: verdicts by exercise id, as `progress.read` gives them.
        """
        return sum(progress.earned(id, stored.get(id, {})) for id in self.exercises)


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
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells)
    found = next((f for form in FORMS if (f := re.search(form, text, re.DOTALL))), None)
    if not found:
        raise ValueError(f"{path.name} must begin with title, **You will** and **Time:**, does not")
    number, title, goal, minutes = found.groups()
    ids = [cell.metadata.get("nbgrader", {}).get("grade_id", "") for cell in cells]
    exercises = tuple(of_grade_id(i).id for i in ids if of_grade_id(i) and not i.endswith("-check"))
    goal = " ".join(goal.split())
    return LabPage(number, title, path.name, text, goal, int(minutes), exercises)


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


class CourseMap:
    """Where the learner is: a picture of the labs, and what to do next."""

    def __init__(self, folder: Path = Path()) -> None:
        """Args: the folder of the labs; progress is read when the map is shown."""
        self.labs = read_labs(folder, strict=False)
        if not self.labs:
            raise ValueError(f"folder must hold the labs, found none in {Path(folder).resolve()}")

    def figure(self) -> Figure:
        """A box a lab, coloured by what is done; arrows say what builds on what."""
        shown_words.speak()
        alternative_text.carry()
        stored = progress.read()
        figure = plt.figure(figsize=(11, 4.4), layout="none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-0.5, 4.5), ylim=(4.5, -0.5))
        axes.axis("off")
        axes.grid(False)
        for number, sources in NEEDS.items():
            for source in filter(lambda s, n=number: _neighbours(s, n), sources):
                _arrow(axes, PLACES[source], PLACES[number])
        for lab in self.labs:
            _box(axes, lab, lab.earned(stored))
        return figure

    def next_step(self) -> str:
        """The first lab with something left to do, as a sentence."""
        stored = progress.read()
        for lab in self.labs:
            earned = lab.earned(stored)
            if earned < lab.points:
                how = translated("Go on with") if earned else translated("Next:")
                points = f"{earned:g} of {lab.points:g}"
                left = translated(f"{points} points so far, {lab.minutes} minutes in all")
                return translated(f"{how} lab {lab.number}, {lab.title} ({left}).")
        return translated("Everything is done. Lab 12's project has no end.")

    def show(self) -> None:
        """Draw the map, and say what is next."""
        self.figure()
        plt.show()
        shown_words.say(self.next_step())


def _neighbours(source: str, number: str) -> bool:
    """Whether an arrow between two labs crosses no third one."""
    (x0, y0), (x1, y1) = PLACES[source], PLACES[number]
    return x1 == x0 + 1 and (x0 == 0 or y0 == y1)


def _arrow(axes: plt.Axes, start: tuple[int, int], end: tuple[int, int]) -> None:
    axes.annotate(
        "",
        xy=(end[0] - 0.44, end[1]),
        xytext=(start[0] + 0.44, start[1]),
        arrowprops={"arrowstyle": "-|>", "color": "0.45", "connectionstyle": "arc3,rad=0.08"},
    )


def _box(axes: plt.Axes, lab: LabPage, earned: float) -> None:
    x, y = PLACES[lab.number]
    colour = DONE if earned >= lab.points else BEGUN if earned else NOT_BEGUN
    axes.add_patch(
        FancyBboxPatch(
            (x - 0.43, y - 0.36),
            0.86,
            0.72,
            boxstyle="round,pad=0.01,rounding_size=0.05",
            facecolor=colour,
            edgecolor="0.3",
        )
    )
    sign = "✓ " if earned >= lab.points else ""
    drawn = lab.title.isascii() or shown_words.draws()
    title = _broken(f"{lab.number} {lab.title}") if drawn else lab.number
    axes.text(x, y - 0.08, title, ha="center", va="center", fontsize=8.5)
    far = [s for s in NEEDS.get(lab.number, ()) if not _neighbours(s, lab.number)]
    if far:
        text = translated(f"needs {', '.join(far)}")
        axes.text(x - 0.43, y - 0.4, text, ha="left", va="bottom", fontsize=7.5, color="0.3")
    state = f"{sign}{earned:g} of {lab.points:g} points"
    axes.text(x, y + 0.26, f"{state} · {lab.minutes} min", ha="center", va="center", fontsize=7)


def _broken(title: str, width: int = 24) -> str:
    """A title in at most two lines."""
    if len(title) <= width:
        return title
    cut = title.rfind(" ", 0, width)
    return f"{title[:cut]}\n{title[cut + 1 :]}"
