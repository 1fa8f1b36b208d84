"""Whether an answer that was to be compiled is, as its text shows it.

The sandbox says so as well, but from the process that runs the answer, where an answer can say anything. So
the text must show it: the function of that name stands under a compiler of Numba's, nothing else is bound to
the compiler's name, and nothing is used that could put another function in its place.
"""

import ast
from collections.abc import Sequence

from compresslab.classroom.grading.submission import BEHIND
from compresslab.classroom.stub import parsed

COMPILERS = ("njit", "jit")
ELSEWHERE = {"os", "sys", "exec", "eval", "compile", "importlib", "subprocess", "socket", "open"}
ELSEWHERE |= {"setattr", "globals", "vars", "locals", "objmode", "modules", "tofile", "memmap"}
ELSEWHERE |= {"__import__", "__dict__", "__setattr__", "config", "DISABLE_JIT", "delattr"}
"""Names that reach what surrounds a function: no compiled answer needs them."""
HARMLESS = ("math", "numpy", "itertools", "typing")
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)
NAMED += (ast.MatchAs, ast.MatchStar)
"""What binds a name that stands in it as text."""


def complaint(answer: str, name: str, imports: Sequence[str]) -> str:
    """Why it cannot be seen that the answer is compiled, as the end of a sentence; "" if it can.

    Args:
        answer: the source of its cell.
        name: of the function.
        imports: the notebook's other import statements that the answer uses.
    """
    tree = parsed("\n".join([*imports, answer]))
    if tree is None:
        return "it is no Python"
    nodes = list(ast.walk(tree))
    used = {word for node in nodes for word in _words(node)} & (BEHIND | ELSEWHERE)
    if used:
        return f"it uses {min(used)}, which a compiled function does not need: look at it by hand"
    if any(isinstance(n, ast.Attribute) and not isinstance(n.ctx, ast.Load) for n in nodes):
        return "it changes a part of something, which a compiled function does not need: look at it by hand"
    compilers, modules = _of_numba(nodes)
    if other := _bound_otherwise(nodes) & (compilers | modules):
        return f"{min(other)} is Numba's, and is given another meaning: look at it by hand"
    last, seen = None, set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            last, seen = node.decorator_list[0] if node.decorator_list else None, seen | {id(node)}
        elif isinstance(node, ast.Assign) and name in _targets(node):
            last = node.value if isinstance(node.value, ast.Call) else None
            seen |= {id(n) for target in node.targets for n in ast.walk(target)}
    if name in _bound_otherwise([n for n in nodes if id(n) not in seen]):
        return f"{name} is given another meaning elsewhere: look at it by hand"
    if last is None or not _is_compiler(last, compilers, modules):
        return f"{name} does not stand under @njit"
    return ""


def _words(node: ast.AST) -> set[str]:
    words = {getattr(node, "id", ""), getattr(node, "attr", "")}
    if isinstance(node, ast.Import | ast.ImportFrom):
        words |= {part for a in node.names for part in a.name.split(".")}
        words |= set((getattr(node, "module", None) or "").split("."))
    return words


def _of_numba(nodes: list[ast.AST]) -> tuple[set[str], set[str]]:
    """The names by which compilers, and Numba itself, are called."""
    compilers, modules = set(), set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "numba":
            for alias in node.names:
                if alias.name == "*":
                    compilers |= set(COMPILERS)
                elif alias.name in COMPILERS:
                    compilers.add(alias.asname or alias.name)
        elif isinstance(node, ast.Import):
            modules |= {a.asname or "numba" for a in node.names if a.name == "numba"}
    return compilers, modules


def _bound_otherwise(nodes: list[ast.AST]) -> set[str]:
    """Names that are bound by anything but an import of Numba's."""
    bound = set()
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, NAMED) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            bound.add(node.rest)
        elif isinstance(node, ast.ImportFrom) and node.module != "numba":
            bound |= {a.asname or a.name for a in node.names}
            # What a star brings is not seen here, but for modules that are known to have no compiler.
            stars = any(a.name == "*" for a in node.names) and node.module not in HARMLESS
            bound |= set(COMPILERS) if stars else set()
        elif isinstance(node, ast.ImportFrom):
            renamed = (a for a in node.names if a.name not in (*COMPILERS, "*"))
            bound |= {a.asname or a.name for a in renamed}
        elif isinstance(node, ast.Import):
            others = (a for a in node.names if a.name.split(".")[0] != "numba")
            bound |= {(a.asname or a.name).split(".")[0] for a in others}
    return bound


def _targets(node: ast.Assign) -> set[str]:
    return {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def _is_compiler(node: ast.expr, compilers: set[str], modules: set[str]) -> bool:
    """`njit`, `njit(...)`, `njit(...)(f)` or `numba.njit` and so on."""
    while isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Name):
        return node.id in compilers
    of_module = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return of_module and node.attr in COMPILERS and node.value.id in modules
