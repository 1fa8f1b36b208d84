"""Quantize and dequantize: bound by memory, so the limit is a copy in the same run."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.harness import Record, race, records
from compresslab.kernels import affine, reference


def run(scale: int = 1) -> Iterator[Record]:
    """Per tensor, per channel and per group at 16 M numbers (divided by `scale`)."""
    rows, columns = 4096 // scale, 4096
    x = np.random.default_rng(0).normal(0, 1, (rows, columns)).astype(np.float32)
    codes, copy = np.zeros(x.shape, np.int8), np.zeros_like(x)
    name = f"{rows}x{columns}"
    yield from _per_tensor(x, codes, copy, name)
    yield from _per_channel(x, codes, name)
    yield from _per_group(x, name)


def bandwidth_fraction(ours_bytes: int, ours: float, copy_bytes: int, copy: float) -> float:
    """Our bytes a second over the copy's."""
    return (ours_bytes / ours) / (copy_bytes / copy)


def _per_tensor(x: np.ndarray, codes: np.ndarray, copy: np.ndarray, name: str) -> Iterator[Record]:
    tensor = torch.from_numpy(x)
    scale = np.float32(0.03)
    medians = race(
        {
            "ours": lambda: affine.quantize(x, scale, 0, -128, 127, out=codes),
            "torch.quantize_per_tensor": lambda: _torch_per_tensor(tensor, float(scale)),
            "NumPy": lambda: reference.quantize(x, scale, 0, -128, 127),
            "copy": lambda: np.copyto(copy, x),
        }
    )
    fraction = bandwidth_fraction(5 * x.size, medians["ours"], 8 * x.size, medians["copy"])
    yield from records("quantize per tensor", name, medians, 1, fraction, limits=("copy",))
    medians = race(
        {
            "ours": lambda: affine.dequantize(codes, scale, 0, out=copy),
            "NumPy": lambda: reference.dequantize(codes, scale, 0),
            "copy": lambda: np.copyto(copy, x),
        }
    )
    fraction = bandwidth_fraction(5 * x.size, medians["ours"], 8 * x.size, medians["copy"])
    yield from records("dequantize per tensor", name, medians, 1, fraction, limits=("copy",))


def _torch_per_tensor(x: torch.Tensor, scale: float) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(x, scale, 0, torch.qint8)


def _torch_per_channel(x: torch.Tensor, scales: torch.Tensor, axis: int) -> torch.Tensor:
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_channel(x, scales, zeros, axis, torch.qint8)


def _per_channel(x: np.ndarray, codes: np.ndarray, name: str) -> Iterator[Record]:
    tensor, copy = torch.from_numpy(x), np.zeros_like(x)
    for axis in (0, 1):
        scales = np.full(x.shape[axis], 0.03, np.float32)
        as_tensor = torch.from_numpy(scales)
        medians = race(
            {
                "ours": lambda s=scales, a=axis: affine.quantize(
                    x, s, 0, -128, 127, axis=a, out=codes
                ),
                "torch.quantize_per_channel": lambda s=as_tensor, a=axis: _torch_per_channel(
                    tensor, s, a
                ),
                "copy": lambda: np.copyto(copy, x),
            }
        )
        fraction = bandwidth_fraction(5 * x.size, medians["ours"], 8 * x.size, medians["copy"])
        kernel = f"quantize per channel, axis {axis}"
        yield from records(kernel, name, medians, 1, fraction, limits=("copy",))


def _per_group(x: np.ndarray, name: str) -> Iterator[Record]:
    copy = np.zeros_like(x)
    for group in (32, 128):
        medians = race(
            {
                "ours": lambda g=group: affine.quantize_absmax(x, 4, g),
                "NumPy": lambda g=group: reference.quantize_absmax(x, 4, g),
                "copy": lambda: np.copyto(copy, x),
            }
        )
        fraction = bandwidth_fraction(5 * x.size, medians["ours"], 8 * x.size, medians["copy"])
        kernel = f"quantize with scales, groups of {group}"
        yield from records(kernel, name, medians, 1, fraction, limits=("copy",))
