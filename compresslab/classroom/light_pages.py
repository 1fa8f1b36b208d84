"""Notebooks for the browser: of each lab the exercises that need NumPy alone, with recorded cases.

    light/01_numbers.ipynb  =  the lab's text, answer and check cells of those exercises, and nothing else

They are for JupyterLite (`make lite`): a page of files without a server, whose Python runs in the browser. A
release writes them, and the cases beside `light.py`, from the same solutions as the labs.
"""

import json
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from compresslab.classroom import light
from compresslab.classroom.exercises import EXERCISES, of_grade_id
from compresslab.classroom.messages import blocks
from compresslab.classroom.release import read_solution, write_if_new

PYODIDE = {"display_name": "Python (Pyodide)", "language": "python", "name": "python"}
LABS = ("00", "01", "04", "06", "11", "12")
"""Labs with pages for the browser."""
SETUP = """\
import math
import sys

import numpy as np

if sys.platform == "emscripten":
    import piplite

    await piplite.install("compresslab", deps=False)

from compresslab.classroom.light import check\
"""
INTRODUCTION = """\
# {title}, in the browser

Exercises of the lab that need NumPy alone: nothing to install, and nothing leaves your browser, which keeps
what you write. Experiments, findings and all other exercises are in the lab itself. Run the next cell first.\
"""


def write_light(solutions: Path, labs: Path) -> list[Path]:
    """Write the recorded cases and the pages anew where they changed; returns the files that did.

    Args:
        solutions: folder of the py:percent scripts.
        labs: folder of the labs; the pages' folder lies beside it.
    """
    folder, changed = labs.with_name("light"), []
    folder.mkdir(exist_ok=True)
    light.RECORDED.mkdir(exist_ok=True)
    for script in sorted(solutions.glob("[0-9][0-9]_*.py")):
        if script.stem[:2] in LABS:
            page, found = light_page(read_solution(script).lab)
            changed += write_if_new(folder / f"{script.stem}.ipynb", nbformat.writes(page) + "\n")
            for id in found:
                changed += _write_record(id)
    return changed


def _write_record(id: str) -> list[Path]:
    path, text = light.RECORDED / f"{id}.json", light.record(EXERCISES[id])
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        if light.agrees(old, json.loads(text), light.CLOSE):
            return []
    return write_if_new(path, text)


def _task(source: str) -> str:
    """The text of an exercise, without what is said of the experiment in front of its section."""
    parts = blocks(source)
    heads = [i for i, part in enumerate(parts) if part.startswith("## ")]
    if heads:
        return "\n\n".join(parts[heads[-1] :])
    # Without its section an exercise would leave out a level of headings.
    return "\n\n".join(re.sub("^### ", "## ", part) for part in parts)


def light_page(lab: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """The page of a lab, and the ids of its exercises.

    Args:
        lab: the lab, whose answers are stubs; of a solution the page holds the model answers.
    """
    title = re.match(r"# (.+)", lab.cells[0].source)[1]
    new = nbformat.v4
    cells = [
        new.new_markdown_cell(INTRODUCTION.format(title=title), id="introduction"),
        new.new_code_cell(SETUP, id="setup"),
    ]
    found = []
    for before, cell, after in zip(lab.cells, lab.cells[1:], lab.cells[2:], strict=False):
        grade = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        exercise = None if grade.endswith("-check") else of_grade_id(grade)
        if exercise is None or not light.can_be_recorded(exercise):
            continue
        found.append(exercise.id)
        text = new.new_markdown_cell(_task(before.source), id=before.id)
        cells += [text, *(nbformat.from_dict(c) for c in (cell, after))]
    for cell in cells:
        cell.metadata = NotebookNode()
    page = new.new_notebook(cells=cells, metadata={"kernelspec": NotebookNode(PYODIDE)})
    page.nbformat, page.nbformat_minor = 4, 5
    return page, found
