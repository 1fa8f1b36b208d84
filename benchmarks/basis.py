"""What a finding rests on: the statements of a lab that its margin follows from.

Going up from a claim, a statement belongs to its *basis* if it binds a name that the margin, or another
statement of the basis, reads; or if it could change such a value in place: it reads the name of one, and it
calls something or stores into a part. So

    sparse = prune(model)        basis of the claim: this line, and whatever `model` and `prune` come from
    figure(sizes)                not of it: nothing in the basis reads `sizes`
    claim("...", accuracy(sparse) - 0.9)

A record of a run holds a hash of each claim's basis, so that a new section of a lab, another figure or a
better word costs no finding its runs. What is said and asked (claim, print, check, predict, reveal),
docstrings and imports never belong to a basis. Left out: a statement that moves only torch's common generator
of random numbers. What is drawn after it is then another sample, which is what a replication wants.
"""

import ast
import hashlib
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compresslab.classroom.release import read_solution
from compresslab.syntax import dump

LOOKING = (
    "len",
    "min",
    "max",
    "sum",
    "float",
    "int",
    "str",
    "round",
    "abs",
    "range",
    "zip",
    "mean_sd",
    "drag_grid",
    "click_bits",
)
"""Functions that change nothing."""


def code_of(path: Path) -> str:
    """The code of a solution's cells, one after the other."""
    cells = read_solution(path).solution.cells
    return "\n".join(c.source for c in cells if c.cell_type == "code")


def calls(node: ast.AST, *names: str) -> bool:
    """Whether a node is a call of one of these names."""
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") in names


def sentence_of(claim: ast.Call) -> re.Pattern:
    """The sentence of a claim as a pattern: what is put in while the lab runs may be anything."""
    first = claim.args[0]
    parts = first.values if isinstance(first, ast.JoinedStr) else [first]
    texts = (re.escape(p.value) if isinstance(p, ast.Constant) else ".*" for p in parts)
    return re.compile("".join(texts))


class _Experiments(ast.NodeTransformer):
    """A lab without what it says and asks, and without its imports."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """A block stays where what it said was all it did: a claim in it rests on it."""
        super().generic_visit(node)
        if getattr(node, "body", None) == []:
            node.body = [ast.Pass()]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant):  # a docstring
            return None
        reveals = (
            isinstance(node.value, ast.Call) and getattr(node.value.func, "attr", "") == "reveal"
        )
        said = reveals or calls(node.value, "claim", "print", "check")
        return None if said else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if calls(node.value, "predict") else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """What is tracked is what is done."""
        self.generic_visit(node)
        return node.args[0] if calls(node, "tqdm", "track") else node

    def visit_Import(self, _node: ast.Import) -> None:
        """Names come from elsewhere, the experiments stay."""

    def visit_ImportFrom(self, _node: ast.ImportFrom) -> None:
        """As above."""


class _Scopes(ast.NodeTransformer):
    """Comprehensions as generators, with the same names.

    From Python 3.12 on, a comprehension shares the scope around it, and its variables look like that one's.
    """

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.GeneratorExp:
        self.generic_visit(node)
        return ast.GeneratorExp(node.elt, node.generators)

    def visit_SetComp(self, node: ast.SetComp) -> ast.GeneratorExp:
        return self.visit_ListComp(node)

    def visit_DictComp(self, node: ast.DictComp) -> ast.GeneratorExp:
        self.generic_visit(node)
        return ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators)


@dataclass(frozen=True)
class _Statement:
    """One statement at the top of a lab: what it is, binds and reads."""

    text: str
    binds: frozenset[str]
    reads: frozenset[str]
    defines: bool
    """Whether it is a function or a class, which changes nothing before it is called."""
    changes: bool
    """Whether it could change the values that it reads."""


def _statement(node: ast.stmt) -> _Statement | None:
    """A statement as the experiments have it; None where nothing is left of it."""
    kept = _Experiments().visit(ast.parse(ast.unparse(node)).body[0])
    if kept is None:
        return None
    nodes, text = list(ast.walk(kept)), dump(kept)
    defines = isinstance(kept, ast.FunctionDef | ast.ClassDef)
    changes = not defines and any(_acts(n) for n in nodes)
    binds, reads = _names(symtable.symtable(ast.unparse(_Scopes().visit(kept)), "lab", "exec"))
    reads |= {n.target.id for n in nodes if _augments(n)}
    return _Statement(text, frozenset(binds), frozenset(reads), defines, changes)


def _names(table: symtable.SymbolTable) -> tuple[set[str], set[str]]:
    """What a statement binds at the top, and reads there or from inside of functions and comprehensions."""
    binds = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_namespace()}
    reads = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
    for inner in _inside(table):
        here = [s for s in inner.get_symbols() if s.is_global()]
        binds |= {s.get_name() for s in here if s.is_assigned()}
        reads |= {s.get_name() for s in here if s.is_referenced()}
    return binds, reads


def _inside(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _inside(child)


def _augments(node: ast.AST) -> bool:
    return isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)


def _acts(node: ast.AST) -> bool:
    """Whether a node is a call (but for some that only look), or stores into a part of something."""
    if isinstance(node, ast.Call):
        views = getattr(node.func, "attr", "") in ("items", "keys", "values")
        return not (views or calls(node, *LOOKING))
    into_a_part = isinstance(node, ast.Subscript | ast.Attribute)
    return _augments(node) or (into_a_part and not isinstance(node.ctx, ast.Load))


def _basis(above: list[_Statement], names: set[str]) -> str:
    """The hash of the statements among `above` that the values of `names` follow from."""
    values = {name for s in above if not s.defines for name in s.binds}
    wanted, kept, grows = set(names), set(), True
    while grows:  # a function reads what is bound after it, too
        grows = False
        for index in reversed(range(len(above))):
            statement = above[index]
            changes = statement.reads & values if statement.changes else frozenset()
            if index not in kept and (statement.binds | changes) & wanted:
                kept.add(index)
                wanted |= statement.reads
                grows = True
    text = "\n".join(above[index].text for index in sorted(kept))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def claims_of(code: str) -> Iterator[tuple[ast.Call, str, bool]]:
    """Every claim of a lab's code, in order: its call, the hash of its basis, whether an `if` guards it."""
    above: list[_Statement] = []
    for node in ast.parse(code).body:
        statement = _statement(node)
        here = [*above, statement] if statement else above
        for claim in (n for n in ast.walk(node) if calls(n, "claim")):
            names = {n.id for n in ast.walk(claim.args[1]) if isinstance(n, ast.Name)}
            # One that stands inside of a loop or a condition rests on it.
            if statement and not isinstance(node, ast.Expr):
                names |= statement.reads | statement.binds
            yield claim, _basis(here, names), _under_an_if(node, claim)
        above = here


def _under_an_if(node: ast.stmt, claim: ast.Call) -> bool:
    return any(claim in ast.walk(i) for i in ast.walk(node) if isinstance(i, ast.If))
