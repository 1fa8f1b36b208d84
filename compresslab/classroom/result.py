"""What came of an answer: of one call, and of all of them as a verdict that can be shown.

A `CheckResult` is a coloured box in a notebook and lines of text elsewhere.
"""

import html
from dataclasses import dataclass

from compresslab.classroom.exercise import Exercise
from compresslab.language import translated
from compresslab.notice import marked

COLOURS = {"passed": "#009E73", "slow": "#B87C00", "not done": "#888888"}
FAILED = "#D55E00"
"""Of the edge, seen on a light page and on a dark one; the words have the page's own colour."""


class StoppedError(Exception):
    """The learner has interrupted an answer that did not end."""


@dataclass(frozen=True)
class Outcome:
    """What one call did: a value, or an exception, or a spoilt input."""

    value: object = None
    error: Exception | None = None
    changed_input: bool = False


HEADINGS = frozenset(
    (
        "allowed",
        "case",
        "difference",
        "error",
        "expected",
        "gives",
        "got",
        "next",
        "reached",
        "stage",
    )
)
"""Headings of one word; any other single word is the name of an argument, which is code."""


def _heading(words: str) -> str:
    return translated(words) if words in HEADINGS or not words.isidentifier() else words


@dataclass(frozen=True)
class CheckResult:
    """The verdict on an answer, shown as a coloured box in a notebook and as text elsewhere.

    Attributes:
        status: "passed", "slow" (right, but too slow), "not done", "failed" or "error"; an open exercise is
            passed with a medal.
        facts: what the learner is shown, as (heading, text) pairs.
        mistake: the name of the recognised mistake, or None.
        points: what it earns; 0 for what is not right in any stage.
        medal: of an open exercise: "gold", "silver", "bronze" or "".
    """

    exercise: Exercise
    status: str
    facts: tuple[tuple[str, str], ...] = ()
    mistake: str | None = None
    hint: str = ""
    points: float = 0.0
    medal: str = ""

    @property
    def passed(self) -> bool:
        """Whether the answer is right on every case; of an open exercise, whether it has a medal."""
        return self.status == "passed"

    @property
    def headline(self) -> str:
        """One line: mark, title, verdict."""
        e, sign = self.exercise, {"passed": "✔", "slow": "✔", "not done": "○"}.get(self.status, "✘")
        so_far = translated(f"{self.points:g} of {e.points} points")
        words = {
            "passed": f"{translated(self.medal or 'right')}, {so_far}",
            "slow": translated(f"right, but slow: {so_far}"),
            "not done": translated(
                f"not done yet (about {e.lines} lines)"
                if e.lines > 1
                else "not done yet (about 1 line)"
            ),
            "failed": translated("not right yet"),
            "error": translated("your code stopped with an error"),
        }
        partly = self.points and self.status in ("failed", "error")
        verdict = words[self.status] + (translated(f", {so_far} so far") if partly else "")
        return f"{sign} {translated(e.title)}: {verdict}"

    def __str__(self) -> str:
        """The headline, the facts and the hint as lines of text."""
        lines = [self.headline, *(f"  {head}: {text}" for head, text in self._shown_facts)]
        hint = [f"  {translated('Hint')}: {translated(self.hint)}"] if self.hint else []
        return "\n".join([*lines, *hint])

    __repr__ = __str__

    @property
    def _shown_facts(self) -> list[tuple[str, str]]:
        return [(_heading(head), translated(text)) for head, text in self.facts]

    def _repr_html_(self) -> str:
        colour = COLOURS.get(self.status, FAILED)
        rows = "".join(
            "<tr style='vertical-align:baseline'><th scope='row' "
            "style='text-align:left;font-weight:normal;padding:1px 12px 1px 0'>"
            f"{html.escape(head)}</th><td style='text-align:left'><code>{html.escape(text)}</code>"
            "</td></tr>"
            for head, text in self._shown_facts
        )
        title, words = translated("Hint"), marked(translated(self.hint))
        hint = f"<p><b>{title}.</b> {words}</p>" if self.hint else ""
        return (
            f"<div style='border-left:5px solid {colour};padding:4px 12px'>"
            f"<b>{html.escape(self.headline)}</b>"
            f"{'<table>' + rows + '</table>' if rows else ''}{hint}</div>"
        )
