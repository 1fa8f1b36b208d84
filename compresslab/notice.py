"""What a lab says in a sentence: a box with a coloured edge in a notebook, a line of text elsewhere.

    held     a finding that came out
    open     one that did not, or not here
    answer   what a prediction is held against
    note     anything else

The edge says the kind to whoever sees the colour, the sentence's first sign to everybody.
"""

import html
import re
from dataclasses import dataclass

from compresslab.language import translated

EDGES = {"held": "#009E73", "open": "#B87C00", "answer": "#0072B2", "note": "#888888"}


@dataclass(frozen=True)
class Notice:
    """A sentence and its kind; shown as HTML by a notebook, and as its words by everything else."""

    words: str
    kind: str

    def __post_init__(self) -> None:
        """Refuse a kind that is none."""
        if self.kind not in EDGES:
            raise ValueError(f"kind must be one of {', '.join(EDGES)}, got {self.kind!r}")

    def _repr_html_(self) -> str:
        style = f"border-left:4px solid {EDGES[self.kind]};padding:1px 10px;margin:1px 0"
        return f"<div style='{style}'>{marked(self.words)}</div>"

    def __repr__(self) -> str:
        return self.words


def marked(words: str) -> str:
    """A sentence as HTML: escaped, with `code`, **bold** and *emphasis* as Markdown has them."""
    text = html.escape(words)
    for sign, tag in (("`", "code"), (r"\*\*", "b"), (r"\*", "em")):
        # A star beside a space or between letters multiplies.
        inner = rf"(?<![A-Za-z0-9*]){sign}(?=[^\s*])([^`<]*?[^\s*]){sign}(?![A-Za-z0-9*])"
        text = re.sub(inner, rf"<{tag}>\1</{tag}>", text)
    return text


def tell(words: str, kind: str = "note") -> None:
    """Show a sentence, in the reader's language.

    Raises:
        ValueError: for a kind that is none.
    """
    notice = Notice(translated(words), kind)
    if in_notebook():
        from IPython.display import display

        display(notice)
    else:
        print(notice)


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
