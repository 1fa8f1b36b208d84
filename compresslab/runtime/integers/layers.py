"""The step of a layer: what no kernel has (gaps, groups, strides that differ) by what they have.

dilation      zeros between the taps
groups        zeros between the groups, but for a depthwise layer, which has a kernel of its own
stride (a, b) the common divisor; what is left is a pooling of one pixel
"""

import math

import numpy as np
from torch import nn

from compresslab.runtime.integers.known import ConversionError
from compresslab.runtime.steps import integer, pooling
from compresslab.runtime.steps.step import Step


def logits_step(layer: nn.Module, codes: np.ndarray, numbers: tuple) -> Step:
    """The last layer, whose results are floats."""
    if isinstance(layer, nn.Linear):
        return integer.IntLogits(codes, *numbers)
    window = _window(layer)
    if window.get("rest"):
        raise ConversionError("a convolution as the last layer must have one stride for both axes")
    weight = _spread_taps(_dense(codes, layer.groups), layer.dilation)
    weight = np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
    return integer.IntConvLogits(weight, *numbers, **window)


def _window(layer: nn.Conv2d) -> dict[str, object]:
    """Stride and padding; `rest`: what strides that differ leave to be done."""
    if len(set(layer.padding)) > 1 or layer.padding_mode != "zeros":
        raise ConversionError(
            f"padding {layer.padding} of mode {layer.padding_mode!r} must be a module of its own: prepare "
            "the network with this version"
        )
    down, across = layer.stride
    stride = math.gcd(down, across)
    rest = (down // stride, across // stride)
    window: dict[str, object] = {"stride": stride, "padding": layer.padding[0]}
    return window if rest == (1, 1) else {**window, "rest": rest}


def layer_step(
    layer: nn.Module, codes: np.ndarray, numbers: tuple, name: str
) -> tuple[Step, Step | None]:
    """The step of a layer, and the one that leaves out rows or columns where strides differ."""
    if isinstance(layer, nn.Linear):
        return integer.IntLinear(codes, *numbers), None
    try:
        window = _window(layer)
    except ConversionError as error:
        raise ConversionError(f"layer {name!r}: {error}") from error
    rest = window.pop("rest", None)
    taken = None
    if rest is not None:
        taken = pooling.IntMaxPoolWindows(
            height=1, width=1, down=rest[0], across=rest[1], top=0, left=0, ceil=0
        )
    codes = _spread_taps(codes, layer.dilation)
    if layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1:
        taps = np.ascontiguousarray(codes[:, 0].transpose(1, 2, 0))
        return integer.IntDepthwiseConv2d(taps, *numbers, **window), taken
    weight = np.ascontiguousarray(_dense(codes, layer.groups).transpose(0, 2, 3, 1))
    return integer.IntConv2d(weight, *numbers, **window), taken


def _spread_taps(codes: np.ndarray, dilation: tuple[int, int]) -> np.ndarray:
    """A weight [N, c, kh, kw] with zeros between its taps, which is what dilation means."""
    if tuple(dilation) == (1, 1):
        return codes
    outputs, inputs, height, width = codes.shape
    shape = (outputs, inputs, (height - 1) * dilation[0] + 1, (width - 1) * dilation[1] + 1)
    spread = np.zeros(shape, np.int8)
    spread[:, :, :: dilation[0], :: dilation[1]] = codes
    return spread


def _dense(codes: np.ndarray, groups: int) -> np.ndarray:
    """A grouped weight [N, c / g, kh, kw] as a dense one [N, c, kh, kw], with zeros between groups."""
    if groups == 1:
        return codes
    outputs, inputs, *kernel = codes.shape
    dense = np.zeros((outputs, inputs * groups, *kernel), np.int8)
    size = outputs // groups
    for g in range(groups):
        block = slice(g * size, (g + 1) * size)
        dense[block, g * inputs : (g + 1) * inputs] = codes[block]
    return dense
