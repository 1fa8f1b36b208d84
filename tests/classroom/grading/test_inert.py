"""What a learner writes is text on the teacher's page: no tag, no link that is a program, no metadata."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbconvert.filters.markdown import markdown2html
from nbformat import from_dict

from compresslab.classroom.grading.inert import inert_text, make_inert_

ALLOWED = {"details", "summary", "br", "sub", "sup", "b", "i"}
# What Markdown itself makes.
OURS = ALLOWED | {
    "p",
    "em",
    "strong",
    "code",
    "pre",
    "a",
    "ul",
    "ol",
    "li",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
}
OURS |= {
    "h6",
    "blockquote",
    "hr",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "del",
    "div",
    "span",
    "img",
}
EVIL = {
    "a script": "<script>alert(1)</script>",
    "an image": "<img src=x onerror=alert(1)>",
    "an image without a space": "<svg/onload=alert(1)>",
    "in capitals": "<SCRIPT SRC=//x></SCRIPT>",
    "in a code span that is none": "`<script>alert(1)</script>\n\n`",
    "in a fence that is none": "    ```\n<iframe src=x>\n",
    "a comment": "<!-- --><script>alert(1)</script>-->",
    "details with more": "<details open ontoggle=alert(1)>",
    "cut off": "<script src=//x",
    "processing": "<?xml-stylesheet href=x?>",
}
LINKS = (
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](&#106;avascript:alert(1))",
    "[a](java&Tab;script:alert(1))",
    "[a](javascript&colon;alert(1))",
    "<javascript:alert(1)>",
    "[a]: javascript:alert(1)\n\n[a]",
    "[a](vbscript:x) [b](data:text/html,<script>alert(1)</script>)",
    "![a](javascript:alert(1))",
    r"[a](javascript\:alert(1))",
    r"[a](java\script:alert(1))",
    r"[a]: javascript\:alert(1)" + "\n\n[a]",
    r"![a](data\:text/html,x)",
    "[a](<java\tscript:alert(1)>)",
)


class Reader(HTMLParser):
    """The tags of a page, its handlers and where its links lead."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.handlers, self.schemes = set(), [], set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        for name, value in attrs:
            if name in ("href", "src"):
                self.schemes.add((value or "").split(":")[0].strip().lower())


@pytest.mark.attack("pages")
@pytest.mark.parametrize("source", EVIL.values(), ids=EVIL)
def test_a_tag_is_text(source):
    found = Reader(markdown2html(inert_text(source)))
    assert found.tags <= OURS
    assert found.handlers == []


@pytest.mark.attack("pages")
@pytest.mark.parametrize("source", LINKS)
def test_a_link_is_no_program(source):
    found = Reader(markdown2html(inert_text(source)))
    assert found.schemes & {"javascript", "vbscript", "data"} == set()
    assert found.tags <= OURS


@given(st.text(alphabet="<>/!?abBsScript =:\"'`~\n\\&#;()[]*_$-", max_size=80))
def test_no_text_becomes_a_tag_or_a_handler(source):
    found = Reader(markdown2html(inert_text(source)))
    assert found.tags <= OURS
    assert found.handlers == []


@pytest.mark.parametrize(
    "source",
    [
        "a < b, x <= y",
        "**Measured**: $x^2 < 3$",
        "<details>\n<summary>x</summary>\n\ny\n</details>",
        "a & b",
        "the data: two columns",
    ],
)
def test_honest_text_stays_as_it_is(source):
    assert inert_text(source) == source


def test_a_tag_looks_the_same():
    assert inert_text("use <b> or <T>").replace("\u200b", "") == "use <b> or <T>"


@pytest.mark.attack("pages")
def test_metadata_attachments_and_odd_cells_are_gone():
    about = {"grade_id": "written-x", "grade": True}
    notebook = from_dict(
        {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {
                "title": "<script>",
                "widgets": {"a": "</script>"},
                "kernelspec": {"name": "x"},
            },
            "cells": [
                {
                    "cell_type": "markdown",
                    "id": 'a"><script>',
                    "metadata": {"tags": ['"><script>'], "nbgrader": about},
                    "attachments": {"x.svg": {"image/svg+xml": "<svg onload=alert(1)>"}},
                    "source": "fine",
                },
                {
                    "cell_type": "raw",
                    "id": "b",
                    "metadata": {"raw_mimetype": "text/html", "format": "text/html"},
                    "source": "<script>alert(1)</script>",
                },
                {"cell_type": "html", "metadata": {}, "source": "<script>"},
            ],
        }
    )
    make_inert_(notebook)
    assert "script" not in str(notebook.metadata)
    assert [c.cell_type for c in notebook.cells] == ["markdown", "raw"]
    assert [dict(c.metadata) for c in notebook.cells] == [{"nbgrader": about}, {}]
    assert "attachments" not in notebook.cells[0]
    assert "<script" not in notebook.cells[1].source
    assert "id" not in notebook.cells[0]
