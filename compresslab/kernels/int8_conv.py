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
from compresslab.kernels._jit import kernel
from compresslab.kernels._threads import split_rows
from compresslab.kernels.panels import ONE, ROWS, WIDTHS, PackedWeight, Requantize
from compresslab.kernels.simd import (
    TILE_CONFIGURATION,
    convert,
    f32x16,
    i8x16,
    i32x16,
    load,
    rint,
    splat,
    store,
    tiles_available,
    u8x16,
    u8x64,
    value,
    vmax,
    vmin,
)

BLOCK = 96
SLACK = 64
LANES = 16


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
        weight: packed [N, kh * kw * c], in the order (kh, kw, c).
        window: kernel, stride, padding.
        epilogue: from `weight.requantize` with the same zero point.
        threads: at most so many.

    Returns:
        uint8 [batch, h', w', N].

    Raises:
        ValueError: if x does not fit the weight or the window.
    """
    x = _image(x, weight.inputs, window)
    height, width = window.output_size(*x.shape[1:3])
    if window.pointwise:
        rows = int8.matmul_requantize(x.reshape(-1, x.shape[3]), weight, epilogue, threads)
        return rows.reshape(*x.shape[:3], weight.outputs)
    padded = pad(x, window.padding, zero_point)
    out = np.empty((x.shape[0], height, width, weight.outputs), np.uint8)
    count = x.shape[0] * height * width
    e, flat = epilogue, out.reshape(-1)
    product = (weight.panels, e.start, e.factor, e.zero, e.low, e.high)
    shape, geometry = (weight.words, weight.outputs), window.geometry(x.shape)
    patches = BLOCK * weight.words + SLACK // 4
    if weight.fits_tiles and count >= int8_loops.TILED_ROWS and tiles_available():
        least = int8_loops.TILED_ROWS

        def run(first: int, last: int) -> None:
            words, sums = np.zeros(patches, np.uint32), np.empty(least * least, np.int32)
            part = (shape, first, last, sums, words, flat)
            convolve_tiles(padded, geometry, (height, width), product, *part)

    else:
        rows = ROWS[weight.width]
        rows = rows if count >= rows.number else ONE
        least = rows.number

        def run(first: int, last: int) -> None:
            words = np.zeros(patches, np.uint32)
            part = (shape, first, last, rows, WIDTHS[weight.width], words, flat)
            convolve(padded, geometry, (height, width), product, *part)

    work = count * weight.inputs * weight.outputs
    split_rows(run, count, threads if work > int8.SPLIT_MACS else 1, least)
    return out


def depthwise_epilogue(
    weight: np.ndarray,
    zero_point: int,
    bias: np.ndarray | None,
    multiplier: np.ndarray,
    out_zero: int,
    low: int,
    high: int,
) -> Requantize:
    """As `PackedWeight.requantize`, for a depthwise weight int8 [kh, kw, c]; same errors."""
    channels = weight.shape[2]
    start = -zero_point * weight.astype(np.int32).sum(axis=(0, 1), dtype=np.int32)
    if bias is not None:
        start = start + _checks.parameter("bias", bias, channels, np.int32)
    factor = _checks.parameter("multiplier", multiplier, channels)
    numbers = _checks.output_codes(out_zero, low, high)
    return Requantize(start.astype(np.int32), factor, *numbers)


def depthwise_requantize(
    x: np.ndarray,
    zero_point: int,
    weight: np.ndarray,
    window: Window,
    epilogue: Requantize,
    threads: int = 1,
) -> np.ndarray:
    """Depthwise convolution: each channel has its own kernel; arguments as in `conv2d_requantize`.

    Args:
        x: uint8 [batch, h, w, c].
        zero_point: of x.
        weight: int8 [kh, kw, c].
        window: kernel, stride, padding.
        epilogue: from `depthwise_epilogue`.
        threads: at most so many.

    Returns:
        uint8 [batch, h', w', c].
    """
    weight = _checks.array_of("weight", weight, np.int8)
    if weight.ndim != 3 or weight.shape[:2] != (window.height, window.width):
        raise ValueError(
            f"weight must have shape [{window.height}, {window.width}, c], got {weight.shape}"
        )
    channels = weight.shape[2]
    x = _image(x, window.height * window.width * channels, window)
    height, width = window.output_size(*x.shape[1:3])
    padded = pad(x, window.padding, zero_point)
    size = (x.shape[1] + 2 * window.padding, x.shape[2] + 2 * window.padding)
    out = np.empty((x.shape[0], height, width, channels), np.uint8)
    e = epilogue

    def run(first: int, last: int) -> None:
        numbers = (e.zero, e.low, e.high)
        convolve_depthwise(
            padded, size, weight, e.start, e.factor, *numbers, window.stride, first, last, out
        )

    work = out.size * window.height * window.width
    split_rows(run, x.shape[0] * height, threads if work > int8.SPLIT_MACS // 8 else 1)
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


# ---- the loops -----------------------------------------------------------------------------------
@kernel
def fill_border(x, shape, border, code, out):
    """Copy every row of every image into its place within the border."""
    batch, height, width, channels = shape
    inside, across = width * channels, (width + 2 * border) * channels
    out[:] = code
    for b in range(batch):
        for y in range(height):
            source = (b * height + y) * inside
            target = (b * (height + 2 * border) + y + border) * across + border * channels
            for t in range(inside):
                out[target + t] = x[source + t]


@kernel
def gather_patch(padded, source, across, run, kernel_height, buffer, place):
    """Copy one patch: `kernel_height` runs of kw * c bytes, `across` bytes apart.

    Whole vectors are copied: what is copied too much is overwritten by the next run or patch, or
    meets a weight of 0.
    """
    for _ in range(kernel_height):
        for t in range(0, run - 48, 64):
            store(buffer, place + t, load(padded, source + t, u8x64))
        for t in range(max(run - 48 + 63, 0) // 64 * 64, run, 16):
            store(buffer, place + t, load(padded, source + t, u8x16))
        source += across
        place += run


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
def convolve(padded, geometry, out_size, product, shape, first, last, rows, width, words, out):
    """Output pixels first..last, a block of patches at a time; `product` is what `multiply` takes."""
    k_words, outputs = shape
    panels, start, factor, zero, low, high = product
    buffer = words.view(np.uint8)
    for block in range(first, last, BLOCK):
        end = min(block + BLOCK, last)
        # A short last block starts earlier, so that it fills at least one tile.
        begin = max(min(block, end - value(rows)), first)
        gather_block(padded, begin, end, out_size, geometry, k_words, buffer)
        int8_loops.multiply(
            words,
            panels,
            start,
            factor,
            factor,
            factor,
            zero,
            low,
            high,
            shape,
            0,
            end - begin,
            rows,
            width,
            out[begin * outputs :],
        )


@kernel
def convolve_tiles(padded, geometry, out_size, product, shape, first, last, sums, words, out):
    """As `convolve`, on matrix tiles; last - first is at least 32."""
    k_words, outputs = shape
    panels, start, factor, zero, low, high = product
    buffer = words.view(np.uint8)
    for block in range(first, last, BLOCK):
        end = min(block + BLOCK, last)
        begin = min(block, end - int8_loops.TILED_ROWS)
        gather_block(padded, begin, end, out_size, geometry, k_words, buffer)
        int8_loops.multiply_tiles(
            words,
            panels,
            start,
            factor,
            factor,
            factor,
            zero,
            low,
            high,
            shape,
            0,
            end - begin,
            TILE_CONFIGURATION,
            sums,
            out[begin * outputs :],
        )


@kernel
def convolve_depthwise(
    padded, size, weight, start, factor, zero, low, high, stride, first, last, out
):
    """Output rows first..last (counted over the batch), 16 channels at a time."""
    kernel_height, kernel_width, channels = weight.shape
    height, width = size
    out_height, out_width = out.shape[1], out.shape[2]
    zeros, lows, highs = splat(zero, f32x16), splat(low, f32x16), splat(high, f32x16)
    whole = channels // LANES * LANES
    for row in range(first, last):
        b, y = row // out_height, row % out_height
        for x in range(out_width):
            place = (row * out_width + x) * channels
            corner = (b * height + y * stride) * width + x * stride
            for c in range(0, whole, LANES):
                total = load(start, c, i32x16)
                for i in range(kernel_height):
                    for j in range(kernel_width):
                        pixel = load(padded, (corner + i * width + j) * channels + c, u8x16)
                        tap = load(weight, (i * kernel_width + j) * channels + c, i8x16)
                        total = total + convert(pixel, i32x16) * convert(tap, i32x16)
                code = rint(convert(total, f32x16) * load(factor, c, f32x16)) + zeros
                code = vmin(vmax(code, lows), highs)
                store(out, place + c, convert(convert(code, i32x16), u8x16))
            for c in range(whole, channels):
                single = start[c]
                for i in range(kernel_height):
                    for j in range(kernel_width):
                        pixel = np.int32(padded[(corner + i * width + j) * channels + c])
                        single += pixel * np.int32(weight[i, j, c])
                real = np.rint(np.float32(single) * factor[c]) + zero
                out[b, y, x, c] = np.uint8(np.int32(min(max(real, low), high)))
