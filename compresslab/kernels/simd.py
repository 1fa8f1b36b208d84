"""Explicit vectors for Numba kernels: many numbers side by side in one CPU register.

A processor adds sixteen pairs of float32 as fast as it adds one, if it is told to. Usually the
compiler finds that out by itself from a plain loop; where it does not (a reduction beside a store, a
register tile, a population count), a kernel says it here. A *vector* is `lanes` numbers of one type.
A *kind* names such a type, `f32x16` being sixteen float32:

    v = load(x, i, f32x16)          # x.ravel()[i : i + 16]
    v = rint(v * splat(s, f32x16))  # np.rint(v * s), all lanes at once
    store(y, i, v)                  # y.ravel()[i : i + 16] = v

Every operation below is a pair: its *meaning*, one line of NumPy on an array of `lanes` numbers, and
the LLVM instruction that does it. With `NUMBA_DISABLE_JIT=1` the meanings themselves run, so a kernel
can be followed in a debugger; a test holds each pair equal. Operators (`+ - * & | ^ << >>`) mean what
they mean in NumPy.

Portability: LLVM splits a vector that is wider than the machine's registers, so one source serves
AVX-512, AVX2 and Arm. The few calls of a single instruction set ask `target_has` first, because LLVM
aborts the process on an instruction that the target lacks.

Left out: bounds checks (wrappers check shapes once, kernels run unchecked), masked loads, and
vectors of different kinds in one operation (convert first).
"""

import ctypes
import functools
import operator
import platform
import sys
from collections.abc import Callable

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.datamodel import PrimitiveModel, register_default
from numba.core.imputils import lower_builtin, lower_constant
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import NativeValue, intrinsic, typeof_impl, unbox
from numba.np.arrayobj import populate_array

INT32 = ir.IntType(32)
BIT = ir.IntType(1)

MEANINGS: dict[str, Callable] = {}


# ---- the instruction set -------------------------------------------------------------------------
def target_has(feature: str) -> bool:
    """Whether the machine that Numba compiles for has an LLVM feature such as ``"avx512vnni"``."""
    if config.CPU_FEATURES is not None:
        return f"+{feature}" in config.CPU_FEATURES.split(",")
    if config.CPU_NAME not in (None, "host", llvm.get_host_cpu_name()):
        return False
    return bool(llvm.get_host_cpu_features().get(feature, False))


def instruction_set() -> str:
    """The instruction set that decides our kernels' speed, as benchmarks state it."""
    if target_has("avx512f"):
        extras = {"avx512vnni": "VNNI", "avx512vpopcntdq": "VPOPCNTDQ", "amx-int8": "AMX"}
        return " ".join(["AVX-512", *(name for bit, name in extras.items() if target_has(bit))])
    if target_has("avx2"):
        return "AVX2 VNNI" if target_has("avxvnni") else "AVX2"
    for feature, name in {"sse4.2": "SSE4.2", "neon": "NEON"}.items():
        if target_has(feature):
            return name
    return "baseline"


# ---- types ---------------------------------------------------------------------------------------
class Vector(types.Type):
    """Numba's name for the LLVM type <lanes x element>."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(f"Vector({element} x {lanes})")


class Kind:
    """What a kernel writes to name a vector type: `f32x16` and the others at the end of this file."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.vector = Vector(element, lanes)
        self.lanes = lanes
        self.dtype = np.dtype(str(element))
        self._numba_type_ = KindType(self.vector)


class KindType(types.Type):
    """The Numba type of a `Kind`; it carries the vector type and no run-time value."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector
        super().__init__(f"Kind({vector})")


class Static:
    """An integer known when a kernel is compiled: each value is a type, and so a kernel of its own.

    A register tile needs its size, and a loop over it constant bounds, for LLVM to keep it in registers.
    Inside a kernel, `value(static)` is the integer; outside, `Static(4).number`.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        # Where a value names its own Numba type, a call need not find it out (5 microseconds each).
        self._numba_type_ = StaticType(number)


class StaticType(types.Type):
    """The Numba type of a `Static`; it carries the integer and no run-time value."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"Static({number})")


@register_default(Vector)
class VectorModel(PrimitiveModel):
    """A vector is held as an LLVM vector value."""

    def __init__(self, manager: object, vector: Vector) -> None:
        super().__init__(manager, vector, llvm_type(vector))


@register_default(StaticType)
@register_default(KindType)
class TypeOnlyModel(PrimitiveModel):
    """A kind or a static integer is held as a null pointer: only its type matters."""

    def __init__(self, manager: object, kind: types.Type) -> None:
        super().__init__(manager, kind, ir.IntType(8).as_pointer())


@typeof_impl.register(Kind)
def _(kind: Kind, _context: object) -> KindType:
    return KindType(kind.vector)


@typeof_impl.register(Static)
def _(static: Static, _context: object) -> StaticType:
    return StaticType(static.number)


@lower_constant(StaticType)
@lower_constant(KindType)
def _(_context: object, _builder: ir.IRBuilder, _type: KindType, _value: Kind) -> ir.Constant:
    return ir.Constant(ir.IntType(8).as_pointer(), None)


@unbox(StaticType)
@unbox(KindType)
def _(_type: KindType, _value: object, _context: object) -> NativeValue:
    return NativeValue(ir.Constant(ir.IntType(8).as_pointer(), None))


def llvm_type(vector: Vector) -> ir.VectorType:
    """The LLVM type of a Numba vector type."""
    floats = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
    element = floats.get(vector.element) or ir.IntType(vector.element.bitwidth)
    return ir.VectorType(element, vector.lanes)


def is_float(vector: Vector) -> bool:
    """Whether the lanes are floating-point numbers."""
    return isinstance(vector.element, types.Float)


# ---- how an operation is declared ----------------------------------------------------------------
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


# ---- operators -----------------------------------------------------------------------------------
def _register_operator(
    symbol: Callable, integer: str, floating: str | None = None, signed: str | None = None
) -> None:
    @infer_global(symbol)
    class Typing(AbstractTemplate):
        def generic(self, args: tuple, _keywords: dict) -> object:
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    @lower_builtin(symbol, Vector, Vector)
    def lower(_context: object, builder: ir.IRBuilder, sig: object, args: list) -> ir.Value:
        vector = sig.return_type
        if is_float(vector):
            return getattr(builder, floating)(*args)
        return getattr(builder, signed if signed and vector.element.signed else integer)(*args)


_register_operator(operator.add, "add", "fadd")
_register_operator(operator.sub, "sub", "fsub")
_register_operator(operator.mul, "mul", "fmul")
_register_operator(operator.and_, "and_")
_register_operator(operator.or_, "or_")
_register_operator(operator.xor, "xor")
_register_operator(operator.lshift, "shl")
_register_operator(operator.rshift, "lshr", signed="ashr")


# ---- memory --------------------------------------------------------------------------------------
def _address(
    context: object, builder: ir.IRBuilder, array_type: types.Array, args: list
) -> ir.Value:
    array = context.make_array(array_type)(context, builder, args[0])
    return builder.gep(array.data, [args[1]], inbounds=True)


@operation(lambda array, start, kind: array.reshape(-1)[start : start + kind.lanes].copy())
def load(_typing: object, array: types.Type, start: types.Type, kind: KindType) -> tuple:
    """`kind.lanes` consecutive elements of a C-contiguous array, from flat index `start`."""
    vector = kind.vector

    def generate(context: object, builder: ir.IRBuilder, sig: object, args: list) -> ir.Value:
        address = _address(context, builder, sig.args[0], args)
        value = builder.load(builder.bitcast(address, llvm_type(vector).as_pointer()))
        value.align = vector.element.bitwidth // 8
        return value

    return vector(array, types.intp, kind), generate


def _store_meaning(array: np.ndarray, start: int, values: np.ndarray) -> None:
    array.reshape(-1)[start : start + values.size] = values


@operation(_store_meaning)
def store(_typing: object, array: types.Type, start: types.Type, values: Vector) -> tuple:
    """Write a vector to consecutive elements of a C-contiguous array, from flat index `start`."""

    def generate(context: object, builder: ir.IRBuilder, sig: object, args: list) -> ir.Value:
        address = _address(context, builder, sig.args[0], args)
        pointer = builder.bitcast(address, llvm_type(values).as_pointer())
        builder.store(args[2], pointer).align = values.element.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, values), generate


@operation(lambda array, index: array.reshape(-1)[index])
def at(_typing: object, array: types.Array, index: types.Type) -> tuple:
    """One element of a C-contiguous array by flat index, without the test for a negative index."""

    def generate(context: object, builder: ir.IRBuilder, sig: object, args: list) -> ir.Value:
        return builder.load(_address(context, builder, sig.args[0], args))

    return array.dtype(array, types.intp), generate


@operation(lambda value, kind: np.full(kind.lanes, value, kind.dtype))
def splat(_typing: object, value: types.Type, kind: KindType) -> tuple:
    """The same number in every lane."""
    vector = kind.vector

    def generate(_context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        return broadcast(builder, args[0], llvm_type(vector))

    return vector(vector.element, kind), generate


@operation(lambda static: static.number)
def value(_typing: object, static: StaticType) -> tuple:
    """The integer of a `Static`, a constant to the compiler."""

    def generate(context: object, _builder: ir.IRBuilder, _sig: object, _args: list) -> ir.Value:
        return context.get_constant(types.intp, static.number)

    return types.intp(static), generate


@operation(lambda rows, columns, kind: np.empty(rows.number * columns.number, kind.dtype))
def register_tile(_typing: object, rows: StaticType, columns: StaticType, kind: KindType) -> tuple:
    """An uninitialised array of rows * columns elements in the function's own stack frame.

    With constant loop bounds LLVM unrolls the loops over it and keeps it in registers, which it
    never does for `np.empty`. It must not be returned: it ends with the function.
    """
    size, array_type = rows.number * columns.number, types.Array(kind.vector.element, 1, "C")

    def generate(context: object, builder: ir.IRBuilder, _sig: object, _args: list) -> ir.Value:
        element = llvm_type(kind.vector).element
        with builder.goto_entry_block():
            tile = builder.alloca(ir.ArrayType(element, size))
            tile.align = 64
        array = context.make_array(array_type)(context, builder)
        item = kind.vector.element.bitwidth // 8
        populate_array(
            array,
            data=builder.bitcast(tile, element.as_pointer()),
            shape=[context.get_constant(types.intp, size)],
            strides=[context.get_constant(types.intp, item)],
            itemsize=context.get_constant(types.intp, item),
            meminfo=None,
        )
        return array._getvalue()

    return array_type(rows, columns, kind), generate


@operation(lambda _array, _index: None)
def prefetch(_typing: object, array: types.Array, index: types.Type) -> tuple:
    """Hint that the cache line of a flat index will be read soon; any index is safe."""

    def generate(context: object, builder: ir.IRBuilder, sig: object, args: list) -> ir.Value:
        pointer = context.make_array(sig.args[0])(context, builder, args[0]).data
        address = builder.bitcast(builder.gep(pointer, [args[1]]), ir.IntType(8).as_pointer())
        signature = ir.FunctionType(ir.VoidType(), [address.type, INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        builder.call(function, [address, INT32(0), INT32(2), INT32(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


# ---- lane by lane --------------------------------------------------------------------------------
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


# ---- products of bytes ---------------------------------------------------------------------------
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


# ---- masks: one bit a lane, in an integer --------------------------------------------------------
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


# ---- across the lanes ----------------------------------------------------------------------------
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


# ---- matrix tiles (Intel AMX) --------------------------------------------------------------------
# Eight tile registers of 16 rows of 64 bytes. One instruction multiplies a tile of 16 x 64 uint8 by one of
# 64 x 16 int8 (four k of a column side by side) onto a tile of 16 x 16 int32. They exist only where
# `tiles_available()`; a kernel that uses them must configure them first and release them last, and has no
# meaning in NumPy, so the vector kernel beside it is its oracle.
TILE_BYTES, TILE_ROWS = 64, 16
TILE_CONFIGURATION = np.zeros(64, np.uint8)
TILE_CONFIGURATION[0] = 1
TILE_CONFIGURATION[16:32:2] = TILE_BYTES
TILE_CONFIGURATION[48:56] = TILE_ROWS
REQUEST_PERMISSION, TILE_DATA, ARCH_PRCTL = 0x1023, 18, 158


@functools.cache
def tiles_available() -> bool:
    """Whether the processor has int8 tiles and Linux lets this process use them."""
    if config.DISABLE_JIT or sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    if not (target_has("amx-int8") and target_has("amx-tile")):
        return False
    try:
        return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0
    except (OSError, AttributeError):
        return False


def _tile_number(number: StaticType) -> ir.Constant:
    return ir.Constant(ir.IntType(8), number.number)


def _call_tiles(builder: ir.IRBuilder, name: str, args: list) -> None:
    function_type = ir.FunctionType(ir.VoidType(), [a.type for a in args])
    builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def _no_meaning(*_arguments: object) -> None:
    raise TypeError("matrix tiles need compiled code and a processor that has them")


def _byte_address(
    context: object, builder: ir.IRBuilder, array_type: types.Array, args: list
) -> ir.Value:
    address = _address(context, builder, array_type, args)
    return builder.bitcast(address, ir.IntType(8).as_pointer())


@operation(_no_meaning)
def tiles_configure(_typing: object, configuration: types.Array) -> tuple:
    """Give all eight tiles their shape."""

    def generate(context: object, builder: ir.IRBuilder, sig: object, args: list) -> ir.Value:
        zero = context.get_constant(types.intp, 0)
        address = _byte_address(context, builder, sig.args[0], [args[0], zero])
        _call_tiles(builder, "llvm.x86.ldtilecfg", [address])
        return context.get_dummy_value()

    return types.void(configuration), generate


@operation(_no_meaning)
def tiles_release(_typing: object) -> tuple:
    """Give the tiles back, so that the system need not save them."""

    def generate(context: object, builder: ir.IRBuilder, _sig: object, _args: list) -> ir.Value:
        _call_tiles(builder, "llvm.x86.tilerelease", [])
        return context.get_dummy_value()

    return types.void(), generate


@operation(_no_meaning)
def tile_zero(_typing: object, tile: StaticType) -> tuple:
    """Set a tile to 0."""

    def generate(context: object, builder: ir.IRBuilder, _sig: object, _args: list) -> ir.Value:
        _call_tiles(builder, "llvm.x86.tilezero", [_tile_number(tile)])
        return context.get_dummy_value()

    return types.void(tile), generate


def _tile_memory(name: str) -> Callable:
    def typing(
        _typing: object, tile: StaticType, array: types.Array, index: types.Type, stride: types.Type
    ) -> tuple:
        def generate(context: object, builder: ir.IRBuilder, sig: object, args: list) -> ir.Value:
            address = _byte_address(context, builder, sig.args[1], args[1:3])
            _call_tiles(builder, name, [_tile_number(tile), address, args[3]])
            return context.get_dummy_value()

        return types.void(tile, array, types.intp, types.intp), generate

    return typing


@operation(_no_meaning)
def tile_load(
    typing: object, tile: StaticType, array: types.Array, index: types.Type, stride: types.Type
) -> tuple:
    """Fill a tile with 16 rows of 64 bytes, `stride` bytes apart, from a flat index on."""
    return _tile_memory("llvm.x86.tileloadd64")(typing, tile, array, index, stride)


@operation(_no_meaning)
def tile_store(
    typing: object, tile: StaticType, array: types.Array, index: types.Type, stride: types.Type
) -> tuple:
    """Write a tile as 16 rows of 64 bytes, `stride` bytes apart, from a flat index on."""
    return _tile_memory("llvm.x86.tilestored64")(typing, tile, array, index, stride)


@operation(_no_meaning)
def tile_dot(_typing: object, total: StaticType, a: StaticType, b: StaticType) -> tuple:
    """Add a @ b to the tile `total`: uint8 times int8, summed in int32."""

    def generate(context: object, builder: ir.IRBuilder, _sig: object, _args: list) -> ir.Value:
        _call_tiles(builder, "llvm.x86.tdpbusd", [_tile_number(t) for t in (total, a, b)])
        return context.get_dummy_value()

    return types.void(total, a, b), generate


f32x16, f32x64 = Kind(types.float32, 16), Kind(types.float32, 64)
i32x16, u32x16 = Kind(types.int32, 16), Kind(types.uint32, 16)
u16x32 = Kind(types.uint16, 32)
i8x16, u8x16 = Kind(types.int8, 16), Kind(types.uint8, 16)
u8x32, u8x64, i8x64 = Kind(types.uint8, 32), Kind(types.uint8, 64), Kind(types.int8, 64)
