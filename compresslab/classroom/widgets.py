"""Sliders: a thin wrapper over ipywidgets, with no mathematics inside."""

import contextlib
import html
from collections.abc import Callable, Iterator

import ipywidgets
import matplotlib.pyplot as plt

from compresslab.alternative_text import as_html
from compresslab.classroom.still import with_still
from compresslab.language import translated


def explore(draw: Callable[..., None], **controls: object) -> None:
    """Show `draw(**values)` under controls, drawn again whenever one moves.

    Where no widget runs, the first picture stays, with the values it was drawn at.

    Args:
        draw: makes one matplotlib figure from the values.
        controls: as `ipywidgets.interact` takes them: (1, 8) a slider, ["a", "b"] a menu, a widget.
    """
    first: list[str] = []

    def redraw(**values: object) -> None:
        before = set(plt.get_fignums())
        with _not_shown_yet():
            draw(**values)
        if not first:
            first.append(_still(set(plt.get_fignums()) - before, values))
        plt.show()

    widget = ipywidgets.interactive(redraw, **controls)
    for control in widget.children[:-1]:
        control.continuous_update = False
        control.style.description_width = "initial"
    with_still(widget, "".join(first))


@contextlib.contextmanager
def _not_shown_yet() -> Iterator[None]:
    """A figure that is shown is closed, and cannot be kept any more."""
    show, plt.show = plt.show, lambda *_, **__: None
    try:
        yield
    finally:
        plt.show = show


def _still(figures: set[int], values: dict[str, object]) -> str:
    """What is drawn, as pictures, and the values it was drawn at."""
    pictures = "".join(as_html(plt.figure(number)) for number in sorted(figures))
    chosen = ", ".join(f"{name} = {value}" for name, value in values.items())
    return f"{pictures}<p>{html.escape(translated(f'A still picture, drawn at {chosen}.'))}</p>"
