"""What a window of torch is to the steps: sizes by name, whole factors, plain squares."""

from torch import nn

from compresslab.network.writer import pair
from compresslab.runtime.integers.known import ConversionError


def whole_factors(module: nn.Upsample) -> tuple[int, int] | None:
    """By how much an upsampling makes images larger, if that is said in whole numbers."""
    if module.scale_factor is None:
        return None
    factors = pair(module.scale_factor)
    return tuple(int(f) for f in factors) if all(f == int(f) >= 1 for f in factors) else None


def windows_of(module: nn.MaxPool2d | nn.AvgPool2d) -> dict[str, int]:
    """Where pooling looks, as its step has it."""
    size, stride = pair(module.kernel_size), pair(module.stride or module.kernel_size)
    padding = pair(module.padding)
    names = ("height", "width", "down", "across", "top", "left")
    numbers = zip(names, (*size, *stride, *padding), strict=True)
    return {**dict(numbers), "ceil": int(module.ceil_mode)}


def square_of(module: nn.MaxPool2d) -> int | None:
    """The side of the squares that a plain max pooling takes; None if it is not plain."""
    w = windows_of(module)
    sides = {w["height"], w["width"], w["down"], w["across"]}
    plain = len(sides) == 1 and not (w["top"] or w["left"] or w["ceil"])
    return sides.pop() if plain else None


def pool_size(name: str, module: nn.MaxPool2d) -> int:
    """The side of the squares that a max pooling takes.

    Raises:
        ConversionError: for squares that overlap or are padded, oblong ones, or a rest that is kept.
    """
    size = square_of(module)
    if size is None or pair(module.dilation) != (1, 1):
        raise ConversionError(f"node {name!r}: only square pooling without overlap is known")
    return size
