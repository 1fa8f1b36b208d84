"""What stands between integer layers: uint8 codes in and out, nothing with weights.

    kind               computes                                              codes
    max_pool(_windows) the largest code                                      as they come
    mean_pool          the mean over all pixels                              a scale of its own
    mean_windows       the mean of each window                               a scale of its own
    add, multiply      two activations                                       a scale of its own
    concatenate        activations side by side, each through a table        one scale for all
    table              any function of one number, 256 results of it         a scale of its own
    pad, spread        zeros around pixels, or between them                  as they come
    upsample           each pixel several times                              as they come
    flatten, unflatten images to rows in torch's order, rows to one pixel    as they come
    select             some channels, or all in another order                as they come
    dequantize         back to floats                                        -

Images are [batch, height, width, channels]. Left out: bilinear upsampling (a float step does it).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from compresslab.kernels import int8_pool
from compresslab.runtime.steps.integer import CODE
from compresslab.runtime.steps.step import Codes, Field, Meaning, Positive, Step, Tensors, Whole

TWO = {
    "scale": Positive(),
    "scale_b": Positive(),
    "zero_point": CODE,
    "zero_point_b": CODE,
    "out": Meaning("out_"),
}


class _OfTwo(Step):
    """A result of two activations with scales of their own."""

    fields: ClassVar = TWO

    def __init__(
        self, scale: float, scale_b: float, zero_point: int, zero_point_b: int, out: Codes
    ) -> None:
        super().__init__()
        self.scale, self.scale_b, self.out = scale, scale_b, out
        self.zero_point, self.zero_point_b = zero_point, zero_point_b

    @classmethod
    def of(cls, a: Codes, b: Codes, out: Codes) -> "Step":
        """From what the codes of both, and of the result, mean."""
        return cls(a.scale, b.scale, a.zero_point, b.zero_point, out)


class IntAdd(_OfTwo):
    """The sum of two activations; axes of length 1 are as long as the other's."""

    kind = "add"

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Two of one shape -> one."""
        if a.shape != b.shape:
            a, b = torch.broadcast_tensors(a, b)
        o = self.out
        factors = (self.scale / o.scale, self.scale_b / o.scale)
        zeros = (self.zero_point, self.zero_point_b)
        numbers = (zeros, factors, o.zero_point, o.low, o.high)
        return torch.from_numpy(int8_pool.add(a.numpy(), b.numpy(), *numbers))


class IntMultiply(_OfTwo):
    """The product of two activations; axes of length 1 are as long as the other's."""

    kind = "multiply"

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """[b, h, w, c] and [b, h, w, c] or [b, 1, 1, c] -> the first one's shape."""
        o = self.out
        zeros, factor = (self.zero_point, self.zero_point_b), self.scale * self.scale_b / o.scale
        if a.numel() < b.numel():
            a, b, zeros = b, a, zeros[::-1]
        # One pixel of as many channels needs no copy.
        if b.shape != a.shape and (b.shape[1:-1] != (1, 1) or b.shape[-1] != a.shape[-1]):
            a, b = torch.broadcast_tensors(a, b)
        numbers = (zeros, factor, o.zero_point, o.low, o.high)
        return torch.from_numpy(int8_pool.multiply(a.numpy(), b.numpy(), *numbers))


@dataclass(frozen=True)
class Tables(Field):
    """uint8 [n, 256]: a buffer of the step."""

    def tensors(self, step: Step, name: str) -> Tensors:  # noqa: D102
        return {name: getattr(step, name)}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        found = tensors.pop(name)
        if found.dtype != torch.uint8 or found.ndim != 2 or found.shape[1] != 256:
            raise ValueError(
                f"{name} must be torch.uint8 [n, 256], found {found.dtype} {list(found.shape)}"
            )
        return {name: found.numpy()}


class IntTable(Step):
    """A function of one number: code -> code, by one table, or one for each channel."""

    kind = "table"
    fields: ClassVar = {"table": Tables()}

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(np.ascontiguousarray(table)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of any shape; with a table for each channel, channels come last."""
        table = self.table.numpy()
        return torch.from_numpy(
            int8_pool.look_up(x.numpy(), table[0] if len(table) == 1 else table)
        )


class IntConcatenate(Step):
    """Channels of several activations side by side; table i takes input i's codes to the common scale."""

    kind = "concatenate"
    fields: ClassVar = {"table": Tables()}

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(np.ascontiguousarray(table)))

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        """[..., c_i] -> [..., sum of c_i]."""
        if len(parts) != len(self.table):
            raise ValueError(f"expected {len(self.table)} inputs, got {len(parts)}")
        found = [
            int8_pool.look_up(part.numpy(), one)
            for part, one in zip(parts, self.table.numpy(), strict=True)
        ]
        return torch.from_numpy(np.concatenate(found, axis=-1))


class Dequantize(Step):
    """Codes back to floats: [b, h, w, c] -> [b, c, h, w] (or as they lie, if `last`), rows to rows."""

    kind = "dequantize"
    fields: ClassVar = {"codes": Meaning(), "last": Whole(0, 1, 0)}

    def __init__(self, codes: Codes, last: int = 0) -> None:
        super().__init__()
        self.codes, self.last = codes, last
        self.values = values_of(codes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(q - zero_point) * scale."""
        out = torch.from_numpy(np.take(self.values, x.numpy()))
        return out.permute(0, 3, 1, 2) if out.ndim == 4 and not self.last else out


def values_of(codes: Codes) -> np.ndarray:
    """What each of the 256 codes stands for, float32."""
    q = np.arange(256, dtype=np.float32)
    return ((q - np.float32(codes.zero_point)) * np.float32(codes.scale)).astype(np.float32)


def as_codes(values: np.ndarray, out: Codes) -> np.ndarray:
    """Floats as codes, as `kernels.affine` rounds them: rint(x * (1 / s)) + z, within the limits."""
    inverse = np.float32(1) / np.float32(out.scale)
    found = np.rint(values.astype(np.float32) * inverse) + np.float32(out.zero_point)
    return np.clip(found, out.low, out.high).astype(np.uint8)


def tables(parts: Sequence[Codes], out: Codes) -> np.ndarray:
    """For each input the code of `out` that each of its codes is nearest to, uint8 [n, 256]."""
    return np.stack([as_codes(values_of(codes), out) for codes in parts])
