"""Functions, classes and constants that an answer uses and that stand in cells of their own.

What a notebook does step by step (a table that is made, then filled) is kept step by step: of each name
all statements at the top of a cell that bind it or put something into it, in their order; a definition begins
anew. A loop, an `if`, a `with` or a `try` is one step of every name that it binds or changes. Left out: what
a function puts into things that are handed to it.
"""

import ast
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from compresslab.classroom.stub import parsed

MOST_STEPS = 50
"""Statements that make one helper."""
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try)


class Step(NamedTuple):
    """A statement at the top of a cell, and a name that it makes or changes.

    Attributes:
        name: the name.
        text: the statement.
        binds: whether the name exists after it, if it did not before.
    """

    name: str
    text: str
    binds: bool


def statements(source: str, tree: ast.Module) -> list[Step]:
    """Names, and each statement at the top that binds one or puts something into it, in order."""
    found = []
    for node in tree.body:
        names: dict[str, bool] = {}
        for name, binds in _made(node):
            names[name] = names.get(name, False) or binds
        if not names:
            continue
        decorators = getattr(node, "decorator_list", None)
        first = decorators[0].lineno if decorators else node.lineno
        lines = source.splitlines(keepends=True)[first - 1 : node.end_lineno]
        text = textwrap.dedent("".join(lines)) if node.col_offset == 0 else ""
        # Two statements on one line are taken apart by Python itself.
        text = text if parsed(text) and len(parsed(text).body) == 1 else ast.unparse(node)
        found += [Step(name, text, binds) for name, binds in names.items()]
    return found


def _made(node: ast.stmt) -> Iterator[tuple[str, bool]]:
    """The names that a statement makes (True) or changes (False), those of blocks in it included."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, DEFINITIONS):
            yield node.name, True
        elif isinstance(node, ASSIGNMENTS):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from ((name, True) for name in _roots(target))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            # TABLE.append(3)
            called = node.value.func
            if isinstance(called, ast.Attribute):
                yield from ((name, False) for name in _roots(called.value))
        elif isinstance(node, BLOCKS):
            if isinstance(node, ast.For):
                yield from ((name, True) for name in _roots(node.target))
            waiting += [
                inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt)
            ]
            waiting += [s for handler in getattr(node, "handlers", ()) for s in handler.body]


def _roots(target: ast.expr) -> list[str]:
    """The names that an assignment to this binds or changes."""
    while isinstance(target, ast.Attribute | ast.Subscript | ast.Starred):
        target = target.value
    if isinstance(target, ast.Tuple | ast.List):
        return [name for part in target.elts for name in _roots(part)]
    return [target.id] if isinstance(target, ast.Name) else []


def joined_by_name(steps: Iterable[Step]) -> dict[str, str]:
    """By name the statements that make it, of those of `statements`, of all cells in order."""
    found: dict[str, list[str]] = {}
    for name, text, binds in steps:
        if not binds and name not in found:
            continue  # a module's function, which is no helper
        is_new = text.lstrip().startswith(("def ", "async def ", "class ", "@"))
        found[name] = [text] if is_new else [*found.get(name, ()), text]
    return {name: "\n".join(texts[-MOST_STEPS:]) for name, texts in found.items()}


def used_helpers(helpers: Mapping[str, str], sources: Sequence[str]) -> list[str]:
    """What binds the names that these sources read, each after what it reads itself.

    Args:
        helpers: of `joined_by_name`.
        sources: answers.
    """
    order: dict[str, None] = {}

    def visit(source: str, above: frozenset[str]) -> None:
        for name in sorted(foreign_names(source) & helpers.keys()):
            helper = helpers[name]
            if helper not in order and helper not in above:
                visit(helper, above | {helper})
                order[helper] = None

    for source in sources:
        visit(source, frozenset())
    return list(order)


def foreign_names(source: str) -> set[str]:
    """Names that are read, and bound nowhere in the source."""
    tree = parsed(source)
    if tree is None:
        return set()
    nodes = list(ast.walk(tree))
    names = [n for n in nodes if isinstance(n, ast.Name)]
    bound = {n.id for n in names if not isinstance(n.ctx, ast.Load)}
    bound |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    bound |= {n.name for n in nodes if isinstance(n, kinds)}
    bound |= {
        (a.asname or a.name).split(".")[0]
        for n in nodes
        if isinstance(n, ast.Import | ast.ImportFrom)
        for a in n.names
    }
    return {n.id for n in names} - bound
