"""Rows of a plan that have weights: convolutions and products, and the last layer."""

import numpy as np

from compresslab.kernels import int8_loops
from compresslab.kernels._jit import kernel
from compresslab.kernels.int8_conv_loops import (
    convolve,
    convolve_depthwise,
    copy_run,
    fill_border,
    fill_run,
)
from compresslab.kernels.plan.table import (
    ACROSS_SIZE,
    CHANNELS,
    DOWN,
    DOWN_SIZE,
    FACTOR,
    HEIGHT,
    HIGH,
    LOW,
    OFFSET,
    OUT,
    OUT_CHANNELS,
    OUT_HEIGHT,
    OUT_WIDTH,
    PANEL,
    START,
    TOP,
    WEIGHT,
    WIDTH,
    WORDS,
    ZERO,
    ZERO_A,
    A,
)
from compresslab.kernels.simd import Static, array_at, f32x16, i8x16, i32x16, i64x8

ONE, FOUR, EIGHT = Static(1), Static(4), Static(8)


SIXTEEN, THIRTY_TWO, SIXTY_FOUR = Static(16), Static(32), Static(64)


@kernel
def numbers_of(row):
    """Panels, start and factor of a layer, and its shape: words along K, outputs."""
    outputs = row[OUT_CHANNELS]
    length = (outputs + row[PANEL] - 1) // row[PANEL] * row[PANEL]
    panels = array_at(row[WEIGHT], length * row[WORDS] * 4, i8x16)
    start, factor = array_at(row[START], length, i32x16), array_at(row[FACTOR], length, f32x16)
    return panels, start, factor, (row[WORDS], outputs)


@kernel
def bordered(row, arena, padded, count):
    """The images with their border, in `padded`; where there is none, as they lie in the arena."""
    height, width, channels, border = row[HEIGHT], row[WIDTH], row[CHANNELS], row[TOP]
    source = arena[row[A] * count :]
    if border == 0:
        return source
    size = count * (height + 2 * border) * (width + 2 * border) * channels
    shape = (count, height, width, channels)
    fill_border(source, shape, border, np.uint8(row[ZERO_A]), padded[:size])
    return padded


@kernel
def run_convolution(row, real, arena, padded, count):
    """A convolution with its requantization, the tile by the weight's panels."""
    border, channels = row[TOP], row[CHANNELS]
    panels, start, factor, shape = numbers_of(row)
    across = (row[WIDTH] + 2 * border) * channels
    run, height = row[ACROSS_SIZE] * channels, row[HEIGHT] + 2 * border
    geometry = (row[DOWN_SIZE], run, row[DOWN], height, across, channels)
    size = (row[OUT_HEIGHT], row[OUT_WIDTH])
    zero, low, high = real[ZERO], real[LOW], real[HIGH]
    product = (panels, start, factor, factor, factor, zero, low, high)
    source, out = bordered(row, arena, padded, count), arena[row[OUT] * count :]
    n = count * row[OUT_HEIGHT] * row[OUT_WIDTH]
    if row[PANEL] == 16:
        if n >= 8:
            convolve(source, geometry, size, product, shape, 0, n, EIGHT, SIXTEEN, out)
        else:
            convolve(source, geometry, size, product, shape, 0, n, ONE, SIXTEEN, out)
    elif row[PANEL] == 32:
        if n >= 8:
            convolve(source, geometry, size, product, shape, 0, n, EIGHT, THIRTY_TWO, out)
        else:
            convolve(source, geometry, size, product, shape, 0, n, ONE, THIRTY_TWO, out)
    elif n >= 4:
        convolve(source, geometry, size, product, shape, 0, n, FOUR, SIXTY_FOUR, out)
    else:
        convolve(source, geometry, size, product, shape, 0, n, ONE, SIXTY_FOUR, out)


@kernel
def run_depthwise(row, real, arena, padded, count):
    """A convolution of each channel with its own kernel."""
    channels, border = row[CHANNELS], row[TOP]
    length = (channels + 15) // 16 * 16
    taps = array_at(row[WEIGHT], length * 4 * row[WORDS], i8x16)
    places = array_at(row[OFFSET], 4 * row[WORDS], i64x8)
    start, factor = array_at(row[START], length, i32x16), array_at(row[FACTOR], length, f32x16)
    size = (row[HEIGHT] + 2 * border, row[WIDTH] + 2 * border, channels)
    out_size, last = (row[OUT_HEIGHT], row[OUT_WIDTH]), count * row[OUT_HEIGHT]
    source, out = bordered(row, arena, padded, count), arena[row[OUT] * count :]
    product = (taps, start, factor, factor, factor, real[ZERO], real[LOW], real[HIGH])
    convolve_depthwise(source, (size, out_size), places, product, (row[DOWN], 0, last), out)


@kernel
def rows_as_words(row, arena, padded, count):
    """Rows of K codes as words of four, K filled up with zeros where it must be; and how many rows."""
    inputs, stride = row[CHANNELS], 4 * row[WORDS]
    n, begin = count * row[HEIGHT] * row[WIDTH], row[A] * count
    if inputs == stride:
        return arena[begin : begin + n * stride].view(np.uint32)
    for r in range(n):
        copy_run(arena, begin + r * inputs, inputs, padded, r * stride)
        fill_run(padded, r * stride + inputs, stride - inputs, np.uint8(0))
    return padded[: n * stride].view(np.uint32)


@kernel
def run_product(row, real, arena, padded, count):
    """A linear layer, or a convolution of single pixels, with its requantization."""
    panels, start, factor, shape = numbers_of(row)
    words, out = rows_as_words(row, arena, padded, count), arena[row[OUT] * count :]
    n = count * row[HEIGHT] * row[WIDTH]
    product = (panels, start, factor, factor, factor, real[ZERO], real[LOW], real[HIGH])
    multiply_by_panels(words, product, shape, n, row[PANEL], out)


@kernel
def run_logits(row, arena, padded, ones, out, count):
    """The last layer, whose results are real numbers."""
    panels, start, factor, shape = numbers_of(row)
    length = len(factor)
    offset = array_at(row[OFFSET], length, f32x16)
    words = rows_as_words(row, arena, padded, count)
    n, no = count * row[HEIGHT] * row[WIDTH], np.float32(0)
    product = (panels, start, factor, offset, ones, no, no, no)
    multiply_by_panels(words, product, shape, n, row[PANEL], out[row[OUT] * count :])


@kernel
def multiply_by_panels(words, product, shape, n, panel, out):
    """`int8_loops.multiply` with the tile that the weight's panels and the number of rows ask for."""
    if panel == 16 and n >= 8:
        int8_loops.multiply(words, product, shape, 0, n, EIGHT, SIXTEEN, out)
    elif panel == 16:
        int8_loops.multiply(words, product, shape, 0, n, ONE, SIXTEEN, out)
    elif panel == 32 and n >= 8:
        int8_loops.multiply(words, product, shape, 0, n, EIGHT, THIRTY_TWO, out)
    elif panel == 32:
        int8_loops.multiply(words, product, shape, 0, n, ONE, THIRTY_TWO, out)
    elif n >= 4:
        int8_loops.multiply(words, product, shape, 0, n, FOUR, SIXTY_FOUR, out)
    else:
        int8_loops.multiply(words, product, shape, 0, n, ONE, SIXTY_FOUR, out)
