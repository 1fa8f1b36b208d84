"""Products with low-bit weights and float activations: weights are unpacked in registers, not in memory.

    y[m, n] = sum_g s[n, g] * ( sum_{k in g} q[n, k] x[m, k]  -  z[n, g] * sum_{k in g} x[m, k] )  +  b[n]

with unsigned codes q, and one scale s and zero point z for every `group` inputs of an output. A single
row (a language model writing) reads each code once for one multiply-add, so its speed is the memory's,
and a quarter of the bits is four times the tokens, if unpacking keeps up. Turning every code into a float
does not: an AND, a conversion and a multiply-add for sixteen weights are slower than the memory. Byte dot
products do 64 at once, and an activation is a few bytes, too: within a group,

    x = u * (d_1 * 256^(D-1) + ... + d_D),      d signed bytes,      u = max|x| / (half of 256^D)

Three digits hold x to 2^-24 of the group's largest, as a float32 sum would; sums are exact in int32, and
what is left is a few operations a group. One digit is int8 activations, quantized as they come (W4A8): a
third of the work for larger batches.

Layout: a byte holds two 4-bit or four 2-bit codes; other widths take the next wider of 2, 4 and 8 bits
(in memory; in files every bit counts). A 32-bit word holds, at place t of its four bytes, the codes of
four consecutive inputs, a *quad*; a panel holds 64 outputs, word beside word, so that a vector is sixteen
outputs. Groups are padded to whole words. A scale and its zero point share a word: the zero point takes
the scale's lowest eight bits.

A row with NaN or an infinity is NaN. Left out: blocking over K; matrix tiles. From about a hundred rows
on it is faster to restore the weights and use an ordinary product. Weight-only kernels: Frantar et al. 2022
(GPTQ, https://arxiv.org/abs/2210.17323, section 4).
"""

from dataclasses import dataclass

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels._threads import split_rows
from compresslab.kernels.lowbit_loops import (
    EXACT,
    ONE,
    QUAD,
    WIDTH,
    ZERO_BITS,
    multiply,
    split_digits,
    write_floats,
)
from compresslab.kernels.panels import in_panels
from compresslab.kernels.simd import Static

ROWS = {1: Static(4), 2: Static(2), 3: ONE}
"""Rows of a tile, so that its sums (rows x digits x 64), and the digits that meet them, stay in registers."""
COLUMNS = {digits: Static(digits * WIDTH) for digits in ROWS}
TWO = Static(2)
HELD = {2: TWO, 4: Static(4), 8: Static(8)}
LARGEST_GROUP = 65_536
"""So many products of a code and a digit surely fit a sum of 32 bits: 65,536 * 255 * 128 < 2^31."""
SPLIT_MACS = 2_000_000
"""Below so many multiply-adds (about a tenth of a millisecond) a second thread costs more than it saves."""


@dataclass(frozen=True)
class PackedCodes:
    """Low-bit weights in panels, ready for the kernels.

    Attributes:
        words: uint32, flat [panels * words of a row * 64], aligned to 64 bytes.
        scales: uint32, flat [panels * groups * 64]: float32 scales whose lowest byte is the zero point.
        outputs: N.
        inputs: K.
        bits: of a code.
        group: inputs that share a scale.
    """

    words: np.ndarray
    scales: np.ndarray
    outputs: int
    inputs: int
    bits: int
    group: int

    @property
    def nbytes(self) -> int:
        """What a product reads."""
        return self.words.nbytes + self.scales.nbytes

    @property
    def panels(self) -> int:
        """Panels of 64 outputs, the last one perhaps not full."""
        return -(-self.outputs // WIDTH)

    def unpacked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes uint8 [N, K], scales and zero points float32 [N, K / group], as they are held."""
        return self.codes_of(np.arange(self.outputs))

    def codes_of(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes uint8 [n, K], scales and zero points float32 [n, K / group] of some outputs, int64 [n]."""
        panel, lane = outputs // WIDTH, outputs % WIDTH
        words, scales = (
            a.reshape(self.panels, -1, WIDTH)[panel, :, lane] for a in (self.words, self.scales)
        )
        held = held_bits(self.bits)
        shifts = np.arange(0, 8, held, dtype=np.uint8)
        rows = np.ascontiguousarray(words).view(np.uint8)
        groups, a_group = self.inputs // self.group, words_of_group(self.group, self.bits)
        quads = rows.reshape(len(outputs), groups * a_group, 1, QUAD)
        codes = quads >> shifts[:, None] & ((1 << held) - 1)
        places = a_group * len(shifts) * QUAD
        codes = codes.reshape(len(outputs), groups, places)[:, :, : self.group]
        zero = (scales & ZERO_BITS).astype(np.float32)
        shape = (len(outputs), self.inputs)
        return codes.reshape(shape).copy(), (scales & ~ZERO_BITS).view(np.float32), zero

    def rows(self, outputs: np.ndarray) -> np.ndarray:
        """The weights of some outputs, float32 [n, K]: what a table of words is read by.

        Args:
            outputs: int64 [n], each 0 to N - 1, in any order and more than once.

        Raises:
            IndexError: for one that is not there.
        """
        if outputs.size and not 0 <= int(outputs.min()) <= int(outputs.max()) < self.outputs:
            raise IndexError(
                f"rows must be 0 to {self.outputs - 1}, got {outputs.min()} to {outputs.max()}"
            )
        codes, scale, zero = self.codes_of(outputs)
        groups = codes.reshape(*scale.shape, self.group).astype(np.float32)
        return ((groups - zero[..., None]) * scale[..., None]).reshape(codes.shape)


def held_bits(bits: int) -> int:
    """Bits that a code takes in memory: 2, 4 or 8."""
    return 2 if bits <= 2 else 4 if bits <= 4 else 8


def words_of_group(group: int, bits: int) -> int:
    """32-bit words that a group takes."""
    return -(-group // (32 // held_bits(bits)))


def pack_weight(
    codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, bits: int, group: int | None = None
) -> PackedCodes:
    """Lay codes and their scales out in panels.

    Args:
        codes: uint8 [N, K], below 2^bits.
        scale: positive [N, K / group]; kept to 16 significant bits (a float16 is kept as it is).
        zero: the code that stands for 0, whole numbers 0 to 255 [N, K / group].
        bits: 2 to 8.
        group: inputs that share a scale, a divisor of K; all of a row if None.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    codes = _checks.array_of("codes", codes, np.uint8)
    bits = _checks.integer_in("bits", bits, 2, 8)
    if codes.ndim != 2 or codes.size == 0:
        raise ValueError(f"codes must have shape [N, K], none of them 0, got {codes.shape}")
    outputs, inputs = codes.shape
    group = _checks.integer_in("group", inputs if group is None else group, 1, inputs)
    if inputs % group:
        raise ValueError(f"group must divide the {inputs} inputs, got {group}")
    if group > LARGEST_GROUP:
        raise ValueError(f"group must be at most {LARGEST_GROUP:,}, got {group:,}")
    if int(codes.max()) >> bits:
        raise ValueError(f"codes must be below {1 << bits} for {bits} bits, got {codes.max()}")
    shape = (outputs, inputs // group)
    scale, zero = np.asarray(scale, np.float32), np.asarray(zero, np.float32)
    if scale.shape != shape or not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"scale must be positive and finite, of shape {shape}, got {scale.shape}")
    if zero.shape != shape or not np.isin(zero, np.arange(256)).all():
        raise ValueError(f"zero must be whole numbers 0..255 of shape {shape}, got {zero.shape}")
    held = held_bits(bits)
    places = 8 // held
    padded = np.zeros((*shape, words_of_group(group, bits) * places * QUAD), np.uint8)
    padded[:, :, :group] = codes.reshape(*shape, group)
    quads = padded.reshape(outputs, -1, places, QUAD)
    held_codes = quads << np.arange(0, 8, held, dtype=np.uint8)[:, None]
    words = np.bitwise_or.reduce(held_codes, axis=2).reshape(outputs, -1).view(np.uint32)
    # Half of what the lowest byte is worth is added first, so that cutting it off rounds.
    scales = (scale.view(np.uint32) + np.uint32(128)) & ~ZERO_BITS
    if not (np.isfinite(scales.view(np.float32)) & (scales > 0)).all():
        raise ValueError(
            "scale must be finite and positive in 16 significant bits, got one that is not"
        )
    scales |= zero.astype(np.uint32)
    return PackedCodes(
        in_panels(words, WIDTH), in_panels(scales, WIDTH), outputs, inputs, bits, group
    )


def matmul(
    x: np.ndarray,
    weight: PackedCodes,
    bias: np.ndarray | None = None,
    threads: int = 1,
    digits: int = EXACT,
) -> np.ndarray:
    """The product of float rows with low-bit weights.

    Args:
        x: float32 [M, K].
        weight: from `pack_weight`.
        bias: float32 [N].
        threads: at most so many, each with panels of its own.
        digits: bytes that an activation is held in: 3 as float32, 2 as 16-bit integers, 1 as int8, with one
            scale a group.

    Returns:
        float32 [M, N].

    Raises:
        ValueError: if x or bias have another shape or dtype, or digits is not 1, 2 or 3.
    """
    x = _checks.array_of("x", x, np.float32)
    digits = _checks.integer_in("digits", digits, 1, 3)
    if x.ndim != 2 or x.shape[1] != weight.inputs:
        raise ValueError(f"x must have shape [M, {weight.inputs}], got {x.shape}")
    if bias is not None and np.shape(bias) != (weight.outputs,):
        raise ValueError(f"bias must have shape ({weight.outputs},), got {np.shape(bias)}")
    panels, groups = weight.panels, weight.inputs // weight.group
    held = held_bits(weight.bits)
    quads = words_of_group(weight.group, weight.bits) * (8 // held)
    parts = np.zeros(len(x) * groups * quads * digits, np.int32)
    units, sums = np.empty((2, len(x) * groups), np.float32)
    split_digits(x.reshape(-1), weight.group, quads, digits, parts.view(np.int8), units, sums)
    # A byte for each code leaves registers for a second row of three digits.
    rows = TWO if digits == EXACT and held == 8 else ROWS[digits]
    rows = rows if len(x) >= rows.number else ONE
    shape = (len(x), groups, quads, panels * WIDTH)
    out = np.empty((len(x), panels * WIDTH), np.float32)
    flat = out.reshape(-1)

    def run(first: int, last: int) -> None:
        arrays = (parts, units, sums, weight.words, weight.scales)
        multiply(*arrays, shape, first, last, rows, COLUMNS[digits], HELD[held], flat)

    work = len(x) * weight.inputs * weight.outputs
    split_rows(run, panels, threads if work > SPLIT_MACS else 1)
    out = out if panels * WIDTH == weight.outputs else out[:, : weight.outputs].copy()
    if bias is not None:
        out += bias
    return out


def restore(weight: PackedCodes) -> np.ndarray:
    """The weights as floats and transposed, float32 [K, N]: for products with many rows, and gradients."""
    groups, held = weight.inputs // weight.group, held_bits(weight.bits)
    out = np.empty((weight.inputs, weight.panels * WIDTH), np.float32)
    a_group = words_of_group(weight.group, weight.bits)
    shape = (groups, weight.group, a_group, weight.panels * WIDTH)
    write_floats(weight.words, weight.scales, weight.panels, shape, HELD[held], out.reshape(-1))
    return out[:, : weight.outputs]
