"""Integer products, the dynamic linear layer and whole networks, against torch and ONNX Runtime.

The limit of a product is how fast a loop of the same instructions runs on registers alone: byte dot products,
or matrix tiles where there are any (loading a tile from the cache takes longer than multiplying two).
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import nn

from benchmarks.harness import Record, race, records, repeated, two_threads
from benchmarks.onnx_peers import onnx_product, onnx_session
from compresslab import models
from compresslab.kernels import int8, int8_loops, panels
from compresslab.kernels._jit import kernel
from compresslab.kernels.simd import (
    TILE_CONFIGURATION,
    Static,
    dot4,
    i8x64,
    i32x16,
    load,
    register_tile,
    store,
    tile_dot,
    tiles_available,
    tiles_configure,
    tiles_release,
    u8x64,
)
from compresslab.runtime import peers
from compresslab.runtime.convert import convert
from compresslab.runtime.dynamic import DynamicInt8Linear, convert_dynamic
from compresslab.techniques.folding import fold_batch_norms
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig

CHAINS, LANES = Static(12), Static(16)
PEAK_STEPS = 100_000


def run(scale: int = 1) -> Iterator[Record]:
    """Matrix products, dynamic linear and recurrent layers, and two networks at batch 1 and 64."""
    for side in (512, 1024, 2048):
        yield from _product(side // scale)
    for batch in (1, 32, 256):
        yield from _dynamic_linear(batch, 1024 // scale)
    for width, batch in ((128, 1), (512, 1), (512, 16)):
        yield from _recurrent(max(width // scale, 4), batch)
    for name, build in {"VGG-like": models.VGGLike, "ResNet-8": models.ResNet8}.items():
        yield from _network(name, build)


@kernel
def peak(a, b, steps, out):
    """Byte dot products on registers alone: 12 independent sums of 16 lanes."""
    tile = register_tile(CHAINS, LANES, i32x16)
    x, w = load(a, 0, u8x64), load(b, 0, i8x64)
    for i in range(0, 192, 16):
        store(tile, i, load(out, 0, i32x16))
    for _ in range(steps):
        for i in range(0, 192, 16):
            store(tile, i, dot4(load(tile, i, i32x16), x, w))
    for i in range(0, 192, 16):
        store(out, 0, load(out, 0, i32x16) + load(tile, i, i32x16))


@kernel
def peak_tiles(configuration, steps):
    """Matrix-tile products on registers alone: four independent tiles of sums."""
    tiles_configure(configuration)
    for _ in range(steps):
        tile_dot(int8_loops.TILE0, int8_loops.TILE4, int8_loops.TILE6)
        tile_dot(int8_loops.TILE1, int8_loops.TILE4, int8_loops.TILE7)
        tile_dot(int8_loops.TILE2, int8_loops.TILE5, int8_loops.TILE6)
        tile_dot(int8_loops.TILE3, int8_loops.TILE5, int8_loops.TILE7)
    tiles_release()


def _peak_runner() -> tuple[Callable[[], object], int]:
    """A loop of nothing but products, and how many multiply-accumulates it does."""
    if tiles_available():
        return lambda: peak_tiles(TILE_CONFIGURATION, PEAK_STEPS), PEAK_STEPS * 4 * 16 * 16 * 64
    a, b = np.ones(64, np.uint8), np.ones(64, np.int8)
    out = np.zeros(16, np.int32)
    return lambda: peak(a, b, PEAK_STEPS, out), PEAK_STEPS * 12 * 64


def _product(side: int) -> Iterator[Record]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator) for _ in range(2))
    x, w = (torch.randint(-127, 128, (side, side), dtype=torch.int8) for _ in range(2))
    packed, codes = panels.pack_weight(w.T.contiguous().numpy()), x.numpy().view(np.uint8)
    half_a, half_b = a.bfloat16(), b.bfloat16()
    run_peak, products = _peak_runner()
    runners = {
        "ours": lambda: int8.matmul(codes, packed),
        "torch fp32 (MKL)": lambda: a @ b,
        "torch bf16": lambda: half_a @ half_b,
        "torch._int_mm": lambda: torch._int_mm(x, w),
        "ONNX Runtime fp32": onnx_product(a, b),
        "peak": run_peak,
    }
    # A few in a row, so that a small product finds its own operands in the cache and not its rivals'.
    times = max(1, 4096 // side)
    medians = race({name: repeated(run, times) for name, run in runners.items()})
    fraction = side**3 / medians["ours"] / (products / medians["peak"])
    name = f"{side}x{side}x{side}"
    yield from records("int8 matmul", name, medians, 1, fraction, limits=("peak",), times=times)
    yield from two_threads("int8 matmul", name, lambda n: int8.matmul(codes, packed, n), times)


def _onnx_dynamic(layer: nn.Linear, x: torch.Tensor) -> Callable[[], object]:
    """ONNX Runtime's dynamic int8 product, fused by itself from the quantizing nodes."""
    weight = layer.weight.detach().T.contiguous()
    scale = weight.abs().amax(0) / 127
    codes = torch.round(weight / scale).to(torch.int8).numpy()
    tensors = [
        helper.make_tensor("w", TensorProto.INT8, list(codes.shape), codes.tobytes(), raw=True),
        helper.make_tensor("ws", TensorProto.FLOAT, [len(scale)], scale.numpy()),
        helper.make_tensor("b", TensorProto.FLOAT, [len(scale)], layer.bias.detach().numpy()),
    ]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["scales"]),
        helper.make_node("Mul", ["real", "scales"], ["scaled"]),
        helper.make_node("Add", ["scaled", "b"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, x.shape[1]])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, len(scale)])]
    session = onnx_session(helper.make_graph(nodes, "linear", inputs, outputs, tensors))
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)


def _dynamic_linear(batch: int, side: int) -> Iterator[Record]:
    layer, x = nn.Linear(side, side), torch.randn(batch, side)
    ours = DynamicInt8Linear(layer)
    theirs = peers.torch_dynamic(layer)
    times = max(1, 256 // batch)
    runners = {
        "ours": lambda: ours(x),
        "torch fp32": lambda: layer(x),
        "torch dynamic int8": lambda: theirs(x),
        "ONNX Runtime dynamic int8": _onnx_dynamic(layer, x),
    }
    with torch.inference_mode():
        medians = race({name: repeated(run, times) for name, run in runners.items()})
    yield from records("dynamic int8 linear", f"{batch}x{side}x{side}", medians, times=times)


def _recurrent(width: int, batch: int) -> Iterator[Record]:
    """An LSTM over 50 steps: ours calls a product for every step, torch's layers are one operation."""
    layer, x = nn.LSTM(width, width, batch_first=True).eval(), torch.randn(batch, 50, width)
    ours, theirs = convert_dynamic(layer), peers.torch_dynamic(layer)
    times = max(1, 512 // width)
    runners = {
        "ours": lambda: ours(x),
        "torch fp32": lambda: layer(x),
        "torch dynamic int8": lambda: theirs(x),
    }
    with torch.inference_mode():
        medians = race({name: repeated(run, times) for name, run in runners.items()})
    yield from records("dynamic int8 LSTM, 50 steps", f"{batch}x{width}", medians, times=times)


def _network(name: str, build: Callable[..., nn.Module]) -> Iterator[Record]:
    shape = (1, 16, 16)
    torch.manual_seed(0)
    model, images = build(shape, 26).eval(), torch.rand(200, *shape)
    runners = {
        "ours": convert(quantize_post_training(model, QuantConfig(), images)),
        "torch fp32": model,
        "torch fp32, folded": fold_batch_norms(model),
        "torch int8 (x86)": peers.torch_int8(model, images),
        "ONNX Runtime fp32": peers.onnxruntime_float(model, shape),
        "ONNX Runtime int8": peers.onnxruntime_int8(model, images),
    }
    for batch in (1, 64):
        x, times = torch.rand(batch, *shape), 40 if batch == 1 else 2
        calls = {n: repeated(lambda run=run, x=x: run(x), times) for n, run in runners.items()}
        with torch.inference_mode():
            medians = race(calls)
        yield from records(f"{name}, int8", f"batch {batch}", medians, times=times)
