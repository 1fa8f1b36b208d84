"""Quantize and dequantize against NumPy's obvious version and torch, on every shape and granularity."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from compresslab.kernels import affine, reference

GRIDS = [(-128, 127), (-127, 127), (0, 255), (-8, 7), (0, 15), (-2, 1), (0, 3), (0, 1)]
VALUES = st.floats(width=32, allow_nan=False)
SCALES = st.floats(2.0**-100, 2.0**100, width=32)
shapes = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9)


@st.composite
def problems(draw):
    """x, scale, zero point, grid, axis and group that fit together, of odd and empty sizes too."""
    shape = draw(shapes | st.tuples(st.integers(0, 300)))
    x = draw(arrays.arrays(np.float32, shape, elements=VALUES | st.sampled_from([0.5, 1.5, -2.5])))
    low, high = draw(st.sampled_from(GRIDS))
    kind = draw(st.sampled_from(["tensor", "axis", "group"]))
    axis = group = None
    parameter_shape = ()
    if kind == "axis":
        axis = draw(st.integers(-len(shape), len(shape) - 1))
        parameter_shape = (shape[axis],)
    elif kind == "group":
        divisors = [g for g in range(1, shape[-1] + 1) if shape[-1] % g == 0] or [3]
        group = draw(st.sampled_from(divisors))
        parameter_shape = (*shape[:-1], shape[-1] // group)
    scale = draw(arrays.arrays(np.float32, parameter_shape, elements=SCALES))
    zero = draw(arrays.arrays(np.int64, parameter_shape, elements=st.integers(low, high)))
    return x, scale, zero, low, high, axis, group


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other)


@given(problems())
def test_quantize_equals_the_oracle_on_every_shape(problem):
    with np.errstate(over="ignore"):
        assert same(affine.quantize(*problem), reference.quantize(*problem))


@given(problems())
def test_dequantize_equals_the_oracle_on_every_shape(problem):
    x, scale, zero, low, high, axis, group = problem
    with np.errstate(over="ignore"):
        codes = reference.quantize(x, scale, zero, low, high, axis, group)
        expected = reference.dequantize(codes, scale, zero, axis, group)
        assert same(affine.dequantize(codes, scale, zero, axis, group), expected)


@given(
    arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e4, 1e4, width=32)),
    st.floats(2.0**-10, 4, width=32),
    st.sampled_from(GRIDS),
    st.data(),
)
def test_per_tensor_agrees_with_torch_fake_quantize(x, scale, grid, data):
    low, high = grid
    zero = data.draw(st.integers(low, high))
    ours = affine.dequantize(affine.quantize(x, scale, zero, low, high), scale, zero)
    theirs = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), scale, zero, low, high)
    assert np.array_equal(ours, theirs.numpy())


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=1, max_dims=4, max_side=7),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
    st.sampled_from(GRIDS),
    st.data(),
)
def test_per_channel_agrees_with_torch_fake_quantize(x, grid, data):
    low, high = grid
    axis = data.draw(st.integers(0, x.ndim - 1))
    n = x.shape[axis]
    scale = data.draw(arrays.arrays(np.float32, n, elements=st.floats(2.0**-10, 4, width=32)))
    zero = data.draw(arrays.arrays(np.int32, n, elements=st.integers(low, high)))
    ours = affine.dequantize(affine.quantize(x, scale, zero, low, high, axis), scale, zero, axis)
    theirs = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(x), torch.from_numpy(scale), torch.from_numpy(zero), axis, low, high
    )
    assert np.array_equal(ours, theirs.numpy())


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(0, 5), st.sampled_from([0, 6, 24, 96, 128])),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    st.integers(2, 8),
    st.sampled_from([1, 2, 3, 6, 24, 32]),
)
def test_absmax_equals_the_oracle_and_uses_the_whole_grid(x, bits, group):
    assume(x.shape[1] % group == 0)
    codes, scale = affine.quantize_absmax(x, bits, group)
    expected_codes, expected_scale = reference.quantize_absmax(x, bits, group)
    assert same(codes, expected_codes)
    assert same(scale, expected_scale)
    high = 2 ** (bits - 1) - 1
    normal = scale > np.finfo(np.float32).tiny * 2
    largest = np.abs(codes.reshape(*scale.shape, group).astype(int)).max(axis=-1, initial=0)
    assert (largest[normal] == high).all()


def test_ties_go_to_even_and_infinities_saturate():
    x = np.array([-1.5, -0.5, 0.5, 1.5, 2.5, np.inf, -np.inf, 3e38], np.float32)
    assert affine.quantize(x, 1.0, 0, -8, 7).tolist() == [-2, 0, 0, 2, 2, 7, -8, 7]


def test_an_odd_zero_point_is_added_after_rounding():
    assert affine.quantize(np.array([0.5, 1.5], np.float32), 1.0, 3, 0, 15).tolist() == [3, 5]


@pytest.mark.parametrize(
    "view", [lambda x: x[::2], lambda x: x.T, lambda x: x[:, ::-1], lambda x: x[1:, 3:]]
)
def test_views_that_are_not_contiguous_are_read_in_their_own_order(view):
    x = view(np.arange(40 * 50, dtype=np.float32).reshape(40, 50))
    assert same(affine.quantize(x, 20.0, 0, -128, 127), reference.quantize(x, 20.0, 0, -128, 127))


def test_the_input_is_left_alone_and_out_is_filled():
    x = np.linspace(-3, 3, 50, dtype=np.float32)
    copy, out = x.copy(), np.empty(50, np.int8)
    assert affine.quantize(x, 0.1, 0, -8, 7, out=out) is out
    assert np.array_equal(x, copy)
    assert same(out, reference.quantize(x, 0.1, 0, -8, 7))


@pytest.mark.parametrize("place", [0, 15, 16, 99])
@pytest.mark.parametrize("axis,group", [(None, None), (0, None), (1, None), (None, 5)])
def test_nan_is_refused_wherever_it_hides(place, axis, group):
    x = np.ones((10, 10), np.float32)
    x.flat[place] = np.nan
    shape = {(None, None): (), (None, 5): (10, 2)}.get((axis, group), (10,))
    index = str(tuple(int(i) for i in np.unravel_index(place, x.shape)))
    with pytest.raises(ValueError, match="x must not contain NaN") as error:
        affine.quantize(x, np.ones(shape, np.float32), 0, -8, 7, axis, group)
    assert index in str(error.value)


X = np.ones((4, 6), np.float32)


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"x": X.astype(np.float64)}, "x must have dtype float32, got float64"),
        ({"x": X.tolist()}, "x must be a NumPy array, got list"),
        ({"low": -129}, "low must be an integer from -128 to 254, got -129"),
        ({"high": 256}, "high must be an integer from 0 to 255, got 256"),
        ({"low": 0.5}, "low must be an integer"),
        ({"low": True}, "low must be an integer"),
        ({"low": 7, "high": 7}, "low < high"),
        ({"low": -1, "high": 200}, "within -128..127 or 0..255"),
        ({"scale": 0.0}, "scale must be finite and at least"),
        ({"scale": -1.0}, "scale must be finite and at least"),
        ({"scale": np.nan}, "scale must be finite and at least"),
        ({"scale": np.inf}, "scale must be finite and at least"),
        ({"scale": 1e-44}, "scale must be finite and at least"),
        ({"scale": 1}, "scale must be floating-point"),
        ({"scale": np.ones(3, np.float32)}, r"scale must have shape \(\), got \(3,\)"),
        ({"scale": np.ones(3, np.float32), "axis": 0}, r"scale must have shape \(4,\), got \(3,\)"),
        ({"zero_point": 0.0}, "zero_point must be integer"),
        ({"zero_point": 8}, "zero_point must lie in -8..7, got 8"),
        ({"zero_point": np.zeros(3, int)}, "zero_point must have shape"),
        ({"axis": 2}, "axis must be an integer from -2 to 1, got 2"),
        ({"axis": 0, "group": 2}, "axis and group exclude each other"),
        ({"group": 4}, "group must divide the last axis of length 6, got 4"),
        ({"group": 0}, "group must be an integer from 1"),
        ({"out": np.empty(24, np.int8)}, "out must be a C-contiguous int8 array"),
        ({"out": np.empty((4, 6), np.uint8)}, "out must be a C-contiguous int8 array"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    given_ = {"x": X, "scale": 1.0, "zero_point": 0, "low": -8, "high": 7, **arguments}
    with pytest.raises(ValueError, match=words):
        affine.quantize(**given_)


@pytest.mark.parametrize("bits", [1, 9, 2.0, "4"])
def test_absmax_refuses_other_widths(bits):
    with pytest.raises(ValueError, match="bits must be an integer from 2 to 8"):
        affine.quantize_absmax(X, bits, 6)


@pytest.mark.parametrize("bad,words", [(np.nan, "NaN"), (np.inf, "infinity")])
def test_absmax_refuses_what_has_no_maximum(bad, words):
    x = X.copy()
    x[2, 3] = bad
    with pytest.raises(ValueError, match=words):
        affine.quantize_absmax(x, 4, 3)
