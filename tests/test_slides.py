"""The slides: every lab asks, shows and says what it claims, and the lecturer's notes are all there."""

import csv
import importlib.util
import io
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from compresslab.markup import picture

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("write", ROOT / "docs" / "slides" / "write.py")
write = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(write)
GUIDES = tomllib.loads((ROOT / "docs" / "teaching" / "labs.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("slides")
    write.write(place)
    return place


def solution(number):
    return nbformat.read(next((ROOT / "solutions").glob(f"{number}_*.ipynb")), 4)


@pytest.mark.parametrize("number", GUIDES)
def test_every_question_of_the_lab_is_asked_with_its_choices(folder, number):
    text = (folder / f"{number}.md").read_text(encoding="utf-8")
    asked = [s for sec in write.shown(solution(number)) for s in sec.steps]
    questions = [step for step in asked if isinstance(step, write.Question)]
    code = "\n".join(c.source for c in solution(number).cells if c.cell_type == "code")
    assert len(questions) == len(re.findall(r"= predict\(", code)) > 0
    assert all(len(q.choices) != 1 for q in questions)
    for question in questions:
        assert question.text in text
        assert all(f"- {choice}" in text for choice in question.choices)


@pytest.mark.parametrize("number", GUIDES)
def test_every_picture_is_a_file_with_its_words(folder, number):
    text = (folder / f"{number}.md").read_text(encoding="utf-8")
    named = re.findall(r"```\{image\} (\S+)\n:alt: (.+)\n```", text)
    assert len(named) == text.count("{image}")
    assert [name for name, _ in named] == sorted(p.name for p in folder.glob(f"{number}-*.png"))
    for name, words in named:
        assert len(words) > 20
        Image.open(folder / name).verify()


@pytest.mark.parametrize("number", GUIDES)
def test_findings_stand_there_with_the_runs_in_which_they_held(folder, number):
    text = (folder / f"{number}.md").read_text(encoding="utf-8")
    said = re.findall(r"^- (.+) \((\d+) of (\d+) runs\)$", text, re.MULTILINE)
    assert len(said) == text.count(" runs)\n") > 0
    assert len(said) == len(
        [
            step
            for section in write.shown(solution(number))
            for step in section.steps
            if type(step) is str
        ]
    )
    with (ROOT / "compresslab" / "findings.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["lab"] == number]
    recorded = {row["sentence"]: (row["held"], row["runs"]) for row in rows}
    for sentence, held, runs in said:
        assert recorded[sentence] == (held, runs)


@pytest.mark.parametrize("number", GUIDES)
def test_the_lecturer_finds_every_question_to_stop_at(folder, number):
    text = (folder / f"{number}.md").read_text(encoding="utf-8")
    notes = "".join(re.findall(r"```\{revealjs-notes\}\n(.*?)\n```", text, re.DOTALL))
    for said in (*(stop["ask"] for stop in GUIDES[number]["stop"]), GUIDES[number]["board"]):
        assert said in notes


def test_a_lab_of_somebody_elses_becomes_slides(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, "PNG")
    shown = new_output("display_data", {"text/html": picture(buffer.getvalue(), 'Bits & "bytes"')})
    code = (
        "guess = predict('How many?', [1, *(-2, name)])\nother = predict('How large?')\n"
        "claim(f'A sentence put together {x}', x > 0)\nclaim('A sentence', x)"
    )
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Lab 77 · Own"),
            new_markdown_cell("Words.\n\n## One thing\n\nMore."),
            new_code_cell(code, outputs=[shown]),
            new_markdown_cell("## Nothing to show"),
            new_markdown_cell("## Longer than a lab · Much"),
            new_code_cell("claim('Not shown', 1)"),
            new_markdown_cell("## Recap\n\n- Short.\n\n**Back:** there\n\n**References.** None"),
        ]
    )
    guide = {"purpose": "To see.", "board": "A box.", "careful": "Hot.", "papers": "None"}
    guide["stop"] = [{"at": "One thing", "ask": "Why?"}]
    lines = write.slides("77", notebook, guide, tmp_path).split("\n\n")
    headings = [line for line in lines if line.startswith("#")]
    before, out, holds = (
        f"## {w}: One thing" for w in ("Before you look", "What came out", "In our runs")
    )
    assert headings == [
        *("# Lab 77 · Own", "# One thing", before, before, out, holds),
        *("# To take home", "# To read"),
    ]
    assert lines[lines.index("How many?") + 1 : lines.index("How large?") - 1] == ["- 1", "- -2"]
    assert '```{image} 77-01.png\n:alt: Bits & "bytes"\n```' in lines
    assert lines[lines.index(holds) + 1] == "- A sentence"
    assert "- Short." in lines
    assert not any(word in line for line in lines for word in ("Not shown", "there", "References"))
