"""From a network that simulates integers to one that computes with them.

Every node of the prepared graph becomes a step. A layer takes its batch norm and ReLU with it:

    y = g (acc s_x s_w - m) + b + ... = acc * (s_x s_w t) + c        t, c: the folded norm
    code = clip(rint(acc * s_x s_w t / s_y + c / s_y) + z_y)

so the norm's factor t joins the requantization (it is one number a channel) and no weight code changes.
What the converter does not know it refuses by name: nothing falls back to floats in silence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from compresslab.numerics.affine import quantize
from compresslab.runtime.modules import (
    Codes,
    DynamicInt8Linear,
    IntAdd,
    IntConv2d,
    IntDepthwiseConv2d,
    IntegerModule,
    IntFlatten,
    IntLinear,
    IntLogits,
    IntMaxPool,
    IntMeanPool,
    QuantizeInput,
)
from compresslab.runtime.program import IMAGE, Program, Step
from compresslab.techniques.folding import fold_batch_norm
from compresslab.techniques.layers import as_linear, linear_layers, refuse_fast_path, replaced
from compresslab.techniques.ptq import is_addition
from compresslab.techniques.quantizer import ActivationQuantizer, Quantized


class ConversionError(ValueError):
    """A part of the network that cannot run on integers; says which and why."""


@dataclass
class _Value:
    """What a node of the graph is in the integer network: a step's name and what its codes mean."""

    step: str
    codes: Codes | None


def convert(prepared: fx.GraphModule) -> Program:
    """The integer network that a prepared, calibrated (and perhaps trained) network simulates.

    Args:
        prepared: from `ptq.quantize_post_training` or `qat.tune`, with quantized activations.

    Returns:
        A Program whose codes agree with the simulation to within one code.

    Raises:
        ConversionError: naming the node, if it has no integer counterpart.
    """
    return _Converter(prepared).run()


def convert_dynamic(model: nn.Module) -> nn.Module:
    """A copy of any model with its linear layers on int8 products, activations quantized at run time.

    GPT-2's Conv1D counts as linear; a layer that shares its weight with another module stays as it is.

    Raises:
        ValueError: if there is no linear layer.
    """
    refuse_fast_path(model)
    new = {name: DynamicInt8Linear(as_linear(m)) for name, m in linear_layers(model).items()}
    return replaced(model, new).eval()


class _Converter:
    def __init__(self, prepared: fx.GraphModule) -> None:
        self.modules = dict(prepared.named_modules())
        self.graph = prepared.graph
        self.values: dict[fx.Node, _Value] = {}
        self.absorbed: set[fx.Node] = set()
        self.steps: list[Step] = []
        self.layers: list[IntegerModule] = []

    def run(self) -> Program:
        for node in self.graph.nodes:
            if node.op == "output":
                self.check_output(node)
            elif node not in self.values and node not in self.absorbed:
                self.visit(node)
        return Program(self.steps, self.layers)

    def check_output(self, node: fx.Node) -> None:
        """A program hands back what its last step gives: one tensor, and that one."""
        result = node.args[0]
        if not isinstance(result, fx.Node):
            raise ConversionError(
                f"forward must return one tensor, got {type(result).__name__}: convert each head as a network"
            )
        value = self.values.get(result)
        if value is None or not self.steps or value.step != self.steps[-1].name:
            raise ConversionError(
                f"forward must return the last layer's result, got {result.name!r}"
            )

    def visit(self, node: fx.Node) -> None:
        module = self.modules.get(node.target) if node.op == "call_module" else None
        if node.op == "placeholder":
            self.image(node)
        elif isinstance(module, Quantized):
            self.layer(node, module)
        elif isinstance(module, nn.MaxPool2d):
            self.max_pool(node, module)
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            self.mean_pool(node, module)
        elif isinstance(module, nn.Flatten):
            self.step(node, IntFlatten(), (node.args[0],), self.values[node.args[0]].codes)
        elif isinstance(module, nn.Identity | nn.Dropout):
            self.values[node] = self.values[node.args[0]]
        elif is_addition(node):
            self.addition(node)
        else:
            what = type(module).__name__ if module is not None else node.target
            raise ConversionError(f"node {node.name!r} ({what}) has no integer counterpart")

    def behind(self, node: fx.Node) -> tuple[fx.Node, Codes | None]:
        """The chain behind what has no weights: its end and its codes; a norm there has no place to go."""
        norms, _, end, out = self.follow(node)
        if norms:
            raise ConversionError(f"a norm behind {node.name!r} belongs to no layer")
        return end, out

    def step(
        self, node: fx.Node, layer: IntegerModule, inputs: tuple[fx.Node, ...], codes: Codes | None
    ) -> None:
        self.steps.append(Step(node.name, tuple(self.values[i].step for i in inputs)))
        self.layers.append(layer)
        self.values[node] = _Value(node.name, codes)

    def follow(self, node: fx.Node) -> tuple[list[nn.Module], bool, fx.Node, Codes | None]:
        """What belongs to a layer: its norms, whether a ReLU, the chain's end, its output's codes."""
        norms, relu = [], False
        while len(node.users) == 1:
            user = next(iter(node.users))
            module = self.modules.get(user.target) if user.op == "call_module" else None
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not relu:
                norms.append(module)
            elif isinstance(module, nn.ReLU) or user.target in (F.relu, torch.relu):
                relu = True
            elif isinstance(module, ActivationQuantizer):
                return norms, relu, user, self.codes_of(user, module, relu)
            else:
                break
            self.absorbed.add(user)
            node = user
        return norms, relu, node, None

    def codes_of(self, node: fx.Node, quantizer: ActivationQuantizer, relu: bool = False) -> Codes:
        if quantizer.dynamic:
            raise ConversionError(
                f"quantizer {node.name!r} is dynamic: a fixed integer network needs calibrated ranges"
            )
        p = quantizer.qparams()
        zero = int(p.zero_point)
        low = max(p.grid.low, zero) if relu else p.grid.low
        return Codes(float(p.scale), zero, low, p.grid.high)

    def require(self, codes: Codes | None, node: fx.Node) -> Codes:
        if codes is None:
            raise ConversionError(
                f"the result of {node.name!r} is not quantized: prepare with activation_bits set"
            )
        return codes

    def image(self, node: fx.Node) -> None:
        end, codes = self.behind(node)
        codes = self.require(codes, node)
        self.values[node] = _Value(IMAGE, None)
        self.step(end, QuantizeInput(codes), (node,), codes)

    def layer(self, node: fx.Node, module: Quantized) -> None:
        source = self.values[node.args[0]]
        x = self.require(source.codes, node.args[0])
        norms, relu, end, out = self.follow(node)
        weight, bits = module.layer.weight.detach(), module.weight_bits
        params = module.weight_quantizer.qparams()
        if params.group is not None:
            raise ConversionError(
                f"layer {node.name!r}: scales of groups cannot share an integer sum"
            )
        rows = weight.reshape(len(weight), -1)
        codes = quantize(rows, params).codes.reshape(weight.shape).numpy()
        factor, bias = folded(module.layer, norms)
        scale = x.scale * params.scale.expand(len(weight)).double().numpy() * factor
        if out is None:
            if relu or not isinstance(module.layer, nn.Linear):
                raise ConversionError(f"the result of {node.name!r} is not quantized")
            self.step(end, IntLogits(codes, bits, scale, bias, x.zero_point), node.args[:1], None)
            return
        codes, multiplier, offset = _requantization(codes, scale, bias, out, node.name)
        arguments = (bits, offset, multiplier, x.zero_point, out)
        built = _build_layer(module.layer, codes, arguments, node.name)
        self.step(end, built, (node.args[0],), out)

    def max_pool(self, node: fx.Node, module: nn.MaxPool2d) -> None:
        source = node.args[0]
        pool = IntMaxPool(pool_size(node.name, module))
        self.step(node, pool, (source,), self.values[source].codes)

    def mean_pool(self, node: fx.Node, module: nn.AdaptiveAvgPool2d) -> None:
        if module.output_size not in (1, (1, 1)):
            raise ConversionError(f"node {node.name!r}: only the mean over all pixels is known")
        source = node.args[0]
        x = self.require(self.values[source].codes, source)
        end, out = self.behind(node)
        out = self.require(out, node)
        self.step(end, IntMeanPool(x.scale, x.zero_point, out), (source,), out)

    def addition(self, node: fx.Node) -> None:
        a, b = (self.require(self.values[arg].codes, arg) for arg in node.args)
        end, out = self.behind(node)
        out = self.require(out, node)
        adder = IntAdd((a.scale, b.scale), (a.zero_point, b.zero_point), out)
        self.step(end, adder, node.args, out)


def pool_size(name: str, module: nn.MaxPool2d) -> int:
    """The side of the squares that a max pooling takes.

    Raises:
        ConversionError: for squares that overlap or are padded, oblong ones, or a rest that is kept.
    """
    size = module.kernel_size
    plain = module.padding == 0 and module.dilation == 1 and not module.ceil_mode
    if not isinstance(size, int) or (module.stride or size) != size or not plain:
        raise ConversionError(f"node {name!r}: only square pooling without overlap is known")
    return size


def folded(layer: nn.Module, norms: Sequence[nn.Module]) -> tuple[np.ndarray, np.ndarray]:
    """The norms' factor t on the weight and the bias c of layer and norms together, float64 [N]."""
    factor = torch.ones(len(layer.weight), 1, dtype=torch.float64)
    bias = None if layer.bias is None else layer.bias.detach().double()
    for norm in norms:
        if norm.running_mean is None:
            raise ConversionError("a norm without running statistics depends on the batch")
        gain, shift = norm.weight, norm.bias
        gain = torch.ones(norm.num_features) if gain is None else gain
        shift = torch.zeros(norm.num_features) if shift is None else shift
        numbers = (n.detach().double() for n in (gain, shift, norm.running_mean, norm.running_var))
        factor, bias = fold_batch_norm(factor, bias, *numbers, norm.eps)
    bias = torch.zeros(len(factor), dtype=torch.float64) if bias is None else bias
    return factor[:, 0].numpy(), bias.numpy()


def _requantization(
    codes: np.ndarray, scale: np.ndarray, bias: np.ndarray, out: Codes, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, multiplier s_x s_w t / s_y and integer bias of every output channel."""
    # A channel whose weights are 0, or that its norm turned off, is its bias alone.
    off = largest_sum(codes) * np.abs(scale) < 1e-6 * out.scale
    codes = np.where(off.reshape(-1, *[1] * (codes.ndim - 1)), 0, codes).astype(np.int8)
    scale = np.where(off, out.scale / 64, scale)
    offset = np.rint(bias / scale)
    if np.abs(offset).max(initial=0) > 2**30:
        raise ConversionError(f"layer {name!r}: a bias is too large beside its scale for 32 bits")
    return codes, (scale / out.scale).astype(np.float32), offset.astype(np.int32)


def largest_sum(codes: np.ndarray) -> np.ndarray:
    """What the integer sum of each output channel can reach at most, float64 [N]: 255 times its codes."""
    return 255.0 * np.abs(codes.reshape(len(codes), -1).astype(np.float64)).sum(axis=1)


def _build_layer(layer: nn.Module, codes: np.ndarray, arguments: tuple, name: str) -> IntegerModule:
    if isinstance(layer, nn.Linear):
        return IntLinear(codes, *arguments)
    (stride, *strides), (padding, *paddings) = layer.stride, _padding(layer, name)
    if any(s != stride for s in strides) or any(p != padding for p in paddings):
        raise ConversionError(f"layer {name!r}: stride and padding must be equal on both axes")
    if layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        raise ConversionError(f"layer {name!r}: dilation and other paddings than zeros are unknown")
    if layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1:
        taps = np.ascontiguousarray(codes[:, 0].transpose(1, 2, 0))
        return IntDepthwiseConv2d(taps, *arguments, stride=stride, padding=padding)
    if layer.groups != 1:
        codes = _dense(codes, layer.groups)
    weight = np.ascontiguousarray(codes.transpose(0, 2, 3, 1))
    return IntConv2d(weight, *arguments, stride=stride, padding=padding)


def _padding(layer: nn.Conv2d, name: str) -> tuple[int, ...]:
    if isinstance(layer.padding, str):
        raise ConversionError(f"layer {name!r}: padding must be a number, got {layer.padding!r}")
    return layer.padding


def _dense(codes: np.ndarray, groups: int) -> np.ndarray:
    """A grouped weight [N, c / g, kh, kw] as a dense one [N, c, kh, kw], with zeros between groups."""
    outputs, inputs, *kernel = codes.shape
    dense = np.zeros((outputs, inputs * groups, *kernel), np.int8)
    size = outputs // groups
    for g in range(groups):
        block = slice(g * size, (g + 1) * size)
        dense[block, g * inputs : (g + 1) * inputs] = codes[block]
    return dense
