"""The loops between integer layers: plain ones, channels innermost, which LLVM vectorises."""

import numpy as np

from compresslab.kernels._jit import kernel

f32 = np.float32


@kernel
def max_squares(x, size, out):
    """The largest code of every square; `out` begins at 0."""
    batch, height, width, channels = out.shape
    for b in range(batch):
        for y in range(height):
            for xx in range(width):
                for i in range(size):
                    for j in range(size):
                        for c in range(channels):
                            code = x[b, y * size + i, xx * size + j, c]
                            out[b, y, xx, c] = max(out[b, y, xx, c], code)


@kernel
def mean_of_all(x, zero_point, multiplier, out_zero, low, high, totals, out):
    """The mean over all pixels, onto another scale."""
    batch, height, width, channels = x.shape
    for b in range(batch):
        for c in range(channels):
            totals[c] = -height * width * zero_point
        for y in range(height):
            for xx in range(width):
                for c in range(channels):
                    totals[c] += x[b, y, xx, c]
        for c in range(channels):
            code = np.rint(f32(totals[c]) * multiplier) + out_zero
            out[b, c] = np.uint8(np.int32(min(max(code, low), high)))


@kernel
def add_codes(a, b, zero_a, zero_b, factor_a, factor_b, out_zero, low, high, out):
    """The sum of two flat arrays, each with its own scale."""
    for i in range(out.size):
        total = (f32(a[i]) - zero_a) * factor_a + (f32(b[i]) - zero_b) * factor_b
        code = np.rint(total) + out_zero
        out[i] = np.uint8(np.int32(min(max(code, low), high)))


@kernel
def max_windows(x, size, stride, padding, out):
    """The largest code of every window; `out` begins at 0."""
    batch, height, width, channels = out.shape
    for b in range(batch):
        for y in range(height):
            top = y * stride[0] - padding[0]
            for xx in range(width):
                left = xx * stride[1] - padding[1]
                for i in range(max(top, 0), min(top + size[0], x.shape[1])):
                    for j in range(max(left, 0), min(left + size[1], x.shape[2])):
                        for c in range(channels):
                            out[b, y, xx, c] = max(out[b, y, xx, c], x[b, i, j, c])


@kernel
def mean_windows(
    x, size, stride, padding, zero_point, padded, multiplier, out_zero, low, high, totals, out
):
    """The mean of every window, onto another scale."""
    batch, height, width, channels = out.shape
    for b in range(batch):
        for y in range(height):
            top = y * stride[0] - padding[0]
            first, last = max(top, 0), min(top + size[0], x.shape[1])
            for xx in range(width):
                left = xx * stride[1] - padding[1]
                begin, end = max(left, 0), min(left + size[1], x.shape[2])
                inside = (last - first) * (end - begin)
                count = inside
                if padded:
                    # A window that ends behind the padding is as small as what is there.
                    rows = min(top + size[0], x.shape[1] + padding[0]) - top
                    count = rows * (min(left + size[1], x.shape[2] + padding[1]) - left)
                for c in range(channels):
                    totals[c] = -inside * zero_point
                for i in range(first, last):
                    for j in range(begin, end):
                        for c in range(channels):
                            totals[c] += x[b, i, j, c]
                for c in range(channels):
                    code = np.rint(f32(totals[c]) * (multiplier / f32(count))) + out_zero
                    out[b, y, xx, c] = np.uint8(np.int32(min(max(code, low), high)))


@kernel
def multiply_codes(a, b, zero_a, zero_b, multiplier, out_zero, low, high, out):
    """The product of two, or of one and a pixel."""
    batch, pixels, channels = a.shape
    for n in range(batch):
        for p in range(pixels):
            q = p if b.shape[1] > 1 else 0
            for c in range(channels):
                product = (f32(a[n, p, c]) - zero_a) * (f32(b[n, q, c]) - zero_b)
                code = np.rint(product * multiplier) + out_zero
                out[n, p, c] = np.uint8(np.int32(min(max(code, low), high)))


@kernel
def look_up_channels(x, table, out):
    """table[c, x[r, c]]."""
    rows, channels = x.shape
    for r in range(rows):
        for c in range(channels):
            out[r, c] = table[c, x[r, c]]
