"""The loops of binary products: signs packed, tiles of counted bits, and what is done with them."""

import numpy as np
from numba.extending import overload

from compresslab.kernels._jit import kernel
from compresslab.kernels.epilogue import store_lanes
from compresslab.kernels.panels import LANES
from compresslab.kernels.simd import (
    at,
    bitcast,
    convert,
    f32x16,
    f32x64,
    ge_mask,
    hsum,
    i32x16,
    load,
    nan_mask,
    popcount,
    register_tile,
    splat,
    store,
    u32x16,
    vabs,
    value,
)

WORD = 64


HALF = 32


@kernel
def sign_rows(x, shape, limits, flip, words, means):
    """(x >= limits) xor flip as words; mean magnitudes unless `means` is empty; whether NaN was seen."""
    rows, channels = shape
    across, whole, nan = flip.size, channels // WORD * WORD, np.uint64(0)
    sixteens = channels // LANES * LANES
    for p in range(rows):
        for k in range(0, whole, WORD):
            block = load(x, p * channels + k, f32x64)
            words[p * across + k // WORD] = (
                ge_mask(block, load(limits, k, f32x64)) ^ flip[k // WORD]
            )
            nan |= nan_mask(block)
        if whole < channels:
            word = np.uint64(0)
            for k in range(whole, sixteens, LANES):
                block = load(x, p * channels + k, f32x16)
                word |= np.uint64(ge_mask(block, load(limits, k, f32x16))) << np.uint64(k - whole)
                nan |= np.uint64(nan_mask(block))
            for k in range(max(whole, sixteens), channels):
                number = at(x, p * channels + k)
                word |= np.uint64(number >= limits[k]) << np.uint64(k - whole)
                nan |= np.uint64(number != number)
            words[p * across + across - 1] = word ^ flip[across - 1]
        if means.size:
            total = splat(np.float32(0), f32x16)
            for k in range(0, sixteens, LANES):
                total = total + vabs(load(x, p * channels + k, f32x16))
            rest = hsum(total)
            for k in range(sixteens, channels):
                rest += abs(at(x, p * channels + k))
            means[p] = rest / np.float32(channels)
    return nan != np.uint64(0)


@kernel
def multiply(halves, panels, epilogue, shape, first, last, rows, width, out):
    """Rows first..last of the product; what is done with a sum follows from the dtype of `out`."""
    across, used, inputs, outputs = shape
    a, b, c = epilogue
    for panel in range((outputs + value(width) - 1) // value(width)):
        for row in range(first, last, value(rows)):
            # The last tile may overlap the one before: the same sums are written twice.
            i = max(min(row, last - value(rows)), first)
            tile = register_tile(rows, width, u32x16)
            clear(tile, rows, width)
            count(
                halves,
                i * across,
                across,
                used,
                panels,
                panel * used * value(width),
                rows,
                width,
                tile,
            )
            for r in range(value(rows)):
                finish(tile, r, width, inputs, a, b, c, i + r, panel, outputs, out)


@kernel(forceinline=True)
def clear(tile, rows, width):
    """Set all counts to 0."""
    for t in range(0, value(rows) * value(width), LANES):
        store(tile, t, splat(np.uint32(0), u32x16))


@kernel(forceinline=True)
def count(halves, base, across, used, panels, place, rows, width, tile):
    """tile[r, j] += different bits of row r and output j, over `used` words of 32 bits."""
    for k in range(used):
        for r in range(value(rows)):
            a = splat(at(halves, base + r * across + k), u32x16)
            for j in range(0, value(width), LANES):
                t = r * value(width) + j
                w = load(panels, place + k * value(width) + j, u32x16)
                store(tile, t, load(tile, t, u32x16) + popcount(a ^ w))


@kernel(forceinline=True)
def dot(tile, place, inputs):
    """K - 2 * count of sixteen outputs, int32."""
    differing = bitcast(load(tile, place, u32x16), i32x16)
    return splat(np.int32(inputs), i32x16) - differing - differing


def finish(tile, r, width, inputs, a, b, c, row, panel, outputs, out):
    """The epilogue of one row of a tile, chosen by the dtype of `out` (when compiling: `choose_finish`)."""
    FINISH[out.dtype.name](tile, r, width, inputs, a, b, c, row, panel, outputs, out)


@overload(finish, jit_options={"forceinline": True})
def choose_finish(tile, r, width, inputs, a, b, c, row, panel, outputs, out):
    """Numba compiles the one epilogue that the dtype asks for."""
    chosen = FINISH[out.dtype.name]

    def one(tile, r, width, inputs, a, b, c, row, panel, outputs, out):
        chosen(tile, r, width, inputs, a, b, c, row, panel, outputs, out)

    return one


@kernel(forceinline=True)
def finish_sums(tile, r, width, inputs, _a, _b, _c, row, panel, outputs, out):
    """The sums themselves."""
    for j in range(0, value(width), LANES):
        column = panel * value(width) + j
        total = dot(tile, r * value(width) + j, inputs)
        store_lanes(total, i32x16, outputs - column, row * outputs + column, out)


@kernel(forceinline=True)
def finish_reals(tile, r, width, inputs, alpha, offset, row_scale, row, panel, outputs, out):
    """The real numbers dot * alpha * k + b."""
    k = splat(at(row_scale, row), f32x16)
    for j in range(0, value(width), LANES):
        column = panel * value(width) + j
        total = convert(dot(tile, r * value(width) + j, inputs), f32x16)
        result = total * load(alpha, column, f32x16) * k + load(offset, column, f32x16)
        store_lanes(result, f32x16, outputs - column, row * outputs + column, out)


@kernel(forceinline=True)
def finish_signs(tile, r, width, inputs, at_least, flip, _c, row, panel, outputs, out):
    """The signs (dot >= t) xor flip: a panel is one word of the next layer's input."""
    word = np.uint64(0)
    for j in range(0, value(width), LANES):
        total = dot(tile, r * value(width) + j, inputs)
        signs = ge_mask(total, load(at_least, panel * value(width) + j, i32x16))
        word |= np.uint64(signs) << np.uint64(j)
    out[row * ((outputs + WORD - 1) // WORD) + panel] = word ^ flip[panel]


FINISH = {"int32": finish_sums, "float32": finish_reals, "uint64": finish_signs}
