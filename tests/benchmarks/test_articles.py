"""The page that leads from the articles to the labs."""

import re

import pytest

from benchmarks import articles


def test_the_committed_page_is_that_of_the_findings():
    assert articles.PAGE.read_text(encoding="utf-8") == articles.page(), (
        "run `python -m benchmarks.articles`"
    )


def test_what_is_said_to_hold_in_full_has_a_finding_or_a_note():
    text = articles.page()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    for row in rows:
        if row[1] in ("holds", "not here", "false") and row[3].strip(" |") == "-":
            assert row[1] == "not here", row


def test_every_place_is_a_link_to_a_lab_that_is_there():
    links = re.findall(r"\]\(\.\./labs/([^)]+)\)", articles.page())
    assert len(links) > 60
    assert set(links) <= set(articles.files().values())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"verdict": "perhaps"}, "verdict must be one of holds"),
        ({"where": ["00 §99"]}, "lab 00 has no section 99"),
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
    row = {"says": "a | b", "verdict": "in part", "note": "|x|"}
    assert articles._row(row, [], {}, {}) == r"| a \| b | in part | - | \|x\| |"


def test_a_row_of_a_longer_experiment_has_its_findings_and_a_link():
    row = {"says": "a", "verdict": "holds", "longer": ["smoothness"]}
    text = articles._row(row, [], {}, {})
    assert "[smoothness](longer.md#smoothness)" in text
    assert "5 of 5" in text
