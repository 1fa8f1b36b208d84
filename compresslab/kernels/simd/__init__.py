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

from compresslab.kernels.simd import operators  # importing it gives vectors their operators
from compresslab.kernels.simd.declaration import MEANINGS
from compresslab.kernels.simd.lanes import (
    bitcast,
    convert,
    fma,
    ge_mask,
    hmax,
    hsum,
    nan_mask,
    nonzero_mask,
    popcount,
    rint,
    vabs,
    vmax,
    vmin,
    where_ge,
    where_mask,
)
from compresslab.kernels.simd.memory import (
    array_at,
    at,
    load,
    prefetch,
    register_tile,
    splat,
    store,
    value,
    word_at,
)
from compresslab.kernels.simd.products import dot4, interleaved
from compresslab.kernels.simd.target import instruction_set, target_has
from compresslab.kernels.simd.tiles import (
    TILE_CONFIGURATION,
    tile_dot,
    tile_load,
    tile_store,
    tile_zero,
    tiles_available,
    tiles_configure,
    tiles_release,
)
from compresslab.kernels.simd.vectors import (
    KindType,
    Static,
    StaticType,
    Vector,
    f32x16,
    f32x64,
    i8x16,
    i8x64,
    i32x16,
    i64x8,
    u8x16,
    u8x32,
    u8x64,
    u16x32,
    u32x16,
)

__all__ = [
    "MEANINGS",
    "TILE_CONFIGURATION",
    "KindType",
    "Static",
    "StaticType",
    "Vector",
    "array_at",
    "at",
    "bitcast",
    "convert",
    "dot4",
    "f32x16",
    "f32x64",
    "fma",
    "ge_mask",
    "hmax",
    "hsum",
    "i8x16",
    "i8x64",
    "i32x16",
    "i64x8",
    "instruction_set",
    "interleaved",
    "load",
    "nan_mask",
    "nonzero_mask",
    "operators",
    "popcount",
    "prefetch",
    "register_tile",
    "rint",
    "splat",
    "store",
    "target_has",
    "tile_dot",
    "tile_load",
    "tile_store",
    "tile_zero",
    "tiles_available",
    "tiles_configure",
    "tiles_release",
    "u8x16",
    "u8x32",
    "u8x64",
    "u16x32",
    "u32x16",
    "vabs",
    "value",
    "vmax",
    "vmin",
    "where_ge",
    "where_mask",
    "word_at",
]
