"""A whole network in one call: a compiled loop walks a table of operations, one row of integers each.

    KIND    A    B    OUT    HEIGHT WIDTH CHANNELS ...    WEIGHT    START    FACTOR
    conv    0         6272   28     28    1        ...    address   address  address
    max     6272      0      28     28    16       ...

No Python runs between two layers and nothing is allocated: activations lie in one arena, whose places
`runtime.plan` assigns by their lifetimes, weights stay where they are packed. The loops are those that the
layers call one by one (`int8_loops`, `int8_conv`, `int8_pool_loops`), so the codes are the same, bit for bit.
The function is compiled once for all networks. TensorFlow Lite Micro and ggml run networks in this way.

Offsets A, B and OUT count bytes of one example: with n examples everything lies n times as far. Left out:
matrix tiles, and operations in floats, which run step by step.
"""

from compresslab.kernels.plan import table
from compresslab.kernels.plan.walk import walk

__all__ = ["table", "walk"]
