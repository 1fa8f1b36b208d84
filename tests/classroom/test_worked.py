"""Worked cases beside the answers: what the library gives, short, in every lab and in no solution."""

import ast
import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from compresslab.classroom.exercises import EXERCISES
from compresslab.classroom.worked import NUMBERS, WIDEST, worked_cases, written

ROOT = Path(__file__).parents[2]
WARM_UPS = [e for e in EXERCISES.values() if e.kind == "warm-up"]
WITH_CASES = [e for e in WARM_UPS if worked_cases(e)]


def test_three_of_four_warm_ups_have_one():
    assert len(WITH_CASES) >= 0.75 * len(WARM_UPS)


@pytest.mark.parametrize("exercise", WITH_CASES, ids=lambda e: e.id)
def test_a_case_says_what_the_library_gives(exercise):
    """Read again as Python: the same call among the check's cases, the same numbers to four digits."""
    text = "\n".join(line.removeprefix("# ") for line in worked_cases(exercise))
    assert max(map(len, worked_cases(exercise))) <= WIDEST
    calls = {}
    for case in exercise.cases(np.random.default_rng(0)):
        parts = [written(value) for value in case.args]
        if None not in parts:
            calls[", ".join(parts)] = case
    for line in text.replace("\n    ->", " ->").splitlines():
        call, _, result = line.partition(" -> ")
        name, _, arguments = call.partition("(")
        assert name == exercise.id.partition(".")[2]
        expected = exercise.reference(*calls[arguments.removesuffix(")")].args)
        assert same(ast.literal_eval(result), plain(expected))


def plain(value):
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    return value.tolist() if isinstance(value, np.ndarray | torch.Tensor | np.generic) else value


def same(one, other):
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or math.isclose(one, other, rel_tol=1e-3)


NUMBER = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)


@example([1.7975e308])  # to four digits it is infinite
@given(st.lists(NUMBER, min_size=1, max_size=9) | st.booleans() | st.text(max_size=9) | st.none())
def test_what_is_written_is_python_and_read_back_to_four_digits(value):
    assert same(ast.literal_eval(written(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        *(np.zeros(NUMBERS + 1), torch.zeros(0), object(), [1, object()], torch.nn.Linear(1, 1)),
        *({1: 2}, math.nan, -math.inf),
    ],
    ids=[
        *("many numbers", "none", "an object", "an object inside", "a layer", "a dictionary"),
        *("NaN", "infinite"),
    ],
)
def test_what_is_long_or_has_no_such_form_is_left_out(value):
    assert written(value) is None


@pytest.mark.parametrize("path", sorted((ROOT / "labs").glob("[0-9]*.ipynb")), ids=lambda p: p.stem)
def test_a_lab_shows_them_where_the_answer_is_written_and_its_solution_has_the_answer(path):
    shown = 0
    for folder in ("labs", "labs-zh", "solutions"):
        for cell in nbformat.read(ROOT / folder / path.name, as_version=4).cells:
            grade = cell.metadata.get("nbgrader", {})
            exercise = EXERCISES.get(grade.get("grade_id", "").replace("-", ".", 1))
            if cell.cell_type != "code" or exercise is None or not grade.get("solution"):
                continue
            lines = [f"    {line}" for line in worked_cases(exercise)]
            inside = "\n".join([*lines, "    # your code here"])
            assert (inside in cell.source) == (folder != "solutions")
            shown += bool(lines)
    assert shown or path.stem in ("13_real_networks", "14_clinic")  # builds, and one long warm-up
