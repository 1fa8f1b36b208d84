"""Mistakes that a rule makes are known by their results, however they are written."""

import numpy as np
import pytest
import torch

from compresslab.classroom import by_rule
from compresslab.classroom.calls import CHECK_SEED, call, calls_of, expected_of
from compresslab.classroom.exercises import EXERCISES
from compresslab.classroom.judge import judge
from compresslab.classroom.result import Outcome

KNOWN = by_rule.known()


def digest(value):
    return by_rule.digest(Outcome(value))


X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
OTHERS = {
    "another type": X.astype(np.float64),
    "another shape": X.reshape(4, 3),
    "another order": X[::-1].copy(),
    "two exchanged": np.concatenate([X.ravel()[[1, 0]], X.ravel()[2:]]).reshape(3, 4),
    "another sign": -X,
    "one of them not a number": np.where(X.max() == X, np.float32("nan"), X),
    "a tensor": torch.tensor(X),
    "a tuple": (X,),
    "a number": float(X.sum()),
}


@pytest.mark.parametrize("other", OTHERS)
def test_different_results_have_different_digests(other):
    assert not by_rule.same(digest(X), digest(OTHERS[other]))
    assert by_rule.same(digest(OTHERS[other]), digest(OTHERS[other]))


def test_results_that_differ_by_rounding_have_the_same_digest():
    assert by_rule.same(digest(X), digest(X * np.float32(1 + 1e-6)))
    assert not by_rule.same(digest(X), digest(X * np.float32(1.01)))
    assert by_rule.same(digest((X, 1)), digest((X + 1e-7, 1)))
    assert not by_rule.same(digest((X, 1)), digest((X, 2)))
    assert not by_rule.same(digest(np.zeros(3)), digest(np.zeros(4)))


def test_what_has_no_digest_is_no_known_mistake():
    assert digest({"a": 1}) is None
    assert digest((X, {1})) is None
    assert not by_rule.same(None, None)
    assert by_rule.digest(Outcome(error=KeyError("a"))) == ["e", "KeyError"]
    changed = by_rule.digest(Outcome(X, changed_input=True))
    assert not by_rule.same(digest(X), changed)


@pytest.mark.parametrize("id", KNOWN)
def test_no_right_result_is_a_known_mistake(id):
    exercise = EXERCISES[id]
    cases = calls_of(exercise, CHECK_SEED)
    assert all(len(row["cases"]) == len(cases) for row in KNOWN[id])
    assert {row["rule"] for row in KNOWN[id]} <= set(by_rule.HINTS)
    outcomes = [Outcome(value) for value in expected_of(exercise, cases)]
    assert by_rule.hint(id, outcomes) == ""


def risen(step, steps, final):
    """Written in other words than the model answer, with one sign wrong."""
    left = 1 - step / steps if step < steps else 0.0
    return final + final * left**3


def test_a_mistake_in_the_learners_own_words_is_told():
    result = judge(risen, EXERCISES["prune.cubic_sparsity"])
    assert (result.status, result.mistake) == ("failed", None)
    assert result.hint == by_rule.HINTS["operator"].format(wrong="+", right="-")


def test_nothing_is_said_of_other_seeds_and_of_unknown_exercises():
    exercise = EXERCISES["prune.cubic_sparsity"]
    assert "of a version" not in judge(risen, exercise, seed=1).hint
    cases = calls_of(exercise, CHECK_SEED)
    assert by_rule.hint("no.exercise", [call(lambda *_: 0, case) for case in cases]) == ""
    assert by_rule.hint(exercise.id, []) == ""
