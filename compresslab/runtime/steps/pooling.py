"""Pooling of codes: the largest of a window, which is the largest number too, and means.

    max     the code itself; scale and zero point stay
    mean    sums of codes, onto the scale of what follows

Where windows are plain squares without overlap there is a kernel of its own.
"""

from typing import ClassVar

import torch

from compresslab.kernels import int8_pool
from compresslab.runtime.steps.integer import CODE
from compresslab.runtime.steps.step import Codes, Meaning, Positive, Step, Whole

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
