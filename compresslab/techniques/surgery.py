"""Channels really removed (结构化剪枝): a smaller network that computes the same.

A channel may go if it is 0 for every input, because then whoever reads it reads nothing. `silence` makes
channels so: it sets a filter, its bias, and gain and shift of the batch norm behind it to 0. `shrink` finds
what is silent and cuts it out of the weights that make it and of the weights that read it.

Which weights those are, the graph of the network says (torch.fx). Channels that must be cut alike form a
*family*: a convolution starts one; norms, activations with f(0) = 0 and poolings pass it on; an addition
joins two, so a residual channel goes only if both sides are silent; flattening gives every channel several
features. What is not known to keep a 0 a 0 is refused by name, wherever a family reaches it.

Left out: grouped convolutions other than depthwise ones, concatenation, attention.
"""

import collections
import operator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import fx, nn

from compresslab.network.edit import plain_copy
from compresslab.network.graph import limits_of, module_at, trace
from compresslab.network.select import check_weights
from compresslab.techniques.prune import Mask

KEEP_ZERO = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Hardswish, nn.Identity),
    *(nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    *(nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.Upsample),
    *(nn.Dropout1d, nn.AlphaDropout),
)
KEEP_ZERO_CALLS = (F.relu, torch.relu, F.gelu, F.silu, torch.tanh, F.max_pool2d, F.avg_pool2d)
ADDITIONS = (operator.add, operator.iadd, torch.add)
Norm = nn.BatchNorm1d | nn.BatchNorm2d


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
    families = _Families(model)
    for name, mask in keep.items():
        layer = model.get_submodule(name)
        if mask.dtype != torch.bool or mask.shape != (len(layer.weight),):
            raise ValueError(
                f"keep[{name!r}] must be bool of shape [{len(layer.weight)}], got {mask.dtype} "
                f"{list(mask.shape)}"
            )
        for module in (layer, *families.norms_behind.get(name, ())):
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
    families = _Families(model)
    kept = {}
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
        kept[id(family)] = ~silent
    families.cut(kept)
    return model


@torch.no_grad()
def _silent(model: nn.Module, name: str, families: "_Families") -> torch.Tensor:
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
    families = _Families(model)
    held: dict[str, list[str]] = {}
    for family in families.all():
        if family.obstacle and not family.closed:
            held.setdefault(family.obstacle, []).extend(family.makers)
    return [f"{why} stands behind {', '.join(names)}" for why, names in held.items()]


def _cuts_around_zero(module: nn.Module | None) -> bool:
    limits = limits_of(module)
    return limits is not None and limits[0] <= 0 <= limits[1]


@dataclass(eq=False)
class _Family:
    """Channels that are cut alike: the layers that make them, and why they cannot be cut, if so."""

    makers: list[str] = field(default_factory=list)
    carriers: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    closed: bool = False
    obstacle: str = ""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        known = isinstance(module, (nn.Conv2d, nn.Linear, *KEEP_ZERO))
        return known or super().is_leaf_module(module, name)


class _Families:
    """The families of a network, found by following its graph."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = dict(model.named_modules())
        self.norms_behind: dict[str, list[nn.Module]] = {}
        self.of_node: dict[fx.Node, _Family] = {}
        self.last_maker: dict[fx.Node, str] = {}
        self.images: set[fx.Node] = set()
        nodes = list(trace(model, _Tracer).graph.nodes)
        calls = collections.Counter(str(n.target) for n in nodes if n.op == "call_module")
        self.shared = {name for name, count in calls.items() if count > 1}
        for node in nodes:
            self.visit(node)

    def all(self) -> list[_Family]:
        """Each family once, in order of appearance."""
        unique: dict[int, _Family] = {}
        for family in self.of_node.values():
            unique.setdefault(id(family), family)
        return [f for f in unique.values() if f.makers]

    def visit(self, node: fx.Node) -> None:
        sources = [n for n in node.all_input_nodes if n in self.of_node]
        module = module_at(node, self.modules)
        if node.op == "placeholder":
            self.of_node[node] = _Family(closed=True)
        elif node.op == "output":
            for source in sources:
                self.of_node[source].closed = True
        elif isinstance(module, nn.Conv2d | nn.Linear):
            self.layer(node, module, sources[0])
        elif isinstance(module, Norm) and len(sources) == 1:
            self.norm(node, sources[0])
        elif (
            isinstance(module, KEEP_ZERO)
            or _cuts_around_zero(module)
            or node.target in KEEP_ZERO_CALLS
            or self.flattens(node, module)
        ):
            self.of_node[node] = self.of_node[sources[0]]
            if sources[0] in self.images and not self.flattens(node, module):
                self.images.add(node)
        elif node.target in ADDITIONS and len(sources) == 2:
            self.join(node, *sources)
            if any(source in self.images for source in sources):
                self.images.add(node)
        else:
            self.stop(node, module, sources)

    def flattens(self, node: fx.Node, module: nn.Module | None) -> bool:
        """Whether a node makes rows of images: flatten(x, 1)."""
        if isinstance(module, nn.Flatten):
            return module.start_dim == 1 and module.end_dim == -1
        return (node.target is torch.flatten or node.target == "flatten") and node.args[1:] == (1,)

    def layer(self, node: fx.Node, module: nn.Conv2d | nn.Linear, before: fx.Node) -> None:
        name, source = str(node.target), self.of_node[before]
        groups = getattr(module, "groups", 1)
        twice = f"layer {name!r}, which is used twice," if name in self.shared else ""
        source.obstacle = source.obstacle or twice
        if isinstance(module, nn.Conv2d):
            self.images.add(node)
        elif before in self.images:
            # It reads the width of the image, not its channels.
            source.obstacle = source.obstacle or f"linear layer {name!r} on an image"
        if groups > 1 and groups == module.in_channels == module.out_channels:
            # A depthwise kernel of a silent channel reads 0; its bias is what must be 0 as well.
            source.carriers.append(name)
            if module.bias is not None:
                source.obstacle = source.obstacle or f"depthwise layer {name!r} with a bias"
            self.of_node[node] = source
            self.last_maker[node] = name
            return
        if groups > 1:
            source.obstacle = source.obstacle or f"grouped convolution {name!r}"
        family = _Family(makers=[name], obstacle=twice)
        if groups > 1:
            family.obstacle = f"grouped convolution {name!r}"
        else:
            source.readers.append(name)
        self.of_node[node] = family
        self.last_maker[node] = name

    def norm(self, node: fx.Node, source: fx.Node) -> None:
        family, name = self.of_node[source], str(node.target)
        self.of_node[node] = family
        family.carriers.append(name)
        maker = self.last_maker.get(source)
        if source in self.images:
            self.images.add(node)
        plain = self.modules[name].affine and name not in self.shared
        if maker is None or len(source.users) > 1 or not plain:
            # A norm of anything but a layer's own output, or without a shift to set to 0, moves a 0 away.
            family.obstacle = family.obstacle or f"norm {name!r}"
        elif maker in family.makers:
            self.norms_behind.setdefault(maker, []).append(self.modules[name])
        else:
            self.norms_behind.setdefault(family.makers[-1], []).append(self.modules[name])

    def join(self, node: fx.Node, a: fx.Node, b: fx.Node) -> None:
        one, other = self.of_node[a], self.of_node[b]
        if one is not other:
            one.makers += other.makers
            one.carriers += other.carriers
            one.readers += other.readers
            one.closed |= other.closed
            one.obstacle = one.obstacle or other.obstacle
            for known, family in self.of_node.items():
                if family is other:
                    self.of_node[known] = one
        self.of_node[node] = one

    def stop(self, node: fx.Node, module: nn.Module | None, sources: list[fx.Node]) -> None:
        what = (
            type(module).__name__
            if module is not None
            else getattr(node.target, "__name__", node.target)
        )
        family = _Family(closed=True)
        for source in sources:
            self.of_node[source].obstacle = self.of_node[source].obstacle or f"{what} ({node.name})"
        self.of_node[node] = family

    @torch.no_grad()
    def cut(self, kept: dict[int, torch.Tensor]) -> None:
        """Slice every layer by the channels that its families keep."""
        for family in self.all():
            keep = kept[id(family)]
            if bool(keep.all()):
                continue
            for name in family.makers:
                self.slice_outputs(self.modules[name], keep)
            for name in family.carriers:
                self.slice_carrier(self.modules[name], keep)
            linear = any(isinstance(self.modules[name], nn.Linear) for name in family.makers)
            for name in family.readers:
                if linear and self.modules[name].weight.shape[1] != len(keep):
                    raise SurgeryError(
                        f"layer {name!r} reads more features than {family.makers} make"
                    )
                self.slice_inputs(self.modules[name], keep)

    def slice_outputs(self, layer: nn.Module, keep: torch.Tensor) -> None:
        layer.weight = nn.Parameter(layer.weight[keep].clone(), layer.weight.requires_grad)
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias[keep].clone(), layer.bias.requires_grad)
        _set_size(layer, "out", int(keep.sum()))

    def slice_inputs(self, layer: nn.Module, keep: torch.Tensor) -> None:
        # Behind a flatten every channel is several neighbouring features.
        repeat = layer.weight.shape[1] // len(keep)
        if repeat * len(keep) != layer.weight.shape[1]:
            raise SurgeryError(
                f"a layer reads {layer.weight.shape[1]} features of {len(keep)} channels"
            )
        wide = keep.repeat_interleave(repeat)
        layer.weight = nn.Parameter(layer.weight[:, wide].clone(), layer.weight.requires_grad)
        _set_size(layer, "in", int(wide.sum()))

    def slice_carrier(self, module: nn.Module, keep: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            self.slice_outputs(module, keep)
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
