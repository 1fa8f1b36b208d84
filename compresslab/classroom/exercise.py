"""An exercise: what is asked, how it is judged, and what is likely to go wrong.

An exercise has a reference (the library's own function), cases (ugly ones among them) and known
*mistakes*: wrong implementations that people really write, each with a hint. `judge` compares a failing
answer with them, so that a learner hears which mistake was made. The same list tests the judge: every
mistake must be rejected under its own name.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit


@dataclass(frozen=True)
class Mistake:
    """A wrong implementation that people write, and what to tell them.

    Attributes:
        name: in a few words.
        wrong: the implementation.
        hint: leads on without giving the answer away.
        also: other ways to make the same mistake, which differ on some case.
    """

    name: str
    wrong: Callable
    hint: str
    also: tuple[Callable, ...] = ()

    @property
    def forms(self) -> tuple[Callable, ...]:
        """Every implementation of the mistake."""
        return (self.wrong, *self.also)


@functools.cache
def with_bounds(function: Callable) -> Callable:
    """Compiled so that an index out of range is an error: without that it writes over other memory."""
    return njit(function, boundscheck=True)


@dataclass(frozen=True)
class Case:
    """The arguments of one call, and what is special about them."""

    label: str
    args: tuple


@dataclass(frozen=True)
class Exercise:
    """What is asked, how it is judged, and what is likely to go wrong.

    Attributes:
        id: subject and name, such as "numbers.affine_qparams".
        title: what is asked, in a few words.
        points: for a full answer.
        reference: the library's own implementation.
        cases: makes the calls from a random generator; the same generator state, the same calls.
        mistakes: at least three.
        lines: about how long an answer is.
        tolerance: relative and absolute, of floating-point results.
        harness: where the learner's function takes more than plain values (a clock, a model), turns
            it into one that takes the cases' plain values and returns plain values.
        compiled: whether the answer must be a function compiled by Numba.
        returns: what the cases' results mean, if that is not plain from the task.
    """

    id: str
    title: str
    points: int
    reference: Callable
    cases: Callable[[np.random.Generator], Sequence[Case]]
    mistakes: tuple[Mistake, ...]
    lines: int
    tolerance: float = 0.0
    harness: Callable[[Callable], Callable] | None = None
    compiled: bool = False
    returns: str = ""

    def driven(self, function: Callable) -> Callable:
        """The function as the cases call it; compiled code with its indices checked."""
        if self.compiled and hasattr(function, "py_func"):
            function = with_bounds(function.py_func)
        return self.harness(function) if self.harness else function
