"""The course's terms: English, 中文, one sentence, and the lab that explains them.

The terms with their sentences lie in terms.csv. Which lab explains one is not written there but found: the
first whose text has the Chinese name, since that stands beside a term's first use and nowhere else.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compresslab.classroom.course import LabPage

TERMS = Path(__file__).with_name("terms.csv")
HAN = "\u4e00-\u9fff"


@dataclass(frozen=True)
class Term:
    """A term and what it means."""

    english: str
    chinese: str
    sentence: str


def read_terms(path: Path = TERMS) -> list[Term]:
    """All terms, by their English names.

    Raises:
        ValueError: for a line without its three parts, or a name that comes twice.
    """
    with path.open(encoding="utf-8", newline="") as file:
        terms = [
            Term(**{k: (v or "").strip() for k, v in row.items()}) for row in csv.DictReader(file)
        ]
    for names in ([t.english for t in terms], [t.chinese for t in terms]):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not all(names):
            raise ValueError(
                f"{path.name} must name each term once, got {twice or 'an empty name'}"
            )
    return sorted(terms, key=lambda term: term.english.lower())


def explained_in(term: Term, labs: Sequence[LabPage]) -> LabPage | None:
    """The first lab whose text has the term's Chinese name, and not as part of a longer one; None if none."""
    whole = re.compile(f"(?<![{HAN}]){re.escape(term.chinese)}(?![{HAN}])")
    return next((lab for lab in labs if whole.search(lab.text)), None)


def markdown(terms: Iterable[Term], labs: Sequence[LabPage], folder: str = "") -> str:
    """The glossary as a table.

    Args:
        terms: in the order in which they are to stand.
        labs: in the course's order.
        folder: what leads from the page to the labs, with a slash at its end.

    Raises:
        ValueError: for a term that no lab explains.
    """
    lines = ["| term | 中文 | in one sentence | lab |", "|---|---|---|---|"]
    for term in terms:
        lab = explained_in(term, labs)
        if lab is None:
            raise ValueError(f"no lab has {term.chinese} beside {term.english!r}")
        link = f"[{lab.number}]({folder}{lab.file})"
        lines.append(f"| {term.english} | {term.chinese} | {term.sentence} | {link} |")
    return "\n".join(lines)
