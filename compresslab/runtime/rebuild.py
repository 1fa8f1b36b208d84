"""A network in the shapes of its file: channels that were cut, layers that became two thin ones.

What surgery and factoring left stands in the file's tensors: their shapes say how many channels every layer
has, their names which layers are pairs. So a file is read into the architecture that one began with:

    in the architecture       in the file                             becomes
    0.weight [64, 3, 3, 3]    0.weight [40, 3, 3, 3]                  a convolution of 40 channels
    4.weight [10, 512]        4.0.weight [8, 512], 4.1.weight [10, 8] two linear layers, 8 numbers between

Left out: corrections (LoRA), whose strength is no tensor: merge them first, or read their own file.
"""

import copy
from collections.abc import Mapping

import torch
from torch import nn

from compresslab.network.edit import replace_
from compresslab.techniques.lowrank import CONVOLUTIONS, factored

Shapes = Mapping[str, tuple[int, ...]]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
CUT = (nn.Linear, nn.Conv2d, *NORMS)
"""Kinds of layers whose channels surgery cuts."""


def in_shape(like: nn.Module, shapes: Shapes) -> nn.Module:
    """A copy of the network whose layers have the file's shapes; what fits no rule stays as it is.

    Args:
        like: the architecture; not changed.
        shapes: of the file's tensors, by name.
    """
    network = copy.deepcopy(like)
    pairs = {n: m for n, m in network.named_modules() if _is_pair(n, m, shapes)}
    for name, layer in pairs.items():
        built = _pair_of(layer, name, shapes)
        if built is not None:
            network = replace_(network, {name: built})
    for name, layer in network.named_modules():
        wanted = shapes.get(f"{name}.weight" if name else "weight")
        if wanted is not None and layer._parameters.get("weight") is not None:
            _resize_(layer, tuple(wanted))
    return network


def _is_pair(name: str, layer: nn.Module, shapes: Shapes) -> bool:
    prefix = f"{name}." if name else ""
    own = isinstance(layer, nn.Linear | nn.Conv2d) and f"{prefix}weight" not in shapes
    return own and f"{prefix}0.weight" in shapes


def _pair_of(layer: nn.Linear | nn.Conv2d, name: str, shapes: Shapes) -> nn.Sequential | None:
    """The layer cut in the way that gives the file's shapes; its numbers do not matter."""
    prefix = f"{name}." if name else ""
    wanted = {n[len(prefix) :]: tuple(s) for n, s in shapes.items() if n.startswith(prefix)}
    first = wanted["0.weight"][0]
    third = "2.weight" in wanted
    last, middle = wanted.get("2.weight" if third else "1.weight"), wanted.get("1.weight")
    if last is None or not middle or len(wanted["0.weight"]) < 2:
        return None
    # Its channels may have been cut as well.
    layer = copy.deepcopy(layer)
    _resize_(layer, (last[0], wanted["0.weight"][1], *layer.weight.shape[2:]))
    kinds = CONVOLUTIONS if isinstance(layer, nn.Conv2d) else ("channel",)
    for kind in kinds:
        rank = (first, middle[0]) if third else first
        try:
            built = factored(layer, rank, kind)
        except (ValueError, TypeError):
            continue
        if {n: tuple(t.shape) for n, t in built.state_dict().items()} == wanted:
            return built
    return None


def _resize_(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Other sizes for one layer, in place; its numbers are read afterwards."""
    own = tuple(layer.weight.shape)
    if (
        own == shape
        or len(own) != len(shape)
        or any(a < b for a, b in zip(own, shape, strict=True))
        or own[2:] != shape[2:]
        or not isinstance(layer, CUT)
    ):
        return  # the same, or nothing that a cut could have left: channels are cut, no windows
    trained = layer.weight.requires_grad
    layer.weight = nn.Parameter(layer.weight.new_zeros(shape), trained)
    if getattr(layer, "bias", None) is not None:
        layer.bias = nn.Parameter(layer.bias.new_zeros(shape[0]), layer.bias.requires_grad)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif isinstance(layer, nn.Conv2d):
        if layer.groups > 1 and shape[1] == 1:
            layer.groups = shape[0]
        layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
    elif isinstance(layer, NORMS):
        if hasattr(layer, "num_features"):
            layer.num_features = shape[0]
            for name in ("running_mean", "running_var"):
                if getattr(layer, name, None) is not None:
                    setattr(layer, name, torch.zeros(shape))
        else:
            layer.num_channels = shape[0]
