"""What comes back from a grading run: a page for each learner, one about the class, tables for a platform.

    OUT/learners/NAME-HASH.html     the learner's own page (`learner_page`)
    OUT/class.html                  per exercise: how many passed, which known mistakes were made by how
                                    many, seconds; who is stuck. What to talk about in the next lecture
    OUT/canvas.csv, moodle.csv, blackboard.csv, gradescope/NAME-HASH.json
                                    points in the forms that these platforms take (`platforms`)

Pages hold no script and load nothing; everything that comes from a notebook or a name is escaped. Left out:
sending pages, which is the platform's business; a page for one learner shows nothing of the others.
"""

import csv
import hashlib
import json
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from compresslab.classroom.exercises import EXERCISES
from compresslab.classroom.grading import platforms
from compresslab.classroom.grading.folder import harmless
from compresslab.classroom.grading.grade import exercises_of
from compresslab.classroom.grading.html_page import escaped, html_page, is_page
from compresslab.classroom.grading.learner_page import learner_page
from compresslab.classroom.grading.mark import Mark
from compresslab.classroom.grading.results import Results
from compresslab.classroom.grading.written import WrittenAnswer
from compresslab.language import ENGLISH
from compresslab.writing import write_whole

STUCK = 0.5
"""Share of the points below which a learner who has handed something in is named as stuck."""


def write_feedback(
    results: Results,
    out: Path,
    written: Mapping[str, Sequence[WrittenAnswer]] | None = None,
    language: str = ENGLISH,
) -> list[Path]:
    """Write all pages and tables; gives their paths.

    Args:
        results: of a grading run.
        out: a folder; what is there under the same names is replaced.
        written: the written answers of each learner, with their marks.
        language: of the learners' pages, such as "zh"; the others are for the teacher, in English.

    Raises:
        ValueError: if the pages of another lab are there.
    """
    out, written = Path(out), written or {}
    there = out / "class.html"
    if there.exists() and not is_page(there, _class_title(results)):
        raise ValueError(f"{there} is no page about {results.title}: give another --out")
    pages = {
        out / "learners" / page_name(learner): learner_page(
            results, learner, written.get(learner, ()), language
        )
        for learner in results.learners
    }
    pages[out / "class.html"] = class_page(results)
    for learner, found in platforms.gradescope(results, written).items():
        place = out / "gradescope" / page_name(learner).replace(".html", ".json")
        pages[place] = json.dumps(found, indent=1, ensure_ascii=False)
    for path, text in pages.items():
        write_whole(path, lambda place, text=text: place.write_text(text, encoding="utf-8"))
    for name, table in platforms.TABLES.items():
        rows = table(results, written)
        write_whole(out / name, lambda place, rows=rows: _write_csv(place, rows))
    return [*pages, *(out / name for name in platforms.TABLES)]


def page_name(learner: str) -> str:
    """A file name for anybody's name; two names have two."""
    plain = re.sub(r"[^\w.-]+", "_", learner)[:60].strip("._") or "learner"
    digest = hashlib.sha256(learner.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain}-{digest}.html"


# ---- the class -----------------------------------------------------------------------------------
def class_page(results: Results) -> str:
    """How the class did at each exercise, and who needs help."""
    learners = results.learners
    parts = [
        f"<h1>{escaped(results.title)}: {len(learners)} learners</h1>",
        *(_exercise_part(e.id, results) for e in exercises_of(results.lab)),
        _stuck_part(learners),
    ]
    return html_page(_class_title(results), "".join(parts))


def _class_title(results: Results) -> str:
    return f"{results.title}, the class"


def _exercise_part(id: str, results: Results) -> str:
    marks = [m for m in results.marks if m.exercise == id]
    if not marks:
        return ""
    tried = [m for m in marks if m.status not in ("missing", "not done")]
    states = Counter(m.status for m in marks)
    mistakes = Counter(m.mistake for m in tried if m.mistake)
    unknown = sum(m.status in ("failed", "partly", "error") and not m.mistake for m in tried)
    rows = [_bar_row(name, n, len(marks)) for name, n in states.most_common()]
    rows += [_bar_row(f"mistake: {name}", n, len(marks)) for name, n in mistakes.most_common()]
    rows += [_bar_row("another mistake", unknown, len(marks))] if unknown else []
    seconds = statistics.median(m.seconds for m in tried) if tried else 0.0
    return (
        f"<h2>{escaped(EXERCISES[id].title)}</h2><table>{''.join(rows)}</table>"
        f"<p><small>processor time of the slowest case: {seconds:.1f} s in the median</small></p>"
    )


def _bar_row(name: str, count: int, of: int) -> str:
    bar = f"<span class='bar' style='width:{300 * count / of:.0f}px'></span>"
    return f"<tr><td>{escaped(name)}</td><td class='n'>{count}</td><td>{bar}</td></tr>"


def _stuck_part(learners: Mapping[str, Sequence[Mark]]) -> str:
    def share(marks: Sequence[Mark]) -> float:
        return sum(m.points for m in marks) / max(sum(m.out_of for m in marks), 1)

    nothing = [n for n, marks in learners.items() if all(m.status == "missing" for m in marks)]
    stuck = sorted((n for n, m in learners.items() if share(m) < STUCK and n not in nothing))
    parts = [
        f"<h2>Less than half of the points</h2><p>{_names(stuck)}</p>",
        f"<h2>Nothing that could be graded</h2><p>{_names(nothing)}</p>",
    ]
    return "".join(parts)


def _names(names: Sequence[str]) -> str:
    return escaped(", ".join(names)) or "nobody"


def _write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([[harmless(cell) for cell in row] for row in rows])
