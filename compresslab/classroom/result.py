"""What came of an answer: of one call, and of all of them as a verdict that can be shown.

A `CheckResult` is a coloured box in a notebook and lines of text elsewhere.
"""

import html
from dataclasses import dataclass

from compresslab.classroom.exercise import Exercise

COLOURS = {"passed": "#008A64", "slow": "#8F6400", "not done": "#6F6F6F"}


class StoppedError(Exception):
    """The learner has interrupted an answer that did not end."""


@dataclass(frozen=True)
class Outcome:
    """What one call did: a value, or an exception, or a spoilt input."""

    value: object = None
    error: Exception | None = None
    changed_input: bool = False


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
        e = self.exercise
        so_far = f"{self.points:g} of {e.points} points"
        words = {
            "passed": f"✔ {e.title}: {self.medal or 'right'}, {so_far}",
            "slow": f"✔ {e.title}: right, but slow: {so_far}",
            "not done": f"○ {e.title}: not done yet (about {e.lines} line{'s' * (e.lines > 1)})",
            "failed": f"✘ {e.title}: not right yet",
            "error": f"✘ {e.title}: your code stopped with an error",
        }
        partly = self.points and self.status in ("failed", "error")
        return words[self.status] + (f", {so_far} so far" if partly else "")

    def __str__(self) -> str:
        """The headline, the facts and the hint as lines of text."""
        lines = [self.headline, *(f"  {head}: {text}" for head, text in self.facts)]
        return "\n".join([*lines, *([f"  Hint: {self.hint}"] if self.hint else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour = COLOURS.get(self.status, "#C65200")
        rows = "".join(
            "<tr style='vertical-align:baseline'><td style='text-align:left;padding:1px 12px 1px 0'>"
            f"{html.escape(head)}</td><td style='text-align:left'><code>{html.escape(text)}</code>"
            "</td></tr>"
            for head, text in self.facts
        )
        hint = f"<p><b>Hint.</b> {html.escape(self.hint)}</p>" if self.hint else ""
        return (
            f"<div style='border-left:5px solid {colour};padding:4px 12px'>"
            f"<b style='color:{colour}'>{html.escape(self.headline)}</b>"
            f"{'<table>' + rows + '</table>' if rows else ''}{hint}</div>"
        )
