"""Before JupyterLab opens, the start page knows the learner and no notebook is left to be saved."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.sign import NotebookNotary

from compresslab.classroom import progress
from compresslab.classroom.opening import START, make_ready

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    labs = tmp_path / "labs"
    labs.mkdir()
    for name in (START, "00_measure_first.ipynb", "01_numbers.ipynb"):
        shutil.copy(ROOT / "labs" / name, labs)
    return labs


def first_output(folder):
    cells = nbformat.read(folder / START, as_version=4).cells
    return next(c for c in cells if c.cell_type == "code").outputs[0].data["text/html"]


def test_the_start_page_shows_what_was_done_when_it_opens(folder):
    make_ready(folder)
    assert "Next: lab 00" in first_output(folder)
    progress.record("measuring.parameter_bytes", "passed", None, 1)
    make_ready(folder)
    assert "Go on with lab 00" in first_output(folder)


def test_what_it_shows_is_trusted(folder):
    make_ready(folder)
    assert NotebookNotary().check_signature(nbformat.read(folder / START, as_version=4))


def test_every_notebook_says_its_kernel_and_its_language_and_nothing_else_changes(folder):
    path = folder / "01_numbers.ipynb"
    before = json.loads(path.read_text(encoding="utf-8"))
    make_ready(folder)
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after["metadata"]["kernelspec"]["display_name"] == "Python 3 (ipykernel)"
    assert after["metadata"]["language_info"]["name"] == "python"
    assert after["cells"] == before["cells"]


def test_a_second_time_nothing_is_written(folder):
    assert make_ready(folder)
    assert make_ready(folder) == []


def test_what_is_no_notebook_is_left_alone(folder):
    broken = folder / "mine.ipynb"
    broken.write_text("{", encoding="utf-8")
    assert broken not in make_ready(folder)
    assert broken.read_text(encoding="utf-8") == "{"


def test_a_folder_without_labs_is_no_error(tmp_path):
    shutil.copy(ROOT / "labs" / START, tmp_path)
    make_ready(tmp_path)
