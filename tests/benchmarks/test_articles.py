"""The page that leads from the articles to the labs."""

import re

import pytest

from benchmarks import articles


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
        ({"where": ["00 §99"], "longer": ["smoothness"]}, "lab 00 has no section 99"),
        ({"note": "prose alone"}, "needs claims or longer experiments"),
        ({"verdict": "out of reach"}, "needs a note with the reason"),
        (
            {"where": ["00 §1"], "claims": ["Nobody said this"]},
            "must begin with 'Nobody said this'",
        ),
        ({"where": ["01 §5"], "claims": ["At "]}, "found: At"),
        ({"verdict": "not run"}, "verdict must be one of holds"),
        ({"longer": ["nothing"]}, "name must be one of"),
    ],
)
def test_a_row_that_leads_nowhere_is_refused(change, words):
    row = {"says": "a", "verdict": "holds", **change}
    known, heads, names = articles.findings(), articles.sections(), articles.files()
    with pytest.raises(ValueError, match=words):
        articles._row(row, known, heads, names)


def test_a_bar_in_a_cell_does_not_end_it():
    row = {"says": "a | b", "verdict": "out of reach", "note": "|x|"}
    assert articles._row(row, [], {}, {}) == r"| a \| b | out of reach | - | \|x\| |"


def test_a_row_of_a_longer_experiment_has_its_findings_and_a_link():
    row = {"says": "a", "verdict": "holds", "longer": ["smoothness"]}
    text = articles._row(row, [], {}, {})
    assert "[smoothness](longer.md#smoothness)" in text
    assert "5 of 5" in text
