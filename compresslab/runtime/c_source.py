"""An integer network as one file of C99, for a processor without an operating system.

    int compresslab_run(const float *image, float *logits);

    flash    constant weights, packed as they are (8, 4 or 2 bits), biases, factors; the code
    RAM      one static arena for activations; nothing is allocated, nothing is included but stdint.h

The steps are plain loops (`c_steps.c` beside this file, of which only what a network uses is copied). An
activation needs its bytes from the step that makes it to the last one that reads it. The largest are placed
first, each at the lowest address that is free all that time (greedy by size, as in TensorFlow Lite Micro;
Pisarchyk and Lee 2020, arXiv:2001.03288). The answers are those of the Program: codes bit for bit, logits but
for float rounding.

Left out: float steps and binary layers, which are refused by name (leave a softmax at the end to the caller);
several inputs or outputs; widths between 2, 4 and 8 bits, which take the next of them; what groups, dilation
and shared modules save, since an integer Program has them written out; SIMD, for which CMSIS-NN has the same
operations (https://github.com/ARM-software/CMSIS-NN).
"""

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compresslab.data.files import write_whole
from compresslab.runtime.c_calls import ENDS, WRITERS, comes_last
from compresslab.runtime.c_text import LARGEST, NotForC, Shapes, Sheet, functions
from compresslab.runtime.program import IMAGE, Program
from compresslab.runtime.steps.step import Step


@dataclass(frozen=True)
class Source:
    """A network in C.

    Attributes:
        text: the file.
        flash: bytes of its constants, without code.
        arena: bytes of its activations.
        inputs, outputs: how many floats it reads and writes.
        name: of its function.
    """

    text: str
    flash: int
    arena: int
    inputs: int
    outputs: int
    name: str


def to_c(network: nn.Module, shape: Sequence[int], name: str = "compresslab_run") -> Source:
    """The C file of an integer network.

    Args:
        network: a Program of integer steps, from `convert`.
        shape: of an image, (channels, height, width), or (inputs,) for rows.
        name: of the function; two networks of one firmware need two names.

    Raises:
        NotForC: for a network that is no Program, has several inputs or outputs, or a step that is left out.
        ValueError: for a shape that the network does not take, or a name that is none in C.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"name must be letters, digits and underscores, got {name!r}")
    if not isinstance(network, Program):
        raise NotForC(
            f"network must be an integer Program, as convert makes it, got {type(network).__name__}"
        )
    if len(network.images) != 1 or len(network.outputs) != 1:
        raise NotForC(
            f"network must have one input and one output, got {len(network.images)} and "
            f"{len(network.outputs)}"
        )
    unknown = [
        f"{line.name} ({step.kind})"
        for line, step in zip(network.steps, network.layers, strict=True)
        if step.kind not in WRITERS
    ]
    if unknown:
        raise NotForC(f"steps without a C function: {', '.join(unknown)}")
    ends = network.layers[-1].kind in ENDS
    if network.outputs[0] != network.steps[-1].name or not ends:
        raise NotForC(
            f"the network's answer must be floats of its last step, got {network.outputs[0]!r} "
            f"({_kind_of(network, network.outputs[0])})"
        )
    return _written(network, _shape(shape), name)


def _kind_of(network: Program, name: str) -> str:
    kinds = (s.kind for n, s in zip(network.steps, network.layers, strict=True) if n.name == name)
    return next(kinds, "the image itself")


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
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


def write_c(
    network: nn.Module, shape: Sequence[int], path: str | Path, name: str = "compresslab_run"
) -> Source:
    """Write the C file of a network, whole or not at all.

    Raises:
        NotForC: as `to_c`.
        ValueError: as `to_c`.
    """
    source = to_c(network, shape, name)
    write_whole(Path(path), lambda file: file.write_text(source.text, encoding="ascii"))
    return source


# ---- the arena -----------------------------------------------------------------------------------
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
    return list(_lives(network, _shapes(network, _shape(shape))).values())


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


def _written(program: Program, shape: tuple[int, ...], name: str) -> Source:
    results = _shapes(program, shape)
    lives = _lives(program, results)
    starts, arena = places(list(lives.values()))
    sheet = Sheet(program, shape, results, dict(zip(lives, starts, strict=True)))
    calls = []
    for index, (line, step) in enumerate(zip(program.steps, program.layers, strict=True)):
        call = WRITERS[step.kind](sheet, step, line, index)
        # A file's steps may have any names: none of them ends the comment.
        said = re.sub(r"[^A-Za-z0-9_.-]", "_", line.name)
        calls.append(f"    /* {said}: {step.kind} */\n    {call}")
    inputs, outputs = math.prod(shape), math.prod(results[program.outputs[0]])
    head = _head(name, shape, outputs, sheet.flash, arena)
    text = "\n".join(
        [
            head,
            "#include <stdint.h>\n",
            *(body for function, body in functions().items() if function in sheet.used),
            *sheet.constants,
            f"static uint8_t arena[{max(arena, 1)}];\n",
            f"int {name}(const float *image, float *logits);\n",
            f"int {name}(const float *image, float *logits) {{",
            *calls,
            "    return 0;\n}\n",
        ]
    )
    return Source(text, sheet.flash, arena, inputs, outputs, name)


def _lives(program: Program, results: Shapes) -> dict[str, Life]:
    """Every result that lies in the arena: all but the last, which are the logits."""
    last = {name: i for i, line in enumerate(program.steps) for name in line.inputs}
    return {
        line.name: Life(math.prod(results[line.name]), i, last.get(line.name, i))
        for i, line in enumerate(program.steps)
        if line.name != program.outputs[0]
    }


def _head(name: str, shape: tuple[int, ...], outputs: int, flash: int, arena: int) -> str:
    took = " x ".join(map(str, shape))
    return (
        "/*\n * A network of integers, written by compresslab.\n *\n"
        f" *     image    {took} floats\n"
        f" *     logits   {outputs} floats\n"
        f" *     flash    {flash} bytes of constants\n"
        f" *     RAM      {arena} bytes of activations\n *\n"
        f" * {name} returns 0, or 1 for a NaN in the image. Compile: -std=c99 (clang: -ffp-contract=off)\n */"
    )


def _shapes(program: Program, shape: tuple[int, ...]) -> dict[str, tuple[int, int, int]]:
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
            found[line.name] = _image(line.name, step, result)
    return found


def _image(name: str, step: Step, result: torch.Tensor) -> tuple[int, int, int]:
    sizes = tuple(result.shape[1:])
    if step.kind in ("dequantize", "conv_logits") and len(sizes) == 3 and not comes_last(step):
        sizes = (sizes[1], sizes[2], sizes[0])
    if len(sizes) not in (1, 3):
        raise NotForC(f"step {name!r} gives {list(sizes)}: only images and rows have a C function")
    if np.prod(sizes, dtype=object) > LARGEST:
        raise NotForC(f"step {name!r} gives more numbers than 32 bits can count")
    return sizes if len(sizes) == 3 else (1, 1, sizes[0])
