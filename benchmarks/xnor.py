"""Binary products, convolutions and a whole network, against float32 and int8.

The limit is how fast XOR, popcount and add run on registers alone. torch's fp32 is MKL's; the best fp32 is
the fastest of torch, NumPy (OpenBLAS) and ONNX Runtime in the same race.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.harness import Record, race, records, repeated, two_threads
from benchmarks.onnx_peers import onnx_convolution, onnx_product
from compresslab import models
from compresslab.kernels import xnor, xnor_conv
from compresslab.kernels._jit import kernel
from compresslab.kernels.int8_conv import Window
from compresslab.kernels.simd import Static, load, popcount, register_tile, splat, store, u32x16
from compresslab.runtime.bits import convert_xnor
from compresslab.techniques.binarize import XnorNet

CHAINS, LANES = Static(12), Static(16)
PEAK_STEPS = 100_000
FLOATS = ("torch fp32 (MKL)", "NumPy fp32 (OpenBLAS)", "ONNX Runtime fp32")


def run(scale: int = 1) -> Iterator[Record]:
    """Products on bits and end to end, convolutions, a network at batch 1 and 64."""
    for side in (512, 1024, 2048):
        yield from _product(side // scale)
    for batch, channels, size in ((1, 64, 56), (1, 256, 14), (64, 64, 8), (64, 128, 4)):
        yield from _convolution(batch, max(8, channels // scale), max(4, size // scale))
    for batch in (1, 64):
        yield from _network(batch)


@kernel
def peak(words, steps, out):
    """XOR, popcount and add on registers alone: 12 independent counts of 16 lanes."""
    tile = register_tile(CHAINS, LANES, u32x16)
    a = load(words, 0, u32x16)
    for i in range(0, 192, 16):
        store(tile, i, load(out, 0, u32x16))
    for step in range(steps):
        b = splat(np.uint32(step), u32x16)
        for i in range(0, 192, 16):
            count = load(tile, i, u32x16)
            # Each chain differs, or the compiler would count once for all.
            store(tile, i, count + popcount(a ^ b ^ count))
    for i in range(0, 192, 16):
        store(out, 0, load(out, 0, u32x16) + load(tile, i, u32x16))


def _peak_runner() -> tuple[Callable[[], object], int]:
    """A loop of nothing but counting, and how many bit products it does."""
    words, out = np.ones(16, np.uint32), np.zeros(16, np.uint32)
    return lambda: peak(words, PEAK_STEPS, out), PEAK_STEPS * 12 * 512


def _signs(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(0, 1, shape).astype(np.float32)


def _with_best(medians: dict[str, float]) -> dict[str, float]:
    """The race with its fastest float32 as a peer of its own."""
    best = min((n for n in medians if n in FLOATS), key=medians.get)
    return medians | {"the best fp32": medians[best]}


def _product(side: int) -> Iterator[Record]:
    generator = np.random.default_rng(0)
    x, w = _signs(generator, side, side), _signs(generator, side, side)
    words, packed = xnor.pack_signs(x), xnor.pack_weight(xnor.pack_signs(w), side)
    scale, right = xnor.scales(packed), np.ascontiguousarray(w.T)
    a, b = torch.from_numpy(x), torch.from_numpy(right)
    codes, bytes_ = a.sign().to(torch.int8), b.sign().to(torch.int8)
    run_peak, products = _peak_runner()
    peers = {
        "torch fp32 (MKL)": lambda: a @ b,
        "NumPy fp32 (OpenBLAS)": lambda: x @ right,
        "ONNX Runtime fp32": onnx_product(a, b),
        "torch._int_mm": lambda: torch._int_mm(codes, bytes_),
        "peak": run_peak,
    }
    name = f"{side}x{side}x{side}"
    medians = _with_best(race({"ours": lambda: xnor.matmul(words, packed)} | peers))
    fraction = side**3 / medians["ours"] / (products / medians["peak"])
    yield from records("XNOR matmul", name, medians, 1, fraction, limits=("peak",))
    whole = _with_best(race({"ours": lambda: xnor.linear(x, packed, scale)} | peers))
    yield from records("XNOR linear, floats in and out", name, whole, limits=("peak",))
    yield from two_threads("XNOR matmul", name, lambda n: xnor.matmul(words, packed, n))


def _convolution(batch: int, channels: int, size: int) -> Iterator[Record]:
    generator = np.random.default_rng(0)
    image = _signs(generator, batch, size, size, channels)
    weight = _signs(generator, channels, channels, 3, 3)
    packed = xnor_conv.pack_weight(np.ascontiguousarray((weight >= 0).transpose(0, 2, 3, 1)))
    window, scale = Window(3, 3, 1, 1), xnor.scales(packed)
    first = torch.from_numpy(image).permute(0, 3, 1, 2).contiguous()
    last, taps = first.contiguous(memory_format=torch.channels_last), torch.from_numpy(weight)
    signs, _ = xnor_conv.pack_image(image)
    run_peak, products = _peak_runner()

    def whole(threads: int = 1) -> object:
        packed_signs, _ = xnor_conv.pack_image(image)
        return xnor_conv.conv2d_scaled(packed_signs, channels, packed, window, scale, None, threads)

    runners = {
        "ours": whole,
        "torch fp32 (oneDNN)": lambda: F.conv2d(first, taps, padding=1),
        "torch fp32, channels last": lambda: F.conv2d(last, taps, padding=1),
        "ONNX Runtime fp32": onnx_convolution(first, taps),
        "bits": lambda: xnor_conv.conv2d(signs, channels, packed, window),
        "peak": run_peak,
    }
    with torch.inference_mode():
        medians = race(
            {n: repeated(call, 4) if n != "peak" else call for n, call in runners.items()}
        )
    best = min(v for n, v in medians.items() if "fp32" in n)
    fraction = (
        batch * size**2 * channels**2 * 9 * 4 / medians["bits"] / (products / medians["peak"])
    )
    name = f"{batch}x{size}x{size}x{channels}"
    arguments = ("XNOR conv 3x3, floats in and out", name)
    limits = ("peak", "bits")
    yield from records(*arguments, medians | {"the best fp32": best}, 1, fraction, limits, 4)
    yield from two_threads(*arguments, whole, 4)


def _network(batch: int) -> Iterator[Record]:
    shape = (1, 16, 16)
    torch.manual_seed(0)
    float_model, program = models.VGGLike(shape, 26).eval(), convert_xnor(XnorNet(shape, 26))
    last = models.VGGLike(shape, 26).eval().to(memory_format=torch.channels_last)
    x, times = torch.rand(batch, *shape), 40 if batch == 1 else 2
    turned = x.contiguous(memory_format=torch.channels_last)
    runners = {
        "ours": lambda: program(x),
        "torch fp32": lambda: float_model(x),
        "torch fp32, channels last": lambda: last(turned),
    }
    with torch.inference_mode():
        medians = race({name: repeated(call, times) for name, call in runners.items()})
    yield from records("VGG-like, XNOR", f"batch {batch}", medians, times=times)
