"""Integer networks from simulated ones: what is known, the arithmetic, the walk, and a rule per operation."""

from compresslab.runtime.integers.convert import convert_integers
from compresslab.runtime.integers.known import ConversionError, refuse_unknown, unknown_operations
from compresslab.runtime.integers.sums import folded, largest_sum
from compresslab.runtime.integers.trial import try_integers
from compresslab.runtime.integers.windows import pool_size

__all__ = [
    "ConversionError",
    "convert_integers",
    "folded",
    "largest_sum",
    "pool_size",
    "refuse_unknown",
    "try_integers",
    "unknown_operations",
]
