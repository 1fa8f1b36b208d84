"""The course in another language: catalogues of messages beside the English, and what is made from them.

    locale/zh/labs/06_low_rank.po         from solutions/06_low_rank.py
    locale/zh/exercises/low_rank.po       from classroom/exercises/{,builds/,opens/}low_rank.py
    locale/zh/library.po                  from what speaks to learners elsewhere (`SPEAKS`)
    locale/zh/longer/rounds.po            from longer/rounds.py
    locale/zh/glossary.po, readme.po      from terms.csv and README.md

There is one source, the English one. `update` takes its messages anew: a sentence that was changed is a new
message, without a translation until somebody writes one, and the old one is dropped. A lab in another
language has the same cells with the same ids and code; only its Markdown differs.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import polib
from nbformat import NotebookNode

from compresslab.classroom.glossary import TERMS
from compresslab.classroom.messages import (
    Message,
    as_message,
    blocks,
    has_words,
    of_code,
    of_markdown,
)
from compresslab.language import LOCALE

PACKAGE = Path(__file__).parents[1]
EXERCISES = PACKAGE / "classroom/exercises"
TEMPLATE = "python-brace-format"
SPEAKS = (
    "advisor/advice.py",
    "advisor/advise.py",
    "advisor/rules.py",
    "advisor/scenario.py",
    "alternative_text.py",
    "baselines.py",
    "claims.py",
    "classroom/by_rule.py",
    "classroom/checking.py",
    "classroom/compare.py",
    "classroom/complaints.py",
    "classroom/course.py",
    "classroom/grading/learner_page.py",
    "classroom/grading/mark.py",
    "classroom/harnesses.py",
    "classroom/judge.py",
    "classroom/leaderboard.py",
    "classroom/live/words.py",
    "classroom/prediction.py",
    "classroom/relation.py",
    "classroom/result.py",
    "classroom/so_far.py",
    "classroom/widgets.py",
    "debugging.py",
    "experiment.py",
    "inspection.py",
    "measure/counts.py",
    "progress_bar.py",
    "report.py",
    "stages/bits.py",
    "stages/stage.py",
    "stages/trial.py",
    "techniques/adaround.py",
    "techniques/lowrank/networks.py",
    "techniques/mixed.py",
    "techniques/tickets.py",
    "training.py",
)
"""Modules whose sentences learners read, by their paths in the package."""


@dataclass(frozen=True)
class Source:
    """A catalogue's file in the folder of a language, and the files that its messages come from."""

    catalogue: str
    files: tuple[Path, ...]


def sources(solutions: Path) -> list[Source]:
    """All catalogues of the course.

    Args:
        solutions: folder of the py:percent scripts; README.md lies beside it.
    """
    labs = [*sorted(solutions.glob("[0-9][0-9]_*.py")), solutions / "start.py"]
    subjects = sorted({p.stem for p in EXERCISES.rglob("*.py")} - {"__init__"})
    readme = solutions.parent / "README.md"
    return [
        *(Source(f"labs/{path.stem}.po", (path,)) for path in labs if path.is_file()),
        *(
            Source(f"exercises/{name}.po", tuple(sorted(EXERCISES.rglob(f"{name}.py"))))
            for name in subjects
        ),
        Source("library.po", tuple(PACKAGE / name for name in SPEAKS)),
        *(
            Source(f"longer/{path.stem}.po", (path,))
            for path in sorted((PACKAGE / "longer").glob("*.py"))
            if path.stem not in ("__init__", "experiment", "stored")
        ),
        Source("glossary.po", (TERMS,)),
        *([Source("readme.po", (readme,))] if readme.is_file() else []),
    ]


def messages(source: Source) -> Iterator[tuple[Message, str]]:
    """The messages of a source, each with what it is: "text" of a page or "code"."""
    for path in source.files:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".md":
            yield from ((Message(m), "text") for m in of_markdown(text))
        elif path.suffix == ".csv":
            rows = csv.DictReader(text.splitlines())
            yield from ((Message(row["sentence"].strip()), "text") for row in rows)
        elif path.parent.name == "solutions":
            yield from _of_notebook(text)
        else:
            yield from ((m, "code") for m in of_code(text))


def _of_notebook(script: str) -> Iterator[tuple[Message, str]]:
    import jupytext

    for cell in jupytext.reads(script, fmt="py:percent").cells:
        if cell.cell_type == "markdown":
            yield from ((Message(m), "text") for m in of_markdown(cell.source) if m != "{labs}")
        else:
            yield from ((m, "code") for m in of_code(cell.source))


def update(solutions: Path, language: str, locale: Path = LOCALE) -> list[Path]:
    """Take all messages anew and keep the translations that still fit; returns the files that changed.

    Args:
        solutions: folder of the py:percent scripts.
        language: such as "zh".
        locale: folder of the languages.
    """
    found = stale(solutions, language, locale)
    for path, text in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(found)


def stale(solutions: Path, language: str, locale: Path = LOCALE) -> dict[Path, str]:
    """The catalogues whose messages are not those of the sources, each with the text that it should have."""
    found = {}
    for source in sources(solutions):
        path = locale / language / source.catalogue
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        old = polib.pofile(before) if before else polib.POFile()
        text = f"{_renewed(source, old, language)}\n"
        if text != before:
            found[path] = text
    return found


def _renewed(source: Source, old: polib.POFile, language: str) -> polib.POFile:
    known = {(entry.msgid, TEMPLATE in entry.flags): entry for entry in old}
    new = polib.POFile(wrapwidth=0)
    new.metadata = {"Content-Type": "text/plain; charset=UTF-8", "Language": language}
    seen: set[tuple[str, bool]] = set()
    for message, kind in messages(source):
        key = (message.text, message.values)
        if key in seen:
            continue
        seen.add(key)
        flags = [TEMPLATE] if message.values else []
        words = known[key].msgstr if key in known else ""
        new.append(polib.POEntry(msgid=message.text, msgstr=words, comment=kind, flags=flags))
    return new


def missing(solutions: Path, language: str, locale: Path = LOCALE) -> dict[str, list[str]]:
    """By catalogue, the messages that have no translation yet."""
    found = {}
    for source in sources(solutions):
        path = locale / language / source.catalogue
        known = polib.pofile(str(path)) if path.is_file() else []
        done = {(e.msgid, TEMPLATE in e.flags) for e in known if e.msgstr}
        lacking = [m.text for m, _ in messages(source) if (m.text, m.values) not in done]
        if lacking:
            found[source.catalogue] = lacking
    return found


# ---- pages in another language -------------------------------------------------------------------
def words_of(path: Path) -> dict[str, str]:
    """From a catalogue's messages to their translations; empty if there is no such file."""
    entries: Iterable[polib.POEntry] = polib.pofile(str(path)) if path.is_file() else []
    return {entry.msgid: entry.msgstr for entry in entries if entry.msgstr}


def markdown_in(source: str, words: dict[str, str]) -> str:
    """A Markdown text with its blocks translated; those that have no translation stay as they are."""
    return "\n\n".join(
        words.get(as_message(block), block) if has_words(block) else block
        for block in blocks(source)
    )


def notebook_in(notebook: NotebookNode, words: dict[str, str]) -> NotebookNode:
    """A copy of a notebook with its Markdown translated and everything else the same."""
    other = nbformat.from_dict(notebook)
    for cell in other.cells:
        if cell.cell_type == "markdown":
            cell.source = markdown_in(cell.source, words)
    return other
