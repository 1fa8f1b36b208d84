"""The operators of Python on vectors: + - * & | ^ << >> mean what they mean in NumPy."""

import operator
from collections.abc import Callable

from llvmlite import ir
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from compresslab.kernels.simd.vectors import Vector, is_float


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
