"""Functions, classes and constants that an answer uses and that stand in cells of their own.

What a notebook does step by step (a table that is made, then filled) is kept step by step: of each name
all statements at the top of a cell that bind it or put something into it, in their order; a definition begins
anew. Left out: what loops and calls put into things.
"""

import ast
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from compresslab.classroom.grading.stub import parsed

MOST_STEPS = 50
"""Statements that make one helper."""


def statements(source: str, tree: ast.Module) -> list[tuple[str, str]]:
    """Names, and each statement at the top that binds one or puts something into it, in order."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name for target in targets for name in _roots(target)]
        else:
            continue
        decorators = getattr(node, "decorator_list", None)
        first = decorators[0].lineno if decorators else node.lineno
        lines = source.splitlines(keepends=True)[first - 1 : node.end_lineno]
        text = textwrap.dedent("".join(lines)) if node.col_offset == 0 else ""
        # Two statements on one line are taken apart by Python itself.
        text = text if parsed(text) and len(parsed(text).body) == 1 else ast.unparse(node)
        found += [(name, text) for name in dict.fromkeys(names)]
    return found


def _roots(target: ast.expr) -> list[str]:
    """The names that an assignment to this binds or changes."""
    while isinstance(target, ast.Attribute | ast.Subscript | ast.Starred):
        target = target.value
    if isinstance(target, ast.Tuple | ast.List):
        return [name for part in target.elts for name in _roots(part)]
    return [target.id] if isinstance(target, ast.Name) else []


def joined_by_name(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """By name the statements that make it, of those of `statements`, of all cells in order."""
    found: dict[str, list[str]] = {}
    for name, text in pairs:
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
