"""Products with 4-bit floats that share a scale a block (MXFP4, NVFP4): decoded in registers.

    y[m, n] = sum_b s[n, b] * sum_{k in b} e(c[n, k]) x[m, k]  +  b[n]

with codes c of E2M1: a sign and the elements 0, 0.5, 1, 1.5, 2, 3, 4, 6. Processors that know the format
multiply it as it is. Here a float is made of each code first, and the elements lie on three lines:

    e(c) = max(c / 2, c - 2, 2 c - 8)        for c from 0 to 7; the sign is put back behind

which is a multiply-add, a multiplication and two maxima for sixteen weights. Integer codes (`lowbit`) need
none of this: they go into byte products as they are. (Doubled elements are whole numbers, so a table of
sixteen bytes and byte products would do here as well, where a processor looks up sixteen bytes at once: left
out.)

Layout: a 32-bit word holds the codes of eight consecutive inputs of an output, the first in its lowest bits;
a panel holds 16 outputs, word beside word. Scales are float32 [panels, blocks, 16].

Left out: activations in bytes, blocking over K. From `MANY_ROWS` rows on it is faster to restore the weights.
"""

from dataclasses import dataclass

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels._jit import kernel
from compresslab.kernels._threads import split_rows
from compresslab.kernels.panels import in_panels
from compresslab.kernels.simd import (
    at,
    bitcast,
    convert,
    f32x16,
    fma,
    load,
    splat,
    store,
    u32x16,
    vmax,
)

WIDTH, CODES = 16, 8
"""Outputs of a panel, and codes of a word."""
MANY_ROWS = 12
SPLIT_MACS = 1_000_000


@dataclass(frozen=True)
class PackedBlocks:
    """4-bit floats in panels, ready for the kernel.

    Attributes:
        words: uint32, flat [panels * K / 8 * 16], aligned to 64 bytes.
        scales: float32, flat [panels * K / block * 16].
        outputs: N.
        inputs: K.
        block: inputs that share a scale.
    """

    words: np.ndarray
    scales: np.ndarray
    outputs: int
    inputs: int
    block: int

    @property
    def nbytes(self) -> int:
        """What a product reads."""
        return self.words.nbytes + self.scales.nbytes

    @property
    def panels(self) -> int:
        """Panels of 16 outputs, the last one perhaps not full."""
        return -(-self.outputs // WIDTH)

    def unpacked(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes uint8 [N, K] and scales float32 [N, K / block], as they are held."""
        words, scales = (
            a.reshape(self.panels, -1, WIDTH).transpose(0, 2, 1).reshape(self.panels * WIDTH, -1)
            for a in (self.words, self.scales)
        )
        codes = words[: self.outputs, :, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15
        return codes.astype(np.uint8).reshape(self.outputs, -1), scales[: self.outputs].copy()


def pack_weight(codes: np.ndarray, scales: np.ndarray, block: int) -> PackedBlocks:
    """Lay codes and the scales of their blocks out in panels.

    Args:
        codes: uint8 [N, K], 0 to 15.
        scales: float32 [N, K / block], finite, 0 or larger.
        block: inputs that share a scale, a multiple of 8 that divides K.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    codes = _checks.array_of("codes", codes, np.uint8)
    scales = _checks.array_of("scales", scales, np.float32)
    if codes.ndim != 2 or codes.size == 0 or int(codes.max()) > 15:
        raise ValueError(
            f"codes must be 0 to 15 of shape [N, K], none of them 0, got {codes.shape}"
        )
    outputs, inputs = codes.shape
    block = _checks.integer_in("block", block, CODES, inputs)
    if block % CODES or inputs % block:
        raise ValueError(
            f"block must be a multiple of {CODES} that divides the {inputs} inputs, got {block}"
        )
    shape = (outputs, inputs // block)
    if scales.shape != shape or not (np.isfinite(scales) & (scales >= 0)).all():
        raise ValueError(f"scales must be finite, 0 or larger, of {shape}, got {scales.shape}")
    nibbles = codes.reshape(outputs, -1, CODES).astype(np.uint32)
    words = np.bitwise_or.reduce(nibbles << np.arange(0, 32, 4, dtype=np.uint32), axis=2)
    return PackedBlocks(in_panels(words, WIDTH), in_panels(scales, WIDTH), outputs, inputs, block)


def matmul(
    x: np.ndarray, weight: PackedBlocks, bias: np.ndarray | None = None, threads: int = 1
) -> np.ndarray:
    """The product of float rows with 4-bit floats, by the way that is faster for so many rows.

    Args:
        x: float32 [M, K].
        weight: from `pack_weight`.
        bias: float32 [N].
        threads: at most so many, each with panels of its own.

    Returns:
        float32 [M, N].

    Raises:
        ValueError: if x or bias have another shape or dtype.
    """
    x = _checks.array_of("x", x, np.float32)
    if x.ndim != 2 or x.shape[1] != weight.inputs:
        raise ValueError(f"x must have shape [M, {weight.inputs}], got {x.shape}")
    if bias is not None:
        bias = _checks.array_of("bias", bias, np.float32)
        if bias.shape != (weight.outputs,):
            raise ValueError(f"bias must have shape ({weight.outputs},), got {bias.shape}")
    if len(x) < MANY_ROWS:
        out = np.empty((len(x), weight.panels * WIDTH), np.float32)
        shape = (len(x), weight.inputs, weight.block)

        def run(first: int, last: int) -> None:
            _multiply(x, weight.words, weight.scales, shape, first, last, out)

        work = len(x) * weight.inputs * weight.outputs
        split_rows(run, weight.panels, threads if work > SPLIT_MACS else 1)
        out = np.ascontiguousarray(out[:, : weight.outputs])
    else:
        out = x @ restore(weight)
    if bias is not None:
        out += bias
    return out


def restore(weight: PackedBlocks) -> np.ndarray:
    """The weights as floats and transposed, float32 [K, N]: for products with many rows."""
    out = np.empty((weight.inputs, weight.panels * WIDTH), np.float32)
    _write_floats(weight.words, weight.scales, weight.panels, weight.block, out)
    return out[:, : weight.outputs]


@kernel(forceinline=True)
def _decoded(words, shift):
    """The elements of sixteen outputs at one place of their words."""
    code = words >> splat(shift, u32x16)
    size = convert(code & splat(np.uint32(7), u32x16), f32x16)
    two = splat(np.float32(2), f32x16)
    value = vmax(size * splat(np.float32(0.5), f32x16), size - two)
    value = vmax(value, fma(size, two, splat(np.float32(-8), f32x16)))
    sign = (code & splat(np.uint32(8), u32x16)) << splat(np.uint32(28), u32x16)
    return bitcast(bitcast(value, u32x16) | sign, f32x16)


@kernel
def _multiply(x, words, scales, shape, first, last, out):
    """Panels first..last of the product, row by row."""
    rows, inputs, block = shape
    width = out.shape[1]
    for panel in range(first, last):
        for row in range(rows):
            total = splat(np.float32(0), f32x16)
            for b in range(inputs // block):
                part = splat(np.float32(0), f32x16)
                for w in range(b * block // 8, (b + 1) * block // 8):
                    word = load(words, (panel * (inputs // 8) + w) * 16, u32x16)
                    for place in range(8):
                        element = _decoded(word, np.uint32(4 * place))
                        part = fma(
                            element, splat(at(x, row * inputs + 8 * w + place), f32x16), part
                        )
                scale = load(scales, (panel * (inputs // block) + b) * 16, f32x16)
                total = fma(part, scale, total)
            store(out, row * width + panel * 16, total)


@kernel
def _write_floats(words, scales, panels, block, out):
    """All weights of all panels, transposed; eight rows at a time are written from end to end."""
    inputs, width = out.shape
    for w in range(inputs // 8):
        for panel in range(panels):
            word = load(words, (panel * (inputs // 8) + w) * 16, u32x16)
            scale = load(scales, (panel * (inputs // block) + 8 * w // block) * 16, f32x16)
            for place in range(8):
                element = _decoded(word, np.uint32(4 * place))
                store(out, (8 * w + place) * width + panel * 16, element * scale)
