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
    scale = generator.uniform(0.01, 1, (outputs, groups)).astype(np.float16).astype(np.float32)
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


def test_the_bytes_of_a_word_are_four_neighbours_and_its_places_four_further_on():
    codes = np.arange(16, dtype=np.uint8)[None]
    weight = lowbit.pack_weight(codes, np.ones((1, 1)), np.full((1, 1), 9), 4)
    words = weight.words.reshape(2, lowbit.WIDTH)[:, 0]
    assert [hex(w) for w in words] == ["0x73625140", "0xfbead9c8"]
    assert hex(weight.scales[0]) == "0x3f800009"


def test_in_memory_codes_take_two_four_or_eight_bits_and_odd_groups_are_padded():
    assert [lowbit.held_bits(bits) for bits in range(2, 9)] == [2, 4, 4, 8, 8, 8, 8]
    assert lowbit.words_of_group(20, 4) == 3
    one = np.ones((64, 128), np.uint8), np.ones((64, 1)), np.zeros((64, 1))
    sizes = {bits: lowbit.pack_weight(*one, bits).nbytes for bits in (2, 3, 4, 8)}
    assert sizes == {2: 64 * 36, 3: 64 * 68, 4: 64 * 68, 8: 64 * 132}


def test_a_scale_of_more_than_16_bits_is_rounded():
    scale = np.float32([[1 + 2**-20, 1 + 2**-15, 1 + 3 * 2**-17]])
    weight = lowbit.pack_weight(np.ones((1, 3), np.uint8), scale, np.zeros((1, 3)), 4, 1)
    held = weight.unpacked()[1]
    assert np.abs(held / scale - 1).max() <= 2.0**-16
    assert held[0, 0] == 1
    assert held[0, 1] == 1 + np.float32(2**-15)


@settings(deadline=None)
@given(problems(), st.sampled_from([1, 2]))
def test_fewer_digits_are_activations_rounded_group_by_group(problem, digits):
    codes, scale, zero, bits, group, x = problem
    weight = lowbit.pack_weight(codes, scale, zero, bits, group)
    groups = x.reshape(len(x), scale.shape[1], group).astype(np.float64)
    unit = np.abs(groups).max(2, keepdims=True, initial=0) / (0.99 * 2.0 ** (8 * digits - 1))
    rounded = (np.rint(groups / np.where(unit, unit, 1)) * unit).reshape(x.shape)
    want = rounded @ dense(codes, scale, zero, group).T
    got = lowbit.matmul(x, weight, digits=digits)
    # A value half-way between two steps may go either way: one step of one input at most, now and then.
    largest = np.abs(dense(codes, scale, zero, group)).max()
    step = unit.sum((1, 2))[:, None] * largest
    assert np.all(np.abs(got - want) <= step + 1e-4 * np.abs(want).max(initial=1))


def test_three_digits_are_as_good_as_float32_sums():
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 16, (64, 1024), dtype=np.uint8)
    scale, zero = np.ones((64, 8), np.float32), np.full((64, 8), 8)
    x = generator.normal(size=(5, 1024)).astype(np.float32)
    weight = dense(codes, scale, zero, 128)
    want = x.astype(np.float64) @ weight.T
    ours = lowbit.matmul(x, lowbit.pack_weight(codes, scale, zero, 4, 128))
    theirs = x @ weight.T.astype(np.float32)
    assert np.abs(ours - want).max() < 3 * np.abs(theirs - want).max()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [512, 4096, 65_536])
def test_long_groups_of_the_largest_numbers_do_not_overflow(bits, inputs):
    top = 2**bits - 1
    codes = np.full((3, inputs), top, np.uint8)
    weight = lowbit.pack_weight(codes, np.ones((3, 1)), np.full((3, 1), 1), bits)
    x = np.full((2, inputs), -7.0, np.float32)
    want = -7.0 * inputs * (top - 1)
    for digits in (1, 2, 3):
        assert np.allclose(lowbit.matmul(x, weight, digits=digits), want, rtol=1e-2**digits)


def test_a_group_that_might_overflow_is_refused():
    codes = np.zeros((1, 65_537), np.uint8)
    with pytest.raises(ValueError, match="group must be at most 65,536, got 65,537"):
        lowbit.pack_weight(codes, np.ones((1, 1)), np.zeros((1, 1)), 4)


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
    assert np.isnan(y[1:3]).all()
    assert np.allclose(y[[0, 3, 4]], 40, rtol=1e-6)


GOOD = np.zeros((4, 8), np.uint8), np.ones((4, 2)), np.zeros((4, 2)), 4, 4


@pytest.mark.parametrize(
    "place,value,match",
    [
        (0, np.zeros((4, 8), np.int8), "codes must have dtype uint8"),
        (0, np.zeros(8, np.uint8), "codes must have shape"),
        (0, np.full((4, 8), 16, np.uint8), "codes must be below 16 for 4 bits, got 16"),
        (1, np.ones((4, 1)), r"scale must be positive and finite, of shape \(4, 2\)"),
        (1, np.full((4, 2), np.nan), "scale must be positive"),
        (1, np.zeros((4, 2)), "scale must be positive"),
        (1, np.full((4, 2), 3.4028235e38), "scale must be finite and positive in 16"),
        (1, np.full((4, 2), 1e-43), "scale must be finite and positive in 16"),
        (2, np.full((4, 2), 0.5), r"zero must be whole numbers 0\.\.255"),
        (2, np.full((4, 2), 256), "zero must be whole numbers"),
        (2, np.zeros((2, 4)), "zero must be whole numbers"),
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
    with pytest.raises(ValueError, match="digits must be an integer from 1 to 3"):
        lowbit.matmul(np.zeros((2, 8), np.float32), weight, digits=4)
