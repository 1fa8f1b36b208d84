"""What is done lane by lane, with a bit a lane, and across the lanes.

A mask is an unsigned integer whose bit l belongs to lane l.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from compresslab.kernels.simd.declaration import (
    BIT,
    call_llvm,
    compare,
    mask_meaning,
    mask_type,
    operation,
)
from compresslab.kernels.simd.vectors import Kind, KindType, Vector, is_float, llvm_type


def _elementwise(llvm_name: str) -> Callable:
    def typing(vector: Vector) -> tuple:
        def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
            return call_llvm(builder, llvm_name, vector, args)

        return vector(vector), generate

    return typing


@operation(np.rint)
def rint(_typing: object, x: Vector) -> tuple:
    """Round to the nearest integer, halves to even."""
    return _elementwise("llvm.rint")(x)


@operation(np.abs)
def vabs(_typing: object, x: Vector) -> tuple:
    """Absolute value of float lanes."""
    return _elementwise("llvm.fabs")(x)


@operation(np.bitwise_count)
def popcount(_typing: object, x: Vector) -> tuple:
    """How many bits of each lane are 1; also of a plain integer."""
    if isinstance(x, types.Integer):
        return x(x), lambda _context, builder, _sig, args: builder.ctpop(args[0])
    return _elementwise("llvm.ctpop")(x)


def _fma_meaning(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    # A float32 product is exact in float64; the sum may then be rounded twice, once in 2**29 cases.
    return (a.astype(np.float64) * b + c).astype(a.dtype)


@operation(_fma_meaning)
def fma(_typing: object, a: Vector, b: Vector, c: Vector) -> tuple:
    """A * b + c, rounded once."""

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        return call_llvm(builder, "llvm.fma", a, args)

    return a(a, b, c), generate


def _pick(symbol: str, a: Vector, b: Vector) -> tuple:
    # (a < b) ? a : b is what x86 minps does, and so free of any NaN handling: a NaN in `a` gives b.
    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        return builder.select(compare(builder, symbol, a, *args), *args)

    return a(a, b), generate


@operation(lambda a, b: np.where(a < b, a, b))
def vmin(_typing: object, a: Vector, b: Vector) -> tuple:
    """The smaller of each pair; b where a is NaN."""
    return _pick("<", a, b)


@operation(lambda a, b: np.where(a > b, a, b))
def vmax(_typing: object, a: Vector, b: Vector) -> tuple:
    """The larger of each pair; b where a is NaN."""
    return _pick(">", a, b)


def _convert_meaning(x: np.ndarray, kind: Kind) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return x.astype(kind.dtype)


@operation(_convert_meaning)
def convert(_typing: object, x: Vector, kind: KindType) -> tuple:
    """Each lane's value in another type: integers widen or wrap, floats truncate towards zero."""
    source, target = x, kind.vector

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        value, result = args[0], llvm_type(target)
        if is_float(source) and is_float(target):
            return value
        if is_float(source):
            cast = builder.fptosi if target.element.signed else builder.fptoui
        elif is_float(target):
            cast = builder.sitofp if source.element.signed else builder.uitofp
        elif target.element.bitwidth < source.element.bitwidth:
            cast = builder.trunc
        elif target.element.bitwidth > source.element.bitwidth:
            cast = builder.sext if source.element.signed else builder.zext
        else:
            return value
        return cast(value, result)

    return target(x, kind), generate


@operation(lambda x, kind: x.view(kind.dtype))
def bitcast(_typing: object, x: Vector, kind: KindType) -> tuple:
    """The same bits read as another kind of equal total width."""

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        return builder.bitcast(args[0], llvm_type(kind.vector))

    return kind.vector(x, kind), generate


@operation(lambda x: mask_meaning(np.isnan(x)))
def nan_mask(_typing: object, x: Vector) -> tuple:
    """The integer whose bit l is 1 where lane l is NaN."""

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        unordered = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.bitcast(unordered, ir.IntType(x.lanes))

    return mask_type(x)(x), generate


def _compare_mask(symbol: str) -> Callable:
    def typing(a: Vector, b: Vector) -> tuple:
        def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
            return builder.bitcast(compare(builder, symbol, a, *args), ir.IntType(a.lanes))

        return mask_type(a)(a, b), generate

    return typing


@operation(lambda a, b: mask_meaning(a >= b))
def ge_mask(_typing: object, a: Vector, b: Vector) -> tuple:
    """The integer whose bit l is 1 where a >= b; 0 where a lane is NaN."""
    return _compare_mask(">=")(a, b)


@operation(lambda a, b, x: np.where(a >= b, x, 0).astype(x.dtype))
def where_ge(_typing: object, a: Vector, b: Vector, x: Vector) -> tuple:
    """X where a >= b, zero elsewhere and where a lane is NaN."""

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        chosen = compare(builder, ">=", a, *args[:2])
        return builder.select(chosen, args[2], ir.Constant(args[2].type, None))

    return x(a, b, x), generate


@operation(lambda x: mask_meaning(x != 0))
def nonzero_mask(_typing: object, x: Vector) -> tuple:
    """The integer whose bit l is 1 where integer lane l is not zero."""

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        nonzero = builder.icmp_unsigned("!=", args[0], ir.Constant(args[0].type, None))
        return builder.bitcast(nonzero, ir.IntType(x.lanes))

    return mask_type(x)(x), generate


def _where_mask_meaning(mask: int, x: np.ndarray) -> np.ndarray:
    bits = [(int(mask) >> lane) & 1 for lane in range(x.size)]
    return np.where(bits, x, 0).astype(x.dtype)


@operation(_where_mask_meaning)
def where_mask(_typing: object, mask: types.Integer, x: Vector) -> tuple:
    """X where the mask's bit is 1, zero elsewhere."""

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        bits = builder.bitcast(args[0], ir.VectorType(BIT, x.lanes))
        return builder.select(bits, args[1], ir.Constant(args[1].type, None))

    return x(mask, x), generate


@operation(lambda x: x.sum(dtype=x.dtype))
def hsum(_typing: object, x: Vector) -> tuple:
    """The sum of all lanes; of floats in the order that suits the machine."""

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        element = llvm_type(x).element
        if not is_float(x):
            return call_llvm(builder, "llvm.vector.reduce.add", x, args, element)
        name = f"llvm.vector.reduce.fadd.v{x.lanes}f{x.element.bitwidth}"
        function_type = ir.FunctionType(element, [element, args[0].type])
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        return builder.call(function, [ir.Constant(element, 0), args[0]], fastmath=("reassoc",))

    return x.element(x), generate


@operation(np.max)
def hmax(_typing: object, x: Vector) -> tuple:
    """The largest lane of a float vector."""

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        return call_llvm(builder, "llvm.vector.reduce.fmax", x, args, llvm_type(x).element)

    return x.element(x), generate
