"""An exercise: what is asked, how it is judged, and what is likely to go wrong.

An exercise has a reference (the library's own function), cases (ugly ones among them) and known
*mistakes*: wrong implementations that people really write, each with a hint. `judge` compares a failing
answer with them, so that a learner hears which mistake was made. The same list tests the judge: every
mistake must be rejected under its own name.

There are three kinds. A *warm-up* is a formula in a few lines; where a slow version stands beside it, a large
case asks for more than that version. A *build* is judged in stages, each with
points of its own, up to the first that is not right. An *open*
exercise has no right answer: what comes of it is measured, and three thresholds say what it is worth.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


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
    from numba import njit  # not in a browser, where nothing is compiled

    return njit(function, boundscheck=True)


@dataclass(frozen=True, eq=False)
class Case:
    """The arguments of one call, what is special about them, and the stage of a build that it belongs to.

    `hidden` is what an open exercise is measured against, and no answer gets. A case is equal to itself
    alone, so that what came of it can be remembered by it: its arrays have no hash.
    """

    label: str
    args: tuple
    stage: str = ""
    hidden: tuple = ()


@dataclass(frozen=True)
class Medals:
    """What the outcome of an open exercise is worth.

    Attributes:
        bronze: what a plain way reaches; a third of the points.
        silver: two thirds of them.
        gold: what good work of some hours reaches; all of them.
        measure: from the case and what the answer returned for it to the outcome, higher is better; a
            sentence if it breaks the rules.
        unit: what the outcome is, such as "% of the validation images".
        plain: a plain way, to compare with.
    """

    bronze: float
    silver: float
    gold: float
    measure: Callable[[Case, object], float | str]
    unit: str
    plain: Callable

    def of(self, outcome: float) -> tuple[str, float]:
        """The medal of an outcome, and its fraction of the points; "" and 0 below bronze."""
        for number, name in enumerate(("gold", "silver", "bronze")):
            if outcome >= getattr(self, name):
                return name, (3 - number) / 3
        return "", 0.0


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
        look: what is made of what came back, from that and the case's arguments: grading does it outside of
            the sandbox, where no answer can reach it. Of a build usually a sentence; `RIGHT` if all is well.
        compiled: whether the answer must be a function compiled by Numba.
        returns: what the cases' results mean, if that is not plain from the task.
        digits: where an exercise is about bits, the binary digits of each number of its result.
        large: makes a call with so many numbers that a loop over them runs more than `steps.MOST_LINES` and
            whole arrays take milliseconds; an answer that is right but slow there earns half of the points.
        stages: of a build, the stages in order with the points of each; every case names its stage.
        medals: of an open exercise, how its outcome is measured and what that is worth.
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
    look: Callable[..., object] | None = None
    compiled: bool = False
    returns: str = ""
    digits: int = 0
    large: Callable[[np.random.Generator], Case] | None = None
    stages: tuple[tuple[str, int], ...] = ()
    medals: Medals | None = None

    @property
    def kind(self) -> str:
        """One of "warm-up", "build" and "open"."""
        return "open" if self.medals else "build" if self.stages else "warm-up"

    def driven(self, function: Callable) -> Callable:
        """The function as the cases call it; compiled code with its indices checked."""
        if self.compiled and hasattr(function, "py_func"):
            function = with_bounds(function.py_func)
        run = self.harness(function) if self.harness else function
        if self.look is None:
            return run
        return lambda *args: self.look(run(*args), *args)

    def seconds_allowed(self, reference: float) -> float:
        """How long the large case may take, from how long the reference takes for it."""
        return max(AT_LEAST, SLOWER * reference)


RIGHT = "right"
"""What `look` says of a stage that is as it should be."""
SLOWER, AT_LEAST = 20.0, 1.0
"""How many times as long as the reference an answer may take, and seconds that are never too many."""
