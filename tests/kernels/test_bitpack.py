"""Packing against `np.packbits`, and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresslab.kernels import bitpack, reference


@st.composite
def codes_of(draw):
    bits = draw(st.integers(1, 8))
    count = draw(st.integers(0, 20) | st.sampled_from([63, 64, 65, 127, 128, 129, 131, 512, 1009]))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint8), bits


@given(codes_of())
def test_packing_equals_the_oracle(problem):
    codes, bits = problem
    packed = bitpack.pack(codes, bits)
    assert packed.dtype == np.uint8
    assert np.array_equal(packed, reference.pack(codes, bits))


@given(codes_of())
def test_unpacking_brings_the_codes_back(problem):
    codes, bits = problem
    packed = bitpack.pack(codes, bits)
    assert packed.size == -(-codes.size * bits // 8)
    assert np.array_equal(bitpack.unpack(packed, bits, codes.size), codes)
    assert np.array_equal(reference.unpack(packed, bits, codes.size), codes)


def test_the_first_code_is_in_the_lowest_bits():
    assert bitpack.pack(np.array([1, 2], np.uint8), 4).tolist() == [0x21]
    assert bitpack.pack(np.array([1, 0, 0, 0, 0, 0, 0, 1], np.uint8), 1).tolist() == [0x81]


def test_views_are_read_in_their_own_order():
    codes = (np.arange(400, dtype=np.uint8) % 16).reshape(20, 20)
    for view in (codes.T, codes[::2], codes[:, 1::3]):
        assert np.array_equal(bitpack.pack(view, 4), reference.pack(view.copy(), 4))


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("place", [0, 63, 64, 129])
def test_a_code_that_does_not_fit_is_refused_wherever_it_is(bits, place):
    codes = np.zeros(130, np.uint8)
    codes[place] = 1 << bits
    with pytest.raises(ValueError, match=rf"below 2\*\*bits = {1 << bits}, got {1 << bits}"):
        bitpack.pack(codes, bits)


@pytest.mark.parametrize("bits", [0, 9, -1, 4.0, True])
def test_other_widths_are_refused(bits):
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 8"):
        bitpack.pack(np.zeros(4, np.uint8), bits)
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 8"):
        bitpack.unpack(np.zeros(4, np.uint8), bits, 4)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, bool])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="codes must have dtype uint8"):
        bitpack.pack(np.zeros(4, dtype), 4)


@pytest.mark.parametrize("count", [9, 6, 100])
def test_a_stream_of_the_wrong_length_is_refused(count):
    with pytest.raises(ValueError, match="packed must hold"):
        bitpack.unpack(np.zeros(4, np.uint8), 4, count)
