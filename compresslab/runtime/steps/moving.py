"""Steps that move codes and compute nothing: borders, zeros between pixels, copies, rows, chosen channels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from compresslab.runtime.steps.integer import CODE
from compresslab.runtime.steps.pooling import BORDER, SIDE
from compresslab.runtime.steps.step import Field, Step, Tensors, Word


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
        channels = x.shape[1] // (self.height * self.width)
        image = x.reshape(len(x), channels, self.height, self.width)
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
