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
from compresslab.runtime.steps.step import (
    Codes,
    Field,
    Meaning,
    Positive,
    Step,
    Tensors,
    Whole,
    Word,
)

SIDE = Whole(1, 1024)
BORDER = Whole(0, 1024)
WINDOWS = {
    **dict.fromkeys(("height", "width", "down", "across"), SIDE),
    **dict.fromkeys(("top", "left"), BORDER),
    "ceil": Whole(0, 1),
}


class IntMaxPool(Step):
    """The largest code of each square: [b, h, w, c] -> [b, h / size, w / size, c]."""

    kind = "max_pool"
    fields: ClassVar = {"size": SIDE}

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Square by square."""
        return torch.from_numpy(int8_pool.max_pool(x.numpy(), self.size))


class _Windowed(Step):
    """Keeps the numbers of its windows under their names."""

    def __init__(self, **windows: int) -> None:
        super().__init__()
        self.windows = int8_pool.Windows(**windows)
        for name, value in windows.items():
            setattr(self, name, value)


class IntMaxPoolWindows(_Windowed):
    """The largest code of windows that overlap, are padded or oblong."""

    kind = "max_pool_windows"
    fields: ClassVar = WINDOWS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, h, w, c] -> [b, h', w', c]."""
        return torch.from_numpy(int8_pool.max_pool_windows(x.numpy(), self.windows))


class IntMeanWindows(_Windowed):
    """The mean of each window; `padded`: whether padding counts as pixels."""

    kind = "mean_windows"
    fields: ClassVar = {
        **WINDOWS,
        "padded": Whole(0, 1),
        "scale": Positive(),
        "zero_point": CODE,
        "out": Meaning("out_"),
    }

    def __init__(
        self, scale: float, zero_point: int, out: Codes, padded: int, **windows: int
    ) -> None:
        super().__init__(**windows)
        self.scale, self.zero_point, self.out, self.padded = scale, zero_point, out, padded

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, h, w, c] -> [b, h', w', c]."""
        o = self.out
        numbers = (self.zero_point, self.scale / o.scale, bool(self.padded))
        limits = (o.zero_point, o.low, o.high)
        codes = int8_pool.mean_pool_windows(x.numpy(), self.windows, *numbers, *limits)
        return torch.from_numpy(codes)


class IntMeanPool(Step):
    """The mean over all pixels, on a scale of its own."""

    kind = "mean_pool"
    fields: ClassVar = {"scale": Positive(), "zero_point": CODE, "out": Meaning("out_")}

    def __init__(self, scale: float, zero_point: int, out: Codes) -> None:
        super().__init__()
        self.scale, self.zero_point, self.out = scale, zero_point, out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, h, w, c] -> [b, 1, 1, c]."""
        pixels = x.shape[1] * x.shape[2]
        o, factor = self.out, self.scale / (pixels * self.out.scale)
        numbers = (self.zero_point, factor, o.zero_point, o.low, o.high)
        return torch.from_numpy(int8_pool.mean_pool(x.numpy(), *numbers)[:, None, None])


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


class IntPad(Step):
    """Pixels around an image: zeros, its own mirrored, or its edge repeated."""

    kind = "pad"
    fields: ClassVar = {
        **dict.fromkeys(("left", "right", "top", "bottom"), BORDER),
        "mode": Word(("constant", "reflect", "edge")),
        "zero_point": CODE,
    }

    def __init__(
        self, left: int, right: int, top: int, bottom: int, mode: str, zero_point: int
    ) -> None:
        super().__init__()
        self.left, self.right, self.top, self.bottom = left, right, top, bottom
        self.mode, self.zero_point = mode, zero_point

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, h, w, c] -> [b, top + h + bottom, left + w + right, c]."""
        sides = ((0, 0), (self.top, self.bottom), (self.left, self.right), (0, 0))
        filled = {"constant_values": np.uint8(self.zero_point)} if self.mode == "constant" else {}
        return torch.from_numpy(np.pad(x.numpy(), sides, self.mode, **filled))


class IntSpread(Step):
    """Zeros between pixels, and `bottom` rows and `right` columns of them at the end."""

    kind = "spread"
    fields: ClassVar = {
        "down": SIDE,
        "across": SIDE,
        "bottom": BORDER,
        "right": BORDER,
        "zero_point": CODE,
    }

    def __init__(self, down: int, across: int, bottom: int, right: int, zero_point: int) -> None:
        super().__init__()
        self.down, self.across, self.bottom, self.right = down, across, bottom, right
        self.zero_point = zero_point

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, h, w, c] -> [b, (h - 1) down + 1 + bottom, (w - 1) across + 1 + right, c]."""
        b, height, width, channels = x.shape
        rows, columns = (height - 1) * self.down + 1, (width - 1) * self.across + 1
        shape = (b, rows + self.bottom, columns + self.right, channels)
        out = np.full(shape, self.zero_point, np.uint8)
        out[:, : rows : self.down, : columns : self.across] = x.numpy()
        return torch.from_numpy(out)


class IntUpsample(Step):
    """Each pixel `down` times `across` times."""

    kind = "upsample"
    fields: ClassVar = {"down": SIDE, "across": SIDE}

    def __init__(self, down: int, across: int) -> None:
        super().__init__()
        self.down, self.across = down, across

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, h, w, c] -> [b, down h, across w, c]."""
        return torch.from_numpy(x.numpy().repeat(self.down, 1).repeat(self.across, 2))


class IntFlatten(Step):
    """Images to rows in torch's order: channels first."""

    kind = "flatten"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, h, w, c] -> [b, c * h * w]; tokens one after another; rows pass."""
        if x.ndim != 4:
            return x.reshape(len(x), -1)
        count, height, width, channels = x.shape
        if height == width == 1:
            return x.reshape(count, channels)
        return x.permute(0, 3, 1, 2).reshape(count, channels * height * width)


class IntUnflatten(Step):
    """Rows as images, in torch's order: channels first."""

    kind = "unflatten"
    fields: ClassVar = {"height": SIDE, "width": SIDE}

    def __init__(self, height: int = 1, width: int = 1) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c * h * w] -> [b, h, w, c]."""
        image = x.reshape(len(x), -1, self.height, self.width)
        return image.permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True)
class Places(Field):
    """int32 [n]: which channels, from 0."""

    def tensors(self, step: Step, name: str) -> Tensors:  # noqa: D102
        return {name: getattr(step, name)}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        found = tensors.pop(name)
        if found.dtype != torch.int32 or found.ndim != 1 or bool((found < 0).any()):
            raise ValueError(f"{name} must be torch.int32 [n] of 0 or more, found {found.dtype}")
        return {name: found.numpy()}


class IntSelect(Step):
    """Channels by their places."""

    kind = "select"
    fields: ClassVar = {"places": Places()}

    def __init__(self, places: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("places", torch.from_numpy(np.asarray(places, np.int32)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., c] -> [..., n].

        Raises:
            ValueError: if there are not so many channels.
        """
        places = self.places.numpy()
        if places.size and places.max() >= x.shape[-1]:
            raise ValueError(f"x must have more than {places.max()} channels, got {x.shape[-1]}")
        return torch.from_numpy(np.take(x.numpy(), places, axis=-1))


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
