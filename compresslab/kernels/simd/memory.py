"""Vectors from memory and to it; one number in all lanes; a tile of registers."""

import ctypes

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.np.arrayobj import populate_array

from compresslab.kernels.simd.declaration import INT32, broadcast, operation
from compresslab.kernels.simd.vectors import Kind, KindType, StaticType, Vector, llvm_type


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


def _word_at_meaning(array: np.ndarray, index: int) -> np.uint32:
    return array.reshape(-1)[index : index + 4].copy().view(np.uint32)[0]


@operation(_word_at_meaning)
def word_at(_typing: object, array: types.Array, index: types.Type) -> tuple:
    """Four bytes of a C-contiguous array from a byte's index on, wherever it lies, as one uint32."""

    def generate(context: object, builder: ir.IRBuilder, sig: object, args: list) -> ir.Value:
        address = _address(context, builder, sig.args[0], args)
        word = builder.load(builder.bitcast(address, INT32.as_pointer()))
        word.align = 1
        return word

    return types.uint32(array, types.intp), generate


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


def _array_at_meaning(address: int, count: int, kind: Kind) -> np.ndarray:
    """The array as Python reaches it, by ctypes."""
    held = (ctypes.c_char * (int(count) * kind.dtype.itemsize)).from_address(int(address))
    return np.frombuffer(held, kind.dtype)


@operation(_array_at_meaning)
def array_at(_typing: object, address: types.Type, count: types.Type, kind: KindType) -> tuple:
    """A flat view of `count` numbers of the kind's type at an address.

    Whoever hands the address over keeps the memory alive. Nothing is checked.
    """
    array_type = types.Array(kind.vector.element, 1, "C")

    def generate(context: object, builder: ir.IRBuilder, _sig: object, args: list) -> ir.Value:
        element = llvm_type(kind.vector).element
        item = context.get_constant(types.intp, kind.vector.element.bitwidth // 8)
        array = context.make_array(array_type)(context, builder)
        populate_array(
            array,
            data=builder.inttoptr(args[0], element.as_pointer()),
            shape=[args[1]],
            strides=[item],
            itemsize=item,
            meminfo=None,
        )
        return array._getvalue()

    return array_type(types.intp, types.intp, kind), generate
