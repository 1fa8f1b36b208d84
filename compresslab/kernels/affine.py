"""Quantize and dequantize: real numbers to integer codes and back.

    q = clip(rint(x * (1 / s)) + z, low, high)        x' = (q - z) * s

with rint rounding halves to even and the clip saturating, so that an infinity takes the last code.
The scale s and the zero point z are one for the tensor, one a channel (`axis`), or one for every
`group` consecutive elements of the last axis. All three are one loop over the flat array seen as
[outer, channels, inner]. Where `inner` is too short for a vector, scales are laid out at full length
once and read like data.

Codes are int8 if low < 0, else uint8. The order of rounding is `torch.fake_quantize`'s: x * (1 / s) is
rounded before z is added (`torch.quantize_per_tensor` adds first, and differs on ties for odd z).
The loops are bound by memory: prefetching 4 KB ahead lifts them from 80 to over 95 % of the copy
bandwidth. Left out: other roundings, more than 8 bits, threads (one core nearly fills the memory bus).
"""

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels._jit import kernel
from compresslab.kernels.simd import (
    convert,
    f32x16,
    hmax,
    i8x16,
    i32x16,
    load,
    nan_mask,
    prefetch,
    rint,
    splat,
    store,
    u8x16,
    vabs,
    vmax,
    vmin,
)

LANES = 16
AHEAD = 1024
SHORT = 64
f32 = np.float32


def quantize(
    x: np.ndarray,
    scale: float | np.ndarray,
    zero_point: int | np.ndarray,
    low: int,
    high: int,
    axis: int | None = None,
    group: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Codes q = clip(rint(x / s) + z, low, high) of a float32 array of any shape.

    Args:
        x: float32 array without NaN; an infinity saturates.
        scale: float, or shape [channels] with `axis`, or x.shape[:-1] + [n / group] with `group`.
        zero_point: integer codes of the same shape, or one integer for all.
        low: smallest code, -128 or more.
        high: largest code; at most 127 where low < 0, else at most 255.
        axis: the channel axis, one scale for each index along it.
        group: how many consecutive elements of the last axis share a scale.
        out: a C-contiguous array for the codes, to save the allocation.

    Returns:
        Array of x's shape, int8 if low < 0 else uint8.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    x = _checks.array_of("x", x, np.float32)
    dtype = _checks.code_range(low, high)
    view, shape = _checks.channel_view(x.shape, axis, group)
    scales = _checks.scales_of(scale, shape)
    zeros = _checks.zero_points_of(zero_point, shape, low, high)
    codes = _output(out, x.shape, dtype)
    spread = _spread(view)
    loop = _quantize_periods if spread else quantize_runs
    bad = loop(
        x.reshape(-1),
        np.repeat(f32(1) / scales, spread or 1),
        np.repeat(zeros, spread or 1),
        f32(low),
        f32(high),
        view,
        codes.reshape(-1).view(np.int8),
    )
    if bad:
        _checks.refuse_nan("x", x)
    return codes


def dequantize(
    codes: np.ndarray,
    scale: float | np.ndarray,
    zero_point: int | np.ndarray,
    axis: int | None = None,
    group: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The real numbers x' = (q - z) * s that codes stand for; arguments as in `quantize`.

    Args:
        codes: int8 or uint8 array of any shape.
        scale: as in `quantize`.
        zero_point: as in `quantize`.
        axis: as in `quantize`.
        group: as in `quantize`.
        out: a C-contiguous float32 array for the result.

    Returns:
        float32 array of the codes' shape.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    codes = _checks.array_of("codes", codes, np.int8, np.uint8)
    limits = np.iinfo(codes.dtype)
    view, shape = _checks.channel_view(codes.shape, axis, group)
    scales = _checks.scales_of(scale, shape)
    zeros = _checks.zero_points_of(zero_point, shape, limits.min, limits.max)
    x = _output(out, codes.shape, np.dtype(np.float32))
    spread = _spread(view)
    kind = i8x16 if codes.dtype == np.int8 else u8x16
    loop = _dequantize_periods if spread else _dequantize_runs
    loop(
        codes.reshape(-1),
        np.repeat(scales, spread or 1),
        np.repeat(zeros, spread or 1),
        view,
        kind,
        x.reshape(-1),
    )
    return x


def quantize_absmax(x: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric codes of every group with its own scale s = max|x| / (2^(bits-1) - 1), in one pass.

    Args:
        x: finite float32 array of any shape.
        bits: 2 to 8.
        group: how many consecutive elements of the last axis share a scale; divides that axis.

    Returns:
        codes: int8 array of x's shape, within ±(2^(bits-1) - 1).
        scale: float32 array of shape x.shape[:-1] + [n / group]; at least the smallest normal float32.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    x = _checks.array_of("x", x, np.float32)
    bits = _checks.integer_in("bits", bits, 2, 8)
    (_, _, group), shape = _checks.channel_view(x.shape, None, group)
    codes, scale = np.empty(x.shape, np.int8), np.empty(shape, np.float32)
    high = f32((1 << (bits - 1)) - 1)
    if _quantize_absmax(x.reshape(-1), group, high, scale.reshape(-1), codes.reshape(-1)):
        refuse_infinite("x", x)
    return codes, scale


def refuse_infinite(name: str, x: np.ndarray) -> None:
    """Raise for NaN or an infinity; called only once a kernel has seen one."""
    if np.isnan(x).any():
        _checks.refuse_nan(name, x)
    raise ValueError(f"{name} must be finite to choose a scale from its maximum, got an infinity")


def _output(out: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(
            f"out must be a C-contiguous {dtype} array of shape {shape}, "
            f"got {out.dtype} of shape {out.shape}"
        )
    return out


def _spread(view: tuple[int, int, int]) -> int:
    """How often each scale is repeated for the period loop; 0 where runs are long enough."""
    _, channels, inner = view
    return inner if channels > 1 and inner < SHORT and inner % LANES else 0


# ---- one scale a run of `inner` elements ---------------------------------------------------------
@kernel
def quantize_runs(x, inverse, zero, low, high, view, codes):
    """Codes of flat x seen as `view`, one inverse scale and zero a channel; not 0 if there was a NaN."""
    outer, channels, inner = view
    bad = np.uint64(0)
    for o in range(outer):
        for c in range(channels):
            start = (o * channels + c) * inner
            bad |= _quantize_run(x, start, inner, inverse[c], zero[c], low, high, codes, start)
    return bad


@kernel
def _quantize_run(x, start, count, inverse, zero, low, high, codes, place):
    bad = np.uint64(0)
    inverses, zeros = splat(inverse, f32x16), splat(zero, f32x16)
    lows, highs = splat(low, f32x16), splat(high, f32x16)
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        prefetch(x, start + i + AHEAD)
        value = load(x, start + i, f32x16)
        bad |= nan_mask(value)
        code = vmin(vmax(rint(value * inverses) + zeros, lows), highs)
        store(codes, place + i, convert(convert(code, i32x16), i8x16))
    for i in range(whole, count):
        bad |= _quantize_one(x, start + i, inverse, zero, low, high, codes, place + i)
    return bad


@kernel
def _quantize_one(x, i, inverse, zero, low, high, codes, place):
    code = np.rint(x[i] * inverse) + zero
    code = code if code > low else low
    code = code if code < high else high
    codes[place] = np.int8(np.int32(code) & 255)
    return np.uint64(np.isnan(x[i]))


@kernel
def _dequantize_runs(codes, scale, zero, view, kind, x):
    outer, channels, inner = view
    for o in range(outer):
        for c in range(channels):
            start = (o * channels + c) * inner
            _dequantize_run(codes, start, inner, scale[c], zero[c], kind, x)


@kernel
def _dequantize_run(codes, start, count, scale, zero, kind, x):
    scales, zeros = splat(scale, f32x16), splat(zero, f32x16)
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        prefetch(codes, start + i + AHEAD)
        code = convert(convert(load(codes, start + i, kind), i32x16), f32x16)
        store(x, start + i, (code - zeros) * scales)
    for i in range(start + whole, start + count):
        x[i] = (f32(codes[i]) - zero) * scale


# ---- short runs: scales laid out at full length, repeated every `period` elements ----------------
@kernel
def _quantize_periods(x, inverse, zero, low, high, view, codes):
    outer, period = view[0], view[1] * view[2]
    bad = np.uint64(0)
    lows, highs = splat(low, f32x16), splat(high, f32x16)
    whole = period // LANES * LANES
    for o in range(outer):
        start = o * period
        for i in range(0, whole, LANES):
            prefetch(x, start + i + AHEAD)
            value = load(x, start + i, f32x16)
            bad |= nan_mask(value)
            code = rint(value * load(inverse, i, f32x16)) + load(zero, i, f32x16)
            code = vmin(vmax(code, lows), highs)
            store(codes, start + i, convert(convert(code, i32x16), i8x16))
        for i in range(whole, period):
            k = start + i
            bad |= _quantize_one(x, k, inverse[i], zero[i], low, high, codes, k)
    return bad


@kernel
def _dequantize_periods(codes, scale, zero, view, kind, x):
    outer, period = view[0], view[1] * view[2]
    whole = period // LANES * LANES
    for o in range(outer):
        start = o * period
        for i in range(0, whole, LANES):
            code = convert(convert(load(codes, start + i, kind), i32x16), f32x16)
            code = (code - load(zero, i, f32x16)) * load(scale, i, f32x16)
            store(x, start + i, code)
        for i in range(whole, period):
            x[start + i] = (f32(codes[start + i]) - zero[i]) * scale[i]


# ---- the scale chosen in the same pass, while the group is still in the cache --------------------
@kernel
def _quantize_absmax(x, group, high, scale, codes):
    return quantize_rows(x, group, group, high, f32(0), scale, codes)


@kernel
def quantize_rows(x, count, stride, high, zero, scale, codes):
    """Rows of `count`, a scale each; codes `stride` apart and shifted by `zero`; not 0 if not finite."""
    bad = np.uint64(0)
    for g in range(scale.size):
        top = _absmax(x, g * count, count)
        if top == f32(np.inf):
            return np.uint64(1)
        scale[g] = max(top / high, _checks.SMALLEST_SCALE)
        limits = (zero - high, zero + high)
        inverse = f32(1) / scale[g]
        bad |= _quantize_run(x, g * count, count, inverse, zero, *limits, codes, g * stride)
    return bad


@kernel
def _absmax(x, start, count):
    tops = splat(f32(0), f32x16)
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        tops = vmax(vabs(load(x, start + i, f32x16)), tops)
    top = hmax(tops)
    for i in range(start + whole, start + count):
        top = max(top, abs(x[i]))
    return top
