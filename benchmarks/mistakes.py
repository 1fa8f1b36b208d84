"""Known mistakes of an exercise, as answers that a learner could have handed in.

They are written down as functions of the exercise's module, many of them in a line; of those that need
nothing else of that module the source is an answer.
"""

import ast
import builtins
import functools
import inspect

from compresslab.classroom.exercises import exercise
from compresslab.classroom.grading.helpers import foreign_names

ALONE = {"np", "torch", "math", *dir(builtins)}
"""Names that an answer may use: what every lab imports."""


@functools.cache
def mistakes(id: str) -> tuple[str, ...]:
    """The sources, without those that do not stand by themselves.

    Args:
        id: the exercise's, such as "measuring.roofline".
    """
    module = inspect.getmodule(next(m.wrong for m in exercise(id).mistakes))
    tree = ast.parse(inspect.getsource(module))
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    name, found = id.split(".")[1], []
    for call in _calls(tree, id):
        wrong = call.args[1] if len(call.args) > 1 else None
        if isinstance(wrong, ast.Lambda):
            found.append(f"{name} = {ast.unparse(wrong)}\n")
        elif isinstance(wrong, ast.Name) and wrong.id in functions:
            found.append(f"{ast.unparse(functions[wrong.id])}\n\n{name} = {wrong.id}\n")
    return tuple(source for source in found if foreign_names(source) <= ALONE)


def _calls(tree: ast.Module, id: str) -> list[ast.Call]:
    """The calls of `Mistake` within the exercise of that id."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Exercise":
            ids = [k.value for k in node.keywords if k.arg == "id"]
            if ids and isinstance(ids[0], ast.Constant) and ids[0].value == id:
                inner = (n for n in ast.walk(node) if isinstance(n, ast.Call))
                return [n for n in inner if getattr(n.func, "id", "") == "Mistake"]
    return []
