"""A figure in words, for readers who do not see it: `description(figure)`, and pictures that carry it.

    Plot "Error by bits".
    Across: bits a weight.
    Upwards: points lost (logarithmic).
    Line "min-max", 4 points: 2: 31.2; 3: 5.1; 4: 1.2; 8: 0.1.

The words are read off what was drawn: titles, axes, every line, bar and cloud with its numbers, and what is
written in it. Up to `LISTED` points all stand there; of more, the ends and the extremes. So no lab has to
write them, and they cannot contradict the picture.

JupyterLab gives a notebook's PNG no alternative text, and the file no place for one. From `carry` on a figure
is therefore shown as HTML, `<img alt="..." src="data:image/png;base64,...">`, which every reader of notebooks
draws alike, also one that is not trusted.

Left out: what a figure is to show, which the text around it says.
"""

import functools
import io
from collections.abc import Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.category import StrCategoryFormatter
from matplotlib.collections import Collection, PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from matplotlib.ticker import FixedFormatter, Formatter, FuncFormatter

from compresslab.language import translated
from compresslab.markup import picture
from compresslab.notice import in_notebook

UNKNOWN = "A figure that could not be put into words."
LISTED = 10
"""Points of a line, or bars, that are all named."""
FEW = 3
"""Upright lines without a name that are said one by one."""


def carry() -> None:
    """In a notebook, show figures with their description from now on."""
    if not in_notebook():
        return
    from IPython import get_ipython

    # The backend takes its place in the notebook when it is first used, and clears what stands there.
    plt.switch_backend(plt.get_backend())
    formatters = get_ipython().display_formatter.formatters
    formatters["image/png"].pop(Figure, None)
    formatters["text/html"].for_type(Figure, as_html)


def as_html(figure: Figure) -> str:
    """The figure as an `<img>` with its description, at its size on the screen."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=figure.dpi, bbox_inches="tight", facecolor=figure.get_facecolor()
    )
    try:
        words = description(figure)
    except Exception:  # whatever a learner has drawn, it must be shown
        words = translated(UNKNOWN)
    return picture(buffer.getvalue(), words)


def description(figure: Figure) -> str:
    """What is drawn, in sentences of the reader's language, a line for each plot and each thing in it."""
    bars = [a for a in figure.axes if hasattr(a, "_colorbar")]
    plots = [a for a in figure.axes if a.get_visible() and a not in bars]
    said = [_shown(figure.get_suptitle())] if figure.get_suptitle() else []
    if len(plots) > 1:
        said.append(translated(f"{len(plots)} plots."))
    said += [line for axes in plots for line in _of_axes(axes)]
    said += [
        translated(f"Colours: {_shown(a.get_ylabel() or a.get_xlabel()) or 'values'}.")
        for a in bars
    ]
    return "\n".join(said) or translated("An empty figure.")


def _of_axes(axes: Axes) -> Iterator[str]:
    titles = [axes.get_title(loc) for loc in ("left", "center", "right")]
    title = _shown(" ".join(t for t in titles if t))
    yield translated(f'Plot "{title}".') if title else translated("A plot.")
    if axes.axison:
        for axis in (axes.xaxis, axes.yaxis):
            label = _shown(axis.get_label_text())
            if label and axis.get_scale() == "log":
                label = translated(f"{label} (logarithmic)")
            if label and axis is axes.xaxis:
                yield translated(f"Across: {label}.")
            elif label:
                yield translated(f"Upwards: {label}.")
    for bars in (c for c in axes.containers if isinstance(c, BarContainer)):
        yield _bars(axes, bars)
    yield from _lines(axes, [c for c in axes.containers if isinstance(c, ErrorbarContainer)])
    for collection in axes.collections:
        yield from _collection(collection)
    for patch in axes.patches:
        if isinstance(patch, StepPatch):
            yield _steps(patch)
    yield from _pictures(axes)
    written = [_shown(text.get_text()) for text in axes.texts if text.get_text().strip()]
    if written:
        yield translated("Written in it:") + " " + "; ".join(written) + "."


# ---- what a plot holds ---------------------------------------------------------------------------
def _lines(axes: Axes, containers: Sequence[ErrorbarContainer]) -> Iterator[str]:
    own = {c.lines[0]: c for c in containers}
    caps = {cap for c in containers for cap in c.lines[1]}
    shown = [line for line in axes.lines if line.get_visible() and len(line.get_xdata())]
    shown = [line for line in shown if line not in caps]
    upright = [
        line
        for line in shown
        if _moves(axes, line) == (True, False) and not _label(line.get_label())
    ]
    if len(upright) > FEW:
        at = [float(line.get_xdata(orig=False)[0]) for line in upright]
        yield translated(f"{len(at)} upright lines between {min(at):.3g} and {max(at):.3g}.")
        shown = [line for line in shown if line not in upright]
    for line in shown:
        label = own[line].get_label() if line in own else line.get_label()
        yield " ".join([_line(axes, line, label), *(_spread(own[line]) if line in own else ())])
    for alone in (c for c in containers if c.lines[0] is None):
        yield from _spread(alone)


def _spread(container: ErrorbarContainer) -> Iterator[str]:
    """How long error bars are, those along the axis first: to either side of their points, or altogether."""
    name = _label(container.get_label()) if container.lines[0] is None else ""
    along = [part for part, has in ((0, container.has_xerr), (1, container.has_yerr)) if has]
    for part, bars in zip(along, container.lines[2], strict=True):
        # What has no number has no ends.
        ends = {i: s[:, part] for i, s in enumerate(bars.get_segments()) if len(s) == 2}
        lengths = {i: np.ptp(pair) for i, pair in ends.items() if np.ptp(pair)}
        if not lengths:
            continue
        middles = np.array([ends[i].mean() for i in lengths])
        if container.lines[0] is not None:
            points = _numbers(container.lines[0].get_data(orig=False)[part])[[*lengths]]
        else:
            points = np.full_like(middles, np.nan)
        even = np.allclose(middles, points, rtol=1e-6, atol=1e-6 * max(lengths.values()))
        sizes = [length / 2 if even else length for length in lengths.values()]
        low, high = (f"{end:.2g}" for end in (min(sizes), max(sizes)))
        if even and low == high:
            yield translated(f"Error bars of ±{low}.")
        elif even:
            yield translated(f"Error bars of ±{low} to ±{high}.")
        else:
            yield translated(f"Error bars{name}, {low} to {high} long.")


def _moves(axes: Axes, line: Line2D) -> tuple[bool, bool]:
    """Whether a line's x and y are numbers of the axes, not places in the picture."""
    return line.get_transform().contains_branch_seperately(axes.transData)


def _line(axes: Axes, line: Line2D, label: str) -> str:
    name = _label(label)
    # As drawn: names and dates have their places on the axis as numbers.
    x, y = (_numbers(values) for values in (line.get_xdata(orig=False), line.get_ydata(orig=False)))
    in_x, in_y = _moves(axes, line)
    if not in_x and in_y:
        return translated(f"A level line{name} at {y[0]:.3g}.")
    if in_x and not in_y:
        return translated(f"An upright line{name} at {x[0]:.3g}.")
    if not in_x:
        return translated(f"A mark{name}.")
    return translated(f"Line{name}, {len(x)} points: ") + _points(
        _ticks(axes, x), y, _ticks(axes, y, across=False)
    )


def _bars(axes: Axes, bars: BarContainer) -> str:
    upright = bars.orientation != "horizontal"
    boxes = [patch.get_bbox() for patch in bars.patches]
    places = np.array([(b.x0 + b.x1) / 2 if upright else (b.y0 + b.y1) / 2 for b in boxes])
    # A bar's length has the sign of its direction; its box has not.
    sizes = np.array([p.get_height() if upright else p.get_width() for p in bars.patches])
    # A histogram's name is kept by its first bar.
    name = _label(bars.get_label()) or (_label(bars.patches[0].get_label()) if bars.patches else "")
    return translated(f"{len(sizes)} bars{name}: ") + _points(_ticks(axes, places, upright), sizes)


def _collection(collection: Collection) -> Iterator[str]:
    name = _label(collection.get_label())
    if isinstance(collection, PathCollection) and len(collection.get_offsets()):
        x, y = np.ma.getdata(collection.get_offsets()).T
        yield translated(f"{len(x)} separate points{name}: ") + _points([f"{v:.3g}" for v in x], y)
    elif name:
        yield translated(f"An area{name}.")


def _steps(patch: StepPatch) -> str:
    values, edges, _ = patch.get_data()
    middles = (np.asarray(edges)[1:] + np.asarray(edges)[:-1]) / 2
    name = _label(patch.get_label())
    return translated(f"Steps{name}, {len(values)} of them: ") + _points(
        [f"{m:.3g}" for m in middles], _numbers(values)
    )


def _pictures(axes: Axes) -> Iterator[str]:
    for image in axes.images:
        values = np.ma.asarray(image.get_array())
        rows, columns = values.shape[:2]
        if values.ndim > 2:
            yield translated(f"A picture in colour, {rows} rows of {columns} points.")
        else:
            low, high = values.min(), values.max()
            yield translated(
                f"A picture, {rows} rows of {columns} values between {low:.3g} and {high:.3g}."
            )


# ---- numbers and names ---------------------------------------------------------------------------
def _points(names: Sequence[str], values: np.ndarray, said: Sequence[str] = ()) -> str:
    """Such as "2: 31.2; 3: 5.1", or the ends and the extremes of many; `said` has the values as words."""
    said = said or [f"{value:.3g}" for value in values]
    pairs = [f"{name}: {value}" for name, value in zip(names, said, strict=True)]
    if len(pairs) <= LISTED:
        return "; ".join(pairs) + "."
    if not np.isfinite(values).any():
        return translated("no numbers.")
    low, high = pairs[int(np.nanargmin(values))], pairs[int(np.nanargmax(values))]
    first, last = pairs[0], pairs[-1]
    return translated(f"first {first}; last {last}; lowest {low}; highest {high}.")


def _ticks(axes: Axes, places: np.ndarray, across: bool = True) -> list[str]:
    """What stands at the places of an axis: its own words ("VGG-like") or the numbers."""
    axis = axes.xaxis if across else axes.yaxis
    at = axis.get_ticklocs()
    words = [_shown(text.get_text()) for text in axis.get_ticklabels()]
    named = dict(zip(np.round(at, 6), words, strict=False)) if axis.get_scale() == "linear" else {}
    # Names may look like numbers: those of layers are "1", "3", "5" at the places 0, 1, 2.
    worded = _given(axis.get_major_formatter()) or any(w and not _is_number(w) for w in words)
    return [(worded and named.get(np.round(p, 6))) or f"{p:.3g}" for p in places]


def _given(formatter: Formatter) -> bool:
    """Whether an axis says the words that it was given, and does not write its numbers in some way."""
    if isinstance(formatter, FuncFormatter):  # `set_xticks(places, words)` makes one of a table
        return isinstance(formatter.func, functools.partial)
    return isinstance(formatter, StrCategoryFormatter | FixedFormatter)


def _is_number(text: str) -> bool:
    try:
        float(text.replace("\N{MINUS SIGN}", "-").rstrip("%"))
    except ValueError:
        return "$" in text  # a power of ten, set as a formula
    return True


def _numbers(values: object) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(values, np.float64), np.nan)


def _label(label: object) -> str:
    """A name in quotes after a space; nothing for what matplotlib named itself."""
    text = _shown(str(label or ""))
    return "" if not text or text.startswith("_") else f' "{text}"'


def _shown(text: str) -> str:
    return " ".join(translated(text).split())
