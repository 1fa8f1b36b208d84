"""Codes of different length in one stream of bits, written and read one symbol after another.

A canonical prefix code is known from its lengths alone: sorted by (length, symbol), each code is the one
before it plus 1, shifted left where the length grows (Schwartz and Kallick 1964):

    lengths   a: 1   b: 2   c: 3   d: 3          codes   a: 0   b: 10   c: 110   d: 111

so `read` needs no tree. With `first` the first code of a length and `count` how many there are, a code so
far of that length is complete if it is below first + count; its place in the sorted list is the symbol.

The first bit of the stream is the highest of the first byte; unused bits of the last byte are 0. Left out:
reading several symbols by one table look-up, which would be some three times faster.
"""

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels._jit import kernel
from compresslab.kernels.bitpack import packed_size

LONGEST = 56
"""Bits of a code: with up to seven bits that wait in the last byte, a 64-bit word must hold it."""


def write(symbols: np.ndarray, codes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The stream of the symbols' codes.

    Args:
        symbols: uint8 of any shape, read in C order.
        codes: uint64 [alphabet], each in its lowest bits.
        lengths: uint8 [alphabet], 1 to 56 bits; 0 for symbols that have no code.

    Returns:
        uint8 [ceil(bits / 8)].

    Raises:
        ValueError: if a symbol has no code, or an argument is of the wrong kind.
    """
    symbols = _checks.array_of("symbols", symbols, np.uint8).reshape(-1)
    codes, lengths = _checks.array_of("codes", codes, np.uint64), _lengths(lengths)
    if codes.shape != lengths.shape:
        raise ValueError(f"codes must have shape {lengths.shape} as lengths, got {codes.shape}")
    if (codes >> lengths.astype(np.uint64)).any():
        raise ValueError("codes must fit their lengths, got one that has more bits")
    used = np.bincount(symbols, minlength=len(lengths))
    missing = np.flatnonzero(used[: len(lengths)] * (lengths == 0))
    if len(used) > len(lengths) or missing.size:
        bad = int(symbols.max()) if len(used) > len(lengths) else int(missing[0])
        raise ValueError(f"symbols must have a code each, got {bad}, which has none")
    bits = int(used @ lengths.astype(np.int64))
    out = np.zeros(packed_size(bits, 1), np.uint8)
    _write(symbols, codes, lengths, out)
    return out


def read(stream: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """The first `count` symbols of a stream of canonical codes.

    Args:
        stream: uint8 [bytes], from `write`.
        lengths: uint8 [alphabet], at most 256, as `write` had them.
        count: how many symbols there are.

    Returns:
        uint8 [count].

    Raises:
        ValueError: if the lengths are no prefix code, or the stream ends too early, goes on too long, or
            holds what is no code.
    """
    stream, lengths = _checks.array_of("stream", stream, np.uint8).reshape(-1), _lengths(lengths)
    count = _checks.integer_in("count", count, 0, 2**48)
    # The shortest code has one bit: more symbols than bits cannot be, and are not allocated.
    if count > 8 * stream.size:
        raise ValueError(
            f"count must be at most {8 * stream.size} for so short a stream, got {count}"
        )
    if sum(1 << (LONGEST - int(n)) for n in lengths if n) > 1 << LONGEST:
        raise ValueError("lengths must be those of a prefix code, got too many short ones")
    out = np.empty(count, np.uint8)
    by_length = np.bincount(lengths, minlength=LONGEST + 1)
    by_length[0] = 0
    order = np.argsort(lengths, kind="stable")[np.count_nonzero(lengths == 0) :].astype(np.uint8)
    found, bits = _read(stream, by_length, order, out)
    if found < count:
        raise ValueError(
            f"stream must hold {count} codes, got {found} before it ended or broke off"
        )
    unused = 8 * stream.size - bits
    if unused >= 8 or (unused and stream[-1] & ((1 << unused) - 1)):
        raise ValueError(f"stream must end with its {count} codes and zeros, got more behind them")
    return out


def _lengths(lengths: np.ndarray) -> np.ndarray:
    lengths = _checks.array_of("lengths", lengths, np.uint8).reshape(-1)
    if lengths.size > 256 or lengths.max(initial=0) > LONGEST:
        raise ValueError(
            f"lengths must be at most 256 numbers from 0 to {LONGEST}, got {lengths.size} up to "
            f"{lengths.max(initial=0)}"
        )
    return lengths


@kernel
def _write(symbols, codes, lengths, out):
    word, filled, place = np.uint64(0), 0, 0
    for symbol in symbols:
        length = np.int64(lengths[symbol])
        word = (word << np.uint64(length)) | codes[symbol]
        filled += length
        while filled >= 8:
            filled -= 8
            out[place] = np.uint8((word >> np.uint64(filled)) & np.uint64(255))
            place += 1
    if filled:
        out[place] = np.uint8((word << np.uint64(8 - filled)) & np.uint64(255))


@kernel
def _read(stream, by_length, order, out):
    place, bits = 0, 8 * stream.size
    for i in range(out.size):
        code, first, index, length = 0, 0, 0, 0
        while True:
            length += 1
            if place == bits or length >= by_length.size:
                return i, place
            code |= (np.int64(stream[place >> 3]) >> (7 - (place & 7))) & 1
            place += 1
            count = by_length[length]
            if code - first < count:
                out[i] = order[index + code - first]
                break
            index += count
            first = (first + count) << 1
            code <<= 1
    return out.size, place
