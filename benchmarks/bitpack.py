"""Packing and unpacking in the cache, against NumPy's packbits (1 bit) and NumPy shifts (wider)."""

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.harness import Record, race, records, repeated
from compresslab.kernels import bitpack, reference

TIMES = 20


def run(scale: int = 1) -> Iterator[Record]:
    """A million codes (divided by `scale`) of 1, 2, 3 and 4 bits."""
    count = (1 << 20) // scale
    generator = np.random.default_rng(0)
    for bits in (1, 2, 3, 4):
        codes = generator.integers(0, 1 << bits, count).astype(np.uint8)
        packed = bitpack.pack(codes, bits)
        yield from _race(
            f"pack {bits} bits",
            count,
            lambda c=codes, b=bits: bitpack.pack(c, b),
            lambda c=codes, b=bits: _numpy_pack(c, b),
        )
        yield from _race(
            f"unpack {bits} bits",
            count,
            lambda p=packed, b=bits: bitpack.unpack(p, b, count),
            lambda p=packed, b=bits: _numpy_unpack(p, b, count),
        )


def _race(kernel: str, count: int, ours: Callable, peer: Callable) -> list[Record]:
    medians = race({"ours": repeated(ours, TIMES), "NumPy": repeated(peer, TIMES)})
    return records(kernel, f"{count:,}", medians, times=TIMES)


def _numpy_pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """The fastest way in NumPy: packbits for one bit, shifted views for two and four."""
    if bits == 1:
        return np.packbits(codes, bitorder="little")
    if bits == 4:
        return codes[0::2] | codes[1::2] << 4
    if bits == 2:
        return codes[0::4] | codes[1::4] << 2 | codes[2::4] << 4 | codes[3::4] << 6
    return reference.pack(codes, bits)


def _numpy_unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    if bits == 1:
        return np.unpackbits(packed, count=count, bitorder="little")
    if bits == 3:
        return reference.unpack(packed, bits, count)
    codes = np.empty(count, np.uint8)
    for part in range(8 // bits):
        codes[part :: 8 // bits] = (packed >> (bits * part)) & ((1 << bits) - 1)
    return codes
