"""Integer matrix products: uint8 activations times int8 weights, summed exactly in int32.

    acc[m, n] = sum_k (x[m, k] - z) * w[n, k] + b[n]
              = sum_k  x[m, k]      * w[n, k] + (b[n] - z * sum_k w[n, k])

The bracket does not depend on x: it is the value the sums start from, so a zero point costs nothing. What
happens to a sum is the *epilogue*, done while it is still in a register:

    int32         acc
    dequantize    acc * r[m] * s[n] + c[n]                          float32, the last layer
    requantize    clip(rint(acc * f[n]) + z', low, high)            uint8, the next layer's codes

with f = s_x * s_w / s_y (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 2.2; f stays a float
here, where that paper uses fixed point). A ReLU is low = z'.

The layout of weights is in `panels`, the loops in `int8_loops`, the epilogues in `epilogue`. Signed
activations are shifted by 128 and counted as unsigned.
"""

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels._threads import split_rows
from compresslab.kernels.affine import quantize_rows, refuse_infinite
from compresslab.kernels.int8_loops import TILED_ROWS, multiply, multiply_tiles
from compresslab.kernels.panels import ONE, ROWS, WIDTHS, Dequantize, PackedWeight, Requantize
from compresslab.kernels.simd import TILE_CONFIGURATION, tiles_available

ZERO = np.float32(0)
SIGN = 128
"""What makes a signed code unsigned; the zero point of codes so shifted."""
SPLIT_MACS = 2_000_000
"""Below so many MACs (about a tenth of a millisecond) a second thread costs more than it saves."""


def matmul(x: np.ndarray, weight: PackedWeight, threads: int = 1) -> np.ndarray:
    """The exact product x @ w.T.

    Args:
        x: int8 or uint8 [M, K].
        weight: packed [N, K].
        threads: at most so many.

    Returns:
        int32 [M, N].

    Raises:
        ValueError: if x has another shape or dtype.
    """
    shift = 0
    if isinstance(x, np.ndarray) and x.dtype == np.int8:
        x, shift = x.view(np.uint8) ^ np.uint8(SIGN), SIGN
    x = _unsigned(x, weight)
    out = np.empty((len(x), weight.outputs), np.int32)
    words, start = _words(x, weight), weight.start(None, shift)
    none = np.zeros(weight.sums.size, np.float32)
    product = (weight.panels, start, none, none, none[:1], ZERO, ZERO, ZERO)
    _run(words, weight, out, product, threads)
    return out


def matmul_dequantize(
    x: np.ndarray,
    weight: PackedWeight,
    epilogue: Dequantize,
    row_scale: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """The product in real numbers.

    Args:
        x: uint8 [M, K].
        weight: packed [N, K].
        epilogue: from `weight.dequantize`.
        row_scale: r, float32 [M]; 1 if None.
        threads: at most so many.

    Returns:
        float32 [M, N].

    Raises:
        ValueError: if x or row_scale has another shape or dtype.
    """
    x = _unsigned(x, weight)
    out = np.empty((len(x), weight.outputs), np.float32)
    if row_scale is None:
        rows = np.ones(len(x), np.float32)
    else:
        rows = _checks.parameter("row_scale", row_scale, len(x))
    e = epilogue
    product = (weight.panels, e.start, e.scale, e.offset, rows, ZERO, ZERO, ZERO)
    _run(_words(x, weight), weight, out, product, threads)
    return out


def matmul_requantize(
    x: np.ndarray, weight: PackedWeight, epilogue: Requantize, threads: int = 1
) -> np.ndarray:
    """The product as the next layer's codes.

    Args:
        x: uint8 [M, K].
        weight: packed [N, K].
        epilogue: from `weight.requantize`.
        threads: at most so many.

    Returns:
        uint8 [M, N].
    """
    x = _unsigned(x, weight)
    out = np.empty((len(x), weight.outputs), np.uint8)
    e = epilogue
    product = (weight.panels, e.start, e.factor, e.factor, e.factor, e.zero, e.low, e.high)
    _run(_words(x, weight), weight, out, product, threads)
    return out


SHIFTED = np.float32(SIGN - 1), np.float32(SIGN)
"""The largest code, and where the code of 0 lies."""


def dynamic_linear(
    x: np.ndarray,
    weight: PackedWeight,
    epilogue: Dequantize,
    threads: int = 1,
) -> np.ndarray:
    """A float linear layer on integer products, every row of x quantized symmetrically as it comes.

    Args:
        x: finite float32 [M, K].
        weight: packed [N, K].
        epilogue: from `weight.dequantize` with zero point SIGN.
        threads: at most so many.

    Returns:
        float32 [M, N].

    Raises:
        ValueError: if x has another shape or dtype, or holds NaN or an infinity.
    """
    x = _checks.array_of("x", x, np.float32)
    if x.ndim != 2 or x.shape[1] != weight.inputs:
        raise ValueError(f"x must have shape [M, {weight.inputs}], got {x.shape}")
    stride = 4 * weight.words
    make = np.empty if stride == weight.inputs else np.zeros
    codes, row_scale = make(len(x) * stride, np.int8), np.empty(len(x), np.float32)
    # Codes are shifted as they are written, which saves a pass over them.
    if quantize_rows(x.reshape(-1), weight.inputs, stride, *SHIFTED, row_scale, codes):
        refuse_infinite("x", x)
    out = np.empty((len(x), weight.outputs), np.float32)
    e = epilogue
    product = (weight.panels, e.start, e.scale, e.offset, row_scale, ZERO, ZERO, ZERO)
    _run(codes.view(np.uint32), weight, out, product, threads)
    return out


def _unsigned(x: np.ndarray, weight: PackedWeight) -> np.ndarray:
    x = _checks.array_of("x", x, np.uint8)
    if x.ndim != 2 or x.shape[1] != weight.inputs:
        raise ValueError(f"x must have shape [M, {weight.inputs}], got {x.shape}")
    return x


def _words(x: np.ndarray, weight: PackedWeight) -> np.ndarray:
    """Rows as flat uint32 words of four codes, K padded with zeros where it must be."""
    if x.shape[1] != 4 * weight.words:
        padded = np.zeros((len(x), 4 * weight.words), np.uint8)
        padded[:, : x.shape[1]] = x
        x = padded
    return x.reshape(-1).view(np.uint32)


def _run(
    words: np.ndarray, weight: PackedWeight, out: np.ndarray, product: tuple, threads: int
) -> None:
    shape, flat = (weight.words, weight.outputs), out.reshape(-1)
    if weight.fits_tiles and len(out) >= TILED_ROWS and tiles_available():
        least = TILED_ROWS

        def run(first: int, last: int) -> None:
            sums = np.empty(TILED_ROWS * TILED_ROWS, np.int32)
            multiply_tiles(words, product, shape, first, last, TILE_CONFIGURATION, sums, flat)

    else:
        rows, width = ROWS[weight.width], WIDTHS[weight.width]
        rows = rows if len(out) >= rows.number else ONE
        least = rows.number

        def run(first: int, last: int) -> None:
            multiply(words, product, shape, first, last, rows, width, flat)

    if threads == 1 or len(out) * weight.inputs * weight.outputs <= SPLIT_MACS:
        run(0, len(out))
    else:
        split_rows(run, len(out), threads, least)
