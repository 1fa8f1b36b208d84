"""Channels really removed (结构化剪枝): a smaller network that computes the same.

A channel may go if it is 0 for every input, because then whoever reads it reads nothing. `silence` makes
channels so: it sets a filter, its bias, and gain and shift of the batch norm behind it to 0. `shrink` finds
what is silent and cuts it out of the weights that make it and of the weights that read it.

Which weights those are, the graph says: `network.families` finds the channels that must be cut alike. A
channel of a family goes if all its makers are silent there; gates, which multiply it, need not be.
"""

import torch
from torch import nn

from compresslab.network.edit import plain_copy
from compresslab.network.families import Families, Family, Side
from compresslab.network.select import check_weights
from compresslab.techniques.prune import Mask

Kept = dict[Family, torch.Tensor]


NO_CHANNELS = (
    "no layer but the last has channels that can be cut: 2-d convolutions and linear layers have; Prune and "
    "LowRank take other layers too"
)
"""Why a network cannot be cut at all."""


class SurgeryError(ValueError):
    """A part of the network through which channels cannot be proved silent; names it."""


@torch.no_grad()
def silence(model: nn.Module, keep: dict[str, torch.Tensor]) -> nn.Module:
    """Make channels 0 for every input, in place.

    Args:
        model: the network.
        keep: bool [outputs] for each layer whose outputs are to be cut.

    Raises:
        ValueError: if a mask does not fit its layer.
    """
    check_weights(model)
    families = Families(model)
    gates = {name for family in families.all() for name in family.gates}
    for name, mask in keep.items():
        layer = model.get_submodule(name)
        if mask.dtype != torch.bool or mask.shape != (len(layer.weight),):
            raise ValueError(
                f"keep[{name!r}] must be bool of shape [{len(layer.weight)}], got {mask.dtype} "
                f"{list(mask.shape)}"
            )
        if name in gates:
            continue  # It goes with what it multiplies, or stays as it is.
        for module in (layer, *families.norms_behind.get(name, ())):
            if len(module.weight) != len(mask):
                raise SurgeryError(
                    f"the norm behind {name!r} has {len(module.weight)} channels, the layer {len(mask)} "
                    "outputs: it normalizes something else"
                )
            module.weight[~mask] = 0
            if module.bias is not None:
                module.bias[~mask] = 0
    return model


def channels_of(mask: Mask) -> dict[str, torch.Tensor]:
    """Which outputs a mask of whole rows leaves: bool [outputs] by layer."""
    return {name: keep.flatten(1).any(1) for name, keep in mask.keep.items()}


def shrink(model: nn.Module) -> nn.Module:
    """A copy without the channels that are silent; at least one channel of every layer stays.

    Raises:
        SurgeryError: if a silent channel reaches something that may not keep it 0.
    """
    model = plain_copy(model).eval()
    families = Families(model)
    kept: Kept = {}
    for family in families.all():
        made = [_silent(model, name, families) for name in family.makers]
        if len({len(m) for m in made}) > 1:
            raise SurgeryError(f"{', '.join(family.makers)} are added with different channels")
        silent = torch.stack(made).all(0)
        if family.closed or not family.makers:
            silent[:] = False
        if bool(silent.any()) and family.obstacle:
            raise SurgeryError(
                f"{family.obstacle} may not keep a silent channel of {', '.join(family.makers)} at 0"
            )
        if bool(silent.all()):
            silent[0] = False
        kept[family] = ~silent
    _cut(families, kept)
    return model


@torch.no_grad()
def _silent(model: nn.Module, name: str, families: "Families") -> torch.Tensor:
    """Which outputs of a layer, the norms right behind it included, are 0 for every input."""
    layer = model.get_submodule(name)
    silent = (layer.weight.flatten(1) == 0).all(1)
    if layer.bias is not None:
        silent &= layer.bias == 0
    norms = families.norms_behind.get(name, ())
    # Behind a norm it is gain and shift that count, whatever comes in.
    return torch.stack([(n.weight == 0) & (n.bias == 0) for n in norms]).all(0) if norms else silent


def obstacles_of(model: nn.Module) -> list[str]:
    """Why channels cannot be cut: a line for each kind of obstacle, with the layers that it holds back.

    Raises:
        TracingError: if the model's forward cannot be followed.
    """
    families = Families(model)
    held: dict[str, list[str]] = {}
    for family in families.all():
        if family.obstacle and not family.closed:
            held.setdefault(family.obstacle, []).extend(family.makers)
    return [f"{why} stands behind {', '.join(names)}" for why, names in held.items()]


@torch.no_grad()
def _cut(families: Families, kept: Kept) -> None:
    """Slice every layer by the channels that its families keep."""
    cut = {family for family, keep in kept.items() if not bool(keep.all())}
    for family in cut:
        for name in (*family.makers, *family.gates):
            _slice_outputs(families.modules[name], kept[family])
    for name, side in families.carriers:
        if cut & {f.found() for f in side}:
            keep = _kept_of(side, kept, len(families.modules[name].weight), name)
            _slice_carrier(families.modules[name], keep)
    for name, side in families.readers:
        if cut & {f.found() for f in side}:
            _read_less(families, name, side, kept)


def _read_less(families: Families, name: str, side: Side, kept: Kept) -> None:
    """Slice the inputs of a layer."""
    layer = families.modules[name]
    makers = [m for f in side for m in f.found().makers]
    if isinstance(layer, nn.Linear) and any(f.found() not in kept for f in side):
        raise SurgeryError(f"layer {name!r} reads channels beside others whose number is not known")
    keep = _kept_of(side, kept, layer.weight.shape[1], name)
    linear = any(isinstance(families.modules[m], nn.Linear) for m in makers)
    if linear and layer.weight.shape[1] != len(keep):
        raise SurgeryError(f"layer {name!r} reads more features than {makers} make")
    _slice_inputs(layer, keep)


def _kept_of(side: Side, kept: Kept, width: int, name: str) -> torch.Tensor:
    """Which channels of a node stay; of a part that nobody makes (an input of the network) all do.

    Raises:
        SurgeryError: if several parts are of unknown width.
    """
    parts = [kept.get(family.found()) for family in side]
    known = sum(len(part) for part in parts if part is not None)
    if sum(part is None for part in parts) > 1:
        raise SurgeryError(
            f"layer {name!r} reads several parts whose number of channels is not known"
        )
    rest = torch.ones(max(width - known, 0), dtype=torch.bool)
    return torch.cat([rest if part is None else part for part in parts])


def _slice_outputs(layer: nn.Module, keep: torch.Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight[keep].clone(), layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[keep].clone(), layer.bias.requires_grad)
    _set_size(layer, "out", int(keep.sum()))


def _slice_inputs(layer: nn.Module, keep: torch.Tensor) -> None:
    # Behind a flatten every channel is several neighbouring features.
    repeat = layer.weight.shape[1] // len(keep)
    if repeat * len(keep) != layer.weight.shape[1]:
        raise SurgeryError(
            f"a layer reads {layer.weight.shape[1]} features of {len(keep)} channels"
        )
    wide = keep.repeat_interleave(repeat)
    layer.weight = nn.Parameter(layer.weight[:, wide].clone(), layer.weight.requires_grad)
    _set_size(layer, "in", int(wide.sum()))


def _slice_carrier(module: nn.Module, keep: torch.Tensor) -> None:
    if isinstance(module, nn.Conv2d):
        _slice_outputs(module, keep)
        module.in_channels = module.groups = int(keep.sum())
        return
    module.weight = nn.Parameter(module.weight[keep].clone(), module.weight.requires_grad)
    module.bias = nn.Parameter(module.bias[keep].clone(), module.bias.requires_grad)
    if module.running_mean is not None:
        module.running_mean = module.running_mean[keep]
        module.running_var = module.running_var[keep]
    module.num_features = int(keep.sum())


def _set_size(layer: nn.Conv2d | nn.Linear, side: str, size: int) -> None:
    name = f"{side}_features" if isinstance(layer, nn.Linear) else f"{side}_channels"
    setattr(layer, name, size)
