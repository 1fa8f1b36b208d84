"""A byte budget spent layer by layer: what the losses of single layers promise, and what was measured.

    spend_bytes(names, widths, loss, size, measured, budget)

A segment is a layer, as long as its bytes; a click gives it the next width. The dot is what the sum of
single losses expects; "measure" shows what that plan really lost, which was measured before, for every plan
there is.
"""

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from compresslab.classroom.live import Live
from compresslab.classroom.live.words import BudgetWords, spoken

MOST_PLANS = 1024


def plans_of(layers: int, widths: int) -> list[tuple[int, ...]]:
    """Every plan, as the number of each layer's width, in the order of `measured`."""
    return list(itertools.product(range(widths), repeat=layers))


def spend_bytes(
    names: Sequence[str],
    widths: Sequence[int],
    loss: np.ndarray,
    size: np.ndarray,
    measured: Sequence[float],
    budget: int,
) -> Live:
    """Layers whose widths the reader chooses under a budget.

    Args:
        names: of the layers.
        widths: bits to choose from, the widest first.
        loss: points lost with this layer alone at this width, [layers, widths].
        size: bytes of the layer there, the same shape.
        measured: points lost by every plan, in the order of `plans_of`.
        budget: bytes of all layers together.

    Raises:
        ValueError: for shapes that do not belong together, more than MOST_PLANS plans, numbers that are not
            finite, or a budget that no plan fits.
    """
    shape = (len(names), len(widths))
    loss, size = np.asarray(loss, np.float64), np.asarray(size, np.float64)
    measured = np.asarray(measured, np.float64)
    for name, table in (("loss", loss), ("size", size)):
        if table.shape != shape or not np.isfinite(table).all():
            raise ValueError(f"{name} must be finite, of shape {shape}, got {table.shape}")
    count = shape[1] ** shape[0]
    if not 2 <= count <= MOST_PLANS:
        raise ValueError(
            f"names and widths must make 2 to {MOST_PLANS:,} plans, got {len(names)} and {len(widths)}"
        )
    if measured.shape != (count,) or not np.isfinite(measured).all():
        raise ValueError(f"measured must be {count} finite numbers, got {list(measured.shape)}")
    if size.min(1).sum() > budget:
        raise ValueError(f"budget must be at least {size.min(1).sum():.0f}, got {budget}")
    words = spoken(BudgetWords())
    data = {
        "names": [str(name) for name in names],
        "widths": [int(bits) for bits in widths],
        "loss": loss.tolist(),
        "size": [[int(n) for n in row] for row in size],
        "measured": measured.tolist(),
        "budget": int(budget),
        "words": words,
    }
    return Live("budget.html", _still(loss, size, budget, words), data)


def _still(loss: np.ndarray, size: np.ndarray, budget: int, words: dict[str, str]) -> Figure:
    plans = np.array(plans_of(*loss.shape))
    layers = np.arange(len(loss))
    figure, axes = plt.subplots(figsize=(7, 2.6))
    axes.plot(size[layers, plans].sum(1), loss[layers, plans].sum(1), ".", color="#0072B2")
    axes.axvline(budget, color="0.3", linestyle="--", label=words["budget"])
    axes.set(xlabel=words["across"], ylabel=words["upwards"], title=words["title"])
    axes.set_yscale("symlog", linthresh=1)
    axes.legend()
    plt.close(figure)
    return figure
