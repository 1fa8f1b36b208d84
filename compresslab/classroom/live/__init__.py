"""Figures that are dragged and answer at once: a page's own HTML, SVG and script, without a kernel.

    drag_grid(weights)      the two ends of a quantization grid, over the histogram of real weights
    click_bits(number)      a number's 32 bits, and the carry that rounds it to bfloat16

Such a figure lives in the output of its cell: after saving and opening again, in an exported page, on
the site. Tab reaches what can be moved, arrows move it. Its still picture, with alternative text, stands
first and stays where no script runs (a notebook that is not trusted, a viewer); the script takes it away.

The script computes on `MOST` of the values, in doubles; what it computes is what the library computes
(tested). Left out: anything that needs a network to run.
"""

import html
import json
import re
import uuid
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from compresslab.alternative_text import as_html
from compresslab.classroom.live.words import BitWords, GridWords, spoken
from compresslab.numerics import affine, error, formats
from compresslab.numerics.grid import IntGrid

MOST = 2000
"""Values that a page carries; of more, as many are drawn at random."""
BITS = range(2, 9)
EXAMPLES = ["1", "0.1", "1.01171875", "255.9", "100000", "3.4e38", "1e-40"]
"""Numbers to begin with: exact, rounded, a tie, a carry into the exponent, large, past the largest, small."""
TRIED = 24
"""Low and high ends that the range to beat is chosen from, each."""


class Live:
    """A figure of a page, shown by a notebook."""

    def __init__(self, template: str, still: Figure, data: dict[str, object]) -> None:
        """Args: a file in this folder, the picture without a script, and what the script reads."""
        name = f"live-{uuid.uuid4().hex[:8]}"
        # `</script>` in a text would end the script.
        written = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
        parts = {"ROOT": name, "STILL": as_html(still), "DATA": written}
        text = Path(__file__).with_name(template).read_text(encoding="utf-8")
        self.page = re.sub("|".join(parts), lambda found: parts[found.group()], text)
        self.words = html.unescape(re.search('alt="([^"]*)"', parts["STILL"]).group(1))

    def _repr_html_(self) -> str:
        return self.page

    def __repr__(self) -> str:
        return self.words


def drag_grid(weights: torch.Tensor | np.ndarray, bits: int = 3) -> Live:
    """The weights of a layer under a grid of codes whose ends and bits the reader chooses.

    Args:
        weights: floats of any shape, not all of them zero.
        bits: 2 to 8, at first.

    Raises:
        ValueError: for bits that are none of these; for weights that are empty, all zero or not finite.
    """
    if bits not in BITS:
        raise ValueError(f"bits must be 2 to 8, got {bits!r}")
    flat = np.asarray(torch.as_tensor(weights).detach().float()).ravel()
    if not flat.size or not np.isfinite(flat).all() or not flat.any():
        raise ValueError("weights must be finite numbers, at least one of them not zero")
    if flat.size > MOST:
        flat = np.random.default_rng(0).choice(flat, MOST, replace=False)
    if not flat.any():
        raise ValueError(f"weights must not be zero in {MOST} of them drawn at random")
    words = spoken(GridWords())
    targets = {b: best_of(flat, b)[0] for b in BITS}
    low, high = min(0.0, float(flat.min())), max(0.0, float(flat.max()))
    return Live(
        "grid.html",
        _still(flat, bits, low, high, words),
        {
            "values": [float(f"{v:.6g}") for v in flat],
            "bits": bits,
            "targets": targets,
            "words": words,
        },
    )


def click_bits(number: float = 0.1) -> Live:
    """A number's bits, each of which a click turns, and how they are rounded to bfloat16.

    Args:
        number: rounded to float32 at first.

    Raises:
        ValueError: for what is not finite in float32.
    """
    single = torch.tensor(float(number)).numpy()[()]
    if not np.isfinite(single):
        raise ValueError(f"number must be finite in float32, got {number!r}")
    words = spoken(BitWords())
    data = {"start": float(single), "examples": EXAMPLES, "words": words}
    return Live("bits.html", _still_bits(single, words), data)


def _still_bits(single: np.float32, words: dict[str, str]) -> Figure:
    pattern = int(single.view(np.uint32))
    half = int(formats.to_bf16_bits(torch.tensor([pattern]))[0])
    figure, axes = plt.subplots(figsize=(7, 1.2))
    axes.axis("off")
    lines = [f"{words['single']}: {pattern:032b} = {single!s}", f"{words['half']}: {half:016b}"]
    axes.text(0, 0.5, "\n".join(lines), family="monospace", va="center")
    plt.close(figure)
    return figure


def best_of(values: np.ndarray, bits: int) -> tuple[float, float, float]:
    """The best of `TRIED` x `TRIED` ranges that hold zero: its decibels, low and high end."""
    x = torch.from_numpy(np.asarray(values, np.float32))
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    shares = [k / TRIED for k in range(1, TRIED + 1)]
    ranges = [(a * low, b * high) for a in shares for b in shares]
    return max((decibels(x, bits, *ends), *ends) for ends in ranges)


def decibels(x: torch.Tensor, bits: int, low: float, high: float) -> float:
    """What comes back from an unsigned grid over a range, against the numbers themselves."""
    grid = IntGrid(bits, signed=False)
    scale, zero = affine.affine_qparams(torch.tensor(low), torch.tensor(high), grid.low, grid.high)
    return error.sqnr_db(x, affine.quantize(x, affine.QParams(scale, zero, grid)).dequantize())


def _still(flat: np.ndarray, bits: int, low: float, high: float, words: dict[str, str]) -> Figure:
    figure, axes = plt.subplots(figsize=(7, 2.6))
    axes.hist(flat, bins=90, color="#0072B2")
    most = 2**bits - 1
    scale = (high - low) / most
    zero = round(-low / scale)
    for code in range(most + 1):
        axes.axvline((code - zero) * scale, color="0.3", lw=0.8)
    axes.set(xlabel=words["across"], ylabel=words["upwards"], title=words["title"])
    plt.close(figure)
    return figure
