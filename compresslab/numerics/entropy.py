"""Fewer bits for what is common: entropy (熵) and Huffman coding (霍夫曼编码).

    H = - sum p_i log2(p_i)            bits a symbol: no code of single symbols needs fewer (Shannon 1948)
    H <= mean length < H + 1           Huffman's code, the best with whole bits a symbol (Huffman 1952)

Huffman merges the two rarest symbols into one until one is left; a symbol's length is how often it was
merged. Only the lengths are stored: codes are *canonical*, numbered in order of (length, symbol).

What it loses against H is largest where one symbol is very common, since nothing takes less than a bit:
nine zeros in ten have 0.47 bits each, and cost 1. Such zeros are not coded but counted (`gaps`).

Left out: arithmetic coding and ANS, which take fractions of a bit; codes for pairs of symbols.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from compresslab.kernels import _checks, huffman


@dataclass(frozen=True)
class Coded:
    """A coded stream: its bytes, the lengths that rebuild the code, and how many symbols it holds."""

    stream: np.ndarray
    lengths: np.ndarray
    count: int


def entropy(counts: np.ndarray) -> float:
    """Bits a symbol, from how often each occurs; 0 where there is at most one kind.

    Raises:
        ValueError: if there is no symbol at all, or a count is negative.
    """
    counts = _checked(counts)
    p = counts[counts > 0].astype(np.float64)
    p /= p.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Huffman's lengths for symbols that occur so often: uint8 of the counts' shape, 0 where none occurs.

    A lone symbol gets one bit: a code of no bits could not be told from no symbol.

    Raises:
        ValueError: as `entropy`; for more than 256 symbols, or codes of more than 56 bits (which take counts
            of more than 10^11).
    """
    counts = _checked(counts)
    if counts.size > 256:
        raise ValueError(f"counts must be of at most 256 symbols, got {counts.size}")
    lengths = np.zeros(counts.size, np.uint8)
    # Ties go by the tree's smallest symbol, so that the same counts give the same code everywhere.
    heap = [(int(n), symbol, [symbol]) for symbol, n in enumerate(counts) if n]
    heapq.heapify(heap)
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    while len(heap) > 1:
        few, first, one = heapq.heappop(heap)
        more, second, other = heapq.heappop(heap)
        lengths[one + other] += 1
        heapq.heappush(heap, (few + more, min(first, second), one + other))
    if lengths.max() > huffman.LONGEST:
        raise ValueError(
            f"counts must not need codes of more than {huffman.LONGEST} bits, got {lengths.max()}"
        )
    return lengths


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """The codes that belong to these lengths, uint64 of their shape; 0 where there is none.

    Raises:
        ValueError: for lengths of which there is no prefix code (Kraft's inequality), or over LONGEST.
    """
    if lengths.max(initial=0) > huffman.LONGEST:
        raise ValueError(f"lengths must be at most {huffman.LONGEST}, got {lengths.max()}")
    if sum(2.0 ** -int(length) for length in lengths if length) > 1:
        raise ValueError("lengths must be those of a prefix code: the sum of 2^-length is above 1")
    codes, code, last = np.zeros(len(lengths), np.uint64), 0, 0
    for symbol in np.argsort(lengths, kind="stable"):
        if lengths[symbol]:
            code = (code + 1 if last else 0) << (int(lengths[symbol]) - last)
            codes[symbol], last = code, int(lengths[symbol])
    return codes


def fixed_lengths(alphabet: int) -> np.ndarray:
    """The same length for every symbol: ceil(log2(alphabet)) bits, at least 1; uint8 [alphabet]."""
    alphabet = _checks.integer_in("alphabet", alphabet, 1, 256)
    return np.full(alphabet, max(1, (alphabet - 1).bit_length()), np.uint8)


def encode(symbols: np.ndarray, alphabet: int | None = None, fixed: bool = False) -> Coded:
    """Huffman-code symbols.

    Args:
        symbols: uint8 of any shape, at least one.
        alphabet: how many symbols the table of lengths names; if None, up to the largest that occurs.
        fixed: the same length for all instead, to compare with.

    Raises:
        ValueError: for no symbols, another type, or symbols outside the alphabet.
    """
    if not isinstance(symbols, np.ndarray) or symbols.dtype != np.uint8 or symbols.size == 0:
        kind = getattr(symbols, "dtype", type(symbols).__name__)
        raise ValueError(f"symbols must be one uint8 or more, got {np.size(symbols)} of {kind}")
    if alphabet is not None:
        alphabet = _checks.integer_in("alphabet", alphabet, 1, 256)
    counts = np.bincount(symbols.reshape(-1), minlength=alphabet or 0)
    if alphabet is not None and len(counts) > alphabet:
        raise ValueError(f"symbols must be below alphabet = {alphabet}, got {len(counts) - 1}")
    lengths = fixed_lengths(len(counts)) if fixed else code_lengths(counts)
    stream = huffman.write(symbols, canonical_codes(lengths), lengths)
    return Coded(stream, lengths, symbols.size)


def decode(coded: Coded) -> np.ndarray:
    """The symbols again, uint8 [count].

    Raises:
        ValueError: if the stream, its lengths and the count do not belong together.
    """
    return huffman.read(coded.stream, coded.lengths, coded.count)


def _checked(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts).reshape(-1)
    if counts.size == 0:
        raise ValueError("counts must hold at least one symbol, got none")
    if not np.issubdtype(counts.dtype, np.integer) or counts.min(initial=0) < 0:
        raise ValueError(f"counts must be integers of 0 or more, got {counts.dtype} {counts[:4]}")
    if not counts.any():
        raise ValueError("counts must hold at least one symbol, got none")
    return counts
