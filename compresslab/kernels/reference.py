"""The oracle: what every kernel computes, in slow, obvious NumPy on plain arrays.

The conversions and the packing have twins of the same name and signature. Products, convolutions and pooling
are put together from a few parts, since they differ in where they look (`windows_of`) and in what becomes of
a sum (`requantized`); `problems` says which parts make which kernel. An argument that a kernel refuses is not
refused here: refusing is the wrapper's work, and tested there.
"""

import numpy as np


def quantize(x, scale, zero_point, low, high, axis=None, group=None, out=None):
    inverse = np.float32(1) / _like(x, scale, axis, group)
    zero = _like(x, zero_point, axis, group)
    code = np.clip(np.rint(x * inverse) + zero, low, high)
    code = code.astype(np.int8 if low < 0 else np.uint8)
    if out is not None:
        out[...] = code
    return code


def dequantize(codes, scale, zero_point, axis=None, group=None, out=None):
    zero = _like(codes, zero_point, axis, group)
    x = (codes.astype(np.float32) - zero) * _like(codes, scale, axis, group)
    if out is not None:
        out[...] = x
    return x


def quantize_absmax(x, bits, group):
    high = 2 ** (bits - 1) - 1
    groups = x.reshape(*x.shape[:-1], x.shape[-1] // group, group)
    top = np.abs(groups).max(axis=-1, initial=0)
    scale = np.maximum(top / np.float32(high), np.finfo(np.float32).tiny)
    return quantize(x, scale, np.zeros_like(scale, int), -high, high, group=group), scale


def pack(codes, bits):
    planes = (codes.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(planes.reshape(-1), bitorder="little")


def unpack(packed, bits, count):
    planes = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(count, bits)
    return (planes << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)


def elements(codes):
    """What codes of 4-bit floats stand for: E2M1, a sign in the highest bit."""
    exponent, mantissa = codes >> 1 & 3, codes & 1
    size = np.where(exponent, (1 + mantissa / 2) * 2.0 ** (exponent.astype(int) - 1), mantissa / 2)
    return np.where(codes & 8, -size, size).astype(np.float32)


def hadamard(x):
    """Rows in the axes of Sylvester's matrix, put together by its definition."""
    matrix = np.ones((1, 1))
    while len(matrix) < x.shape[1]:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (x @ matrix / np.sqrt(len(matrix))).astype(np.float32)


def pack_signs(x):
    bits = np.zeros((len(x), -(-x.shape[1] // 64) * 64), np.uint8)
    bits[:, : x.shape[1]] = x >= 0
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)


def sign_product(x, weight):
    signs = [np.where(a >= 0, 1, -1) for a in (x, weight)]
    return signs[0] @ signs[1].T


def huffman_write(symbols, codes, lengths):
    bits = [format(int(codes[s]), f"0{lengths[s]}b") for s in symbols.reshape(-1)]
    digits = np.array([int(d) for d in "".join(bits)], np.uint8)
    return np.packbits(digits)


def product(x, weight, zero_point=0, bias=0):
    return (x.astype(np.int64) - zero_point) @ weight.astype(np.int64).T + bias


def requantized(sums, multiplier, out_zero, low, high):
    code = np.rint(sums.astype(np.float32) * np.float32(multiplier)) + np.float32(out_zero)
    return np.clip(code, low, high).astype(np.uint8)


def windows_of(x, size, stride, padding, border):
    """Every window of images [b, h, w, c], [b, h', w', kh, kw, c], the border filled with one number."""
    (top, left), (kh, kw), (down, across) = padding, size, stride
    padded = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)), constant_values=border)
    found = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(1, 2))
    return found[:, ::down, ::across].transpose(0, 1, 2, 4, 5, 3)


def _like(x: np.ndarray, parameter: np.ndarray, axis: int | None, group: int | None) -> np.ndarray:
    """The scale or zero point of every element, float32 and of x's shape."""
    parameter = np.asarray(parameter, np.float32)
    if axis is not None and parameter.ndim:
        shape = [1] * x.ndim
        shape[axis] = -1
        parameter = parameter.reshape(shape)
    if group is not None and parameter.ndim:
        parameter = np.repeat(parameter, group, axis=-1)
    return np.broadcast_to(parameter, x.shape)
