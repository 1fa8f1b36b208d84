"""Binary convolutions, straight on bits: no patches are copied.

    dot[b, y, x, n] = sum over (i, j, c) of sign(img[b, y s + i - p, x s + j - p, c]) * sign(w[n, i, j, c])

A sign image is uint64 [batch, height, width, ceil(channels / 64)]: 64 channels of a pixel are one word. The
word of pixel (y s + i, x s + j) lies where the weight's word (i, j) needs it, so that no patch is gathered. A
border pixel counts as 0, as zero padding does in floats: taps outside of the image are left out of the
count, and K is the number of those inside.

Two float layouts can be packed, channels last and torch's channels first (16 pixels side by side, bit c from
channel c), each against a threshold a channel, which is how a batch norm in front of the sign disappears:
sign(norm(v)) = +1 exactly where v >= t, or, where the norm's factor is negative, exactly where not v >= t.
That is monotone, so max pooling commutes with it, and pooling signs is a logical or.

XNOR-Net's K (section 3.2, equation 11) is the mean magnitude over the channels, averaged over the window.

Left out: dilation, groups, padding with -1 (cheaper, but not what the float network computes).
"""

import numpy as np

from compresslab.kernels import _checks, xnor
from compresslab.kernels._jit import kernel
from compresslab.kernels._threads import split_rows
from compresslab.kernels.int8 import LANES, ONE, ROWS, SIXTEEN, WIDTHS
from compresslab.kernels.int8_conv import Window
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
from compresslab.kernels.xnor import HALF, WORD, PackedSigns, Scales, Thresholds, words_of


# ---- packing -------------------------------------------------------------------------------------
def pack_image(
    x: np.ndarray,
    channels_first: bool = False,
    at_least: np.ndarray | None = None,
    flip: np.ndarray | None = None,
    magnitudes: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The signs of an image, one word for 64 channels of a pixel.

    Args:
        x: float32 [batch, h, w, c], or [batch, c, h, w] if `channels_first`.
        channels_first: which.
        at_least: threshold of each channel, float32 [c]; 0 if None.
        flip: uint64 [ceil(c / 64)], channels whose signs are turned round.
        magnitudes: whether to return the mean magnitude over the channels as well.

    Returns:
        uint64 [batch, h, w, ceil(c / 64)], and float32 [batch, h, w] (or [0]).

    Raises:
        ValueError: if x is not a four-dimensional float32 array, or holds NaN.
    """
    x = _checks.array_of("x", x, np.float32)
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x must have four dimensions, none but the first 0, got {x.shape}")
    batch, height, width, channels = x.shape
    if channels_first:
        batch, channels, height, width = x.shape
    limits = np.zeros(channels, np.float32) if at_least is None else at_least
    limits = _limits(limits, channels)
    words = np.zeros((batch, height, width, words_of(channels)), np.uint64)
    means = np.empty((batch, height, width) if magnitudes else 0, np.float32)
    if flip is None:
        flip = np.zeros(words.shape[3], np.uint64)
    flip = _checks.parameter("flip", flip, words.shape[3], np.uint64)
    flat, out, pixels = x.reshape(-1), words.reshape(-1), height * width
    if channels_first:
        shape = (batch, channels, pixels)
        nan = sign_planes(flat, shape, limits, out.view(np.uint32), means.reshape(-1))
        turn_round(out, flip)
    else:
        shape = (batch * pixels, channels)
        nan = xnor.sign_rows(flat, shape, limits, flip, out, means.reshape(-1))
    if nan:
        _checks.refuse_nan("x", x)
    return words, means


def _limits(at_least: np.ndarray, channels: int) -> np.ndarray:
    """Thresholds float32 [c]; infinities mean never and always."""
    at_least = _checks.array_of("at_least", at_least, np.float32)
    if at_least.shape != (channels,) or np.isnan(at_least).any():
        raise ValueError(f"at_least must have shape [{channels}] and no NaN, got {at_least.shape}")
    return at_least


def pack_weight(signs: np.ndarray) -> PackedSigns:
    """Lay the sign bits of a convolution out in panels.

    Args:
        signs: bool [N, kh, kw, c].

    Raises:
        ValueError: if it has another shape or dtype.
    """
    signs = _checks.array_of("signs", signs, np.bool_)
    if signs.ndim != 4 or signs.size == 0:
        raise ValueError(f"signs must have shape [N, kh, kw, c], none of them 0, got {signs.shape}")
    outputs, height, width, channels = signs.shape
    padded = np.zeros((outputs, height * width, -(-channels // HALF) * HALF), np.uint8)
    padded[..., :channels] = signs.reshape(outputs, height * width, channels)
    halves = np.packbits(padded, axis=2, bitorder="little").view(np.uint32)
    return xnor.panels_of(halves.reshape(outputs, -1), height * width * channels)


def position_scales(means: np.ndarray, window: Window) -> np.ndarray:
    """XNOR-Net's K: mean magnitudes averaged over the window, with a border of 0.

    Args:
        means: float32 [batch, h, w].
        window: the convolution's.

    Returns:
        float32 [batch, h', w'].

    Raises:
        ValueError: if means is not a three-dimensional float32 array, or smaller than the window.
    """
    means = _checks.array_of("means", means, np.float32)
    if means.ndim != 3:
        raise ValueError(f"means must have shape [batch, h, w], got {means.shape}")
    out = np.empty((len(means), *window.output_size(*means.shape[1:])), np.float32)
    average_window(means, window.height, window.width, window.stride, window.padding, out)
    return out


def or_pool(signs: np.ndarray, size: int, flip: np.ndarray) -> np.ndarray:
    """Max pooling of signs: +1 where one of the square is +1; then `flip`.

    Args:
        signs: uint64 [batch, h, w, words].
        size: the side of the square; rows and columns that fill none are dropped.
        flip: uint64 [words].

    Returns:
        uint64 [batch, h // size, w // size, words].

    Raises:
        ValueError: for another shape or dtype, or a square larger than the image.
    """
    signs = _checks.array_of("signs", signs, np.uint64)
    if signs.ndim != 4:
        raise ValueError(f"signs must have shape [batch, h, w, words], got {signs.shape}")
    flip = _checks.parameter("flip", flip, signs.shape[3], np.uint64)
    size = _checks.integer_in("size", size, 1, max(1, min(signs.shape[1:3])))
    batch, height, width, words = signs.shape
    out = np.empty((batch, height // size, width // size, words), np.uint64)
    pool_squares(signs, size, flip, out)
    return out


# ---- convolutions --------------------------------------------------------------------------------
def conv2d(
    signs: np.ndarray, channels: int, weight: PackedSigns, window: Window, threads: int = 1
) -> np.ndarray:
    """The exact convolution of two sign tensors.

    Args:
        signs: uint64 [batch, h, w, ceil(c / 64)].
        channels: c.
        weight: from `pack_weight`, with the window's height and width.
        window: kernel, stride, padding.
        threads: at most so many.

    Returns:
        int32 [batch, h', w', N].

    Raises:
        ValueError: if the signs do not fit the weight or the window.
    """
    shape = _output_shape(signs, channels, weight, window)
    out = np.empty((*shape, weight.outputs), np.int32)
    nothing = xnor.NOTHING
    _run(signs, channels, weight, window, (nothing, nothing, nothing), out, threads)
    return out


def conv2d_scaled(
    signs: np.ndarray,
    channels: int,
    weight: PackedSigns,
    window: Window,
    epilogue: Scales,
    position_scale: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """As `conv2d`, in real numbers: float32 [batch, h', w', N]; position_scale K float32 [batch, h', w']."""
    shape = _output_shape(signs, channels, weight, window)
    scale = np.ones(shape, np.float32) if position_scale is None else position_scale
    if scale.shape != shape:
        raise ValueError(f"position_scale must have shape {shape}, got {scale.shape}")
    out = np.empty((*shape, weight.outputs), np.float32)
    numbers = (epilogue.alpha, epilogue.offset, scale.reshape(-1))
    _run(signs, channels, weight, window, numbers, out, threads)
    return out


def conv2d_signs(
    signs: np.ndarray,
    channels: int,
    weight: PackedSigns,
    window: Window,
    epilogue: Thresholds,
    threads: int = 1,
) -> np.ndarray:
    """The convolution as the next layer's signs; uint64 [batch, h', w', ceil(N / 64)]."""
    shape = _output_shape(signs, channels, weight, window)
    out = np.empty((*shape, words_of(weight.outputs)), np.uint64)
    numbers = (epilogue.at_least, epilogue.flip, xnor.NOTHING)
    _run(signs, channels, weight, window, numbers, out, threads)
    return out


def _output_shape(
    signs: np.ndarray, channels: int, weight: PackedSigns, window: Window
) -> tuple[int, int, int]:
    if not isinstance(signs, np.ndarray) or signs.dtype != np.uint64:
        _checks.array_of("signs", signs, np.uint64)
    if signs.ndim != 4 or signs.shape[3] != words_of(channels):
        words = words_of(channels)
        raise ValueError(f"signs must have shape [batch, h, w, {words}], got {signs.shape}")
    if window.height * window.width * channels != weight.inputs:
        taps = weight.inputs / (window.height * window.width)
        raise ValueError(f"channels must be {taps:g} for this weight and window, got {channels}")
    return (len(signs), *window.output_size(*signs.shape[1:3]))


def _run(
    signs: np.ndarray,
    channels: int,
    weight: PackedSigns,
    window: Window,
    epilogue: tuple,
    out: np.ndarray,
    threads: int,
) -> None:
    halves, flat = np.ascontiguousarray(signs).reshape(-1).view(np.uint32), out.reshape(-1)
    geometry = (window.height, window.width, window.stride, window.padding, *signs.shape[1:3])
    shape = (2 * signs.shape[3], -(-channels // HALF), channels, weight.outputs)
    rows, width, size = ROWS[weight.width], WIDTHS[weight.width], out.shape[1:3]

    def run(first: int, last: int) -> None:
        part = (shape, first, last, rows, width, flat)
        convolve(halves, weight.panels, epilogue, geometry, size, *part)

    lines = out.shape[0] * out.shape[1]
    work = lines * out.shape[2] * weight.inputs * weight.outputs
    split_rows(run, lines, threads if work > xnor.SPLIT_BITS else 1)


# ---- the loops -----------------------------------------------------------------------------------
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
        xnor.clear(tile, rows, width)
        # Where a pixel fills its words, the pixels under one row of the kernel are one run.
        joined = max(stop - start, 0) if pixel == used else 1
        for i in range(top, bottom):
            for j in range(start, stop, max(joined, 1)):
                base = (source + i * across + x * stride + j) * pixel
                weights = place + (i * kernel_width + j) * used * value(width)
                run = joined * used
                xnor.count(halves, base, stride * pixel, run, panels, weights, rows, width, tile)
        inside = max(bottom - top, 0) * max(stop - start, 0) * channels
        for r in range(value(rows)):
            xnor.finish(tile, r, width, inside, a, b, c, target + x + r, panel, outputs, out)


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
