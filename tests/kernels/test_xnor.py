"""Binary products and convolutions: exact against NumPy's integers and torch's float64 convolution."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numba import config

from compresslab.kernels import reference, xnor, xnor_conv
from compresslab.kernels.int8_conv import Window

LENGTHS = st.sampled_from([1, 2, 31, 32, 33, 63, 64, 65, 97, 127, 128, 131, 200])
ROWS = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 11, 12, 13])
OUTPUTS = st.sampled_from([1, 5, 16, 17, 32, 33, 64, 65, 130])


@st.composite
def products(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m, n, k = draw(ROWS), draw(OUTPUTS), draw(LENGTHS)
    x = generator.integers(-2, 3, (m, 2 * k)).astype(np.float32)[:, ::2]
    w = generator.integers(-2, 3, (n, k)).astype(np.float32)
    return x, w, generator


def packed(w):
    return xnor.pack_weight(xnor.pack_signs(w), w.shape[1])


@given(products())
def test_packed_signs_are_exact_and_come_back(problem):
    x, w, _ = problem
    assert np.array_equal(xnor.pack_signs(x), reference.pack_signs(x))
    assert np.array_equal(
        xnor.unpack_signs(xnor.pack_signs(x), x.shape[1]), np.where(x >= 0, 1, -1)
    )
    assert np.array_equal(packed(w).unpacked(), xnor.pack_signs(w))


def test_zero_of_either_sign_is_plus_one():
    x = np.array([[0.0, -0.0, -1e-45, 1e-45, -np.inf, np.inf]], np.float32)
    assert xnor.pack_signs(x)[0, 0] == 0b101011


@given(products())
def test_the_product_is_exact(problem):
    x, w, _ = problem
    got = xnor.matmul(xnor.pack_signs(x), packed(w))
    assert got.dtype == np.int32
    assert np.array_equal(got, reference.sign_product(x, w))


@given(products())
def test_the_scaled_product_is_exact_up_to_rounding(problem):
    x, w, generator = problem
    alpha, bias = generator.random((2, len(w))).astype(np.float32)
    weight = packed(w)
    got = xnor.linear(x, weight, xnor.scales(weight, alpha, bias), magnitudes=True)
    means = np.abs(x).mean(axis=1, keepdims=True)
    want = reference.sign_product(x, w).astype(np.float64) * alpha * means + bias
    assert np.allclose(got, want, rtol=1e-5, atol=1e-4)
    plain = xnor.linear(x, weight, xnor.scales(weight))
    assert np.array_equal(plain, reference.sign_product(x, w))


@given(products())
def test_the_thresholded_product_is_exact(problem):
    x, w, generator = problem
    at_least, flip = generator.integers(-5, 6, len(w)), generator.random(len(w)) < 0.5
    weight = packed(w)
    got = xnor.matmul_signs(xnor.pack_signs(x), weight, xnor.thresholds(weight, at_least, flip))
    want = (reference.sign_product(x, w) >= at_least) ^ flip
    assert np.array_equal(got, reference.pack_signs(np.where(want, 1.0, -1.0)))


@st.composite
def convolutions(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel, stride, padding = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        draw(st.integers(0, 2)),
    )
    least = max(1, kernel - 2 * padding)
    batch, height, width = (
        draw(st.integers(0, 3)),
        least + draw(st.integers(0, 8)),
        least + draw(st.integers(0, 8)),
    )
    x = generator.integers(-2, 3, (batch, height, width, draw(LENGTHS))).astype(np.float32)
    w = generator.random((draw(OUTPUTS), kernel, kernel, x.shape[3])) < 0.5
    return x, w, Window(kernel, kernel, stride, padding), generator


def float_convolution(x, w, window):
    signs = torch.from_numpy(np.where(x >= 0, 1.0, -1.0)).permute(0, 3, 1, 2)
    weight = torch.from_numpy(np.where(w, 1.0, -1.0)).permute(0, 3, 1, 2)
    out = F.conv2d(signs, weight, stride=window.stride, padding=window.padding)
    return out.permute(0, 2, 3, 1).numpy()


@given(convolutions())
def test_the_convolution_is_exact(problem):
    x, w, window, _ = problem
    signs, _ = xnor_conv.pack_image(x)
    got = xnor_conv.conv2d(signs, x.shape[3], xnor_conv.pack_weight(w), window)
    assert np.array_equal(got, float_convolution(x, w, window))


@given(convolutions())
def test_every_epilogue_of_the_convolution_is_exact(problem):
    x, w, window, generator = problem
    want, weight = float_convolution(x, w, window), xnor_conv.pack_weight(w)
    signs, means = xnor_conv.pack_image(x, magnitudes=True)
    assert np.allclose(means, np.abs(x).mean(axis=3), atol=1e-6)
    alpha = generator.random(len(w)).astype(np.float32)
    scale = xnor_conv.position_scales(means, window)
    rest = (signs, x.shape[3], weight, window)
    got = xnor_conv.conv2d_scaled(*rest, xnor.scales(weight, alpha), scale)
    assert np.allclose(got, want * alpha * scale[..., None], rtol=1e-5, atol=1e-4)
    at_least, flip = generator.integers(-5, 6, len(w)), generator.random(len(w)) < 0.5
    got = xnor_conv.conv2d_signs(*rest, xnor.thresholds(weight, at_least, flip))
    bits = np.unpackbits(got.view(np.uint8), axis=3, bitorder="little")[..., : len(w)]
    assert np.array_equal(bits, (want >= at_least) ^ flip)


@given(convolutions())
def test_both_layouts_of_an_image_give_exactly_the_same_signs(problem):
    x, _, _, generator = problem
    channels = x.shape[3]
    limits = generator.integers(-1, 2, channels).astype(np.float32)
    flip = generator.random(channels) < 0.5
    options = {"at_least": limits, "flip": xnor.flip_words(flip), "magnitudes": True}
    last, means = xnor_conv.pack_image(x, **options)
    first, same = xnor_conv.pack_image(x.transpose(0, 3, 1, 2), channels_first=True, **options)
    bits = np.unpackbits(last.view(np.uint8), axis=3, bitorder="little")[..., :channels]
    assert np.array_equal(bits, (x >= limits) ^ flip)
    assert np.array_equal(first, last)
    assert np.allclose(same, means)


@pytest.mark.parametrize("stride,padding", [(1, 0), (1, 1), (2, 1), (3, 2)])
def test_position_scales_are_torchs_average_pooling_of_the_mean_magnitude(stride, padding):
    means = np.random.default_rng(0).random((2, 9, 7), np.float32)
    got = xnor_conv.position_scales(means, Window(5, 5, stride, padding))
    want = F.avg_pool2d(torch.from_numpy(means)[:, None], 5, stride, padding)[:, 0]
    assert np.allclose(got, want, atol=1e-6)


@given(st.integers(1, 3), st.integers(0, 7), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_pooling_signs_is_max_pooling(size, more, channels, seed):
    x = np.random.default_rng(seed).normal(-1, 1, (2, size + more, size, channels))
    signs, _ = xnor_conv.pack_image(x.astype(np.float32))
    none = np.zeros(signs.shape[3], np.uint64)
    want = F.max_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    want = xnor_conv.pack_image(want.float().numpy())[0]
    assert np.array_equal(xnor_conv.or_pool(signs, size, none), want)
    flip = xnor.flip_words(np.arange(channels) % 3 == 0)
    assert np.array_equal(xnor_conv.or_pool(signs, size, flip), want ^ flip)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(301, 900)).astype(np.float32)
    weight = packed(generator.normal(size=(300, 900)).astype(np.float32))
    signs = xnor.pack_signs(x)
    assert np.array_equal(xnor.matmul(signs, weight, threads), xnor.matmul(signs, weight))
    image, _ = xnor_conv.pack_image(x.reshape(7, 43, 9, 100))
    taps = xnor_conv.pack_weight(generator.random((70, 3, 3, 100)) < 0.5)
    one, many = (xnor_conv.conv2d(image, 100, taps, Window(3, 3, 1, 1), t) for t in (1, threads))
    assert np.array_equal(one, many)


def signs_of(*shape):
    return np.zeros(shape, np.uint64)


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: xnor.pack_signs(np.zeros((2, 3))), "x must have dtype float32, got float64"),
        (lambda: xnor.pack_signs(np.zeros((2, 0), np.float32)), r"\[M, K\] with K >= 1"),
        (lambda: xnor.pack_signs(np.full((2, 70), np.nan, np.float32)), r"NaN at index \(0, 0\)"),
        (lambda: xnor.pack_weight(signs_of(3, 2), 64), r"\[N, 1\] with N >= 1, got \(3, 2\)"),
        (lambda: xnor.pack_weight(~signs_of(3, 1), 63), "must be 0 beyond bit 63"),
        (lambda: xnor.matmul(signs_of(3, 2), packed(np.ones((2, 64), np.float32))), r"\[M, 1\]"),
        (lambda: xnor.unpack_signs(signs_of(3, 2), 64), r"\[M, 1\], got \(3, 2\)"),
        (lambda: xnor_conv.pack_weight(np.ones((2, 3, 3, 4))), "signs must have dtype bool"),
        (lambda: xnor_conv.pack_image(np.zeros((2, 3, 4), np.float32)), "four dimensions"),
        (lambda: xnor_conv.or_pool(signs_of(1, 4, 4, 1), 5, signs_of(1)), "from 1 to 4, got 5"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_convolution_refuses_what_does_not_fit():
    weight, window = xnor_conv.pack_weight(np.ones((2, 3, 3, 70), bool)), Window(3, 3)
    with pytest.raises(ValueError, match=r"signs must have shape \[batch, h, w, 2\]"):
        xnor_conv.conv2d(signs_of(1, 5, 5, 1), 70, weight, window)
    with pytest.raises(ValueError, match="channels must be 70 for this weight and window, got 71"):
        xnor_conv.conv2d(signs_of(1, 5, 5, 2), 71, weight, window)
    with pytest.raises(ValueError, match="at least as large"):
        xnor_conv.conv2d(signs_of(1, 2, 2, 2), 70, weight, window)
    for place in ((0, 1, 1, 0), (0, 2, 2, 69)):
        x = np.zeros((1, 3, 3, 70), np.float32)
        x[place] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            xnor_conv.pack_image(x)
        with pytest.raises(ValueError, match="NaN"):
            xnor_conv.pack_image(x.transpose(0, 3, 1, 2), channels_first=True)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other targets are x86-64 processors")
@pytest.mark.skipif("COMPRESSLAB_TARGET_TEST" in os.environ, reason="this is the inner run")
@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="without the JIT there is no target")
@pytest.mark.parametrize("cpu,features", [("x86-64", "+sse2"), ("x86-64-v3", "+avx2,+popcnt,+fma")])
def test_the_same_source_runs_on_a_lesser_processor(cpu, features, tmp_path):
    environment = os.environ | {
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "COMPRESSLAB_TARGET_TEST": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "exact",
        __file__,
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "passed" in done.stdout
