"""The course as one thing: its map, its glossary, its links; each held against the labs themselves."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import networkx
import pytest

from compresslab.classroom import course, glossary, pages, progress
from compresslab.classroom.course import read_labs
from compresslab.classroom.course_map import CourseMap
from compresslab.classroom.exercises import EXERCISES

ROOT = Path(__file__).parents[2]
LABS = read_labs(ROOT / "labs")
NAMES = {path.name for path in (ROOT / "labs").glob("*.ipynb")}


def test_every_exercise_of_the_library_is_in_exactly_one_lab():
    ids = [id for lab in LABS for id in lab.exercises]
    assert sorted(ids) == sorted(EXERCISES)


def test_the_map_places_and_orders_every_lab():
    numbers = [lab.number for lab in LABS]
    assert numbers == [f"{i:02d}" for i in range(len(LABS))]
    assert set(course.PLACES) == set(numbers)
    graph = networkx.DiGraph((s, lab) for lab, sources in course.NEEDS.items() for s in sources)
    assert networkx.is_directed_acyclic_graph(graph)
    assert set(networkx.descendants(graph, "00")) == set(numbers) - {"00"}
    assert all(course.PLACES[a][0] < course.PLACES[b][0] for a, b in graph.edges)


def test_the_map_says_what_is_done(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_PROGRESS", str(tmp_path / "progress.json"))
    shown = CourseMap(ROOT / "labs")
    assert shown.next_step().startswith("Next: lab 00")
    for id in list(LABS[0].exercises)[:2]:
        progress.record(id, "passed", None)
    assert shown.next_step().startswith("Go on with lab 00")
    for id in LABS[0].exercises:
        progress.record(id, "passed", None)
    assert shown.next_step().startswith("Next: lab 01")
    page = shown._repr_html_()
    assert "✓ 29 of 29" in page
    assert page.count("✓") == 1
    assert shown.next_step() in page
    assert re.findall(r"<a href='([^']+)'", page) == [lab.file for lab in LABS]
    for id in EXERCISES:
        progress.record(id, "passed", None)
    assert "Everything is done" in shown.next_step()


def test_points_are_those_of_the_library():
    """The labs alone say them, so that the map needs neither torch nor the exercises."""
    said = {id: points for lab in LABS for id, points in lab.exercises.items()}
    assert said == {id: exercise.points for id, exercise in EXERCISES.items()}


def test_the_map_is_drawn_without_torch():
    code = (
        "import sys; from pathlib import Path; from compresslab.classroom.course_map import CourseMap;"
        "print(len(CourseMap(Path(sys.argv[1]))._repr_html_()) > 1000, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(ROOT / "labs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_a_folder_without_labs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold the labs"):
        CourseMap(tmp_path)


def test_a_lab_without_its_form_is_refused(tmp_path):
    cell = nbformat.v4.new_markdown_cell("# Lab 00 · Nothing")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "00_nothing.ipynb")
    with pytest.raises(ValueError, match=r"00_nothing\.ipynb must begin with title"):
        read_labs(tmp_path)


def test_what_a_learner_keeps_beside_the_labs_does_not_break_the_map(tmp_path):
    for path in (ROOT / "labs").glob("0[01]_*.ipynb"):
        shutil.copy(path, tmp_path)
        shutil.copy(path, tmp_path / f"{path.stem}-Copy1.ipynb")
    (tmp_path / "20_notes.ipynb").write_text("", encoding="utf-8")
    text = (tmp_path / f"{Path(LABS[0].file).stem}.ipynb").read_text(encoding="utf-8")
    (tmp_path / "99_mine.ipynb").write_text(text.replace("Lab 00", "Lab 99"), encoding="utf-8")
    cell = nbformat.v4.new_markdown_cell("# Lab 30 · Mine")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "30_mine.ipynb")
    shown = CourseMap(tmp_path)
    assert [lab.file for lab in shown.labs] == [lab.file for lab in LABS[:2]]
    assert shown._repr_html_().count("<a ") == 2


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.number)
def test_a_lab_leads_back_and_forward_to_pages_that_are_there(lab):
    line = next(t for t in lab.text.splitlines() if t.startswith("**Back:**"))
    back, onward = line.split(" · **Next:** ")
    number = int(lab.number)
    before = LABS[number - 1].file if number else pages.START
    after = LABS[number + 1].file if number + 1 < len(LABS) else pages.START
    assert f"({before})" in back
    assert f"({after})" in onward
    assert set(re.findall(r"\]\(([^)#:]+\.ipynb)\)", lab.text)) <= NAMES


def test_links_name_the_labs_by_their_titles():
    titles = {lab.file: f"Lab {lab.number} · {lab.title}" for lab in LABS}
    for lab in LABS:
        for title, file in re.findall(r"\[(Lab [^\]]+)\]\((\d\d_\w+\.ipynb)\)", lab.text):
            assert title == titles[file], f"{lab.file}: {title}"


# ---- the glossary --------------------------------------------------------------------------------
def test_every_term_is_explained_in_a_lab():
    for term in glossary.read_terms():
        assert glossary.explained_in(term, LABS), term.english


def test_a_name_inside_a_longer_one_is_not_its_explanation():
    term = glossary.Term("fine-tuning", "微调", "")
    lab = LABS[0]
    with_longer = [course.LabPage(lab.number, "", "a", "量化感知微调", "", 1, {})]
    assert glossary.explained_in(term, with_longer) is None
    alone = [course.LabPage(lab.number, "", "b", "fine-tuning (微调)", "", 1, {})]
    assert glossary.explained_in(term, [*with_longer, *alone]).file == "b"


@pytest.mark.parametrize(
    "line, told",
    [("a,甲,one\na,乙,two", "'a'"), ("a,甲,one\nb,甲,two", "'甲'"), ("a,,one", "empty")],
)
def test_a_term_is_named_once(line, told, tmp_path):
    path = tmp_path / "terms.csv"
    path.write_text(f"english,chinese,sentence\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        glossary.read_terms(path)


def test_a_term_that_no_lab_explains_is_refused():
    with pytest.raises(ValueError, match="no lab has 甲"):
        glossary.markdown([glossary.Term("a", "甲", "One.")], LABS)


def test_chinese_names_in_the_labs_are_in_the_glossary_or_are_known_not_to_be():
    known = {term.chinese for term in glossary.read_terms()}
    # Words of a table or of a sentence that need no entry, and one name.
    plain = {"存储大小", "计算量", "能耗", "分组", "蒸馏", "泰勒", "散度", "均值"}
    for lab in LABS:
        found = set(re.findall(f"[{glossary.HAN}]+", lab.text))
        assert found <= known | plain, lab.file


# ---- the pages -----------------------------------------------------------------------------------
def test_the_committed_pages_are_made_from_the_labs():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert text == pages.glossary_text(LABS, "../labs/"), "run `make release`"
    committed = (ROOT / "labs" / pages.GLOSSARY).read_text(encoding="utf-8")
    assert json.loads(committed) == json.loads(nbformat.writes(pages.glossary_page(LABS)))
    start = nbformat.read(ROOT / "labs" / pages.START, as_version=4)
    made = pages.start_page(ROOT / "solutions" / "start.py", LABS)
    assert [c.source for c in start.cells] == [c.source for c in made.cells], "run `make release`"
    stored = start.metadata.compresslab["source_hash"]
    assert stored == made.metadata.compresslab["source_hash"], "run `make release`"
    kinds = {o.output_type for c in start.cells for o in c.get("outputs", ())}
    assert kinds == {"display_data"}
