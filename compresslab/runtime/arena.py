"""Where activations lie: lifetimes, and the smallest arena that greedy-by-size finds.

Two activations may share bytes if one is no longer read when the other is made. Placing them in the smallest
arena is bin packing; the largest first, each at the lowest place that is free for its whole life, is what
TensorFlow Lite Micro does (Pisarchyk and Lee 2020, https://arxiv.org/abs/2001.03288, section 5).
"""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from compresslab.runtime.program import IMAGE, Program
from compresslab.runtime.steps.step import Step

Shapes = Mapping[str, tuple[int, int, int]]
LARGEST = 2**31 - 1


class NoPlaceError(ValueError):
    """A result that cannot lie in an arena; says which."""


@dataclass(frozen=True)
class Life:
    """An activation: its bytes, the step that makes it and the last one that reads it."""

    bytes: int
    first: int
    last: int


def lives_of(network: Program, shape: Sequence[int]) -> list[Life]:
    """The activations of a Program in the order of its steps; its answer is not among them.

    Raises:
        ValueError: for a shape that the network does not take.
    """
    return list(lives_by_name(network, shapes_of(network, whole_shape(shape))).values())


def places(lives: Sequence[Life]) -> tuple[list[int], int]:
    """Where each activation begins in the smallest arena that greedy-by-size finds, and the arena's bytes.

    Args:
        lives: activations that meet (one's `first` is not behind the other's `last`) must not overlap.
    """
    starts = [0] * len(lives)
    placed: list[int] = []
    for index in sorted(range(len(lives)), key=lambda i: (-lives[i].bytes, lives[i].first)):
        one = lives[index]
        met = [i for i in placed if lives[i].first <= one.last and one.first <= lives[i].last]
        start = 0
        for other in sorted(met, key=lambda i: starts[i]):
            if starts[other] >= start + one.bytes:
                break
            start = max(start, starts[other] + lives[other].bytes)
        starts[index] = start
        placed.append(index)
    ends = (start + life.bytes for start, life in zip(starts, lives, strict=True))
    return starts, max(ends, default=0)


def lives_by_name(
    program: Program, results: Shapes, outside: Sequence[str] = (), multiple: int = 1
) -> dict[str, Life]:
    """Every result that lies in the arena: all but those that are handed back.

    Args:
        program: the network.
        results: their shapes, from `shapes_of`.
        outside: names that have a place elsewhere; if empty, the first output.
        multiple: bytes are rounded up to it.
    """
    last = {name: i for i, line in enumerate(program.steps) for name in line.inputs}
    elsewhere = set(outside) or {program.outputs[0]}
    found = {}
    for i, line in enumerate(program.steps):
        if line.name not in elsewhere:
            size = -(-math.prod(results[line.name]) // multiple) * multiple
            found[line.name] = Life(size, i, last.get(line.name, i))
    return found


def shapes_of(program: Program, shape: tuple[int, ...]) -> dict[str, tuple[int, int, int]]:
    """(height, width, channels) of every result of one image; rows have one pixel.

    Raises:
        ValueError: if the network does not take such an image, or a result does not fit 32-bit offsets.
    """
    found: dict[str, tuple[int, int, int]] = {}
    results = {IMAGE: torch.zeros(1, *shape, dtype=torch.float32)}
    with torch.inference_mode():
        for line, step in zip(program.steps, program.layers, strict=True):
            try:
                result = step(*[results[name] for name in line.inputs])
            except (ValueError, RuntimeError, IndexError) as error:
                raise ValueError(
                    f"shape {shape} does not fit the network: step {line.name!r}: {error}"
                ) from error
            results[line.name] = result
            found[line.name] = _image_of(line.name, step, result)
    return found


def _image_of(name: str, step: Step, result: torch.Tensor) -> tuple[int, int, int]:
    sizes = tuple(result.shape[1:])
    if step.kind in ("dequantize", "conv_logits") and len(sizes) == 3 and not comes_last(step):
        sizes = (sizes[1], sizes[2], sizes[0])
    if len(sizes) not in (1, 3):
        raise NoPlaceError(f"step {name!r} gives {list(sizes)}: only images and rows have a place")
    if np.prod(sizes, dtype=object) > LARGEST:
        raise NoPlaceError(f"step {name!r} gives more numbers than 32 bits can count")
    return sizes if len(sizes) == 3 else (1, 1, sizes[0])


def whole_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape as whole numbers."""
    try:
        sizes = tuple(operator.index(n) for n in shape)
    except TypeError as error:
        raise ValueError(
            f"shape must be (channels, height, width) or (inputs,), got {shape!r}"
        ) from error
    if len(sizes) not in (1, 3) or min(sizes) < 1:
        raise ValueError(f"shape must be (channels, height, width) or (inputs,), got {shape!r}")
    if math.prod(sizes) > LARGEST:
        raise ValueError(f"shape {sizes} has more numbers than 32 bits can count")
    return sizes


def comes_last(step: Step) -> bool:
    """Whether an image's channels come last in the network, too."""
    return bool(getattr(step, "last", 0))
