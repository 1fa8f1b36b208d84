"""Products of bytes, four side by side summed into an int32: the instruction that int8 is fast by."""

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from compresslab.kernels.simd.declaration import INT32, operation
from compresslab.kernels.simd.target import target_has
from compresslab.kernels.simd.vectors import Vector


def _dot4_meaning(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    products = a.astype(np.int32) * b.astype(np.int32)
    return total + products.reshape(-1, 4).sum(axis=1, dtype=np.int32)


@operation(_dot4_meaning)
def dot4(_typing: object, total: Vector, a: Vector, b: Vector) -> tuple:
    """total[l] + the sum over t < 4 of a[4l + t] * b[4l + t]; int32x16, uint8x64 and int8x64, exact.

    One instruction (vpdpbusd) with AVX-512 VNNI, two with AVX-VNNI. With AVX2 even and odd bytes become words
    of 16 bits and are multiplied and added in pairs (vpmaddwd: exact, where vpmaddubsw saturates). Elsewhere
    products of 16 bits are added one by one, which LLVM turns into smlal on Arm.
    """

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        start, x, y = args
        if target_has("avx512vnni"):
            return _call_x86(builder, "avx512.vpdpbusd.512", start.type, args)
        if target_has("avxvnni"):
            halves = zip(*(_halves(builder, v) for v in args), strict=True)
            kind = ir.VectorType(INT32, 8)
            found = [_call_x86(builder, "avx512.vpdpbusd.256", kind, list(h)) for h in halves]
            return _joined(builder, *found)
        if target_has("avx2"):
            return builder.add(start, _dot4_by_words(builder, x, y))
        return builder.add(start, _dot4_one_by_one(builder, x, y))

    return total(total, a, b), generate


def _interleaved_meaning(*rows: np.ndarray) -> np.ndarray:
    return np.stack(rows, axis=1).reshape(-1)


@operation(_interleaved_meaning)
def interleaved(_typing: object, a: Vector, b: Vector, c: Vector, d: Vector) -> tuple:
    """Lane 4l + t is lane l of the t-th of four vectors of bytes: what `dot4` takes four taps by."""
    wide = Vector(a.element, 4 * a.lanes)

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        low, high = (_joined(builder, *pair) for pair in (args[:2], args[2:]))
        count = args[0].type.count
        places = [t * count + lane for lane in range(count) for t in range(4)]
        return _lanes(builder, low, high, places)

    return wide(a, b, c, d), generate


def _call_x86(builder: ir.IRBuilder, name: str, result: ir.Type, args: list) -> ir.Value:
    function_type = ir.FunctionType(result, [a.type for a in args])
    function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.x86.{name}")
    return builder.call(function, args)


def _lanes(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, numbers: list[int]) -> ir.Value:
    places = ir.Constant(ir.VectorType(INT32, len(numbers)), numbers)
    return builder.shuffle_vector(a, b, places)


def _halves(builder: ir.IRBuilder, v: ir.Value) -> list[ir.Value]:
    half, nothing = v.type.count // 2, ir.Constant(v.type, ir.Undefined)
    return [_lanes(builder, v, nothing, [*range(f, f + half)]) for f in (0, half)]


def _joined(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    return _lanes(builder, low, high, [*range(2 * low.type.count)])


def _dot4_by_words(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Even bytes with even bytes and odd with odd, as words, in pairs of products."""
    words = ir.VectorType(ir.IntType(16), 32)
    eight = ir.Constant(words, [8] * 32)
    x, y = builder.bitcast(x, words), builder.bitcast(y, words)
    even = (
        builder.and_(x, ir.Constant(words, [255] * 32)),
        builder.ashr(builder.shl(y, eight), eight),
    )
    odd = builder.lshr(x, eight), builder.ashr(y, eight)
    kind, sums = ir.VectorType(INT32, 8), []
    for pair in (even, odd):
        halves = zip(*(_halves(builder, v) for v in pair), strict=True)
        sums.append(
            _joined(builder, *(_call_x86(builder, "avx2.pmadd.wd", kind, list(h)) for h in halves))
        )
    return builder.add(*sums)


def _dot4_one_by_one(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    short, wide = ir.VectorType(ir.IntType(16), 64), ir.VectorType(INT32, 32)
    x, y = builder.zext(x, short), builder.sext(y, short)

    def every_second(v: ir.Value, count: int, first: int) -> ir.Value:
        nothing = ir.Constant(v.type, ir.Undefined)
        return _lanes(builder, v, nothing, [2 * i + first for i in range(count)])

    even, odd = (
        builder.mul(
            builder.sext(every_second(x, 32, first), wide),
            builder.sext(every_second(y, 32, first), wide),
            flags=("nsw",),
        )
        for first in (0, 1)
    )
    pairs = builder.add(even, odd)
    return builder.add(every_second(pairs, 16, 0), every_second(pairs, 16, 1))
