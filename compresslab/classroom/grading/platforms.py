"""Points in the forms that learning platforms take.

    platform     what it takes                                     who is who
    Canvas       CSV, "Import Grades"                              the number in the downloaded file's name
    Moodle       CSV, "Upload grading worksheet"                   the participant's number in that name
    Blackboard   CSV, "Work Offline", "Upload"                     the user name in that name
    Gradescope   JSON, an autograder's results.json                one file a submission
                 CSV, as its own "Download Grades"                 the number in the folder's name

Written answers count as far as they have marks. Blackboard makes a new column of a heading that it does not
know; a column that is there is known by the heading that Blackboard itself gave it, number and all, which has
to be pasted over ours. Gradescope imports no table: its CSV is for gradebooks that read what it exports. Left
out: sending anything anywhere.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from compresslab.classroom.exercises import EXERCISES
from compresslab.classroom.grading.mark import Mark
from compresslab.classroom.grading.results import Results
from compresslab.classroom.grading.written import WrittenAnswer

Written = Mapping[str, Sequence[WrittenAnswer]]
Rows = list[list[object]]
LAST_MODIFIED = "Last modified (grade)"
"""A column without which Moodle refuses a grading worksheet; "-": nobody has changed the grade since."""


def totals(results: Results, written: Written) -> dict[str, tuple[float, float]]:
    """Points and what can be had, written answers included as far as they have marks."""
    found = {}
    for learner, marks in results.learners.items():
        read = _marked(written.get(learner, ()))
        points = sum(m.points for m in marks) + sum(a.points for a in read)
        found[learner] = points, sum(m.out_of for m in marks) + sum(a.out_of for a in read)
    return found


def canvas(results: Results, written: Written | None = None) -> Rows:
    """Rows of a CSV for Canvas."""
    found = totals(results, written or {})
    most = max((out_of for _, out_of in found.values()), default=0)
    rows: Rows = [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", results.title],
        ["    Points Possible", "", "", "", "", most],
    ]
    return rows + [[*_who(n), "", "", "", points] for n, (points, _) in found.items()]


def moodle(results: Results, written: Written | None = None) -> Rows:
    """Rows of a CSV for Moodle."""
    rows: Rows = [["Identifier", "Full name", "Grade", "Maximum grade", LAST_MODIFIED]]
    for learner, (points, out_of) in totals(results, written or {}).items():
        name, number = _who(learner)
        rows.append([f"Participant {number}" if number else "", name, points, out_of, "-"])
    return rows


def blackboard(results: Results, written: Written | None = None) -> Rows:
    """Rows of a CSV for Blackboard."""
    found = totals(results, written or {})
    most = max((out_of for _, out_of in found.values()), default=0)
    heading = f"{results.title} [Total Pts: {most:g} Score]"
    return [["Username", heading], *([name, points] for name, (points, _) in found.items())]


def gradescope_table(results: Results, written: Written | None = None) -> Rows:
    """Rows of a CSV as Gradescope exports it; who a submission's number is, Gradescope alone knows."""
    name = results.title
    about = ("Max Points", "Submission Time", "Lateness (H:M:S)")
    rows: Rows = [["Name", "SID", "Email", name, *(f"{name} - {column}" for column in about)]]
    for learner, (points, out_of) in totals(results, written or {}).items():
        rows.append([*_who(learner), "", points, out_of, "", ""])
    return rows


def gradescope(results: Results, written: Written | None = None) -> dict[str, dict]:
    """For each learner what an autograder of Gradescope's hands back: a test for each exercise."""
    written = written or {}
    found = {}
    for learner, marks in results.learners.items():
        tests = [_test(mark) for mark in marks]
        tests += [
            {"name": a.question, "score": a.points, "max_score": a.out_of, "output": a.remark}
            for a in _marked(written.get(learner, ()))
        ]
        found[learner] = {
            "output": f"{results.title}; cases were drawn with seed {results.seed}",
            "output_format": "text",
            "tests": [t | {"output_format": "text"} for t in tests],
        }
    return found


TABLES: dict[str, Callable[[Results, Written], Rows]] = {
    "canvas.csv": canvas,
    "moodle.csv": moodle,
    "blackboard.csv": blackboard,
    "gradescope.csv": gradescope_table,
}


def _test(mark: Mark) -> dict:
    exercise = EXERCISES[mark.exercise]
    hint = next((m.hint for m in exercise.mistakes if m.name == mark.mistake), "")
    return {
        "name": exercise.title,
        "score": mark.points,
        "max_score": mark.out_of,
        "status": "passed" if mark.points == mark.out_of else "failed",
        "output": "\n".join(words for words in (mark.status, mark.message, hint) if words),
    }


def _marked(answers: Sequence[WrittenAnswer]) -> list[WrittenAnswer]:
    return [answer for answer in answers if answer.points is not None]


def _who(learner: str) -> tuple[str, str]:
    """A name, and the platform's number where the submission's name held one (see `collect`)."""
    found = re.fullmatch(r"(.+)_(\d+)", learner)
    return (found[1], found[2]) if found else (learner, "")
