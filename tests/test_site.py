"""The site's pages: answers stay out, widgets too, links lead to what is there."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("assemble", ROOT / "docs" / "site" / "assemble.py")
assemble = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(assemble)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("site") / "pages"
    assemble.assemble(place, answers=False)
    return place


def labs(folder):
    return [nbformat.read(p, 4) for p in sorted((folder / "labs").glob("*.ipynb"))]


def test_every_lab_is_there_as_executed_and_without_answers(folder):
    found = labs(folder)
    assert len(found) == len(list((ROOT / "labs").glob("[0-9]*.ipynb")))
    for notebook in found:
        sources = "\n".join(c.source for c in notebook.cells)
        assert "SOLUTION" not in sources
        assert "not done yet" in sources
        pictures = [
            o
            for c in notebook.cells
            for o in c.get("outputs", [])
            if "image/png" in o.get("data", {})
        ]
        assert pictures


def test_the_instructors_build_folds_its_answers(tmp_path):
    assemble.assemble(tmp_path / "pages", answers=True)
    cells = [
        c for notebook in labs(tmp_path / "pages") for c in notebook.cells if c.cell_type == "code"
    ]
    assert not [c for c in cells if "SOLUTION" in c.source]
    answers = [c for c in cells if c.metadata.get("nbgrader", {}).get("solution")]
    assert answers
    assert all("hide-input" in c.metadata.tags for c in answers)


def test_no_widget_is_left(folder):
    for path in (folder / "labs").glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert assemble.WIDGET not in text


def test_links_between_pages_lead_to_pages(folder):
    for path in folder.glob("*.md"):
        for target in re.findall(r"\]\((?![a-z]+:|#)([^)\s#]+)", path.read_text(encoding="utf-8")):
            assert (folder / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize(
    "written,read",
    [
        ("[it](own.md)", "[it](own.md)"),
        ("[it](../README.md#use)", "[it](readme.md#use)"),
        ("[it](docs/own.md#a)", "[it](own.md#a)"),
        ("[lab](solutions/06_low_rank.ipynb)", "[lab](labs/06_low_rank.ipynb)"),
        ("[code](compresslab/gpt.py)", "code (`compresslab/gpt.py`)"),
        ("[`gpt.py`](compresslab/gpt.py)", "`gpt.py`"),
        ("[paper](https://arxiv.org/abs/1)", "[paper](https://arxiv.org/abs/1)"),
        ("![shown](docs/images/check.png)", "![shown](images/check.png)"),
    ],
)
def test_links_are_fitted(written, read):
    assert assemble.page(written) == read
