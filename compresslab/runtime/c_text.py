"""C99 as text: numbers, arrays, the functions of `c_steps.c`, and the sheet that a network is written on."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from compresslab.kernels import bitpack
from compresslab.runtime.arena import Shapes
from compresslab.runtime.program import Program
from compresslab.runtime.steps.step import Codes

STEPS = Path(__file__).with_name("c_steps.c")
PACKED_BITS = (2, 4, 8)
ON_A_LINE = 16
NEEDS = {
    **dict.fromkeys(("conv2d", "depthwise", "logits_of", "conv_logits"), ("weight",)),
    **dict.fromkeys(("add", "multiply"), ("at",)),
}
"""What a function of `c_steps.c` calls beside `base`."""


class NotForC(ValueError):  # noqa: N818
    """A network that has no C file; says which step and why."""


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


class Sheet:
    """What is written so far, and what the calls of steps need to know.

    Attributes:
        program: the network, and `shape` of its image.
        results: (height, width, channels) of every step's result.
        at: where each of them begins in the arena.
        used: the functions of `c_steps.c` that were called.
        constants: arrays, as text; `flash`, their bytes.
    """

    def __init__(
        self, program: Program, shape: tuple[int, ...], results: Shapes, at: Mapping
    ) -> None:
        self.program, self.shape, self.results, self.at = program, shape, results, at
        self.used: set[str] = {"base"}
        self.constants: list[str] = []
        self.flash = 0

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
