"""What every public kernel asks of its arguments, once, before the unchecked loop runs.

Each function returns the value in the form the loop wants or raises `ValueError` with the argument's
name, what was given and what is allowed.
"""

import numpy as np

SMALLEST_SCALE = np.finfo(np.float32).tiny
"""Below the smallest normal float32, 1 / scale may overflow to infinity."""


def array_of(name: str, value: np.ndarray, *dtypes: type) -> np.ndarray:
    """`value` as a C-contiguous array, copied only if it is not one already."""
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name} must be a NumPy array, got {type(value).__name__}")
    # By type: making dtypes of them would take longer than a small kernel's row.
    if value.dtype.type not in dtypes or not value.dtype.isnative:
        allowed = " or ".join(np.dtype(d).name for d in dtypes)
        raise ValueError(f"{name} must have dtype {allowed}, got {value.dtype}")
    return np.ascontiguousarray(value)


def integer_in(name: str, value: int, low: int, high: int) -> int:
    """`value` as an int between `low` and `high`, both included; a bool or a float is refused."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, got {value}")
    return int(value)


def parameter(name: str, value: np.ndarray, count: int, *dtypes: type) -> np.ndarray:
    """`value` as one number an output: [count], of a dtype (float32), without NaN or infinity."""
    value = array_of(name, value, *(dtypes or (np.float32,)))
    if value.shape != (count,):
        raise ValueError(f"{name} must have shape [{count}], got {list(value.shape)}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"{name} must be finite, got {value[~np.isfinite(value)][0]}")
    return value


def output_codes(out_zero: int, low: int, high: int) -> tuple[np.float32, np.float32, np.float32]:
    """Zero point and limits of uint8 results, as float32: low <= high within 0..255."""
    out_zero = integer_in("out_zero", out_zero, 0, 255)
    low, high = integer_in("low", low, 0, 255), integer_in("high", high, 0, 255)
    if low > high:
        raise ValueError(f"low must not lie above high, got {low} and {high}")
    return np.float32(out_zero), np.float32(low), np.float32(high)


def code_range(low: int, high: int) -> np.dtype:
    """The dtype that holds codes low..high: int8 where low < 0, else uint8."""
    low, high = integer_in("low", low, -128, 254), integer_in("high", high, 0, 255)
    if low >= high or (low < 0 and high > 127):
        raise ValueError(
            f"low, high must satisfy low < high within -128..127 or 0..255, got {low}, {high}"
        )
    return np.dtype(np.int8 if low < 0 else np.uint8)


def channel_view(
    shape: tuple[int, ...], axis: int | None, group: int | None
) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """How codes share scales: (outer, channels, inner) of the flat array, and the scales' own shape.

    Element (o, c, i) of the view uses scale c. Per tensor there is one channel; per channel `axis`
    is the channel; per group every `group` consecutive elements of the last axis are one.
    """
    if axis is not None and group is not None:
        raise ValueError(f"axis and group exclude each other, got axis={axis}, group={group}")
    size = int(np.prod(shape, dtype=np.int64))
    if axis is not None:
        if not shape:
            raise ValueError(f"axis must be None for a scalar array, got {axis}")
        axis = integer_in("axis", axis, -len(shape), len(shape) - 1) % len(shape)
        outer = int(np.prod(shape[:axis], dtype=np.int64))
        inner = int(np.prod(shape[axis + 1 :], dtype=np.int64))
        return (outer, shape[axis], inner), (shape[axis],)
    if group is not None:
        last = shape[-1] if shape else 1
        group = integer_in("group", group, 1, 1 << 31)
        if last % group:
            raise ValueError(f"group must divide the last axis of length {last}, got {group}")
        return (1, size // group, group), (*shape[:-1], last // group)
    return (1, 1, size), ()


def scales_of(scale: float | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Scales as flat float32: finite, positive, with a finite reciprocal, one a channel."""
    scale = np.asarray(scale)
    if scale.dtype.kind != "f":
        raise ValueError(f"scale must be floating-point, got dtype {scale.dtype}")
    scale = scale.astype(np.float32)
    if scale.shape != shape:
        raise ValueError(f"scale must have shape {shape}, got {scale.shape}")
    usable = (scale >= SMALLEST_SCALE) & np.isfinite(scale)
    if not usable.all():
        bad = scale[~usable].flat[0]
        raise ValueError(f"scale must be finite and at least {SMALLEST_SCALE:.3g}, got {bad}")
    return scale.reshape(-1)


def zero_points_of(
    zero_point: int | np.ndarray, shape: tuple[int, ...], low: int, high: int
) -> np.ndarray:
    """Zero points as flat float32 (exact for 8-bit codes), each a code of the grid, one a channel."""
    zero_point = np.asarray(zero_point)
    if zero_point.dtype.kind not in "iu":
        raise ValueError(f"zero_point must be integer, got dtype {zero_point.dtype}")
    if zero_point.shape != shape:
        if zero_point.shape != ():
            raise ValueError(f"zero_point must have shape {shape} or (), got {zero_point.shape}")
        zero_point = np.broadcast_to(zero_point, shape)
    outside = (zero_point < low) | (zero_point > high)
    if outside.any():
        raise ValueError(f"zero_point must lie in {low}..{high}, got {zero_point[outside].flat[0]}")
    return zero_point.astype(np.float32).reshape(-1)


def refuse_nan(name: str, x: np.ndarray) -> None:
    """Raise with the place of the first NaN; called only once a kernel has seen one."""
    index = np.unravel_index(int(np.argmax(np.isnan(x))), x.shape)
    raise ValueError(
        f"{name} must not contain NaN, got NaN at index {tuple(int(i) for i in index)}"
    )
