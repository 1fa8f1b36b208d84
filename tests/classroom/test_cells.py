"""The form of a lab's cells: short, narrow, and no answer beside its question."""

import re
from pathlib import Path

import jupytext
import pytest

from compresslab.classroom.exercises import LABS, of_grade_id
from compresslab.classroom.release import gives_away, read_solution

ROOT = Path(__file__).parents[2]
SOLUTIONS = sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py"))
LINES, WIDTH, SPECIFICATION = 30, 96, 80
UNBROKEN = 3
"""Lines a lab that hold one long text, which no formatter breaks."""


def code_cells(path):
    cells = jupytext.read(path).cells
    return [c for c in cells if c.cell_type == "code" and c.source.strip()]


@pytest.fixture(params=SOLUTIONS, ids=lambda p: p.stem)
def solution(request):
    return request.param


def test_no_cell_but_an_answer_is_over_30_lines(solution):
    long = {
        c.source.split("\n")[0]: n
        for c in code_cells(solution)
        if (n := len(c.source.strip().split("\n"))) > LINES
        and not c.metadata.get("nbgrader", {}).get("solution")
    }
    assert not long


def test_a_question_and_its_answer_never_share_a_cell(solution):
    both = [
        c.source for c in code_cells(solution) if "predict(" in c.source and ".reveal(" in c.source
    ]
    assert not both


def test_code_fits_a_notebook_and_specifications_a_page(solution):
    wide = [x for c in code_cells(solution) for x in c.source.split("\n") if len(x) > WIDTH]
    assert len(wide) <= UNBROKEN
    text = "\n".join(c.source for c in jupytext.read(solution).cells if c.cell_type == "markdown")
    shown = [
        x for block in re.findall(r"```python\n(.*?)```", text, re.S) for x in block.split("\n")
    ]
    assert [x for x in shown if len(x) > SPECIFICATION] == []


def test_cells_that_give_an_answer_away_are_folded_in_the_lab(solution):
    lab = read_solution(solution).lab
    folded = [c for c in lab.cells if c.metadata.get("jupyter", {}).get("source_hidden")]
    asked = [c for c in lab.cells if c.cell_type == "code" and ".reveal(" in c.source]
    assert all(c in folded for c in asked)
    assert not any(c.metadata.get("nbgrader") for c in folded)


@pytest.mark.parametrize(
    "source,folded",
    [
        ("guess = predict('a', ['b'])", True),
        ("guess.reveal('b')", True),
        ("import torch\nfrom torch import nn", True),
        ("def draw(x):\n    _, axes = plt.subplots()\n    axes.plot(x)", True),
        ("def lost(x):\n    return x", False),
        ("import torch\nx = 1", False),
        ("", False),
    ],
)
def test_what_is_folded(source, folded):
    assert gives_away(source) is folded


KIND = {"warm-up": "", "build": "build, ", "open": "open, "}


def test_an_exercises_heading_says_its_kind_and_its_points(solution):
    heading, found = "", 0
    for cell in jupytext.read(solution).cells:
        heading = next(
            (x for x in cell.source.split("\n") if x.startswith("### Exercise ")), heading
        )
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        asked = of_grade_id(grade_id.removesuffix("-check"))
        if asked is not None:
            points = f"{asked.points} point{'s' if asked.points > 1 else ''}"
            assert f"({KIND[asked.kind]}{points}, about {asked.lines} line" in heading, asked.id
            found += 1
    assert found == 2 * len(LABS[solution.stem])
