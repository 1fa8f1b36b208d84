"""What stands between integer layers: pooling, adding, multiplying and looking up codes.

    max       codes keep their order, so the largest code is the largest number: same scale, exact
    mean      rint((sum(q) - n z) * f) + z'      with f = s / (n s'); over all pixels or over windows
    add       rint((a - z_a) f_a + (b - z_b) f_b) + z',   f_a = s_a / s'
    multiply  rint((a - z_a) (b - z_b) f) + z',           f = s_a s_b / s'
    look up   table[q]: any function of one number has 256 results

All on uint8 images [batch, height, width, channels]; results saturate to low..high. Plain loops: the
channels are innermost and LLVM vectorises them.
"""

import math
from dataclasses import dataclass

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels.int8_pool_loops import (
    add_codes,
    f32,
    look_up_channels,
    max_squares,
    max_windows,
    mean_of_all,
    mean_windows,
    multiply_codes,
)


@dataclass(frozen=True)
class Windows:
    """Where pooling looks: the windows' height and width, their strides, padding, and whether a rest counts.

    Args:
        height: pixels of a window from top to bottom.
        width: from left to right.
        down: from one window to the next below it.
        across: to the next on its right.
        top: rows of padding above and below, at most half of `height`.
        left: columns of padding on both sides.
        ceil: 1 for windows that begin inside and end outside, as torch's ceil_mode has them.
    """

    height: int
    width: int
    down: int
    across: int
    top: int = 0
    left: int = 0
    ceil: int = 0

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result.

        Raises:
            ValueError: if the image is smaller than a window.
        """
        sizes = []
        for n, k, s, p in (
            (height, self.height, self.down, self.top),
            (width, self.width, self.across, self.left),
        ):
            steps = (n + 2 * p - k) / s
            count = (math.ceil(steps) if self.ceil else math.floor(steps)) + 1
            # A window must begin inside of the image or its padding in front.
            count -= 1 if self.ceil and (count - 1) * s >= n + p else 0
            sizes.append(count)
        if min(sizes) < 1:
            raise ValueError(f"x must be at least as large as {self}, got {height}x{width} pixels")
        return sizes[0], sizes[1]


def max_pool(x: np.ndarray, size: int) -> np.ndarray:
    """The largest code of every size x size square; a rest at the edge is dropped.

    Raises:
        ValueError: if x is not uint8 [batch, h, w, c] or smaller than one square.
    """
    x = _images("x", x)
    batch, height, width, channels = x.shape
    if size < 1 or height < size or width < size:
        raise ValueError(f"size must be 1 to {min(height, width)} for this image, got {size}")
    out = np.zeros((batch, height // size, width // size, channels), np.uint8)
    max_squares(x, size, out)
    return out


def max_pool_windows(x: np.ndarray, windows: Windows) -> np.ndarray:
    """The largest code of every window; padding never wins.

    Raises:
        ValueError: if x is not uint8 [batch, h, w, c] or smaller than a window.
    """
    x = _images("x", x)
    size = windows.output_size(*x.shape[1:3])
    out = np.zeros((x.shape[0], *size, x.shape[3]), np.uint8)
    max_windows(x, *_numbers(windows), out)
    return out


def mean_pool_windows(
    x: np.ndarray,
    windows: Windows,
    zero_point: int,
    multiplier: float,
    padded: bool,
    out_zero: int,
    low: int,
    high: int,
) -> np.ndarray:
    """The mean of every window, as codes of another scale.

    Args:
        x: uint8 [batch, h, w, c].
        windows: where to look.
        zero_point: of x.
        multiplier: s / s'; the number of pixels is divided by here.
        padded: whether padding counts as pixels of 0 (torch's count_include_pad).
        out_zero: zero point of the result.
        low: smallest code.
        high: largest code.

    Raises:
        ValueError: as `mean_pool` does, or if x is smaller than a window.
    """
    x = _images("x", x)
    size = windows.output_size(*x.shape[1:3])
    numbers = (_factor(multiplier), *_checks.output_codes(out_zero, low, high))
    out = np.empty((x.shape[0], *size, x.shape[3]), np.uint8)
    totals = np.zeros(x.shape[3], np.int32)
    mean_windows(x, *_numbers(windows), zero_point, padded, *numbers, totals, out)
    return out


def _numbers(windows: Windows) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    w = windows
    return (w.height, w.width), (w.down, w.across), (w.top, w.left)


def multiply(
    a: np.ndarray,
    b: np.ndarray,
    zero_points: tuple[int, int],
    multiplier: float,
    out_zero: int,
    low: int,
    high: int,
) -> np.ndarray:
    """The product of two uint8 arrays, each with its own scale, as codes of a third.

    Args:
        a: [batch, h, w, c] or [batch, n].
        b: of a's shape, or [batch, 1, 1, c]: a factor for each channel, as squeeze and excitation has it.
        zero_points: of a and b.
        multiplier: s_a s_b / s'.
        out_zero: zero point of the result.
        low: smallest code.
        high: largest code.

    Raises:
        ValueError: if the shapes do not fit, for codes outside 0..255 or a multiplier that is not finite.
    """
    a, b = _checks.array_of("a", a, np.uint8), _checks.array_of("b", b, np.uint8)
    per_channel = a.ndim == 4 and b.shape == (a.shape[0], 1, 1, a.shape[3])
    if a.shape != b.shape and not per_channel:
        raise ValueError(f"b must have a's shape {a.shape} or one pixel, got {b.shape}")
    channels = a.shape[-1]
    pixels = a.size // max(1, len(a) * channels)
    out = np.empty(a.shape, np.uint8)
    numbers = (_factor(multiplier), *_checks.output_codes(out_zero, low, high))
    each = 1 if a.shape != b.shape else pixels
    shape, other = (len(a), pixels, channels), (len(a), each, channels)
    zeros = (f32(zero_points[0]), f32(zero_points[1]))
    multiply_codes(a.reshape(shape), b.reshape(other), *zeros, *numbers, out.reshape(shape))
    return out


def look_up(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """table[x], or table[c, x] for each channel c (the last axis).

    Args:
        x: uint8 codes.
        table: uint8 [256], or [channels, 256].

    Raises:
        ValueError: for other dtypes or shapes.
    """
    x = _checks.array_of("x", x, np.uint8)
    table = _checks.array_of("table", table, np.uint8)
    if table.shape == (256,):
        return np.take(table, x)
    if table.shape != (x.shape[-1], 256):
        raise ValueError(
            f"table must have shape [256] or [{x.shape[-1]}, 256], got {list(table.shape)}"
        )
    out = np.empty(x.shape, np.uint8)
    shape = (-1, x.shape[-1])
    look_up_channels(x.reshape(shape), table, out.reshape(shape))
    return out


def mean_pool(
    x: np.ndarray, zero_point: int, multiplier: float, out_zero: int, low: int, high: int
) -> np.ndarray:
    """The mean over all pixels, as codes of another scale.

    Args:
        x: uint8 [batch, h, w, c].
        zero_point: of x.
        multiplier: s / (h * w * s').
        out_zero: zero point of the result.
        low: smallest code.
        high: largest code.

    Returns:
        uint8 [batch, c].

    Raises:
        ValueError: if x is not uint8 [batch, h, w, c], for codes outside 0..255 or a multiplier that is not
            finite.
    """
    x = _images("x", x)
    numbers = (_factor(multiplier), *_checks.output_codes(out_zero, low, high))
    out = np.empty((x.shape[0], x.shape[3]), np.uint8)
    totals = np.zeros(x.shape[3], np.int32)
    mean_of_all(x, zero_point, *numbers, totals, out)
    return out


def add(
    a: np.ndarray,
    b: np.ndarray,
    zero_points: tuple[int, int],
    multipliers: tuple[float, float],
    out_zero: int,
    low: int,
    high: int,
) -> np.ndarray:
    """The sum of two uint8 arrays of one shape, each with its own scale, as codes of a third.

    Raises:
        ValueError: if the shapes differ, for codes outside 0..255 or multipliers that are not finite.
    """
    a, b = _checks.array_of("a", a, np.uint8), _checks.array_of("b", b, np.uint8)
    if a.shape != b.shape:
        raise ValueError(f"b must have a's shape {a.shape}, got {b.shape}")
    out = np.empty(a.shape, np.uint8)
    f_a, f_b = (_factor(m) for m in multipliers)
    z_a, z_b = (f32(z) for z in zero_points)
    flat = (a.reshape(-1), b.reshape(-1))
    add_codes(
        *flat, z_a, z_b, f_a, f_b, *_checks.output_codes(out_zero, low, high), out.reshape(-1)
    )
    return out


def _factor(multiplier: float) -> np.float32:
    if not np.isfinite(multiplier):
        raise ValueError(f"multiplier must be finite, got {multiplier}")
    return f32(multiplier)


def _images(name: str, x: np.ndarray) -> np.ndarray:
    x = _checks.array_of(name, x, np.uint8)
    if x.ndim != 4:
        raise ValueError(f"{name} must have shape [batch, h, w, c], got {x.shape}")
    return x
