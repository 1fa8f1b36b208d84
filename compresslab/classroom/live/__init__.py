"""Figures that are dragged and answer at once: a page's own HTML, SVG and script, without a kernel.

    drag_grid(weights)      the two ends of a quantization grid, over the histogram of real weights
    click_bits(number)      a number's 32 bits, and the carry that rounds it to bfloat16
    click_codes(one, other) two 4-bit codes, and the byte that they share
    click_signs(a, b)       two words of signs, and the dot product that XOR and a count give
    click_columns(row, h)   the codes of a row's weights, one by one, as GPTQ does it or by hand
    budget.spend_bytes(..)  widths of layers under a byte budget; the plan's loss, expected and measured

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
from numbers import Integral
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from compresslab.alternative_text import as_html
from compresslab.classroom.live.words import (
    BitWords,
    CodeWords,
    ColumnWords,
    GridWords,
    SignWords,
    spoken,
)
from compresslab.kernels import bitpack
from compresslab.numerics import affine, error, formats
from compresslab.numerics.grid import IntGrid
from compresslab.techniques import gptq

MOST = 2000
"""Values that a page carries; of more, as many are drawn at random."""
BITS = range(2, 9)
EXAMPLES = ["1", "0.1", "1.01171875", "255.9", "100000", "3.4e38", "1e-40"]
"""Numbers to begin with: exact, rounded, a tie, a carry into the exponent, large, past the largest, small."""
ROW, ZERO = 7, 1
"""Most weights of a row whose codes are all tried, and the code of 0 there."""
SIGNS = 16
"""Signs in a word that is shown; a machine's words have 64."""
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


def click_codes(one: int = 3, other: int = 12) -> Live:
    """Two codes of 4 bits, each bit of which a click turns, and the byte that holds both.

    Args:
        one: 0 to 15, in the lower half.
        other: 0 to 15, in the upper half.

    Raises:
        ValueError: for codes that are none of these.
    """
    for name, code in (("one", one), ("other", other)):
        if not isinstance(code, Integral) or not 0 <= code <= 15:
            raise ValueError(f"{name} must be a whole number from 0 to 15, got {code!r}")
    rows = [[int(code) >> place & 1 for place in range(4)] for code in (one, other)]
    byte = int(bitpack.pack(np.array([one, other], np.uint8), 4)[0])
    return _packed("codes", rows, f"{byte:08b}", spoken(CodeWords()))


def click_signs(a: torch.Tensor | np.ndarray, b: torch.Tensor | np.ndarray) -> Live:
    """The signs of two vectors as bits of a word, and their dot product by XOR and a count.

    Args:
        a: SIGNS floats; element k is bit k, 1 where it is not negative.
        b: as many.

    Raises:
        ValueError: for another number of them, or NaN.
    """
    rows = []
    for name, values in (("a", a), ("b", b)):
        if isinstance(values, torch.Tensor) and not values.is_complex():
            values = values.detach().double()
        flat = np.asarray(values)
        if flat.shape != (SIGNS,) or flat.dtype.kind not in "biuf" or np.isnan(flat).any():
            raise ValueError(
                f"{name} must be {SIGNS} real numbers and no NaN, got {list(flat.shape)} of {flat.dtype}"
            )
        rows.append((flat >= 0).astype(int).tolist())
    different = "".join(str(x ^ y) for x, y in zip(*rows, strict=True))[::-1]
    return _packed("signs", rows, different, spoken(SignWords()))


def _packed(kind: str, rows: list[list[int]], made: str, words: dict[str, str]) -> Live:
    written = ["".join(map(str, reversed(bits))) for bits in rows]
    lines = zip((words["first"], words["second"], words["made"]), [*written, made], strict=True)
    still = _written([f"{name}: {bits}" for name, bits in lines])
    return Live("packed.html", still, {"kind": kind, "rows": rows, "words": words})


def _still_bits(single: np.float32, words: dict[str, str]) -> Figure:
    pattern = int(single.view(np.uint32))
    half = int(formats.to_bf16_bits(torch.tensor([pattern]))[0])
    return _written(
        [f"{words['single']}: {pattern:032b} = {single!s}", f"{words['half']}: {half:016b}"]
    )


def _written(lines: list[str]) -> Figure:
    figure, axes = plt.subplots(figsize=(7, 0.4 + 0.4 * len(lines)))
    axes.axis("off")
    axes.text(0, 0.5, "\n".join(lines), family="monospace", va="center")
    plt.close(figure)
    return figure


def click_columns(row: np.ndarray, hessian: torch.Tensor, bits: int = 2) -> Live:
    """A row of weights whose codes are chosen one after another, and what the outputs are off by.

    Codes are -1, 0, 1 and on, at a scale of 1. What a code leaves over moves the weights behind it by GPTQ's
    rule (`techniques.gptq`).

    Args:
        row: 2 to ROW floats.
        hessian: X^T X of the layer's inputs, [as many, as many].
        bits: 1 or 2.

    Raises:
        ValueError: for other numbers of weights or bits, what is not finite, or a matrix of another shape.
    """
    weights, h = np.asarray(row, np.float64), torch.as_tensor(hessian).detach().double()
    count = weights.size
    if weights.ndim != 1 or not 2 <= count <= ROW or not np.isfinite(weights).all():
        raise ValueError(f"row must be 2 to {ROW} finite numbers, got {list(weights.shape)}")
    if tuple(h.shape) != (count, count) or not bool(h.isfinite().all()):
        raise ValueError(f"hessian must be finite, [{count}, {count}], got {list(h.shape)}")
    if bits not in (1, 2):
        raise ValueError(f"bits must be 1 or 2, got {bits!r}")
    factor, top = gptq.inverse_factor(h), 2**bits - 1
    one, zero = torch.ones(1, 1), torch.full((1, 1), float(ZERO))
    work = torch.from_numpy(weights)[None].clone()
    codes = {
        "nearest": (weights.round() + ZERO).clip(0, top)[None],
        "gptq": gptq.quantize_columns(work, factor, one, zero, top).numpy(),
        "best": np.stack(np.meshgrid(*[np.arange(top + 1.0)] * count), -1).reshape(-1, count),
    }
    off = {name: found - ZERO - weights for name, found in codes.items()}
    words = spoken(ColumnWords())
    data = {
        "row": weights.tolist(),
        "hessian": h.tolist(),
        "factor": factor.tolist(),
        "scale": 1,
        "zero": ZERO,
        "top": top,
        "errors": {n: float(((e @ h.numpy()) * e).sum(1).min()) for n, e in off.items()},
        "words": words,
    }
    return Live("columns.html", _still_row(weights, top, words), data)


def _still_row(weights: np.ndarray, top: int, words: dict[str, str]) -> Figure:
    figure, axes = plt.subplots(figsize=(7, 2.4))
    for code in range(top + 1):
        axes.axhline(code - ZERO, color="0.6", lw=0.8)
    axes.plot(np.arange(1, weights.size + 1), weights, "o", color="#0072B2")
    axes.set(xlabel=words["across"], ylabel=words["upwards"], title=words["title"])
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
