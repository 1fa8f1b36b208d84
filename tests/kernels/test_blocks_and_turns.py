"""Products with 4-bit floats and the fast Hadamard transform, against NumPy and SciPy."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from compresslab.kernels import hadamard
from compresslab.kernels import microscaling as ms

ELEMENTS = np.float32([0, 0.5, 1, 1.5, 2, 3, 4, 6])
TABLE = np.concatenate([ELEMENTS, -ELEMENTS])


def problem(seed, rows, outputs, blocks, block):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 16, (outputs, blocks * block), dtype=np.uint8)
    scales = (2.0 ** random.integers(-6, 3, (outputs, blocks))).astype(np.float32)
    x = random.normal(0, 1, (rows, blocks * block)).astype(np.float32)
    return x, codes, scales, TABLE[codes] * np.repeat(scales, block, 1)


@given(
    st.integers(0, 999),
    st.sampled_from([0, 1, 2, 7, 11, 12, 13]),
    st.sampled_from([1, 15, 16, 17, 40]),
    st.integers(1, 4),
    st.sampled_from([8, 16, 32]),
    st.booleans(),
)
def test_a_product_is_that_of_the_restored_weights(seed, rows, outputs, blocks, block, with_bias):
    x, codes, scales, weight = problem(seed, rows, outputs, blocks, block)
    bias = np.arange(outputs, dtype=np.float32) if with_bias else None
    packed = ms.pack_weight(codes, scales, block)
    expected = x.astype(np.float64) @ weight.T + (0 if bias is None else bias)
    assert np.allclose(ms.matmul(x, packed, bias), expected, rtol=1e-4, atol=1e-4)
    assert np.array_equal(ms.restore(packed), weight.T)
    assert all(map(np.array_equal, packed.unpacked(), (codes, scales)))


def test_every_code_stands_for_its_element():
    codes = np.tile(np.arange(16, dtype=np.uint8), (1, 1))
    packed = ms.pack_weight(codes, np.ones((1, 1), np.float32), 16)
    for k in range(16):
        x = np.eye(16, dtype=np.float32)[k : k + 1]
        assert float(ms.matmul(x, packed)[0, 0]) == TABLE[k]


def test_two_threads_give_the_same_bits():
    x, codes, scales, _ = problem(0, 3, 700, 20, 32)
    packed = ms.pack_weight(codes, scales, 32)
    assert 3 * codes.size > ms.SPLIT_MACS
    assert np.array_equal(ms.matmul(x, packed), ms.matmul(x, packed, threads=2))


def test_four_bits_and_a_scale_are_what_is_held():
    _, codes, scales, _ = problem(0, 1, 64, 4, 32)
    assert ms.pack_weight(codes, scales, 32).nbytes == codes.size // 2 + 4 * scales.size


GOOD = (np.zeros((2, 16), np.uint8), np.ones((2, 1), np.float32), 16)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.full((2, 16), 16, np.uint8), *GOOD[1:]), "codes must be 0 to 15"),
        ((np.zeros((0, 16), np.uint8), *GOOD[1:]), "none of them 0"),
        ((np.zeros((2, 16)), *GOOD[1:]), "codes must have dtype uint8"),
        ((GOOD[0], np.ones((2, 2), np.float32), 16), "scales must be"),
        ((GOOD[0], -GOOD[1], 16), "scales must be"),
        ((GOOD[0], GOOD[1] * np.float32(np.nan), 16), "scales must be"),
        ((GOOD[0], GOOD[1], 12), "block must be a multiple of 8"),
        ((GOOD[0], GOOD[1], 4), "block must be"),
        ((GOOD[0], GOOD[1], 16.0), "block must be an integer"),
    ],
)
def test_what_cannot_be_packed_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        ms.pack_weight(*arguments)


def test_other_inputs_are_named():
    packed = ms.pack_weight(*GOOD)
    for x, bias, words in (
        (np.zeros((2, 15), np.float32), None, "x must have shape"),
        (np.zeros((2, 16)), None, "x must have dtype"),
        (np.zeros((2, 16), np.float32), np.zeros(3, np.float32), "bias must have shape"),
    ):
        with pytest.raises(ValueError, match=words):
            ms.matmul(x, packed, bias)


def test_views_and_nan_are_what_numpy_makes_of_them():
    x, codes, scales, weight = problem(3, 6, 20, 2, 16)
    packed = ms.pack_weight(codes, scales, 16)
    assert np.allclose(ms.matmul(x[::2], packed), x[::2] @ weight.T, rtol=1e-4, atol=1e-4)
    x[1, 4] = np.nan
    found = ms.matmul(x, packed)
    assert np.isnan(found[1]).all()
    assert np.isfinite(np.delete(found, 1, 0)).all()


# ---- the fast transform ----------------------------------------------------------------------------
@given(st.integers(0, 9), st.integers(0, 5), st.integers(0, 99))
def test_it_is_scipys_matrix_over_the_root_of_n(power, rows, seed):
    n = 2**power
    x = np.random.default_rng(seed).normal(0, 1, (rows, n)).astype(np.float32)
    expected = x @ scipy.linalg.hadamard(n) / np.sqrt(n)
    assert np.allclose(hadamard.transform(x), expected, atol=1e-4)
    assert np.allclose(hadamard.transform(hadamard.transform(x)), x, atol=1e-4)


def test_its_argument_stays_as_it_was_and_keeps_its_shape():
    x = np.random.default_rng(0).normal(0, 1, (2, 3, 8)).astype(np.float32)
    before = x.copy()
    assert hadamard.transform(x).shape == x.shape
    assert hadamard.transform(x[:, ::2]).shape == (2, 2, 8)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("shape", [(2, 3), (4, 0), (), (1, 12)], ids=str)
def test_other_lengths_are_refused(shape):
    with pytest.raises(ValueError, match="power of two"):
        hadamard.transform(np.zeros(shape, np.float32))


def test_other_numbers_are_refused():
    with pytest.raises(ValueError, match="dtype float32"):
        hadamard.transform(np.zeros((2, 4)))
