"""The oracle: every kernel again in slow, obvious NumPy, with the same name and signature.

Nothing here is called by the library. Tests hold each fast kernel equal to its twin, bit for bit. An
argument that a kernel refuses is not refused here: refusing is the wrapper's work, and tested there.
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


def pack_signs(x):
    bits = np.zeros((len(x), -(-x.shape[1] // 64) * 64), np.uint8)
    bits[:, : x.shape[1]] = x >= 0
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)


def sign_product(x, weight):
    signs = [np.where(a >= 0, 1, -1) for a in (x, weight)]
    return signs[0] @ signs[1].T


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
