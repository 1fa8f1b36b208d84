"""Low-bit products against float64 NumPy on the dequantized weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compresslab.kernels import lowbit


@st.composite
def problems(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits, group = draw(st.integers(2, 8)), draw(st.integers(1, 40))
    outputs, groups = draw(st.integers(1, 140)), draw(st.integers(1, 5))
    codes = generator.integers(0, 2**bits, (outputs, groups * group), dtype=np.uint8)
    scale = generator.uniform(0.01, 1, (outputs, groups)).astype(np.float32)
    zero = generator.integers(0, 2**bits, (outputs, groups))
    # Every second column of twice as many: not contiguous.
    x = generator.normal(size=(draw(st.integers(0, 9)), 2 * codes.shape[1]))
    return codes, scale, zero, bits, group, x.astype(np.float32)[:, ::2]


def dense(codes, scale, zero, group):
    scale, zero = (np.repeat(a.astype(np.float64), group, axis=1) for a in (scale, zero))
    return (codes - zero) * scale


@settings(deadline=None)
@given(problems(), st.booleans(), st.integers(1, 3))
def test_a_product_is_that_of_the_dequantized_weights(problem, biased, threads):
    codes, scale, zero, bits, group, x = problem
    bias = np.arange(len(codes), dtype=np.float32) if biased else None
    got = lowbit.matmul(x, lowbit.pack_weight(codes, scale, zero, bits, group), bias, threads)
    want = x.astype(np.float64) @ dense(codes, scale, zero, group).T + (bias if biased else 0)
    assert got.dtype == np.float32
    assert got.shape == want.shape
    largest = (np.abs(x) @ np.abs(dense(codes, scale, zero, group)).T).max(initial=1)
    assert np.allclose(got, want, rtol=1e-4, atol=4e-6 * 2**bits * largest)


@settings(deadline=None)
@given(problems())
def test_packing_can_be_undone(problem):
    codes, scale, zero, bits, group, _ = problem
    weight = lowbit.pack_weight(codes, scale, zero, bits, group)
    for got, want in zip(weight.unpacked(), (codes, scale, zero), strict=True):
        assert np.array_equal(got, want)
    assert np.allclose(lowbit.restore(weight), dense(codes, scale, zero, group).T, rtol=1e-6)


def test_a_word_holds_consecutive_codes_from_the_low_bits_up():
    codes = np.arange(16, dtype=np.uint8)[None]
    weight = lowbit.pack_weight(codes, np.ones((1, 1)), np.zeros((1, 1)), 4)
    words = weight.words.reshape(2, lowbit.WIDTH)[:, 0]
    assert [hex(w) for w in words] == ["0x76543210", "0xfedcba98"]


def test_three_bits_take_ten_codes_a_word_and_odd_groups_are_padded():
    assert lowbit.words_of_group(128, 3) == 13
    assert lowbit.words_of_group(20, 4) == 3
    one = np.ones((64, 128), np.uint8), np.ones((64, 1)), np.zeros((64, 1))
    assert lowbit.pack_weight(*one, 3).nbytes == 64 * (13 * 4 + 8)


def test_two_threads_give_the_same_numbers_as_one():
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 16, (1000, 2048), dtype=np.uint8)
    scale, zero = np.ones((1000, 16), np.float32), np.full((1000, 16), 8)
    weight = lowbit.pack_weight(codes, scale, zero, 4, 128)
    x = generator.normal(size=(3, 2048)).astype(np.float32)
    assert 3 * codes.size > lowbit.SPLIT_MACS
    assert np.array_equal(lowbit.matmul(x, weight), lowbit.matmul(x, weight, threads=2))


def test_nan_and_infinities_stay_in_their_row():
    codes = np.full((3, 8), 5, np.uint8)
    weight = lowbit.pack_weight(codes, np.ones((3, 1)), np.zeros((3, 1)), 4)
    x = np.ones((5, 8), np.float32)
    x[1, 3], x[2, 0] = np.nan, np.inf
    y = lowbit.matmul(x, weight)
    assert np.isnan(y[1]).all()
    assert not np.isfinite(y[2]).any()
    assert np.array_equal(y[[0, 3, 4]], np.full((3, 3), 40))


GOOD = np.zeros((4, 8), np.uint8), np.ones((4, 2)), np.zeros((4, 2)), 4, 4


@pytest.mark.parametrize(
    "place,value,match",
    [
        (0, np.zeros((4, 8), np.int8), "codes must have dtype uint8"),
        (0, np.zeros(8, np.uint8), "codes must have shape"),
        (0, np.full((4, 8), 16, np.uint8), "codes must be below 16 for 4 bits, got 16"),
        (1, np.ones((4, 1)), r"scale must be finite, of shape \(4, 2\)"),
        (1, np.full((4, 2), np.nan), "scale must be finite"),
        (2, np.full((4, 2), np.inf), "zero must be finite"),
        (3, 1, "bits must be an integer from 2 to 8, got 1"),
        (3, 4.0, "bits must be an integer"),
        (4, 3, "group must divide the 8 inputs, got 3"),
        (4, 0, "group must be an integer from 1 to 8"),
    ],
)
def test_what_cannot_be_packed_is_named(place, value, match):
    arguments = list(GOOD)
    arguments[place] = value
    with pytest.raises(ValueError, match=match):
        lowbit.pack_weight(*arguments)


def test_rows_of_another_length_or_dtype_and_a_wrong_bias_are_refused():
    weight = lowbit.pack_weight(*GOOD)
    with pytest.raises(ValueError, match=r"x must have shape \[M, 8\], got \(2, 9\)"):
        lowbit.matmul(np.zeros((2, 9), np.float32), weight)
    with pytest.raises(ValueError, match="x must have dtype float32, got float64"):
        lowbit.matmul(np.zeros((2, 8)), weight)
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\)"):
        lowbit.matmul(np.zeros((2, 8), np.float32), weight, np.zeros(3, np.float32))
