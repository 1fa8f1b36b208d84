"""Problems for products and convolutions of integers, and for what stands between them."""

import numpy as np

from compresslab.kernels import (
    int8,
    int8_conv,
    int8_pool,
)
from compresslab.kernels import reference as slow
from compresslab.kernels.int8 import SIGN
from compresslab.kernels.int8_pool import Windows
from compresslab.kernels.panels import pack_weight
from compresslab.kernels.problems.problem import (
    OUTPUTS,
    normal,
    problem,
    random_codes,
    random_images,
    random_weights,
    sizes,
)


@problem("int8.matmul")
def _(random):
    m, n, k = sizes(random)
    x, w = random_codes(random, m, k), random_weights(random, n, k)
    return int8.matmul(x, pack_weight(w)), slow.product(x, w).astype(np.int32)


@problem("int8.matmul_requantize")
def _(random):
    m, n, k = sizes(random)
    x, w, zero = (
        random_codes(random, m, k),
        random_weights(random, n, k),
        int(random.integers(0, 256)),
    )
    bias = random.integers(-1000, 1000, n, dtype=np.int32)
    multiplier = random.uniform(1e-4, 1e-2, n).astype(np.float32)
    packed, numbers = pack_weight(w), (9, 9, 250)
    found = int8.matmul_requantize(x, packed, packed.requantize(zero, bias, multiplier, *numbers))
    return found, slow.requantized(slow.product(x, w, zero, bias), multiplier, *numbers)


@problem("int8.matmul_dequantize")
def _(random):
    m, n, k = sizes(random)
    x, w, scale = (
        random_codes(random, m, k),
        random_weights(random, n, k),
        np.full(n, 1e-3, np.float32),
    )
    packed, bias, rows = pack_weight(w), normal(random, n), np.abs(normal(random, m))
    found = int8.matmul_dequantize(x, packed, packed.dequantize(7, scale, bias), rows)
    return found, (slow.product(x, w, 7) * scale * rows[:, None] + bias).astype(np.float32)


@problem("int8.dynamic_linear")
def _(random):
    m, n, k = sizes(random)
    x, w, scale = normal(random, m, k), random_weights(random, n, k), np.full(n, 0.01, np.float32)
    packed = pack_weight(w)
    codes, rows = slow.quantize_absmax(x, 8, k)
    found = int8.dynamic_linear(x, packed, packed.dequantize(SIGN, scale))
    return found, (slow.product(codes, w) * scale * rows).astype(np.float32)


@problem("int8_conv.conv2d_requantize")
def _(random):
    x, window, where = random_images(random)
    n, zero, numbers = int(random.choice(OUTPUTS)), int(random.integers(0, 256)), (3, 0, 255)
    w = random_weights(random, n, window.height * window.width * x.shape[3])
    multiplier, packed = np.full(n, 1e-3, np.float32), pack_weight(w, window.height)
    epilogue = packed.requantize(zero, None, multiplier, *numbers)
    found = int8_conv.conv2d_requantize(x, zero, packed, window, epilogue)
    seen = slow.windows_of(x, **where, border=zero)
    sums = slow.product(seen.reshape(*seen.shape[:3], -1), w, zero)
    return found, slow.requantized(sums, multiplier, *numbers)


@problem("int8_conv.depthwise_requantize")
def _(random):
    x, window, where = random_images(random)
    zero, numbers = int(random.integers(0, 256)), (3, 0, 255)
    w = random_weights(random, window.height, window.width, x.shape[3])
    multiplier = np.full(x.shape[3], 1e-2, np.float32)
    packed = int8_conv.pack_taps(w)
    epilogue = packed.requantize(zero, None, multiplier, *numbers)
    found = int8_conv.depthwise_requantize(x, zero, packed, window, epilogue)
    seen = slow.windows_of(x, **where, border=zero).astype(np.int64) - zero
    return found, slow.requantized((seen * w).sum(axis=(3, 4)), multiplier, *numbers)


@problem("int8_conv.patches")
def _(random):
    x, window, where = random_images(random)
    seen = slow.windows_of(x, **where, border=7)
    found = int8_conv.patches(x, 7, window)
    return found, seen.reshape(found.shape)


@problem("int8_pool.max_pool")
def _(random):
    x = random_codes(random, 2, 7, 9, 5)
    seen = slow.windows_of(x, (2, 2), (2, 2), (0, 0), 0)
    return int8_pool.max_pool(x, 2), seen.max(axis=(3, 4))


@problem("int8_pool.max_pool_windows")
def _(random):
    x = random_codes(random, 2, 7, 9, 5)
    seen = slow.windows_of(x, (3, 2), (2, 1), (1, 1), 0)
    return int8_pool.max_pool_windows(x, Windows(3, 2, 2, 1, 1, 1)), seen.max(axis=(3, 4))


@problem("int8_pool.mean_pool_windows")
def _(random):
    x, zero = random_codes(random, 2, 7, 9, 5), 11
    seen = slow.windows_of(x, (3, 2), (2, 1), (1, 1), zero).astype(np.int64) - zero
    numbers = (4, 0, 255)
    found = int8_pool.mean_pool_windows(x, Windows(3, 2, 2, 1, 1, 1), zero, 0.75, True, *numbers)
    return found, slow.requantized(seen.sum(axis=(3, 4)), 0.75 / 6, *numbers)


@problem("int8_pool.mean_pool")
def _(random):
    x, zero, numbers = random_codes(random, 2, 4, 5, 6), 11, (4, 0, 255)
    sums = (x.astype(np.int64) - zero).sum(axis=(1, 2))
    return int8_pool.mean_pool(x, zero, 0.04, *numbers), slow.requantized(sums, 0.04, *numbers)


@problem("int8_pool.add")
def _(random):
    a, b = random_codes(random, 2, 3, 3, 5), random_codes(random, 2, 3, 3, 5)
    one, other = (v.astype(np.float32) - z for v, z in ((a, 3), (b, 200)))
    total = one * np.float32(0.5) + other * np.float32(0.25)
    found = int8_pool.add(a, b, (3, 200), (0.5, 0.25), 100, 0, 255)
    return found, slow.requantized(total, 1.0, 100, 0, 255)


@problem("int8_pool.multiply")
def _(random):
    a, b = random_codes(random, 2, 3, 3, 5), random_codes(random, 2, 1, 1, 5)
    total = (a.astype(np.int64) - 3) * (b.astype(np.int64) - 200)
    found = int8_pool.multiply(a, b, (3, 200), 0.01, 100, 0, 255)
    return found, slow.requantized(total, 0.01, 100, 0, 255)


@problem("int8_pool.look_up")
def _(random):
    x, table = random_codes(random, 4, 6), random_codes(random, 6, 256)
    return int8_pool.look_up(x, table), np.take_along_axis(table, x.T.astype(int), 1).T
