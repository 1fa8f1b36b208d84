"""Integer convolutions: patches of codes, multiplied by the same tile as `int8`.

    acc[b, y, x, n] = sum over (i, j, c) of (img[b, y s + i - p, x s + j - p, c] - z) * w[n, i, j, c] + b[n]

Images are uint8 [batch, height, width, channels]: the channels of a pixel are neighbours, so one row of a
kernel is one run of kw * c bytes. A border of the zero point's code stands for zero. A block of BLOCK
output pixels is copied into rows of patches (im2col 图像转列), small enough to stay in the cache, and
multiplied at once. A depthwise convolution has no sum over channels: 16 channels side by side, no patches.

Left out: groups other than one or all, dilation, Winograd's trick (it needs more than 8 bits).
"""

from dataclasses import dataclass

import numpy as np

from compresslab.kernels import _checks, int8, int8_loops
from compresslab.kernels._threads import split_rows
from compresslab.kernels.int8_conv_loops import (
    BLOCK,
    convolve,
    convolve_depthwise,
    convolve_tiles,
    fill_border,
)
from compresslab.kernels.panels import LANES, ONE, ROWS, WIDTHS, PackedWeight, Requantize, aligned
from compresslab.kernels.simd import (
    tiles_available,
)

SLACK = 64


@dataclass(frozen=True)
class Window:
    """The kernel's height and width, its stride and the padding on every side."""

    height: int
    width: int
    stride: int = 1
    padding: int = 0

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result.

        Raises:
            ValueError: if the image is smaller than the kernel.
        """
        size = (
            (height + 2 * self.padding - self.height) // self.stride + 1,
            (width + 2 * self.padding - self.width) // self.stride + 1,
        )
        if min(size) < 1:
            raise ValueError(f"x must be at least as large as {self}, got {height}x{width} pixels")
        return size

    @property
    def pointwise(self) -> bool:
        """Whether each pixel is taken by itself."""
        return self.width == self.height == self.stride == 1 and self.padding == 0

    def geometry(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What the loop needs: kernel height, run, stride, padded height, padded row, channels."""
        _, height, width, channels = shape
        across = (width + 2 * self.padding) * channels
        run = self.width * channels
        return self.height, run, self.stride, height + 2 * self.padding, across, channels


def conv2d_requantize(
    x: np.ndarray,
    zero_point: int,
    weight: PackedWeight,
    window: Window,
    epilogue: Requantize,
    threads: int = 1,
) -> np.ndarray:
    """Convolution to the next layer's codes.

    Args:
        x: uint8 [batch, h, w, c].
        zero_point: of x; what the border is filled with.
        weight: packed [N, kh * kw * c], in the order (kh, kw, c), in kh runs.
        window: kernel, stride, padding.
        epilogue: from `weight.requantize` with the same zero point.
        threads: at most so many.

    Returns:
        uint8 [batch, h', w', N].

    Raises:
        ValueError: if x does not fit the weight or the window.
    """
    x = _image(x, weight.inputs, window)
    # Where lines are whole words, packed in one run or in several is the same.
    line = window.width * x.shape[3]
    in_lines = line % 4 == 0 or weight.runs == window.height
    if not in_lines or weight.words < window.height * -(-line // 4):
        raise ValueError(
            f"weight must be packed in a run for each line of the window, pack_weight(w, {window.height}), "
            f"got {weight.words} words in runs={weight.runs}"
        )
    height, width = window.output_size(*x.shape[1:3])
    if window.pointwise:
        rows = int8.matmul_requantize(x.reshape(-1, x.shape[3]), weight, epilogue, threads)
        return rows.reshape(*x.shape[:3], weight.outputs)
    padded = pad(x, window.padding, zero_point)
    out = np.empty((x.shape[0], height, width, weight.outputs), np.uint8)
    count = x.shape[0] * height * width
    e, flat = epilogue, out.reshape(-1)
    product = (weight.panels, e.start, e.factor, e.factor, e.factor, e.zero, e.low, e.high)
    shape, geometry = (weight.words, weight.outputs), window.geometry(x.shape)
    if weight.fits_tiles and count >= int8_loops.TILED_ROWS and tiles_available():
        least = int8_loops.TILED_ROWS

        def run(first: int, last: int) -> None:
            words = np.zeros(BLOCK * weight.words + SLACK // 4, np.uint32)
            sums = np.empty(least * least, np.int32)
            part = (shape, first, last, sums, words, flat)
            convolve_tiles(padded, geometry, (height, width), product, *part)

    else:
        rows = ROWS[weight.width]
        rows = rows if count >= rows.number else ONE
        least = rows.number

        def run(first: int, last: int) -> None:
            part = (shape, first, last, rows, WIDTHS[weight.width], flat)
            convolve(padded, geometry, (height, width), product, *part)

    work = count * weight.inputs * weight.outputs
    split_rows(run, count, threads if work > int8.SPLIT_MACS else 1, least)
    return out


@dataclass(frozen=True)
class PackedTaps:
    """A depthwise weight as its loop reads it: 16 channels side by side, each with four taps.

    Attributes:
        taps: int8, flat [blocks of 16 channels, groups of four taps, 16, 4]; what fills up is 0.
        sums: int32 [blocks * 16], the sum of each channel's taps.
        height: of the kernel.
        width: of the kernel.
        channels: c.
    """

    taps: np.ndarray
    sums: np.ndarray
    height: int
    width: int
    channels: int

    def places(self, across: int) -> np.ndarray:
        """Bytes from the first tap to each, int64 [groups * 4], in images `across` pixels wide."""
        rows, columns = np.divmod(np.arange(self.height * self.width), self.width)
        found = np.zeros(len(self.taps) // len(self.sums), np.int64)
        found[: rows.size] = (rows * across + columns) * self.channels
        return found

    def requantize(
        self,
        zero_point: int,
        bias: np.ndarray | None,
        multiplier: np.ndarray,
        out_zero: int,
        low: int,
        high: int,
    ) -> Requantize:
        """As `PackedWeight.requantize`, a number for each channel; same errors."""
        start, factor = -zero_point * self.sums, np.zeros(self.sums.size, np.float32)
        if bias is not None:
            start[: self.channels] += _checks.parameter("bias", bias, self.channels, np.int32)
        factor[: self.channels] = _checks.parameter("multiplier", multiplier, self.channels)
        return Requantize(start, factor, *_checks.output_codes(out_zero, low, high))


def pack_taps(weight: np.ndarray) -> PackedTaps:
    """Lay a depthwise weight int8 [kh, kw, c] out for its loop.

    Raises:
        ValueError: for another shape or dtype, or an empty one.
    """
    weight = _checks.array_of("weight", weight, np.int8)
    if weight.ndim != 3 or weight.size == 0:
        raise ValueError(f"weight must have shape [kh, kw, c], none of them 0, got {weight.shape}")
    height, width, channels = weight.shape
    blocks, groups = -(-channels // LANES), -(-height * width // 4)
    full = np.zeros((groups * 4, blocks * LANES), np.int8)
    full[: height * width, :channels] = weight.reshape(-1, channels)
    packed = aligned(full.size, np.int8)
    order = full.reshape(groups, 4, blocks, LANES).transpose(2, 0, 3, 1)
    packed.reshape(blocks, groups, LANES, 4)[...] = order
    sums = full.astype(np.int32).sum(axis=0, dtype=np.int32)
    return PackedTaps(packed, sums, height, width, channels)


def depthwise_requantize(
    x: np.ndarray,
    zero_point: int,
    weight: PackedTaps,
    window: Window,
    epilogue: Requantize,
    threads: int = 1,
) -> np.ndarray:
    """Depthwise convolution: each channel has its own kernel; arguments as in `conv2d_requantize`.

    Args:
        x: uint8 [batch, h, w, c].
        zero_point: of x.
        weight: from `pack_taps`.
        window: kernel, stride, padding.
        epilogue: from `weight.requantize` with the same zero point.
        threads: at most so many.

    Returns:
        uint8 [batch, h', w', c].

    Raises:
        ValueError: if x does not fit the weight, or the weight the window.
    """
    if (weight.height, weight.width) != (window.height, window.width):
        raise ValueError(
            f"weight must have shape [{window.height}, {window.width}, c], got "
            f"[{weight.height}, {weight.width}, {weight.channels}]"
        )
    channels = weight.channels
    x = _image(x, window.height * window.width * channels, window)
    out_size = window.output_size(*x.shape[1:3])
    padded = pad(x, window.padding, zero_point)
    across = x.shape[2] + 2 * window.padding
    size = (x.shape[1] + 2 * window.padding, across, channels)
    out = np.empty((x.shape[0], *out_size, channels), np.uint8)
    e, flat, places = epilogue, out.reshape(-1), weight.places(across)
    product = (weight.taps, e.start, e.factor, e.factor, e.factor, e.zero, e.low, e.high)

    def run(first: int, last: int) -> None:
        span = (window.stride, first, last)
        convolve_depthwise(padded, (size, out_size), places, product, span, flat)

    work = out.size * window.height * window.width
    split_rows(run, x.shape[0] * out_size[0], threads if work > int8.SPLIT_MACS // 8 else 1)
    return out


def patches(x: np.ndarray, zero_point: int, window: Window) -> np.ndarray:
    """What each output pixel reads, as rows: uint8 [batch, h', w', kh * kw * c], in the order (kh, kw, c).

    Raises:
        ValueError: if x is not uint8 [batch, h, w, c] or smaller than the kernel.
    """
    x = _checks.array_of("x", x, np.uint8)
    if x.ndim != 4:
        raise ValueError(f"x must have shape [batch, h, w, c], got {x.shape}")
    height, width = window.output_size(*x.shape[1:3])
    if window.pointwise:
        return x
    border, s = window.padding, window.stride
    sides = ((0, 0), (border, border), (border, border), (0, 0))
    x = np.pad(x, sides, constant_values=np.uint8(zero_point))
    size = (window.height, window.width)
    views = np.lib.stride_tricks.sliding_window_view(x, size, (1, 2))[:, ::s, ::s]
    return views.transpose(0, 1, 2, 4, 5, 3).reshape(len(x), height, width, -1)


def _image(x: np.ndarray, inputs: int, window: Window) -> np.ndarray:
    x = _checks.array_of("x", x, np.uint8)
    if x.ndim != 4 or x.shape[3] * window.height * window.width != inputs:
        channels = inputs // (window.height * window.width)
        raise ValueError(f"x must have shape [batch, h, w, {channels}], got {x.shape}")
    return x


def pad(x: np.ndarray, border: int, code: int) -> np.ndarray:
    """The images with `border` pixels of `code` on every side, flat, with SLACK bytes to spare."""
    batch, height, width, channels = x.shape
    out = np.empty(
        batch * (height + 2 * border) * (width + 2 * border) * channels + SLACK, np.uint8
    )
    fill_border(x.reshape(-1), x.shape, border, np.uint8(code), out)
    return out
