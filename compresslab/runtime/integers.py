"""From a network that simulates integers to one that computes with them.

Every node of the prepared graph becomes a step. A layer takes its batch norm and its cut (ReLU, ReLU6) along:

    y = g (acc s_x s_w - m) + b + ... = acc * (s_x s_w t) + c        t, c: the folded norm
    code = clip(rint(acc * s_x s_w t / s_y + c / s_y) + z_y)

so the norm's factor t joins the requantization (it is one number per channel) and no weight code changes; a
cut is a limit of the codes. A function of one number (hard swish, sigmoid, ...) is a table of 256 codes.
Norms over positions, bilinear upsampling and a softmax at the end compute in floats, between steps that say
so.
What the converter does not know it refuses by name: nothing falls back to floats in silence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn

from compresslab.network.graph import Chain, chain_behind, limits_of, module_at
from compresslab.network.modules import ChannelsFirst, ChannelsLast, Scale, Select, Spread
from compresslab.network.normal import name_of, pair
from compresslab.numerics.affine import quantize
from compresslab.runtime.program import Line, Program, image_name
from compresslab.runtime.steps import between, floating, integer
from compresslab.runtime.steps.step import Codes, Step
from compresslab.techniques.folding import fold_batch_norm
from compresslab.techniques.ptq import (
    FLOAT_ISLANDS,
    TABLES,
    is_addition,
    is_concatenation,
    is_product,
)
from compresslab.techniques.quantizer import ActivationQuantizer, Quantized

DEAD = 0.5
"""A channel whose sums move its result by less than half a code is its bias alone."""
SUMS = 2**31
"""What an int32 sum must stay below."""
WINDOWED = (nn.MaxPool2d, nn.AvgPool2d)
PADS = {
    nn.ZeroPad2d: "constant",
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad2d: "edge",
}
FLOATS: dict[type[nn.Module], type[floating.FloatLayer]] = {
    nn.GroupNorm: floating.FloatGroupNorm,
    nn.LayerNorm: floating.FloatLayerNorm,
    nn.Softmax: floating.FloatSoftmax,
    nn.LogSoftmax: floating.FloatSoftmax,
    nn.Upsample: floating.FloatUpsample,
}


class ConversionError(ValueError):
    """A part of the network that cannot run on integers; says which and why."""


@dataclass
class _Value:
    """What a node of the graph is in the integer network: a step's name and what its codes mean.

    `codes` is None for floats; `image` is whether it has pixels, None where nobody has said so; `last`:
    whether channels come last in the network, too.
    """

    step: str
    codes: Codes | None
    image: bool | None
    last: bool = False


def convert_integers(prepared: fx.GraphModule) -> Program:
    """The integer network that a prepared, calibrated (and perhaps trained) network simulates.

    Args:
        prepared: from `ptq.quantize_post_training` or `qat.tune`, with quantized activations.

    Returns:
        A Program whose codes agree with the simulation to within one code.

    Raises:
        ConversionError: naming every node that has no integer counterpart.
    """
    refuse_unknown(prepared)
    return _Converter(prepared).run()


def unknown_operations(prepared: fx.GraphModule) -> dict[str, str]:
    """Every node of a prepared network that no step computes, by name, with what it is."""
    modules = dict(prepared.named_modules())
    nodes = [n for n in prepared.graph.nodes if n.op != "output"]
    return {n.name: what_it_is(n, modules) for n in nodes if not _is_known(n, modules)}


def refuse_unknown(prepared: fx.GraphModule) -> None:
    """Refuse a prepared network with operations that have no integer counterpart.

    Raises:
        ConversionError: naming all of them.
    """
    unknown = unknown_operations(prepared)
    if unknown:
        said = "; ".join(f"node {name!r} ({what})" for name, what in unknown.items())
        raise ConversionError(
            f"{said}: no integer counterpart. Write it with an operation that has one (`inspect` lists "
            "them), or use convert_dynamic, which takes any network with linear layers"
        )


def _is_known(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    module = module_at(node, modules)
    if module is None:
        return (
            node.op == "placeholder"
            or is_addition(node)
            or is_product(node)
            or is_concatenation(node)
        )
    return isinstance(module, (Quantized, ActivationQuantizer, *KNOWN))


def what_it_is(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """The kind of a node's module, or the name of its operation."""
    module = module_at(node, modules)
    return type(module).__name__ if module is not None else name_of(node) or node.op


class _Converter:
    def __init__(self, prepared: fx.GraphModule) -> None:
        self.modules = dict(prepared.named_modules())
        self.graph = prepared.graph
        self.values: dict[fx.Node, _Value] = {}
        self.absorbed: set[fx.Node] = set()
        self.lines: list[Line] = []
        self.steps: list[Step] = []
        self.images = 0

    def run(self) -> Program:
        outputs: list[str] = []
        for node in self.graph.nodes:
            if node.op == "output":
                outputs = self.outputs(node)
            elif node not in self.values and node not in self.absorbed:
                self.visit(node)
        return Program(self.lines, self.steps, outputs, self.images)

    # -- walking
    def visit(self, node: fx.Node) -> None:
        module = module_at(node, self.modules)
        self.refuse_channels_last(node, module)
        if node.op == "placeholder":
            self.image(node)
        elif isinstance(module, Quantized):
            self.layer(node, module)
        elif isinstance(module, nn.MaxPool2d):
            self.max_pool(node, module)
        elif isinstance(module, nn.AdaptiveAvgPool2d | nn.AvgPool2d):
            self.mean_pool(node, module)
        elif isinstance(module, nn.Flatten):
            self.flatten(node, module)
        elif isinstance(module, IDLE):
            self.values[node] = self.values[node.args[0]]
        elif isinstance(module, (*PADS, Spread)):
            self.surround(node, module)
        elif isinstance(module, ChannelsLast | ChannelsFirst):
            self.turn(node, isinstance(module, ChannelsLast))
        elif isinstance(module, nn.Unflatten | Select):
            self.rearrange(node, module)
        elif isinstance(module, nn.Upsample) and module.mode == "nearest":
            self.upsample(node, module)
        elif isinstance(module, TABLES) or limits_of(module) is not None:
            self.table(node, module)
        elif isinstance(module, tuple(FLOATS)):
            self.floats(node, FLOATS[type(module)], module)
        elif is_addition(node) or is_product(node):
            self.two(node, between.IntAdd if is_addition(node) else between.IntMultiply)
        elif is_concatenation(node):
            self.concatenate(node)
        elif isinstance(module, ActivationQuantizer):
            self.requantize(node, module)
        else:
            self.belongs_to_no_layer(node, module)

    def refuse_channels_last(self, node: fx.Node, module: nn.Module | None) -> None:
        """Where channels come last in the network, the other axes are no channels for what follows."""
        read = [self.values[n] for n in node.all_input_nodes if n in self.values]
        if not any(value.last for value in read):
            return
        linear = isinstance(module, Quantized) and isinstance(module.layer, nn.Linear)
        each = isinstance(module, TABLES) and not isinstance(module, PER_CHANNEL[:-1])
        borne = (*IDLE, ChannelsFirst, nn.LayerNorm, nn.Softmax, nn.LogSoftmax, ActivationQuantizer)
        two = is_addition(node) or is_product(node)
        if linear or each or two or isinstance(module, borne) or limits_of(module) is not None:
            return
        raise ConversionError(
            f"node {node.name!r} ({what_it_is(node, self.modules)}) takes images whose channels come last: "
            "permute them back, x.permute(0, 3, 1, 2), in front of it"
        )

    def belongs_to_no_layer(self, node: fx.Node, module: nn.Module | None) -> None:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            raise ConversionError(f"a norm behind {node.args[0].name!r} belongs to no layer")
        raise ConversionError(
            f"node {node.name!r} ({what_it_is(node, self.modules)}) has no integer counterpart"
        )

    def step(
        self,
        node: fx.Node,
        step: Step,
        sources: Sequence[fx.Node],
        codes: Codes | None,
        image: bool | None,
    ) -> None:
        read = [self.values[s] for s in sources]
        self.line(node.name, step, [value.step for value in read])
        last = read[0].last and not image
        self.values[node] = _Value(node.name, codes, image, last)

    def line(self, name: str, step: Step, sources: Sequence[str]) -> None:
        self.lines.append(Line(name, tuple(sources)))
        self.steps.append(step)

    def follow(self, node: fx.Node) -> tuple[Chain, fx.Node, Codes | None]:
        """What belongs to a layer, its end with its quantizer, and what its codes mean."""
        chain = chain_behind(node, self.modules)
        self.absorbed.update(chain.nodes)
        users = list(chain.end.users)
        module = module_at(users[0], self.modules) if len(users) == 1 else None
        if not isinstance(module, ActivationQuantizer):
            return chain, chain.end, None
        self.absorbed.add(users[0])
        return chain, users[0], self.codes_of(users[0], module, chain)

    def codes_of(
        self, node: fx.Node, quantizer: ActivationQuantizer, chain: Chain | None = None
    ) -> Codes:
        if quantizer.dynamic:
            raise ConversionError(
                f"quantizer {node.name!r} is dynamic: a fixed integer network needs calibrated ranges"
            )
        p = quantizer.qparams()
        scale, zero, low, high = float(p.scale), int(p.zero_point), p.grid.low, p.grid.high
        if chain is not None and chain.cuts:
            low = max(low, _code_of(chain.low, scale, zero))
            high = min(high, _code_of(chain.high, scale, zero))
        return Codes(scale, zero, low, max(low, high))

    def behind(self, node: fx.Node) -> tuple[fx.Node, Codes]:
        """The end of what follows something without weights, and its codes."""
        chain, end, out = self.follow(node)
        if chain.norms:
            raise ConversionError(f"a norm behind {node.name!r} belongs to no layer")
        return end, self.require(out, node)

    def require(self, codes: Codes | None, node: fx.Node) -> Codes:
        if codes is None:
            raise ConversionError(
                f"the result of {node.name!r} is not quantized: prepare with activation_bits set"
            )
        return codes

    def source(self, node: fx.Node, place: int = 0) -> tuple[fx.Node, _Value, Codes]:
        """What a node reads, which must be codes."""
        read = node.args[place]
        return read, self.values[read], self.require(self.values[read].codes, read)

    # -- ends
    def image(self, node: fx.Node) -> None:
        name = image_name(self.images)
        self.images += 1
        if not node.users:
            return
        end, codes = self.behind(node)
        self.values[node] = _Value(name, None, None)
        self.step(end, integer.QuantizeInput(codes), (node,), codes, None)

    def outputs(self, node: fx.Node) -> list[str]:
        """The names of what is handed back; codes become floats."""
        results = node.args[0]
        many = isinstance(results, tuple | list)
        found = []
        for result in results if many else [results]:
            if not isinstance(result, fx.Node):
                raise ConversionError(
                    f"forward must return a tensor or a tuple of tensors, got {type(results).__name__}: "
                    "return the tensors themselves"
                )
            value = self.values[result]
            if value.codes is None and value.step in [image_name(i) for i in range(self.images)]:
                raise ConversionError(f"forward must return a layer's result, got {result.name!r}")
            found.append(self.as_floats(result, value))
        return found

    def as_floats(self, node: fx.Node, value: _Value) -> str:
        if value.codes is None:
            return value.step
        name = f"{node.name}_floats"
        if name not in [line.name for line in self.lines]:
            step = between.Dequantize(value.codes, int(value.last))
            self.line(name, step, (value.step,))
        return name

    # -- layers
    def layer(self, node: fx.Node, module: Quantized) -> None:
        source, value, x = self.source(node)
        linear = isinstance(module.layer, nn.Linear)
        if linear and value.image:
            raise ConversionError(
                f"layer {node.name!r} reads the rows of an image: flatten it first"
            )
        chain, end, out = self.follow(node)
        weight, bits = module.layer.weight.detach(), module.weight_bits
        params = module.weight_quantizer.qparams()
        if params.group is not None:
            raise ConversionError(
                f"layer {node.name!r}: scales of groups cannot share an integer sum"
            )
        rows = weight.reshape(len(weight), -1)
        codes = quantize(rows, params).codes.reshape(weight.shape).numpy()
        if largest_sum(codes).max(initial=0) >= SUMS:
            raise ConversionError(
                f"layer {node.name!r}: its sums may be larger than 32 bits hold; give its weights fewer "
                "bits, or pool in front of it"
            )
        factor, bias = folded(module.layer, chain.norms)
        scale = x.scale * params.scale.expand(len(weight)).double().numpy() * factor
        if out is None:
            built = _logits(module.layer, codes, (bits, scale, bias, x.zero_point))
            self.step(end, built, (source,), None, not linear)
            self.cut(end, chain)
            return
        codes, multiplier, offset = _requantization(codes, scale, bias, out)
        numbers = (bits, offset, multiplier, x.zero_point, out)
        built, rest = _build_layer(module.layer, codes, numbers, node.name)
        self.step(end, built, (source,), out, not linear)
        if rest is not None:  # strides that differ
            name = f"{end.name}_strided"
            self.line(name, rest, (self.values[end].step,))
            self.values[end] = _Value(name, out, True)

    def cut(self, end: fx.Node, chain: Chain) -> None:
        """A ReLU behind the last layer, in floats."""
        if not chain.cuts:
            return
        kind = nn.ReLU if chain.high == math.inf else nn.ReLU6
        name = f"{end.name}_cut"
        self.line(name, floating.FloatActivation(kind()), (self.values[end].step,))
        self.values[end].step = name

    # -- between layers
    def max_pool(self, node: fx.Node, module: nn.MaxPool2d) -> None:
        source, value, codes = self.source(node)
        if pair(module.dilation) != (1, 1):
            raise ConversionError(f"node {node.name!r}: pooling with gaps (dilation) is unknown")
        if module.return_indices:
            raise ConversionError(f"node {node.name!r}: pooling that returns places is unknown")
        size = _square(module)
        step = between.IntMaxPool(size) if size else between.IntMaxPoolWindows(**_windows(module))
        self.step(node, step, (source,), codes, value.image)

    def mean_pool(self, node: fx.Node, module: nn.AdaptiveAvgPool2d | nn.AvgPool2d) -> None:
        source, _, x = self.source(node)
        whole = isinstance(module, nn.AdaptiveAvgPool2d)
        if whole and pair(module.output_size) != (1, 1):
            raise ConversionError(
                f"node {node.name!r}: of adaptive pooling only the mean over all pixels is known without an "
                "example, and windows of one size with one"
            )
        if getattr(module, "divisor_override", None) is not None:
            raise ConversionError(f"node {node.name!r}: a divisor of its own is unknown")
        end, out = self.behind(node)
        if isinstance(module, nn.AvgPool2d):
            padded = int(module.count_include_pad)
            step = between.IntMeanWindows(
                x.scale, x.zero_point, out, padded=padded, **_windows(module)
            )
        else:
            step = between.IntMeanPool(x.scale, x.zero_point, out)
        self.step(end, step, (source,), out, True)

    def flatten(self, node: fx.Node, module: nn.Flatten) -> None:
        source = node.args[0]
        value = self.values[source]
        if module.start_dim != 1 or module.end_dim != -1:
            raise ConversionError(f"node {node.name!r}: only flatten(x, 1) is known")
        step = between.IntFlatten() if value.codes is not None else floating.FloatFlatten()
        self.step(node, step, (source,), value.codes, False)

    def surround(self, node: fx.Node, module: nn.Module) -> None:
        source, _, codes = self.source(node)
        if isinstance(module, Spread):
            extra = dict(zip(("bottom", "right"), module.extra, strict=True))
            step = between.IntSpread(*module.stride, **extra, zero_point=codes.zero_point)
        else:
            if min(module.padding) < 0:
                raise ConversionError(f"node {node.name!r}: padding must not be negative")
            step = between.IntPad(*module.padding, PADS[type(module)], codes.zero_point)
        self.step(node, step, (source,), codes, True)

    def rearrange(self, node: fx.Node, module: nn.Unflatten | Select) -> None:
        source, value, codes = self.source(node)
        if isinstance(module, Select):
            step = between.IntSelect(module.places.numpy())
            self.step(node, step, (source,), codes, value.image)
            return
        sizes = tuple(module.unflattened_size)
        if module.dim != 1 or len(sizes) != 3:
            raise ConversionError(f"node {node.name!r}: rows are known to become images only")
        self.step(node, between.IntUnflatten(*sizes[1:]), (source,), codes, True)

    def turn(self, node: fx.Node, last: bool) -> None:
        """Channels to the end or to the front, which codes do not notice: theirs are always last."""
        value = self.values[node.args[0]]
        places = [i for i, line in enumerate(self.lines) if line.name == value.step]
        step = self.steps[places[0]] if places else None
        if not last and value.image is None and isinstance(step, integer.QuantizeInput):
            # Images that come with their channels last are taken as they lie.
            if len(node.args[0].users) > 1:
                raise ConversionError(
                    f"node {node.name!r} turns an input that something else reads as it is: turn it first"
                )
            step.last = 1
        self.values[node] = _Value(value.step, value.codes, not last, last)

    def upsample(self, node: fx.Node, module: nn.Upsample) -> None:
        source, _, codes = self.source(node)
        factors = whole_factors(module)
        if factors is None:
            raise ConversionError(f"node {node.name!r}: upsampling is known by whole factors only")
        self.step(node, between.IntUpsample(*factors), (source,), codes, True)

    @torch.no_grad()
    def table(self, node: fx.Node, module: nn.Module) -> None:
        source, value = node.args[0], self.values[node.args[0]]
        if value.codes is None:
            self.floats(node, floating.FloatActivation, module)
            return
        if isinstance(module, Scale) and value.image is not False:
            raise ConversionError(f"node {node.name!r} scales the columns of an image")
        end, out = self.behind(node)
        step = between.IntTable(between.as_codes(_results(node.name, module, value.codes), out))
        self.step(end, step, (source,), out, value.image)

    def two(self, node: fx.Node, kind: type[between.IntAdd]) -> None:
        (a, one, a_codes), (b, _, b_codes) = self.source(node, 0), self.source(node, 1)
        end, out = self.behind(node)
        self.step(end, kind.of(a_codes, b_codes, out), (a, b), out, one.image)

    def concatenate(self, node: fx.Node) -> None:
        parts = list(node.args[0])
        codes = [self.require(self.values[p].codes, p) for p in parts]
        end, out = self.behind(node)
        step = between.IntConcatenate(between.tables(codes, out))
        self.step(end, step, parts, out, self.values[parts[0]].image)

    def requantize(self, node: fx.Node, module: ActivationQuantizer) -> None:
        """A quantizer behind what is codes already, or behind a float island."""
        source = node.args[0]
        value, out = self.values[source], self.codes_of(node, module)
        if value.codes is None:
            step = integer.QuantizeInput(out, int(value.last))
            self.step(node, step, (source,), out, value.image)
        else:
            step = between.IntTable(between.tables([value.codes], out))
            self.step(node, step, (source,), out, value.image)

    def floats(self, node: fx.Node, kind: type[floating.FloatLayer], module: nn.Module) -> None:
        """A module that computes in floats, between codes or at the end."""
        source = node.args[0]
        value = self.values[source]
        if isinstance(module, nn.Upsample) and (
            module.mode != "bilinear" or whole_factors(module) is None
        ):
            raise ConversionError(
                f"node {node.name!r}: upsampling is known as nearest or bilinear, by whole factors"
            )
        if isinstance(module, FLOAT_ISLANDS[:2]) and getattr(module, "weight", None) is None:
            raise ConversionError(f"node {node.name!r}: a norm without gain and shift is unknown")
        before = self.as_floats(source, value)
        try:
            self.line(node.name, kind(module), (before,))
        except (KeyError, ValueError) as error:
            raise ConversionError(f"node {node.name!r}: {error}") from error
        self.values[node] = _Value(node.name, None, value.image, value.last)


PER_CHANNEL = (nn.PReLU, nn.BatchNorm1d, nn.BatchNorm2d, Scale)
"""Tables that differ by channel: the second axis for torch, but for `Scale`, whose channels come last."""
IDLE = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout1d, nn.AlphaDropout)
KNOWN = (
    *(*WINDOWED, nn.AdaptiveAvgPool2d, nn.Flatten, *IDLE, *PADS, Spread, nn.Upsample, *TABLES),
    *(nn.ReLU, nn.Hardtanh, *FLOATS, nn.Unflatten, Select, ChannelsFirst, ChannelsLast),
)


@torch.no_grad()
def _results(name: str, module: nn.Module, codes: Codes) -> np.ndarray:
    """What a function of one number gives for each code, float32 [1, 256] or [channels, 256]."""
    values = torch.from_numpy(between.values_of(codes))
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        if module.running_mean is None:
            raise ConversionError(
                f"node {name!r}: a norm without running statistics depends on the batch"
            )
        rows = values[:, None].expand(256, module.num_features)
        return floating.FloatNorm(module)(rows[:, :, None, None])[:, :, 0, 0].T.numpy()
    channels = module.weight.numel() if isinstance(module, nn.PReLU | Scale) else 1
    return module(values[:, None].expand(256, channels)).T.numpy()


def whole_factors(module: nn.Upsample) -> tuple[int, int] | None:
    """By how much an upsampling makes images larger, if that is said in whole numbers."""
    if module.scale_factor is None:
        return None
    factors = pair(module.scale_factor)
    return tuple(int(f) for f in factors) if all(f == int(f) >= 1 for f in factors) else None


def _code_of(edge: float, scale: float, zero: int) -> int:
    """The code that stands for a limit, within 0..255."""
    return (
        int(min(max(np.rint(edge / scale) + zero, 0), 255))
        if math.isfinite(edge)
        else (0 if edge < 0 else 255)
    )


def _windows(module: nn.MaxPool2d | nn.AvgPool2d) -> dict[str, int]:
    """Where pooling looks, as its step has it."""
    size, stride = pair(module.kernel_size), pair(module.stride or module.kernel_size)
    padding = pair(module.padding)
    names = ("height", "width", "down", "across", "top", "left")
    numbers = zip(names, (*size, *stride, *padding), strict=True)
    return {**dict(numbers), "ceil": int(module.ceil_mode)}


def _square(module: nn.MaxPool2d) -> int | None:
    """The side of the squares that a plain max pooling takes; None if it is not plain."""
    w = _windows(module)
    sides = {w["height"], w["width"], w["down"], w["across"]}
    plain = len(sides) == 1 and not (w["top"] or w["left"] or w["ceil"])
    return sides.pop() if plain else None


def pool_size(name: str, module: nn.MaxPool2d) -> int:
    """The side of the squares that a max pooling takes.

    Raises:
        ConversionError: for squares that overlap or are padded, oblong ones, or a rest that is kept.
    """
    size = _square(module)
    if size is None or pair(module.dilation) != (1, 1):
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
    codes: np.ndarray, scale: np.ndarray, bias: np.ndarray, out: Codes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, multiplier s_x s_w t / s_y and integer bias of every output channel.

    A channel whose largest sum moves its result by less than half a code is its bias alone. One whose bias is
    so large beside its scale that 32 bits do not hold it gets coarser weights, which then hardly count.
    """
    dead = largest_sum(codes) * np.abs(scale) < DEAD * out.scale
    scale = np.where(dead, out.scale / 64, scale)
    coarser = np.maximum(np.abs(bias / scale) / 2**30, 1)
    shape = (-1, *[1] * (codes.ndim - 1))
    codes = np.where(dead.reshape(shape), 0, np.rint(codes / coarser.reshape(shape)))
    scale = scale * coarser
    offset = np.rint(bias / scale)
    return codes.astype(np.int8), (scale / out.scale).astype(np.float32), offset.astype(np.int32)


def largest_sum(codes: np.ndarray) -> np.ndarray:
    """What the integer sum of each output channel can reach at most, float64 [N]: 255 times its codes."""
    return 255.0 * np.abs(codes.reshape(len(codes), -1).astype(np.float64)).sum(axis=1)


# ---- layers --------------------------------------------------------------------------------------
def _logits(layer: nn.Module, codes: np.ndarray, numbers: tuple) -> Step:
    """The last layer, whose results are floats."""
    if isinstance(layer, nn.Linear):
        return integer.IntLogits(codes, *numbers)
    window = _window(layer)
    if window.get("rest"):
        raise ConversionError("a convolution as the last layer must have one stride for both axes")
    weight = _spread_taps(_dense(codes, layer.groups), layer.dilation)
    weight = np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
    return integer.IntConvLogits(weight, *numbers, **window)


def _window(layer: nn.Conv2d) -> dict[str, object]:
    """Stride and padding; `rest`: what strides that differ leave to be done."""
    if len(set(layer.padding)) > 1 or layer.padding_mode != "zeros":
        raise ConversionError(
            f"padding {layer.padding} of mode {layer.padding_mode!r} must be a module of its own: prepare "
            "the network with this version"
        )
    down, across = layer.stride
    stride = math.gcd(down, across)
    rest = (down // stride, across // stride)
    window: dict[str, object] = {"stride": stride, "padding": layer.padding[0]}
    return window if rest == (1, 1) else {**window, "rest": rest}


def _build_layer(
    layer: nn.Module, codes: np.ndarray, numbers: tuple, name: str
) -> tuple[Step, Step | None]:
    """The step of a layer, and the one that leaves out rows or columns where strides differ."""
    if isinstance(layer, nn.Linear):
        return integer.IntLinear(codes, *numbers), None
    try:
        window = _window(layer)
    except ConversionError as error:
        raise ConversionError(f"layer {name!r}: {error}") from error
    rest = window.pop("rest", None)
    taken = None
    if rest is not None:
        taken = between.IntMaxPoolWindows(
            height=1, width=1, down=rest[0], across=rest[1], top=0, left=0, ceil=0
        )
    codes = _spread_taps(codes, layer.dilation)
    if layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1:
        taps = np.ascontiguousarray(codes[:, 0].transpose(1, 2, 0))
        return integer.IntDepthwiseConv2d(taps, *numbers, **window), taken
    weight = np.ascontiguousarray(_dense(codes, layer.groups).transpose(0, 2, 3, 1))
    return integer.IntConv2d(weight, *numbers, **window), taken


def _spread_taps(codes: np.ndarray, dilation: tuple[int, int]) -> np.ndarray:
    """A weight [N, c, kh, kw] with zeros between its taps, which is what dilation means."""
    if tuple(dilation) == (1, 1):
        return codes
    outputs, inputs, height, width = codes.shape
    shape = (outputs, inputs, (height - 1) * dilation[0] + 1, (width - 1) * dilation[1] + 1)
    spread = np.zeros(shape, np.int8)
    spread[:, :, :: dilation[0], :: dilation[1]] = codes
    return spread


def _dense(codes: np.ndarray, groups: int) -> np.ndarray:
    """A grouped weight [N, c / g, kh, kw] as a dense one [N, c, kh, kw], with zeros between groups."""
    if groups == 1:
        return codes
    outputs, inputs, *kernel = codes.shape
    dense = np.zeros((outputs, inputs * groups, *kernel), np.int8)
    size = outputs // groups
    for g in range(groups):
        block = slice(g * size, (g + 1) * size)
        dense[block, g * inputs : (g + 1) * inputs] = codes[block]
    return dense
