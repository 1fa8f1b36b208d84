"""The loops of integer convolutions: straight from padded images, on matrix tiles, channel by channel.

convolve             a tile of output pixels and channels in registers; nothing is gathered
convolve_tiles       blocks of windows gathered into rows, which matrix tiles multiply
convolve_depthwise   16 channels at a time, each with its own kernel
"""

import numpy as np

from compresslab.kernels import int8_loops
from compresslab.kernels._jit import kernel
from compresslab.kernels.epilogue import finish
from compresslab.kernels.panels import ONE
from compresslab.kernels.simd import (
    TILE_CONFIGURATION,
    bitcast,
    dot4,
    i8x64,
    i32x16,
    i64x8,
    interleaved,
    load,
    register_tile,
    splat,
    store,
    u8x16,
    u8x64,
    u32x16,
    value,
    word_at,
)

BLOCK = 96


LANES = 16


@kernel
def fill_border(x, shape, border, code, out):
    """Copy every row of every image into its place within the border."""
    batch, height, width, channels = shape
    inside, side = width * channels, border * channels
    across = inside + 2 * side
    for b in range(batch):
        top = b * (height + 2 * border) * across
        fill_run(out, top, border * across + side, code)
        for y in range(height):
            target = top + (y + border) * across + side
            copy_run(x, (b * height + y) * inside, inside, out, target)
            fill_run(out, target + inside, 2 * side, code)
        fill_run(out, top + (height + border) * across, border * across, code)


@kernel(forceinline=True)
def fill_run(out, first, count, code):
    """The same code `count` times."""
    wide, narrow = splat(code, u8x64), splat(code, u8x16)
    many = count // 64 * 64
    some = count // 16 * 16
    for t in range(0, many, 64):
        store(out, first + t, wide)
    for t in range(many, some, 16):
        store(out, first + t, narrow)
    for t in range(some, count):
        out[first + t] = code


@kernel(forceinline=True)
def copy_run(x, source, count, out, target):
    """`count` bytes: whole vectors, the last of which overlaps the one before where there is one."""
    if count >= 64:
        for t in range(0, count - 63, 64):
            store(out, target + t, load(x, source + t, u8x64))
        store(out, target + count - 64, load(x, source + count - 64, u8x64))
    elif count >= 16:
        for t in range(0, count - 15, 16):
            store(out, target + t, load(x, source + t, u8x16))
        store(out, target + count - 16, load(x, source + count - 16, u8x16))
    else:
        for t in range(count):
            out[target + t] = x[source + t]


@kernel
def gather_patch(padded, source, across, run, kernel_height, buffer, place):
    """Copy one patch: `kernel_height` runs of kw * c bytes, `across` bytes apart, to whole words.

    Whole vectors are copied: what is copied too much is overwritten by the next run or patch, or
    meets a weight of 0.
    """
    for _ in range(kernel_height):
        for t in range(0, run - 48, 64):
            store(buffer, place + t, load(padded, source + t, u8x64))
        for t in range(max(run - 48 + 63, 0) // 64 * 64, run, 16):
            store(buffer, place + t, load(padded, source + t, u8x16))
        source += across
        place += (run + 3) // 4 * 4


@kernel
def gather_block(padded, begin, end, out_size, geometry, k_words, buffer):
    """Copy the patches of output pixels begin..end, one after another."""
    out_height, out_width = out_size
    kernel_height, run, stride, height, across, channels = geometry
    for pixel in range(begin, end):
        b, rest = pixel // (out_height * out_width), pixel % (out_height * out_width)
        y, x = rest // out_width * stride, rest % out_width * stride
        source = (b * height + y) * across + x * channels
        place = (pixel - begin) * k_words * 4
        gather_patch(padded, source, across, run, kernel_height, buffer, place)


@kernel
def convolve(padded, geometry, out_size, product, shape, first, last, rows, width, out):
    """Output pixels first..last, a tile of `rows` pixels at a time, straight from the padded images.

    A word of four bytes is read where it lies, so nothing is gathered: of a pixel's window each line is a
    run of kw * c bytes, and the weight is packed in the same runs, each filled up with zeros to whole words.
    """
    k_words, outputs = shape
    panels, start = product[0], product[1]
    kernel_height, run, _, _, across, _ = geometry
    size, run_words = k_words * value(width) * 4, (run + 3) // 4
    places = register_tile(rows, ONE, i64x8)
    for panel in range((outputs + value(width) - 1) // value(width)):
        column = panel * value(width)
        for row in range(first, last, value(rows)):
            # The last tile may overlap the one before: the same sums are written twice.
            i = max(min(row, last - value(rows)), first)
            find_windows(i, geometry, out_size, rows, places)
            tile = register_tile(rows, width, i32x16)
            for r in range(value(rows)):
                for j in range(0, value(width), LANES):
                    store(tile, r * value(width) + j, load(start, column + j, i32x16))
            weights, line = panel * size, 0
            for _ in range(kernel_height):
                for t in range(run_words):
                    for r in range(value(rows)):
                        word = splat(word_at(padded, places[r] + line + 4 * t), u32x16)
                        for j in range(0, value(width), LANES):
                            k, w = r * value(width) + j, load(panels, weights + j * 4, i8x64)
                            total = dot4(load(tile, k, i32x16), bitcast(word, u8x64), w)
                            store(tile, k, total)
                    weights += value(width) * 4
                line += across
            for r in range(value(rows)):
                for j in range(0, value(width), LANES):
                    total = load(tile, r * value(width) + j, i32x16)
                    place = (i + r) * outputs + column + j
                    finish(total, product, 0, column + j, outputs, place, out)


@kernel(forceinline=True)
def find_windows(first, geometry, out_size, rows, places):
    """Where in the padded images the windows of `rows` output pixels begin, from pixel `first` on."""
    out_height, out_width = out_size
    _, _, stride, height, across, channels = geometry
    b, rest = first // (out_height * out_width), first % (out_height * out_width)
    y, x = rest // out_width, rest % out_width
    for r in range(value(rows)):
        places[r] = (b * height + y * stride) * across + x * stride * channels
        x += 1
        if x == out_width:
            x, y = 0, y + 1
            if y == out_height:
                y, b = 0, b + 1


@kernel
def convolve_tiles(padded, geometry, out_size, product, shape, first, last, sums, words, out):
    """As `convolve`, on matrix tiles; last - first is at least 32."""
    k_words, outputs = shape
    buffer = words.view(np.uint8)
    for block in range(first, last, BLOCK):
        end = min(block + BLOCK, last)
        begin = min(block, end - int8_loops.TILED_ROWS)
        gather_block(padded, begin, end, out_size, geometry, k_words, buffer)
        int8_loops.multiply_tiles(
            words,
            product,
            shape,
            0,
            end - begin,
            TILE_CONFIGURATION,
            sums,
            out[begin * outputs :],
        )


@kernel
def convolve_depthwise(padded, sizes, places, product, span, out):
    """Output rows first..last (counted over the batch), 16 channels at a time, four taps at once.

    product begins with the taps, int8 [blocks of 16 channels, groups of four taps, 16, 4], flat; places int64
    says how far each tap lies from a window's first pixel; span is stride, first and last.
    """
    (height, width, channels), (out_height, out_width) = sizes
    taps, start, (stride, first, last) = product[0], product[1], span
    groups = len(places) // 4
    for row in range(first, last):
        b, y = row // out_height, row % out_height
        for x in range(out_width):
            corner = ((b * height + y * stride) * width + x * stride) * channels
            for c in range(0, channels, LANES):
                total, weight = load(start, c, i32x16), c * groups * 4
                for g in range(0, 4 * groups, 4):
                    pixels = interleaved(
                        load(padded, corner + places[g] + c, u8x16),
                        load(padded, corner + places[g + 1] + c, u8x16),
                        load(padded, corner + places[g + 2] + c, u8x16),
                        load(padded, corner + places[g + 3] + c, u8x16),
                    )
                    total = dot4(total, pixels, load(taps, weight + g * 16, i8x64))
                place = (row * out_width + x) * channels + c
                finish(total, product, 0, c, channels, place, out)
