"""The table in which a person enters marks for written answers, and how it is read back.

    learner, question, points, out_of, remark, and columns that the person has added

What a spreadsheet makes of it is taken as it comes: commas, semicolons or tabs, decimal commas, UTF-16. A
name that looks like a formula is written as text (`folder.harmless`) and read as it was. Left out: files of
spreadsheets.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compresslab.classroom.grading.folder import as_typed, harmless

COLUMNS = ("learner", "question", "points", "out_of", "remark")
Key = tuple[str, str]
"""A learner and a question."""


@dataclass(frozen=True)
class WrittenAnswer:
    """One learner's answer to one question; `points` is None until somebody has read it."""

    learner: str
    question: str
    text: str = ""
    points: float | None = None
    out_of: float = 0.0
    remark: str = ""
    asked: str = ""
    """The question's text."""
    rubric: tuple[str, ...] = ()
    """What a quarter of the points each is given for."""


def write_table(
    path: Path,
    rows: Sequence[WrittenAnswer],
    added: Sequence[str] = (),
    more: Mapping[Key, Sequence[str]] | None = None,
) -> None:
    """The table of marks; `added` are a marker's own columns, `more` what stands in them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *added])
        for a in rows:
            points = "" if a.points is None else f"{a.points:g}"
            cells = [a.learner, a.question, points, f"{a.out_of:g}", a.remark]
            cells += (more or {}).get((a.learner, a.question), [""] * len(added))
            writer.writerow([harmless(cell) for cell in cells])


def added_columns(path: Path) -> tuple[list[str], dict[Key, list[str]]]:
    """The columns that whoever marks has added, and their cells as they stand there."""
    reader = _rows(path)
    added = [name for name in reader.fieldnames or () if name not in COLUMNS]
    found = {}
    for row in reader:
        key = as_typed(row["learner"] or ""), row["question"] or ""
        found[key] = [as_typed(row[name] or "") for name in added]
    return added, found


def _rows(path: Path) -> csv.DictReader:
    """The rows of a table.

    Raises:
        ValueError: for bytes that are no text.
    """
    text = _decoded(Path(path))
    head = text.partition("\n")[0]
    # What a spreadsheet writes depends on its language: comma, semicolon or tab.
    mark = max(",;\t", key=head.count)
    return csv.DictReader(io.StringIO(text, newline=""), delimiter=mark)


def read_marks(path: Path) -> dict[tuple[str, str], WrittenAnswer]:
    """The marks of a table, by learner and question; a row without points is one that was not read yet.

    Raises:
        ValueError: for a table without the columns, or points that are no number or too many, with the row.
    """
    reader = _rows(path)
    missing = set(COLUMNS) - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}")
    found = {}
    for number, row in enumerate(reader, 2):
        if any((cell or "").strip() for name, cell in row.items() if name is not None):
            answer = _of_row(path, number, row)
            key = answer.learner, answer.question
            marked = found.get(key)
            if marked and None not in (marked.points, answer.points) and marked != answer:
                who, question = key
                raise ValueError(
                    f"{path}, row {number}: {who!r} has another mark for {question} further up"
                )
            if not (marked and answer.points is None):  # a copied row takes no mark away
                found[key] = answer
    return found


def _decoded(path: Path) -> str:
    """The text of a table, as we wrote it or as a spreadsheet has saved it since.

    Raises:
        ValueError: for bytes that are no text.
    """
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ("utf-16",)
    else:
        encodings = ("utf-8-sig", "cp1252")
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ValueError(f'{path} is no text in UTF-8: save it as "CSV UTF-8"')


def _of_row(path: Path, number: int, row: Mapping[str, str]) -> WrittenAnswer:
    learner, remark = (as_typed(row[name] or "") for name in ("learner", "remark"))
    try:
        out_of = _number(row["out_of"]) or 0.0
        points = _number(row["points"])
    except ValueError as error:
        raise ValueError(f"{path}, row {number}: {error}") from error
    if points is not None and not 0 <= points <= out_of:
        raise ValueError(f"{path}, row {number}: points must be 0 to {out_of:g}, got {points:g}")
    return WrittenAnswer(learner, row["question"] or "", "", points, out_of, remark)


def _number(cell: str | None) -> float | None:
    """A number with a point or a comma; None for an empty cell."""
    text = (cell or "").strip()
    return float(text.replace(",", ".")) if text else None
