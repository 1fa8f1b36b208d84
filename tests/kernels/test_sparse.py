"""Sparse products against NumPy's dense float64 ones, and the forms against SciPy's."""

import numba
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from compresslab.kernels import sparse

BATCHES = st.sampled_from([0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 100])


@st.composite
def problems(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    outputs, inputs = 8 * draw(st.integers(1, 5)), 16 * draw(st.integers(1, 40))
    weight = generator.normal(size=(outputs, inputs)).astype(np.float32)
    weight[generator.random(weight.shape) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))] = 0
    # Every second column of twice as many: not contiguous.
    x = generator.normal(size=(inputs, 2 * draw(BATCHES))).astype(np.float32)[:, ::2]
    return weight, x, generator


def close(got, weight, x):
    want = weight.astype(np.float64) @ x.astype(np.float64)
    assert got.shape == want.shape
    assert got.dtype == np.float32
    assert np.allclose(got, want, atol=1e-3, rtol=1e-4)


@given(problems())
def test_csr_is_scipys_csr_and_multiplies_like_the_dense_matrix(problem):
    weight, x, _ = problem
    packed, theirs = sparse.Csr.of(weight), scipy.sparse.csr_array(weight)
    assert np.array_equal(packed.starts, theirs.indptr)
    assert np.array_equal(packed.columns, theirs.indices)
    assert np.array_equal(packed.values, theirs.data)
    assert np.array_equal(packed.dense(), weight)
    close(sparse.matmul(packed, x), weight, x)


@given(problems(), st.integers(1, 300), st.integers(1, 9))
def test_csr_takes_any_shape(problem, inputs, outputs):
    _, x, generator = problem
    weight = (generator.random((outputs, inputs)) < 0.3).astype(np.float32)
    x = generator.normal(size=(inputs, x.shape[1])).astype(np.float32)
    close(sparse.matmul(sparse.Csr.of(weight), x), weight, x)


def two_of_four(weight, generator):
    groups = weight.reshape(len(weight), -1, 4).copy()
    dropped = np.argsort(generator.random(groups.shape), axis=2)[..., :2]
    np.put_along_axis(groups, dropped, 0, axis=2)
    return groups.reshape(weight.shape)


@given(problems())
def test_two_of_four_comes_back_and_multiplies_like_the_dense_matrix(problem):
    weight, x, generator = problem
    weight = two_of_four(weight, generator)
    packed = sparse.TwoOfFour.of(weight)
    assert np.array_equal(packed.dense(), weight)
    assert packed.values.size == weight.size // 2
    close(sparse.matmul(packed, x), weight, x)


@given(problems(), st.sampled_from([(8, 16), (4, 16), (8, 1), (4, 8)]))
def test_blocks_come_back_and_multiply_like_the_dense_matrix(problem, block):
    weight, x, generator = problem
    kept = generator.random((len(weight) // block[0], weight.shape[1] // block[1])) < 0.4
    weight = weight * np.kron(kept, np.ones(block, np.float32)).astype(np.float32)
    packed = sparse.Blocks.of(weight, block)
    assert np.array_equal(packed.dense(), weight)
    theirs = scipy.sparse.bsr_array(weight, blocksize=block)
    theirs.eliminate_zeros()
    assert len(packed.values) == len(theirs.indices)
    close(sparse.matmul(packed, x), weight, x)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads):
    generator = np.random.default_rng(0)
    # As plain Python the loops run a thousand times slower: fewer blocks then, but several still.
    rows, columns, batch = (72, 64, 40) if numba.config.DISABLE_JIT else (520, 640, 100)
    weight = two_of_four(generator.normal(size=(rows, columns)).astype(np.float32), generator)
    x = generator.normal(size=(columns, batch)).astype(np.float32)
    for form in (sparse.Csr, sparse.TwoOfFour, sparse.Blocks):
        one, many = (sparse.matmul(form.of(weight), x, t) for t in (1, threads))
        assert np.array_equal(one, many)


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: sparse.Csr.of(np.ones((2, 2))), "dense must have dtype float32, got float64"),
        (lambda: sparse.Csr.of(ones(3)), r"two dimensions, got shape \(3,\)"),
        (lambda: sparse.TwoOfFour.of(ones(2, 6)), "multiple of 4 columns, got 6"),
        (lambda: sparse.TwoOfFour.of(ones(2, 8)), "at most 2 nonzeros.*row 0, columns 0 to 3"),
        (lambda: sparse.Blocks.of(ones(8, 16), (5, 16)), "4 or 8 rows"),
        (lambda: sparse.Blocks.of(ones(9, 16)), r"divide the shape \(9, 16\)"),
        (
            lambda: sparse.matmul(sparse.Csr.of(ones(2, 3)), ones(4, 5)),
            r"x must have shape \[3, B\]",
        ),
        (lambda: sparse.matmul(sparse.Csr.of(ones(2, 3)), np.ones((3, 1))), "x must have dtype"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
