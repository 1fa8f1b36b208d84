"""Post-training quantization (训练后量化): a trained float network, a few images, no labels, no training.

    prepare     put a quantizer on every weight and after every layer (and its norm and ReLU), addition
                and average; the network still computes in floats, as integers would
    calibrate   show it some images, so that activation quantizers learn their ranges
    correct     (optional) take the mean error that rounding the weights adds to each channel out of the
                bias (Nagel et al. 2019, https://arxiv.org/abs/1906.04721, section 4.2, from data)

What `runtime.convert` makes of the result computes the same in integers. Works on any network that
torch.fx can trace; a layer kind that is not known stays in floats here and is refused there.
"""

import copy
import math
import operator
from collections.abc import Iterator, Sequence

import torch
from torch import fx, nn

from compresslab.network.edit import replace_, replaced
from compresslab.network.graph import LAYERS, NORMS, chain_behind, limits_of, module_at
from compresslab.network.modules import Affine, ChannelsFirst, ChannelsLast, Scale, Select, Spread
from compresslab.network.normal import flat_outputs, normal_form
from compresslab.network.recurrent import unrolled
from compresslab.network.select import as_linear, linear_layers, refuse_fast_path
from compresslab.network.taps import by_name, tapped
from compresslab.network.writer import shape_of
from compresslab.techniques.lockstep import layer_by_layer
from compresslab.techniques.quantizer import ActivationQuantizer, QuantConfig, Quantized
from compresslab.training import evaluating

BATCH = 250
PASSING = (
    *(
        nn.MaxPool2d,
        nn.Flatten,
        nn.Identity,
        nn.Dropout,
        nn.Dropout1d,
        nn.Dropout2d,
        nn.AlphaDropout,
    ),
    *(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, Spread, Select, nn.Unflatten),
    *(ChannelsFirst, ChannelsLast),
)
"""Modules that hand codes on: no number of theirs comes from computing with several."""
TABLES = (
    *(nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.LeakyReLU),
    *(nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Tanhshrink),
    *(nn.Hardshrink, nn.Softshrink, nn.Threshold, Affine, Scale, *NORMS),
)
"""Functions of one number, for each channel perhaps another, which for codes are tables of 256 codes; norms
that belong to no layer are such functions as well."""
FLOAT_ISLANDS = (nn.GroupNorm, nn.LayerNorm, nn.Softmax, nn.LogSoftmax, nn.Upsample)
"""Modules that compute in floats between integer layers; nearest upsampling hands codes on instead."""
AT_THE_END = (
    *(nn.Flatten, nn.Identity, nn.Dropout, nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.Tanh, nn.SiLU),
    *(nn.GELU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign),
)
"""What may follow the last layer in floats."""
FLOAT_CUTS = ((0.0, math.inf), (0.0, 6.0))
"""Cuts of the last layer's results that stay in floats: ReLU and ReLU6."""


def prepare(
    model: nn.Module, config: QuantConfig, example: torch.Tensor | None = None
) -> fx.GraphModule:
    """A copy of the model in normal form with quantizers in place, still to be calibrated.

    Args:
        model: the trained network; it is not changed.
        config: bits, ranges, sharing.
        example: a batch that the network takes, see `network.normal`.

    Raises:
        ValueError: if `config.layers` names a layer that the model does not have, or a dropout is active in
            evaluation.
        TracingError: if the model's forward cannot be followed.
    """
    traced = normal_form(model, example)
    modules = dict(traced.named_modules())
    used = [str(n.target) for n in traced.graph.nodes if isinstance(module_at(n, modules), LAYERS)]
    unknown = set(config.layers) - set(used)
    if unknown:
        names = ", ".join(dict.fromkeys(used))
        raise ValueError(f"layers must name {names}; got {', '.join(sorted(unknown))}")
    edges = {used[0], used[-1]} if used else set()
    if config.activation_bits is not None:
        _insert_activation_quantizers(traced, config, edges)
    for name in dict.fromkeys(used):
        bits = config.edge_bits if config.edge_bits and name in edges else config.weight_bits
        layer = traced.get_submodule(name)
        replace_(traced, {name: Quantized(layer, config.layers.get(name, bits), config)})
    traced.recompile()
    return traced


def prepare_layers(model: nn.Module, config: QuantConfig) -> nn.Module:
    """A copy of any model whose linear layers simulate integer weights and inputs; all else stays float.

    Nothing is traced, so it takes models that `prepare` cannot; each layer quantizes its own input, and what
    lies between layers is not quantized. Conv1D counts as linear, recurrent layers are written out in linear
    ones, shared weights stay float.

    Args:
        model: any module tree; not changed.
        config: `edge_bits` has no meaning here.

    Raises:
        ValueError: if `config.layers` names other layers, or edge_bits is set.
    """
    refuse_fast_path(model)
    model = unrolled(model)
    layers = linear_layers(model)
    unknown = set(config.layers) - set(layers)
    if unknown or config.edge_bits is not None:
        raise ValueError(
            f"layers must name {', '.join(layers)} and edge_bits be None, "
            f"got {', '.join(sorted(unknown)) or config.edge_bits}"
        )
    new = {}
    for name, layer in layers.items():
        layer = copy.deepcopy(as_linear(layer))
        parts = [Quantized(layer, config.layers.get(name, config.weight_bits), config)]
        if config.activation_bits is not None:
            parts.insert(0, ActivationQuantizer(config.activation_bits, config))
        new[name] = nn.Sequential(*parts)
    return replaced(model, new).eval()


def _insert_activation_quantizers(
    traced: fx.GraphModule, config: QuantConfig, edges: set[str]
) -> None:
    modules = dict(traced.named_modules())
    tail = _tail(traced, modules)
    for end in dict.fromkeys(_ends(traced, modules, tail)):
        # The last layer's input is an edge as well as the image itself.
        feeds_edge = end.op == "placeholder" or any(
            u.op == "call_module" and u.target in edges for u in _consumers(end, modules)
        )
        bits = config.edge_bits if config.edge_bits and feeds_edge else config.activation_bits
        name = f"{end.name}_quantizer"
        traced.add_submodule(name, ActivationQuantizer(bits, config))
        with traced.graph.inserting_after(end):
            node = traced.graph.call_module(name, (end,))
        node.meta = dict(end.meta)
        end.replace_all_uses_with(node, delete_user_cb=lambda user, node=node: user is not node)


def _tail(traced: fx.GraphModule, modules: dict[str, nn.Module]) -> set[fx.Node]:
    """The output, and what leads to nothing else and may compute in floats."""
    tail: set[fx.Node] = set()
    for node in reversed(traced.graph.nodes):
        kind = isinstance(module_at(node, modules), AT_THE_END)
        if node.op == "output" or (kind and node.users and set(node.users) <= tail):
            tail.add(node)
    return tail


def _ends(
    traced: fx.GraphModule, modules: dict[str, nn.Module], tail: set[fx.Node]
) -> Iterator[fx.Node]:
    """The nodes whose results become codes."""
    absorbed: set[fx.Node] = set()
    for node in traced.graph.nodes:
        module = module_at(node, modules)
        mean = isinstance(module, nn.AdaptiveAvgPool2d | nn.AvgPool2d)
        layer = isinstance(module, LAYERS)
        alone = isinstance(module, TABLES) or limits_of(module) is not None
        table = alone and node not in absorbed
        joined = is_addition(node) or is_product(node) or is_concatenation(node)
        if not (node.op == "placeholder" or mean or layer or table or joined or _island(module)):
            continue
        if node in tail and not layer:
            continue
        chain = chain_behind(node, modules)
        absorbed.update(chain.nodes)
        last = bool(node.users) and set(chain.end.users) <= tail
        plain = not chain.cuts or (chain.low, chain.high) in FLOAT_CUTS
        # The last layer's results stay floats; a network's other results are codes that are turned back.
        if last and ((layer and plain) or node.op == "placeholder"):
            continue
        if node.users:
            yield chain.end


def hands_on(module: nn.Module | None) -> bool:
    """Whether what comes out of a module are codes that went in."""
    nearest = isinstance(module, nn.Upsample) and module.mode == "nearest"
    return isinstance(module, PASSING) or nearest


def _island(module: nn.Module | None) -> bool:
    return isinstance(module, FLOAT_ISLANDS) and not hands_on(module)


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two tensors."""
    return _is_function(node, operator.add)


def is_product(node: fx.Node) -> bool:
    """Whether a node multiplies two tensors."""
    return _is_function(node, operator.mul)


def _is_function(node: fx.Node, target: object) -> bool:
    both = len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args)
    return node.op == "call_function" and node.target is target and both and not node.kwargs


def is_concatenation(node: fx.Node) -> bool:
    """Whether a node puts channels side by side: the second axis of rows or images."""
    if node.op != "call_function" or node.target is not torch.cat:
        return False
    given = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
    parts = given.get("tensors")
    listed = isinstance(parts, list | tuple) and all(isinstance(p, fx.Node) for p in parts)
    shape = shape_of(node)
    return listed and given.get("dim", 0) == 1 and (shape is None or len(shape) in (2, 4))


def _consumers(node: fx.Node, modules: dict[str, nn.Module]) -> Iterator[fx.Node]:
    """The layers that a value reaches through pooling and reshaping."""
    for user in node.users:
        if hands_on(module_at(user, modules)):
            yield from _consumers(user, modules)
        else:
            yield user


@torch.no_grad()
def calibrate(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Let every activation quantizer see the images, then fix the ranges; returns the model.

    Args:
        model: from `prepare`.
        images: a hundred or more, as the network takes them; no labels are needed.

    Raises:
        ValueError: if there are no images.
    """
    if len(images) == 0:
        raise ValueError("images must hold at least one example, got 0")
    model.eval()
    for part in images.split(BATCH):
        model(part)
    for module in model.modules():
        if isinstance(module, ActivationQuantizer):
            module.freeze()
    return model


def quantize_post_training(
    model: nn.Module, config: QuantConfig, images: torch.Tensor
) -> nn.Module:
    """Prepare a network and calibrate it: images by its graph, words (whole numbers) layer by layer.

    Args:
        model: the trained network; not changed.
        config: as of `prepare`, for words of `prepare_layers`.
        images: what sets the ranges, as the network takes it; no labels are needed.

    Raises:
        ValueError: if there are no images; else as `prepare` and `prepare_layers`.
    """
    if not isinstance(images, torch.Tensor) or len(images) == 0:
        raise ValueError("images must be a tensor of at least one example, got none")
    if not images.is_floating_point():
        return calibrate(prepare_layers(model, config), images)
    return calibrate(prepare(model, config, images[:1]), images)


@torch.no_grad()
def correct_bias(quantized: nn.Module, model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Shift every layer's bias by the mean error of its outputs, layer after layer; returns `quantized`.

    Args:
        quantized: from `calibrate`, with the same layer names as `model`.
        model: the float network it was made from (folded, if that was).
        images: what the means are taken over.

    Raises:
        ValueError: for no images.
    """
    if len(images) == 0:
        raise ValueError("images must hold at least one, got 0")
    layers = {n: m for n, m in quantized.named_modules() if isinstance(m, Quantized)}
    here = [name for name, _ in model.named_modules() if name in layers]
    wanted = _channel_means(model, here, images) if len(here) == len(layers) else {}
    if set(layers) - set(wanted):
        # A forward may use a layer's weight without calling it; in the normal form every layer has its call.
        model = normal_form(model, images[:1])
        wanted = _channel_means(model, list(layers), images)

    def correct(name: str, inputs: Sequence[torch.Tensor]) -> None:
        layer = layers[name].layer
        rows = torch.cat([_channel_rows(layer, layers[name](x)) for x in inputs])
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)))
        layer.bias.sub_(rows.mean(0) - wanted[name])

    with evaluating(quantized):
        layer_by_layer(quantized, images.split(BATCH), layers, correct)
    return quantized


@torch.no_grad()
def corrected(quantized: nn.Module, model: nn.Module, images: torch.Tensor) -> nn.Module:
    """The network with corrected biases, if its answers are then nearer to the float network's; else itself.

    Half of the images say the means, the other half judges: a correction that only fits the images that it
    was taken from, or that large steps make worse, is not kept.

    Args:
        quantized: from `calibrate`; not changed.
        model: the float network it was made from.
        images: two or more.
    """
    half = len(images) // 2
    if half == 0:
        return quantized
    other = correct_bias(copy.deepcopy(quantized), model, images[:half])
    wanted = _answers(model, images[half:])
    errors = [(_answers(q, images[half:]) - wanted).square().mean() for q in (quantized, other)]
    return other if errors[1] < errors[0] else quantized


def _answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with evaluating(model):
        found = [flat_outputs(model(part)) for part in images.split(BATCH)]
    return torch.cat(found)


def _channel_rows(layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """A row of channels for each image (its mean) or token; channels come second or last."""
    return output.flatten(0, -2) if isinstance(layer, nn.Linear) else output.flatten(2).mean(2)


def _channel_means(
    model: nn.Module, names: list[str], images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The mean output of each channel of each named layer."""
    sums: dict[str, torch.Tensor] = {}
    counts = dict.fromkeys(names, 0)

    def keep(name: str, module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        rows = _channel_rows(getattr(module, "layer", module), output)
        sums[name] = sums.get(name, 0) + rows.sum(0)
        counts[name] += len(rows)

    with tapped(by_name(model, names), after=keep), evaluating(model):
        for part in images.split(BATCH):
            model(part)
    return {name: total / counts[name] for name, total in sums.items()}
