"""What a step of a compressed network is: a module that declares its fields, once.

    class IntMaxPool(Step):
        kind = "max_pool"                       its name in files
        fields = {"size": Whole(1, 1024)}       what it is made of, with unit and limits

        def __init__(self, size): ...           takes the fields by their names and keeps them under those
        def forward(self, x): ...

From the fields follow its description (JSON), its tensors, the check of a file before anything of it is used,
and how it is built again: `describe`, `tensors`, `read`. A new kind of step is one class with its fields, its
forward and, if it has weights, its counts. As ggml's table of types says in one row what a format is.

    field              in the step                         in the file
    Whole(low, high)   an int                              a number
    Positive()         a float above 0                     a number
    Real()             a finite float                      a number
    Word(...)          a str, one of some                  a string
    Meaning(prefix)    Codes: scale, zero point, limits    four numbers
    Weight(n)          int8 codes of n axes, and bits      shape and bits; a tensor, packed to those bits
    Signs(n)           bool of n axes                      shape; a tensor, eight in a byte
    Flags(of)          bool, one per channel               a tensor, eight in a byte
    Vector(dtype)      one number per channel              a tensor

Left out: gradients; a deployed network is finished.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from compresslab.kernels import bitpack
from compresslab.numerics.affine import QParams, QTensor, unpacked
from compresslab.numerics.grid import IntGrid

Tensors = dict[str, torch.Tensor]
LONGEST = 2**31 - 1


class Numbers(NamedTuple):
    """How many numbers a layer holds: weights and biases, and how many of them are not 0."""

    parameters: int = 0
    nonzeros: int = 0

    def __add__(self, other: "Numbers") -> "Numbers":
        """Both together."""
        return Numbers(self.parameters + other.parameters, self.nonzeros + other.nonzeros)


def numbers_in(*arrays: np.ndarray | torch.Tensor | None) -> Numbers:
    """The numbers that arrays and tensors hold together."""
    found = [np.asarray(a) for a in arrays if a is not None]
    return Numbers(sum(a.size for a in found), sum(int(np.count_nonzero(a)) for a in found))


@dataclass(frozen=True)
class Codes:
    """What the uint8 codes of an activation mean: (q - zero_point) * scale, q within low..high."""

    scale: float
    zero_point: int
    low: int
    high: int


# ---- bits and codes in files ---------------------------------------------------------------------
def bits_to_file(bits: np.ndarray) -> torch.Tensor:
    """Booleans of any shape as bytes, eight in one."""
    return torch.from_numpy(bitpack.pack(np.ascontiguousarray(bits).view(np.uint8), 1))


def bits_from_file(packed: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse; refuses a number of bytes that the shape does not take."""
    count = int(np.prod(shape, dtype=object))
    if packed.dtype != torch.uint8 or packed.numel() != bitpack.packed_size(count, 1):
        raise ValueError(f"shape {list(shape)} does not fit {packed.numel()} bytes of bits")
    return bitpack.unpack(packed.numpy().reshape(-1), 1, count).astype(bool).reshape(shape)


def _file_params(bits: int) -> QParams:
    one = torch.tensor(1.0, dtype=torch.float32)
    zero = torch.tensor(0, dtype=torch.int32)
    return QParams(one, zero, IntGrid(bits))


def packed_codes(codes: np.ndarray, bits: int) -> torch.Tensor:
    """Signed codes packed to `bits` bits each."""
    return QTensor(torch.from_numpy(np.ascontiguousarray(codes)), _file_params(bits)).packed()


def codes_from(packed: torch.Tensor, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """The inverse; refuses a number of bytes that the shape does not take."""
    return unpacked(packed, shape, _file_params(bits)).codes.numpy()


# ---- fields --------------------------------------------------------------------------------------
class Field:
    """One field of a step; these methods are what a kind of field must say."""

    def describe(self, step: "Step", name: str) -> dict:
        """The field's entries in the description."""
        return {}

    def tensors(self, step: "Step", name: str) -> Tensors:
        """The field's tensors in the file."""
        return {}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:
        """The constructor's arguments, from a description and tensors that are taken out; checked."""
        raise NotImplementedError


def _entry(about: Mapping, key: str, default: object) -> object:
    if key in about:
        return about[key]
    if default is None:
        raise ValueError(f"{key} is missing")
    return default


@dataclass(frozen=True)
class Whole(Field):
    """A whole number from low to high; with a default for files that were written before it was there."""

    low: int
    high: int
    default: int | None = None

    def describe(self, step: "Step", name: str) -> dict:  # noqa: D102
        value = int(getattr(step, name))
        return {} if value == self.default else {name: value}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        value = _entry(about, name, self.default)
        if type(value) is not int or not self.low <= value <= self.high:
            raise ValueError(f"{name} must be {self.low} to {self.high}, found {value!r}")
        return {name: value}


@dataclass(frozen=True)
class Positive(Field):
    """A finite number above 0."""

    def describe(self, step: "Step", name: str) -> dict:  # noqa: D102
        return {name: float(getattr(step, name))}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        value = _entry(about, name, None)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, found {value!r}")
        return {name: value}


@dataclass(frozen=True)
class Word(Field):
    """One of some words."""

    allowed: tuple[str, ...]

    def describe(self, step: "Step", name: str) -> dict:  # noqa: D102
        return {name: getattr(step, name)}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        value = _entry(about, name, None)
        if value not in self.allowed:
            raise ValueError(f"{name} must be {', '.join(self.allowed)}, found {value!r}")
        return {name: value}


@dataclass(frozen=True)
class Meaning(Field):
    """What activation codes mean: four entries, whose names begin with the prefix."""

    prefix: str = ""

    def describe(self, step: "Step", name: str) -> dict:  # noqa: D102
        c, p = getattr(step, name), self.prefix
        numbers = {"scale": float(c.scale), "zero_point": int(c.zero_point)}
        limits = {"low": int(c.low), "high": int(c.high)}
        return {f"{p}{key}": value for key, value in (numbers | limits).items()}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        p = self.prefix
        scale = Positive().read(about, tensors, f"{p}scale")[f"{p}scale"]
        numbers = [
            Whole(low, 255).read(about, tensors, f"{p}{key}")[f"{p}{key}"]
            for key, low in (("zero_point", 0), ("low", 0), ("high", 1))
        ]
        if numbers[1] > numbers[2]:
            raise ValueError(f"{p}low must not lie above {p}high, found {numbers[1:]}")
        return {name: Codes(scale, *numbers)}


def _shape(about: Mapping, axes: int) -> tuple[int, ...]:
    value = about["shape"]
    good = isinstance(value, list) and all(type(n) is int and 0 < n <= LONGEST for n in value)
    if not good:
        raise ValueError(f"impossible shape {value!r}")
    if len(value) != axes:
        raise ValueError(f"expected {axes} dimensions, found {value}")
    return tuple(value)


@dataclass(frozen=True)
class Weight(Field):
    """Signed codes of a weight: the step's `codes()`, at `weight_bits` bits each in the file."""

    axes: int

    def describe(self, step: "Step", name: str) -> dict:  # noqa: D102
        return {"shape": list(step.codes().shape), "bits": int(step.weight_bits)}

    def tensors(self, step: "Step", name: str) -> Tensors:  # noqa: D102
        return {name: packed_codes(step.codes(), step.weight_bits)}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        shape = _shape(about, self.axes)
        bits = Whole(2, 8).read(about, tensors, "bits")["bits"]
        packed = tensors.pop(name)
        if packed.dtype != torch.uint8:
            raise ValueError(f"{name} must be torch.uint8, found {packed.dtype}")
        return {name: codes_from(packed, shape, bits), "bits": bits}


@dataclass(frozen=True)
class Signs(Field):
    """The signs of a weight: the step's `signs()`."""

    axes: int

    def describe(self, step: "Step", name: str) -> dict:  # noqa: D102
        return {"shape": list(step.signs().shape)}

    def tensors(self, step: "Step", name: str) -> Tensors:  # noqa: D102
        return {name: bits_to_file(step.signs())}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        return {name: bits_from_file(tensors.pop(name), _shape(about, self.axes))}


@dataclass(frozen=True)
class Flags(Field):
    """Booleans, one per output; how many is told by the shape, or by `channels` where there is none."""

    def describe(self, step: "Step", name: str) -> dict:  # noqa: D102
        shaped = any(isinstance(f, Signs) for f in step.fields.values())
        return {} if shaped else {"channels": len(getattr(step, name))}

    def tensors(self, step: "Step", name: str) -> Tensors:  # noqa: D102
        return {name: bits_to_file(getattr(step, name))}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        if "shape" in about:
            count = about["shape"][0]
        else:
            count = Whole(1, LONGEST).read(about, tensors, "channels")["channels"]
        return {name: bits_from_file(tensors.pop(name), (count,))}


@dataclass(frozen=True)
class Vector(Field):
    """One number per channel: a buffer of the step; finite unless it is a threshold."""

    dtype: torch.dtype = torch.float32
    finite: bool = True

    def tensors(self, step: "Step", name: str) -> Tensors:  # noqa: D102
        return {name: getattr(step, name)}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        found = tensors.pop(name)
        if found.dtype != self.dtype:
            raise ValueError(f"{name} must be {self.dtype}, found {found.dtype}")
        if found.ndim != 1:
            raise ValueError(f"{name} must have one dimension, found {list(found.shape)}")
        if found.is_floating_point():
            broken = ~torch.isfinite(found) if self.finite else torch.isnan(found)
            if bool(broken.any()):
                raise ValueError(f"{name} holds NaN or an infinity")
        return {name: found.numpy()}


# ---- steps ---------------------------------------------------------------------------------------
class Called(nn.Module):
    """A module that is called thousands of times a second."""

    def __call__(self, *inputs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        """As every module's, without a microsecond of preparing for hooks where there are none."""
        watched = self._forward_hooks or self._forward_pre_hooks or _has_any_global_hook()
        if named or watched or self._compiled_call_impl or torch.compiler.is_compiling():
            return super().__call__(*inputs, **named)
        return self.forward(*inputs)


class Step(Called):
    """A step of a deployed network."""

    kind: ClassVar[str] = ""
    fields: ClassVar[Mapping[str, Field]] = {}
    weight_bits: int = 32
    activation_bits: int = 32

    def __init_subclass__(cls) -> None:
        """A kind with a name is one that files may hold."""
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            if cls.kind in KINDS:
                raise ValueError(f"kind {cls.kind!r} is taken by {KINDS[cls.kind].__name__}")
            KINDS[cls.kind] = cls

    def describe(self) -> dict:
        """Everything but tensors, as JSON has it."""
        return {k: v for n, f in self.fields.items() for k, v in f.describe(self, n).items()}

    def tensors(self) -> Tensors:
        """What the file holds."""
        return {k: v for n, f in self.fields.items() for k, v in f.tensors(self, n).items()}

    @classmethod
    def read(cls, about: Mapping, tensors: Tensors) -> "Step":
        """Build a step from its description and its tensors, which are taken out of the dictionary.

        Raises:
            ValueError: naming what is missing, left over, or outside of what its field allows.
        """
        about, given = dict(about), {}
        for name, field in cls.fields.items():
            given |= field.read(about, tensors, name)
        known = set(ALWAYS)
        step = cls(**given)
        known |= set(step.describe()) | {n for n, f in cls.fields.items() if isinstance(f, Whole)}
        unknown = sorted(set(about) - known)
        if unknown or tensors:
            raise ValueError(f"unknown entries {', '.join([*unknown, *sorted(tensors)])}")
        return step

    def numbers(self) -> Numbers:
        """How many parameters it holds, and how many of them are not 0."""
        return Numbers()

    def _load_from_state_dict(self, *_arguments: object) -> None:
        # Zero points, limits and windows are no tensors: a state dict says half of what a layer is.
        raise RuntimeError(
            f"{type(self).__name__} cannot be read from a state dict: use runtime.files.load"
        )


KINDS: dict[str, type[Step]] = {}
"""Every kind of step that a file may name."""
ALWAYS = ("name", "kind", "inputs")
Build = Callable[..., Step]
