"""The loops of integer products: a tile of sums in registers, or in matrix tiles, and its epilogue.

`multiply` keeps `rows` x `width` sums in vector registers. Where a processor has matrix tiles (Intel AMX) and
there are 32 rows or more, `multiply_tiles` computes blocks of 32 x 32 sums with four tiles of sums, two of
activations and two of weights, from the same panels, and hands them to the same epilogues. It is bound by
loading tiles, one for every product of two, so rows are taken in blocks that stay in the second-level cache.

Left out: blocking over K (a panel fits the second-level cache up to K = 16,000).
"""

from compresslab.kernels._jit import kernel
from compresslab.kernels.epilogue import finish
from compresslab.kernels.panels import LANES
from compresslab.kernels.simd import (
    Static,
    at,
    bitcast,
    dot4,
    i8x64,
    i32x16,
    load,
    prefetch,
    register_tile,
    splat,
    store,
    tile_dot,
    tile_load,
    tile_store,
    tile_zero,
    tiles_configure,
    tiles_release,
    u8x64,
    u32x16,
    value,
)

TILE0, TILE1, TILE2, TILE3, TILE4, TILE5, TILE6, TILE7 = (Static(n) for n in range(8))


TILED_ROWS = 32


HELD_BYTES = 256 << 10
"""Bytes of activations that stay in the second-level cache while all weights pass by."""


AHEAD = 4096


@kernel
def multiply(words, product, shape, first, last, rows, width, out):
    """Rows first..last of the product; what is done with a sum follows from the dtype of `out`."""
    k_words, outputs = shape
    panels, start = product[0], product[1]
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
                    finish(total, product, i + r, column + j, outputs, place, out)


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
def multiply_tiles(words, product, shape, first, last, configuration, sums, out):
    """As `multiply`, in blocks of 32 x 32 sums on matrix tiles; last - first is at least 32."""
    k_words, outputs = shape
    panels = product[0]
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
                finish_tiles(sums, product, i, column, outputs, out)
    tiles_release()


@kernel
def finish_tiles(sums, product, i, column, outputs, out):
    """The epilogue of a block of 32 x 32 sums."""
    start = product[1]
    for r in range(TILED_ROWS):
        for j in range(0, TILED_ROWS, LANES):
            if column + j < outputs:
                total = load(sums, r * TILED_ROWS + j, i32x16) + load(start, column + j, i32x16)
                place = (i + r) * outputs + column + j
                finish(total, product, i + r, column + j, outputs, place, out)


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
