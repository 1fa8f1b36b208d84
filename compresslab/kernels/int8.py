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

Layout: weights are packed once, in panels of `width` output columns in which the four consecutive k of a
column are adjacent, as the byte dot product takes them; K is padded to a multiple of four with zero
weights. A tile of `rows` x `width` sums stays in 16 vector registers (rows of one for a single input).
Signed activations are shifted by 128 and counted as unsigned.

Where a processor has matrix tiles (Intel AMX) and there are 32 rows or more, `multiply_tiles` computes blocks
of 32 x 32 sums with four tiles of sums, two of activations and two of weights, from the same panels, and
hands them to the same epilogues. It is bound by loading tiles, one for every product of two, so rows are
taken in blocks that stay in the second-level cache.

Left out: blocking over K (a panel fits the second-level cache up to K = 16,000).
"""

from dataclasses import dataclass

import numpy as np
from numba.extending import overload

from compresslab.kernels import _checks
from compresslab.kernels._jit import kernel
from compresslab.kernels._threads import split_rows
from compresslab.kernels.affine import quantize_rows, refuse_infinite
from compresslab.kernels.simd import (
    TILE_CONFIGURATION,
    Static,
    at,
    bitcast,
    convert,
    dot4,
    f32x16,
    i8x64,
    i32x16,
    load,
    prefetch,
    register_tile,
    rint,
    splat,
    store,
    tile_dot,
    tile_load,
    tile_store,
    tile_zero,
    tiles_available,
    tiles_configure,
    tiles_release,
    u8x16,
    u8x64,
    u32x16,
    value,
    vmax,
    vmin,
)

LANES = 16
ONE, SIXTEEN = Static(1), Static(16)
TILE0, TILE1, TILE2, TILE3, TILE4, TILE5, TILE6, TILE7 = (Static(n) for n in range(8))
TILED_ROWS = 32
HELD_BYTES = 256 << 10
"""Bytes of activations that stay in the second-level cache while all weights pass by."""
ROWS = {16: Static(12), 32: Static(8), 64: Static(4)}
WIDTHS = {16: Static(16), 32: Static(32), 64: Static(64)}
AHEAD = 4096
ZERO = np.float32(0)
SIGN = 128
"""What makes a signed code unsigned; the zero point of codes so shifted."""
SPLIT_MACS = 2_000_000
"""Below so many MACs (about a tenth of a millisecond) a second thread costs more than it saves."""


@dataclass(frozen=True)
class Requantize:
    """How sums become codes: clip(rint(acc * factor) + zero, low, high), from sums begun at `start`."""

    start: np.ndarray
    factor: np.ndarray
    zero: np.float32
    low: np.float32
    high: np.float32


@dataclass(frozen=True)
class Dequantize:
    """How sums become real numbers: acc * r[m] * scale + offset, from sums begun at `start`."""

    start: np.ndarray
    scale: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class PackedWeight:
    """Weights in panels, ready for the kernels.

    Attributes:
        panels: int8, flat [panels * words * width * 4], aligned to 64 bytes.
        sums: int32 [panels * width], the sum of each output's weights.
        outputs: N.
        inputs: K.
        width: output columns of a panel: 16, 32 or 64.
    """

    panels: np.ndarray
    sums: np.ndarray
    outputs: int
    inputs: int
    width: int

    @property
    def words(self) -> int:
        """Groups of four along K, the padding included."""
        return self.panels.size // (self.sums.size * 4)

    @property
    def fits_tiles(self) -> bool:
        """Whether matrix tiles can read the panels: 64 outputs wide, K padded to a multiple of 64."""
        return self.width == 64 and self.words % 16 == 0

    def unpacked(self) -> np.ndarray:
        """The weights as they were packed, int8 [N, K]."""
        count = self.sums.size // self.width
        panels = self.panels.reshape(count, self.words, self.width, 4).transpose(0, 2, 1, 3)
        return panels.reshape(count * self.width, -1)[: self.outputs, : self.inputs].copy()

    def requantize(
        self,
        zero_point: int,
        bias: np.ndarray | None,
        multiplier: np.ndarray,
        out_zero: int,
        low: int,
        high: int,
    ) -> Requantize:
        """The epilogue that gives the next layer's codes.

        Args:
            zero_point: of the inputs.
            bias: int32 [N], in units of s_x * s_w.
            multiplier: s_x * s_w / s_y, float32 [N].
            out_zero: zero point of the results.
            low: smallest code, 0 or more; `out_zero` for a fused ReLU.
            high: largest code, at most 255.

        Raises:
            ValueError: for another shape or dtype, numbers that are not finite, codes outside 0..255.
        """
        numbers = _checks.output_codes(out_zero, low, high)
        factor = self.spread(_checks.parameter("multiplier", multiplier, self.outputs))
        return Requantize(self.start(bias, zero_point), factor, *numbers)

    def dequantize(
        self, zero_point: int, scale: np.ndarray, bias: np.ndarray | None = None
    ) -> Dequantize:
        """The epilogue that gives real numbers.

        Args:
            zero_point: of the inputs.
            scale: s_x * s_w, or s_w where every row has its own s_x; float32 [N].
            bias: float32 [N].

        Raises:
            ValueError: for another shape or dtype, or numbers that are not finite.
        """
        bias = np.zeros(self.outputs, np.float32) if bias is None else bias
        offset = self.spread(_checks.parameter("bias", bias, self.outputs))
        scale = self.spread(_checks.parameter("scale", scale, self.outputs))
        return Dequantize(self.start(None, zero_point), scale, offset)

    def start(self, bias: np.ndarray | None, zero_point: int) -> np.ndarray:
        """What the sums begin with: bias - zero_point * sums, int32 [panels * width]."""
        start = (-zero_point * self.sums.astype(np.int64)).astype(np.int32)
        if bias is not None:
            start[: self.outputs] += _checks.parameter("bias", bias, self.outputs, np.int32)
        return start

    def spread(self, parameter: np.ndarray) -> np.ndarray:
        """A float32 [N] parameter at the panels' full length."""
        full = np.zeros(self.sums.size, np.float32)
        full[: self.outputs] = parameter
        return full


def aligned(size: int, dtype: type) -> np.ndarray:
    """A zeroed flat array on a 64-byte boundary: no vector load then straddles two cache lines."""
    count = size * np.dtype(dtype).itemsize
    raw = np.zeros(count + 64, np.uint8)
    offset = -raw.ctypes.data % 64
    return raw[offset : offset + count].view(dtype)


def pack_weight(weight: np.ndarray) -> PackedWeight:
    """Lay int8 weights [N, K] out in panels.

    Raises:
        ValueError: if the weight is not a two-dimensional, non-empty int8 array.
    """
    weight = _checks.array_of("weight", weight, np.int8)
    if weight.ndim != 2 or weight.size == 0:
        raise ValueError(f"weight must have shape [N, K], none of them 0, got {weight.shape}")
    outputs, inputs = weight.shape
    width = 16 if outputs <= 16 else 32 if outputs <= 32 else 64
    panels, words = -(-outputs // width), -(-inputs // 4)
    for_tiles = -(-inputs // 64) * 16
    if width == 64 and for_tiles * 4 <= 1.25 * inputs:
        words = for_tiles
    padded = np.zeros((panels * width, words * 4), np.int8)
    padded[:outputs, :inputs] = weight
    packed = aligned(padded.size, np.int8)
    by_panel = padded.reshape(panels, width, words, 4).transpose(0, 2, 1, 3)
    packed.reshape(panels, words, width, 4)[...] = by_panel
    sums = padded.astype(np.int32).sum(axis=1, dtype=np.int32)
    return PackedWeight(packed, sums, outputs, inputs, width)


# ---- public products -----------------------------------------------------------------------------
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
    arguments = (weight.panels, start, none, none, none[:1], ZERO, ZERO, ZERO)
    _run(words, weight, out, arguments, threads)
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
    arguments = (weight.panels, e.start, e.scale, e.offset, rows, ZERO, ZERO, ZERO)
    _run(_words(x, weight), weight, out, arguments, threads)
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
    arguments = (weight.panels, e.start, e.factor, e.factor, e.factor, e.zero, e.low, e.high)
    _run(_words(x, weight), weight, out, arguments, threads)
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
    arguments = (weight.panels, e.start, e.scale, e.offset, row_scale, ZERO, ZERO, ZERO)
    _run(codes.view(np.uint32), weight, out, arguments, threads)
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
    words: np.ndarray, weight: PackedWeight, out: np.ndarray, arguments: tuple, threads: int
) -> None:
    shape, flat = (weight.words, weight.outputs), out.reshape(-1)
    if weight.fits_tiles and len(out) >= TILED_ROWS and tiles_available():
        least = TILED_ROWS

        def run(first: int, last: int) -> None:
            sums = np.empty(TILED_ROWS * TILED_ROWS, np.int32)
            multiply_tiles(words, *arguments, shape, first, last, TILE_CONFIGURATION, sums, flat)

    else:
        rows, width = ROWS[weight.width], WIDTHS[weight.width]
        rows = rows if len(out) >= rows.number else ONE
        least = rows.number

        def run(first: int, last: int) -> None:
            multiply(words, *arguments, shape, first, last, rows, width, flat)

    if threads == 1 or len(out) * weight.inputs * weight.outputs <= SPLIT_MACS:
        run(0, len(out))
    else:
        split_rows(run, len(out), threads, least)


# ---- the loops -----------------------------------------------------------------------------------
@kernel
def multiply(
    words,
    panels,
    start,
    factor,
    offset,
    row_scale,
    zero,
    low,
    high,
    shape,
    first,
    last,
    rows,
    width,
    out,
):
    """Rows first..last of the product; what is done with a sum follows from the dtype of `out`."""
    k_words, outputs = shape
    size = k_words * value(width) * 4
    for panel in range((outputs + value(width) - 1) // value(width)):
        column = panel * value(width)
        for row in range(first, last, value(rows)):
            # The last tile may overlap the one before: the same sums are written twice.
            i = max(min(row, last - value(rows)), first)
            tile = register_tile(rows, width, i32x16)
            accumulate(
                words, i * k_words, k_words, panels, panel * size, start, column, rows, width, tile
            )
            for r in range(value(rows)):
                for j in range(0, value(width), LANES):
                    total = load(tile, r * value(width) + j, i32x16)
                    place = (i + r) * outputs + column + j
                    finish(
                        total,
                        factor,
                        offset,
                        row_scale,
                        i + r,
                        column + j,
                        zero,
                        low,
                        high,
                        outputs,
                        place,
                        out,
                    )


@kernel(forceinline=True)
def accumulate(words, base, k_words, panels, panel, start, column, rows, width, tile):
    """tile[r, j] = start[column + j] + sum over k of four products each."""
    for r in range(value(rows)):
        for j in range(0, value(width), LANES):
            store(tile, r * value(width) + j, load(start, column + j, i32x16))
    for k in range(k_words):
        for j in range(0, value(width), LANES):
            prefetch(panels, panel + (k * value(width) + j) * 4 + AHEAD)
        for r in range(value(rows)):
            x = bitcast(splat(at(words, base + r * k_words + k), u32x16), u8x64)
            for j in range(0, value(width), LANES):
                t = r * value(width) + j
                w = load(panels, panel + (k * value(width) + j) * 4, i8x64)
                store(tile, t, dot4(load(tile, t, i32x16), x, w))


@kernel
def multiply_tiles(
    words,
    panels,
    start,
    factor,
    offset,
    row_scale,
    zero,
    low,
    high,
    shape,
    first,
    last,
    configuration,
    sums,
    out,
):
    """As `multiply`, in blocks of 32 x 32 sums on matrix tiles; last - first is at least 32."""
    k_words, outputs = shape
    tiles_configure(configuration)
    # As many rows as stay in the second-level cache while all weights pass by.
    block = max(HELD_BYTES // (4 * k_words) // TILED_ROWS, 1) * TILED_ROWS
    for top in range(first, last, block):
        bottom = min(top + block, last)
        for column in range(0, (outputs + 63) // 64 * 64, TILED_ROWS):
            panel = column // 64 * 64 * k_words * 4 + column % 64 * 4
            for row in range(top, bottom, TILED_ROWS):
                i = min(row, last - TILED_ROWS)
                accumulate_tiles(words, i * k_words, k_words, panels, panel, sums)
                finish_tiles(
                    sums,
                    start,
                    factor,
                    offset,
                    row_scale,
                    i,
                    column,
                    zero,
                    low,
                    high,
                    outputs,
                    out,
                )
    tiles_release()


@kernel
def finish_tiles(sums, start, factor, offset, row_scale, i, column, zero, low, high, outputs, out):
    """The epilogue of a block of 32 x 32 sums."""
    for r in range(TILED_ROWS):
        for j in range(0, TILED_ROWS, LANES):
            if column + j < outputs:
                total = load(sums, r * TILED_ROWS + j, i32x16) + load(start, column + j, i32x16)
                place = (i + r) * outputs + column + j
                finish(
                    total,
                    factor,
                    offset,
                    row_scale,
                    i + r,
                    column + j,
                    zero,
                    low,
                    high,
                    outputs,
                    place,
                    out,
                )


@kernel
def accumulate_tiles(words, base, k_words, panels, panel, sums):
    """32 x 32 sums of products, without their start."""
    across, below = k_words * 4, base + 16 * k_words
    tile_zero(TILE0)
    tile_zero(TILE1)
    tile_zero(TILE2)
    tile_zero(TILE3)
    for k in range(0, k_words, 16):
        weights = panel + k * 256
        tile_load(TILE4, words, base + k, across)
        tile_load(TILE6, panels, weights, 256)
        tile_load(TILE7, panels, weights + 64, 256)
        tile_dot(TILE0, TILE4, TILE6)
        tile_dot(TILE1, TILE4, TILE7)
        tile_load(TILE5, words, below + k, across)
        tile_dot(TILE2, TILE5, TILE6)
        tile_dot(TILE3, TILE5, TILE7)
    tile_store(TILE0, sums, 0, 128)
    tile_store(TILE1, sums, 16, 128)
    tile_store(TILE2, sums, 512, 128)
    tile_store(TILE3, sums, 528, 128)


def finish(total, factor, offset, row_scale, row, column, zero, low, high, outputs, place, out):
    """The epilogue of 16 sums, chosen by the dtype of `out` (when compiling: see `choose_finish`)."""
    chosen = {"int32": finish_sums, "float32": finish_reals, "uint8": finish_codes}[out.dtype.name]
    chosen(total, factor, offset, row_scale, row, column, zero, low, high, outputs, place, out)


@overload(finish, jit_options={"forceinline": True})
def choose_finish(
    total, factor, offset, row_scale, row, column, zero, low, high, outputs, place, out
):
    """Numba compiles the one epilogue that the dtype asks for."""
    chosen = {"int32": finish_sums, "float32": finish_reals, "uint8": finish_codes}[out.dtype.name]

    def one(total, factor, offset, row_scale, row, column, zero, low, high, outputs, place, out):
        chosen(total, factor, offset, row_scale, row, column, zero, low, high, outputs, place, out)

    return one


@kernel(forceinline=True)
def finish_sums(
    total, _factor, _offset, _row_scale, _row, column, _zero, _low, _high, outputs, place, out
):
    """The sum itself."""
    if outputs - column >= LANES:
        store(out, place, total)
        return
    rest = register_tile(ONE, SIXTEEN, i32x16)
    store(rest, 0, total)
    for lane in range(outputs - column):
        out[place + lane] = rest[lane]


@kernel(forceinline=True)
def finish_reals(
    total, factor, offset, row_scale, row, column, _zero, _low, _high, outputs, place, out
):
    """The real number acc * r * s + c."""
    scale = load(factor, column, f32x16) * splat(at(row_scale, row), f32x16)
    result = convert(total, f32x16) * scale + load(offset, column, f32x16)
    if outputs - column >= LANES:
        store(out, place, result)
        return
    rest = register_tile(ONE, SIXTEEN, f32x16)
    store(rest, 0, result)
    for lane in range(outputs - column):
        out[place + lane] = rest[lane]


@kernel(forceinline=True)
def finish_codes(
    total, factor, _offset, _row_scale, _row, column, zero, low, high, outputs, place, out
):
    """clip(rint(acc * f) + z', low, high)."""
    code = rint(convert(total, f32x16) * load(factor, column, f32x16)) + splat(zero, f32x16)
    code = vmin(vmax(code, splat(low, f32x16)), splat(high, f32x16))
    result = convert(convert(code, i32x16), u8x16)
    if outputs - column >= LANES:
        store(out, place, result)
        return
    rest = register_tile(ONE, SIXTEEN, u8x16)
    store(rest, 0, result)
    for lane in range(outputs - column):
        out[place + lane] = rest[lane]
