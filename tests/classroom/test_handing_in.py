"""A lab as one HTML file: pictures in it, no widget, nothing lost; what is no notebook is refused."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from compresslab.classroom.handing_in import write_html
from compresslab.classroom.still import VIEW
from compresslab.cli import app

ROOT = Path(__file__).parents[2]
PIXEL = "<img alt='a line' src='data:image/png;base64,iVBORw0KGgo='>"


@pytest.fixture
def saved(tmp_path):
    widget = {VIEW: {"model_id": "x", "version_major": 2, "version_minor": 0}}
    cells = [
        nbformat.v4.new_markdown_cell("# A lab with $x^2$"),
        nbformat.v4.new_code_cell(
            "shown = 1 + 1", outputs=[nbformat.v4.new_output("stream", text="two")]
        ),
        nbformat.v4.new_code_cell(
            "explore(draw)",
            outputs=[nbformat.v4.new_output("display_data", {**widget, "text/html": PIXEL})],
        ),
        nbformat.v4.new_code_cell(
            "the_answer_is('b')",
            metadata={"jupyter": {"source_hidden": True}},
            outputs=[nbformat.v4.new_output("stream", text="You predicted: b")],
        ),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    path = tmp_path / "04_pruning.ipynb"
    nbformat.write(notebook, path)
    return path


def test_what_was_run_is_there_and_what_needs_a_kernel_is_a_picture(saved, tmp_path):
    page = write_html(saved, tmp_path).read_text(encoding="utf-8")
    assert "alt='a line'" in page or 'alt="a line"' in page
    assert "two" in page
    assert "You predicted: b" in page
    assert "the_answer_is" not in page
    assert "widget-view" not in page
    assert "Error displaying widget" not in page


def test_the_notebook_stays_as_it_was(saved, tmp_path):
    before = saved.read_bytes()
    write_html(saved, tmp_path / "out.html")
    assert saved.read_bytes() == before


def test_an_executed_lab_has_all_its_pictures(tmp_path):
    path = ROOT / "solutions" / "01_numbers.ipynb"
    page = write_html(path, tmp_path).read_text(encoding="utf-8")
    shown = path.read_text(encoding="utf-8").count("<img")
    assert len(re.findall("<img", page)) >= shown > 5


def test_the_command_takes_a_path_or_a_labs_name(saved, tmp_path, monkeypatch):
    done = CliRunner().invoke(app, ["export", str(saved), "--out", str(tmp_path / "a.html")])
    assert done.exit_code == 0
    assert (tmp_path / "a.html").is_file()
    (tmp_path / "labs").mkdir()
    (tmp_path / "pyproject.toml").touch()
    shutil.move(saved, tmp_path / "labs" / saved.name)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["export", "04_pruning"]).exit_code == 0
    assert (tmp_path / "04_pruning.html").is_file()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_what_is_no_notebook_is_refused_and_nothing_written(tmp_path, content):
    path = tmp_path / "x.ipynb"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="no notebook"):
        write_html(path, tmp_path)
    assert not (tmp_path / "x.html").exists()
    done = CliRunner().invoke(app, ["export", str(path)])
    assert done.exit_code == 2
    assert "not exported" in done.output


def test_a_file_that_is_not_there_is_named(tmp_path):
    done = CliRunner().invoke(app, ["export", str(tmp_path / "none.ipynb")])
    assert done.exit_code == 2
    assert "none.ipynb" in done.output
