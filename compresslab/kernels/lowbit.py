"""Products with low-bit weights and float activations: weights are unpacked in registers, not in memory.

    y[m, n] = sum_g s[n, g] * ( sum_{k in g} q[n, k] x[m, k]  -  z[n, g] * sum_{k in g} x[m, k] )  +  b[n]

with unsigned b-bit codes q and one scale s and zero point z for every `group` inputs of an output. A
single row (a language model writing) reads each code once for one multiply-add, so its speed is the
memory's, and a quarter of the bits is four times the tokens, if unpacking keeps up. The bracket's second
sum does not depend on n: it is computed once a row, and a zero point costs one subtraction a group.

Layout: a 32-bit word holds T = 32 // b codes of one output, consecutive k from the low bits up (b = 3:
ten, and two bits unused); a panel holds 64 outputs, word beside word, so that a vector register is
sixteen outputs. Groups are padded to whole words with codes of 0.

No code is ever shifted. `word & mask` leaves q * 2^(b t), which converts to float exactly, and x[k + t]
is multiplied by 2^(-b t) beforehand (exact, too, unless it falls below the smallest float): an AND, a
conversion and a multiply-add for sixteen weights. Prefetching 16 KB ahead hides the memory's latency.

Cited for the idea of weight-only kernels: Frantar et al. 2022 (GPTQ, https://arxiv.org/abs/2210.17323,
section 4). Left out: blocking over K and integer activations, which a large batch would want (`int8`):
from about thirty rows on it is faster to restore the weights and use an ordinary product.
"""

from dataclasses import dataclass

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels._jit import kernel
from compresslab.kernels._threads import split_rows
from compresslab.kernels.int8 import aligned
from compresslab.kernels.simd import (
    Static,
    at,
    convert,
    f32x16,
    fma,
    load,
    prefetch,
    register_tile,
    splat,
    store,
    u32x16,
    value,
)

LANES, WIDTH = 16, 64
PANEL = Static(WIDTH)
AHEAD = 4096
ONE, FOUR = Static(1), Static(4)
BITS = {bits: Static(bits) for bits in range(2, 9)}
SPLIT_MACS = 2_000_000
"""Below so many multiply-adds (about a tenth of a millisecond) a second thread costs more than it saves."""


@dataclass(frozen=True)
class PackedCodes:
    """Low-bit weights in panels, ready for the kernels.

    Attributes:
        words: uint32, flat [panels * words of a row * 64], aligned to 64 bytes.
        scale: float32, flat [panels * groups * 64].
        zero: float32, the same length.
        outputs: N.
        inputs: K.
        bits: of a code.
        group: inputs that share a scale.
    """

    words: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    outputs: int
    inputs: int
    bits: int
    group: int

    @property
    def nbytes(self) -> int:
        """What a product reads."""
        return self.words.nbytes + self.scale.nbytes + self.zero.nbytes

    @property
    def panels(self) -> int:
        """Panels of 64 outputs, the last one perhaps not full."""
        return -(-self.outputs // WIDTH)

    def unpacked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes uint8 [N, K], scales and zero points float32 [N, K / group], as they were packed."""
        a_word, groups = 32 // self.bits, self.inputs // self.group
        words, scale, zero = (
            a.reshape(self.panels, -1, WIDTH).transpose(0, 2, 1).reshape(self.panels * WIDTH, -1)
            for a in (self.words, self.scale, self.zero)
        )
        shifts = np.arange(a_word, dtype=np.uint32) * np.uint32(self.bits)
        codes = (words[: self.outputs, :, None] >> shifts) & np.uint32((1 << self.bits) - 1)
        codes = codes.astype(np.uint8).reshape(self.outputs, groups, -1)[:, :, : self.group]
        shape = (self.outputs, self.inputs)
        rest = (np.ascontiguousarray(a[: self.outputs]) for a in (scale, zero))
        return codes.reshape(shape).copy(), *rest


def words_of_group(group: int, bits: int) -> int:
    """32-bit words that a group takes."""
    return -(-group // (32 // bits))


def pack_weight(
    codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, bits: int, group: int | None = None
) -> PackedCodes:
    """Lay codes and their scales out in panels.

    Args:
        codes: uint8 [N, K], below 2^bits.
        scale: float32 [N, K / group].
        zero: what code stands for 0, numbers [N, K / group]; it need not be a code itself.
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
    if int(codes.max()) >> bits:
        raise ValueError(f"codes must be below {1 << bits} for {bits} bits, got {codes.max()}")
    groups = inputs // group
    for name, numbers in {"scale": scale, "zero": zero}.items():
        if np.shape(numbers) != (outputs, groups) or not np.isfinite(numbers).all():
            raise ValueError(
                f"{name} must be finite, of shape {(outputs, groups)}, got {np.shape(numbers)}"
            )
    a_word = 32 // bits
    padded = np.zeros((outputs, groups, words_of_group(group, bits) * a_word), np.uint32)
    padded[:, :, :group] = codes.reshape(outputs, groups, group)
    words = np.zeros((outputs, groups * words_of_group(group, bits)), np.uint32)
    for place in range(a_word):
        words |= padded.reshape(outputs, -1)[:, place::a_word] << np.uint32(bits * place)
    scale, zero = np.asarray(scale, np.float32), np.asarray(zero, np.float32)
    return PackedCodes(*map(_panels, (words, scale, zero)), outputs, inputs, bits, group)


def _panels(rows: np.ndarray) -> np.ndarray:
    """[N, columns] as flat [N / 64, columns, 64], with rows of 0 to fill the last panel."""
    outputs, columns = rows.shape
    panels = -(-outputs // WIDTH)
    padded = np.zeros((panels * WIDTH, columns), rows.dtype)
    padded[:outputs] = rows
    packed = aligned(padded.size, rows.dtype)
    packed.reshape(panels, columns, WIDTH)[...] = padded.reshape(panels, WIDTH, columns).transpose(
        0, 2, 1
    )
    return packed


def matmul(
    x: np.ndarray, weight: PackedCodes, bias: np.ndarray | None = None, threads: int = 1
) -> np.ndarray:
    """The product of float rows with low-bit weights.

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
    if bias is not None and np.shape(bias) != (weight.outputs,):
        raise ValueError(f"bias must have shape ({weight.outputs},), got {np.shape(bias)}")
    panels, groups = weight.panels, weight.inputs // weight.group
    a_group = words_of_group(weight.group, weight.bits)
    rows, bits = FOUR if len(x) >= FOUR.number else ONE, BITS[weight.bits]
    shape = (len(x), groups, a_group, panels * WIDTH)
    scaled = aligned(len(x) * groups * a_group * (32 // weight.bits), np.float32)
    sums = np.empty(len(x) * groups, np.float32)
    prepare(x.reshape(-1), len(x) * groups, weight.group, a_group, weight.bits, scaled, sums)
    out = np.empty((len(x), panels * WIDTH), np.float32)
    flat = out.reshape(-1)

    def run(first: int, last: int) -> None:
        numbers = (weight.words, weight.scale, weight.zero)
        multiply(scaled, sums, *numbers, shape, first, last, rows, bits, flat)

    work = len(x) * weight.inputs * weight.outputs
    split_rows(run, panels, threads if work > SPLIT_MACS else 1)
    out = out if panels * WIDTH == weight.outputs else out[:, : weight.outputs].copy()
    if bias is not None:
        out += bias
    return out


def restore(weight: PackedCodes) -> np.ndarray:
    """The weights as floats and transposed, float32 [K, N]: for products with many rows, and gradients."""
    groups = weight.inputs // weight.group
    out = np.empty((weight.inputs, weight.panels * WIDTH), np.float32)
    shape = (groups, weight.group, words_of_group(weight.group, weight.bits), weight.panels * WIDTH)
    numbers = (weight.words, weight.scale, weight.zero)
    write_floats(*numbers, weight.panels, shape, BITS[weight.bits], out.reshape(-1))
    return out[:, : weight.outputs]


# ---- the loops -----------------------------------------------------------------------------------
@kernel
def prepare(x, groups, group, a_group, bits, scaled, sums):
    """x[k + t] * 2^(-bits t), groups padded with zeros to whole words; and the sum of each group."""
    a_word = 32 // bits
    step = np.float32(1) / np.float32(1 << bits)
    for g in range(groups):
        total, factor, place = np.float32(0), np.float32(1), 0
        for k in range(group):
            number = at(x, g * group + k)
            total += number
            scaled[g * a_group * a_word + k] = number * factor
            factor *= step
            place += 1
            if place == a_word:
                factor, place = np.float32(1), 0
        for k in range(group, a_group * a_word):
            scaled[g * a_group * a_word + k] = np.float32(0)
        sums[g] = total


@kernel
def multiply(scaled, sums, words, scale, zero, shape, first, last, rows, bits, out):
    """Panels first..last of the product."""
    m, groups, _, columns = shape
    for panel in range(first, last):
        for row in range(0, m, value(rows)):
            # The last tile may overlap the one before: the same sums are written twice.
            i = max(min(row, m - value(rows)), 0)
            total = register_tile(rows, PANEL, f32x16)
            clear(total, rows)
            for g in range(groups):
                tile = register_tile(rows, PANEL, f32x16)
                clear(tile, rows)
                add_group(scaled, i, g, words, panel, shape, rows, bits, tile)
                add_scaled(tile, sums, i, g, groups, scale, zero, panel, rows, total)
            for r in range(value(rows)):
                for j in range(0, WIDTH, LANES):
                    place = (i + r) * columns + panel * WIDTH + j
                    store(out, place, load(total, r * WIDTH + j, f32x16))


@kernel(forceinline=True)
def clear(tile, rows):
    """Set all sums to 0."""
    for t in range(0, value(rows) * WIDTH, LANES):
        store(tile, t, splat(np.float32(0), f32x16))


@kernel(forceinline=True)
def add_group(scaled, i, g, words, panel, shape, rows, bits, tile):
    """tile[r, j] += sum of q x over a group, for 64 outputs and a few rows."""
    _, groups, a_group, _ = shape
    a_word = 32 // value(bits)
    ones = (1 << value(bits)) - 1
    for w in range(a_group):
        place = ((panel * groups + g) * a_group + w) * WIDTH
        for j in range(0, WIDTH, LANES):
            prefetch(words, place + j + AHEAD)
            word = load(words, place + j, u32x16)
            for t in range(a_word):
                mask = splat(np.uint32(ones << (value(bits) * t)), u32x16)
                code = convert(word & mask, f32x16)
                for r in range(value(rows)):
                    k = (((i + r) * groups + g) * a_group + w) * a_word + t
                    here = r * WIDTH + j
                    store(
                        tile,
                        here,
                        fma(code, splat(at(scaled, k), f32x16), load(tile, here, f32x16)),
                    )


@kernel(forceinline=True)
def add_scaled(tile, sums, i, g, groups, scale, zero, panel, rows, total):
    """Add s * (tile - z * sum of x) to the total."""
    for r in range(value(rows)):
        x = splat(at(sums, (i + r) * groups + g), f32x16)
        for j in range(0, WIDTH, LANES):
            place, here = (panel * groups + g) * WIDTH + j, r * WIDTH + j
            sum_qx = load(tile, here, f32x16) - load(zero, place, f32x16) * x
            store(total, here, fma(sum_qx, load(scale, place, f32x16), load(total, here, f32x16)))


@kernel
def write_floats(words, scale, zero, panels, shape, bits, out):
    """(q - z) s of every weight, row k beside row k + 1, columns in the order of the panels."""
    groups, group, a_group, columns = shape
    a_word = 32 // value(bits)
    ones = splat(np.uint32((1 << value(bits)) - 1), u32x16)
    for panel in range(panels):
        for g in range(groups):
            for j in range(0, WIDTH, LANES):
                place = (panel * groups + g) * WIDTH + j
                s, z = load(scale, place, f32x16), load(zero, place, f32x16)
                for w in range(a_group):
                    word = load(words, ((panel * groups + g) * a_group + w) * WIDTH + j, u32x16)
                    for t in range(min(a_word, group - w * a_word)):
                        code = convert(
                            word >> splat(np.uint32(value(bits) * t), u32x16) & ones, f32x16
                        )
                        row = g * group + w * a_word + t
                        store(out, row * columns + panel * WIDTH + j, (code - z) * s)
