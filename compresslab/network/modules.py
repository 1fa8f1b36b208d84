"""Modules that a graph in normal form needs and torch has not: arithmetic and rearrangements as modules."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import nn


class Affine(nn.Module):
    """x * scale + shift, with plain numbers."""

    def __init__(self, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.scale, self.shift = float(scale), float(shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of any shape."""
        return x * self.scale + self.shift

    def extra_repr(self) -> str:
        """Both numbers."""
        return f"{self.scale}, {self.shift}"


class Scale(nn.Module):
    """x * weight along the last axis, as layers of transformers and ConvNeXt scale their results."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., c] -> [..., c]."""
        return x * self.weight


class PerChannel(nn.BatchNorm2d):
    """x * weight + bias, two numbers for each channel of an image, which fold into a layer as a norm does.

    It knows no batch: in training it computes what it does in evaluation.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, trained: bool) -> None:
        super().__init__(len(weight), eps=0.0)
        self.weight = nn.Parameter(weight.detach().clone(), trained)
        self.bias = nn.Parameter(bias.detach().clone(), trained)
        self.__module__ = (
            nn.BatchNorm2d.__module__
        )  # torch.fx keeps whole what says it is torch.nn's
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)


class Select(nn.Module):
    """Channels by their places: a slice, a part of a split, a shuffle."""

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("places", torch.tensor(list(places), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, ...] -> [b, len(places), ...]."""
        return x[:, self.places]


class ChannelsLast(nn.Module):
    """[b, c, h, w] -> [b, h, w, c]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The axes in another order."""
        return x.permute(0, 2, 3, 1)


class ChannelsFirst(nn.Module):
    """[b, h, w, c] -> [b, c, h, w]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The axes in another order."""
        return x.permute(0, 3, 1, 2)


class Spread(nn.Module):
    """Zeros between pixels and behind the last ones: [b, c, h, w] -> [b, c, (h - 1) s + 1 + e, ...]."""

    def __init__(self, stride: tuple[int, int], extra: tuple[int, int]) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every pixel at a multiple of the stride."""
        sizes = [
            (n - 1) * s + 1 + e
            for n, s, e in zip(x.shape[2:], self.stride, self.extra, strict=True)
        ]
        out = x.new_zeros(*x.shape[:2], *sizes)
        out[
            ...,
            : sizes[0] - self.extra[0] : self.stride[0],
            : sizes[1] - self.extra[1] : self.stride[1],
        ] = x
        return out


def parameter(tensor: torch.Tensor) -> nn.Parameter:
    """The parameter itself, or a buffer as a parameter that is not trained."""
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)
