"""Pairs of answers that are alike in structure: what a teacher may want to look at, and no accusation.

    answer -> syntax tree -> without what a copy changes (local names, annotations, docstrings, comments)
           -> a hash for each of its subtrees of at least SMALLEST nodes
           -> without those that everybody was given (specification, model answer, stub) or that many have
    likeness = hashes in common / hashes of the smaller answer

Subtrees as in Baxter et al. 1998, "Clone detection using abstract syntax trees", section 3; leaving out what
many have as in Schleimer et al. 2003, "Winnowing", section 5. An answer with fewer than ENOUGH hashes left
is too short to say anything: a task of two lines has one solution, and everybody writes it.

Nothing is run, and nothing leaves the machine. Left out: notebooks of other years, answers from elsewhere,
statements put in another order by hand (their parts are found all the same), and text.
"""

import ast
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compresslab.classroom.exercises import EXERCISES
from compresslab.classroom.grading.html_page import escaped, html_page

SMALLEST, ENOUGH, ALIKE = 6, 12, 0.8
"""Nodes of a subtree; hashes of an answer that says something; likeness from which a pair is shown."""
MANY = 0.25
"""Share of the class that has a subtree, from which it is everybody's; at least five learners."""
SHOWN = 100
"""Pairs on the page."""
INTRO = """Answers of the same structure, whatever their variables are called. What was printed in the lab,
the model answers and what many have written are left out, and so are answers that are too short to tell.
<b>Alike is not copied</b>: people who learn together write alike, and a method has few ways to be written.
Talk with both before you think of anything else."""
PRINTED = re.compile(r"```python\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Pair:
    """Two learners' answers to one exercise, and how alike they are (0 to 1)."""

    exercise: str
    first: str
    second: str
    likeness: float


def alike(
    answers: Mapping[str, Mapping[str, str]], given: Iterable[str], threshold: float = ALIKE
) -> list[Pair]:
    """All pairs of a class that are at least so alike, the most alike first.

    Args:
        answers: each learner's sources by exercise.
        given: code that everybody has: specifications, model answers, stubs.
        threshold: likeness from which a pair counts, above 0 and at most 1.

    Raises:
        ValueError: for a threshold out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    everybodys = {h for source in given for h in subtrees(source)}
    by_exercise: dict[str, dict[str, set[str]]] = {}
    for learner, sources in answers.items():
        for id, source in sources.items():
            by_exercise.setdefault(id, {})[learner] = subtrees(source) - everybodys
    found = [
        pair
        for id, learners in by_exercise.items()
        for pair in _pairs(id, _without_common(learners), threshold)
    ]
    return sorted(found, key=lambda pair: (-pair.likeness, pair.exercise, pair.first))


def _without_common(learners: dict[str, set[str]]) -> dict[str, set[str]]:
    counts = Counter(h for hashes in learners.values() for h in hashes)
    many = max(5, MANY * len(learners))
    own = {name: {h for h in hashes if counts[h] < many} for name, hashes in learners.items()}
    return {name: hashes for name, hashes in own.items() if len(hashes) >= ENOUGH}


def _pairs(id: str, learners: dict[str, set[str]], threshold: float) -> Iterable[Pair]:
    for first, second in itertools.combinations(learners, 2):
        a, b = learners[first], learners[second]
        likeness = len(a & b) / min(len(a), len(b))
        if likeness >= threshold:
            yield Pair(id, first, second, likeness)


def given_code(notebooks: Iterable[Path]) -> list[str]:
    """All code of notebooks that everybody has, or that came from us: of cells, and printed in their text.

    Raises:
        OSError, ValueError: for a notebook that cannot be read.
    """
    found = []
    for path in notebooks:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            found += [source] if cell["cell_type"] == "code" else PRINTED.findall(source)
    return found


# ---- from source to hashes -----------------------------------------------------------------------
def subtrees(source: str) -> set[str]:
    """A hash for each subtree of some size; nothing for what is no Python."""
    try:
        tree = _Plain(_local_names(ast.parse(source))).visit(ast.parse(source))
        found: set[str] = set()
        _hashed(tree, found)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return found


def _local_names(tree: ast.AST) -> set[str]:
    """Names that the code itself gives: functions, arguments, variables."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


class _Plain(ast.NodeTransformer):
    """The tree without local names, annotations and docstrings."""

    def __init__(self, local: set[str]) -> None:
        self.local = local

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name("_" if node.id in self.local else node.id, ast.Load())

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg("_")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return self.visit(ast.Assign([node.target], node.value))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.returns = "_", None
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        return self.generic_visit(node)


def _hashed(node: ast.AST, found: set[str]) -> tuple[str, int]:
    """The hash of a tree and its number of nodes; those of its larger subtrees are collected."""
    parts, size = [type(node).__name__], 1
    for name, value in ast.iter_fields(node):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.expr_context):
                continue
            if isinstance(item, ast.AST):
                inner, nodes = _hashed(item, found)
                parts.append(f"{name}:{inner}")
                size += nodes
            elif name not in ("lineno", "col_offset", "type_comment", "kind"):
                parts.append(f"{name}={item!r}"[:200])
    digest = hashlib.blake2b("|".join(parts).encode(errors="replace"), digest_size=8).hexdigest()
    if size >= SMALLEST and not isinstance(node, ast.Module):
        found.add(digest)
    return digest, size


# ---- the page ------------------------------------------------------------------------------------
def similarity_page(
    lab: str, pairs: Sequence[Pair], answers: Mapping[str, Mapping[str, str]]
) -> str:
    """The pairs with both answers beside one another, as HTML without a script."""
    intro = f"<h1>{escaped(lab)}: look at these pairs</h1><p>{INTRO}</p>"
    if not pairs:
        return html_page(f"{lab}: pairs", intro + "<p>No two answers are that much alike.</p>")
    blocks = [_pair_block(pair, answers) for pair in pairs[:SHOWN]]
    more = f"<p>{len(pairs) - SHOWN} more pairs are not shown.</p>" if len(pairs) > SHOWN else ""
    return html_page(f"{lab}: pairs", intro + "".join(blocks) + more)


def _pair_block(pair: Pair, answers: Mapping[str, Mapping[str, str]]) -> str:
    sides = "".join(
        f"<td><b>{escaped(who)}</b><pre>{escaped(answers[who][pair.exercise][:20_000])}</pre></td>"
        for who in (pair.first, pair.second)
    )
    title = EXERCISES[pair.exercise].title
    return f"<h2>{escaped(title)}: {100 * pair.likeness:.0f} % alike</h2><table><tr>{sides}</tr></table>"
