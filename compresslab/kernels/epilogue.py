"""What is done with 16 sums while they are still in a register: nothing, real numbers, or codes.

    int32      the sum itself
    float32    acc * r[m] * s[n] + c[n]
    uint8      clip(rint(acc * f[n]) + z', low, high)

Which of them follows from the dtype of `out`, when the kernel is compiled.
"""

from numba.extending import overload

from compresslab.kernels._jit import kernel
from compresslab.kernels.panels import LANES, ONE, SIXTEEN
from compresslab.kernels.simd import (
    at,
    convert,
    f32x16,
    i32x16,
    load,
    register_tile,
    rint,
    splat,
    store,
    u8x16,
    vmax,
    vmin,
)


def finish(total, factor, offset, row_scale, row, column, zero, low, high, outputs, place, out):
    """The epilogue of 16 sums, chosen by the dtype of `out` (when compiling: see `choose_finish`)."""
    chosen = {"int32": finish_sums, "float32": finish_reals, "uint8": finish_codes}[out.dtype.name]
    chosen(total, factor, offset, row_scale, row, column, zero, low, high, outputs, place, out)


@overload(finish, jit_options={"forceinline": True})
def choose_finish(
    total, factor, offset, row_scale, row, column, zero, low, high, outputs, place, out
):
    """Numba compiles the one epilogue that the dtype asks for."""
    chosen = {"int32": finish_sums, "float32": finish_reals, "uint8": finish_codes}[out.dtype.name]

    def one(total, factor, offset, row_scale, row, column, zero, low, high, outputs, place, out):
        chosen(total, factor, offset, row_scale, row, column, zero, low, high, outputs, place, out)

    return one


@kernel(forceinline=True)
def finish_sums(
    total, _factor, _offset, _row_scale, _row, column, _zero, _low, _high, outputs, place, out
):
    """The sum itself."""
    if outputs - column >= LANES:
        store(out, place, total)
        return
    rest = register_tile(ONE, SIXTEEN, i32x16)
    store(rest, 0, total)
    for lane in range(outputs - column):
        out[place + lane] = rest[lane]


@kernel(forceinline=True)
def finish_reals(
    total, factor, offset, row_scale, row, column, _zero, _low, _high, outputs, place, out
):
    """The real number acc * r * s + c."""
    scale = load(factor, column, f32x16) * splat(at(row_scale, row), f32x16)
    result = convert(total, f32x16) * scale + load(offset, column, f32x16)
    if outputs - column >= LANES:
        store(out, place, result)
        return
    rest = register_tile(ONE, SIXTEEN, f32x16)
    store(rest, 0, result)
    for lane in range(outputs - column):
        out[place + lane] = rest[lane]


@kernel(forceinline=True)
def finish_codes(
    total, factor, _offset, _row_scale, _row, column, zero, low, high, outputs, place, out
):
    """clip(rint(acc * f) + z', low, high)."""
    code = rint(convert(total, f32x16) * load(factor, column, f32x16)) + splat(zero, f32x16)
    code = vmin(vmax(code, splat(low, f32x16)), splat(high, f32x16))
    result = convert(convert(code, i32x16), u8x16)
    if outputs - column >= LANES:
        store(out, place, result)
        return
    rest = register_tile(ONE, SIXTEEN, u8x16)
    store(rest, 0, result)
    for lane in range(outputs - column):
        out[place + lane] = rest[lane]
