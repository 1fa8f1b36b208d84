"""What a learner reads, taken out of the sources as messages for translators.

    a Markdown cell     its blocks: paragraphs, headings, lists, tables, one message each
    a Python file       its texts: "8 bits cost {lost} points", one message each, values by their names

A paragraph's line breaks mean nothing and become spaces, so that wrapping it anew changes no message. What
holds no words (formulas, fenced code, closing tags) is no message. In Python a text is taken if it reads like
words, or if it stands where words are shown (`WORDED`): a table's headings, a prediction's choices, a title.

Left out: docstrings, and the texts of raised errors, which a search engine knows in English.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

WORDED = frozenset(
    (
        *(
            "Table",
            "predict",
            "Prediction",
            "reveal",
            "claim",
            "tell",
            "track",
            "Bar",
            "compared",
            "print",
            "append",
            "measure",
        ),
        *("Case", "Exercise", "Medals", "Mistake"),
        *("plot", "scatter", "bar", "barh", "errorbar", "hist", "step", "fill_between", "imshow"),
        *("semilogx", "semilogy", "loglog", "axhline", "axvline", "annotate", "text", "legend"),
        *("set", "set_label", "set_title", "set_xlabel", "set_ylabel", "suptitle"),
        *("title", "xlabel", "ylabel"),
    )
)
"""Calls whose texts are shown, single words as well."""
SIGNS = frozenset(
    (
        *("c", "color", "colors", "edgecolor", "facecolor", "cmap", "fmt", "ls", "linestyle"),
        *("marker", "style", "loc", "ha", "va", "ascii", "fontsize", "fontweight", "weight"),
        *("interpolation", "origin", "orientation", "where", "which", "xscale", "yscale", "vmin"),
        *(
            "connectionstyle",
            "arrowstyle",
            "arrowprops",
            "textcoords",
            "transform",
            "layout",
            "order",
        ),
        *("id", "name", "mode", "dtype", "kind"),
    )
)
"""Arguments that hold signs for the program, not words."""
CODE = re.compile(r"[_\[\]]|\(\)|^\S*\w\.[A-Za-z]\S*$|^\S+=\S*$")
"""What tells a sign for the program from words: underscores, brackets, dotted names, settings."""
ALWAYS = 2
"""What stands in `translated(...)` itself: one word is enough, whatever it looks like."""
FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Message:
    """A text, and whether it has values in it: then `{name}` stands for one and `{{` for a brace."""

    text: str
    values: bool = False


# ---- Markdown ------------------------------------------------------------------------------------
def blocks(source: str) -> list[str]:
    """A Markdown text cut at its blank lines; fenced code and displayed formulas stay whole.

    Joined by blank lines they give the same page again.
    """
    found: list[list[str]] = [[]]
    fence = ""
    for line in source.splitlines():
        sign = next((s for s in ("```", "$$") if line.strip().startswith(s)), "")
        if fence:
            found[-1].append(line)
            fence = "" if line.strip().endswith(fence) else fence
        elif not line.strip():
            found.append([])
        else:
            if sign == "```" and found[-1]:
                found.append([])
            found[-1].append(line)
            alone = sign and line.strip() != sign and line.strip().endswith(sign)
            fence = "" if alone else sign
    return ["\n".join(lines) for lines in found if lines]


def of_markdown(source: str) -> list[str]:
    """The messages of a Markdown text, in its order."""
    return [as_message(block) for block in blocks(source) if has_words(block)]


def as_message(block: str) -> str:
    """A block with its soft line breaks taken out."""
    lines = block.split("\n")
    if any(_begins_something(line) for line in lines[1:]) or lines[0].startswith(("|", "$$")):
        return block
    return " ".join(line.strip() for line in lines)


def _begins_something(line: str) -> bool:
    return bool(re.match(r"\s*(?:[-*+] |\d+\. |[|<#>]|\$\$|```|!\[)", line)) or line.endswith("  ")


def has_words(block: str) -> bool:
    """Whether there is something to translate: a word outside of code, formulas and tags."""
    if block.startswith("```"):
        return False
    rest = re.sub(r"\$\$.*?\$\$|\$[^$]+\$|`[^`]*`|<[^>]*>|\]\([^)]*\)", " ", block, flags=re.DOTALL)
    return bool(re.search(r"[A-Za-z]{2,}", rest))


# ---- Python --------------------------------------------------------------------------------------
def of_code(source: str) -> list[Message]:
    """The messages of Python code, in its order, each once."""
    tree = ast.parse(source)
    found = dict.fromkeys(_texts(tree, worded=False))
    return [message for message in found if message is not None]


def _texts(node: ast.AST, worded: int) -> Iterator[Message | None]:
    if isinstance(node, ast.Raise):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and _is_shown(node.value, worded):
            yield _numbered(node.value) if "{}" in node.value else Message(node.value)
        return
    parts = _parts(node)
    if parts:
        yield _with_values(parts, worded)
        for part in parts:
            if not isinstance(part, str):
                yield from _texts(part, worded)
        return
    if isinstance(node, ast.Call):
        yield from _of_call(node, worded)
        return
    names = []  # of rows and series, as a table or a plot shows them
    if isinstance(node, ast.Tuple):
        names = node.elts
    elif isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        names = [n for pair in pairs if getattr(pair[0], "value", None) not in SIGNS for n in pair]
    elif isinstance(node, ast.IfExp):
        names = [node.body, node.orelse]
    elif isinstance(node, ast.DictComp):
        names = [node.key]
    elif isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "rows":
        names = [node.slice]
    elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "label":
        names = [node.value]
    for child in ast.iter_child_nodes(node):
        yield from _texts(child, worded or child in names)


def _of_call(call: ast.Call, worded: int) -> Iterator[Message | None]:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    shown = ALWAYS if name in ("translated", "said") else name in WORDED
    yield from _texts(call.func, worded=False)
    for number, argument in enumerate(call.args):
        # The name of a mistake stands in records and reports, the kind of a notice is a colour.
        if (name, number) in (("Mistake", 0), ("tell", 1)):
            continue
        # Its third argument is the hint.
        always = (name, number) == ("Mistake", 2)
        yield from _texts(argument, worded=ALWAYS if always else shown)
    for keyword in call.keywords:
        if keyword.arg not in SIGNS:
            yield from _texts(keyword.value, worded=shown or keyword.arg == "label")


def _numbered(text: str) -> Message:
    """A text for `str.format` whose values have no names."""
    first, *others = text.split("{}")
    named = "".join(f"{{value{n}}}{part}" for n, part in enumerate(others, 1))
    return Message(first + named, values=True)


def _parts(node: ast.AST) -> list[str | ast.expr]:
    """What an f-string, or a sum with texts in it, is put together of: texts and values; else nothing."""
    if isinstance(node, ast.JoinedStr):
        return [part.value for part in node.values]
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
        return []
    sides = [_parts(side) or [_text_or_value(side)] for side in (node.left, node.right)]
    both = [part for side in sides for part in side]
    return both if any(isinstance(part, str) for part in both) else []


def _text_or_value(node: ast.expr) -> str | ast.expr:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text else node


def _with_values(parts: list[str | ast.expr], worded: int) -> Message | None:
    text, names = "", []
    for part in parts:
        if isinstance(part, str):
            text += part.replace("{", "{{").replace("}", "}}")
        else:
            names.append(_name_of(part, names))
            text += f"{{{names[-1]}}}"
    if ".{" in text:  # a tensor's name
        return None
    words = FIELD.sub(" ", text)
    return Message(text, values=True) if _is_shown(words, worded) else None


def _name_of(value: ast.expr, taken: list[str]) -> str:
    """A name for a value that is put into a text: its own, or a plain one."""
    name = getattr(value, "attr", getattr(value, "id", "value")).strip("_") or "value"
    number = 2
    while name in taken:
        name, number = f"{name.rstrip('0123456789')}{number}", number + 1
    return name


def _is_shown(text: str, worded: int) -> bool:
    words = re.findall(r"[A-Za-z]{2,}", text)
    if worded == ALWAYS:
        return bool(words)
    if "\\" in text or "</" in text:  # a pattern, or a page's markup
        return False
    if worded:
        return (bool(words) and not CODE.search(text.strip())) or _reads(text)
    return _reads(text)


def _reads(text: str) -> bool:
    """Whether a text has at least two words beside one another."""
    return bool(re.search(r"[A-Za-z]{2,}[,;:]? +[A-Za-z]+", text)) and "\n " not in text
