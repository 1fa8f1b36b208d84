"""Lines that are IPython's (%time, !pip, name?) in an answer's cell: made into Python that does nothing.

IPython's own translator does it, and knows no limit of time: so only cells of a size that answers have are
given to it, and so many of a notebook.
"""

import contextlib
import re

from IPython.core.inputtransformer2 import TransformerManager

from compresslab.classroom.stub import parsed

MOST_TRANSLATED, LONGEST_MAGIC, MOST_MAGIC = 40, 10_000, 50
"""Cells of a notebook, letters of a cell, lines for IPython in it: as much as answers have, and more."""
MAGIC = re.compile(r"^[ \t]*[%!;,/?]|\?[ \t]*$|=[ \t]*[%!]", re.MULTILINE)


class Budget:
    """How much of a notebook is translated from IPython's language: its translator knows no limit of time."""

    def __init__(self) -> None:
        self.left = MOST_TRANSLATED

    def without_magic(self, source: str) -> tuple[str, str]:
        """Source that Python takes, and what is to be said of it."""
        if parsed(source) is not None:
            return source, ""
        self.left -= 1
        lines = source.splitlines()
        if self.left < 0 or len(source) > LONGEST_MAGIC or max(map(len, lines), default=0) > 1000:
            return source, "too long to look for lines of shell or magic"
        if len(MAGIC.findall(source)) > MOST_MAGIC:
            return source, "too many lines of shell or magic to look at"
        plain, rewritten = without_magic(source)
        return plain, "lines of shell or magic were not run" if rewritten else ""


def without_magic(source: str) -> tuple[str, bool]:
    """Source that Python takes, and whether lines for IPython (%time, !pip, name?) had to be rewritten.

    They become calls of `get_ipython()`, which does nothing while grading.
    """
    if parsed(source) is not None:
        return source, False
    body = re.sub(r"\A\s*%%[^\n]*\n", "", source)
    with contextlib.suppress(SyntaxError, ValueError, IndexError, RuntimeError):
        plain = TransformerManager().transform_cell(body)
        # A cell that is no Python for another reason comes back as it was, but for blanks.
        return plain, plain.split() != source.split()
    return source, False
