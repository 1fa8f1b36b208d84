"""Weights of integer products as the kernels read them, and what happens to a sum.

Layout: panels of `width` output columns in which the four consecutive k of a column are adjacent, as the byte
dot product takes them; K is padded to a multiple of four with zero weights. A tile of `rows` x `width` sums
stays in 16 vector registers (rows of one for a single input).

    acc[m, n] = sum_k  x[m, k] * w[n, k] + (b[n] - z * sum_k w[n, k])

The bracket does not depend on x: it is the value the sums start from, so a zero point costs nothing.

    Dequantize    acc * r[m] * s[n] + c[n]                          float32, the last layer
    Requantize    clip(rint(acc * f[n]) + z', low, high)            uint8, the next layer's codes

with f = s_x * s_w / s_y (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 2.2; f stays a float
here, where that paper uses fixed point). A ReLU is low = z'.
"""

from dataclasses import dataclass

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels.simd import Static

LANES = 16


ONE, SIXTEEN = Static(1), Static(16)


ROWS = {16: Static(8), 32: Static(8), 64: Static(4)}


WIDTHS = {16: Static(16), 32: Static(32), 64: Static(64)}


@dataclass(frozen=True)
class Requantize:
    """How sums become codes: clip(rint(acc * factor) + zero, low, high), from sums begun at `start`."""

    start: np.ndarray
    factor: np.ndarray
    zero: np.float32
    low: np.float32
    high: np.float32


@dataclass(frozen=True)
class Dequantize:
    """How sums become real numbers: acc * r[m] * scale + offset, from sums begun at `start`."""

    start: np.ndarray
    scale: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class PackedWeight:
    """Weights in panels, ready for the kernels.

    Attributes:
        panels: int8, flat [panels * words * width * 4], aligned to 64 bytes.
        sums: int32 [panels * width], the sum of each output's weights.
        outputs: N.
        inputs: K.
        width: output columns of a panel: 16, 32 or 64.
        runs: equal parts of K that are filled up to whole words each: the lines of a convolution's window.
    """

    panels: np.ndarray
    sums: np.ndarray
    outputs: int
    inputs: int
    width: int
    runs: int = 1

    @property
    def words(self) -> int:
        """Groups of four along K, the padding included."""
        return self.panels.size // (self.sums.size * 4)

    @property
    def fits_tiles(self) -> bool:
        """Whether matrix tiles can read the panels: 64 outputs wide, K padded to a multiple of 64."""
        return self.width == 64 and self.words % 16 == 0

    def unpacked(self) -> np.ndarray:
        """The weights as they were packed, int8 [N, K]."""
        count, run = self.sums.size // self.width, self.inputs // self.runs
        panels = self.panels.reshape(count, self.words, self.width, 4).transpose(0, 2, 1, 3)
        rows = panels.reshape(count * self.width, -1)[: self.outputs]
        stride = -(-run // 4) * 4
        parts = rows[:, : self.runs * stride].reshape(self.outputs, self.runs, stride)
        return parts[:, :, :run].reshape(self.outputs, self.inputs).copy()

    def requantize(
        self,
        zero_point: int,
        bias: np.ndarray | None,
        multiplier: np.ndarray,
        out_zero: int,
        low: int,
        high: int,
    ) -> Requantize:
        """The epilogue that gives the next layer's codes.

        Args:
            zero_point: of the inputs.
            bias: int32 [N], in units of s_x * s_w.
            multiplier: s_x * s_w / s_y, float32 [N].
            out_zero: zero point of the results.
            low: smallest code, 0 or more; `out_zero` for a fused ReLU.
            high: largest code, at most 255.

        Raises:
            ValueError: for another shape or dtype, numbers that are not finite, codes outside 0..255.
        """
        numbers = _checks.output_codes(out_zero, low, high)
        factor = self.spread(_checks.parameter("multiplier", multiplier, self.outputs))
        return Requantize(self.start(bias, zero_point), factor, *numbers)

    def dequantize(
        self, zero_point: int, scale: np.ndarray, bias: np.ndarray | None = None
    ) -> Dequantize:
        """The epilogue that gives real numbers.

        Args:
            zero_point: of the inputs.
            scale: s_x * s_w, or s_w where every row has its own s_x; float32 [N].
            bias: float32 [N].

        Raises:
            ValueError: for another shape or dtype, or numbers that are not finite.
        """
        bias = np.zeros(self.outputs, np.float32) if bias is None else bias
        offset = self.spread(_checks.parameter("bias", bias, self.outputs))
        scale = self.spread(_checks.parameter("scale", scale, self.outputs))
        return Dequantize(self.start(None, zero_point), scale, offset)

    def start(self, bias: np.ndarray | None, zero_point: int) -> np.ndarray:
        """What the sums begin with: bias - zero_point * sums, int32 [panels * width]."""
        start = (-zero_point * self.sums.astype(np.int64)).astype(np.int32)
        if bias is not None:
            start[: self.outputs] += _checks.parameter("bias", bias, self.outputs, np.int32)
        return start

    def spread(self, parameter: np.ndarray) -> np.ndarray:
        """A float32 [N] parameter at the panels' full length."""
        full = np.zeros(self.sums.size, np.float32)
        full[: self.outputs] = parameter
        return full


def aligned(size: int, dtype: type) -> np.ndarray:
    """A zeroed flat array on a 64-byte boundary: no vector load then straddles two cache lines."""
    count = size * np.dtype(dtype).itemsize
    raw = np.zeros(count + 64, np.uint8)
    offset = -raw.ctypes.data % 64
    return raw[offset : offset + count].view(dtype)


def in_panels(rows: np.ndarray, width: int) -> np.ndarray:
    """[N, columns] as flat [N / width, columns, width], aligned, with rows of 0 to fill the last panel."""
    outputs, columns = rows.shape
    panels = -(-outputs // width)
    padded = np.zeros((panels * width, columns), rows.dtype)
    padded[:outputs] = rows
    packed = aligned(padded.size, rows.dtype)
    by_panel = padded.reshape(panels, width, columns).transpose(0, 2, 1)
    packed.reshape(panels, columns, width)[...] = by_panel
    return packed


def pack_weight(weight: np.ndarray, runs: int = 1) -> PackedWeight:
    """Lay int8 weights [N, K] out in panels.

    Args:
        weight: the codes.
        runs: equal parts of K that begin with a word of their own: the lines of a convolution's window.

    Raises:
        ValueError: if the weight is not a two-dimensional, non-empty int8 array, or K has no such parts.
    """
    weight = _checks.array_of("weight", weight, np.int8)
    if weight.ndim != 2 or weight.size == 0:
        raise ValueError(f"weight must have shape [N, K], none of them 0, got {weight.shape}")
    outputs, inputs = weight.shape
    if runs < 1 or inputs % runs:
        raise ValueError(f"runs must divide the {inputs} inputs, got {runs}")
    width = 16 if outputs <= 16 else 32 if outputs <= 32 else 64
    run = inputs // runs
    stride = -(-run // 4) * 4
    panels, words = -(-outputs // width), runs * stride // 4
    for_tiles = -(-runs * stride // 64) * 16
    if width == 64 and for_tiles * 4 <= 1.25 * runs * stride:
        words = for_tiles
    padded = np.zeros((panels * width, words * 4), np.int8)
    parts = padded[:, : runs * stride].reshape(panels * width, runs, stride)
    parts[:outputs, :, :run] = weight.reshape(outputs, runs, run)
    packed = aligned(padded.size, np.int8)
    by_panel = padded.reshape(panels, width, words, 4).transpose(0, 2, 1, 3)
    packed.reshape(panels, words, width, 4)[...] = by_panel
    sums = padded.astype(np.int32).sum(axis=1, dtype=np.int32)
    return PackedWeight(packed, sums, outputs, inputs, width, runs)
