"""Is a translation faithful in all that is not words? Code, formulas, links, tags and values are the same.

    flaws("Cut `rank` columns of $V$.", "截取 $V$ 的 `k` 列。")
    ["code spans: ['`k`'], expected ['`rank`']"]

Further: the Chinese punctuation between Chinese characters, emphasis that Markdown can see, and the
glossary's Chinese name wherever the English text has the term. Whether the words say the same is for readers.
"""

import re
from collections.abc import Sequence
from string import Formatter

from markdown_it import MarkdownIt

from compresslab.classroom.glossary import HAN, Term

PARTS = {
    "code spans": r"`[^`]+`",
    "formulas": r"\$[^$]+\$",
    "links": r"\]\([^)]*\)",
    "tags": r"</?[a-z]+[^>]*>",
    "headings": r"^#+ ",
    "list items": r"^ *(?:[-*+]|\d+\.) ",
}
MAY_STAY = 40
"""Characters of the longest text that may be the same in both languages: a name, a unit, a format."""


def flaws(message: str, translation: str, values: bool = False) -> list[str]:
    """What is wrong with a translation, one sentence each; an empty list if nothing is.

    Args:
        message: the English text.
        translation: what is to stand for it.
        values: whether `{name}` stands for a value in both.
    """
    found = []
    if values and _fields(message) != _fields(translation):
        found.append(f"values: {_fields(translation)}, expected {_fields(message)}")
    for name, form in PARTS.items():
        want, got = (sorted(re.findall(form, t, re.MULTILINE)) for t in (message, translation))
        if want != got:
            found.append(f"{name}: {got}, expected {want}")
    want, got = _columns(message), _columns(translation)
    if want != got:
        found.append(f"cells of the table's rows: {got}, expected {want}")
    # A name stays as it is, with a Chinese comma.
    same = translation.replace("，", ", ") == message
    if not re.search(f"[{HAN}]", translation) and not (same and len(message) <= MAY_STAY):
        found.append("no Chinese in it")
    plain = re.sub(PARTS["code spans"], "", translation)
    for mark in re.findall(f"[{HAN}][,;:?!](?![{HAN}]?\\d)", plain):
        found.append(f"punctuation: {mark!r} wants the Chinese sign")
    if not values and "**" in _as_shown(translation) and "**" not in _as_shown(message):
        found.append(
            "emphasis: Markdown does not see one of the **; put the punctuation outside of it"
        )
    return found


def _columns(text: str) -> list[int]:
    return [line.count("|") for line in text.splitlines() if re.match(r"\|.*\|$", line)]


def _fields(text: str) -> list[str]:
    try:
        return sorted(name for _, name, _, _ in Formatter().parse(text) if name is not None)
    except ValueError as error:
        return [f"unreadable: {error}"]


def _as_shown(text: str) -> str:
    """The words that are left when Markdown has been read."""
    tokens = MarkdownIt().parse(text)
    inner = [t for token in tokens for t in (token.children or [token])]
    return " ".join(t.content for t in inner if t.type == "text")


def terms_missing(message: str, translation: str, terms: Sequence[Term]) -> list[str]:
    """The glossary's terms in the English text whose Chinese name is not in the translation.

    The longest terms are looked for first, and what they cover is not looked at again: where there is
    "structured pruning", nobody asks for "pruning".
    """
    # Code stays as it is, and so does the title of a paper.
    found, rest = [], re.sub(r"`[^`]*`|\$[^$]*\$|\*[A-Z][^*]{20,}\*", " ", message)
    for term in sorted(terms, key=lambda t: -len(t.english)):
        whole = re.compile(rf"(?<![\w-]){re.escape(term.english)}(?:s|es)?(?![\w-])", re.IGNORECASE)
        if whole.search(rest):
            rest = whole.sub(" ", rest)
            if term.chinese not in translation:
                found.append(f"{term.english}: {term.chinese}")
    return found
