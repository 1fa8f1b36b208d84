"""Tables and pictures as HTML that a screen reader can say.

A number in a table is said with its row's name and its column's: both are headings (`scope`). A picture is
said by its alternative text.
"""

import base64
import html
from collections.abc import Iterable, Sequence

# Words wrap, numbers do not: what a reader came for is in the last column, and must not be cut off.
TEXT = "text-align:left;max-width:34ch;white-space:normal"
NUMBER = "text-align:right;white-space:nowrap"
HEADING = "text-align:right;max-width:14ch;white-space:normal"


def picture(png: bytes, words: str) -> str:
    """An `<img>` that holds its picture, with alternative text."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str, text_columns: int
) -> str:
    """A table with a caption below it, if there is one; the first columns hold text, the others numbers."""
    plain = [TEXT] * text_columns + [NUMBER] * len(headings)
    head = _line(headings, [TEXT] * text_columns + [HEADING] * len(headings), "col")
    body = "".join(f"<tr>{_line(row, plain, 'row')}</tr>" for row in rows)
    below = (
        f"<div style='max-width:80ch;opacity:0.8'>{html.escape(caption)}</div>" if caption else ""
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"


def _line(cells: Sequence[str], styles: Sequence[str], scope: str) -> str:
    """Cells of a row: headings of their columns, or numbers behind the heading of their row."""
    weight = "bold" if scope == "col" else "normal"
    parts = []
    for number, (cell, style) in enumerate(zip(cells, styles, strict=False)):
        tag, named = ("th", f" scope={scope}") if scope == "col" or number == 0 else ("td", "")
        parts.append(
            f'<{tag}{named} style="font-weight:{weight};{style};padding:2px 10px;vertical-align:baseline">'
            f"{html.escape(str(cell))}</{tag}>"
        )
    return "".join(parts)
