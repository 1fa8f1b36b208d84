"""Whose function this is: the library's, or somebody else's.

A lab goes on with the library's function where an answer is missing; what is said of "your" function is
then true of nobody.
"""

import functools
import inspect
from collections.abc import Callable


def plain(function: Callable) -> Callable:
    """What is inside of wrappers: compiled, partial, decorated."""
    while True:
        inner = getattr(function, "py_func", function)
        inner = inner.func if isinstance(inner, functools.partial) else inspect.unwrap(inner)
        if inner is function:
            return function
        function = inner


def is_the_librarys(function: Callable) -> bool:
    """Whether a function was written in this package."""
    module = getattr(plain(function), "__module__", None) or ""
    return module.split(".")[0] == __package__
