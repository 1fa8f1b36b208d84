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

from compresslab.kernels import _checks, xnor, xnor_loops
from compresslab.kernels._threads import split_rows
from compresslab.kernels.int8_conv import Window
from compresslab.kernels.panels import ROWS, WIDTHS
from compresslab.kernels.xnor import PackedSigns, Scales, Thresholds, words_of
from compresslab.kernels.xnor_conv_loops import (
    average_window,
    convolve,
    pool_squares,
    sign_planes,
    turn_round,
)
from compresslab.kernels.xnor_loops import HALF


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
        nan = xnor_loops.sign_rows(flat, shape, limits, flip, out, means.reshape(-1))
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
