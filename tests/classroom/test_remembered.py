"""What the judge remembers of the library's own functions, and what it does not."""

import numpy as np
import pytest

from compresslab.classroom import judge
from compresslab.classroom.exercise import Case, Exercise, Mistake


class Counted:
    """A function that says how often it was called, and fails as often as it is told to."""

    def __init__(self, function, *failures):
        self.calls, self.function, self.failures = 0, function, list(failures)

    def __call__(self, *arguments):
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.function(*arguments)


def cases(random):
    return [Case("three", (random.normal(size=3),)), Case("none", (np.zeros(0),))]


def doubled(reference, mistake):
    mistakes = (Mistake("the square", mistake, "Twice a number is not its square."),)
    return Exercise("test.double", "Double it", 1, reference, cases, mistakes, 1)


def test_a_second_check_runs_neither_the_reference_nor_a_mistake_again():
    reference, mistake = Counted(lambda x: 2 * x), Counted(lambda x: x**2)
    e = doubled(reference, mistake)
    for _ in range(3):
        assert judge.judge(lambda x: x**2, e).mistake == "the square"
        assert judge.judge(lambda x: x + x, e).passed
        assert (reference.calls, mistake.calls) == (2, 2)
    assert judge.judge(lambda x: x + x, e, seed=1).passed
    assert reference.calls == 4


def test_an_answer_cannot_change_what_is_expected():
    def spoils(x):
        x[...] = 0
        return x

    e = doubled(lambda x: 2 * x, lambda x: x**2)
    assert judge.judge(spoils, e).status == "failed"
    assert not judge.judge(lambda x: np.zeros(3), e).passed
    assert judge.judge(lambda x: 2 * x, e).passed


def test_an_error_of_the_moment_is_not_remembered():
    reference = Counted(lambda x: 2 * x, MemoryError())
    mistake = Counted(lambda x: x**2, MemoryError())
    e = doubled(reference, mistake)
    with pytest.raises(MemoryError):
        judge.judge(lambda x: x**2, e)
    assert judge.judge(lambda x: x**2, e).mistake is None
    assert judge.judge(lambda x: x**2, e).mistake == "the square"


def test_a_check_that_was_interrupted_in_a_mistake_ends_and_the_next_one_names_it():
    mistake = Counted(lambda x: x**2, KeyboardInterrupt())
    e = doubled(lambda x: 2 * x, mistake)
    with pytest.raises(KeyboardInterrupt):
        judge.judge(lambda x: x**2, e)
    assert judge.judge(lambda x: x**2, e).mistake == "the square"


def test_two_cases_of_equal_numbers_are_two():
    one, other = Case("a", (np.ones(2),)), Case("a", (np.ones(2),))
    assert one == one
    assert one != other
    assert len({one, other}) == 2
