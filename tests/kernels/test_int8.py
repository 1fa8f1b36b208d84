"""Integer products, convolutions and pools, exact against NumPy's int64 and torch's float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from compresslab.kernels import int8, int8_conv, int8_loops, int8_pool, panels
from compresslab.kernels._threads import split_rows
from compresslab.kernels.int8_conv_loops import gather_block

SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 11, 12, 13, 16, 17, 31, 32, 33, 63, 64, 65, 97])


@st.composite
def products(draw):
    m, n, k = draw(SIZES), draw(SIZES), draw(SIZES)
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = generator.integers(0, 256, (m, k)).astype(np.uint8)
    w = generator.integers(-128, 128, (n, k)).astype(np.int8)
    return x, w, generator


def exact(x, w):
    return x.astype(np.int64) @ w.astype(np.int64).T


@given(products())
def test_the_product_is_exact(problem):
    x, w, _ = problem
    packed = panels.pack_weight(w)
    assert np.array_equal(packed.unpacked(), w)
    got = int8.matmul(x, packed)
    assert got.dtype == np.int32
    assert np.array_equal(got, exact(x, w))
    signed = x.view(np.int8)
    assert np.array_equal(int8.matmul(signed, packed), exact(signed, w))


def test_the_largest_codes_do_not_overflow():
    x, w = np.full((5, 4000), 255, np.uint8), np.full((20, 4000), -128, np.int8)
    assert (int8.matmul(x, panels.pack_weight(w)) == -255 * 128 * 4000).all()


@given(products(), st.integers(0, 255))
def test_requantizing_rounds_adds_the_zero_point_and_saturates(problem, zero):
    x, w, generator = problem
    n = len(w)
    bias = generator.integers(-1000, 1000, n).astype(np.int32)
    factor = (generator.uniform(0.1, 2, n) / (x.shape[1] * 60)).astype(np.float32)
    packed = panels.pack_weight(w)
    got = int8.matmul_requantize(x, packed, packed.requantize(zero, bias, factor, 7, 7, 200))
    total = (exact(x.astype(np.int64) - zero, w) + bias).astype(np.float32)
    assert np.array_equal(got, np.clip(np.rint(total * factor) + 7, 7, 200).astype(np.uint8))


@given(products(), st.integers(0, 255))
def test_dequantizing_scales_rows_and_columns_and_adds_the_bias(problem, zero):
    x, w, generator = problem
    rows = generator.uniform(0.1, 2, len(x)).astype(np.float32)
    scale = generator.uniform(0.1, 2, len(w)).astype(np.float32)
    bias = generator.normal(0, 1, len(w)).astype(np.float32)
    packed = panels.pack_weight(w)
    got = int8.matmul_dequantize(x, packed, packed.dequantize(zero, scale, bias), rows)
    expected = exact(x.astype(np.int64) - zero, w) * rows[:, None].astype(float) * scale + bias
    assert np.allclose(got, expected, rtol=1e-5, atol=1e-3)


@given(products())
def test_a_dynamic_linear_layer_is_near_the_float_one(problem):
    x, w, generator = problem
    real = generator.normal(0, 1, x.shape).astype(np.float32)
    scale = np.full(len(w), 0.01, np.float32)
    packed = panels.pack_weight(w)
    got = int8.dynamic_linear(real, packed, packed.dequantize(int8.SIGN, scale))
    expected = real @ (w * scale[:, None]).T
    step = np.abs(real).max(axis=1, keepdims=True) / 127
    bound = 0.5 * step * np.abs(w * scale[:, None]).sum(axis=1) + 1e-3
    assert (np.abs(got - expected) <= bound * 1.001).all()


@pytest.mark.parametrize(
    "m,n,k", [(32, 64, 64), (33, 65, 64), (95, 130, 120), (64, 100, 256), (200, 64, 250)]
)
def test_shapes_that_suit_matrix_tiles_are_exact_with_every_epilogue(m, n, k, monkeypatch):
    generator = np.random.default_rng(m)
    x = generator.integers(0, 256, (m, k)).astype(np.uint8)
    w = generator.integers(-128, 128, (n, k)).astype(np.int8)
    packed = panels.pack_weight(w)
    assert packed.fits_tiles
    factor = generator.uniform(1e-4, 1e-3, n).astype(np.float32)
    bias = generator.integers(-500, 500, n).astype(np.int32)
    requantize = packed.requantize(9, bias, factor, 3, 0, 255)
    dequantize = packed.dequantize(9, factor, factor)
    rows = generator.uniform(0.5, 2, m).astype(np.float32)

    def results():
        yield int8.matmul(x, packed)
        yield int8.matmul_requantize(x, packed, requantize)
        yield int8.matmul_dequantize(x, packed, dequantize, rows, threads=2)

    with_tiles = list(results())
    monkeypatch.setattr(int8, "tiles_available", lambda: False)
    assert np.array_equal(with_tiles[0], exact(x, w))
    assert all(map(np.array_equal, with_tiles, results()))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (301, 150)).astype(np.uint8)
    w = panels.pack_weight(generator.integers(-128, 128, (70, 150)).astype(np.int8))
    assert np.array_equal(int8.matmul(x, w, threads), int8.matmul(x, w))


@given(st.integers(0, 200), st.integers(1, 5), st.integers(1, 20))
def test_split_rows_covers_every_row_once(rows, threads, least):
    seen = []
    split_rows(lambda a, b: seen.extend(range(a, b)), rows, threads, least)
    assert sorted(seen) == list(range(rows))


@pytest.mark.parametrize(
    "x,words",
    [
        (np.zeros((2, 4), np.float32), "x must have dtype uint8"),
        (np.zeros((2, 5), np.uint8), r"x must have shape \[M, 4\], got \(2, 5\)"),
        (np.zeros(4, np.uint8), r"x must have shape \[M, 4\]"),
    ],
)
def test_activations_that_do_not_fit_are_refused(x, words):
    packed = panels.pack_weight(np.ones((3, 4), np.int8))
    with pytest.raises(ValueError, match=words):
        int8.matmul(x, packed)


@pytest.mark.parametrize(
    "weight", [np.zeros((0, 4), np.int8), np.zeros(4, np.int8), np.zeros((3, 4), np.uint8)]
)
def test_weights_without_a_matrix_are_refused(weight):
    with pytest.raises(ValueError, match="weight must have"):
        panels.pack_weight(weight)


def test_views_that_are_not_contiguous_are_read_in_their_own_order():
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (9, 40)).astype(np.uint8)
    w = generator.integers(-128, 128, (20, 40)).astype(np.int8)
    assert np.array_equal(
        int8.matmul(x[::2, ::2], panels.pack_weight(w[:, ::2])), exact(x[::2, ::2], w[:, ::2])
    )


# ---- convolutions --------------------------------------------------------------------------------
@st.composite
def images(draw):
    side, kernel = draw(st.integers(1, 9)), draw(st.sampled_from([1, 2, 3, 5]))
    padding = draw(st.integers(max(0, (kernel - side + 1) // 2), 2))
    return {
        "batch": draw(st.integers(1, 3)),
        "size": (side, draw(st.integers(side, 9))),
        "channels": draw(st.sampled_from([1, 2, 3, 8, 16, 17, 33])),
        "outputs": draw(st.sampled_from([1, 3, 16, 17, 26, 33, 70])),
        "window": int8_conv.Window(kernel, kernel, draw(st.integers(1, 3)), padding),
        "zero": draw(st.integers(0, 255)),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def in_torch(x, w, window, zero, groups):
    """The sums as torch finds them in float64, channels last."""
    image = torch.from_numpy(x.astype(np.float64) - zero).permute(0, 3, 1, 2)
    kernel = torch.from_numpy(w.astype(np.float64))
    arguments = {"stride": window.stride, "padding": window.padding, "groups": groups}
    return F.conv2d(image, kernel, **arguments).permute(0, 2, 3, 1).numpy()


def codes(total, bias, factor):
    return np.clip(np.rint((total + bias).astype(np.float32) * factor) + 5, 5, 250).astype(np.uint8)


@given(images())
def test_a_convolution_is_torchs_in_integers(p):
    generator, window, n, c = (
        np.random.default_rng(p["seed"]),
        p["window"],
        p["outputs"],
        p["channels"],
    )
    x = generator.integers(0, 256, (p["batch"], *p["size"], c)).astype(np.uint8)
    w = generator.integers(-127, 128, (n, c, window.height, window.width)).astype(np.int8)
    bias = generator.integers(-500, 500, n).astype(np.int32)
    factor = generator.uniform(1e-4, 1e-2, n).astype(np.float32)
    packed = panels.pack_weight(w.transpose(0, 2, 3, 1).reshape(n, -1), w.shape[2])
    epilogue = packed.requantize(p["zero"], bias, factor, 5, 5, 250)
    expected = codes(in_torch(x, w, window, p["zero"], 1), bias, factor)
    for threads in (1, 2):
        got = int8_conv.conv2d_requantize(x, p["zero"], packed, window, epilogue, threads)
        assert np.array_equal(got, expected)


@given(images())
def test_a_depthwise_convolution_is_torchs_in_integers(p):
    generator, window, c = np.random.default_rng(p["seed"]), p["window"], p["channels"]
    x = generator.integers(0, 256, (p["batch"], *p["size"], c)).astype(np.uint8)
    w = generator.integers(-127, 128, (c, 1, window.height, window.width)).astype(np.int8)
    bias = generator.integers(-500, 500, c).astype(np.int32)
    factor = generator.uniform(1e-4, 1e-2, c).astype(np.float32)
    taps = np.ascontiguousarray(w[:, 0].transpose(1, 2, 0))
    packed_taps = int8_conv.pack_taps(taps)
    epilogue = packed_taps.requantize(p["zero"], bias, factor, 5, 5, 250)
    got = int8_conv.depthwise_requantize(x, p["zero"], packed_taps, window, epilogue)
    assert np.array_equal(got, codes(in_torch(x, w, window, p["zero"], c), bias, factor))


def test_many_blocks_and_two_threads_give_the_same_image():
    generator = np.random.default_rng(1)
    x = generator.integers(0, 256, (5, 20, 20, 32)).astype(np.uint8)
    w = generator.integers(-127, 128, (40, 288)).astype(np.int8)
    packed, window = panels.pack_weight(w, 3), int8_conv.Window(3, 3, 1, 1)
    epilogue = packed.requantize(3, None, np.full(40, 1e-3, np.float32), 9, 0, 255)
    one, two = (int8_conv.conv2d_requantize(x, 3, packed, window, epilogue, t) for t in (1, 2))
    total = in_torch(x, w.reshape(40, 3, 3, 32).transpose(0, 3, 1, 2), window, 3, 1)
    expected = np.clip(np.rint(total.astype(np.float32) * np.float32(1e-3)) + 9, 0, 255)
    assert np.array_equal(one, expected.astype(np.uint8))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("side,batch", [(6, 1), (7, 3), (20, 2)])
def test_convolutions_that_suit_matrix_tiles_are_torchs_too(side, batch, monkeypatch):
    generator = np.random.default_rng(side)
    x = generator.integers(0, 256, (batch, side, side, 33)).astype(np.uint8)
    w = generator.integers(-127, 128, (70, 33, 3, 3)).astype(np.int8)
    packed = panels.pack_weight(w.transpose(0, 2, 3, 1).reshape(70, -1), 3)
    assert packed.fits_tiles
    factor = generator.uniform(1e-4, 1e-3, 70).astype(np.float32)
    bias = generator.integers(-500, 500, 70).astype(np.int32)
    epilogue, window = packed.requantize(11, bias, factor, 5, 5, 250), int8_conv.Window(3, 3, 1, 1)
    expected = codes(in_torch(x, w, window, 11, 1), bias, factor)
    for tiles in (int8_conv.tiles_available, lambda: False):
        monkeypatch.setattr(int8_conv, "tiles_available", tiles)
        for threads in (1, 2):
            got = int8_conv.conv2d_requantize(x, 11, packed, window, epilogue, threads)
            assert np.array_equal(got, expected)


def test_an_image_smaller_than_the_kernel_is_refused():
    packed = panels.pack_weight(np.ones((3, 9), np.int8), 3)
    epilogue = packed.requantize(0, None, np.ones(3, np.float32), 0, 0, 255)
    window = int8_conv.Window(3, 3)
    with pytest.raises(ValueError, match="at least as large"):
        int8_conv.conv2d_requantize(np.zeros((1, 2, 2, 1), np.uint8), 0, packed, window, epilogue)
    with pytest.raises(ValueError, match=r"x must have shape \[batch, h, w, 1\]"):
        int8_conv.conv2d_requantize(np.zeros((1, 4, 4, 2), np.uint8), 0, packed, window, epilogue)


# ---- pools and sums ------------------------------------------------------------------------------
@given(st.integers(1, 3), st.integers(2, 9), st.integers(1, 20), st.integers(1, 2))
def test_max_pooling_is_torchs(batch, side, channels, size):
    x = np.random.default_rng(side).integers(0, 256, (batch, side, side, channels)).astype(np.uint8)
    expected = F.max_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2).float(), size)
    assert np.array_equal(int8_pool.max_pool(x, size), expected.permute(0, 2, 3, 1).numpy())


@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 255))
def test_mean_pooling_rounds_the_mean(side, channels, zero):
    x = np.random.default_rng(side).integers(0, 256, (2, side, side, channels)).astype(np.uint8)
    factor = np.float32(0.7 / side**2)
    total = (x.astype(np.int64) - zero).sum(axis=(1, 2)).astype(np.float32)
    expected = np.clip(np.rint(total * factor) + 11, 0, 255)
    assert np.array_equal(int8_pool.mean_pool(x, zero, factor, 11, 0, 255), expected)


@given(st.integers(0, 60), st.integers(0, 255), st.integers(0, 255))
def test_adding_is_adding_what_the_codes_mean(size, zero_a, zero_b):
    generator = np.random.default_rng(size)
    a, b = (generator.integers(0, 256, (1, size)).astype(np.uint8) for _ in range(2))
    got = int8_pool.add(a, b, (zero_a, zero_b), (0.3, 0.9), 4, 4, 255)
    real = (a - float(zero_a)) * np.float32(0.3) + (b - float(zero_b)) * np.float32(0.9)
    assert (np.abs(got - np.clip(np.rint(real) + 4, 4, 255)) <= 1).all()


def test_pools_refuse_what_they_cannot_pool():
    with pytest.raises(ValueError, match="size must be 1 to 2"):
        int8_pool.max_pool(np.zeros((1, 2, 3, 1), np.uint8), 3)
    with pytest.raises(ValueError, match="b must have a's shape"):
        int8_pool.add(np.zeros(3, np.uint8), np.zeros(4, np.uint8), (0, 0), (1, 1), 0, 0, 255)


@pytest.mark.parametrize("channels,stride", [(33, 1), (7, 2), (16, 1), (1, 1)])
def test_windows_gathered_for_tiles_are_those_that_vectors_read(channels, stride):
    """On tiles, windows are rows in the weight's own runs: multiplied as rows they give the same codes."""
    generator = np.random.default_rng(channels)
    x = generator.integers(0, 256, (2, 9, 8, channels)).astype(np.uint8)
    weight = panels.pack_weight(
        generator.integers(-127, 128, (70, 9 * channels)).astype(np.int8), 3
    )
    window = int8_conv.Window(3, 3, stride, 1)
    e = weight.requantize(11, None, np.full(70, 1e-3, np.float32), 5, 0, 255)
    expected = int8_conv.conv2d_requantize(x, 11, weight, window, e)
    pixels, size = expected.shape[0] * expected.shape[1] * expected.shape[2], expected.shape[1:3]
    rows = np.zeros(pixels * weight.words + int8_conv.SLACK // 4, np.uint32)
    padded = int8_conv.pad(x, 1, 11)
    geometry = window.geometry(x.shape)
    gather_block(padded, 0, pixels, size, geometry, weight.words, rows.view(np.uint8))
    product = (weight.panels, e.start, e.factor, e.factor, e.factor, e.zero, e.low, e.high)
    out, shape = np.empty(pixels * 70, np.uint8), (weight.words, 70)
    tile = (panels.ROWS[weight.width], panels.WIDTHS[weight.width])
    int8_loops.multiply(rows, product, shape, 0, pixels, *tile, out)
    assert np.array_equal(out.reshape(expected.shape), expected)
