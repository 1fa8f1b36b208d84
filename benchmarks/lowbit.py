"""Weight-only products against torch and ONNX Runtime, with weights that no cache holds.

Every runner takes turns over as many copies of its weight as make COLD bytes, as a language model does
that walks through its layers. The limit is how fast one thread reads as many bytes from a buffer of the
same size.

"torch bf16 x int4" and "torch bf16 x int8" round activations to bfloat16; "ONNX Runtime, int8
activations" quantizes them row by row (another arithmetic, that of "ours, int8 activations"); ours and
"ONNX Runtime" leave them in float32.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper

from benchmarks.harness import Record, race, records, two_threads
from benchmarks.onnx_peers import onnx_session
from compresslab.kernels import lowbit
from compresslab.kernels._jit import kernel
from compresslab.kernels.panels import aligned
from compresslab.kernels.simd import Static, load, prefetch, register_tile, splat, store, u32x16

COLD = 256 << 20
GROUP = 128
CHAINS, LANES = Static(8), Static(16)
SHAPES = ((4096, 4096), (11008, 4096))


def run(scale: int = 1) -> Iterator[Record]:
    """Two layers of a language model, at 8 and 4 bits and several batches; 3 and 2 bits at batch 1."""
    for outputs, inputs in SHAPES:
        shape = _smaller(outputs, scale), _smaller(inputs, scale)
        for bits, batch in itertools.product((8, 4), (1, 4, 16)):
            yield from _product(*shape, bits, batch, COLD // scale)
    side = _smaller(SHAPES[0][0], scale)
    for bits in (3, 2):
        yield from _product(side, side, bits, 1, COLD // scale)
    weight, x = _packed(side, side, 4), np.ones((4, side), np.float32)
    shape = f"4x{side} by {side}, 4 bits"
    yield from two_threads("low-bit matmul", shape, lambda n: lowbit.matmul(x, weight, None, n), 10)


def _smaller(side: int, scale: int) -> int:
    """A side divided by the scale, still a multiple of the group and of what peers ask for."""
    return max(side // scale // GROUP, 1) * GROUP


@kernel
def read(numbers, out):
    """Nothing but loads: sums of 32-bit words, eight chains of sixteen."""
    tile = register_tile(CHAINS, LANES, u32x16)
    for i in range(0, 128, 16):
        store(tile, i, splat(np.uint32(0), u32x16))
    for k in range(0, numbers.size // 128 * 128, 128):
        for i in range(0, 128, 16):
            prefetch(numbers, k + i + 4096)
            store(tile, i, load(tile, i, u32x16) + load(numbers, k + i, u32x16))
    for i in range(0, 128, 16):
        store(out, i, load(tile, i, u32x16))


def _codes(outputs: int, inputs: int, bits: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1 << bits, (outputs, inputs), dtype=np.uint8)


def _packed(outputs: int, inputs: int, bits: int) -> lowbit.PackedCodes:
    groups = (outputs, inputs // GROUP)
    scale, zero = np.full(groups, 0.01, np.float32), np.full(groups, 1 << (bits - 1))
    return lowbit.pack_weight(_codes(outputs, inputs, bits), scale, zero, bits, GROUP)


def _again(weight: lowbit.PackedCodes) -> lowbit.PackedCodes:
    """A copy elsewhere in memory, on a cache line as well."""
    words = aligned(weight.words.size, np.uint32)
    words[:] = weight.words
    return dataclasses.replace(weight, words=words)


def _copies(nbytes: int, cold: int) -> int:
    return max(1, min(-(-cold // nbytes), 64))


def _in_turn(call: Callable[[object], object], weights: list) -> Callable[[], object]:
    turn = itertools.cycle(weights)
    return lambda: call(next(turn))


def _product(outputs: int, inputs: int, bits: int, batch: int, cold: int) -> Iterator[Record]:
    x = np.random.default_rng(1).normal(size=(batch, inputs)).astype(np.float32)
    rows = torch.from_numpy(x)
    one = _packed(outputs, inputs, bits)
    copies = _copies(one.nbytes, cold)
    ours, others = ([_again(one) for _ in range(copies)] for _ in range(2))
    dense = torch.from_numpy(lowbit.restore(one).T.copy())
    floats = [dense] + [dense.clone() for _ in range(_copies(dense.nbytes, cold) - 1)]
    runners = {
        "ours": _in_turn(lambda w: lowbit.matmul(x, w), ours),
        "ours, int8 activations": _in_turn(lambda w: lowbit.matmul(x, w, digits=1), others),
        "torch fp32": _in_turn(lambda w: F.linear(rows, w), floats),
    }
    if bits == 8:
        runners["torch bf16 x int8"] = _torch_int8(rows, dense, copies)
    if bits == 4:
        runners["torch bf16 x int4"] = _torch_int4(rows, outputs, inputs, copies)
    if bits in (4, 8):
        runners["ONNX Runtime"] = _onnx(x, outputs, bits, 1, copies)
        runners["ONNX Runtime, int8 activations"] = _onnx(x, outputs, bits, 4, copies)
    sink, size = np.zeros(128, np.uint32), max(cold // 16, 128)
    runners["read"] = _in_turn(
        lambda n: read(n, sink), [np.ones(size, np.uint32) for _ in range(4)]
    )
    medians = race(runners, seconds=2.0)
    reached = one.nbytes / medians["ours"] / (4 * size / medians["read"])
    shape = f"{batch}x{inputs} by {outputs}, {bits} bits"
    limit = reached if batch == 1 else None
    yield from records("low-bit matmul", shape, medians, 1, limit, limits=("read",))


def _torch_int8(rows: torch.Tensor, dense: torch.Tensor, copies: int) -> Callable[[], object]:
    half = rows.bfloat16()
    scale = torch.ones(len(dense), dtype=torch.bfloat16)
    weights = [torch.randint(-128, 128, dense.shape, dtype=torch.int8) for _ in range(copies)]
    return _in_turn(lambda w: torch.ops.aten._weight_int8pack_mm(half, w, scale), weights)


def _torch_int4(rows: torch.Tensor, outputs: int, inputs: int, copies: int) -> Callable[[], object]:
    half = rows.bfloat16()
    codes = torch.from_numpy(_codes(outputs, inputs, 4)).int()
    pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
    first = pack(codes, 1)
    weights = [first] + [first.clone() for _ in range(copies - 1)]
    scales = torch.ones(inputs // GROUP, outputs, 2, dtype=torch.bfloat16)
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    return _in_turn(lambda w: multiply(half, w, GROUP, scales), weights)


def _onnx(
    x: np.ndarray, outputs: int, bits: int, accuracy: int, copies: int
) -> Callable[[], object]:
    """MatMulNBits; accuracy level 1 keeps activations in float32, level 4 quantizes them to int8."""
    inputs = x.shape[1]
    weight = np.random.default_rng(2).integers(
        0, 256, (outputs, inputs // GROUP, GROUP * bits // 8), dtype=np.uint8
    )
    scale = np.full(outputs * inputs // GROUP, 0.01, np.float32)
    tensors = [
        helper.make_tensor("w", TensorProto.UINT8, weight.shape, weight.tobytes(), raw=True),
        helper.make_tensor("s", TensorProto.FLOAT, scale.shape, scale.tobytes(), raw=True),
    ]
    a = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, inputs])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, outputs])
    options = {"K": inputs, "N": outputs, "bits": bits, "block_size": GROUP}
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "s"],
        ["y"],
        domain="com.microsoft",
        accuracy_level=accuracy,
        **options,
    )
    graph = helper.make_graph([node], "product", [a], [y], tensors)
    sessions = [onnx_session(graph) for _ in range(copies)]
    feed = {"x": x}
    return _in_turn(lambda session: session.run(None, feed), sessions)
