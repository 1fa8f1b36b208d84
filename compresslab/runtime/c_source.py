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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compresslab.data.files import write_whole
from compresslab.kernels import bitpack
from compresslab.runtime.program import IMAGE, Program
from compresslab.runtime.steps.step import Codes, Step

STEPS = Path(__file__).with_name("c_steps.c")
PACKED_BITS = (2, 4, 8)
ON_A_LINE = 16
NEEDS = {
    **dict.fromkeys(("conv2d", "depthwise", "logits_of", "conv_logits"), ("weight",)),
    **dict.fromkeys(("add", "multiply"), ("at",)),
}
"""What a function of `c_steps.c` calls beside `base`."""
LARGEST = 2**31 - 1


class NotForC(ValueError):  # noqa: N818
    """A network that has no C file; says which step and why."""


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
    last = dict(zip(network.steps, network.layers, strict=True))[network.steps[-1]]
    if network.outputs[0] != network.steps[-1].name or last.kind not in ENDS:
        raise NotForC(
            f"the network's answer must be floats of its last step, got {network.outputs[0]!r} "
            f"({_kind_of(network, network.outputs[0])})"
        )
    return _Writer(network, _shape(shape), name).source()


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


# ---- text ----------------------------------------------------------------------------------------
@cache
def functions() -> Mapping[str, str]:
    """The functions of `c_steps.c` by name."""
    text = STEPS.read_text(encoding="ascii")
    found = re.findall(r"/\* BEGIN (\w+) \*/\n(.*?)/\* END \*/", text, re.DOTALL)
    return dict(found)


def array(kind: str, name: str, numbers: Iterable[str]) -> str:
    """A constant array, some numbers on a line."""
    listed = list(numbers)
    lines = [", ".join(listed[i : i + ON_A_LINE]) + "," for i in range(0, len(listed), ON_A_LINE)]
    body = "\n    ".join(lines)
    return f"static const {kind} {name}[{len(listed)}] = {{\n    {body}\n}};\n"


def number(value: float) -> str:
    """A float32 exactly, as C99 writes it."""
    return f"{float(np.float32(value)).hex()}f"


def shape_of(image: tuple[int, int, int]) -> str:
    """A Shape."""
    height, width, channels = image
    return f"(Shape){{{height}, {width}, {channels}}}"


def codes_of(codes: Codes) -> str:
    """The Codes of a result."""
    return f"(Codes){{{codes.zero_point}, {codes.low}, {codes.high}}}"


class _Writer:
    """Goes through the steps once to see shapes, once to write calls."""

    def __init__(self, program: Program, shape: tuple[int, ...], name: str) -> None:
        self.program, self.shape, self.name = program, shape, name
        self.results = _shapes(program, shape)
        self.used: set[str] = {"base"}
        self.constants: list[str] = []
        self.flash = 0
        self.buffers = self._lives()

    def _lives(self) -> dict[str, Life]:
        """Every result that lies in the arena: all but the last, which are the logits."""
        lines = self.program.steps
        last = {name: i for i, line in enumerate(lines) for name in line.inputs}
        lives = {}
        for i, line in enumerate(lines):
            image = self.results[line.name]
            size = image[0] * image[1] * image[2]
            if line.name != self.program.outputs[0]:
                lives[line.name] = Life(size, i, last.get(line.name, i))
        return lives

    def source(self) -> Source:
        starts, arena = places(list(self.buffers.values()))
        self.at = dict(zip(self.buffers, starts, strict=True))
        calls = []
        for index, (line, step) in enumerate(
            zip(self.program.steps, self.program.layers, strict=True)
        ):
            call = WRITERS[step.kind](self, step, line, index)
            # A file's steps may have any names: none of them ends the comment.
            said = re.sub(r"[^A-Za-z0-9_.-]", "_", line.name)
            calls.append(f"    /* {said}: {step.kind} */\n    {call}")
        needed = [n for n in functions() if n in self.used]
        text = "\n".join(
            [
                self._head(arena),
                "#include <stdint.h>\n",
                *(functions()[name] for name in needed),
                *self.constants,
                f"static uint8_t arena[{max(arena, 1)}];\n",
                f"int {self.name}(const float *image, float *logits);\n",
                f"int {self.name}(const float *image, float *logits) {{",
                *calls,
                "    return 0;\n}\n",
            ]
        )
        height, width, channels = self.results[self.program.outputs[0]]
        numbers = math.prod(self.shape), height * width * channels
        return Source(text, self.flash, arena, *numbers, self.name)

    def _head(self, arena: int) -> str:
        height, width, channels = self.results[self.program.outputs[0]]
        took = " x ".join(map(str, self.shape))
        return (
            "/*\n * A network of integers, written by compresslab.\n *\n"
            f" *     image    {took} floats\n"
            f" *     logits   {height * width * channels} floats\n"
            f" *     flash    {self.flash} bytes of constants\n"
            f" *     RAM      {arena} bytes of activations\n *\n"
            f" * {self.name} returns 0, or 1 if the image holds a NaN. Compile with -std=c99 and, where the\n"
            " * compiler fuses multiplications with additions all the same (clang), -ffp-contract=off.\n */"
        )

    # -- what a step's writer uses
    def use(self, name: str) -> None:
        """A function of `c_steps.c`, and what it calls."""
        self.used |= {name, *NEEDS.get(name, ())}

    def buffer(self, name: str) -> str:
        """Where a result lies."""
        return f"arena + {self.at[name]}"

    def constant(self, kind: str, name: str, numbers: Iterable[str], each: int) -> str:
        """A constant array of the file; its name."""
        listed = list(numbers)
        self.constants.append(array(kind, name, listed))
        self.flash += each * len(listed)
        return name

    def bytes(self, name: str, values: np.ndarray) -> str:
        """Bytes as they are."""
        return self.constant("uint8_t", name, map(str, values.reshape(-1).tolist()), 1)

    def floats(self, name: str, values: np.ndarray) -> str:
        """float32 numbers."""
        return self.constant("float", name, map(number, values.reshape(-1)), 4)

    def whole(self, name: str, values: np.ndarray) -> str:
        """int32 numbers."""
        return self.constant("int32_t", name, map(str, values.reshape(-1).tolist()), 4)

    def weight(self, name: str, codes: np.ndarray, bits: int) -> tuple[str, int]:
        """Packed weights: their array, and the bits that they take."""
        bits = next(b for b in PACKED_BITS if b >= bits)
        flat = np.ascontiguousarray(codes).reshape(-1).astype(np.int8)
        packed = bitpack.pack((flat.astype(np.int16) & (2**bits - 1)).astype(np.uint8), bits)
        return self.bytes(name, packed), bits


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


def _last(step: Step) -> bool:
    """Whether an image's channels come last in the network, too."""
    return bool(getattr(step, "last", 0))


def _image(name: str, step: Step, result: torch.Tensor) -> tuple[int, int, int]:
    sizes = tuple(result.shape[1:])
    if step.kind in ("dequantize", "conv_logits") and len(sizes) == 3 and not _last(step):
        sizes = (sizes[1], sizes[2], sizes[0])
    if len(sizes) not in (1, 3):
        raise NotForC(f"step {name!r} gives {list(sizes)}: only images and rows have a C function")
    if np.prod(sizes, dtype=object) > LARGEST:
        raise NotForC(f"step {name!r} gives more numbers than 32 bits can count")
    return sizes if len(sizes) == 3 else (1, 1, sizes[0])


# ---- steps ---------------------------------------------------------------------------------------
Call = Callable[[_Writer, Step, object, int], str]


def _quantize(w: _Writer, step: Step, line: object, _index: int) -> str:
    if step.last and len(w.shape) == 3:
        raise NotForC(f"step {line.name!r} takes images whose channels come last")
    w.use("quantize")
    height, width, channels = w.results[line.name]
    inverse = number(step.inverse[0])
    out = f"{codes_of(step.codes)}, {w.buffer(line.name)}"
    if line.inputs != (IMAGE,):
        raise NotForC(f"step {line.name!r} quantizes floats between layers")
    return (
        f"if (quantize(image, {shape_of((height, width, channels))}, {inverse}, {out})) return 1;"
    )


def _window(height: int, width: int, step: Step) -> str:
    return f"(Window){{{height}, {width}, {step.stride}, {step.stride}, {step.padding}, {step.padding}}}"


def _convolution(kind: str) -> Call:
    def write(w: _Writer, step: Step, line: object, index: int) -> str:
        w.use(kind)
        codes = step.codes()
        taps = codes.shape[:2] if kind == "depthwise" else codes.shape[1:3]
        weights, bits = w.weight(f"weight_{index}", codes, step.weight_bits)
        bias = w.whole(f"bias_{index}", step.bias.numpy())
        factor = w.floats(f"factor_{index}", step.multiplier.numpy())
        source = line.inputs[0]
        return (
            f"{kind}({w.buffer(source)}, {shape_of(w.results[source])}, {step.zero_point}, {weights}, "
            f"{bits}, {_window(*taps, step)},\n        {bias}, {factor}, {codes_of(step.out)}, "
            f"{w.buffer(line.name)}, {shape_of(w.results[line.name])});"
        )

    return write


def _linear(w: _Writer, step: Step, line: object, index: int) -> str:
    """A linear layer is a convolution of one pixel."""
    w.use("conv2d")
    source = line.inputs[0]
    height, width, channels = w.results[source]
    weights, bits = w.weight(f"weight_{index}", step.codes(), step.weight_bits)
    bias = w.whole(f"bias_{index}", step.bias.numpy())
    factor = w.floats(f"factor_{index}", step.multiplier.numpy())
    return (
        f"conv2d({w.buffer(source)}, {shape_of((height, width, channels))}, {step.zero_point}, {weights}, "
        f"{bits}, (Window){{1, 1, 1, 1, 0, 0}},\n        {bias}, {factor}, {codes_of(step.out)}, "
        f"{w.buffer(line.name)}, {shape_of(w.results[line.name])});"
    )


def _logits(w: _Writer, step: Step, line: object, index: int) -> str:
    if line.name != w.program.outputs[0]:
        raise NotForC(f"step {line.name!r} gives floats that are not the network's answer")
    source = line.inputs[0]
    height, width, inputs = w.results[source]
    if height * width != 1:
        raise NotForC(f"step {line.name!r} gives an answer for every pixel")
    w.use("logits_of")
    weights, bits = w.weight(f"weight_{index}", step.codes(), step.weight_bits)
    scale, bias = (w.floats(f"{n}_{index}", getattr(step, n).numpy()) for n in ("scale", "bias"))
    outputs = w.results[line.name][2]
    return (
        f"logits_of({w.buffer(source)}, {inputs}, {step.zero_point}, {weights}, {bits}, {scale}, {bias}, "
        f"{outputs}, logits);"
    )


def _conv_logits(w: _Writer, step: Step, line: object, index: int) -> str:
    if line.name != w.program.outputs[0]:
        raise NotForC(f"step {line.name!r} gives floats that are not the network's answer")
    w.use("conv_logits")
    codes = step.codes()
    weights, bits = w.weight(f"weight_{index}", codes, step.weight_bits)
    scale, bias = (w.floats(f"{n}_{index}", getattr(step, n).numpy()) for n in ("scale", "bias"))
    source = line.inputs[0]
    return (
        f"conv_logits({w.buffer(source)}, {shape_of(w.results[source])}, {step.zero_point}, {weights}, "
        f"{bits}, {_window(*codes.shape[1:3], step)},\n        {scale}, {bias}, logits, "
        f"{shape_of(w.results[line.name])});"
    )


def _from_to(w: _Writer, line: object) -> tuple[str, str, str, str]:
    source = line.inputs[0]
    return (
        w.buffer(source),
        shape_of(w.results[source]),
        w.buffer(line.name),
        shape_of(w.results[line.name]),
    )


def _windows(step: Step) -> str:
    names = ("height", "width", "down", "across", "top", "left")
    return f"(Window){{{', '.join(str(getattr(step, n)) for n in names)}}}"


def _max_pool(w: _Writer, step: Step, line: object, _index: int) -> str:
    w.use("max_pool")
    x, s, y, to = _from_to(w, line)
    window = (
        _windows(step)
        if step.kind == "max_pool_windows"
        else f"(Window){{{step.size}, {step.size}, {step.size}, {step.size}, 0, 0}}"
    )
    return f"max_pool({x}, {s}, {window}, {y}, {to});"


def _mean_pool(w: _Writer, step: Step, line: object, _index: int) -> str:
    w.use("mean_pool")
    x, s, y, _ = _from_to(w, line)
    height, width, _ = w.results[line.inputs[0]]
    if 255 * height * width > LARGEST:
        raise NotForC(f"step {line.name!r} adds up more pixels than 32 bits hold")
    factor = number(step.scale / (height * width * step.out.scale))
    return f"mean_pool({x}, {s}, {step.zero_point}, {factor}, {codes_of(step.out)}, {y});"


def _mean_windows(w: _Writer, step: Step, line: object, _index: int) -> str:
    w.use("mean_windows")
    x, s, y, to = _from_to(w, line)
    factor = number(step.scale / step.out.scale)
    return (
        f"mean_windows({x}, {s}, {_windows(step)}, {step.zero_point}, {int(step.padded)}, {factor}, "
        f"{codes_of(step.out)}, {y}, {to});"
    )


def _two(w: _Writer, step: Step, line: object, _index: int) -> str:
    w.use(step.kind)
    (a, sa), (b, sb) = ((w.buffer(n), shape_of(w.results[n])) for n in line.inputs)
    to = w.results[line.name]
    end = f"{codes_of(step.out)}, {w.buffer(line.name)}, {shape_of(to)}"
    if step.kind == "multiply":
        factor = number(step.scale * step.scale_b / step.out.scale)
        zeros = (step.zero_point, step.zero_point_b)
        return f"multiply({a}, {sa}, {zeros[0]}, {b}, {sb}, {zeros[1]}, {factor}, {end});"
    one, other = (number(s / step.out.scale) for s in (step.scale, step.scale_b))
    return (
        f"add({a}, {sa}, {step.zero_point}, {one}, {b}, {sb}, {step.zero_point_b}, {other}, {end});"
    )


def _table(w: _Writer, step: Step, line: object, index: int) -> str:
    w.use("look_up")
    x, _, y, _ = _from_to(w, line)
    height, width, channels = w.results[line.name]
    table = w.bytes(f"table_{index}", step.table.numpy())
    return f"look_up({x}, {height * width}, {channels}, {table}, {len(step.table)}, {y});"


def _concatenate(w: _Writer, step: Step, line: object, index: int) -> str:
    w.use("side_by_side")
    table = w.bytes(f"table_{index}", step.table.numpy())
    calls, first = [], 0
    all_channels = w.results[line.name][2]
    for i, name in enumerate(line.inputs):
        image = w.results[name]
        calls.append(
            f"side_by_side({w.buffer(name)}, {shape_of(image)}, {table} + {256 * i}, {first}, "
            f"{all_channels}, {w.buffer(line.name)});"
        )
        first += image[2]
    return "\n    ".join(calls)


def _pad(w: _Writer, step: Step, line: object, _index: int) -> str:
    w.use("pad")
    x, s, y, to = _from_to(w, line)
    mode = ("constant", "reflect", "edge").index(step.mode)
    height, width, _ = w.results[line.inputs[0]]
    if mode == 1 and max(step.top, step.bottom) >= height + (height == 1):
        raise NotForC(f"step {line.name!r} mirrors more rows than there are")
    if mode == 1 and max(step.left, step.right) >= width + (width == 1):
        raise NotForC(f"step {line.name!r} mirrors more columns than there are")
    return f"pad({x}, {s}, {step.top}, {step.left}, {mode}, {step.zero_point}, {y}, {to});"


def _spread(w: _Writer, step: Step, line: object, _index: int) -> str:
    w.use("spread")
    x, s, y, to = _from_to(w, line)
    return f"spread({x}, {s}, {step.down}, {step.across}, {step.zero_point}, {y}, {to});"


def _upsample(w: _Writer, step: Step, line: object, _index: int) -> str:
    w.use("upsample")
    x, s, y, to = _from_to(w, line)
    return f"upsample({x}, {s}, {step.down}, {step.across}, {y}, {to});"


def _flatten(w: _Writer, _step: Step, line: object, _index: int) -> str:
    w.use("flatten")
    x, s, y, _ = _from_to(w, line)
    return f"flatten({x}, {s}, {y});"


def _unflatten(w: _Writer, _step: Step, line: object, _index: int) -> str:
    w.use("unflatten")
    x, _, y, to = _from_to(w, line)
    return f"unflatten({x}, {y}, {to});"


def _select(w: _Writer, step: Step, line: object, index: int) -> str:
    w.use("chosen")
    x, _, y, _ = _from_to(w, line)
    height, width, channels = w.results[line.inputs[0]]
    picked = w.whole(f"places_{index}", step.places.numpy())
    return f"chosen({x}, {height * width}, {channels}, {picked}, {step.places.numel()}, {y});"


def _dequantize(w: _Writer, step: Step, line: object, _index: int) -> str:
    if line.name != w.program.outputs[0]:
        raise NotForC(f"step {line.name!r} gives floats that are not the network's answer")
    w.use("dequantize")
    source = line.inputs[0]
    numbers = f"{step.codes.zero_point}, {number(step.codes.scale)}"
    # As they lie, numbers are those of one pixel with as many channels.
    image = (1, 1, math.prod(w.results[source])) if _last(step) else w.results[source]
    return f"dequantize({w.buffer(source)}, {shape_of(image)}, {numbers}, logits);"


ENDS = ("logits", "conv_logits", "dequantize")
"""What gives floats, and so ends a network."""
WRITERS: dict[str, Call] = {
    "quantize": _quantize,
    "conv2d": _convolution("conv2d"),
    "depthwise": _convolution("depthwise"),
    "linear": _linear,
    "logits": _logits,
    "conv_logits": _conv_logits,
    "max_pool": _max_pool,
    "max_pool_windows": _max_pool,
    "mean_pool": _mean_pool,
    "mean_windows": _mean_windows,
    "add": _two,
    "multiply": _two,
    "table": _table,
    "concatenate": _concatenate,
    "pad": _pad,
    "spread": _spread,
    "upsample": _upsample,
    "flatten": _flatten,
    "unflatten": _unflatten,
    "select": _select,
    "dequantize": _dequantize,
}
"""How each kind of step is written; other kinds have no C function."""
