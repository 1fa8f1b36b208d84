"""Every vector operation does what its one line of NumPy says."""

import numpy as np
import pytest
from numba import config, njit

from compresslab.kernels import simd

pytestmark = pytest.mark.skipif(
    bool(config.DISABLE_JIT), reason="without the JIT the operations are their meanings"
)

f32x16, i32x16, u32x16 = simd.f32x16, simd.i32x16, simd.u32x16
i8x16, u8x16, u16x32, u8x64 = simd.i8x16, simd.u8x16, simd.u16x32, simd.u8x64
FLOATS = np.array(
    [0, -0.0, 0.5, 1.5, -2.5, 3.7, np.inf, -np.inf, np.nan, 1e30, -7, 8, 9, 10, 11, 12]
)
FLOATS = FLOATS.astype(np.float32)
FINITE = np.nan_to_num(FLOATS, nan=5, posinf=100, neginf=-100).clip(-1000, 1000).astype(np.float32)
INTEGERS = np.array([0, 1, -1, 127, -128, 255, 256, 2**31 - 1, -(2**31), *range(7)], np.int32)
TWO, SIXTEEN = simd.Static(2), simd.Static(16)
BYTES = np.arange(64, dtype=np.uint8) * 37


def same(one, other):
    return np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f")


def unary(operation, kind, result_kind, x):
    @njit
    def run(x, out):
        simd.store(out, 0, operation(simd.load(x, 0, kind)))

    out = np.zeros(result_kind.lanes, result_kind.dtype)
    run(x, out)
    return out


@pytest.mark.parametrize("name", ["rint", "vabs"])
def test_float_operations_agree_with_numpy(name):
    got = unary(getattr(simd, name), f32x16, f32x16, FLOATS)
    assert same(got, simd.MEANINGS[name](FLOATS))


@pytest.mark.parametrize("kind,x", [(u32x16, INTEGERS.view(np.uint32)), (u8x64, BYTES)])
def test_popcount_counts_the_ones_of_each_lane(kind, x):
    assert same(unary(simd.popcount, kind, kind, x), np.bitwise_count(x))


def test_popcount_takes_a_plain_integer():
    run = njit(lambda x: simd.popcount(x))
    assert run(np.uint64(0xFF0F)) == 12


@pytest.mark.parametrize("name", ["vmin", "vmax"])
def test_min_and_max_give_the_second_where_the_first_is_nan(name):
    operation = getattr(simd, name)

    @njit
    def run(a, b, out):
        simd.store(out, 0, operation(simd.load(a, 0, f32x16), simd.load(b, 0, f32x16)))

    out, other = np.empty(16, np.float32), np.full(16, 2.0, np.float32)
    run(FLOATS, other, out)
    assert same(out, simd.MEANINGS[name](FLOATS, other))
    assert out[8] == 2.0


def test_fma_rounds_once():
    @njit
    def run(a, b, c, out):
        v = simd.fma(simd.load(a, 0, f32x16), simd.load(b, 0, f32x16), simd.load(c, 0, f32x16))
        simd.store(out, 0, v)

    a = np.full(16, 1 + 2.0**-12, np.float32)
    out = np.empty(16, np.float32)
    run(a, a, np.full(16, -1, np.float32), out)
    exact = (1 + 2.0**-12) ** 2 - 1
    assert (out == np.float32(exact)).all()
    assert same(out, simd.MEANINGS["fma"](a, a, np.full(16, -1, np.float32)))


@pytest.mark.parametrize("symbol", ["+", "-", "*", "&", "|", "^", "<<", ">>"])
def test_operators_on_integers_mean_what_they_mean_in_numpy(symbol):
    namespace = {"simd": simd, "u32x16": u32x16}
    exec(
        "def run(a, b, out):\n"
        f"    simd.store(out, 0, simd.load(a, 0, u32x16) {symbol} simd.load(b, 0, u32x16))",
        namespace,
    )
    a, b = INTEGERS.view(np.uint32), np.arange(16, dtype=np.uint32)
    out = np.empty(16, np.uint32)
    njit(namespace["run"])(a, b, out)
    assert same(out, eval(f"a {symbol} b"))


@pytest.mark.parametrize(
    "source,target,x",
    [
        (i32x16, i8x16, INTEGERS),
        (i32x16, f32x16, INTEGERS),
        (u8x16, i32x16, BYTES[:16].copy()),
        (i8x16, i32x16, BYTES[:16].view(np.int8).copy()),
        (f32x16, i32x16, FINITE),
    ],
)
def test_convert_keeps_values_or_wraps(source, target, x):
    @njit
    def run(x, out):
        simd.store(out, 0, simd.convert(simd.load(x, 0, source), target))

    out = np.empty(target.lanes, target.dtype)
    run(x, out)
    assert same(out, x.astype(target.dtype))


def test_bitcast_reads_the_same_bits_as_another_type():
    @njit
    def run(x, out):
        simd.store(out, 0, simd.bitcast(simd.load(x, 0, f32x16), u32x16))

    out = np.empty(16, np.uint32)
    run(FLOATS, out)
    assert same(out, FLOATS.view(np.uint32))


def test_masks_hold_one_bit_a_lane():
    nan = njit(lambda x: simd.nan_mask(simd.load(x, 0, f32x16)))
    nonzero = njit(lambda x: simd.nonzero_mask(simd.load(x, 0, u8x64)))
    assert nan(FLOATS) == 1 << 8
    assert nonzero(BYTES) == simd.MEANINGS["nonzero_mask"](BYTES)


def test_where_mask_keeps_the_lanes_whose_bit_is_set():
    @njit
    def run(mask, x, out):
        simd.store(out, 0, simd.where_mask(mask, simd.load(x, 0, u8x64)))

    out, mask = np.empty(64, np.uint8), np.uint64(0x8000000000000005)
    run(mask, BYTES, out)
    assert same(out, simd.MEANINGS["where_mask"](mask, BYTES))


def test_horizontal_maximum():
    run = njit(lambda x: simd.hmax(simd.load(x, 0, f32x16)))
    assert run(FINITE) == FINITE.max()


def test_load_splat_at_and_prefetch_address_the_flat_array():
    @njit
    def run(x, out):
        simd.prefetch(x, 1 << 40)
        simd.store(out, 2, simd.load(x, 3, f32x16) * simd.splat(simd.at(x, 1), f32x16))

    x = np.arange(30, dtype=np.float32).reshape(5, 6)
    out = np.zeros(20, np.float32)
    run(x, out)
    assert same(out, np.r_[0, 0, np.arange(3, 19), 0, 0].astype(np.float32))


def test_a_register_tile_holds_what_is_stored():
    @njit
    def run(x):
        tile = simd.register_tile(TWO, SIXTEEN, f32x16)
        for i in range(0, 32, 16):
            simd.store(tile, i, simd.load(x, i, f32x16))
        total = np.float32(0)
        for i in range(32):
            total += tile[i]
        return total

    assert run(np.arange(32, dtype=np.float32)) == 496


def test_a_static_integer_makes_a_kernel_of_its_own():
    run = njit(lambda s: simd.value(s) + 1)
    assert (run(simd.Static(3)), run(simd.Static(8))) == (4, 9)
    assert len(run.signatures) == 2


def test_dot4_sums_four_products_of_bytes_without_saturating():
    @njit
    def run(total, a, b, out):
        v = simd.dot4(
            simd.load(total, 0, i32x16), simd.load(a, 0, u8x64), simd.load(b, 0, simd.i8x64)
        )
        simd.store(out, 0, v)

    generator = np.random.default_rng(0)
    a = generator.integers(0, 256, 64).astype(np.uint8)
    b = generator.integers(-128, 128, 64).astype(np.int8)
    a[:4], b[:4], b[4:8] = 255, 127, -128
    a[4:8] = 255
    out = np.empty(16, np.int32)
    run(INTEGERS, a, b, out)
    assert same(out, simd.MEANINGS["dot4"](INTEGERS, a, b))


def test_an_absent_feature_is_not_claimed():
    assert not simd.target_has("no-such-instruction")
    assert isinstance(simd.instruction_set(), str)
