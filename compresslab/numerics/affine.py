"""Affine quantization: a range of real numbers laid onto an integer grid.

    q = clip(rint(x / s) + z, low, high)        x' = (q - z) * s        |x - x'| <= s / 2 inside the range

The scale s is the real distance between neighbouring codes, the zero point z the code that stands for
0.0, so that zero (padding, ReLU, pruned weights) is exact.

    asymmetric   s = (hi - lo) / (high - low)     z = clip(rint(low - lo / s), low, high)
    symmetric    s = max(|lo|, |hi|) / high       z = 0

with lo <= 0 <= hi, the range being widened to hold zero. Jacob et al. 2018
(https://arxiv.org/abs/1712.05877), section 2.1; Nagel et al. 2021 (https://arxiv.org/abs/2106.08295),
section 2.2.

How far one (s, z) reaches is its granularity: the tensor, a channel (`axis`), or `group` consecutive
elements of the last axis. Left out: logarithmic and codebook grids (see `codebook`).
"""

from dataclasses import dataclass

import numpy as np
import torch

from compresslab.kernels import affine as kernels
from compresslab.kernels import bitpack
from compresslab.kernels._checks import SMALLEST_SCALE, channel_view
from compresslab.numerics.grid import IntGrid


@dataclass(frozen=True)
class QParams:
    """Scales and zero points of a tensor, and which elements share them.

    Attributes:
        scale: float32; shape [] per tensor, [channels] with `axis`, [..., n / group] with `group`.
        zero_point: int32, the same shape.
        grid: the codes.
        axis: the channel axis, or None.
        group: the length of a group along the last axis, or None.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    grid: IntGrid
    axis: int | None = None
    group: int | None = None

    def __post_init__(self) -> None:
        """Refuse parameters that contradict each other."""
        if self.axis is not None and self.group is not None:
            raise ValueError(
                f"axis and group exclude each other, got axis={self.axis}, group={self.group}"
            )
        if self.scale.dtype != torch.float32:
            raise ValueError(f"scale must be float32, got {self.scale.dtype}")
        if self.scale.shape != self.zero_point.shape:
            raise ValueError(
                f"zero_point must have scale's shape {tuple(self.scale.shape)}, "
                f"got {tuple(self.zero_point.shape)}"
            )


@dataclass(frozen=True)
class QTensor:
    """Integer codes and what they mean. The shape is the real tensor's.

    Attributes:
        codes: int8 (signed grid) or uint8 tensor.
        qparams: scales, zero points, grid and granularity.
    """

    codes: torch.Tensor
    qparams: QParams

    def __post_init__(self) -> None:
        """Refuse codes that the grid does not have, and scales that do not fit the shape."""
        grid = self.qparams.grid
        if self.codes.dtype != grid.dtype:
            raise ValueError(f"codes must be {grid.dtype} for {grid}, got {self.codes.dtype}")
        _, shape = channel_view(tuple(self.codes.shape), self.qparams.axis, self.qparams.group)
        if tuple(self.qparams.scale.shape) != shape:
            raise ValueError(
                f"scale must have shape {shape} for codes of shape {tuple(self.codes.shape)}, "
                f"got {tuple(self.qparams.scale.shape)}"
            )
        if self.codes.numel() and not (
            grid.low <= int(self.codes.min()) and int(self.codes.max()) <= grid.high
        ):
            raise ValueError(
                f"codes must lie in {grid.low}..{grid.high}, "
                f"got {int(self.codes.min())}..{int(self.codes.max())}"
            )

    def dequantize(self) -> torch.Tensor:
        """The real numbers the codes stand for, float32."""
        p = self.qparams
        x = kernels.dequantize(
            self.codes.numpy(), p.scale.numpy(), p.zero_point.numpy(), p.axis, p.group
        )
        return torch.from_numpy(x)

    def packed(self) -> torch.Tensor:
        """The codes minus `grid.low`, packed to `grid.bits` bits each; uint8 [ceil(n * bits / 8)]."""
        unsigned = (self.codes.to(torch.int16) - self.qparams.grid.low).to(torch.uint8)
        return torch.from_numpy(bitpack.pack(unsigned.numpy(), self.qparams.grid.bits))

    @property
    def nbytes(self) -> int:
        """Bytes of packed codes, float32 scales and, unless all are 0, one byte a zero point."""
        p = self.qparams
        zero_points = p.zero_point.numel() if bool(p.zero_point.any()) else 0
        packed = bitpack.packed_size(self.codes.numel(), p.grid.bits)
        return packed + 4 * p.scale.numel() + zero_points


def unpacked(packed: torch.Tensor, shape: tuple[int, ...], qparams: QParams) -> QTensor:
    """The inverse of `QTensor.packed`: codes of `shape` from their packed bytes."""
    count = int(np.prod(shape, dtype=np.int64))
    codes = bitpack.unpack(packed.numpy(), qparams.grid.bits, count)
    codes = torch.from_numpy(codes).to(torch.int16) + qparams.grid.low
    return QTensor(codes.to(qparams.grid.dtype).reshape(shape), qparams)


def minmax(
    x: torch.Tensor, axis: int | None = None, group: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and largest value of the tensor, of each channel or of each group."""
    (outer, channels, inner), shape = channel_view(tuple(x.shape), axis, group)
    if x.numel() == 0:
        raise ValueError(f"x must not be empty to have a range, got shape {tuple(x.shape)}")
    rows = x.reshape(outer, channels, inner)
    return rows.amin(dim=(0, 2)).reshape(shape), rows.amax(dim=(0, 2)).reshape(shape)


def affine_qparams(
    lo: torch.Tensor, hi: torch.Tensor, low: int, high: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Asymmetric scale and zero point for real ranges lo..hi on codes low..high, element by element.

    Args:
        lo: float32 tensor of any shape.
        hi: float32 tensor of the same shape, not below lo.
        low: smallest code.
        high: largest code.

    Returns:
        scale (float32) and zero point (int32) of lo's shape.
    """
    lo, hi = lo.clamp(max=0.0), hi.clamp(min=0.0)
    # Halved first: hi - lo may overflow float32.
    scale = ((hi / 2 - lo / 2) / (high - low) * 2).clamp(min=float(SMALLEST_SCALE))
    zero_point = torch.round(low - lo / scale).clamp(low, high)
    return scale, zero_point.to(torch.int32)


def choose_qparams(
    lo: torch.Tensor,
    hi: torch.Tensor,
    grid: IntGrid,
    symmetric: bool = False,
    axis: int | None = None,
    group: int | None = None,
) -> QParams:
    """Scale and zero point that lay the range lo..hi onto the grid.

    Args:
        lo: smallest real value; shape [] or one a channel or group; finite.
        hi: largest real value, the same shape; finite, not below lo.
        grid: the codes.
        symmetric: zero point 0; on an unsigned grid this needs lo >= 0.
        axis: recorded in the result.
        group: recorded in the result.

    Returns:
        QParams with scales of at least the smallest normal float32.

    Raises:
        ValueError: if the range is not finite, is reversed, or has negative numbers that a symmetric
            unsigned grid cannot hold.
    """
    lo, hi = torch.as_tensor(lo, dtype=torch.float32), torch.as_tensor(hi, dtype=torch.float32)
    if lo.shape != hi.shape:
        raise ValueError(f"lo and hi must have one shape, got {tuple(lo.shape)}, {tuple(hi.shape)}")
    if not (torch.isfinite(lo).all() and torch.isfinite(hi).all()):
        raise ValueError("lo and hi must be finite, got NaN or infinity")
    if bool((lo > hi).any()):
        raise ValueError("lo must not be above hi, got a reversed range")
    if not symmetric:
        scale, zero_point = affine_qparams(lo, hi, grid.low, grid.high)
        return QParams(scale, zero_point, grid, axis, group)
    if not grid.signed and bool((lo < 0).any()):
        raise ValueError(f"lo must be >= 0 for a symmetric unsigned grid, got {lo.min():.6g}")
    scale = (torch.maximum(-lo, hi) / grid.high).clamp(min=float(SMALLEST_SCALE))
    return QParams(scale, torch.zeros(scale.shape, dtype=torch.int32), grid, axis, group)


def quantize(x: torch.Tensor, qparams: QParams) -> QTensor:
    """Codes of a float32 tensor under given scales and zero points.

    Raises:
        ValueError: naming the argument, for NaN, another dtype, or scales of another shape.
    """
    p = qparams
    if not isinstance(x, torch.Tensor) or x.dtype != torch.float32:
        raise ValueError(f"x must be a float32 tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    codes = kernels.quantize(
        x.detach().numpy(),
        p.scale.numpy(),
        p.zero_point.numpy(),
        p.grid.low,
        p.grid.high,
        p.axis,
        p.group,
    )
    return QTensor(torch.from_numpy(codes), p)


def quantize_minmax(
    x: torch.Tensor,
    grid: IntGrid,
    symmetric: bool = True,
    axis: int | None = None,
    group: int | None = None,
) -> QTensor:
    """Quantize with the scales that the tensor's own extremes ask for."""
    x = x.detach()
    return quantize(x, choose_qparams(*minmax(x, axis, group), grid, symmetric, axis, group))
