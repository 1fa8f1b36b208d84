"""How many lines of Python a function runs: what tells a loop over millions of numbers from whole arrays.

A loop over six million numbers runs more than six million lines, an expression of whole arrays a handful.
The count is the same on every machine, busy or idle. A limit in seconds is not: one that tells them apart on
one machine lets the loop pass on a machine twice as quick, or on a newer Python.

Counted are the lines of code that shares the function's globals: the cell, and what the learner has written
beside it; NumPy's own Python is not. It ends at the limit, so that nobody waits for a slow answer.

Left out: loops that run in C over Python's numbers (`sum(map(...))`), other threads, and code that takes the
trace away (`sys.settrace`). For these a limit of time stands beside this one.

It stands by itself: the sandbox runs it too.
"""

import functools
import sys
from collections.abc import Callable
from types import FrameType, TracebackType

MOST_LINES = 100_000
"""Lines that an answer may run for its large case. Model answers run up to 16,000, slow ones over 160,000."""


class TooManyLinesError(BaseException):
    """More lines than are allowed. No Exception, so that an answer's `except Exception` lets it pass."""


class Lines:
    """A context manager that counts the lines of a function's own code, and ends it beyond `most`.

    Args:
        function: whose code, and that beside it, is meant; of Numba's dispatchers the Python function.
            Where it has no globals (a built-in function), nothing is counted.
        most: lines that are allowed.

    Attributes:
        run: lines counted so far.
        too_many: whether there were more than are allowed, also if the code caught the error.
    """

    def __init__(self, function: Callable, most: int = MOST_LINES) -> None:
        function = getattr(function, "py_func", function)
        function = function.func if isinstance(function, functools.partial) else function
        if not hasattr(function, "__globals__"):
            function = type(function).__call__
        self.globals = getattr(function, "__globals__", None)
        self.most, self.run = most, 0

    @property
    def too_many(self) -> bool:
        """Whether more lines were run than are allowed."""
        return self.run > self.most

    def __enter__(self) -> "Lines":
        """Begin to count; a debugger's trace rests until the end."""
        self.before = sys.gettrace()
        if self.globals is not None:
            sys.settrace(self._called)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """End the count; its own error ends here."""
        sys.settrace(self.before)
        return kind is TooManyLinesError

    def _called(self, frame: FrameType, event: str, argument: object) -> Callable | None:
        return self._line if frame.f_globals is self.globals else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Callable:
        self.run += event == "line"
        if self.too_many:
            raise TooManyLinesError
        return self._line
