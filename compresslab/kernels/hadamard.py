"""The fast Walsh-Hadamard transform (快速沃尔什-哈达玛变换): n log n additions in place of n^2.

    H_1 = [1],      H_2n = 1 / sqrt(2) [[H_n, H_n], [H_n, -H_n]],      y = H x

A stage replaces the pairs (a, b) that lie `half` apart by (a + b, a - b), for half = 1, 2, 4, ... n / 2; the
factor 1 / sqrt(n) comes at the end, once. H is its own inverse and keeps lengths, and every output is a sum
over all inputs: a single large number is spread evenly. Sylvester 1867; Fino and Algazi 1976.

Left out: lengths that are no power of two (`techniques.rotation` puts them together), other orders of rows.
"""

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels._jit import kernel


def transform(x: np.ndarray) -> np.ndarray:
    """H times every row, float32 of the same shape.

    Args:
        x: float32 [..., n], n a power of two.

    Raises:
        ValueError: for another dtype or length.
    """
    length = np.shape(x)[-1] if np.ndim(x) else 0
    x = _checks.array_of("x", x, np.float32)
    if length < 1 or length & (length - 1):
        raise ValueError(f"x must be [..., n], n a power of two, got {x.shape}")
    out = x.reshape(-1, length).copy()
    _stages(out, np.float32(1 / np.sqrt(length)))
    return out.reshape(x.shape)


@kernel
def _stages(rows, factor):
    """All stages of all rows, in place."""
    count, length = rows.shape
    for r in range(count):
        half = 1
        while half < length:
            for start in range(0, length, 2 * half):
                for i in range(start, start + half):
                    a, b = rows[r, i], rows[r, i + half]
                    rows[r, i], rows[r, i + half] = a + b, a - b
            half *= 2
        for i in range(length):
            rows[r, i] *= factor
