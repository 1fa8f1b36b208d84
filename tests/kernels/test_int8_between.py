"""Pooling windows, products and tables of codes, against torch and NumPy on what the codes stand for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from compresslab.kernels import int8_conv, int8_pool

WINDOWS = st.tuples(
    *(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    *(st.integers(0, 2), st.integers(0, 2), st.booleans()),
)


def drawn(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def windows_of(numbers):
    height, width, down, across, top, left, ceil = numbers
    # torch allows padding by half a window.
    top, left = min(top, height // 2), min(left, width // 2)
    return int8_pool.Windows(height, width, down, across, top, left, int(ceil))


def first(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2).double()


@settings(max_examples=150, deadline=None)
@given(WINDOWS, st.integers(4, 9), st.integers(4, 9), st.integers(1, 5), st.integers(0, 99))
def test_max_pooling_is_torchs(numbers, height, width, channels, seed):
    w, x = windows_of(numbers), drawn(seed, 2, height, width, channels)
    wanted = F.max_pool2d(
        first(x), (w.height, w.width), (w.down, w.across), (w.top, w.left), ceil_mode=bool(w.ceil)
    )
    assert np.array_equal(first(int8_pool.max_pool_windows(x, w)), wanted)


@settings(max_examples=150, deadline=None)
@given(WINDOWS, st.integers(4, 9), st.integers(4, 9), st.booleans(), st.integers(0, 99))
def test_mean_pooling_is_torchs_within_half_a_code(numbers, height, width, padded, seed):
    w, x, zero = windows_of(numbers), drawn(seed, 2, height, width, 3), 7
    found = int8_pool.mean_pool_windows(x, w, zero, 0.5, padded, 100, 0, 255)
    values = F.avg_pool2d(
        first(x) - zero,
        (w.height, w.width),
        (w.down, w.across),
        (w.top, w.left),
        ceil_mode=bool(w.ceil),
        count_include_pad=padded,
    )
    wanted = (0.5 * values + 100).clamp(0, 255)
    assert float((first(found) - wanted).abs().max()) <= 0.5 + 1e-4


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["pixels", "one pixel", "rows"]), st.integers(1, 20), st.integers(0, 99))
def test_a_product_of_codes_is_the_product_of_what_they_stand_for(shape, channels, seed):
    sizes = {"pixels": (2, 3, 4), "one pixel": (2, 3, 4), "rows": (5,)}[shape]
    a = drawn(seed, *sizes, channels)
    b = drawn(seed + 1, *((2, 1, 1) if shape == "one pixel" else sizes), channels)
    found = int8_pool.multiply(a, b, (3, 120), 0.01, 20, 10, 250)
    product = (a.astype(np.float64) - 3) * (b.astype(np.float64) - 120) * 0.01 + 20
    assert np.abs(found - np.clip(product, 10, 250)).max() <= 0.5 + 1e-3


def test_tables_are_numpys_indexing():
    x = drawn(0, 3, 4, 5, 6)
    one, each = drawn(1, 256), drawn(2, 6, 256)
    assert np.array_equal(int8_pool.look_up(x, one), one[x])
    assert np.array_equal(int8_pool.look_up(x, each), each[np.arange(6), x])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(0, 9)
)
def test_patches_times_a_weight_are_a_convolution(height, width, stride, padding, seed):
    x, weight = drawn(seed, 2, 6, 7, 3), drawn(seed + 1, 4, height, width, 3)
    rows = int8_conv.patches(x, 9, int8_conv.Window(height, width, stride, padding))
    found = rows.astype(np.float64) @ weight.reshape(4, -1).astype(np.float64).T
    padded = F.pad(first(x), (padding,) * 4, value=9.0)
    wanted = F.conv2d(padded, torch.from_numpy(weight).permute(0, 3, 1, 2).double(), stride=stride)
    assert np.array_equal(found, wanted.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    "call,words",
    [
        (
            lambda: int8_pool.max_pool_windows(drawn(0, 2, 3, 3, 1), int8_pool.Windows(5, 1, 1, 1)),
            "x must be at least as large as Windows",
        ),
        (
            lambda: int8_pool.multiply(
                drawn(0, 2, 3, 3, 4), drawn(0, 2, 1, 3, 4), (0, 0), 1.0, 0, 0, 255
            ),
            "b must have a's shape",
        ),
        (
            lambda: int8_pool.multiply(
                drawn(0, 2, 4), drawn(0, 2, 4), (0, 0), float("nan"), 0, 0, 255
            ),
            "multiplier must be finite",
        ),
        (lambda: int8_pool.look_up(drawn(0, 4), drawn(0, 200)), "table must have shape"),
        (
            lambda: int8_pool.look_up(drawn(0, 4).astype(np.int8), drawn(0, 256)),
            "x must have dtype",
        ),
        (lambda: int8_conv.patches(drawn(0, 4, 4), 0, int8_conv.Window(1, 1)), "x must have shape"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
