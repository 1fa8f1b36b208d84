"""Notebooks for the browser: of each lab the exercises that need NumPy alone, with recorded cases.

    light/01_numbers.ipynb     = the lab's text, answer and check cells of those exercises, and nothing else
    light-zh/01_numbers.ipynb  = the same cells, their text in Chinese

They are for JupyterLite (`make lite`): a page of files without a server, whose Python runs in the browser. A
release writes them, and the cases beside `light.py`, from the same solutions as the labs.
"""

import json
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from compresslab.classroom import light
from compresslab.classroom.catalogue import notebook_in, words_of
from compresslab.classroom.exercises import EXERCISES, of_grade_id
from compresslab.classroom.messages import blocks
from compresslab.classroom.release import read_solution, write_if_new
from compresslab.language import ENGLISH, LANGUAGES, LOCALE

PYODIDE = {"display_name": "Python (Pyodide)", "language": "python", "name": "python"}
LABS = ("00", "01", "04", "06", "11", "12")
"""Labs with pages for the browser."""
SETUP = """\
import math
import os
import sys

import numpy as np

if sys.platform == "emscripten":
    import piplite

    await piplite.install(["polib", "compresslab"], deps=False)
    os.environ["COMPRESSLAB_PROGRESS"] = "progress.json"

from compresslab.classroom.light import check
from compresslab.classroom.so_far import so_far\
"""
INTRODUCTIONS = {
    "en": """\
{heading}, in the browser

Exercises of the lab that need NumPy alone: nothing to install, and nothing leaves your browser, which keeps
what you write and what you have passed. Experiments, findings and all other exercises are in the lab itself.
Run the next cell first.\
""",
    "zh": """\
{heading}（浏览器版）

这里是本实验中只需要 NumPy 的练习：无需安装任何东西，也没有任何内容会离开你的浏览器；\
你写的代码和已通过的练习都由浏览器保存。\
实验过程、结论和其余练习都在完整的实验里。请先运行下一个单元格。\
""",
}
END = {"en": "## So far", "zh": "## 目前的进度"}


def write_light(solutions: Path, labs: Path) -> list[Path]:
    """Write the recorded cases and the pages anew where they changed; returns the files that did.

    Args:
        solutions: folder of the py:percent scripts.
        labs: folder of the labs; the pages' folders lie beside it.
    """
    changed = []
    light.RECORDED.mkdir(exist_ok=True)
    for script in sorted(solutions.glob("[0-9][0-9]_*.py")):
        if script.stem[:2] not in LABS:
            continue
        lab = read_solution(script).lab
        for language in LANGUAGES:
            page, found = light_page(in_language(lab, script.stem, language), language)
            folder = labs.with_name("light" if language == ENGLISH else f"light-{language}")
            folder.mkdir(exist_ok=True)
            changed += write_if_new(folder / f"{script.stem}.ipynb", nbformat.writes(page) + "\n")
        for id in found:
            changed += _write_record(id)
    return changed


def in_language(lab: NotebookNode, name: str, language: str) -> NotebookNode:
    """A lab with its text in a language.

    Args:
        lab: in English.
        name: such as "01_numbers".
        language: such as "zh".
    """
    return notebook_in(lab, words_of(LOCALE / language / "labs" / f"{name}.po"))


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


def light_page(lab: NotebookNode, language: str = ENGLISH) -> tuple[NotebookNode, list[str]]:
    """The page of a lab, and the ids of its exercises.

    Args:
        lab: the lab, whose answers are stubs; of a solution the page holds the model answers.
        language: that of the lab's text.
    """
    heading = lab.cells[0].source.partition("\n")[0]
    new = nbformat.v4
    introduction = INTRODUCTIONS[language].format(heading=heading)
    cells = [
        new.new_markdown_cell(introduction, id="introduction"),
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
    cells += [
        new.new_markdown_cell(END[language], id="end"),
        new.new_code_cell("so_far()", id="so-far"),
    ]
    for cell in cells:
        cell.metadata = NotebookNode()
    page = new.new_notebook(cells=cells, metadata={"kernelspec": NotebookNode(PYODIDE)})
    page.nbformat, page.nbformat_minor = 4, 5
    return page, found
