"""Measurements as people read them: a table and a Pareto plot; findings as sentences are in `claims`.

A point is on the Pareto front if no other is at least as good in both directions and better in one.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from compresslab import alternative_text, markup, shown_words
from compresslab.arguments import kind
from compresslab.language import translated
from compresslab.measure import Measurement

# Okabe and Ito's palette (2008): told apart by readers with any of the common colour blindnesses.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]


def use_style() -> None:
    """Set the course's plot style: readable sizes, colour-blind-safe colours, the reader's language.

    In a notebook figures carry their description, see `alternative_text`.
    """
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.grid": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.constrained_layout.use": True,
            "figure.dpi": 90,
            "figure.figsize": (7.0, 4.0),
            "font.size": 11,
            "grid.alpha": 0.3,
            "legend.frameon": False,
        }
    )
    shown_words.speak()
    alternative_text.carry()


# ---- numbers in words ----------------------------------------------------------------------------
def in_bytes(count: float) -> str:
    """1536 -> '1.54 kB' (decimal prefixes, three digits)."""
    return f"{_with_prefix(count)}B"


def in_units(count: float) -> str:
    """110000 -> '110 k'."""
    return _with_prefix(count).strip()


def _with_prefix(count: float) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= factor * 0.9995:
            return f"{count / factor:.3g} {prefix}"
    return f"{count:.3g} "


def mean_sd(mean: float, sd: float) -> str:
    """'97.4 ± 0.1', without the sd where there is none, '-' without a mean."""
    if math.isnan(mean):
        return "-"
    return f"{mean:.1f}" if math.isnan(sd) else f"{mean:.1f} ± {sd:.1f}"


def compared(
    one: str, of_one: tuple[float, float], other: str, of_other: tuple[float, float]
) -> str:
    """Two accuracies over seeds in words: which is better, if their bands of one sd part.

    Args:
        one: what was measured.
        of_one: its mean and sd in per cent.
        other: what it is compared with.
        of_other: its mean and sd in per cent.
    """
    difference = of_one[0] - of_other[0]
    one, other = translated(one), translated(other)
    numbers = f"{one} {mean_sd(*of_one)} %, {other} {mean_sd(*of_other)} %"
    if not abs(difference) > of_one[1] + of_other[1]:
        return f"{numbers}: no difference beyond the seeds"
    better, worse = (one, other) if difference > 0 else (other, one)
    return f"{numbers}: {better} is better than {worse} by {abs(difference):.1f} points"


# ---- tables --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Table:
    """Rows of strings under headings; HTML in a notebook, aligned text elsewhere.

    The first `text_columns` columns are aligned to the left, the others (numbers) to the right.

    Raises:
        ValueError: if a row has another length than the headings.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text_columns: int = 1

    def __post_init__(self) -> None:
        """Refuse ragged rows."""
        for row in self.rows:
            if len(row) != len(self.headings):
                raise ValueError(f"rows must have {len(self.headings)} cells, got {len(row)}")

    @property
    def _shown(self) -> tuple[list[str], list[list[str]], str]:
        """Headings, rows and caption in the reader's language."""
        rows = [[translated(str(cell)) for cell in row] for row in self.rows]
        return [translated(str(h)) for h in self.headings], rows, translated(self.caption)

    def __str__(self) -> str:
        """Columns aligned by spaces."""
        headings, rows, caption = self._shown
        lines = [headings, *rows]
        widths = [max(len(str(line[i])) for line in lines) for i in range(len(self.headings))]
        texts = []
        for line in lines:
            cells = [
                str(c).ljust(w) if i < self.text_columns else str(c).rjust(w)
                for i, (c, w) in enumerate(zip(line, widths, strict=True))
            ]
            texts.append("  ".join(cells).rstrip())
        return "\n".join([*texts, *([caption] if caption else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        headings, rows, caption = self._shown
        return markup.table(headings, rows, caption, self.text_columns)


COLUMNS: dict[str, Callable[[Measurement], str]] = {
    "parameters": lambda m: in_units(m.parameters),
    "non-zero": lambda m: in_units(m.nonzeros),
    "on disk": lambda m: in_bytes(m.bytes_disk),
    "MACs": lambda m: in_units(m.macs),
    "BOPs": lambda m: in_units(m.bops),
    "energy, µJ": lambda m: f"{m.energy:.3g}",
}


def table(*measurements: Measurement | Iterable[Measurement]) -> Table:
    """The course's table: one row per measurement, latency columns for the batches that all have.

    Args:
        measurements: one after another, or in a list.

    Raises:
        ValueError: for anything else.
    """
    rows: list[Measurement] = []
    for given in measurements:
        rows += list(given) if isinstance(given, Sequence | Iterator) else [given]
    for row in rows:
        if not isinstance(row, Measurement):
            raise ValueError(f"measurements must come from `measure`, got {kind(row)}")
    batches = [b for b in (rows[0].latency if rows else {}) if all(b in m.latency for m in rows)]
    headings = ["network", *COLUMNS, *(f"ms, batch {b}" for b in batches), "accuracy, %"]
    cells = [
        [
            m.name,
            *(show(m) for show in COLUMNS.values()),
            *(f"{1e3 * m.latency[b].median:.3g}" for b in batches),
            mean_sd(m.accuracy, m.accuracy_sd),
        ]
        for m in rows
    ]
    threads = sorted({t.threads for m in rows for t in m.latency.values()})
    on = f"latency: median of repeated runs, {'/'.join(map(str, threads))} thread(s)"
    return Table(headings, cells, on if batches else "")


# ---- the Pareto plot -----------------------------------------------------------------------------
def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, gain) that no other dominates, by rising cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front, best = [], -math.inf
    for index in order:
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front


def pareto(
    measurements: Sequence[Measurement],
    cost: Callable[[Measurement], float],
    cost_label: str,
    axes: Axes | None = None,
) -> Axes:
    """Accuracy against a cost on a logarithmic axis, with the front drawn as a line.

    Args:
        measurements: each with an accuracy.
        cost: what is to be small, such as ``lambda m: m.bytes_disk``.
        cost_label: the axis label, with its unit.
        axes: where to draw; if None, a new figure.
    """
    axes = axes or plt.subplots()[1]
    points = [(cost(m), m.accuracy) for m in measurements]
    front = [points[i] for i in pareto_front(points)]
    axes.plot(*zip(*front, strict=True), color="0.6", linewidth=1.5, zorder=1)
    for index, (m, (x, y)) in enumerate(zip(measurements, points, strict=True)):
        error = 0 if math.isnan(m.accuracy_sd) else m.accuracy_sd
        style = {"color": COLOURS[index % 8], "marker": MARKERS[index % 8]}
        axes.errorbar(x, y, yerr=error, capsize=3, linestyle="none", label=m.name, **style)
    axes.set(xscale="log", xlabel=cost_label, ylabel="test accuracy, %")
    plain_log_ticks(axes.xaxis)
    axes.legend(fontsize=9)
    return axes


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis 1, 2, 5, 10, ... in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
