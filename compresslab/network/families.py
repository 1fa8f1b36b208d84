"""Channels that must be cut alike, found by following a network's graph (torch.fx).

A convolution starts a *family* of channels; norms, activations with f(0) = 0 and poolings pass it on; an
addition joins two; a concatenation puts families side by side; flattening gives every channel several
features. A product is 0 where one factor is, so that gates (squeeze-and-excitation; Hu et al. 2018,
https://arxiv.org/abs/1709.01507, section 3) go with the channels that they multiply. What is not known to
keep a 0 a 0 is an obstacle of the family that reaches it, and named.

Left out: grouped convolutions other than depthwise ones, norms behind a concatenation, attention.
"""

import collections
import operator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import fx, nn

from compresslab.network.graph import limits_of, module_at, norm_of_tokens, trace
from compresslab.network.modules import PerChannel

KEEP_ZERO = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Hardswish, nn.Identity),
    *(nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    *(nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.Upsample),
    *(nn.Dropout1d, nn.AlphaDropout),
)
KEEP_ZERO_CALLS = (F.relu, torch.relu, F.gelu, F.silu, torch.tanh, F.max_pool2d, F.avg_pool2d)
ADDITIONS = (operator.add, operator.iadd, torch.add)
PRODUCTS = (operator.mul, operator.imul, torch.mul)
LIFTS = (nn.Sigmoid, nn.Hardsigmoid)
"""Functions of one number that make something else of a 0: what they give may multiply, and nothing more."""
LIFT_CALLS = (torch.sigmoid, F.sigmoid, F.hardsigmoid)
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
Norm = nn.BatchNorm1d | nn.BatchNorm2d


def _cuts_around_zero(module: nn.Module | None) -> bool:
    limits = limits_of(module)
    return limits is not None and limits[0] <= 0 <= limits[1]


@dataclass(eq=False)
class Family:
    """Channels that are cut alike: the layers that make them, and why they cannot be cut, if so.

    Attributes:
        makers: whose outputs must be silent.
        gates: whose outputs multiply them, and are cut as well, silent or not.
        closed: whether all of them stay, since somebody outside makes or reads them.
        obstacle: what may not keep a 0 a 0; "" if nothing is in the way.
        joined: the family that this one has become a part of.
    """

    makers: list[str] = field(default_factory=list)
    gates: list[str] = field(default_factory=list)
    closed: bool = False
    obstacle: str = ""
    joined: "Family | None" = None

    def found(self) -> "Family":
        """The family that this one has become a part of, or itself."""
        return self if self.joined is None else self.joined.found()


Side = tuple[Family, ...]
"""What a node's channels are: one family, or behind a concatenation several side by side."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        known = isinstance(module, (nn.Conv2d, nn.Linear, *KEEP_ZERO))
        return known or super().is_leaf_module(module, name)


class Families:
    """The families of a network, found by following its graph.

    Attributes:
        norms_behind: the norms right behind a layer, by its name.
        readers: which layer reads which families.
        carriers: norms and depthwise layers, and the families that pass through them.

    Raises:
        TracingError: if the model's forward cannot be followed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = dict(model.named_modules())
        self.norms_behind: dict[str, list[nn.Module]] = {}
        self.of_node: dict[fx.Node, Side] = {}
        self.readers: list[tuple[str, Side]] = []
        self.carriers: list[tuple[str, Side]] = []
        self.last_maker: dict[fx.Node, str] = {}
        self.images: set[fx.Node] = set()
        self.lifted: set[fx.Node] = set()
        nodes = list(trace(model, _Tracer).graph.nodes)
        calls = collections.Counter(str(n.target) for n in nodes if n.op == "call_module")
        self.shared = {name for name, count in calls.items() if count > 1}
        for node in nodes:
            self._visit(node)

    def all(self) -> list[Family]:
        """Each family once, in order of appearance."""
        unique = dict.fromkeys(f.found() for side in self.of_node.values() for f in side)
        return [family for family in unique if family.makers]

    def side(self, node: fx.Node) -> Side:
        """The families of a node's channels."""
        return tuple(family.found() for family in self.of_node[node])

    def _block(self, node: fx.Node, why: str) -> None:
        """No channel of these may be cut: the first reason counts."""
        for family in self.side(node):
            family.obstacle = family.obstacle or why

    def _visit(self, node: fx.Node) -> None:
        sources = [n for n in node.all_input_nodes if n in self.of_node]
        module = module_at(node, self.modules)
        lifted = [source for source in sources if source in self.lifted]
        if len(lifted) == 1 and len(sources) == 2 and node.target in PRODUCTS:
            self._gate(node, next(s for s in sources if s not in lifted), lifted[0])
            return
        for source in lifted:
            self._block(source, _said_of(source, module_at(source, self.modules)))
        if node.op == "placeholder":
            self.of_node[node] = (Family(closed=True),)
        elif node.op == "output":
            for source in sources:
                for family in self.side(source):
                    family.closed = True
        elif isinstance(module, nn.Conv2d | nn.Linear):
            self._layer(node, module, sources[0])
        elif isinstance(module, Norm) and len(sources) == 1:
            self._norm(node, sources[0])
        elif (
            isinstance(module, KEEP_ZERO)
            or _cuts_around_zero(module)
            or node.target in KEEP_ZERO_CALLS
            or self._flattens(node, module)
        ):
            self.of_node[node] = self.side(sources[0])
            if sources[0] in self.images and not self._flattens(node, module):
                self.images.add(node)
        elif node.target in ADDITIONS and len(sources) == 2:
            self._join(node, *sources)
            if any(source in self.images for source in sources):
                self.images.add(node)
        elif isinstance(module, LIFTS) or node.target in LIFT_CALLS:
            self.of_node[node] = self.side(sources[0])
            self.lifted.add(node)
            if sources[0] in self.images:
                self.images.add(node)
        elif self._puts_side_by_side(node, sources):
            parts = [s for s in _concatenated(node) if s in self.of_node]
            self.of_node[node] = tuple(f for part in parts for f in self.side(part))
            self.images.add(node)
        else:
            self._stop(node, module, sources)

    def _puts_side_by_side(self, node: fx.Node, sources: list[fx.Node]) -> bool:
        """Whether a node concatenates the channels of images."""
        if node.target not in CONCATENATIONS or not isinstance(_concatenated(node), tuple | list):
            return False
        axis = node.kwargs.get("dim", node.kwargs.get("axis", (*node.args[1:2], 0)[0]))
        images = all(s in self.images or s.op == "placeholder" for s in sources)
        return images and axis in (1, -3) and any(s in self.images for s in sources)

    def _flattens(self, node: fx.Node, module: nn.Module | None) -> bool:
        """Whether a node makes rows of images: flatten(x, 1)."""
        if isinstance(module, nn.Flatten):
            return module.start_dim == 1 and module.end_dim == -1
        return (node.target is torch.flatten or node.target == "flatten") and node.args[1:] == (1,)

    def _layer(self, node: fx.Node, module: nn.Conv2d | nn.Linear, before: fx.Node) -> None:
        name, groups = str(node.target), getattr(module, "groups", 1)
        twice = f"layer {name!r}, which is used twice," if name in self.shared else ""
        if twice:
            self._block(before, twice)
        if isinstance(module, nn.Conv2d):
            self.images.add(node)
        elif before in self.images:
            # It reads the width of the image, not its channels.
            self._block(before, f"linear layer {name!r} on an image")
        self.last_maker[node] = name
        if groups > 1 and groups == module.in_channels == module.out_channels:
            # A depthwise kernel of a silent channel reads 0; its bias is what must be 0 as well.
            self.carriers.append((name, self.side(before)))
            if module.bias is not None:
                self._block(before, f"depthwise layer {name!r} with a bias")
            self.of_node[node] = self.side(before)
            return
        family = Family(makers=[name], obstacle=twice)
        if groups > 1:
            family.obstacle = f"grouped convolution {name!r}"
            self._block(before, family.obstacle)
        else:
            self.readers.append((name, self.side(before)))
        self.of_node[node] = (family,)

    def _norm(self, node: fx.Node, source: fx.Node) -> None:
        side, name = self.side(source), str(node.target)
        self.of_node[node] = side
        self.carriers.append((name, side))
        maker = self.last_maker.get(source)
        if source in self.images:
            self.images.add(node)
        plain = self.modules[name].affine and name not in self.shared
        only_scales = (
            isinstance(self.modules[name], PerChannel) and not self.modules[name].bias.any()
        )
        if only_scales:
            return  # 0 times a number is 0
        if norm_of_tokens(node):
            self._block(source, f"norm {name!r} of tokens")
        elif maker is None or len(source.users) > 1 or not plain or len(side) > 1:
            # A norm of anything but a layer's own output, or without a shift to set to 0, moves a 0 away.
            self._block(source, f"norm {name!r}")
        elif maker in side[0].makers:
            self.norms_behind.setdefault(maker, []).append(self.modules[name])
        elif side[0].makers:
            self.norms_behind.setdefault(side[0].makers[-1], []).append(self.modules[name])

    def _join(self, node: fx.Node, a: fx.Node, b: fx.Node) -> None:
        ones, others = self.side(a), self.side(b)
        if len(ones) != len(others):
            why = f"addition ({node.name}) to a concatenation"
            self._block(a, why)
            self._block(b, why)
        else:
            for one, other in zip(ones, others, strict=True):
                _merge(one.found(), other.found())
        self.of_node[node] = self.side(a)

    def _gate(self, node: fx.Node, a: fx.Node, gate: fx.Node) -> None:
        """Channels times one number each: where the channel is 0, the product is, whatever the gate says."""
        ones, gates = self.side(a), self.side(gate)
        same = any(one is other for one in ones for other in gates)
        images = all(source in self.images or source.op == "placeholder" for source in (a, gate))
        widths = [[self._width(family) for family in side] for side in (ones, gates)]
        everyone = images and widths[1] == [1] and widths[0] != [1]
        if not same and (everyone or not any(widths[0])):
            # One number for all channels of a place stays, whichever of them go; those of an input stay.
            for family in gates:
                family.closed = True
        elif widths[0] != widths[1] or same or not images or not self._only_here(gate):
            for source in (a, gate):
                self._block(source, _said_of(node, None))
        else:
            for one, other in zip(ones, gates, strict=True):
                if one.makers and other.makers:
                    other.gates, other.makers = other.gates + other.makers, []
                _merge(one, other)
        self.of_node[node] = self.side(a)
        self.images.add(node)

    def _only_here(self, gate: fx.Node) -> bool:
        """Whether nobody else sees a gate's channels, which are not silent."""
        makers, node = self.side(gate)[0].makers, gate
        while len(node.users) == 1 and str(node.target) not in makers:
            sources = [n for n in node.all_input_nodes if n in self.of_node]
            if len(sources) != 1:
                return False
            node = sources[0]
        return len(node.users) == 1 and len(self.side(gate)) == 1

    def _width(self, family: Family) -> int:
        """How many channels it has; 0 where nobody says."""
        names = (*family.makers, *family.gates)
        return len(self.modules[names[0]].weight) if names else 0

    def _stop(self, node: fx.Node, module: nn.Module | None, sources: list[fx.Node]) -> None:
        for source in sources:
            self._block(source, _said_of(node, module))
        self.of_node[node] = (Family(closed=True),)


def _concatenated(node: fx.Node) -> object:
    """What a concatenation puts side by side."""
    return node.args[0] if node.args else node.kwargs.get("tensors")


def _said_of(node: fx.Node, module: nn.Module | None) -> str:
    """An operation and its place."""
    if module is not None:
        return f"{type(module).__name__} ({node.name})"
    return f"{getattr(node.target, '__name__', node.target)} ({node.name})"


def _merge(one: Family, other: Family) -> None:
    """Two families whose channels are added are one."""
    if one is not other:
        one.makers += other.makers
        one.gates += other.gates
        one.closed |= other.closed
        one.obstacle = one.obstacle or other.obstacle
        other.joined = one
