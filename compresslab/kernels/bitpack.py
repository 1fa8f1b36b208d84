"""Pack small codes into bytes: b bits a code, with no gap between one code and the next.

A stream of n codes takes ceil(n * b / 8) bytes. Code i occupies bits [b*i, b*i + b) of the stream,
counted from the least significant bit of the first byte (little-endian, as `np.packbits` does with
`bitorder="little"`); unused bits of the last byte are 0. Eight codes always fill b whole bytes, which
one 64-bit word holds for any b up to 8: that loop serves every width. Widths 1, 2 and 4 divide a byte
and have a vector loop besides: 1 bit is a comparison of 64 codes at once, 2 and 4 fold a word onto
itself by shifts.

Left out: codes across rows (a tensor is one stream), big-endian machines.
"""

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels._jit import kernel
from compresslab.kernels.simd import (
    convert,
    load,
    nonzero_mask,
    splat,
    store,
    u8x16,
    u8x32,
    u8x64,
    u16x32,
    u32x16,
    where_mask,
)

BLOCK = 64
u8, u16, u32, u64 = np.uint8, np.uint16, np.uint32, np.uint64


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack codes below 2^bits into bytes.

    Args:
        codes: uint8 array of any shape, read in C order.
        bits: 1 to 8.

    Returns:
        uint8 array of shape [ceil(n * bits / 8)].

    Raises:
        ValueError: if a code does not fit, or an argument is of the wrong type.
    """
    codes = _checks.array_of("codes", codes, np.uint8)
    bits = _checks.integer_in("bits", bits, 1, 8)
    flat = codes.reshape(-1)
    packed = np.zeros(packed_size(flat.size, bits), np.uint8)
    whole = flat.size // BLOCK * BLOCK if bits in (1, 2, 4) else 0
    seen = 0
    if whole:
        body, target = flat[:whole], packed[: whole * bits // 8]
        if bits == 1:
            seen |= _pack1(body, target.view(np.uint64))
        elif bits == 2:
            seen |= _pack2(body.view(np.uint32), target)
        else:
            seen |= _pack4(body.view(np.uint16), target)
    seen |= _pack_any(flat[whole:], bits, packed[whole * bits // 8 :])
    if seen:
        raise ValueError(f"codes must be below 2**bits = {1 << bits}, got {codes.max()}")
    return packed


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first `count` codes of a packed stream.

    Args:
        packed: uint8 array of shape [ceil(count * bits / 8)].
        bits: 1 to 8.
        count: how many codes to read.

    Returns:
        uint8 array of shape [count].

    Raises:
        ValueError: if the number of bytes is not what `count` codes take.
    """
    packed = _checks.array_of("packed", packed, np.uint8).reshape(-1)
    bits = _checks.integer_in("bits", bits, 1, 8)
    count = _checks.integer_in("count", count, 0, 1 << 48)
    if packed.size != packed_size(count, bits):
        raise ValueError(
            f"packed must hold {packed_size(count, bits)} bytes for {count} codes of {bits} bits, "
            f"got {packed.size}"
        )
    codes = np.empty(count, np.uint8)
    whole = count // BLOCK * BLOCK if bits in (1, 2, 4) else 0
    if whole:
        body, target = packed[: whole * bits // 8], codes[:whole]
        if bits == 1:
            _unpack1(body.view(np.uint64), target)
        elif bits == 2:
            _unpack2(body, target.view(np.uint32))
        else:
            _unpack4(body, target.view(np.uint16))
    _unpack_any(packed[whole * bits // 8 :], bits, codes[whole:])
    return codes


# ---- any width: eight codes in one 64-bit word ---------------------------------------------------
@kernel
def _pack_any(codes, bits, packed):
    seen = u64(0)
    for first in range(0, codes.size, 8):
        word = u64(0)
        for j in range(min(8, codes.size - first)):
            code = u64(codes[first + j])
            seen |= code
            word |= code << u64(bits * j)
        start = first // 8 * bits
        for byte in range(min(bits, packed.size - start)):
            packed[start + byte] = u8((word >> u64(8 * byte)) & u64(255))
    return seen >> u64(bits)


@kernel
def _unpack_any(packed, bits, codes):
    mask = u64((1 << bits) - 1)
    for first in range(0, codes.size, 8):
        word, start = u64(0), first // 8 * bits
        for byte in range(min(bits, packed.size - start)):
            word |= u64(packed[start + byte]) << u64(8 * byte)
        for j in range(min(8, codes.size - first)):
            codes[first + j] = u8((word >> u64(bits * j)) & mask)


# ---- 1 bit: 64 codes are one word ----------------------------------------------------------------
@kernel
def _pack1(codes, words):
    seen = splat(u8(0), u8x64)
    for i in range(words.size):
        block = load(codes, 64 * i, u8x64)
        seen = seen | block
        words[i] = nonzero_mask(block)
    return nonzero_mask(seen & splat(u8(0b11111110), u8x64))


@kernel
def _unpack1(words, codes):
    one = splat(u8(1), u8x64)
    for i in range(words.size):
        store(codes, 64 * i, where_mask(words[i], one))


# ---- 2 and 4 bits: fold a word of codes onto itself ----------------------------------------------
@kernel
def _pack2(words, packed):
    seen = splat(u32(0), u32x16)
    by6, by12 = splat(u32(6), u32x16), splat(u32(12), u32x16)
    for i in range(0, words.size, 16):
        word = load(words, i, u32x16)
        seen = seen | word
        word = word | (word >> by6)
        store(packed, i, convert(word | (word >> by12), u8x16))
    return u64(nonzero_mask(seen & splat(u32(0xFCFCFCFC), u32x16)))


@kernel
def _unpack2(packed, words):
    by6, by12 = splat(u32(6), u32x16), splat(u32(12), u32x16)
    mask = splat(u32(0x03030303), u32x16)
    for i in range(0, packed.size, 16):
        word = convert(load(packed, i, u8x16), u32x16)
        word = word | (word << by12)
        store(words, i, (word | (word << by6)) & mask)


@kernel
def _pack4(words, packed):
    seen = splat(u16(0), u16x32)
    by4 = splat(u16(4), u16x32)
    for i in range(0, words.size, 32):
        word = load(words, i, u16x32)
        seen = seen | word
        store(packed, i, convert(word | (word >> by4), u8x32))
    return u64(nonzero_mask(seen & splat(u16(0xF0F0), u16x32)))


@kernel
def _unpack4(packed, words):
    by4, mask = splat(u16(4), u16x32), splat(u16(0x0F0F), u16x32)
    for i in range(0, packed.size, 32):
        word = convert(load(packed, i, u8x32), u16x32)
        store(words, i, (word | (word << by4)) & mask)
