"""What comes back: pages that hold no script, hints, a class at a glance, tables, written answers."""

import csv
import dataclasses
import json
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from compresslab.classroom.exercises import EXERCISES, LABS
from compresslab.classroom.grading import feedback, marks_table, platforms, written
from compresslab.classroom.grading.collect import Found
from compresslab.classroom.grading.feedback import page_name
from compresslab.classroom.grading.folder import as_typed, harmless
from compresslab.classroom.grading.grade import exercises_of
from compresslab.classroom.grading.html_page import html_page
from compresslab.classroom.grading.learner_page import learner_page
from compresslab.classroom.grading.mark import Mark
from compresslab.classroom.grading.results import Results, read_results
from compresslab.cli import app
from compresslab.language import translated

ROOT = Path(__file__).parents[3]
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
LAB = "12_capstone"
IDS = [e.id for e in exercises_of(LAB)]


def mark(learner, id, points, **more):
    return Mark(learner, id, points, EXERCISES[id].points, **{"status": "failed"} | more)


def everything(learner, **more):
    return [mark(learner, id, EXERCISES[id].points, status="passed", **more) for id in IDS]


MISTAKE = EXERCISES["combine.gaps"].mistakes[0]


@pytest.fixture
def results():
    marks = [
        *everything("Ada Lovelace_4711", seconds=0.5),
        *(mark(f"bob{EVIL}", id, 0, message=f"line 1: {EVIL}") for id in IDS),
        *(mark("carol", id, 0, status="missing", message="no answer cell") for id in IDS),
        mark("=cmd|' /C calc'!A0", "combine.gaps", 1, mistake=MISTAKE.name, message="got 3"),
    ]
    return Results(LAB, 7, tuple(marks))


class Reader(HTMLParser):
    """Tags and text of a page; an unknown or executable tag is an error."""

    ALLOWED = frozenset(
        tag
        for tags in (
            ("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "b", "small"),
            ("table", "tr", "th", "td", "br", "span", "pre", "ol", "ul", "li", "hr"),
        )
        for tag in tags
    )

    def __init__(self, page):
        super().__init__()
        self.words = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        assert tag in self.ALLOWED, tag
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("href", "src")]

    def handle_data(self, data):
        self.words.append(data)


def read(page):
    return " ".join(Reader(page).words)


def test_a_learner_sees_points_what_happened_and_the_hint(results):
    text = read(learner_page(results, "=cmd|' /C calc'!A0"))
    assert "1 of 2" in text
    assert "got 3" in text
    assert MISTAKE.hint[:40] in text
    assert "seed 7" in text
    assert "Ada" not in text


@pytest.mark.parametrize("learner", ["Ada Lovelace_4711", f"bob{EVIL}", "carol"])
@pytest.mark.attack("pages")
def test_no_page_holds_anything_but_text(results, learner):
    page = learner_page(results, learner)
    read(page)
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_the_class_is_seen_at_a_glance(results):
    text = read(feedback.class_page(results))
    assert "4 learners" in text
    assert f"mistake: {MISTAKE.name}" in text
    assert "another mistake" in text
    stuck, nothing = text.split("Less than half of the points")[1].split("Nothing that could be")
    assert "bob" in stuck
    assert "carol" not in stuck
    assert "carol" in nothing
    assert "Ada" not in text.split("Less than half of the points")[1]


def test_names_become_files_of_their_own():
    names = ["ada", "Ada", "../../etc/passwd", "a/b", "a_b", "", "é" * 300, "x\ud800"]
    files = [page_name(name) for name in names]
    assert len({f.lower() for f in files}) == len(names)
    assert all("/" not in f and not f.startswith(".") and len(f) < 120 for f in files)


@pytest.mark.attack("pages")
def test_tables_have_the_platforms_form_and_no_formulas(results, tmp_path):
    paths = feedback.write_feedback(results, tmp_path)
    assert len(paths) == 4 + 1 + 4 + 4
    canvas = list(csv.reader((tmp_path / "canvas.csv").open(encoding="utf-8")))
    assert canvas[0] == [
        "Student",
        "ID",
        "SIS User ID",
        "SIS Login ID",
        "Section",
        "Lab 12: capstone",
    ]
    assert canvas[2][:2] == ["Ada Lovelace", "4711"]
    assert float(canvas[2][-1]) == sum(EXERCISES[id].points for id in IDS)
    moodle = list(csv.DictReader((tmp_path / "moodle.csv").open(encoding="utf-8")))
    assert moodle[0]["Identifier"] == "Participant 4711"
    assert moodle[3]["Full name"].startswith("'=cmd")
    most = sum(EXERCISES[id].points for id in IDS)
    blackboard = list(csv.DictReader((tmp_path / "blackboard.csv").open(encoding="utf-8")))
    heading = f"Lab 12: capstone [Total Pts: {most} Score]"
    assert blackboard[0] == {"Username": "Ada Lovelace_4711", heading: f"{most}"}
    assert blackboard[3]["Username"].startswith("'=cmd")
    gradescope = list(csv.DictReader((tmp_path / "gradescope.csv").open(encoding="utf-8")))
    name = "Lab 12: capstone"
    about = {"Name": "Ada Lovelace", "SID": "4711", "Email": "", name: f"{most}"}
    about |= {f"{name} - Max Points": f"{most}", f"{name} - Submission Time": ""}
    assert gradescope[0] == about | {f"{name} - Lateness (H:M:S)": ""}
    assert gradescope[3]["Name"].startswith("'=cmd")


def test_gradescope_gets_a_test_for_each_exercise(results, tmp_path):
    """The documented form of results.json: scores of the tests add up, outputs are text."""
    feedback.write_feedback(results, tmp_path)
    files = sorted((tmp_path / "gradescope").iterdir())
    assert [f.stem for f in files] == sorted(page_name(n)[:-5] for n in results.learners)
    for learner, marks in results.learners.items():
        place = tmp_path / "gradescope" / page_name(learner).replace(".html", ".json")
        found = json.loads(place.read_text(encoding="utf-8"))
        assert sum(t["score"] for t in found["tests"]) == sum(m.points for m in marks)
        assert [t["max_score"] for t in found["tests"]] == [m.out_of for m in marks]
        assert {t["output_format"] for t in found["tests"]} == {"text"}
        assert all(
            (t["status"] == "passed") == (t["score"] == t["max_score"]) for t in found["tests"]
        )
    assert any(MISTAKE.hint in t["output"] for t in found["tests"])


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"run": {"lab": "99", "seed": 1}, "marks": []}', '{"run": {}, "marks": 3}']
)
def test_what_is_no_result_is_named(tmp_path, text):
    path = tmp_path / "marks.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"marks\.json is no result of grading"):
        read_results(path)


# ---- written answers -----------------------------------------------------------------------------
def handed_in(tmp_path, name, answer):
    lab = json.loads((ROOT / "labs" / f"{LAB}.ipynb").read_text(encoding="utf-8"))
    for cell in lab["cells"]:
        if str(cell["metadata"].get("nbgrader", {}).get("grade_id", "")).startswith("written-"):
            cell["source"] = "".join(cell["source"]) + answer
    path = tmp_path / f"{name}.ipynb"
    path.write_text(json.dumps(lab), encoding="utf-8")
    return Found(path)


@pytest.fixture
def asked():
    return written.questions(ROOT / "labs" / f"{LAB}.ipynb")


def test_written_answers_are_collected_marked_and_come_back(tmp_path, asked, results):
    found = {
        "Ada Lovelace_4711": handed_in(tmp_path, "ada", "\n\nPrune first."),
        f"bob{EVIL}": handed_in(tmp_path, "bob", f"\n\n{EVIL}"),
        "carol": Found(tmp_path / "nothing.ipynb"),
    }
    out = tmp_path / "written"
    answers = written.collect(found, asked)
    page, *_, table = written.write_pages(answers, asked, out)
    text = read(page.read_text(encoding="utf-8"))
    assert "Prune first." in text
    assert "door locks" in text
    assert answers[0].text.endswith("Prune first.")
    assert "door locks" not in answers[0].text
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [row["points"] for row in rows] == ["", "", ""]
    rows[0] |= {"points": "1.5", "remark": "-good, but <b>why</b>?"}
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, marks_table.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    written.write_pages(answers, asked, out)  # again: marks stay
    read_back = written.read_folder(out)
    (ada,) = read_back["Ada Lovelace_4711"]
    assert (ada.points, ada.out_of, ada.remark) == (1.5, 2, "-good, but <b>why</b>?")
    shown = read(learner_page(results, "Ada Lovelace_4711", [ada]))
    assert "1.5 of 2" in shown
    assert "Prune first." in shown
    assert (
        platforms.canvas(results, read_back)[2][-1]
        == sum(e.points for e in LABS["12_capstone"]) + 1.5
    )
    *_, test = platforms.gradescope(results, read_back)["Ada Lovelace_4711"]["tests"]
    assert (test["score"], test["max_score"], test["name"]) == (1.5, 2, ada.question)
    read(learner_page(results, f"bob{EVIL}", read_back[f"bob{EVIL}"]))


def changed(tmp_path, asked, change, lab=None):
    """What is read as the answer once the notebook was changed."""
    notebook = json.loads((lab or ROOT / "labs" / f"{LAB}.ipynb").read_text(encoding="utf-8"))
    ids = [c["metadata"].get("nbgrader", {}).get("grade_id", "") for c in notebook["cells"]]
    place = next(n for n, id in enumerate(ids) if id.startswith("written-"))
    change(notebook["cells"], place)
    path = tmp_path / "changed.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    chinese = written.questions(ROOT / "labs-zh" / f"{LAB}.ipynb")
    printed = written.first_lines(ROOT / place / f"{LAB}.ipynb" for place in ("labs", "labs-zh"))
    (answer,) = written.collect({"ada": Found(path)}, asked, [chinese], printed)
    return answer.text


def answer_in(cell):
    cell["source"] = "".join(cell["source"]) + "\n\nPrune first."


def in_place(cells, n):
    answer_in(cells[n])


def without_metadata(cells, n):
    answer_in(cells[n])
    cells[n]["metadata"] = {}


def without_id(cells, n):
    without_metadata(cells, n)
    cells[n].pop("id", None)


def emptied(cells, n):
    answer_in(cells[n])
    cells[n]["metadata"]["nbgrader"] = {}


def as_code(cells, n):
    answer_in(cells[n])
    cells[n]["cell_type"] = "code"


def with_a_copy_below(cells, n):
    cells.insert(n + 1, json.loads(json.dumps(cells[n])))
    answer_in(cells[n])


def with_a_copy_above(cells, n):
    cells.insert(n, json.loads(json.dumps(cells[n])))
    answer_in(cells[n + 1])


def in_a_cell_below(cells, n):
    cells.insert(n + 1, {"cell_type": "markdown", "metadata": {}, "source": "Prune first."})


def below(*texts, kind="markdown"):
    return [{"cell_type": kind, "metadata": {}, "source": text} for text in texts]


def below_a_heading(cells, n):
    cells[n + 1 : n + 1] = below("### My answer", "Prune first.")


def split(cells, n):
    cells[n]["source"] = "".join(cells[n]["source"]) + "\n\nsee below:"
    cells[n + 1 : n + 1] = below("Prune first.", "Then quantize.")


def in_a_code_cell(cells, n):
    cells[n + 1 : n + 1] = below("Prune first.", kind="code")


def as_comments_in_a_code_cell(cells, n):
    cells[n + 1 : n + 1] = below("# Prune first.\n#Then quantize.", kind="code")


def with_a_picture(cells, n):
    picture = "![sketch](data:image/png;base64," + "iVBORw0KGgo" * 20_000 + ")"
    cells[n]["source"] = "".join(cells[n]["source"]) + f"\n\n{picture}\n\nPrune first."


def code_below(cells, n):
    answer_in(cells[n])
    cells[n + 1 : n + 1] = below("print(1)", kind="code") + below("A note of mine.")


@pytest.mark.honest("right")
@pytest.mark.parametrize(
    "change,said",
    [
        (below_a_heading, "### My answer\n\nPrune first."),
        (split, "see below:\n\nPrune first.\n\nThen quantize."),
        (in_a_code_cell, "Prune first."),
        (as_comments_in_a_code_cell, "Prune first.\nThen quantize."),
        (with_a_picture, "![sketch]((picture))\n\nPrune first."),
        (code_below, "Prune first."),
    ],
)
@pytest.mark.parametrize("edition", ["labs", "labs-zh"])
def test_a_written_answer_may_go_on_below(tmp_path, asked, change, said, edition):
    assert changed(tmp_path, asked, change, ROOT / edition / f"{LAB}.ipynb") == said


def with_endless_points(cells, n):
    answer_in(cells[n])
    cells[n]["metadata"]["nbgrader"]["points"] = 10**400


def with_half_a_pair(cells, n):
    cells[n]["source"] = "".join(cells[n]["source"]) + "\n\n\ud800"


@pytest.mark.attack("pages")
@pytest.mark.parametrize("change", [with_endless_points, with_half_a_pair])
def test_one_answer_does_not_stop_the_class(tmp_path, asked, change):
    text = changed(tmp_path, asked, change)
    answer = written.WrittenAnswer("ada", next(iter(asked)), text, None, 2.0)
    written.write_pages([answer], asked, tmp_path / "out")


def test_marks_of_whom_there_is_no_answer_are_told(tmp_path, asked):
    (id,) = asked
    written.write_pages([written.WrittenAnswer("Zoë", id, "x", None, 2.0)], asked, tmp_path)
    table = (tmp_path / "marks.csv").read_text(encoding="utf-8")
    (tmp_path / "marks.csv").write_bytes(table.replace(",,2,", ",1.5,2,").encode("mac_roman"))
    with pytest.warns(UserWarning, match="of whom there is no answer"):
        written.read_folder(tmp_path)


@pytest.mark.honest("right")
@pytest.mark.parametrize(
    "change",
    [
        *(in_place, without_metadata, without_id, emptied, as_code),
        *(with_a_copy_below, with_a_copy_above, in_a_cell_below),
    ],
)
@pytest.mark.parametrize("edition", ["labs", "labs-zh"])
def test_a_written_answer_is_found_wherever_an_editor_has_left_it(tmp_path, asked, change, edition):
    lab = ROOT / edition / f"{LAB}.ipynb"
    assert changed(tmp_path, asked, change, lab) == "Prune first."


@pytest.mark.attack("files")
@pytest.mark.parametrize("cell", ["{}", "asked"])
def test_a_notebook_of_very_many_cells_has_its_written_answer_read_in_time(tmp_path, asked, cell):
    id, (question, _) = next(iter(asked.items()))
    about = {"nbgrader": {"grade_id": id, "grade": True, "solution": True}}
    answer = {"cell_type": "markdown", "source": f"{question}\n\nPrune first.", "metadata": about}
    cell = json.dumps({**answer, "source": ""}) if cell == "asked" else cell
    many = min(1_000_000, 19 * 2**20 // (len(cell) + 1))
    path = tmp_path / "ada.ipynb"
    path.write_text(f'{{"cells": [{json.dumps(answer)}' + f",{cell}" * many + "]}")
    start = time.process_time()
    (read, *_) = written.collect({"ada": Found(path)}, asked)
    assert time.process_time() - start < 60
    assert read.text == "Prune first."


@pytest.mark.parametrize("edition", ["labs", "labs-zh"])
def test_a_question_that_nobody_has_answered_has_no_answer(tmp_path, asked, edition):
    lab = ROOT / edition / f"{LAB}.ipynb"
    assert changed(tmp_path, asked, lambda cells, n: None, lab) == ""


def test_the_learner_sees_the_question_the_rubric_and_a_place_for_the_mark(
    tmp_path, asked, results
):
    found = {"carol": handed_in(tmp_path, "carol", "\n\nPrune first.")}
    rubrics = written.read_rubrics(ROOT / "solutions" / "written.toml")
    written.write_pages(written.collect(found, asked), asked, tmp_path / "w", rubrics)
    (answer,) = written.read_folder(tmp_path / "w")["carol"]
    page = read(learner_page(results, "carol", [answer]))
    assert "door locks" in page
    assert "__ of 2 points" in page
    assert all(line in page for line in rubrics[answer.question].rubric)


def test_the_learners_page_speaks_chinese(tmp_path, asked, results):
    rubrics = written.read_rubrics(ROOT / "solutions" / "written.toml")
    found = {"carol": handed_in(tmp_path, "carol", "\n\nPrune first.")}
    written.write_pages(written.collect(found, asked), asked, tmp_path / "w", rubrics)
    (answer,) = written.read_folder(tmp_path / "w")["carol"]
    assert "<html lang='zh'>" in learner_page(results, "carol", [answer], "zh")
    shown = read(learner_page(results, "carol", [answer], "zh"))
    english = read(learner_page(results, "carol", [answer]))
    for word in ("书面问题：2 分中得 __ 分", "每项占四分之一", "没有", "练习得分"):
        assert word in shown
    for word in ("Written question", "A quarter", "exercise", "what happened", "door locks"):
        assert word in english
        assert word not in shown
    assert "Prune first." in shown
    missed = read(learner_page(results, "=cmd|' /C calc'!A0", (), "zh"))
    assert translated(MISTAKE.hint, "zh")[:20] in missed


def test_a_language_that_there_is_not_is_refused(results, tmp_path):
    with pytest.raises(ValueError, match="language must be one of en, zh, got 'fr'"):
        feedback.write_feedback(results, tmp_path / "out", language="fr")
    assert not (tmp_path / "out").exists()


SAVED = {
    "as it was written": (",", "utf-8", "1.5"),
    "semicolons": (";", "utf-8-sig", "1.5"),
    "semicolons and a decimal comma": (";", "cp1252", "1,5"),
    "as Unicode text": ("\t", "utf-16", "1.5"),
}


@pytest.mark.parametrize("mark,encoding,points", SAVED.values(), ids=SAVED)
def test_marks_are_read_as_a_spreadsheet_has_saved_them(tmp_path, mark, encoding, points):
    rows = [marks_table.COLUMNS, ("Zoë", "q", points, "2", "why?"), ("", "", "", "", "")]
    text = "\r\n".join(mark.join(row) for row in rows)
    (tmp_path / "marks.csv").write_bytes(text.encode(encoding))
    (answer,) = marks_table.read_marks(tmp_path / "marks.csv").values()
    assert (answer.learner, answer.points, answer.remark) == ("Zoë", 1.5, "why?")


def one_answer(asked, text="Prune first.", learner="ada"):
    id = next(iter(asked))
    return written.WrittenAnswer(learner, id, text, None, 2.0)


def test_a_folder_of_another_labs_answers_is_not_written_into(tmp_path, asked):
    other = written.questions(ROOT / "labs" / "04_pruning.ipynb")
    written.write_pages([one_answer(other)], other, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"holds answers to written-.*, a question of another lab"):
        written.write_pages([one_answer(asked)], asked, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_pages_of_another_lab_are_not_replaced(tmp_path, results):
    feedback.write_feedback(results, tmp_path)
    feedback.write_feedback(results, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    other = dataclasses.replace(results, lab="04_pruning")
    with pytest.raises(ValueError, match=r"class\.html is no page about Lab 04: pruning"):
        feedback.write_feedback(other, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.honest("right")
def test_columns_that_a_marker_adds_stay_when_more_is_collected(tmp_path, asked):
    id = next(iter(asked))
    written.write_pages([one_answer(asked)], asked, tmp_path)
    table = tmp_path / "marks.csv"
    rows = [[*marks_table.COLUMNS, "seen by"], ["ada", id, "1.5", "2", "good", "=Zoë"]]
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    written.write_pages([one_answer(asked), one_answer(asked, learner="bob")], asked, tmp_path)
    read = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [r["seen by"] for r in read] == ["'=Zoë", ""]
    assert [r["points"] for r in read] == ["1.5", ""]


@pytest.mark.honest("right")
def test_a_copied_row_takes_no_mark_away_and_two_marks_are_told(tmp_path):
    rows = [marks_table.COLUMNS, ("ada", "q", "1.5", "2", ""), ("ada", "q", "", "2", "")]
    path = tmp_path / "marks.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    assert marks_table.read_marks(path)["ada", "q"].points == 1.5
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(("ada", "q", "1", "2", ""))
    with pytest.raises(ValueError, match=r"row 4: 'ada' has another mark for q further up"):
        marks_table.read_marks(path)


def test_very_many_apostrophes_end_nothing():
    assert as_typed(harmless("'" * 100_000 + "=1")) == "'" * 100_000 + "=1"


@given(st.text() | st.from_regex(r"'*[ \u200b]*[=+@＝-].*", fullmatch=True))
def test_what_a_table_holds_is_read_back_as_it_was_typed(text):
    assert as_typed(harmless(text)) == text


@pytest.mark.attack("pages")
def test_what_turns_the_direction_of_writing_is_shown_as_its_escape(asked):
    id, (question, points) = next(iter(asked.items()))
    answer = written.WrittenAnswer("x\u202egnp.exe", id, "a\x1b[31mb\0c", None, 2.0)
    page = written._page(id, question, points, None, [answer])
    assert "\\u202e" in page
    assert not set("\u202e\x1b\0") & set(page)
    assert "\u202e" not in html_page("x\u202ey", "")


def test_every_written_question_has_its_rubric():
    rubrics = written.read_rubrics(ROOT / "solutions" / "written.toml")
    asked = {
        id: points
        for lab in (ROOT / "labs").glob("[0-9][0-9]_*.ipynb")
        for id, (_, points) in written.questions(lab).items()
    }
    assert rubrics.keys() == asked.keys()
    for id, rubric in rubrics.items():
        assert len(rubric.rubric) == 4
        assert len(rubric.oral) == 3
        points = [points for points, _ in rubric.samples]
        assert points == sorted(points, reverse=True)
        assert points[0] == asked[id]
        assert len({*points}) == 3
        assert len(rubric.model) > 300


def test_the_rubric_stands_above_the_answers(tmp_path, asked):
    rubrics = written.read_rubrics(ROOT / "solutions" / "written.toml")
    answers = written.collect({"ada": handed_in(tmp_path, "ada", "\n\nPrune.")}, asked)
    page, *_ = written.write_pages(answers, asked, tmp_path / "w", rubrics)
    text = read(page.read_text(encoding="utf-8"))
    (rubric,) = (rubrics[id] for id in asked)
    assert text.index(rubric.rubric[0]) < text.index(rubric.oral[2]) < text.index("Prune.")


def test_a_broken_file_of_rubrics_is_named(tmp_path):
    for text in ("x = [", "[a]\nrubric = []"):
        (tmp_path / "written.toml").write_text(text)
        with pytest.raises(ValueError, match=r"written\.toml is broken"):
            written.read_rubrics(tmp_path / "written.toml")


BROKEN = {
    "learner,question\na,b\n": "has no column out_of, points, remark",
    "learner,question,points,out_of,remark\na,b,3,2,\n": "row 2: points must be 0 to 2, got 3",
    "learner,question,points,out_of,remark\na,b,x,2,\n": "row 2: could not convert",
    "learner,question,points,out_of,remark\na,b,nan,2,\n": "row 2: points must be 0 to 2, got nan",
}


@pytest.mark.parametrize("text,told", BROKEN.items())
def test_a_broken_table_of_marks_names_its_row(tmp_path, text, told):
    (tmp_path / "marks.csv").write_text(text)
    with pytest.raises(ValueError, match=told):
        marks_table.read_marks(tmp_path / "marks.csv")


def test_the_commands_collect_and_give_back(tmp_path, results, monkeypatch):
    monkeypatch.chdir(ROOT)
    place = tmp_path / "in"
    place.mkdir()
    handed_in(place, "ada", "\n\nPrune.")
    run = CliRunner().invoke
    collected = run(app, ["written", str(place), "--lab", "12", "--out", str(tmp_path / "w")])
    assert collected.exit_code == 0, collected.output
    marks = {"run": {"lab": "12", "seed": 1}, "marks": [m.as_dict() for m in everything("ada")]}
    (tmp_path / "marks.json").write_text(json.dumps(marks))
    options = ["--out", str(tmp_path / "f"), "--written", str(tmp_path / "w")]
    given = run(app, ["feedback", str(tmp_path / "marks.json"), *options])
    assert given.exit_code == 0, given.output
    (page,) = (tmp_path / "f" / "learners").iterdir()
    assert "Prune." in page.read_text(encoding="utf-8")
    missing = run(app, ["feedback", str(tmp_path / "no.json"), "--out", str(tmp_path / "g")])
    assert missing.exit_code == 2
    assert not (tmp_path / "g").exists()
