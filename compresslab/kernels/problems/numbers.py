"""Problems for numbers, codes and streams of bits."""

import numpy as np

from compresslab.kernels import (
    affine,
    bitpack,
    huffman,
)
from compresslab.kernels import reference as slow
from compresslab.kernels.problems.problem import normal, problem, random_codes


@problem("affine.quantize")
def _(random):
    x = normal(random, 5, 33)
    arguments = (x, random.uniform(0.01, 0.1, 5).astype(np.float32), 3, -128, 127, 0)
    return affine.quantize(*arguments), slow.quantize(*arguments)


@problem("affine.dequantize")
def _(random):
    arguments = (random_codes(random, 4, 19), np.float32(0.02), 128)
    return affine.dequantize(*arguments), slow.dequantize(*arguments)


@problem("affine.quantize_absmax")
def _(random):
    x = normal(random, 3, 64)
    return affine.quantize_absmax(x, 4, 32), slow.quantize_absmax(x, 4, 32)


@problem("bitpack.pack")
def _(random):
    bits = int(random.integers(1, 9))
    codes = random.integers(0, 2**bits, random.integers(0, 200), dtype=np.uint8)
    return bitpack.pack(codes, bits), slow.pack(codes, bits)


@problem("bitpack.unpack")
def _(random):
    bits = int(random.integers(1, 9))
    codes = random.integers(0, 2**bits, random.integers(0, 200), dtype=np.uint8)
    return bitpack.unpack(slow.pack(codes, bits), bits, codes.size), codes


LENGTHS = np.array([1, 2, 3, 3], np.uint8)
CODES = np.array([0b0, 0b10, 0b110, 0b111], np.uint64)


@problem("huffman.write")
def _(random):
    symbols = random.integers(0, 4, 101, dtype=np.uint8)
    return huffman.write(symbols, CODES, LENGTHS), slow.huffman_write(symbols, CODES, LENGTHS)


@problem("huffman.read")
def _(random):
    symbols = random.integers(0, 4, 101, dtype=np.uint8)
    return huffman.read(slow.huffman_write(symbols, CODES, LENGTHS), LENGTHS, 101), symbols
