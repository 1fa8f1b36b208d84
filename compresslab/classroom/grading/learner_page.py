"""The page that a learner gets back, in the learner's language.

It holds each exercise with its points, what happened and the hint of a recognised mistake, and the written
answers with their marks, where these were given.

Left out of other languages: rubrics and remarks, which are the teacher's own words, and what Python says.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial

from compresslab.classroom.exercises import EXERCISES
from compresslab.classroom.grading.html_page import escaped, html_page
from compresslab.classroom.grading.mark import Mark
from compresslab.classroom.grading.results import Results
from compresslab.classroom.grading.written import WrittenAnswer
from compresslab.classroom.messages import as_message, blocks
from compresslab.language import ENGLISH, LANGUAGES, translated
from compresslab.notice import marked

STATES = {"passed": "#007A58", "partly": "#8F6400", "not done": "#6F6F6F", "missing": "#6F6F6F"}
OTHERWISE = "#B84C00"
"""Of words on white."""
NO_QUESTION = re.compile(r"#|\*+(?:Your answer|你的解答)")
"""A heading, and the place for the answer."""


def learner_page(
    results: Results,
    learner: str,
    written: Sequence[WrittenAnswer] = (),
    language: str = ENGLISH,
) -> str:
    """The page of one learner, as HTML.

    Args:
        results: of a grading run.
        learner: whose.
        written: the learner's written answers.
        language: "en" or "zh".

    Raises:
        KeyError: if nobody of that name was graded.
        ValueError: for a language that there is not.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {language!r}")
    said = partial(translated, language=language)
    marks = results.learners[learner]
    rows = "".join(_exercise_row(mark, said) for mark in marks)
    points, out_of = sum(m.points for m in marks), sum(m.out_of for m in marks)
    title = said(f"# {results.title}").removeprefix("# ")
    together = said(f"{points:g} of {out_of:g} points for the exercises")
    headings = "".join(f"<th>{said(h)}</th>" for h in ("exercise", "points", "what happened"))
    seed = said(f"Cases were drawn with seed {results.seed}.")
    parts = [
        f"<h1>{escaped(title)}</h1><p>{escaped(learner)}: <b>{together}</b></p>",
        f"<table><tr>{headings}</tr>{rows}</table>",
        *(_written_part(answer, said) for answer in written),
        f"<p><small>{seed}</small></p>",
    ]
    return html_page(f"{learner}, {title}", "".join(parts), language)


def _exercise_row(mark: Mark, said: Callable[[str], str]) -> str:
    exercise = EXERCISES[mark.exercise]
    hint = next((m.hint for m in exercise.mistakes if m.name == mark.mistake), "")
    lines = [escaped(said(mark.message))] if mark.message else []
    lines += [f"<b>{said('Hint')}.</b> {marked(said(hint))}"] if hint else []
    colour = STATES.get(mark.status, OTHERWISE)
    state = f"<span style='color:{colour}'>{escaped(said(mark.status))}</span>"
    points = said(f"{mark.points:g} of {mark.out_of:g} points")
    return (
        f"<tr><td>{escaped(said(exercise.title))}</td><td class='n'>{points}</td>"
        f"<td>{'<br>'.join([state, *lines])}</td></tr>"
    )


def _written_part(answer: WrittenAnswer, said: Callable[[str], str]) -> str:
    """The question, the answer, its mark or a place for it, and what the points are given for."""
    given = "__" if answer.points is None else f"{answer.points:g}"
    heading = said(f"Written question: {given} of {answer.out_of:g} points")
    heading += f" ({said('not marked yet')})" if answer.points is None else ""
    asked = f"<p>{escaped(_plain(answer.asked, said))}</p>" if answer.asked else ""
    lines = "".join(f"<li>{escaped(line)}</li>" for line in answer.rubric)
    rubric = f"<p>{said('A quarter of the points each:')}</p><ol>{lines}</ol>" if lines else ""
    remark = f"<p>{escaped(answer.remark)}</p>" if answer.remark else ""
    return (
        f"<h2>{heading}</h2>{asked}"
        f"<pre>{escaped(answer.text or said('no answer'))}</pre>{remark}{rubric}"
    )


def _plain(question: str, said: Callable[[str], str]) -> str:
    """The question without its heading and the place for the answer."""
    found = (said(as_message(block)) for block in blocks(question))
    lines = [line.strip() for block in found for line in block.splitlines()]
    return " ".join(x for x in lines if x and not NO_QUESTION.match(x))
