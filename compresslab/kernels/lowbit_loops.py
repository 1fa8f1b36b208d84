"""The loops of products with packed codes: activations in digits of eight bits, sums group by group."""

import numpy as np

from compresslab.kernels._jit import kernel
from compresslab.kernels.simd import (
    Static,
    at,
    bitcast,
    convert,
    dot4,
    f32x16,
    fma,
    hmax,
    hsum,
    i8x16,
    i8x64,
    i32x16,
    load,
    nan_mask,
    prefetch,
    register_tile,
    rint,
    splat,
    store,
    u8x64,
    u32x16,
    vabs,
    value,
    vmax,
)

LANES, WIDTH, QUAD = 16, 64, 4


AHEAD = 4096


EXACT = 3
"""Digits that keep a float32 activation."""


ONE, PANEL = Static(1), Static(WIDTH)


ZERO_BITS = np.uint32(255)


TINY = np.float32(1e-30)


@kernel
def split_digits(x, group, quads, digits, parts, units, sums):
    """Every group of x as signed bytes, and its unit u and sum (in units).

    Layout of parts: [groups, digits, quads, 4], most significant digit first; zero where a group is padded.
    """
    # The bytes lie in -128..127 and carry: 0.99 of the range keeps the first one inside.
    largest = np.float32(0.99 * (1 << (8 * digits - 1)))
    whole = group // LANES * LANES
    for g in range(units.size):
        top = largest_of(x, g * group, group)
        units[g] = top / largest if top < np.inf else np.float32(np.nan)
        sums[g] = 0
        # Values that round to 0 have no digits; a group that is not finite makes its row NaN by its unit.
        if not TINY < top < np.inf:
            continue
        inverse = largest / top
        # In floats: as integers of 24 bits, 256 of them may not fit 32.
        total = splat(np.float32(0), f32x16)
        for k in range(0, whole, LANES):
            scaled = rint(load(x, g * group + k, f32x16) * splat(inverse, f32x16))
            number = convert(scaled, i32x16)
            total = total + scaled
            for d in range(digits - 1, -1, -1):
                place = (g * digits + d) * quads * QUAD + k
                byte = convert(number, i8x16)
                store(parts, place, byte)
                number = (number - convert(byte, i32x16)) >> splat(np.int32(8), i32x16)
        rest = np.float32(0)
        for k in range(whole, group):
            number = np.int32(np.rint(at(x, g * group + k) * inverse))
            rest += np.float32(number)
            for d in range(digits - 1, -1, -1):
                byte = ((number + 128) & 255) - 128
                parts[(g * digits + d) * quads * QUAD + k] = byte
                number = (number - byte) >> 8
        sums[g] = hsum(total) + rest


@kernel(forceinline=True)
def largest_of(x, start, count):
    """The largest magnitude of a few neighbours; NaN if one of them is."""
    whole, nan = count // LANES * LANES, np.uint64(0)
    largest = splat(np.float32(0), f32x16)
    for k in range(0, whole, LANES):
        block = vabs(load(x, start + k, f32x16))
        nan |= np.uint64(nan_mask(block))
        largest = vmax(largest, block)
    top = hmax(largest)
    for k in range(whole, count):
        number = abs(at(x, start + k))
        nan |= np.uint64(number != number)
        top = max(top, number)
    return top if nan == np.uint64(0) else np.float32(np.nan)


@kernel
def multiply(parts, units, sums, words, scales, shape, first, last, rows, columns, held, out):
    """Panels first..last of the product; `columns` is 64 for each digit."""
    m, groups, _, outputs = shape
    for panel in range(first, last):
        for row in range(0, m, value(rows)):
            # The last tile may overlap the one before: the same sums are written twice.
            i = max(min(row, m - value(rows)), 0)
            total = register_tile(rows, PANEL, f32x16)
            for t in range(0, value(rows) * WIDTH, LANES):
                store(total, t, splat(np.float32(0), f32x16))
            for g in range(groups):
                tile = register_tile(rows, columns, i32x16)
                sum_products(parts, words, i, g, panel, shape, rows, columns, held, tile)
                add_scaled(tile, units, sums, scales, i, g, panel, groups, rows, columns, total)
            for r in range(value(rows)):
                for j in range(0, WIDTH, LANES):
                    place = (i + r) * outputs + panel * WIDTH + j
                    store(out, place, load(total, r * WIDTH + j, f32x16))


@kernel(forceinline=True)
def sum_products(parts, words, i, g, panel, shape, rows, columns, held, tile):
    """tile[r, d, j] = sum of q and digit d of x over a group, for a few rows and 64 outputs."""
    _, groups, quads, _ = shape
    places, digits = 8 // value(held), value(columns) // WIDTH
    a_group = quads // places
    for t in range(0, value(rows) * value(columns), LANES):
        store(tile, t, splat(np.int32(0), i32x16))
    ones = splat(np.uint32(0x01010101 * ((1 << value(held)) - 1)), u32x16)
    for w in range(a_group):
        place = ((panel * groups + g) * a_group + w) * WIDTH
        for j in range(0, WIDTH, LANES):
            prefetch(words, place + j + AHEAD)
        # Places outside, outputs inside: the few x of a place stay in registers beside the sums.
        for t in range(places):
            for j in range(0, WIDTH, LANES):
                word = load(words, place + j, u32x16)
                codes = bitcast(word >> splat(np.uint32(value(held) * t), u32x16) & ones, u8x64)
                for r in range(value(rows)):
                    for d in range(digits):
                        here = r * value(columns) + d * WIDTH + j
                        quad = (((i + r) * groups + g) * digits + d) * quads + w * places + t
                        x = bitcast(splat(at(parts, quad), i32x16), i8x64)
                        store(tile, here, dot4(load(tile, here, i32x16), codes, x))


@kernel(forceinline=True)
def add_scaled(tile, units, sums, scales, i, g, panel, groups, rows, columns, total):
    """Add s * u * (sum of q d - z * sum of d), the digits' sums put together, to the total."""
    for r in range(value(rows)):
        unit = splat(at(units, (i + r) * groups + g), f32x16)
        x = splat(at(sums, (i + r) * groups + g), f32x16)
        for j in range(0, WIDTH, LANES):
            both = load(scales, (panel * groups + g) * WIDTH + j, u32x16)
            zero = convert(both & splat(ZERO_BITS, u32x16), f32x16)
            scale = bitcast(both & splat(~ZERO_BITS, u32x16), f32x16)
            products = splat(np.float32(0), f32x16)
            for d in range(0, value(columns), WIDTH):
                digit = convert(load(tile, r * value(columns) + d + j, i32x16), f32x16)
                products = fma(products, splat(np.float32(256), f32x16), digit)
            here = r * WIDTH + j
            products = products - zero * x
            store(total, here, fma(products, scale * unit, load(total, here, f32x16)))


@kernel
def write_floats(words, scales, panels, shape, held, out):
    """(q - z) s of every weight, row k beside row k + 1, columns in the order of the panels."""
    groups, group, a_group, columns = shape
    places = 8 // value(held)
    ones = splat(np.uint32((1 << value(held)) - 1), u32x16)
    for panel in range(panels):
        for g in range(groups):
            for j in range(0, WIDTH, LANES):
                both = load(scales, (panel * groups + g) * WIDTH + j, u32x16)
                zero = convert(both & splat(ZERO_BITS, u32x16), f32x16)
                scale = bitcast(both & splat(~ZERO_BITS, u32x16), f32x16)
                for k in range(group):
                    w, rest = k // (places * QUAD), k % (places * QUAD)
                    shift = rest // QUAD * value(held) + 8 * (rest % QUAD)
                    word = load(words, ((panel * groups + g) * a_group + w) * WIDTH + j, u32x16)
                    code = convert(word >> splat(np.uint32(shift), u32x16) & ones, f32x16)
                    place = (g * group + k) * columns + panel * WIDTH + j
                    store(out, place, (code - zero) * scale)
