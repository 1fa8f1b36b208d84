"""The site's pages: answers stay out, widgets too, links lead to what is there."""

import importlib.util
import json
import re
import runpy
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

import compresslab
from compresslab.classroom import still

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
            if "<img" in "".join(o.get("data", {}).get("text/html", ""))
        ]
        assert pictures


def test_every_lab_has_a_chinese_page_with_the_same_code_and_pictures(folder):
    for path in sorted((folder / "labs").glob("*.ipynb")):
        english = nbformat.read(path, 4)
        chinese = nbformat.read(folder / "labs-zh" / path.name, 4)
        assert [c.id for c in english.cells] == [c.id for c in chinese.cells]
        for one, other in zip(english.cells, chinese.cells, strict=True):
            if one.cell_type == "code":
                assert one.source == other.source
                assert len(one.outputs) == len(other.outputs)
        title = next(c.source for c in chinese.cells if c.cell_type == "markdown")
        assert re.match("# 实验", title), path.name


def test_what_a_lab_showed_is_in_chinese_on_its_page(folder):
    text = (folder / "labs-zh" / "06_low_rank.ipynb").read_text(encoding="utf-8")
    shown = [
        "".join(o.get("data", {}).get("text/html", ""))
        for c in nbformat.reads(text, 4).cells
        for o in c.get("outputs", [])
    ]
    boxes = [html for html in shown if html.startswith("<div") and "✔" in html]
    assert len(boxes) > 15
    assert all(re.search("[\u4e00-\u9fff]", box) for box in boxes)
    tables = [html for html in shown if html.startswith("<table")]
    assert all(re.search("[\u4e00-\u9fff]", table) for table in tables)
    pictures = [html for html in shown if html.startswith("<img")]
    assert all(re.search("alt=[^>]*[\u4e00-\u9fff]", picture) for picture in pictures)


@pytest.mark.parametrize(
    "written,read",
    [
        ("<td>rank</td>", "<td>秩</td>"),
        ("<b>zebras &amp; gnus graze here</b>", None),
        ("<script>if (a > rank < b && c) {}</script>", None),
        ("<style>p>rank<b {}</style><i>rank</i>", "<style>p>rank<b {}</style><i>秩</i>"),
        ('<img alt="rank">', '<img alt="秩">'),
        ("<td> 12.5 </td>", None),
        ("<b>83.3 % of the validation images</b>", "<b>83.3 % 的验证图像</b>"),
        (
            "<p>✔ bf16 loses less than a point (held in 5 of 5; margin 0.96 ± 0.055 points)</p>",
            "<p>✔ bf16 的损失不到一个百分点（5 次中成立 5 次；余量 0.96 ± 0.055 个百分点）</p>",
        ),
    ],
)
def test_words_are_translated_and_code_is_left(written, read):
    assert assemble.chinese.in_html(written) == (read or written)


def test_the_instructors_build_folds_its_answers(tmp_path):
    assemble.assemble(tmp_path / "pages", answers=True)
    cells = [
        c for notebook in labs(tmp_path / "pages") for c in notebook.cells if c.cell_type == "code"
    ]
    assert not [c for c in cells if "SOLUTION" in c.source]
    answers = [c for c in cells if c.metadata.get("nbgrader", {}).get("solution")]
    assert answers
    assert all("hide-input" in c.metadata.tags for c in answers)


def test_rubrics_and_the_tests_answers_stand_in_the_instructors_build_alone(tmp_path, folder):
    place = tmp_path / "pages"
    assemble.assemble(place, answers=True)
    written = (place / "written.md").read_text(encoding="utf-8")
    rubrics = tomllib.loads((ROOT / "solutions" / "written.toml").read_text(encoding="utf-8"))
    for about in rubrics.values():
        lines = [*about["rubric"], *about["oral"], *(s["text"] for s in about["samples"])]
        assert all(line in written for line in lines)
    index = (place / "index.md").read_text(encoding="utf-8")
    assert "\nwritten\ntest_answers\n" in index
    for page in folder.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert not any(line in text for about in rubrics.values() for line in about["rubric"])
        assert "# The test: answers" not in text, page


def test_no_widget_is_left(folder):
    for path in (folder / "labs").glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert still.VIEW not in text


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


# ---- elsewhere ---------------------------------------------------------------------------------------
def settings_of_sphinx(monkeypatch, **variables):
    for name in ("REPOSITORY", "BRANCH", "HUB"):
        monkeypatch.delenv(f"COMPRESSLAB_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"COMPRESSLAB_{name}", value)
    return runpy.run_path(str(ROOT / "docs" / "site" / "conf.py"))["html_theme_options"]


def test_without_a_repository_there_are_no_buttons(monkeypatch, folder):
    assert "launch_buttons" not in settings_of_sphinx(monkeypatch)
    text = (folder / "index.md").read_text(encoding="utf-8")
    assert "ELSEWHERE" not in text
    assert "codespaces" not in text


def test_one_setting_leads_all_buttons_to_a_fork(monkeypatch, tmp_path):
    address = "https://github.com/somebody/a-fork"
    variables = {"REPOSITORY": address, "BRANCH": "spring", "HUB": "https://hub.example.org/"}
    found = settings_of_sphinx(monkeypatch, **variables)
    assert (found["repository_url"], found["repository_branch"]) == (address, "spring")
    assert found["launch_buttons"]["jupyterhub_url"] == "https://hub.example.org"
    assert "colab_url" in found["launch_buttons"]
    assemble.assemble(tmp_path / "pages", answers=False)
    text = (tmp_path / "pages" / "index.md").read_text(encoding="utf-8")
    assert "https://codespaces.new/somebody/a-fork" in text


@pytest.mark.parametrize("address", ["", "https://git.example.org/a/b", "https://github.com/alone"])
def test_what_only_one_host_has_is_offered_there_alone(address):
    assert assemble.elsewhere(address) == ""


def test_a_lab_lies_in_the_repository_where_its_page_lies(folder):
    """Buttons are made of a page's own path."""
    for path in (folder / "labs").glob("*.ipynb"):
        assert (ROOT / path.relative_to(folder)).is_file()


def test_the_workflow_and_the_devcontainer_call_what_is_there():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    steps = [s.get("run", "") for job in workflow["jobs"].values() for s in job["steps"]]
    named = set(re.findall(r"(?:labs|tests|\.ci)/[\w./-]+", "\n".join(steps)))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    target = container["postCreateCommand"].removeprefix("make ")
    assert f"{target.replace('.venv', '$(VENV)')}:" in makefile
    assert "\nsite:" in makefile
    promised = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pythons = workflow["jobs"]["library"]["strategy"]["matrix"]["python"]
    assert [f"Programming Language :: Python :: {p}" for p in pythons] == [
        c for c in promised["classifiers"] if "Python ::" in c
    ]


def test_terms_lead_to_their_line_in_the_glossary(folder):
    places = set(
        re.findall(r'<a id="([^"]+)"', (folder / "glossary.md").read_text(encoding="utf-8"))
    )
    linked = []
    for notebook in labs(folder):
        text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        linked += re.findall(r'<a href="\.\./glossary\.html#([^"]+)">', text)
    assert len(linked) == len(set(linked)) > 0.8 * len(places)
    assert set(linked) <= places


def test_sliders_are_pictures_and_questions_have_their_choices(folder):
    for notebook in labs(folder):
        for cell in notebook.cells:
            shown = "".join(o.get("data", {}).get("text/html", "") for o in cell.get("outputs", []))
            if re.search(r"^explore\(", cell.source, re.MULTILINE):
                assert "<img" in shown
            if "= predict(" in cell.source:
                assert shown.count("<li>") >= 2


# ---- the reference -----------------------------------------------------------------------------------
def test_every_module_of_every_package_is_in_the_reference_once(folder):
    text = "\n".join(
        p.read_text(encoding="utf-8") for p in [folder / "api.md", *(folder / "api").glob("*.md")]
    )
    documented = re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE)
    assert len(documented) == len(set(documented))
    package, left_out = ROOT / "compresslab", assemble.reference.PRIVATE
    for path in package.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1] in left_out or any(p.startswith("_") for p in parts if p != "__init__"):
            continue
        name = ".".join(p for p in parts if p != "__init__")
        assert name in documented, name


def test_the_front_doors_names_lead_to_where_they_are_documented(folder):
    text = (folder / "api.md").read_text(encoding="utf-8")
    for name in compresslab.__all__:
        assert f"`cl.{name} <compresslab." in text
    assert "`cl.evaluate <compresslab.training.evaluate>`" in text


def test_a_package_without_a_docstring_is_named(tmp_path):
    (tmp_path / "__init__.py").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="must have a docstring"):
        assemble.reference.summary(tmp_path)
