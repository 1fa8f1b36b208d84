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


def finish(total, product, row, column, outputs, place, out):
    """The epilogue of 16 sums, chosen by the dtype of `out` (when compiling: see `choose_finish`).

    Args:
        total: int32x16, of outputs column, column + 1, ...
        product: (panels, start, factor, offset, row scale, zero, low, high).
        row: of the row scale.
        column: of factor and offset.
        outputs: N; lanes beyond it are not written.
        place: where in `out` the first lane goes.
        out: flat.
    """
    CHOICES[out.dtype.name](total, product, row, column, outputs, place, out)


@overload(finish, jit_options={"forceinline": True})
def choose_finish(total, product, row, column, outputs, place, out):
    """Numba compiles the one epilogue that the dtype asks for."""
    chosen = CHOICES[out.dtype.name]

    def one(total, product, row, column, outputs, place, out):
        chosen(total, product, row, column, outputs, place, out)

    return one


@kernel(forceinline=True)
def store_lanes(result, kind, count, place, out):
    """The first `count` of 16 lanes, or all of them if there are no fewer to store."""
    if count >= LANES:
        store(out, place, result)
        return
    rest = register_tile(ONE, SIXTEEN, kind)
    store(rest, 0, result)
    for lane in range(count):
        out[place + lane] = rest[lane]


@kernel(forceinline=True)
def finish_sums(total, _product, _row, column, outputs, place, out):
    """The sum itself."""
    store_lanes(total, i32x16, outputs - column, place, out)


@kernel(forceinline=True)
def finish_reals(total, product, row, column, outputs, place, out):
    """The real number acc * r * s + c."""
    _, _, factor, offset, row_scale, _, _, _ = product
    scale = load(factor, column, f32x16) * splat(at(row_scale, row), f32x16)
    result = convert(total, f32x16) * scale + load(offset, column, f32x16)
    store_lanes(result, f32x16, outputs - column, place, out)


@kernel(forceinline=True)
def finish_codes(total, product, _row, column, outputs, place, out):
    """clip(rint(acc * f) + z', low, high)."""
    _, _, factor, _, _, zero, low, high = product
    code = rint(convert(total, f32x16) * load(factor, column, f32x16)) + splat(zero, f32x16)
    code = vmin(vmax(code, splat(low, f32x16)), splat(high, f32x16))
    result = convert(convert(code, i32x16), u8x16)
    store_lanes(result, u8x16, outputs - column, place, out)


CHOICES = {"int32": finish_sums, "float32": finish_reals, "uint8": finish_codes}
