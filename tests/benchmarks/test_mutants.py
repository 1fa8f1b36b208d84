"""Mistakes by rule: what stands on the page and in the check is of the present answers."""

import pytest

from benchmarks import mutants
from compresslab.classroom import by_rule
from compresslab.classroom.exercises import LABS

ANSWER = '''
import numpy as np

def kept(x, low, high):
    """Not in here: 1 + 1."""
    return np.clip(x[1:] + 2 * low, low, high).sum(axis=0) if low <= high else -x
'''


def test_a_rule_changes_one_place_and_leaves_the_rest():
    made = list(mutants.mutants(ANSWER))
    found = {(m.change.rule, m.change.wrong, m.change.right) for m in made}
    assert found == {
        ("operator", "-", "+"),
        ("operator", "/", "*"),
        ("constant", "3", "2"),
        ("constant", "2", "1"),
        ("constant", "1", "0"),
        ("function", "mean", "sum"),
        ("axis", "1", "0"),
        ("missing", "", "clip"),
        ("comparison", "<", "<="),
        ("sign", "", "minus"),
        ("slice", "", ""),
    }
    assert {m.change.rule for m in made} == set(by_rule.HINTS)
    assert all(compile(m.source, "x", "exec") for m in made)


def test_the_page_says_what_is_kept_and_that_is_of_the_present_answers():
    kept, now = mutants.read(), mutants.asked_now()
    stale = [id for id, answer in now.items() if id not in kept or kept[id].answer != answer]
    assert not stale, "run `python -m benchmarks.mutants`"
    assert set(kept) == set(now)
    assert mutants.PAGE.read_text(encoding="utf-8") == mutants.page([kept[id] for id in now])


def test_four_of_five_mistakes_that_stop_nothing_get_a_hint():
    rows = list(mutants.read().values())
    named, told = sum(r.named for r in rows), sum(r.told for r in rows)
    assert named >= 0.8 * (named + told) > 0


@pytest.mark.parametrize("lab", [lab for lab in LABS if lab[:2] in ("01", "04", "12")])
def test_what_the_check_knows_is_what_the_wrong_answers_give(lab):
    known, seen = by_rule.known(), 0
    for exercise, source, space in mutants.answers(lab):
        if exercise.kind != "warm-up":
            continue
        rows = mutants.learnt(exercise, source, space)
        stored = known.get(exercise.id, [])
        assert [(r["rule"], r["wrong"], r["right"]) for r in rows] == [
            (r["rule"], r["wrong"], r["right"]) for r in stored
        ]
        for one, other in zip(rows, stored, strict=True):
            assert all(map(by_rule.same, one["cases"], other["cases"])), exercise.id
            seen += 1
    assert seen > 10
