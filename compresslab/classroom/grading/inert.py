"""A learner's notebook in which nothing is a program any more, for pages that show it as HTML.

nbgrader's formgrader and its feedback render text cells with the HTML that they hold: a script in a written
answer would run in the teacher's session, where marks are given. So before a notebook is kept

    text and raw cells     an HTML tag becomes text: a zero-width space stands behind its `<`; a few tags
                           without attributes stay, which the labs themselves use
    links                  `javascript:` and its like lose their colon
    metadata               everything goes but nbgrader's; so do attachments and odd ids of cells

Code cells are shown as text anyway, and outputs are cleared by nbgrader.
"""

import re

from nbformat import NotebookNode
from nbformat.v4 import new_notebook

TAG = re.compile(r"<(?=[A-Za-z/!?])(?!/?(?:details|summary|br|sub|sup|b|i)>)")
BETWEEN = r"[\s\x00-\x20\\]*"
"""What a browser or Markdown leaves out of a link's scheme."""
SCHEME = re.compile(
    "("
    + "|".join(BETWEEN.join(name) for name in ("javascript", "vbscript", "livescript", "mocha"))
    + rf"|{BETWEEN.join('data')}(?={BETWEEN}:\S))({BETWEEN}):",
    re.IGNORECASE,
)
ENTITY = re.compile(r"&(?=#|colon|Tab|NewLine|lt|LT|NoBreak|ZeroWidthSpace)")
NO_WIDTH = "\u200b"
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
KINDS = ("code", "markdown", "raw")


def inert_text(source: str) -> str:
    """Markdown without HTML of its own: it looks the same, and no part of it is a tag."""
    # Entities are read before a link's scheme is, so that one could be spelled with them.
    return SCHEME.sub(r"\1\2 ", ENTITY.sub("&" + NO_WIDTH, TAG.sub("<" + NO_WIDTH, source)))


def make_inert_(nb: NotebookNode) -> None:
    """Take out of a notebook whatever a page could run."""
    plain = new_notebook().metadata
    plain.update(
        kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"},
        language_info={"name": "python"},
    )
    nb.metadata = plain
    nb.cells = [cell for cell in nb.cells if cell.get("cell_type") in KINDS]
    for cell in nb.cells:
        about = cell.get("metadata", {}).get("nbgrader")
        cell.metadata = NotebookNode({} if about is None else {"nbgrader": about})
        cell.pop("attachments", None)
        if not ID.fullmatch(str(cell.get("id", ""))):
            cell.pop("id", None)
        if cell.cell_type != "code":
            cell.source = inert_text(cell.source if isinstance(cell.source, str) else "")
