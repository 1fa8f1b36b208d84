"""The loops of sparse products: a row of nonzeros, two weights of four, or a block at a time."""

import numpy as np

from compresslab.kernels._jit import kernel
from compresslab.kernels.simd import (
    Static,
    at,
    f32x16,
    fma,
    load,
    register_tile,
    splat,
    store,
    value,
)

LANES = 16


ONE, TWO, FOUR, EIGHT = Static(1), Static(2), Static(4), Static(8)


PANEL = 256
"""Columns of W at a time: PANEL rows of 32 float32 of X are 32 KB, the first-level cache or a bit less."""


@kernel(forceinline=True)
def clear(tile, rows, width):
    """Set all sums to 0."""
    for t in range(0, value(rows) * value(width), LANES):
        store(tile, t, splat(np.float32(0), f32x16))


@kernel
def csr_rows(starts, columns, values, x, inputs, first, last, width, chains, out):
    """Outputs first..last, a strip of the batch and a panel of columns at a time."""
    for strip in range(out.shape[1] // value(width)):
        for panel in range(starts.shape[0]):
            for n in range(first, last):
                sums = register_tile(chains, width, f32x16)
                clear(sums, chains, width)
                for p in range(starts[panel, n], starts[panel, n + 1], value(chains)):
                    for s in range(value(chains)):
                        add_row(columns, values, p + s, x, strip * inputs, sums, s, width)
                for j in range(0, value(width), LANES):
                    total = load(sums, j, f32x16)
                    for s in range(1, value(chains)):
                        total = total + load(sums, s * value(width) + j, f32x16)
                    place = n * out.shape[1] + strip * value(width) + j
                    if panel > 0:
                        total = total + load(out, place, f32x16)
                    store(out, place, total)


@kernel(forceinline=True)
def add_row(columns, values, p, x, base, sums, s, width):
    """sums[s] += values[p] * the row of the strip that belongs to it."""
    weight = splat(at(values, p), f32x16)
    row = (base + np.int64(at(columns, p))) * value(width)
    for j in range(0, value(width), LANES):
        t = s * value(width) + j
        store(sums, t, fma(load(x, row + j, f32x16), weight, load(sums, t, f32x16)))


@kernel(fastmath={"reassoc", "contract"})
def csr_vector(starts, columns, values, x, first, last, out):
    """Outputs first..last for one input: four sums in flight, single numbers gathered."""
    for n in range(first, last):
        a = b = c = d = np.float32(0)
        low, high = starts[n], starts[n + 1]
        whole = low + (high - low) // 4 * 4
        for p in range(low, whole, 4):
            a += at(values, p) * at(x, at(columns, p))
            b += at(values, p + 1) * at(x, at(columns, p + 1))
            c += at(values, p + 2) * at(x, at(columns, p + 2))
            d += at(values, p + 3) * at(x, at(columns, p + 3))
        for p in range(whole, high):
            a += at(values, p) * at(x, at(columns, p))
        out[n] = (a + b) + (c + d)


@kernel
def pair_rows(values, codes, x, first, last, width, rows, out):
    """2:4: `rows` outputs share a strip of x while its groups stream by."""
    whole = last - (last - first) % value(rows)
    for strip in range(out.shape[1] // value(width)):
        for n in range(first, whole, value(rows)):
            pair_tile(values, codes, x, strip, n, rows, width, out)
        for n in range(whole, last):
            pair_tile(values, codes, x, strip, n, ONE, width, out)


@kernel(forceinline=True)
def pair_tile(values, codes, x, strip, n, rows, width, out):
    """`rows` outputs from n on, one strip."""
    groups = codes.shape[1]
    sums = register_tile(rows, width, f32x16)
    clear(sums, rows, width)
    for g in range(groups):
        group = (strip * groups + g) * 4
        for r in range(value(rows)):
            code = np.int64(codes[n + r, g])
            one, two = (group + (code & 3)) * value(width), (group + (code >> 2)) * value(width)
            place = ((n + r) * groups + g) * 2
            a, b = splat(at(values, place), f32x16), splat(at(values, place + 1), f32x16)
            for j in range(0, value(width), LANES):
                t = r * value(width) + j
                total = fma(load(x, one + j, f32x16), a, load(sums, t, f32x16))
                store(sums, t, fma(load(x, two + j, f32x16), b, total))
    keep(sums, n, rows, strip, width, out)


@kernel
def block_rows(starts, columns, values, x, inputs, depth, rows, first, last, width, out):
    """Block rows first..last: a dense register tile on every block that is there."""
    for strip in range(out.shape[1] // value(width)):
        for i in range(first, last):
            sums = register_tile(rows, width, f32x16)
            clear(sums, rows, width)
            for p in range(starts[i], starts[i + 1]):
                row = (strip * inputs + columns[p] * depth) * value(width)
                place = p * depth * value(rows)
                for k in range(depth):
                    for r in range(value(rows)):
                        weight = splat(at(values, place + k * value(rows) + r), f32x16)
                        for j in range(0, value(width), LANES):
                            t = r * value(width) + j
                            numbers = load(x, row + k * value(width) + j, f32x16)
                            store(sums, t, fma(numbers, weight, load(sums, t, f32x16)))
            keep(sums, i * value(rows), rows, strip, width, out)


@kernel(forceinline=True)
def keep(sums, n, rows, strip, width, out):
    """Write a tile of outputs n.. and one strip."""
    for r in range(value(rows)):
        for j in range(0, value(width), LANES):
            place = (n + r) * out.shape[1] + strip * value(width) + j
            store(out, place, load(sums, r * value(width) + j, f32x16))
