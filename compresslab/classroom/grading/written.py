"""The written answers of a class: collected into one page per question, marks read back from a table.

    OUT/QUESTION.html     the question, and every learner's answer under the learner's name
    OUT/answers.json      the same, to be read by `feedback`
    OUT/marks.csv         a row for every learner and question; whoever reads the answers fills in two columns

The table (`marks_table`) is never overwritten: run again, it gets the rows that it lacks. Answers are text;
what they hold of HTML or Markdown is shown as it was typed. Left out: marking by machine.
"""

import json
import re
import tomllib
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from compresslab.classroom.grading import submission
from compresslab.classroom.grading.collect import Found
from compresslab.classroom.grading.html_page import escaped, html_page
from compresslab.classroom.grading.marks_table import (
    WrittenAnswer,
    added_columns,
    read_marks,
    write_table,
)
from compresslab.classroom.stub import parsed
from compresslab.writing import write_whole

PREFIX = "written-"
LONGEST = 50_000
PICTURE = re.compile(r"data:image/[\w.+-]{1,20};base64,[A-Za-z0-9+/=]+")
"""One that an editor has put into the text itself."""
MOST_POINTS = 10_000


@dataclass(frozen=True)
class Rubric:
    """How a written question is marked.

    Attributes:
        rubric: four lines, each worth a quarter of the points.
        model: an answer with everything in it.
        samples: a good, a middling and a poor answer, with the points that they get.
        oral: questions that somebody who wrote the answer can answer in a minute.
    """

    rubric: tuple[str, ...]
    model: str
    samples: tuple[tuple[float, str], ...]
    oral: tuple[str, ...]


def read_rubrics(path: Path) -> dict[str, Rubric]:
    """The rubrics of all written questions, by grade id.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is broken.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return {f"{PREFIX}{name}": _rubric(about) for name, about in content.items()}
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is broken: {error}") from error


def _rubric(about: dict) -> Rubric:
    samples = tuple((float(s["points"]), s["text"]) for s in about["samples"])
    return Rubric(tuple(about["rubric"]), about["model"].strip(), samples, tuple(about["oral"]))


def questions(lab: Path) -> dict[str, tuple[str, float]]:
    """A lab's written questions: text and points by id.

    Raises:
        ValueError: if the notebook cannot be read.
    """
    cells = _read(submission.content(lab))
    return {c.id: (c.text, c.points) for c in cells if c.handed_out and c.id.startswith(PREFIX)}


def collect(
    found: Mapping[str, Found],
    asked: Mapping[str, tuple[str, float]],
    editions: Sequence[Mapping[str, tuple[str, float]]] = (),
    printed: Set[str] = frozenset(),
) -> list[WrittenAnswer]:
    """Everybody's answers, question by question; a notebook that cannot be read gives empty ones.

    The answer stands in the cell that was handed out, and goes on in the text below it up to the lab's next
    cell, whether that was typed into text cells or code cells. Where the cell lost its metadata it is known
    by the question's heading; where there are copies the last one with an answer counts.

    Args:
        found: the submissions.
        asked: of `questions`.
        editions: the same of the lab's editions in other languages.
        printed: of `first_lines`; without it, an answer ends at the next heading.
    """
    worded = {
        id: [text, *(e[id][0] for e in editions if id in e)] for id, (text, _) in asked.items()
    }
    texts = {learner: _answers(place.path, worded, printed) for learner, place in found.items()}
    return [
        WrittenAnswer(learner, id, texts[learner].get(id, ""), None, out_of, asked=question)
        for id, (question, out_of) in asked.items()
        for learner in found
    ]


def _answers(path: Path, worded: Mapping[str, Sequence[str]], printed: Set[str]) -> dict[str, str]:
    try:
        cells = _read(submission.content(path))
    except (OSError, ValueError):
        return {}
    return {id: _answer(cells, id, questions, printed) for id, questions in worded.items()}


def _answer(cells: Sequence["_Cell"], id: str, worded: Sequence[str], printed: Set[str]) -> str:
    own = [n for n, c in enumerate(cells) if c.id == id or any(begins(c.text, q) for q in worded)]
    if not own:
        return ""
    texts = {n: _without("\n".join(worded), cells[n].text) for n in own}
    place = max((n for n in own if texts[n]), default=own[-1])
    parts = [texts[place]]
    for cell in cells[place + 1 :]:
        first = _first_line(cell.text)
        is_the_labs = first in printed if printed else first.startswith("#")
        if cell.handed_out or is_the_labs or any(begins(cell.text, q) for q in worded):
            break
        said = _said_in_code(cell.text) if cell.kind == "code" else cell.text.strip()
        if cell.kind == "code" and not said:
            break
        parts.append(said)
    return "\n\n".join(part for part in parts if part)


def first_lines(labs: Iterable[Path]) -> set[str]:
    """The lines that the text cells of a lab begin with: what stands below is no longer an answer.

    Args:
        labs: the lab's editions.

    Raises:
        ValueError: if one of them cannot be read.
    """
    cells = (cell for lab in labs for cell in _read(submission.content(lab)))
    return {_first_line(cell.text) for cell in cells if cell.kind != "code"} - {""}


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def _said_in_code(text: str) -> str:
    """The sentences that somebody typed into a code cell, as they are or as comments; "" if it is code."""
    tree = parsed(text)
    if tree is not None and not tree.body:
        return "\n".join(
            line.strip().removeprefix("#").strip() for line in text.strip().splitlines()
        )
    magic = any(line.lstrip().startswith(("%", "!")) for line in text.splitlines())
    return text.strip() if tree is None and not magic else ""


def begins(text: str, question: str) -> bool:
    """Whether it begins with the question: its heading, and the line below."""
    lines = [line.strip() for line in question.splitlines() if line.strip()][:2]
    return [line.strip() for line in text.splitlines() if line.strip()][: len(lines)] == lines


@dataclass(frozen=True)
class _Cell:
    id: str
    kind: str
    text: str
    points: float
    handed_out: bool


def _read(notebook: bytes) -> list[_Cell]:
    """The cells of a notebook, as far as they are any.

    Raises:
        ValueError: for bytes that are no notebook.
    """
    try:
        cells = json.loads(notebook.decode("utf-8-sig"))["cells"]
        kept = [cell for cell in cells if isinstance(cell, dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the notebook cannot be read: {str(error)[:120]}") from error
    return [_cell(cell) for cell in kept]


def _cell(cell: dict) -> _Cell:
    about, source = cell.get("metadata"), cell.get("source", "")
    about = about.get("nbgrader") if isinstance(about, dict) else None
    about = about if isinstance(about, dict) else {}
    id, points = about.get("grade_id", cell.get("id")), about.get("points", 0)
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    return _Cell(
        id if isinstance(id, str) else "",
        str(cell.get("cell_type")),
        # Half of a pair of surrogates can be in JSON and in no file.
        PICTURE.sub("(picture)", source)[:LONGEST].encode("utf-8", "replace").decode()
        if isinstance(source, str)
        else "",
        float(points) if isinstance(points, int | float) and 0 <= points < MOST_POINTS else 0.0,
        bool(about.get("grade_id")),
    )


def _without(question: str, text: str) -> str:
    """An answer without the question above it, if that is still there."""
    kept = text.strip()
    for line in filter(None, question.splitlines()):
        if kept.startswith(line.strip()):
            kept = kept[len(line.strip()) :].lstrip()
    return kept


# ---- pages and the table -------------------------------------------------------------------------
def write_pages(
    answers: Sequence[WrittenAnswer],
    asked: Mapping[str, tuple[str, float]],
    out: Path,
    rubrics: Mapping[str, Rubric] | None = None,
) -> list[Path]:
    """Write a page for each question, and complete the table of marks; gives their paths.

    Args:
        answers: of `collect`.
        asked: of `questions`.
        out: a folder.
        rubrics: shown above the answers where there is one.

    Raises:
        ValueError: if the table that is there is broken, or another lab's answers are there.
    """
    out, rubrics = Path(out), rubrics or {}
    if (out / "answers.json").is_file() and (out / "marks.csv").is_file():
        refuse_others(read_folder(out), asked, out)
    lines = {id: rubric.rubric for id, rubric in rubrics.items()}
    answers = [replace(a, rubric=lines.get(a.question, ())) for a in answers]
    written = []
    for id, (question, points) in asked.items():
        of_it = [a for a in answers if a.question == id]
        page = _page(id, question, points, rubrics.get(id), of_it)
        path = out / f"{id}.html"
        write_whole(path, lambda place, page=page: place.write_text(page, encoding="utf-8"))
        written.append(path)
    table = out / "marks.csv"
    before = read_marks(table) if table.is_file() else {}
    added, cells = added_columns(table) if table.is_file() else ([], {})
    rows = [before.get((a.learner, a.question), a) for a in answers]
    rows += [a for key, a in before.items() if key not in {(r.learner, r.question) for r in rows}]
    write_whole(table, lambda place: write_table(place, rows, added, cells))
    kept = out / "answers.json"
    text = json.dumps([asdict(a) for a in answers], ensure_ascii=False)
    write_whole(kept, lambda place: place.write_text(text, encoding="utf-8"))
    return [*written, kept, table]


def read_folder(out: Path) -> dict[str, list[WrittenAnswer]]:
    """Every learner's answers, with the marks that the table holds by now.

    Raises:
        FileNotFoundError: if nothing was collected there.
        ValueError: if the files are broken.
    """
    kept, marks = Path(out) / "answers.json", read_marks(Path(out) / "marks.csv")
    try:
        answers = [WrittenAnswer(**a) for a in json.loads(kept.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{kept} is broken: {error}") from error
    asked = {(a.learner, a.question) for a in answers}
    strangers = [
        who for (who, id), m in marks.items() if m.points is not None and (who, id) not in asked
    ]
    if strangers:
        about = (
            f"{Path(out) / 'marks.csv'} has marks of {strangers[0]!r}, of whom there is no answer"
        )
        warnings.warn(f"{about}: has a spreadsheet changed the name?", stacklevel=2)
    found: dict[str, list[WrittenAnswer]] = {}
    for a in answers:
        mark = marks.get((a.learner, a.question), a)
        told = replace(mark, text=a.text, asked=a.asked, rubric=tuple(a.rubric))
        found.setdefault(a.learner, []).append(told)
    return found


def refuse_others(
    read: Mapping[str, Sequence[WrittenAnswer]], asked: Mapping[str, object], place: Path
) -> None:
    """Refuse answers to questions that a lab does not ask.

    Args:
        read: of `read_folder`.
        asked: the lab's own, of `questions`.
        place: where the answers were read.

    Raises:
        ValueError: with the first of them.
    """
    others = sorted({a.question for answers in read.values() for a in answers} - set(asked))
    if others:
        about = f"{place} holds answers to {others[0]}, a question of another lab"
        raise ValueError(f"{about}: give another folder")


def _guide(rubric: Rubric) -> str:
    """The rubric, the model answer and the samples, as HTML."""

    def listed(lines: Sequence[str], kind: str) -> str:
        return f"<{kind}>" + "".join(f"<li>{escaped(x)}</li>" for x in lines) + f"</{kind}>"

    samples = [f"{points:g} points: {text}" for points, text in rubric.samples]
    return (
        f"<h2>Rubric: a quarter of the points each</h2>{listed(rubric.rubric, 'ol')}"
        f"<h2>A model answer</h2><pre>{escaped(rubric.model)}</pre>"
        f"<h2>Samples</h2>{listed(samples, 'ul')}<h2>To ask</h2>{listed(rubric.oral, 'ul')}<hr>"
    )


def _page(
    id: str,
    question: str,
    points: float,
    rubric: Rubric | None,
    answers: Sequence[WrittenAnswer],
) -> str:
    parts = [f"<h1>{escaped(id)} ({points:g} points)</h1><pre>{escaped(question)}</pre>"]
    parts += [_guide(rubric)] if rubric else []
    for answer in answers:
        parts.append(f"<h2>{escaped(answer.learner)}</h2>")
        parts.append(f"<pre>{escaped(answer.text or 'no answer')}</pre>")
    return html_page(id, "".join(parts))
