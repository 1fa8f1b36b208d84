"""The Chinese pages of the site: labs as they were executed, with their text and what they showed in Chinese.

    solutions/06_low_rank.ipynb  +  locale/zh  ->  labs-zh/06_low_rank.ipynb

Nothing is executed a second time: Markdown comes from the catalogue of the edition, and the words of tables,
boxes, printed lines and alternative texts are looked up one by one, as `compresslab.language` does in a
running lab.

Left out: words inside of pictures, which were drawn in English.
"""

import copy
import html
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from nbformat import NotebookNode

from compresslab.classroom.catalogue import notebook_in, words_of
from compresslab.language import CHINESE, LOCALE, translated

NOTEBOOK = "JPY_SESSION_NAME"
"""Where Jupyter says which notebook runs: its own words come before those of others."""
TEXT = re.compile(r">([^<>]+)<")
CODE = re.compile(r"(<(?:script|style)\b.*?</(?:script|style)>)", re.DOTALL)
JOINTS = (
    re.compile(r"([✔✘] )(.+?)( \(held in .+\))"),
    re.compile(r"(Stored: .+ s a seed)(: .*?torch [\d.+a-z]+\. ?)(.*)"),
    re.compile(r"([-\d.,]+(?:, [-\d.,]+)* )([^\d\s(].*)"),
)
"""Where a lab puts texts together that it looks up one by one: stored findings, their caption, outcomes."""
ALTERNATIVE = re.compile(r'\balt="([^"]*)"')


def in_chinese(executed: NotebookNode, name: str) -> NotebookNode:
    """A copy of an executed lab in Chinese.

    Args:
        executed: the lab, its outputs included.
        name: such as "06_low_rank".
    """
    found = notebook_in(copy.deepcopy(executed), words_of(LOCALE / CHINESE / "labs" / f"{name}.po"))
    with _words_of_lab_first(name):
        for cell in found.cells:
            for output in cell.get("outputs", []):
                _translate_(output)
    return found


@contextmanager
def _words_of_lab_first(name: str) -> Iterator[None]:
    before = os.environ.get(NOTEBOOK)
    os.environ[NOTEBOOK] = f"{name}.ipynb"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NOTEBOOK]
        else:
            os.environ[NOTEBOOK] = before


def _translate_(output: NotebookNode) -> None:
    if output.output_type == "stream":
        output.text = _lines(output.text)
    elif "data" in output:
        data = output["data"]
        if "text/html" in data:
            data["text/html"] = in_html(data["text/html"])
        elif "text/plain" in data:
            data["text/plain"] = _lines(data["text/plain"])


def _lines(text: str) -> str:
    return "\n".join(_line(line) for line in text.split("\n"))


def _line(text: str) -> str:
    """A line, looked up whole or, where it was put together of several texts, part by part."""
    whole = translated(text, CHINESE)
    found = next(filter(None, (joint.fullmatch(text) for joint in JOINTS)), None)
    if whole != text or not found:
        return whole
    return "".join(translated(part or "", CHINESE) for part in found.groups())


def in_html(text: str) -> str:
    """HTML whose texts and alternative texts are looked up line by line; tags, scripts and styles stay."""

    def looked_up(match: re.Match) -> str:
        text = html.unescape(match[1])
        said = _lines(text)
        return match[0] if said == text else match[0].replace(match[1], html.escape(said))

    parts = CODE.split(text)
    parts[::2] = [ALTERNATIVE.sub(looked_up, TEXT.sub(looked_up, part)) for part in parts[::2]]
    return "".join(parts)
