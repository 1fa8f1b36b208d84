"""A question that is answered before the experiment, and locked in.

    guess = predict("How many points do four bits cost?", ["under 1", "about 5", "more"])
    ...                                       the experiment
    guess.reveal("about 5")

What is locked in is kept with the learner's progress: the question remembers it when the notebook is run
again, and `reveal` shows both answers. The first cell behind a question that was not answered asks for the
prediction, once, if somebody is there who could give it: it is then not run. In a run of all cells nobody is,
and it goes on.

Left out: answers that are numbers, and a mark for being right. Being wrong is what one learns from.
"""

import ast
import contextlib
import html
import os
import time
from collections.abc import Callable, Sequence

import ipywidgets
from IPython.core.interactiveshell import InteractiveShell

from compresslab.claims import STRICT
from compresslab.classroom import progress
from compresslab.classroom.still import with_still
from compresslab.language import translated
from compresslab.notice import in_notebook, tell

AT_ONCE = 1.5
"""Seconds after the end of a cell within which only a run of several cells begins the next one."""


class Prediction:
    """A question to answer before the cell that answers it."""

    def __init__(self, question: str, choices: Sequence[str]) -> None:
        """Args: the question, and what one may choose from."""
        self.asked, self.choices, self.revealed = question, list(choices), False
        shown = [(translated(choice), choice) for choice in self.choices]
        self.radio = ipywidgets.RadioButtons(
            options=shown, index=None, layout=ipywidgets.Layout(width="100%")
        )
        self.question = ipywidgets.HTML(f"<b>{translated('Predict')}.</b> {translated(question)}")
        self.button = ipywidgets.Button(description=translated("Lock in"), disabled=True)
        self.state = ipywidgets.HTML()
        self.redraw: Callable[[str], None] = lambda _: None
        self.radio.observe(self._chosen, "value")
        self.button.on_click(lambda _: self.lock())
        before = progress.predicted(question)
        if before in self.choices:
            self.radio.value = before
            self._show_locked()

    @property
    def choice(self) -> str | None:
        """What is chosen, locked in or not yet; None if nothing is."""
        return self.radio.value

    @property
    def locked(self) -> bool:
        """Whether the choice stands."""
        return self.radio.disabled

    def lock(self) -> None:
        """Let the choice stand, and remember it; nothing where none was made or it stands already."""
        if self.choice is None or self.locked:
            return
        progress.predict(self.asked, self.choice)
        self._show_locked()

    def reveal(self, answer: str) -> None:
        """Say what the measurement answered, beside the choice made, which stands from then on.

        Raises:
            ValueError: if the answer is none of the choices.
        """
        if answer not in self.choices:
            raise ValueError(f"answer must be one of {self.choices}, got {answer!r}")
        self.lock()
        self.revealed = True
        chosen = self.choice
        if chosen is None:
            tell(f"The answer: {answer}. (You made no prediction.)", "answer")
        elif chosen == answer:
            tell(f"The answer: {answer}, as you predicted.", "answer")
        else:
            tell(f"The answer: {answer}. You predicted: {chosen}. What did you overlook?", "answer")

    def _chosen(self, _: object) -> None:
        self.button.disabled = self.choice is None or self.locked

    def _show_locked(self) -> None:
        self.radio.disabled = self.button.disabled = True
        self.button.layout.display = "none"
        chosen = self.choice
        locked = html.escape(translated(f"Locked in: {chosen}"))
        self.state.value = (
            f"<span style='border-left:4px solid #0072B2;padding-left:8px'>{locked}</span>"
        )
        self.redraw(self.still())

    def show(self) -> None:
        """Display the question with its choices."""
        parts = [self.question, self.radio, self.button, self.state]
        self.redraw = with_still(ipywidgets.VBox(parts), self.still())

    def still(self) -> str:
        """The question, and what is locked in, as HTML for where no widget runs."""
        choices = "".join(f"<li>{html.escape(translated(c))}</li>" for c in self.choices)
        return f"<div>{self.question.value}<ul>{choices}</ul>{self.state.value}</div>"


def predict(question: str, choices: Sequence[str]) -> Prediction:
    """Ask a question with radio buttons; `reveal` it after the experiment."""
    prediction = Prediction(question, choices)
    if in_notebook():
        from IPython import get_ipython

        _Gate.of(get_ipython()).expect(prediction)
    prediction.show()
    return prediction


class _Gate(ast.NodeTransformer):
    """Asks for the predictions that were not made before the experiment behind them is run."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell, self.ended = shell, -float("inf")
        self.waiting: list[Prediction] = []

    @classmethod
    def of(cls, shell: InteractiveShell) -> "_Gate":
        """The gate of a kernel, which looks at every cell before it is run."""
        gate = next((t for t in shell.ast_transformers if isinstance(t, cls)), None)
        if gate is None:
            gate = cls(shell)
            shell.ast_transformers.append(gate)
            shell.events.register("post_run_cell", gate.note_end)
        return gate

    def expect(self, prediction: Prediction) -> None:
        """Ask for a prediction before the next experiment; a cell run twice asks the same question once."""
        others = [p for p in self.waiting if p.asked != prediction.asked]
        self.waiting = [*others, prediction]

    def note_end(self, _: object) -> None:
        """Remember when a cell has ended."""
        self.ended = time.monotonic()

    def visit_Module(self, cell: ast.Module) -> ast.Module:
        """The cell, or an empty one where a prediction is asked for first."""
        self.waiting = [p for p in self.waiting if p.choice is None and not p.revealed]
        if not self.waiting or not _experiments(cell) or not self._somebody_is_there():
            return cell
        for prediction in self.waiting:
            asked = translated(prediction.asked)
            tell(f"Predict first: {asked}", "answer")
        tell("Choose an answer above, then run this cell again: it has not been run.", "answer")
        self.waiting = []
        return ast.Module(body=[], type_ignores=[])

    def _somebody_is_there(self) -> bool:
        """Whether a person began this cell, and it was not queued behind the one before."""
        if os.environ.get(STRICT) or time.monotonic() - self.ended < AT_ONCE:
            return False
        request = {}
        with contextlib.suppress(Exception):
            request = self.shell.kernel.get_parent()
        # A front end says which of its cells it runs; a program that runs a notebook does not.
        return "cellId" in request.get("metadata", {})


def _experiments(cell: ast.Module) -> bool:
    """Whether a cell does more than define, ask and check."""
    defines = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
    does = [node for node in cell.body if not isinstance(node, defines)]
    called = {
        node.func.id
        for part in does
        for node in ast.walk(part)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return bool(does) and not called & {"predict", "check", "adopt"}
