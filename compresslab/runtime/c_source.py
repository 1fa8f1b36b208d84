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
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from compresslab.runtime.arena import NoPlaceError, lives_by_name, places, shapes_of, whole_shape
from compresslab.runtime.c_calls import ENDS, WRITERS
from compresslab.runtime.c_text import STEPS, NotForC, Sheet, functions
from compresslab.runtime.program import Program
from compresslab.writing import write_whole

WORDS_OF_C = {
    *(
        "auto",
        "break",
        "case",
        "char",
        "const",
        "continue",
        "default",
        "do",
        "double",
        "else",
        "enum",
    ),
    *(
        "extern",
        "float",
        "for",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "register",
        "restrict",
        "return",
    ),
    *(
        "short",
        "signed",
        "sizeof",
        "static",
        "struct",
        "switch",
        "typedef",
        "union",
        "unsigned",
        "void",
    ),
    *("volatile", "while", "_Bool", "_Complex", "_Imaginary", "main", "arena"),
}
"""Keywords of C99 (6.4.1), and what a program or our file calls something else."""


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
    if name in WORDS_OF_C or re.search(rf"\b{name}\b", STEPS.read_text(encoding="utf-8")):
        raise ValueError(f"name must not be a word of C or of the file itself, got {name!r}")
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
    return _written(network, whole_shape(shape), name)


def _kind_of(network: Program, name: str) -> str:
    kinds = (s.kind for n, s in zip(network.steps, network.layers, strict=True) if n.name == name)
    return next(kinds, "the image itself")


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


def _written(program: Program, shape: tuple[int, ...], name: str) -> Source:
    try:
        results = shapes_of(program, shape)
    except NoPlaceError as error:
        raise NotForC(str(error)) from error
    lives = lives_by_name(program, results)
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
