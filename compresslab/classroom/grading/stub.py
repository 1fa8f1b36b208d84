"""Cells that were not worked on: a function whose body says nothing but "not done yet".

    is_stub                 the function is there and empty, whatever stands beside it
    only_raises_not_done    the cell is that function alone, and can do nothing but raise

What a run of the second would say is known, so it is not run.
"""

import ast


def parsed(source: str) -> ast.Module | None:
    """The syntax tree; None of what is no Python."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def functions(tree: ast.Module) -> dict[str, bool]:
    """The functions that are defined at the top, and whether each is more than a stub."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {n.name: not _empty(n.body) for n in tree.body if isinstance(n, kinds)}


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
