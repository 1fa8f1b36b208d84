"""Networks for other engines: ONNX files, in floats and with int8 written into them.

An int8 network in ONNX is a float network with pairs of QuantizeLinear and DequantizeLinear (QDQ) around
what is to be computed in integers. The pair alone changes nothing but the rounding; an engine that finds

    x -> Q -> DQ -+
    codes -> DQ --+-> Conv -> Relu -> Q -> DQ -> ...
    bias  -> DQ --+

replaces the middle by one integer convolution. ONNX Runtime does so on this machine; OpenVINO and most
compilers of accelerators take the same file. The weights lie in it as int8 codes, so it is small as well.

TensorRT takes signed codes around 0 only, and biases in floats: `signed=True` writes those. Behind a ReLU
half of such a grid is never used, so that activations have 7 bits instead of 8 (`tensorrt` checks a file).

    here                                        there
    conv, norm with factor t, codes q, scale s  codes sign(t) q, scales |t| s: not one code is rounded anew
    bias c, input scale s_x                     int32 rint(c / (s_x |t| s)), scales s_x |t| s
    pooling between quantizers                  a second pair behind it: engines only match complete patterns

so `runtime.convert` and the file compute with the same integers; a result may still differ by a code
where the engine rounds a requantization's tie another way. Writing takes `onnx` and `onnxscript` (the
extra `peers`).

Left out: fewer bits than 8 (they are stored as int8; activations must have 8), dynamic ranges. LiteRT, for
phones and microcontrollers, takes torch networks and not ONNX files: see `litert`.
"""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from compresslab.network.edit import replaced
from compresslab.network.graph import NORMS, module_at
from compresslab.numerics.affine import quantize
from compresslab.runtime.integers import ConversionError, folded, largest_sum
from compresslab.techniques.ptq import hands_on
from compresslab.techniques.quantizer import ActivationQuantizer, Quantized
from compresslab.training import evaluating
from compresslab.writing import write_whole

OPSET = 20


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings and progress reports of exporters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def export_float(model: nn.Module, shape: tuple[int, ...], path: Path) -> int:
    """Write a float ONNX file with a free batch size; returns the bytes on disk.

    Args:
        model: a float network; batch norms are folded by the exporter.
        shape: of one example, without the batch.
        path: is written whole or not at all.
    """
    return write_onnx(model, torch.zeros(2, *shape, dtype=torch.float32), Path(path), {})


def export_int8(
    prepared: fx.GraphModule, shape: tuple[int, ...], path: Path, signed: bool = False
) -> int:
    """Write the int8 network that a prepared one simulates, as a QDQ graph; returns the bytes on disk.

    Args:
        prepared: from `ptq.quantize_post_training` or `qat.tune`, with activations of 8 bits and calibrated
            ranges; not changed.
        shape: of one example, without the batch.
        path: is written whole or not at all.
        signed: whether activations are int8 around 0 and biases floats, as TensorRT wants them; the file then
            computes with other codes than `runtime.convert`.

    Raises:
        ConversionError: naming the node, if a layer or a quantizer has no such form. What is neither (an
            activation, a norm behind an addition) is written in floats, as the simulation has it.
    """
    from onnxscript import opset20 as onnx_op

    def round_trip(x, scale, zero):  # noqa: ANN001, ANN202
        return onnx_op.DequantizeLinear(onnx_op.QuantizeLinear(x, scale, zero), scale, zero)

    def from_codes(codes, scale, zero):  # noqa: ANN001, ANN202
        return onnx_op.DequantizeLinear(codes, scale, zero, axis=0)

    table = {
        torch.ops.compresslab.qdq.default: round_trip,
        torch.ops.compresslab.from_codes.default: from_codes,
    }
    images = torch.zeros(2, *shape, dtype=torch.float32)
    return write_onnx(qdq_network(prepared, signed), images, Path(path), table)


def write_onnx(model: nn.Module, example: torch.Tensor, path: Path, table: dict) -> int:
    """Write what a network does with a batch of any size; returns the bytes on disk.

    Args:
        model: not changed.
        example: two examples or more.
        path: is written whole or not at all.
        table: from operations of ours to what stands for them in ONNX.
    """
    batch = torch.export.Dim("batch")

    def write(temporary: Path) -> None:
        with quietly(), contextlib.redirect_stdout(None), evaluating(model):
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                custom_translation_table=table,
                verbose=False,
            )
            # The exporter notes for every node where in the author's files it came from.
            for node in program.model.graph:
                for noted in (node, *node.outputs):
                    noted.metadata_props.clear()
            program.save(temporary, external_data=False)

    write_whole(path, write)
    return path.stat().st_size


# ---- the two operations that ONNX has and torch has not ------------------------------------------
@torch.library.custom_op("compresslab::qdq", mutates_args=())
def qdq(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """QuantizeLinear to zero's type, uint8 or int8, and DequantizeLinear: float32 -> float32 of x's shape."""
    grid = torch.iinfo(zero.dtype)
    return ((x / scale).round().add(zero).clamp(grid.min, grid.max) - zero) * scale


@qdq.register_fake
def _(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("compresslab::from_codes", mutates_args=())
def from_codes(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """DequantizeLinear with a scale for each of the first axis: int8 or int32 -> float32."""
    tail = [1] * (codes.ndim - 1)
    return (codes - zero.view(-1, *tail)).float() * scale.view(-1, *tail)


@from_codes.register_fake
def _(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


# ---- from the simulation to the QDQ graph --------------------------------------------------------
class _RoundTrip(nn.Module):
    def __init__(self, scale: torch.Tensor, zero: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().float().clone())
        self.register_buffer("zero", zero.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return qdq(x, self.scale, self.zero)


class _FromCodes(nn.Module):
    """A layer whose weight and bias are codes; with `floats`, only its weight."""

    def __init__(
        self,
        layer: nn.Module,
        norms: list[nn.Module],
        params,  # noqa: ANN001
        x_scale: float,
        floats: bool,
    ) -> None:
        super().__init__()
        self.floats = floats
        rows = layer.weight.detach().reshape(len(layer.weight), -1)
        factor, bias = folded(layer, norms)
        scale = params.scale.expand(len(rows)).double().numpy() * np.abs(factor)
        codes = quantize(rows, params).codes.numpy()
        # A channel whose weights are 0, or that its norm turned off, is its bias, on a scale that holds it.
        off = largest_sum(codes) * scale * x_scale < 1e-9 * np.maximum(np.abs(bias), 1)
        scale = np.where(off, np.maximum(np.abs(bias), 1e-6) / x_scale / 2**20, scale)
        codes = codes * np.where(off, 0, np.sign(factor))[:, None]
        offset = np.rint(bias / (scale * x_scale))
        if np.abs(offset).max(initial=0) > 2**31 - 1:
            raise ConversionError("a bias is too large beside its scale for 32 bits")
        self.layer = copy.copy(layer)
        shape = layer.weight.shape
        self.register_buffer("codes", torch.from_numpy(codes.astype(np.int8)).reshape(shape))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))
        kept = bias.astype(np.float32) if floats else offset.astype(np.int32)
        self.register_buffer("bias", torch.from_numpy(kept))
        self.register_buffer("bias_scale", torch.from_numpy((scale * x_scale).astype(np.float32)))
        self.register_buffer("zero", torch.zeros(len(rows), dtype=torch.int8))
        self.register_buffer("bias_zero", torch.zeros(len(rows), dtype=torch.int32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = from_codes(self.codes, self.scale, self.zero)
        bias = self.bias
        if not self.floats:
            bias = from_codes(bias, self.bias_scale, self.bias_zero)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, bias)
        return self.layer._conv_forward(x, weight, bias)


def qdq_network(prepared: fx.GraphModule, signed: bool = False) -> fx.GraphModule:
    """The network as `export_int8` writes it: the same graph, on codes, without norms.

    Args:
        prepared: as there.
        signed: as there.

    Raises:
        ConversionError: naming the node that has no such form.
    """
    if not isinstance(prepared, fx.GraphModule):
        raise ConversionError(
            "network must simulate integers, as quantize_post_training makes it, got "
            f"{type(prepared).__name__}"
        )
    network = replaced(prepared, {}).eval()
    modules, graph = dict(network.named_modules()), network.graph
    scales: dict[fx.Node, tuple[torch.Tensor, torch.Tensor]] = {}
    for node in list(graph.nodes):
        module = module_at(node, modules)
        if isinstance(module, ActivationQuantizer):
            scales[node] = _parameters(module, node, signed)
            network.set_submodule(str(node.target), _RoundTrip(*scales[node]))
        elif isinstance(module, Quantized):
            _on_codes(network, node, module, scales, modules, signed)
        elif hands_on(module) and node.args[0] in scales:
            parameters, name = scales[node.args[0]], f"{node.name}_codes"
            network.add_submodule(name, _RoundTrip(*parameters))
            with graph.inserting_after(node):
                pair = graph.call_module(name)
            node.replace_all_uses_with(pair)
            pair.args = (node,)
            scales[pair] = parameters
    graph.lint()
    network.recompile()
    return network


def _parameters(
    quantizer: ActivationQuantizer, node: fx.Node, signed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point, uint8; signed, a scale that reaches as far on both sides of 0, and an int8 0."""
    if quantizer.dynamic or quantizer.grid.bits != 8:
        what = "dynamic" if quantizer.dynamic else f"of {quantizer.grid.bits} bits"
        raise ConversionError(f"quantizer {node.name!r} is {what}: QDQ needs 8 bits, calibrated")
    params = quantizer.qparams()
    if not signed:
        return params.scale, params.zero_point.to(torch.uint8)
    steps = torch.maximum(params.zero_point, 255 - params.zero_point)
    return params.scale * steps / 127, torch.zeros_like(params.zero_point, dtype=torch.int8)


def _on_codes(
    network: fx.GraphModule,
    node: fx.Node,
    module: Quantized,
    scales: dict,
    modules: dict,
    floats: bool,
) -> None:
    """Put a layer on codes, with the norms right behind it in them."""
    if node.args[0] not in scales:
        raise ConversionError(
            f"the input of {node.name!r} is not quantized: prepare with activation_bits=8"
        )
    params = module.weight_quantizer.qparams()
    if params.group is not None:
        raise ConversionError(f"layer {node.name!r}: scales of groups have no QDQ form here")
    norms = []
    while len(node.users) == 1:
        user = next(iter(node.users))
        norm = module_at(user, modules)
        if not isinstance(norm, NORMS):
            break
        norms.append(norm)
        user.replace_all_uses_with(node)
        network.graph.erase_node(user)
    x_scale = float(scales[node.args[0]][0])
    try:
        layer = _FromCodes(module.layer, norms, params, x_scale, floats)
    except ConversionError as error:
        raise ConversionError(f"layer {node.name!r}: {error}") from error
    # Under the node's own name: a layer that is used twice has other norms and inputs each time.
    name = f"{node.name}_on_codes"
    network.add_submodule(name, layer)
    node.target = name
