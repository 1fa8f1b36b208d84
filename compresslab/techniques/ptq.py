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
import operator
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import fx, nn

from compresslab.techniques.layers import (
    as_linear,
    linear_layers,
    plain_copy,
    refuse_fast_path,
    replaced,
)
from compresslab.techniques.quantizer import ActivationQuantizer, QuantConfig, Quantized
from compresslab.techniques.tracing import trace

LAYERS = (nn.Conv2d, nn.Linear)
FOLLOWERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU)
ADDITIONS = (operator.add, operator.iadd, torch.add)
BATCH = 250


def prepare(model: nn.Module, config: QuantConfig) -> fx.GraphModule:
    """A copy of the model with quantizers in place, still to be calibrated.

    Args:
        model: the trained network; it is not changed.
        config: bits, ranges, sharing.

    Raises:
        ValueError: if `config.layers` names a layer that the model does not have, or forward calls a
            dropout that is no module.
        torch.fx.proxy.TraceError: if the model cannot be traced.
    """
    traced = trace(plain_copy(model).eval())
    _refuse_functional_dropout(traced)
    names = [name for name, module in traced.named_modules() if isinstance(module, LAYERS)]
    unknown = set(config.layers) - set(names)
    if unknown:
        raise ValueError(f"layers must name {', '.join(names)}; got {', '.join(sorted(unknown))}")
    used = [n.target for n in traced.graph.nodes if n.op == "call_module" and n.target in names]
    edges = {used[0], used[-1]} if used else set()
    if config.activation_bits is not None:
        _insert_activation_quantizers(traced, config, edges)
    for name in names:
        bits = config.edge_bits if config.edge_bits and name in edges else config.weight_bits
        layer = traced.get_submodule(name)
        _replace(traced, name, Quantized(layer, config.layers.get(name, bits), config))
    traced.recompile()
    return traced


DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, torch.dropout)


def _refuse_functional_dropout(traced: fx.GraphModule) -> None:
    for node in traced.graph.nodes:
        if node.op == "call_function" and node.target in DROPOUTS:
            raise ValueError(
                f"node {node.name!r} is a dropout that is no module: the network is traced in evaluation "
                "mode, so it would be gone in training as well; use nn.Dropout"
            )


def prepare_layers(model: nn.Module, config: QuantConfig) -> nn.Module:
    """A copy of any model whose linear layers simulate integer weights and inputs; all else stays float.

    Nothing is traced, so it takes models that `prepare` cannot; each layer quantizes its own input, and what
    lies between layers is not quantized. Conv1D counts as linear, shared weights stay float.

    Args:
        model: any module tree; not changed.
        config: `edge_bits` has no meaning here.

    Raises:
        ValueError: if `config.layers` names other layers, or edge_bits is set.
    """
    refuse_fast_path(model)
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


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _insert_activation_quantizers(
    traced: fx.GraphModule, config: QuantConfig, edges: set[str]
) -> None:
    modules = dict(traced.named_modules())
    last = next(n for n in reversed(traced.graph.nodes) if n.op == "output")
    ends = dict.fromkeys(_ends(traced, modules))
    for end in ends:
        if set(end.users) <= {last}:
            continue
        # The last layer's input is an edge as well as the image itself.
        feeds_edge = end.op == "placeholder" or any(
            u.op == "call_module" and u.target in edges for u in _consumers(end, modules)
        )
        bits = config.edge_bits if config.edge_bits and feeds_edge else config.activation_bits
        name = f"{end.name}_quantizer"
        traced.add_submodule(name, ActivationQuantizer(bits, config))
        with traced.graph.inserting_after(end):
            node = traced.graph.call_module(name, (end,))
        end.replace_all_uses_with(node, delete_user_cb=lambda user, node=node: user is not node)


def _ends(traced: fx.GraphModule, modules: dict[str, nn.Module]) -> Iterator[fx.Node]:
    """The nodes whose results become codes."""
    for node in traced.graph.nodes:
        module = modules.get(node.target) if node.op == "call_module" else None
        if node.op == "placeholder" or isinstance(module, nn.AdaptiveAvgPool2d | nn.AvgPool2d):
            yield node
        elif isinstance(module, LAYERS) or is_addition(node):
            yield _end_of_chain(node, modules)


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two tensors, each taken once (torch.add has a factor for the second)."""
    both = len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args)
    plain = node.kwargs in ({}, {"alpha": 1})
    return node.op == "call_function" and node.target in ADDITIONS and both and plain


def _end_of_chain(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    """Past the norm and the ReLU that follow, which become part of the layer."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        module = modules.get(user.target) if user.op == "call_module" else None
        if not isinstance(module, FOLLOWERS) and user.target not in (F.relu, torch.relu):
            break
        node = user
    return node


def _consumers(node: fx.Node, modules: dict[str, nn.Module]) -> Iterator[fx.Node]:
    """The layers that a value reaches through pooling and reshaping."""
    for user in node.users:
        module = modules.get(user.target) if user.op == "call_module" else None
        if isinstance(module, nn.MaxPool2d | nn.Flatten | nn.Dropout | nn.Identity):
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
) -> fx.GraphModule:
    """`prepare` and `calibrate` in one."""
    return calibrate(prepare(model, config), images)


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
    wanted = _channel_means(model, list(layers), images)
    for name, module in layers.items():
        error = _channel_means(quantized, [name], images)[name] - wanted[name]
        layer = module.layer
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)))
        layer.bias.sub_(error)
    return quantized


def _channel_means(
    model: nn.Module, names: list[str], images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The mean output of each channel of each named layer."""
    sums: dict[str, torch.Tensor] = {}
    counts = dict.fromkeys(names, 0)

    def keep(name: str):  # noqa: ANN202
        def hook(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
            # Channels of an image come second, those of a token last.
            rows = output.flatten(2).mean(2) if output.ndim == 4 else output.flatten(0, -2)
            sums[name] = sums.get(name, 0) + rows.sum(0)
            counts[name] += len(rows)

        return hook

    hooks = [model.get_submodule(n).register_forward_hook(keep(n)) for n in names]
    model.eval()
    try:
        for part in images.split(BATCH):
            model(part)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / counts[name] for name, total in sums.items()}
