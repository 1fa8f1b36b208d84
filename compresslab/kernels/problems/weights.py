"""Problems for weights of few bits and for sparse weights."""

import numpy as np

from compresslab.kernels import (
    hadamard,
    lowbit,
    microscaling,
    sparse,
)
from compresslab.kernels import reference as slow
from compresslab.kernels.problems.problem import OUTPUTS, Random, normal, problem, sizes


@problem("lowbit.matmul")
def _(random):
    m, n, _ = sizes(random)
    bits, x = int(random.choice([2, 3, 4, 8])), normal(random, m, 64)
    packed, weight = _low_bits(random, n, bits)
    return lowbit.matmul(x, packed), (x.astype(np.float64) @ weight.T).astype(np.float32)


@problem("lowbit.restore")
def _(random):
    packed, weight = _low_bits(random, int(random.choice(OUTPUTS)), int(random.choice([2, 4, 8])))
    return lowbit.restore(packed), weight.T


def _low_bits(random: Random, n: int, bits: int) -> tuple[lowbit.PackedCodes, np.ndarray]:
    codes, zero = random.integers(0, 2**bits, (n, 64), dtype=np.uint8), 2 ** (bits - 1)
    # Powers of two, which the packed form holds exactly: it has 24 bits for a scale.
    scale = (2.0 ** random.integers(-8, -2, (n, 2))).astype(np.float32)
    packed = lowbit.pack_weight(codes, scale, np.full((n, 2), zero), bits, 32)
    return packed, slow.dequantize(codes, scale, np.full((n, 2), zero), group=32)


@problem("microscaling.matmul")
def _(random):
    m, n, _ = sizes(random)
    packed, weight = _blocks(random, n)
    x = normal(random, m, 64)
    return microscaling.matmul(x, packed), (x.astype(np.float64) @ weight.T).astype(np.float32)


@problem("microscaling.restore")
def _(random):
    packed, weight = _blocks(random, int(random.choice(OUTPUTS)))
    return microscaling.restore(packed), weight.T


def _blocks(random: Random, n: int) -> tuple[microscaling.PackedBlocks, np.ndarray]:
    codes = random.integers(0, 16, (n, 64), dtype=np.uint8)
    block = int(random.choice([16, 32]))
    scales = (2.0 ** random.integers(-8, -2, (n, 64 // block))).astype(np.float32)
    packed = microscaling.pack_weight(codes, scales, block)
    return packed, slow.elements(codes) * np.repeat(scales, block, 1)


@problem("hadamard.transform")
def _(random):
    x = normal(random, 5, 2 ** int(random.integers(0, 8)))
    return hadamard.transform(x), slow.hadamard(x)


@problem("sparse.matmul")
def _(random):
    m, n, k = sizes(random)
    weight = normal(random, n, k) * (random.random((n, k)) < 0.3).astype(np.float32)
    x = normal(random, k, m)
    return sparse.matmul(sparse.Csr.of(weight), x), weight @ x
