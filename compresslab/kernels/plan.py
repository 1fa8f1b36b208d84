"""A whole network in one call: a compiled loop walks a table of operations, one row of integers each.

    KIND    A    B    OUT    HEIGHT WIDTH CHANNELS ...    WEIGHT    START    FACTOR
    conv    0         6272   28     28    1        ...    address   address  address
    max     6272      0      28     28    16       ...

No Python runs between two layers and nothing is allocated: activations lie in one arena, whose places
`runtime.plan` assigns by their lifetimes, weights stay where they are packed. The loops are those that the
layers call one by one (`int8_loops`, `int8_conv`, `int8_pool_loops`), so the codes are the same, bit for bit.
The function is compiled once for all networks. TensorFlow Lite Micro and ggml run networks in this way.

Offsets A, B and OUT count bytes of one example: with n examples everything lies n times as far. Left out:
matrix tiles, and operations in floats, which run step by step.
"""

import numpy as np

from compresslab.kernels import int8_loops
from compresslab.kernels._jit import kernel
from compresslab.kernels.int8_conv import convolve, convolve_depthwise, fill_border
from compresslab.kernels.int8_pool_loops import (
    add_codes,
    look_up_channels,
    max_squares,
    max_windows,
    mean_of_all,
    mean_windows,
    multiply_codes,
)
from compresslab.kernels.simd import Static, array_at, f32x16, i8x16, i32x16, u8x16

KIND, A, B, OUT, ZERO_A, ZERO_B, EXTRA = 0, 1, 2, 3, 4, 5, 6
HEIGHT, WIDTH, CHANNELS, OUT_HEIGHT, OUT_WIDTH, OUT_CHANNELS = 7, 8, 9, 10, 11, 12
DOWN_SIZE, ACROSS_SIZE, DOWN, ACROSS, TOP, LEFT = 13, 14, 15, 16, 17, 18
WEIGHT, WORDS, PANEL, START, FACTOR, OFFSET, COLUMNS = 19, 20, 21, 22, 23, 24, 25
"""The columns of a row. Of a window: its size, its stride and the border, from top to bottom and across."""
ZERO, LOW, HIGH, FACTOR_A, FACTOR_B, REALS = 0, 1, 2, 3, 4, 5
"""The columns of a row's real numbers."""
QUANTIZE, CONVOLUTION, DEPTHWISE, PRODUCT, LOGITS, DEQUANTIZE = 0, 1, 2, 3, 4, 5
MAX, MAX_WINDOWS, MEAN, MEAN_WINDOWS, ADD, MULTIPLY = 6, 7, 8, 9, 10, 11
TABLE, TABLES, CONCATENATE, SELECT, ROWS_OF, IMAGE_OF, ENLARGE, PLACE = (
    12,
    13,
    14,
    15,
    16,
    17,
    18,
    19,
)
"""Kinds of operations."""

ONE, FOUR, EIGHT, TWELVE = Static(1), Static(4), Static(8), Static(12)
SIXTEEN, THIRTY_TWO, SIXTY_FOUR = Static(16), Static(32), Static(64)


@kernel
def walk(rows, reals, images, arena, padded, words, totals, ones, out, count):
    """Run every row on `count` examples; 1 if an image holds NaN, else 0.

    images float32 and out float32 are flat; arena and padded are bytes, words and totals scratch of one
    patch block and one row of channels, ones float32 of at least as many 1s as rows of a product.
    """
    for i in range(len(rows)):
        row, real = rows[i], reals[i]
        kind = row[KIND]
        if kind == QUANTIZE:
            if quantize_images(row, real, images, arena, count):
                return 1
        elif kind == CONVOLUTION:
            run_convolution(row, real, arena, padded, words, count)
        elif kind == DEPTHWISE:
            run_depthwise(row, real, arena, padded, count)
        elif kind == PRODUCT:
            run_product(row, real, arena, padded, count)
        elif kind == LOGITS:
            run_logits(row, arena, padded, ones, out, count)
        elif kind == DEQUANTIZE:
            dequantize_codes(row, arena, out, count)
        elif kind <= MEAN_WINDOWS:
            run_pooling(row, real, arena, totals, count)
        elif kind <= MULTIPLY:
            run_two(row, real, arena, count)
        else:
            run_moving(row, arena, count)
    return 0


@kernel
def quantize_images(row, real, images, arena, count):
    """Images [n, c, pixels] to codes [n, pixels, c]; whether one of them is NaN."""
    pixels, channels = row[HEIGHT] * row[WIDTH], row[CHANNELS]
    inverse, zero, low, high = real[FACTOR_A], real[ZERO], real[LOW], real[HIGH]
    target, bad = row[OUT] * count, False
    for n in range(count):
        for c in range(channels):
            source = (n * channels + c) * pixels
            place = target + n * pixels * channels + c
            for p in range(pixels):
                x = images[source + p]
                bad |= x != x
                code = min(max(np.rint(x * inverse) + zero, low), high)
                arena[place + p * channels] = np.uint8(np.int32(code))
    return bad


@kernel
def dequantize_codes(row, arena, out, count):
    """Codes [n, pixels, c] to numbers [n, c, pixels], by the table of what each code stands for."""
    pixels, channels = row[HEIGHT] * row[WIDTH], row[CHANNELS]
    values = array_at(row[WEIGHT], 256, f32x16)
    source, target = row[A] * count, row[OUT] * count
    for n in range(count):
        for p in range(pixels):
            for c in range(channels):
                code = arena[source + (n * pixels + p) * channels + c]
                out[target + (n * channels + c) * pixels + p] = values[code]


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
def run_convolution(row, real, arena, padded, words, count):
    """A convolution with its requantization, the tile by the weight's panels."""
    border, channels = row[TOP], row[CHANNELS]
    panels, start, factor, shape = numbers_of(row)
    across = (row[WIDTH] + 2 * border) * channels
    run, height = row[ACROSS_SIZE] * channels, row[HEIGHT] + 2 * border
    geometry = (row[DOWN_SIZE], run, row[DOWN], height, across, channels)
    size = (row[OUT_HEIGHT], row[OUT_WIDTH])
    product = (panels, start, factor, real[ZERO], real[LOW], real[HIGH])
    source, out = bordered(row, arena, padded, count), arena[row[OUT] * count :]
    n = count * row[OUT_HEIGHT] * row[OUT_WIDTH]
    if row[PANEL] == 16:
        if n >= 12:
            convolve(source, geometry, size, product, shape, 0, n, TWELVE, SIXTEEN, words, out)
        else:
            convolve(source, geometry, size, product, shape, 0, n, ONE, SIXTEEN, words, out)
    elif row[PANEL] == 32:
        if n >= 8:
            convolve(source, geometry, size, product, shape, 0, n, EIGHT, THIRTY_TWO, words, out)
        else:
            convolve(source, geometry, size, product, shape, 0, n, ONE, THIRTY_TWO, words, out)
    elif n >= 4:
        convolve(source, geometry, size, product, shape, 0, n, FOUR, SIXTY_FOUR, words, out)
    else:
        convolve(source, geometry, size, product, shape, 0, n, ONE, SIXTY_FOUR, words, out)


@kernel
def run_depthwise(row, real, arena, padded, count):
    """A convolution of each channel with its own kernel."""
    channels, border = row[CHANNELS], row[TOP]
    taps = row[DOWN_SIZE] * row[ACROSS_SIZE] * channels
    weight = array_at(row[WEIGHT], taps, i8x16)
    kernels = weight.reshape((row[DOWN_SIZE], row[ACROSS_SIZE], channels))
    start, factor = array_at(row[START], channels, i32x16), array_at(row[FACTOR], channels, f32x16)
    size = (row[HEIGHT] + 2 * border, row[WIDTH] + 2 * border)
    out = images_at(arena, row[OUT], count, row[OUT_HEIGHT], row[OUT_WIDTH], channels)
    source = bordered(row, arena, padded, count)
    zero, low, high, last = real[ZERO], real[LOW], real[HIGH], count * row[OUT_HEIGHT]
    convolve_depthwise(
        source, size, kernels, start, factor, zero, low, high, row[DOWN], 0, last, out
    )


@kernel
def images_at(arena, place, count, height, width, channels):
    """The images that lie at a place of the arena, [n, h, w, c]."""
    begin = place * count
    part = arena[begin : begin + count * height * width * channels]
    return part.reshape((count, height, width, channels))


@kernel
def rows_as_words(row, arena, padded, count):
    """Rows of K codes as words of four, K filled up with zeros where it must be; and how many rows."""
    inputs, stride = row[CHANNELS], 4 * row[WORDS]
    n, begin = count * row[HEIGHT] * row[WIDTH], row[A] * count
    if inputs == stride:
        return arena[begin : begin + n * stride].view(np.uint32)
    for r in range(n):
        for k in range(inputs):
            padded[r * stride + k] = arena[begin + r * inputs + k]
        for k in range(inputs, stride):
            padded[r * stride + k] = 0
    return padded[: n * stride].view(np.uint32)


@kernel
def run_product(row, real, arena, padded, count):
    """A linear layer, or a convolution of single pixels, with its requantization."""
    panels, start, factor, shape = numbers_of(row)
    words, out = rows_as_words(row, arena, padded, count), arena[row[OUT] * count :]
    n = count * row[HEIGHT] * row[WIDTH]
    zero, low, high = real[ZERO], real[LOW], real[HIGH]
    multiply_by_panels(
        words, panels, start, factor, factor, factor, zero, low, high, shape, n, row[PANEL], out
    )


@kernel
def run_logits(row, arena, padded, ones, out, count):
    """The last layer, whose results are real numbers."""
    panels, start, factor, shape = numbers_of(row)
    length = len(factor)
    offset = array_at(row[OFFSET], length, f32x16)
    words = rows_as_words(row, arena, padded, count)
    n, no = count * row[HEIGHT] * row[WIDTH], np.float32(0)
    target = out[row[OUT] * count :]
    multiply_by_panels(
        words, panels, start, factor, offset, ones, no, no, no, shape, n, row[PANEL], target
    )


@kernel
def multiply_by_panels(
    words, panels, start, factor, offset, scale, zero, low, high, shape, n, panel, out
):
    """`int8_loops.multiply` with the tile that the weight's panels and the number of rows ask for."""
    if panel == 16 and n >= 12:
        int8_loops.multiply(
            words,
            panels,
            start,
            factor,
            offset,
            scale,
            zero,
            low,
            high,
            shape,
            0,
            n,
            TWELVE,
            SIXTEEN,
            out,
        )
    elif panel == 16:
        int8_loops.multiply(
            words,
            panels,
            start,
            factor,
            offset,
            scale,
            zero,
            low,
            high,
            shape,
            0,
            n,
            ONE,
            SIXTEEN,
            out,
        )
    elif panel == 32 and n >= 8:
        int8_loops.multiply(
            words,
            panels,
            start,
            factor,
            offset,
            scale,
            zero,
            low,
            high,
            shape,
            0,
            n,
            EIGHT,
            THIRTY_TWO,
            out,
        )
    elif panel == 32:
        int8_loops.multiply(
            words,
            panels,
            start,
            factor,
            offset,
            scale,
            zero,
            low,
            high,
            shape,
            0,
            n,
            ONE,
            THIRTY_TWO,
            out,
        )
    elif n >= 4:
        int8_loops.multiply(
            words,
            panels,
            start,
            factor,
            offset,
            scale,
            zero,
            low,
            high,
            shape,
            0,
            n,
            FOUR,
            SIXTY_FOUR,
            out,
        )
    else:
        int8_loops.multiply(
            words,
            panels,
            start,
            factor,
            offset,
            scale,
            zero,
            low,
            high,
            shape,
            0,
            n,
            ONE,
            SIXTY_FOUR,
            out,
        )


@kernel
def run_pooling(row, real, arena, totals, count):
    """The largest of windows, or their mean."""
    kind, channels = row[KIND], row[CHANNELS]
    x = images_at(arena, row[A], count, row[HEIGHT], row[WIDTH], channels)
    out = images_at(arena, row[OUT], count, row[OUT_HEIGHT], row[OUT_WIDTH], channels)
    size, stride, padding = (
        (row[DOWN_SIZE], row[ACROSS_SIZE]),
        (row[DOWN], row[ACROSS]),
        (row[TOP], row[LEFT]),
    )
    zero_a, factor, zero, low, high = row[ZERO_A], real[FACTOR_A], real[ZERO], real[LOW], real[HIGH]
    if kind == MEAN:
        flat = out.reshape((count, channels))
        mean_of_all(x, zero_a, factor, zero, low, high, totals, flat)
    elif kind == MEAN_WINDOWS:
        inside = row[EXTRA] != 0
        mean_windows(x, size, stride, padding, zero_a, inside, factor, zero, low, high, totals, out)
    elif kind == MAX:
        out[:] = 0
        max_squares(x, row[DOWN_SIZE], out)
    else:
        out[:] = 0
        max_windows(x, size, stride, padding, out)


@kernel
def run_two(row, real, arena, count):
    """The sum of two results, or their product; B of a product may be one pixel."""
    pixels, channels = row[HEIGHT] * row[WIDTH], row[CHANNELS]
    size = count * pixels * channels
    one, out = arena[row[A] * count :][:size], arena[row[OUT] * count :][:size]
    zero_a, zero_b = np.float32(row[ZERO_A]), np.float32(row[ZERO_B])
    zero, low, high, factor = real[ZERO], real[LOW], real[HIGH], real[FACTOR_A]
    if row[KIND] == ADD:
        other = arena[row[B] * count :][:size]
        add_codes(one, other, zero_a, zero_b, factor, real[FACTOR_B], zero, low, high, out)
        return
    each, shape = row[EXTRA], (count, pixels, channels)
    other = arena[row[B] * count :][: count * each * channels].reshape((count, each, channels))
    a, target = one.reshape(shape), out.reshape(shape)
    multiply_codes(a, other, zero_a, zero_b, factor, zero, low, high, target)


@kernel
def run_moving(row, arena, count):
    """What looks codes up or moves them."""
    kind, pixels, channels = row[KIND], row[HEIGHT] * row[WIDTH], row[CHANNELS]
    size = count * pixels * channels
    x, out = arena[row[A] * count :][:size], arena[row[OUT] * count :]
    if kind == TABLE:
        table = array_at(row[WEIGHT], 256, u8x16)
        for i in range(size):
            out[i] = table[x[i]]
    elif kind == TABLES:
        shape = (count * pixels, channels)
        tables = array_at(row[WEIGHT], channels * 256, u8x16).reshape((channels, 256))
        look_up_channels(x.reshape(shape), tables, out[:size].reshape(shape))
    elif kind == CONCATENATE:
        table = array_at(row[WEIGHT], 256, u8x16)
        for p in range(count * pixels):
            place = p * row[OUT_CHANNELS] + row[EXTRA]
            for c in range(channels):
                out[place + c] = table[x[p * channels + c]]
    elif kind == SELECT:
        chosen = array_at(row[WEIGHT], row[OUT_CHANNELS], i32x16)
        for p in range(count * pixels):
            for c in range(row[OUT_CHANNELS]):
                out[p * row[OUT_CHANNELS] + c] = x[p * channels + chosen[c]]
    elif kind in (ROWS_OF, IMAGE_OF):
        exchange(x, count, pixels, channels, kind == ROWS_OF, out)
    elif kind == ENLARGE:
        enlarge(row, x, count, out)
    else:
        place_pixels(row, x, count, out)


@kernel
def exchange(x, count, pixels, channels, to_rows, out):
    """[n, pixels, c] to [n, c, pixels], or back."""
    for n in range(count):
        for p in range(pixels):
            for c in range(channels):
                last = (n * pixels + p) * channels + c
                first = (n * channels + c) * pixels + p
                if to_rows:
                    out[first] = x[last]
                else:
                    out[last] = x[first]


@kernel
def enlarge(row, x, count, out):
    """Every pixel DOWN times ACROSS times."""
    height, width, channels = row[OUT_HEIGHT], row[OUT_WIDTH], row[CHANNELS]
    for n in range(count):
        for y in range(height):
            for z in range(width):
                pixel = (n * row[HEIGHT] + y // row[DOWN]) * row[WIDTH] + z // row[ACROSS]
                for c in range(channels):
                    out[((n * height + y) * width + z) * channels + c] = x[pixel * channels + c]


@kernel
def place_pixels(row, x, count, out):
    """Pixel (y, z) to (TOP + y DOWN, LEFT + z ACROSS); the code of 0 everywhere else."""
    height, width, channels = row[OUT_HEIGHT], row[OUT_WIDTH], row[CHANNELS]
    out[: count * height * width * channels] = np.uint8(row[ZERO_A])
    for n in range(count):
        for y in range(row[HEIGHT]):
            for z in range(row[WIDTH]):
                to = (n * height + row[TOP] + y * row[DOWN]) * width + row[LEFT] + z * row[ACROSS]
                pixel = (n * row[HEIGHT] + y) * row[WIDTH] + z
                for c in range(channels):
                    out[to * channels + c] = x[pixel * channels + c]
