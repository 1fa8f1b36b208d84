"""Matrix tiles (Intel AMX): eight registers of 16 rows of 64 bytes.

One instruction multiplies a tile of 16 x 64 uint8 by one of 64 x 16 int8 (four k of a column side by side)
onto a tile of 16 x 16 int32. They exist only where `tiles_available()`; a kernel that uses them must
configure them first and release them last, and has no meaning in NumPy, so the vector kernel is its oracle.
"""

import ctypes
import functools
import platform
import sys
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils

from compresslab.kernels.simd.declaration import operation
from compresslab.kernels.simd.memory import _address
from compresslab.kernels.simd.target import target_has
from compresslab.kernels.simd.vectors import StaticType

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
