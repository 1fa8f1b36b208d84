"""The types: vectors, the kinds that name them, and integers that are known when a kernel is compiled."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.datamodel import PrimitiveModel, register_default
from numba.core.imputils import lower_constant
from numba.extending import NativeValue, typeof_impl, unbox


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


f32x16, f32x64 = Kind(types.float32, 16), Kind(types.float32, 64)
i32x16, u32x16 = Kind(types.int32, 16), Kind(types.uint32, 16)
u16x32, i64x8 = Kind(types.uint16, 32), Kind(types.int64, 8)
i8x16, u8x16 = Kind(types.int8, 16), Kind(types.uint8, 16)
u8x32, u8x64, i8x64 = Kind(types.uint8, 32), Kind(types.uint8, 64), Kind(types.int8, 64)
