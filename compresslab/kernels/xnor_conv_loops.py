"""The loops of binary convolutions: images of signs packed with their border, windows, pooling by "or"."""

import numpy as np

from compresslab.kernels import xnor_loops
from compresslab.kernels._jit import kernel
from compresslab.kernels.panels import LANES, ONE, SIXTEEN
from compresslab.kernels.simd import (
    at,
    f32x16,
    load,
    nan_mask,
    register_tile,
    splat,
    store,
    u32x16,
    vabs,
    value,
    where_ge,
)
from compresslab.kernels.xnor_loops import HALF, WORD


@kernel
def convolve(halves, panels, epilogue, geometry, out_size, shape, first, last, rows, width, out):
    """Output lines first..last, counted over the batch; `shape`: halves a pixel, used, channels, N."""
    kernel_height, kernel_width, stride, padding, height, across = geometry
    out_height, out_width = out_size
    a, b, c = epilogue
    taps = kernel_height * kernel_width
    # Outputs inner..outer have all their columns inside of the image.
    inner = min((padding + stride - 1) // stride, out_width)
    outer = max((across + padding - kernel_width) // stride + 1, inner)
    outer = min(outer, out_width)
    for panel in range((shape[3] + value(width) - 1) // value(width)):
        place = panel * taps * shape[1] * value(width)
        for line in range(first, last):
            top = line % out_height * stride - padding
            source = (line // out_height * height + top) * across - padding
            taps_inside = max(0, -top), min(kernel_height, height - top)
            where = (place, source, line * out_width, taps_inside[0], taps_inside[1], panel)
            # Tiles of several outputs need as many with all their columns inside.
            middle = outer if outer - inner >= value(rows) else inner
            part = (0, inner)
            convolve_span(halves, panels, a, b, c, where, geometry, shape, part, ONE, width, out)
            part = (inner, middle)
            convolve_span(halves, panels, a, b, c, where, geometry, shape, part, rows, width, out)
            part = (middle, out_width)
            convolve_span(halves, panels, a, b, c, where, geometry, shape, part, ONE, width, out)


@kernel
def convolve_span(halves, panels, a, b, c, where, geometry, shape, part, rows, width, out):
    """Outputs begin..end of a line, `rows` at a time with the same taps inside of the image; one panel."""
    place, source, target, top, bottom, panel = where
    _, kernel_width, stride, padding, _, across = geometry
    pixel, used, channels, outputs = shape
    begin, end = part
    for first in range(begin, end, value(rows)):
        # The last tile may overlap the one before: the same sums are written twice.
        x = min(first, end - value(rows))
        left = x * stride - padding
        start, stop = max(0, -left), min(kernel_width, across - left)
        tile = register_tile(rows, width, u32x16)
        xnor_loops.clear(tile, rows, width)
        # Where a pixel fills its words, the pixels under one row of the kernel are one run.
        joined = max(stop - start, 0) if pixel == used else 1
        for i in range(top, bottom):
            for j in range(start, stop, max(joined, 1)):
                base = (source + i * across + x * stride + j) * pixel
                weights = place + (i * kernel_width + j) * used * value(width)
                run = joined * used
                xnor_loops.count(
                    halves, base, stride * pixel, run, panels, weights, rows, width, tile
                )
        inside = max(bottom - top, 0) * max(stop - start, 0) * channels
        for r in range(value(rows)):
            xnor_loops.finish(tile, r, width, inside, a, b, c, target + x + r, panel, outputs, out)


@kernel
def sign_planes(x, shape, limits, halves, means):
    """Channels first: 16 pixels of 32 channels at a time become 16 half words."""
    batch, channels, pixels = shape
    across, nan = (channels + WORD - 1) // WORD * 2, np.uint64(0)
    count = np.float32(channels)
    if means.size:
        means[:] = np.float32(0)
    for b in range(batch):
        for half in range((channels + HALF - 1) // HALF):
            first, last = half * HALF, min(channels, half * HALF + HALF)
            for start in range(0, pixels - LANES + 1, LANES):
                nan |= sign_block(
                    x,
                    (b * channels) * pixels + start,
                    pixels,
                    first,
                    last,
                    limits,
                    halves,
                    (b * pixels + start) * across + half,
                    across,
                    means,
                    b * pixels + start,
                )
            for p in range(pixels // LANES * LANES, pixels):
                word = np.uint32(0)
                for c in range(first, last):
                    number = at(x, (b * channels + c) * pixels + p)
                    word |= np.uint32(number >= limits[c]) << np.uint32(c - first)
                    nan |= np.uint64(number != number)
                    if means.size:
                        means[b * pixels + p] += abs(number)
                halves[(b * pixels + p) * across + half] = word
    for i in range(means.size):
        means[i] /= count
    return nan != np.uint64(0)


@kernel
def sign_block(x, source, pixels, first, last, limits, halves, target, across, means, pixel):
    """Sixteen pixels, channels first..last: a bit of each lane a channel."""
    words, nan = splat(np.uint32(0), u32x16), np.uint64(0)
    total = splat(np.float32(0), f32x16)
    for c in range(first, last):
        block = load(x, source + c * pixels, f32x16)
        bit = splat(np.uint32(1) << np.uint32(c - first), u32x16)
        words = words | where_ge(block, splat(at(limits, c), f32x16), bit)
        nan |= np.uint64(nan_mask(block))
        total = total + vabs(block)
    tile = register_tile(ONE, SIXTEEN, u32x16)
    store(tile, 0, words)
    for lane in range(LANES):
        halves[target + lane * across] = tile[lane]
    if means.size:
        store(means, pixel, load(means, pixel, f32x16) + total)
    return nan


@kernel
def turn_round(words, flip):
    """Flip the bits of every pixel's words."""
    for i in range(0, words.size, flip.size):
        for k in range(flip.size):
            words[i + k] ^= flip[k]


@kernel
def average_window(means, height, width, stride, padding, out):
    """The mean over each window; the border counts as 0 and counts as pixels."""
    share = np.float32(1) / np.float32(height * width)
    for b in range(out.shape[0]):
        for y in range(out.shape[1]):
            top = y * stride - padding
            for x in range(out.shape[2]):
                left, total = x * stride - padding, np.float32(0)
                for i in range(max(0, top), min(means.shape[1], top + height)):
                    for j in range(max(0, left), min(means.shape[2], left + width)):
                        total += means[b, i, j]
                out[b, y, x] = total * share


@kernel
def pool_squares(signs, size, flip, out):
    """A logical or over each square."""
    for b in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                for k in range(out.shape[3]):
                    word = np.uint64(0)
                    for i in range(size):
                        for j in range(size):
                            word |= signs[b, y * size + i, x * size + j, k]
                    out[b, y, x, k] = word ^ flip[k]
