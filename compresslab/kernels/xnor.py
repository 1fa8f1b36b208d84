"""Binary matrix products: one bit a number, XNOR and a population count (按位同或与计数) for a dot product.

Bit 1 stands for +1, bit 0 for -1, and sign(0) = +1. Two equal bits multiply to +1, two different ones to -1:

    dot(a, b) = (equal bits) - (different bits) = K - 2 * popcount(a xor b)

so one 64-bit word does 64 multiply-adds in three instructions. XNOR-Net (Rastegari et al. 2016,
https://arxiv.org/abs/1603.05279, sections 3.1 and 3.2) gives each output its scale alpha[n], each input row
(in a convolution: each position) its scale k[m]. What happens to a sum follows from the result's dtype:

    int32         dot
    float32       dot * alpha[n] * k[m] + b[n]
    uint64        bit n = (dot >= t[n]) xor flip[n]        batch norm and the next sign in one comparison

Layout: rows are padded with 0 bits to whole 64-bit words, bit b of word w being element 64 w + b. Weights
lie in panels of `width` outputs, word beside word, so a tile of `rows` x `width` counts stays in vector
registers and is never summed across lanes. The loops read 32-bit halves: a K of 32 then costs half a K of 64.

Left out: blocking over K (a panel of 64 outputs fits the first-level cache up to K = 4,000, the second up to
100,000), ternary products.
"""

from dataclasses import dataclass

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels._threads import split_rows
from compresslab.kernels.panels import ONE, ROWS, WIDTHS, in_panels
from compresslab.kernels.xnor_loops import HALF, WORD, multiply, sign_rows

SPLIT_BITS = 60_000_000
"""Below so many bit products (about a tenth of a millisecond) a second thread costs more than it saves."""


@dataclass(frozen=True)
class PackedSigns:
    """Weight signs in panels, ready for the kernels.

    Attributes:
        panels: uint32, flat [panels * halves * width], aligned to 64 bytes.
        outputs: N.
        inputs: K.
        width: outputs of a panel: 16, 32 or 64.
    """

    panels: np.ndarray
    outputs: int
    inputs: int
    width: int

    @property
    def padded(self) -> int:
        """Outputs with those that only fill the last panel."""
        return -(-self.outputs // self.width) * self.width

    def unpacked(self) -> np.ndarray:
        """The signs as sign words, uint64 [N, ceil(K / 64)]."""
        halves = self.panels.size // self.padded
        rows = self.panels.reshape(-1, halves, self.width).transpose(0, 2, 1)
        words = np.zeros((self.outputs, -(-halves // 2) * 2), np.uint32)
        words[:, :halves] = rows.reshape(self.padded, halves)[: self.outputs]
        return words.view(np.uint64)


@dataclass(frozen=True)
class Scales:
    """How counts become real numbers: dot * alpha[n] * k[m] + offset[n]; padded to the panels' length."""

    alpha: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class Thresholds:
    """How counts become signs: (dot >= at_least[n]) xor bit n of `flip`.

    Attributes:
        at_least: int32, padded to the panels' length; the padding is above every sum.
        flip: uint64 [ceil(N / 64)].
    """

    at_least: np.ndarray
    flip: np.ndarray


def words_of(count: int) -> int:
    """64-bit words that so many signs take."""
    return -(-count // WORD)


def pack_signs(x: np.ndarray) -> np.ndarray:
    """The sign bits of every row.

    Args:
        x: float32 [M, K].

    Returns:
        uint64 [M, ceil(K / 64)]; bit 1 where x >= 0, unused bits 0.

    Raises:
        ValueError: if x is not a matrix of float32, or holds NaN, which has no sign.
    """
    return pack_rows(x)[0]


def pack_rows(x: np.ndarray, magnitudes: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The sign bits of every row, and if wanted the mean magnitude of each (k of XNOR-Net, equation 11).

    Returns:
        uint64 [M, ceil(K / 64)], and float32 [M] (or [0]).
    """
    x = _checks.array_of("x", x, np.float32)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"x must have shape [M, K] with K >= 1, got {x.shape}")
    words = np.zeros((len(x), words_of(x.shape[1])), np.uint64)
    means = np.empty(len(x) if magnitudes else 0, np.float32)
    limits, flip = np.zeros(x.shape[1], np.float32), np.zeros(words.shape[1], np.uint64)
    if sign_rows(x.reshape(-1), x.shape, limits, flip, words.reshape(-1), means):
        _checks.refuse_nan("x", x)
    return words, means


def unpack_signs(words: np.ndarray, count: int) -> np.ndarray:
    """The first `count` signs of every row, float32 [M, count] of -1 and +1."""
    words = _checks.array_of("words", words, np.uint64)
    if words.ndim != 2 or words.shape[1] != words_of(count):
        raise ValueError(f"words must have shape [M, {words_of(count)}], got {words.shape}")
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :count]
    return np.where(bits, np.float32(1), np.float32(-1))


def pack_weight(words: np.ndarray, inputs: int) -> PackedSigns:
    """Lay sign words out in panels.

    Args:
        words: uint64 [N, ceil(K / 64)], unused bits 0.
        inputs: K.

    Raises:
        ValueError: if shape or dtype differ, or an unused bit is set.
    """
    words = _checks.array_of("words", words, np.uint64)
    inputs = _checks.integer_in("inputs", inputs, 1, 1 << 30)
    if words.ndim != 2 or words.shape[1] != words_of(inputs) or len(words) == 0:
        raise ValueError(
            f"words must have shape [N, {words_of(inputs)}] with N >= 1, got {words.shape}"
        )
    if inputs % WORD and (words[:, -1] >> np.uint64(inputs % WORD)).any():
        raise ValueError(f"words must be 0 beyond bit {inputs}, got a 1 there")
    return panels_of(words.view(np.uint32)[:, : -(-inputs // HALF)], inputs)


def panels_of(halves: np.ndarray, inputs: int) -> PackedSigns:
    """Panels from rows of 32-bit words, as many as the loop will read."""
    outputs = len(halves)
    width = 16 if outputs <= 16 else 32 if outputs <= 32 else 64
    return PackedSigns(in_panels(halves, width), outputs, inputs, width)


def scales(
    weight: PackedSigns, alpha: np.ndarray | None = None, bias: np.ndarray | None = None
) -> Scales:
    """The epilogue that gives real numbers; alpha and bias are float32 [N], 1 and 0 if None.

    Raises:
        ValueError: for another shape or dtype, or numbers that are not finite.
    """
    alpha = alpha if alpha is None else _checks.parameter("alpha", alpha, weight.outputs)
    bias = bias if bias is None else _checks.parameter("bias", bias, weight.outputs)
    full = np.zeros(weight.padded, np.float32), np.zeros(weight.padded, np.float32)
    full[0][: weight.outputs] = 1 if alpha is None else alpha
    full[1][: weight.outputs] = 0 if bias is None else bias
    return Scales(*full)


def thresholds(weight: PackedSigns, at_least: np.ndarray, flip: np.ndarray) -> Thresholds:
    """The epilogue that gives the next layer's signs.

    Args:
        weight: packed [N, K].
        at_least: the sums from which a sign is +1, int32 or int64 [N], within int32.
        flip: bool [N], outputs whose signs are turned round.

    Raises:
        ValueError: for another shape or dtype.
    """
    full = np.full(weight.padded, np.iinfo(np.int32).max, np.int32)
    at_least = _checks.parameter("at_least", at_least, weight.outputs, np.int32, np.int64)
    if np.abs(at_least).max(initial=0) > np.iinfo(np.int32).max:
        raise ValueError(f"at_least must lie within int32, got {np.abs(at_least).max()}")
    full[: weight.outputs] = at_least
    return Thresholds(full, flip_words(_checks.parameter("flip", flip, weight.outputs, np.bool_)))


def flip_words(flip: np.ndarray) -> np.ndarray:
    """Booleans [N] as sign words uint64 [ceil(N / 64)]."""
    bits = np.zeros(words_of(len(flip)) * WORD, np.uint8)
    bits[: len(flip)] = flip
    return np.packbits(bits, bitorder="little").view(np.uint64)


def matmul(x: np.ndarray, weight: PackedSigns, threads: int = 1) -> np.ndarray:
    """The exact product of two sign matrices.

    Args:
        x: sign words, uint64 [M, ceil(K / 64)].
        weight: packed [N, K].
        threads: at most so many.

    Returns:
        int32 [M, N].

    Raises:
        ValueError: if x has another shape or dtype.
    """
    x = _rows(x, weight)
    out = np.empty((len(x), weight.outputs), np.int32)
    _run(x, weight, (NOTHING, NOTHING, NOTHING), out, threads)
    return out


def matmul_scaled(
    x: np.ndarray,
    weight: PackedSigns,
    epilogue: Scales,
    row_scale: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """The product in real numbers, float32 [M, N]; as `matmul`, and row_scale k float32 [M]."""
    x = _rows(x, weight)
    out = np.empty((len(x), weight.outputs), np.float32)
    if row_scale is None:
        rows = np.ones(len(x), np.float32)
    else:
        rows = _checks.parameter("row_scale", row_scale, len(x))
    _run(x, weight, (epilogue.alpha, epilogue.offset, rows), out, threads)
    return out


def matmul_signs(
    x: np.ndarray, weight: PackedSigns, epilogue: Thresholds, threads: int = 1
) -> np.ndarray:
    """The product as the next layer's signs; arguments as in `matmul`; uint64 [M, ceil(N / 64)]."""
    x = _rows(x, weight)
    out = np.empty((len(x), words_of(weight.outputs)), np.uint64)
    _run(x, weight, (epilogue.at_least, epilogue.flip, NOTHING), out, threads)
    return out


def linear(
    x: np.ndarray,
    weight: PackedSigns,
    epilogue: Scales,
    magnitudes: bool = False,
    threads: int = 1,
) -> np.ndarray:
    """A whole binary layer on floats: sign, pack, multiply, scale.

    Args:
        x: float32 [M, K].
        weight: packed [N, K].
        epilogue: from `scales`.
        magnitudes: whether to scale each row by its mean magnitude.
        threads: at most so many.

    Returns:
        float32 [M, N].
    """
    words, means = pack_rows(x, magnitudes)
    return matmul_scaled(words, weight, epilogue, means if magnitudes else None, threads)


NOTHING = np.zeros(1, np.int32)


def _rows(x: np.ndarray, weight: PackedSigns) -> np.ndarray:
    x = _checks.array_of("x", x, np.uint64)
    if x.ndim != 2 or x.shape[1] != words_of(weight.inputs):
        raise ValueError(f"x must have shape [M, {words_of(weight.inputs)}], got {x.shape}")
    return x


def _run(
    x: np.ndarray, weight: PackedSigns, epilogue: tuple, out: np.ndarray, threads: int
) -> None:
    halves, flat = x.reshape(-1).view(np.uint32), out.reshape(-1)
    shape = (2 * x.shape[1], weight.panels.size // weight.padded, weight.inputs, weight.outputs)
    rows, width = ROWS[weight.width], WIDTHS[weight.width]
    rows = rows if len(x) >= rows.number else ONE

    def run(first: int, last: int) -> None:
        multiply(halves, weight.panels, epilogue, shape, first, last, rows, width, flat)

    work = len(x) * weight.inputs * weight.outputs
    split_rows(run, len(x), threads if work > SPLIT_BITS else 1, rows.number)
