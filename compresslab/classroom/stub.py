"""Cells that were not worked on: a function whose body says nothing but "not done yet".

    is_stub                 the function is there and empty, whatever stands beside it
    only_raises_not_done    the cell is that function alone, and can do nothing but raise
    still_raises            the line that raises was left beside lines of the learner's own

What a run of the second would say is known, so it is not run. A learner is told of the third.
"""

import ast
from collections.abc import Iterator, Set


def parsed(source: str) -> ast.Module | None:
    """The syntax tree; None of what is no Python."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


WRAPPERS = ("njit", "jit", "vectorize", "guvectorize", "cache", "lru_cache", "partial")
"""What makes a function of a function."""


def functions(tree: ast.Module) -> dict[str, bool]:
    """The functions that are defined at the top, and whether each is more than a stub.

    Also those in an `if`, `try` or `with`, and names that are bound to a `lambda`, to another name, to an
    object of a class that stands there, or to a function that was compiled, cached or the like.
    """
    found, classes = {}, set()
    for node in at_the_top(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = not _empty(node.body)
        elif isinstance(node, ast.ClassDef):
            classes.add(node.name)
        elif isinstance(node, ast.Assign) and _makes_function(node.value, classes):
            same = isinstance(node.value, ast.Name) and found.get(node.value.id, True)
            done = same or not isinstance(node.value, ast.Name)
            found |= {t.id: done for t in node.targets if isinstance(t, ast.Name)}
    return found


def at_the_top(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a cell, those in `if`, `try` and `with` included."""
    waiting = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            inner = [*node.body, *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())]
            inner += [s for handler in getattr(node, "handlers", ()) for s in handler.body]
            waiting += reversed(inner)


def _makes_function(node: ast.expr, classes: Set[str]) -> bool:
    if isinstance(node, ast.Lambda | ast.Name):
        return True
    called = False
    while isinstance(node, ast.Call):
        node, called = node.func, True
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return called and (name in WRAPPERS or name in classes)


def is_stub(source: str, name: str) -> bool:
    """Whether a function of that name is there, and does nothing."""
    tree = parsed(source)
    return tree is not None and functions(tree).get(name) is False


def only_raises_not_done(source: str, name: str) -> bool:
    """Whether a cell is one function of that name, and a call of it can only raise NotImplementedError."""
    tree = parsed(source)
    if tree is None or [type(node) for node in tree.body] != [ast.FunctionDef]:
        return False
    function = tree.body[0]
    given = function.args
    # These are run where the function is defined, and a decorator may put another in its place.
    annotations = [a.annotation for a in ast.walk(given) if isinstance(a, ast.arg)]
    first = [*given.defaults, *given.kw_defaults, *annotations, function.returns]
    *words, last = function.body
    return (
        function.name == name
        and not function.decorator_list
        and all(isinstance(node, ast.Constant) for node in first if node is not None)
        and all(isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) for n in words)
        and isinstance(last, ast.Raise)
        and _raises_not_implemented(last)
        and last.cause is None
        and all(isinstance(a, ast.Constant) for a in getattr(last.exc, "args", []))
        and not getattr(last.exc, "keywords", [])
    )


def still_raises(source: str) -> bool:
    """Whether a function has lines of its own beside one that raises NotImplementedError and ends it."""
    tree = parsed(source)
    if tree is None or not tree.body or not isinstance(tree.body[0], ast.FunctionDef):
        return False
    body = tree.body[0].body
    raises = any(isinstance(node, ast.Raise) and _raises_not_implemented(node) for node in body)
    return raises and not _empty(body)


def _empty(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(node, ast.Pass)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.Raise) and _raises_not_implemented(node))
        for node in body
    )


def _raises_not_implemented(node: ast.Raise) -> bool:
    error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return isinstance(error, ast.Name) and error.id == "NotImplementedError"
