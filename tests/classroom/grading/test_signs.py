"""What a learner writes neither steers a page or a table nor turns their direction; honest names stay."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresslab.classroom.grading.folder import harmless
from compresslab.classroom.grading.html_page import TURNS, escaped

FORMULA = '=HYPERLINK("http://x","y")'


@pytest.mark.parametrize(
    "before", ["", " ", "\n", "\t", "\r", "\u00a0", "\u3000", "\ufeff", "\u200b", "\u202e", " \n "]
)
@pytest.mark.parametrize(
    "formula", [FORMULA, FORMULA.replace("=", "\uff1d", 1), "+1+1", "-1", "@SUM"]
)
def test_a_formula_is_text_in_a_table_whatever_stands_before_it(before, formula):
    assert harmless(before + formula).startswith("'")


@pytest.mark.parametrize("cell", ["alice", "Ω", "", " ", "a=b", "1 - 2", 3, 1.5, None, True])
def test_what_is_no_formula_stays(cell):
    assert harmless(cell) is cell or harmless(cell) == cell


@given(st.text())
def test_a_page_holds_no_sign_that_steers_or_turns(words):
    shown = escaped(words)
    assert not set(shown) & TURNS
    kinds = {unicodedata.category(c) for c in shown if c not in "\n\t"}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    shown.encode()


def test_the_reversed_ending_of_a_file_is_seen():
    assert escaped("exe\u202egnp.txt") == "exe\\u202egnp.txt"


@pytest.mark.parametrize(
    "name", ["Zoë", "محمد", "دانش\u200cآموز", "张伟", "👩\u200d🔬 Ada", "a\n\tb"]
)
def test_honest_names_stay_as_they_are(name):
    assert escaped(name) == name
