"""Where the learner is: the labs as boxes that lead to them, what builds on what, and what to do next.

From left to right what comes later, from top to bottom the families of techniques. The map is HTML with
links, and an SVG behind it that draws the arrows; where that is not shown, each box names what it needs.
"""

import html
from pathlib import Path

from compresslab.classroom import progress
from compresslab.classroom.course import (
    GRID,
    NEEDS,
    PLACES,
    LabPage,
    name_of_map,
    needs,
    next_step,
    read_labs,
    state,
)
from compresslab.notice import in_notebook

NOT_BEGUN, BEGUN, DONE = "#FFFFFF", "#FCE3B4", "#A6D8C7"
WIDTH, HEIGHT = 0.43, 0.36
"""Half of a box, where the next one is 1 away."""
BOX = (
    "display:block;border:1px solid #555;border-radius:8px;padding:6px 8px;color:#222;text-decoration:none;"
    "line-height:1.35;font-size:14px;position:relative"
)


class CourseMap:
    """The labs of a folder, and what of them is done; shown by a notebook as its last value."""

    def __init__(self, folder: Path = Path()) -> None:
        """Args: the folder of the labs; progress is read when the map is shown."""
        self.labs = read_labs(folder, strict=False)
        if not self.labs:
            raise ValueError(f"folder must hold the labs, found none in {Path(folder).resolve()}")

    def next_step(self) -> str:
        """The first lab with something left to do, as a sentence."""
        return next_step(self.labs, progress.read())

    def show(self) -> None:
        """Show the map, and say what is next."""
        if in_notebook():
            from IPython.display import display

            display(self)
        else:
            print(self.next_step())

    def _repr_html_(self) -> str:
        stored = progress.read()
        boxes = "".join(_box(lab, lab.earned(stored)) for lab in self.labs)
        columns, rows = len(GRID[0]), len(GRID)
        grid = (
            f"display:grid;grid-template-columns:repeat({columns},minmax(110px,1fr));gap:14px 30px;"
            "align-items:center"
        )
        label = html.escape(name_of_map())
        arrows = _arrows([lab.number for lab in self.labs], columns, rows)
        step = html.escape(next_step(self.labs, stored))
        return (
            f"<div role='navigation' aria-label='{label}' style='position:relative;max-width:1100px'>"
            f"{arrows}<div style='{grid}'>{boxes}</div></div><p><b>{step}</b></p>"
        )

    def __repr__(self) -> str:
        return self.next_step()


def _box(lab: LabPage, earned: float) -> str:
    x, y = PLACES[lab.number]
    done = earned >= lab.points
    colour = DONE if done else BEGUN if earned else NOT_BEGUN
    lines = [f"{'✓ ' if done else ''}{state(lab, earned)}", needs(lab)]
    small = "".join(
        f"<br><small style='color:#444'>{html.escape(line)}</small>" for line in lines if line
    )
    place = f"grid-column:{x + 1};grid-row:{y + 1};background:{colour}"
    title = html.escape(f"{lab.number} {lab.title}")
    return f"<a href='{html.escape(lab.file)}' style='{BOX};{place}'><b>{title}</b>{small}</a>"


def _arrows(shown: list[str], columns: int, rows: int) -> str:
    """Lines from right edges to left edges, in units of a box's place, behind the boxes."""
    lines = [
        f"<line x1='{x0 + 0.5 + WIDTH}' y1='{y0 + 0.5}' x2='{x1 + 0.5 - WIDTH}' y2='{y1 + 0.5}' />"
        for number in shown
        for source in NEEDS.get(number, ())
        if source in shown
        for (x0, y0), (x1, y1) in [(PLACES[source], PLACES[number])]
        if _neighbours(source, number)
    ]
    style = "position:absolute;inset:0;width:100%;height:100%"
    return (
        f"<svg viewBox='0 0 {columns} {rows}' preserveAspectRatio='none' aria-hidden='true' "
        f"style='{style}'><g stroke='#888' stroke-width='2' fill='none'>"
        + "".join(line.replace(" />", " vector-effect='non-scaling-stroke' />") for line in lines)
        + "</g></svg>"
    )


def _neighbours(source: str, number: str) -> bool:
    """Whether a line between two labs crosses no third one."""
    (x0, y0), (x1, y1) = PLACES[source], PLACES[number]
    return x1 == x0 + 1 and (x0 == 0 or y0 == y1)
