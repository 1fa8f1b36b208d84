"""Operations of one tensor and plain numbers: from the name of a function to the module that does the same.

Arguments are those of torch's functions and of ATen's operations, which agree but for `inplace`; None where a
call means something that no module does.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

Size = int | Sequence[int]


def _cut(
    min: float | None = None,
    max: float | None = None,
) -> nn.Module | None:
    if not all(n is None or isinstance(n, int | float) for n in (min, max)):
        return None
    if min == 0 and max is None:
        return nn.ReLU()
    low, high = (float("-inf") if min is None else min, float("inf") if max is None else max)
    return nn.Hardtanh(low, high) if low < high else None


def _max_pool(
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> nn.Module | None:
    if return_indices:
        return None
    return nn.MaxPool2d(kernel_size, stride or None, padding, dilation, ceil_mode=ceil_mode)


def _avg_pool(
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> nn.Module:
    window = (kernel_size, stride or None, padding)
    return nn.AvgPool2d(*window, ceil_mode, count_include_pad, divisor_override)


def _adaptive_max_pool(output_size: Size, return_indices: bool = False) -> nn.Module | None:
    return None if return_indices else nn.AdaptiveMaxPool2d(output_size)


def _interpolate(
    size: Size | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> nn.Module | None:
    if antialias or recompute_scale_factor:
        return None
    return nn.Upsample(size, scale_factor, mode, align_corners)


def _upsample(mode: str, size: object, factors: object, corners: bool | None = None) -> nn.Module:
    factors = tuple(factors) if factors is not None else None
    return nn.Upsample(None if factors else tuple(size), factors, mode, corners)


def _pad(
    pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> nn.Module | None:
    kinds = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d}
    if len(pad) != 4 or (mode == "constant" and value):
        return None
    kind = nn.ZeroPad2d if mode == "constant" else kinds.get(mode)
    return None if kind is None else kind(tuple(pad))


def _softmax(
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    half_to_float: bool = False,
) -> nn.Module | None:
    return nn.Softmax(dim) if dtype is None else None


def _log_softmax(*arguments: object, **named: object) -> nn.Module | None:
    found = _softmax(*arguments, **named)
    return None if found is None else nn.LogSoftmax(found.dim)


def _without(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    """A module that takes what its function takes, but for `inplace`."""

    def build(*arguments: object, inplace: bool = False, **named: object) -> nn.Module:
        return kind(*arguments, **named)

    return build


SIMPLE: dict[str, Callable[..., nn.Module | None]] = {
    "relu": _without(nn.ReLU),
    "relu_": _without(nn.ReLU),
    "relu6": _without(nn.ReLU6),
    "clamp": _cut,
    "clamp_": _cut,
    "clip": _cut,
    "clamp_min": _cut,
    "clamp_min_": _cut,
    "hardtanh": _without(nn.Hardtanh),
    "hardtanh_": _without(nn.Hardtanh),
    "hardswish": _without(nn.Hardswish),
    "hardswish_": _without(nn.Hardswish),
    "hardsigmoid": _without(nn.Hardsigmoid),
    "silu": _without(nn.SiLU),
    "silu_": _without(nn.SiLU),
    "gelu": _without(nn.GELU),
    "sigmoid": nn.Sigmoid,
    "sigmoid_": nn.Sigmoid,
    "tanh": nn.Tanh,
    "tanh_": nn.Tanh,
    "leaky_relu": _without(nn.LeakyReLU),
    "leaky_relu_": _without(nn.LeakyReLU),
    "elu": _without(nn.ELU),
    "mish": _without(nn.Mish),
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_max_pool2d": _adaptive_max_pool,
    "interpolate": _interpolate,
    "upsample_nearest2d": lambda size, factors=None: _upsample("nearest", size, factors),
    "upsample_bilinear2d": lambda size, corners, factors=None: _upsample(
        "bilinear", size, factors, corners
    ),
    "pad": _pad,
}
"""Operations of one tensor and plain numbers, by their name in torch, torch.nn.functional and ATen."""
