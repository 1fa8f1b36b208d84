"""Rows of a plan without weights: pooling, sums and products, tables, and what moves codes."""

import numpy as np

from compresslab.kernels._jit import kernel
from compresslab.kernels.int8_conv_loops import copy_run, fill_run
from compresslab.kernels.int8_pool_loops import (
    add_codes,
    look_up_channels,
    max_squares,
    max_windows,
    mean_of_all,
    mean_windows,
    multiply_codes,
)
from compresslab.kernels.plan.table import (
    ACROSS,
    ACROSS_SIZE,
    ADD,
    CHANNELS,
    CONCATENATE,
    DOWN,
    DOWN_SIZE,
    ENLARGE,
    EXTRA,
    FACTOR_A,
    FACTOR_B,
    HEIGHT,
    HIGH,
    IMAGE_OF,
    KIND,
    LEFT,
    LOW,
    MAX,
    MEAN,
    MEAN_WINDOWS,
    OUT,
    OUT_CHANNELS,
    OUT_HEIGHT,
    OUT_WIDTH,
    ROWS_OF,
    SELECT,
    TABLE,
    TABLES,
    TOP,
    WEIGHT,
    WIDTH,
    ZERO,
    ZERO_A,
    ZERO_B,
    A,
    B,
)
from compresslab.kernels.simd import array_at, i32x16, u8x16


@kernel
def images_at(arena, place, count, height, width, channels):
    """The images that lie at a place of the arena, [n, h, w, c]."""
    begin = place * count
    part = arena[begin : begin + count * height * width * channels]
    return part.reshape((count, height, width, channels))


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
                target = ((n * height + y) * width + z) * channels
                copy_run(x, pixel * channels, channels, out, target)


@kernel
def place_pixels(row, x, count, out):
    """Pixel (y, z) to (TOP + y DOWN, LEFT + z ACROSS); the code of 0 everywhere else."""
    height, width, channels = row[OUT_HEIGHT], row[OUT_WIDTH], row[CHANNELS]
    fill_run(out, 0, count * height * width * channels, np.uint8(row[ZERO_A]))
    # Where nothing comes between two pixels, a line is one run.
    runs = 1 if row[ACROSS] == 1 else row[WIDTH]
    run = row[WIDTH] // runs * channels
    for n in range(count):
        for y in range(row[HEIGHT]):
            line = ((n * height + row[TOP] + y * row[DOWN]) * width + row[LEFT]) * channels
            source = (n * row[HEIGHT] + y) * row[WIDTH] * channels
            for z in range(runs):
                target = line + z * row[ACROSS] * channels
                copy_run(x, source + z * channels, run, out, target)
