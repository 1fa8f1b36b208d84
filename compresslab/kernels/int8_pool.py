"""What stands between integer layers: pooling and adding codes.

    max       codes keep their order, so the largest code is the largest number: same scale, exact
    mean      rint((sum(q) - n z) * f) + z'      with f = s / (n s')
    add       rint((a - z_a) f_a + (b - z_b) f_b) + z',   f_a = s_a / s'

All on uint8 images [batch, height, width, channels]; results saturate to low..high. Plain loops: the
channels are innermost and LLVM vectorises them.
"""

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels._jit import kernel

f32 = np.float32


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
    _max_pool(x, size, out)
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
    _mean_pool(x, zero_point, *numbers, totals, out)
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
    _add(*flat, z_a, z_b, f_a, f_b, *_checks.output_codes(out_zero, low, high), out.reshape(-1))
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


@kernel
def _max_pool(x, size, out):
    batch, height, width, channels = out.shape
    for b in range(batch):
        for y in range(height):
            for xx in range(width):
                for i in range(size):
                    for j in range(size):
                        for c in range(channels):
                            code = x[b, y * size + i, xx * size + j, c]
                            out[b, y, xx, c] = max(out[b, y, xx, c], code)


@kernel
def _mean_pool(x, zero_point, multiplier, out_zero, low, high, totals, out):
    batch, height, width, channels = x.shape
    for b in range(batch):
        for c in range(channels):
            totals[c] = -height * width * zero_point
        for y in range(height):
            for xx in range(width):
                for c in range(channels):
                    totals[c] += x[b, y, xx, c]
        for c in range(channels):
            code = np.rint(f32(totals[c]) * multiplier) + out_zero
            out[b, c] = np.uint8(np.int32(min(max(code, low), high)))


@kernel
def _add(a, b, zero_a, zero_b, factor_a, factor_b, out_zero, low, high, out):
    for i in range(out.size):
        total = (f32(a[i]) - zero_a) * factor_a + (f32(b[i]) - zero_b) * factor_b
        code = np.rint(total) + out_zero
        out[i] = np.uint8(np.int32(min(max(code, low), high)))
