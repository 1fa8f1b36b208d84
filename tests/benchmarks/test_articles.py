"""The page that leads from the articles to the labs."""

import ast
import html
import re

import nbformat
import pytest

from benchmarks import articles
from benchmarks.basis import sentence_of


def test_the_committed_page_is_that_of_the_findings():
    assert articles.PAGE.read_text(encoding="utf-8") == articles.page(), (
        "run `python -m benchmarks.articles`"
    )


def test_every_statement_was_run_or_says_why_it_cannot_be():
    text = articles.page()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 90
    for says, verdict, where, found in (row for row in rows if row[0] != "| it is said"):
        assert found.strip(" |") != "-", says
        assert verdict == articles.BEYOND or "](" in where, says


def test_every_place_is_a_link_to_a_lab_that_is_there():
    links = re.findall(r"\]\(\.\./labs/([^)]+)\)", articles.page())
    assert len(links) > 60
    assert set(links) <= set(articles.files().values())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"verdict": "perhaps"}, "verdict must be one of holds"),
        ({"where": ["00 §1"], "longer": ["smoothness"]}, "has where, which no row has"),
        ({"note": "prose alone"}, "needs claims or longer experiments"),
        ({"verdict": "out of reach"}, "needs a note with the reason"),
        ({"claims": ["Nobody said this"]}, "must begin with 'Nobody said this', found: none"),
        ({"claims": ["At 4 bits"]}, r"found: At 4 bits, .* \(lab 03\); At 4 bits"),
        ({"verdict": "not run"}, "verdict must be one of holds"),
        ({"longer": ["nothing"]}, "name must be one of"),
        ({"longer": ["smoothness: Nothing"]}, "no finding of smoothness begins with 'Nothing'"),
    ],
)
def test_a_row_that_leads_nowhere_is_refused(change, words):
    row = {"says": "a", "verdict": "holds", **change}
    with pytest.raises(ValueError, match=words):
        articles._row(row, course())


def course():
    return articles.Course(articles.findings(), articles.sections(), articles.files())


NOBODY = articles.Course([], {}, {})


def test_a_bar_in_a_cell_does_not_end_it():
    row = {"says": "a | b", "verdict": "out of reach", "note": "|x|"}
    assert articles._row(row, NOBODY) == r"| a \| b | out of reach | - | \|x\| |"


def test_a_row_of_a_longer_experiment_has_its_findings_and_a_link():
    row = {"says": "a", "verdict": "holds", "longer": ["smoothness"]}
    text = articles._row(row, NOBODY)
    assert "[01](../labs/01_numbers.ipynb): [smoothness](longer.md#smoothness)" in text
    assert text.count("5 of 5") == 3
    chosen = articles._row(row | {"longer": ["smoothness: Moved by half"]}, NOBODY)
    assert chosen.count("5 of 5") == 1
    assert "Moved by half of their size" in chosen


def test_every_finding_is_placed_under_the_last_heading_above_it_in_the_executed_lab():
    told, seen = articles.sections(), 0
    for lab, name in articles.files().items():
        head, printed = "", {}
        executed = nbformat.read(articles.ROOT / "solutions" / name, 4)
        for cell in executed.cells:
            if cell.cell_type == "markdown":
                heads = [x for x in cell.source.splitlines() if x.startswith("## ")]
                head = heads[-1][3:] if heads else head
            for output in cell.get("outputs", ()):
                printed.setdefault(head, []).append(str(output))
        for found in (f for f in articles.findings() if f["lab"] == lab):
            place = articles.place(found, told).removeprefix(f"{lab} ").removeprefix("§")
            said = html.escape(found["sentence"], quote=False)[:40]
            under = [h for h, texts in printed.items() if any(said in text for text in texts)]
            # What is about another processor, or another text in each run, is not printed here.
            assert not under or any(h == place or h.startswith(f"{place} ·") for h in under), found
            seen += bool(under)
    assert seen > 0.9 * len(articles.findings())


def test_a_finding_that_no_lab_claims_any_more_is_named():
    with pytest.raises(ValueError, match="no claim of lab 00 says 'The moon is made of cheese'"):
        articles.place({"lab": "00", "sentence": "The moon is made of cheese"}, articles.sections())


def test_a_sentence_that_is_put_together_in_the_lab_is_found():
    call = ast.parse('claim(f"{name}: within two points", 1)').body[0].value
    assert sentence_of(call).fullmatch("int8 (really): within two points")
    assert not sentence_of(call).fullmatch("int8: within two pointers")
