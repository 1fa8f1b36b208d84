"""Problems for products and convolutions of signs."""

import numpy as np

from compresslab.kernels import reference as slow
from compresslab.kernels import (
    xnor,
    xnor_conv,
)
from compresslab.kernels.int8_conv import Window
from compresslab.kernels.problems.problem import (
    OUTPUTS,
    Random,
    normal,
    problem,
    random_images,
    sizes,
)


@problem("xnor.pack_signs")
def _(random):
    x = normal(random, *sizes(random)[1:])
    return xnor.pack_signs(x), slow.pack_signs(x)


@problem("xnor.unpack_signs")
def _(random):
    x = normal(random, *sizes(random)[1:])
    return xnor.unpack_signs(slow.pack_signs(x), x.shape[1]), np.where(x >= 0, 1, -1)


@problem("xnor.pack_rows")
def _(random):
    x = normal(random, *sizes(random)[1:])
    return xnor.pack_rows(x, magnitudes=True), (slow.pack_signs(x), np.abs(x).mean(axis=1))


def _signs(random: Random) -> tuple[np.ndarray, np.ndarray, xnor.PackedSigns]:
    m, n, k = sizes(random)
    x, w = normal(random, m, k), normal(random, n, k)
    return x, w, xnor.pack_weight(slow.pack_signs(w), k)


@problem("xnor.matmul")
def _(random):
    x, w, weight = _signs(random)
    return xnor.matmul(slow.pack_signs(x), weight), slow.sign_product(x, w).astype(np.int32)


@problem("xnor.matmul_scaled")
def _(random):
    x, w, weight = _signs(random)
    alpha, bias, rows = (normal(random, n) for n in (len(w), len(w), len(x)))
    found = xnor.matmul_scaled(slow.pack_signs(x), weight, xnor.scales(weight, alpha, bias), rows)
    return found, slow.sign_product(x, w) * alpha * rows[:, None] + bias


@problem("xnor.linear")
def _(random):
    x, w, weight = _signs(random)
    alpha = normal(random, len(w))
    found = xnor.linear(x, weight, xnor.scales(weight, alpha), magnitudes=True)
    return found, slow.sign_product(x, w) * alpha * np.abs(x).mean(axis=1, keepdims=True)


@problem("xnor.matmul_signs")
def _(random):
    x, w, weight = _signs(random)
    at_least, flip = random.integers(-5, 6, len(w)), random.random(len(w)) < 0.5
    epilogue = xnor.thresholds(weight, at_least, flip)
    signs = (slow.sign_product(x, w) >= at_least) ^ flip
    return xnor.matmul_signs(slow.pack_signs(x), weight, epilogue), slow.pack_signs(signs - 0.5)


def _sign_images(random: Random) -> tuple[np.ndarray, np.ndarray, Window, np.ndarray]:
    """Images, their sign words, a window, and a weight [N, kh, kw, c] of booleans."""
    codes, window, _ = random_images(random)
    x = codes.astype(np.float32) - 128
    weight = (
        random.random((int(random.choice(OUTPUTS)), window.height, window.width, x.shape[3])) < 0.5
    )
    return x, slow.pack_signs(x.reshape(-1, x.shape[3])).reshape(*x.shape[:3], -1), window, weight


def _sign_sums(x: np.ndarray, window: Window, weight: np.ndarray) -> np.ndarray:
    size, stride, padding = window.height, window.stride, window.padding
    signs = np.where(x >= 0, 1, -1)
    seen = slow.windows_of(signs, (size, size), (stride, stride), (padding, padding), 0)
    rows = np.where(weight, 1, -1).reshape(len(weight), -1)
    return seen.reshape(*seen.shape[:3], -1) @ rows.T


@problem("xnor_conv.pack_image")
def _(random):
    x, words, *_ = _sign_images(random)
    return xnor_conv.pack_image(x)[0], words


@problem("xnor_conv.conv2d")
def _(random):
    x, words, window, weight = _sign_images(random)
    found = xnor_conv.conv2d(words, x.shape[3], xnor_conv.pack_weight(weight), window)
    return found, _sign_sums(x, window, weight).astype(np.int32)


@problem("xnor_conv.conv2d_scaled")
def _(random):
    x, words, window, weight = _sign_images(random)
    packed, alpha = xnor_conv.pack_weight(weight), normal(random, len(weight))
    sums = _sign_sums(x, window, weight)
    places = normal(random, *sums.shape[:3])
    epilogue = xnor.scales(packed, alpha)
    found = xnor_conv.conv2d_scaled(words, x.shape[3], packed, window, epilogue, places)
    return found, (sums * alpha * places[..., None]).astype(np.float32)


@problem("xnor_conv.conv2d_signs")
def _(random):
    x, words, window, weight = _sign_images(random)
    packed = xnor_conv.pack_weight(weight)
    at_least, flip = random.integers(-5, 6, len(weight)), random.random(len(weight)) < 0.5
    epilogue = xnor.thresholds(packed, at_least, flip)
    found = xnor_conv.conv2d_signs(words, x.shape[3], packed, window, epilogue)
    signs = (_sign_sums(x, window, weight) >= at_least) ^ flip
    rows = slow.pack_signs(signs.reshape(-1, len(weight)) - 0.5)
    return found, rows.reshape(found.shape)


@problem("xnor_conv.position_scales")
def _(random):
    means = np.abs(normal(random, 2, 7, 8))
    seen = slow.windows_of(means[..., None], (3, 3), (2, 2), (1, 1), 0)
    found = xnor_conv.position_scales(means, Window(3, 3, 2, 1))
    return found, seen.mean(axis=(3, 4))[..., 0]


@problem("xnor_conv.or_pool")
def _(random):
    signs = random.random((2, 5, 6, 70)) < 0.3
    words = slow.pack_signs(signs.reshape(-1, 70) - 0.5).reshape(2, 5, 6, -1)
    seen = slow.windows_of(signs, (2, 2), (2, 2), (0, 0), False).any(axis=(3, 4))
    found = xnor_conv.or_pool(words, 2, np.zeros(words.shape[3], np.uint64))
    return found, slow.pack_signs(seen.reshape(-1, 70) - 0.5).reshape(found.shape)
