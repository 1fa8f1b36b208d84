"""Before quantizing: fold batch norms into convolutions, and even out the channels.

Folding (折叠). In evaluation mode batch norm is y = g (x - m) / sqrt(v + e) + b, a line, and so part of the
convolution in front of it:

    w' = w * g / sqrt(v + e)          b' = (b_conv - m) * g / sqrt(v + e) + b

Cross-layer equalisation (跨层均衡; Nagel et al. 2019, https://arxiv.org/abs/1906.04721, section 4.1).
ReLU(a x) = a ReLU(x) for a > 0, so channel c between two layers may be divided by any t_c in the first and
multiplied by it in the second. With r1, r2 the ranges of channel c in both weights,

    t_c = sqrt(r1_c / r2_c)

makes both ranges sqrt(r1 r2): no channel wastes a scale that all share.
"""

import torch
from torch import fx, nn

from compresslab.network.graph import LAYERS, NORMS, module_at
from compresslab.network.normal import normal_form


def fold_batch_norm(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gain: torch.Tensor,
    shift: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the one layer that does what convolution and batch norm do.

    Args:
        weight: [outputs, ...].
        bias: [outputs], or None for 0.
        gain: g, [outputs], the norm's weight.
        shift: b, [outputs], the norm's bias.
        mean: m, [outputs], running.
        variance: v, [outputs], running.
        epsilon: e.
    """
    factor = gain / torch.sqrt(variance + epsilon)
    bias = torch.zeros_like(mean) if bias is None else bias
    shape = (-1, *[1] * (weight.ndim - 1))
    return weight * factor.reshape(shape), (bias - mean) * factor + shift


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy of the model, in evaluation mode, without the batch norms that follow a convolution.

    A layer that runs twice keeps its norms: they may differ. So does one without running statistics.

    Raises:
        TracingError: if the model's forward depends on values and cannot be traced.
    """
    traced = normal_form(model)
    modules = dict(traced.named_modules())
    again = _used_again(traced, modules)
    for node in list(traced.graph.nodes):
        norm = module_at(node, modules)
        if not isinstance(norm, NORMS) or norm.running_mean is None:
            continue
        source = node.args[0]
        layer = module_at(source, modules)
        if not isinstance(layer, LAYERS) or len(source.users) != 1 or layer in again:
            continue
        gain = torch.ones(norm.num_features) if norm.weight is None else norm.weight
        shift = torch.zeros(norm.num_features) if norm.bias is None else norm.bias
        weight, bias = fold_batch_norm(
            layer.weight,
            layer.bias,
            gain,
            shift,
            norm.running_mean,
            norm.running_var,
            norm.eps,
        )
        trained = layer.weight.requires_grad
        layer.weight = nn.Parameter(weight.detach(), trained)
        layer.bias = nn.Parameter(bias.detach(), trained)
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def equalize(model: nn.Module, rounds: int = 3) -> nn.Module:
    """A copy of a folded model with the ranges of neighbouring layers evened out; same function.

    Pairs are convolutions or linear layers with nothing but ReLU, pooling, dropout, identity and
    flattening of single pixels between them.

    Args:
        model: without batch norms between the layers (see `fold_batch_norms`).
        rounds: sweeps over all pairs.
    """
    traced = normal_form(model)
    modules = dict(traced.named_modules())
    pairs = list(_pairs(traced, modules))
    for _ in range(rounds):
        for first, second in pairs:
            _equalize_pair(first, second)
    return traced


def _used_again(traced: fx.GraphModule, modules: dict[str, nn.Module]) -> set[nn.Module]:
    """Layers that run more than once, or whose weight another layer has as well."""
    called = [modules[n.target] for n in traced.graph.nodes if n.op == "call_module"]
    weights = [id(getattr(module, "weight", module)) for module in called]
    return {m for m, weight in zip(called, weights, strict=True) if weights.count(weight) > 1}


def _pairs(traced: fx.GraphModule, modules: dict[str, nn.Module]):  # noqa: ANN202
    passing = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Identity)
    again = _used_again(traced, modules)
    for node in traced.graph.nodes:
        first = module_at(node, modules)
        if not isinstance(first, LAYERS) or first in again:
            continue
        while len(node.users) == 1:
            node = next(iter(node.users))
            module = module_at(node, modules)
            if isinstance(module, LAYERS):
                if module not in again and _input_channels(module) == len(first.weight):
                    yield first, module
                break
            if not isinstance(module, (*passing, nn.Flatten)):
                break


def _input_channels(layer: nn.Conv2d | nn.Linear) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _by_input(layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """The weight as [input channels, everything else]; of a depthwise layer, its own channels."""
    weight = layer.weight
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return weight.flatten(1)
    return weight.transpose(0, 1).flatten(1)


def equalizing_factors(range_first: torch.Tensor, range_second: torch.Tensor) -> torch.Tensor:
    """T = sqrt(r1 / r2) for each channel; 1 where a range is 0, which no factor can change.

    Args:
        range_first: r1, the largest |weight| that produces each channel, [channels].
        range_second: r2, the largest |weight| that reads it, [channels].
    """
    t = torch.sqrt(range_first / range_second)
    return torch.where((range_first > 0) & (range_second > 0), t, torch.ones_like(t))


@torch.no_grad()
def _equalize_pair(first: nn.Conv2d | nn.Linear, second: nn.Conv2d | nn.Linear) -> None:
    if isinstance(second, nn.Conv2d) and second.groups not in (1, second.in_channels):
        return
    range_first = first.weight.flatten(1).abs().amax(1)
    range_second = _by_input(second).abs().amax(1)
    t = equalizing_factors(range_first, range_second).clamp(1e-3, 1e3)
    first.weight.div_(t.reshape(-1, *[1] * (first.weight.ndim - 1)))
    if first.bias is not None:
        first.bias.div_(t)
    if isinstance(second, nn.Conv2d) and second.groups > 1:
        second.weight.mul_(t.reshape(-1, 1, 1, 1))
    else:
        second.weight.mul_(t.reshape(1, -1, *[1] * (second.weight.ndim - 2)))
