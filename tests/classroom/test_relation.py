"""What is said of wrong numbers is true of them, and nothing is said where nothing can be told."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compresslab.classroom.relation import relation

RIGHT = (
    np.array([[1.0, 2.0, 4.0], [3.0, -5.0, 6.0]]),
    np.array([[2.0, 7.0], [1.0, 9.0], [4.0, 3.0]]),
)


@pytest.mark.parametrize(
    "wrong,said",
    [
        (lambda x: -x, "wrong sign"),
        (lambda x: 2 * x, "is 2 times"),
        (lambda x: x / 4, "is 0.25 times"),
        (lambda x: x * x.size / x.shape[0] ** 2, "off by one factor"),
        (lambda x: x + 1, "off by 1"),
        (lambda x: x.T, "two axes are exchanged"),
        (lambda x: x[::-1], "reversed"),
        (lambda x: np.roll(x, 1, axis=1), "another order"),
        (lambda x: 1 / x, "1 divided by"),
        (lambda x: x**2, "the square of"),
        (lambda x: np.where(x == x.max(), 0, x), "some values are missing"),
        (lambda x: x + (x == x.max()), "one off"),
    ],
)
def test_a_relation_that_holds_in_every_case_is_said(wrong, said):
    assert said in relation([wrong(x) for x in RIGHT], RIGHT)
    tensors = [torch.from_numpy(np.ascontiguousarray(wrong(x))) for x in RIGHT]
    assert said in relation(tensors, [torch.from_numpy(x) for x in RIGHT])


def test_the_root_is_told_of_what_is_not_negative():
    right = (np.array([4.0, 9.0, 16.0]), np.array([25.0, 100.0]))
    assert "square root" in relation([np.sqrt(x) for x in right], right)


def test_masks_that_are_exchanged_and_numbers_alone():
    masks = (np.array([True, False, True]), np.array([False, False]))
    assert relation([~m for m in masks], masks) == "Yes and no are exchanged."
    assert relation([4.0, 6.0], [2.0, 3.0]) == "Every value is 2 times what it should be."
    assert relation([(1, 4.0), (1, 6.0)], [(1, 2.0), (1, 3.0)]).startswith("Every value is 2 times")


@pytest.mark.parametrize(
    "got,expected",
    [
        ([], []),
        ([None], [1.0]),
        ([np.arange(3)], [np.arange(3.0)]),
        ([np.zeros(0)], [np.zeros(0)]),
        ([2 * np.arange(3.0), np.zeros(0)], [np.arange(3.0), np.arange(2.0)]),
        (["a"], ["b"]),
        ([2.0], [1.0]),
        ([np.full(3, np.nan)], [np.arange(3.0)]),
        ([np.zeros(0)], [np.arange(3.0)]),
        ([(1.0,)], [(1.0, 2.0)]),
        ([lambda: 0], [np.arange(3.0)]),
        ([np.array(["x", "y"])], [np.arange(2.0)]),
    ],
)
def test_nothing_is_said_where_nothing_can_be_told(got, expected):
    assert relation(got, expected) == ""


def test_of_masks_only_an_exchange_is_said():
    right = np.array([True, False, True, True])
    assert "exchanged" in relation([~right], [right])
    assert relation([np.array([True, True, True, True])], [right]) == ""


def test_between_single_numbers_a_factor_is_said_only_if_it_is_the_same_in_every_case():
    assert "2 times" in relation([2.0, 6.0], [1.0, 3.0])
    assert relation([2.0, 9.0], [1.0, 3.0]) == ""


@given(st.lists(st.tuples(*[arrays(np.float32, st.integers(0, 4))] * 2), max_size=3))
def test_any_pair_of_arrays_gives_a_sentence_or_nothing(pairs):
    text = relation([a for a, _ in pairs], [b for _, b in pairs])
    assert text == "" or text.endswith((".", "?"))
