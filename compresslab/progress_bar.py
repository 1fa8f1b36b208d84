"""A progress bar that a saved notebook keeps: one line of HTML for a whole cell, updated in place.

    network 7 of 24 · VGG-like · about 40 s left         while it runs
    24 networks trained in 61 s                          afterwards, and when the notebook is opened again

A bar made of widgets belongs to the running kernel: in a notebook that was saved, closed and opened again,
or exported, each of them is an error message. Here the line is an ordinary output. However many bars a cell
opens, one after another, they share its line. In a terminal the bar is tqdm's.

Left out: bars inside of bars; the inner one then has the line.
"""

import html
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

from compresslab.language import translated
from compresslab.notice import in_notebook

Item = TypeVar("Item")
CLASS = "compresslab-progress"
EVERY = 1.0
"""Seconds between two updates: faster ones flood a notebook's message queue, which drops what is too much."""


def track(items: Iterable[Item], label: str, unit: str = "step") -> Iterator[Item]:
    """The items, one after another, under a bar that counts them."""
    total = len(items) if isinstance(items, Sized) else 0
    with Bar(total, label, unit) as bar:
        for item in items:
            yield item
            bar.advance()


class Bar:
    """Counts up to a total; a context manager that several threads may advance.

    Args:
        total: how many there will be; 0 if nobody knows.
        label: what is going on, such as "VGG-like"; nothing is shown for "".
        unit: what is counted, in the singular.
    """

    def __init__(self, total: int, label: str, unit: str = "step") -> None:
        self.total, self.label, self.unit = total, label, unit
        self.done, self.started, self.shown = 0, time.perf_counter(), 0.0
        self.lock = threading.Lock()
        self.line = _line_of_this_cell() if label else None
        self.terminal = None
        if label and self.line is None:
            options = {"leave": False, "mininterval": EVERY, "unit": f" {unit}"}
            self.terminal = tqdm(total=total or None, desc=label, **options)

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        with self.lock:
            self.done += count
            if self.terminal is not None:
                self.terminal.update(count)
            now = time.perf_counter()
            if self.line is not None and now > self.shown + EVERY:
                self.shown = now
                self.line.show(self._sentence(now - self.started))

    def close(self) -> None:
        """No more will be done: the line says what was."""
        if self.terminal is not None:
            self.terminal.close()
        if self.line is not None:
            self.line.finish(self.done, self.unit, time.perf_counter() - self.started)

    def _sentence(self, seconds: float) -> str:
        unit, now = translated(self.unit), min(self.done + 1, self.total or self.done + 1)
        number = translated(f"{unit} {now} of {self.total}") if self.total else f"{unit} {now}"
        parts = [number, translated(self.label)]
        if self.total and self.done:
            left = _duration(seconds / self.done * (self.total - self.done))
            parts.append(translated(f"about {left} left"))
        return " · ".join(parts)

    def __enter__(self) -> "Bar":
        """Nothing more; the clock runs from the start."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close it, after an error as well."""
        self.close()


def _counted(unit: str, number: int) -> str:
    """A unit's plural; of other languages than English its one word."""
    word = translated(unit)
    return word if word != unit else unit + "s" * (number != 1)


def _duration(seconds: float) -> str:
    minutes = f"{seconds / 60:.0f}"
    return f"{seconds:.0f} s" if seconds < 90 else translated(f"{minutes} minutes")


# ---- the line ------------------------------------------------------------------------------------
class _Line:
    """The one display of a cell."""

    def __init__(self, handle: object) -> None:
        self.handle = handle
        self.finished: dict[str, int] = {}
        self.seconds = 0.0

    def show(self, sentence: str) -> None:
        self.handle.update(_Html(sentence))

    def finish(self, done: int, unit: str, seconds: float) -> None:
        self.finished[unit] = self.finished.get(unit, 0) + done
        self.seconds += seconds
        units = self.finished.items()
        counts = ", ".join(f"{n:,} {_counted(u, n)}" for u, n in units)
        self.show(translated(f"{counts} in {_duration(self.seconds)}"))


class _Html:
    """A grey line; as text the same words."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence

    def _repr_html_(self) -> str:
        words = html.escape(self.sentence)
        return (
            f"<div class='{CLASS}' style='opacity:0.75;font-size:90%;padding:2px 0'>{words}</div>"
        )

    def __repr__(self) -> str:
        return self.sentence


_current: tuple[object, int, _Line] | None = None


def _line_of_this_cell() -> _Line | None:
    """The line of the cell that is running; None outside of a notebook."""
    global _current
    if not in_notebook():
        return None
    from IPython import get_ipython

    shell = get_ipython()
    if _current is None or _current[:2] != (shell, shell.execution_count):
        from IPython.display import display

        handle = display(_Html("…"), display_id=True)
        _current = (shell, shell.execution_count, _Line(handle))
    return _current[2]
