"""How an operation is declared: its meaning, one line of NumPy, beside the LLVM instruction that does it.

With `NUMBA_DISABLE_JIT=1` the meaning itself runs; a test holds each pair equal.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from compresslab.kernels.simd.vectors import Vector, is_float, llvm_type

INT32 = ir.IntType(32)
BIT = ir.IntType(1)

MEANINGS: dict[str, Callable] = {}


def operation(meaning: Callable, **options: object) -> Callable:
    """Pair an LLVM code generator with its meaning in NumPy; the meaning runs if there is no JIT."""

    def pair(generator: Callable) -> Callable:
        MEANINGS[generator.__name__] = meaning
        if config.DISABLE_JIT:
            return meaning
        return intrinsic(**options)(generator) if options else intrinsic(generator)

    return pair


def call_llvm(
    builder: ir.IRBuilder, name: str, vector: Vector, args: list, result: ir.Type | None = None
) -> ir.Value:
    """Call the LLVM intrinsic `name` for this vector type, as in llvm.ctpop.v16i32."""
    letter = "f" if is_float(vector) else "i"
    full_name = f"{name}.v{vector.lanes}{letter}{vector.element.bitwidth}"
    function_type = ir.FunctionType(result or llvm_type(vector), [a.type for a in args])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function_type, full_name), args
    )


def broadcast(builder: ir.IRBuilder, scalar: ir.Value, vector_type: ir.VectorType) -> ir.Value:
    """A vector with the scalar in every lane."""
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, INT32(0))
    lanes = ir.VectorType(INT32, vector_type.count)
    return builder.shuffle_vector(first, undefined, ir.Constant(lanes, [0] * vector_type.count))


def compare(
    builder: ir.IRBuilder, symbol: str, vector: Vector, a: ir.Value, b: ir.Value
) -> ir.Value:
    """One bit a lane: a (symbol) b; false where a float lane is NaN."""
    if is_float(vector):
        return builder.fcmp_ordered(symbol, a, b)
    if vector.element.signed:
        return builder.icmp_signed(symbol, a, b)
    return builder.icmp_unsigned(symbol, a, b)


def mask_type(vector: Vector) -> types.Integer:
    """The unsigned integer with one bit a lane."""
    return {8: types.uint8, 16: types.uint16, 32: types.uint32, 64: types.uint64}[vector.lanes]


def mask_meaning(bits: np.ndarray) -> int:
    """The integer whose bit l is bits[l]."""
    return int(sum(1 << lane for lane, bit in enumerate(bits) if bit))
