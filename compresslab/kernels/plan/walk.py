"""The walk over a plan's rows, and the ends of a network: images to codes, codes to numbers."""

import numpy as np

from compresslab.kernels._jit import kernel
from compresslab.kernels.plan.between import run_moving, run_pooling, run_two
from compresslab.kernels.plan.layers import run_convolution, run_depthwise, run_logits, run_product
from compresslab.kernels.plan.table import (
    CHANNELS,
    CONVOLUTION,
    DEPTHWISE,
    DEQUANTIZE,
    FACTOR_A,
    HEIGHT,
    HIGH,
    KIND,
    LOGITS,
    LOW,
    MEAN_WINDOWS,
    MULTIPLY,
    OUT,
    PRODUCT,
    QUANTIZE,
    WEIGHT,
    WIDTH,
    ZERO,
    A,
)
from compresslab.kernels.simd import array_at, f32x16


@kernel
def walk(rows, reals, images, arena, padded, totals, ones, out, count):
    """Run every row on `count` examples; 1 if an image holds NaN, else 0.

    images float32 and out float32 are flat; arena and padded are bytes, totals scratch for the channels of
    a mean, ones float32 of at least as many 1s as rows of a product.
    """
    for i in range(len(rows)):
        row, real = rows[i], reals[i]
        kind = row[KIND]
        if kind == QUANTIZE:
            if quantize_images(row, real, images, arena, count):
                return 1
        elif kind == CONVOLUTION:
            run_convolution(row, real, arena, padded, count)
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
