"""Sliders and questions: thin wrappers over ipywidgets, with no mathematics inside."""

from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import display

from compresslab.language import translated
from compresslab.notice import tell


def explore(draw: Callable[..., None], **controls: object) -> None:
    """Show `draw(**values)` under controls, drawn again whenever one moves.

    Args:
        draw: makes one matplotlib figure from the values.
        controls: as `ipywidgets.interact` takes them: (1, 8) a slider, ["a", "b"] a menu, a widget.
    """

    def redraw(**values: object) -> None:
        draw(**values)
        plt.show()

    widget = ipywidgets.interactive(redraw, **controls)
    for control in widget.children[:-1]:
        control.continuous_update = False
        control.style.description_width = "initial"
    display(widget)


class Prediction:
    """A question to answer before the cell that answers it."""

    def __init__(self, question: str, choices: Sequence[str]) -> None:
        """Args: the question, and what one may choose from."""
        self.choices = list(choices)
        shown = [(translated(choice), choice) for choice in self.choices]
        self.radio = ipywidgets.RadioButtons(
            options=shown, index=None, layout=ipywidgets.Layout(width="100%")
        )
        self.question = ipywidgets.HTML(f"<b>{translated('Predict')}.</b> {translated(question)}")

    def reveal(self, answer: str) -> None:
        """Say what the measurement answered, beside the choice made.

        Raises:
            ValueError: if the answer is none of the choices.
        """
        if answer not in self.choices:
            raise ValueError(f"answer must be one of {self.choices}, got {answer!r}")
        chosen = self.radio.value
        if chosen is None:
            tell(f"The answer: {answer}. (You made no prediction.)", "answer")
        elif chosen == answer:
            tell(f"The answer: {answer}, as you predicted.", "answer")
        else:
            tell(f"The answer: {answer}. You predicted: {chosen}. What did you overlook?", "answer")


def predict(question: str, choices: Sequence[str]) -> Prediction:
    """Ask a question with radio buttons; `reveal` it after the experiment."""
    prediction = Prediction(question, choices)
    display(ipywidgets.VBox([prediction.question, prediction.radio]))
    return prediction
