"""The normal form of a network's graph: every known operation is one module, however it was spelled.

    as people write it                                      in normal form
    F.relu(x), x.relu(), torch.relu(x), x.clamp(min=0)      nn.ReLU
    F.relu6(x), x.clamp(0, 6), F.hardtanh(x, 0, 6)          nn.Hardtanh
    x.view(x.size(0), -1), torch.flatten(x, 1), x.reshape   nn.Flatten
    x.mean((2, 3)), F.adaptive_avg_pool2d(x, 1)             nn.AdaptiveAvgPool2d(1), and nn.Flatten
    F.max_pool2d, F.avg_pool2d, F.interpolate, F.pad        the module of that name
    F.conv2d(x, self.weight), a subclass's own forward      nn.Conv2d on the same parameter; so nn.Linear
    F.dropout(x, p, self.training)                          nn.Dropout
    padding="same", padding that differs by side or mode    a padding module, and a convolution without
    ConvTranspose2d                                         zeros between the pixels, and a convolution
    AdaptiveAvgPool2d(7) on 14 x 14 pixels                  nn.AvgPool2d(2)
    x * 0.5 + 1, 1 - x                                      Affine
    a slice, a part of a split, a shuffle of channels       Select
    F.relu(F.max_pool2d(x, 2))                              the ReLU first, with its layer
    a + b, a * b, torch.cat([a, b], 1)                      operator.add, operator.mul, torch.cat

So whoever reads the graph (quantizers, converters, exporters) knows modules and three functions. A graph
comes from torch.fx; where that cannot follow a forward (Hugging Face's networks), from torch.export with an
example. Reshapes mean what the example's shapes say, and the form is held against the network on the example:
a rule that is wrong is an error here, never another answer later.

Left out: whatever has no rule stays as it is, for the reader to refuse by name.
"""

import copy
import operator
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from compresslab.network.edit import plain_copy
from compresslab.network.graph import TracingError, limits_of, module_at, trace
from compresslab.network.modules import (
    Affine,
    ChannelsFirst,
    ChannelsLast,
    Scale,
    Select,
    Spread,
    parameter,
)
from compresslab.network.spellings import SIMPLE

ADD = ("add", "iadd", "add_")
MULTIPLY = ("mul", "imul", "mul_", "multiply")
SUBTRACT = ("sub", "isub", "sub_", "subtract", "rsub")
DIVIDE = ("truediv", "itruediv", "div", "div_", "divide")
RESHAPES = (
    *("view", "reshape", "flatten", "squeeze", "squeeze_", "_unsafe_view", "unflatten"),
    *("unsqueeze", "unsqueeze_"),
)
COPIES = ("contiguous", "clone", "detach", "detach_", "alias", "lift_fresh_copy")
CLOSE = 1e-3
"""The share of the outputs' range by which the normal form may differ on the example: float rounding."""


def normal_form(model: nn.Module, example: torch.Tensor | None = None) -> fx.GraphModule:
    """A copy of the network in evaluation mode, as a graph in normal form.

    Args:
        model: any network; not changed.
        example: a batch that the network takes; with it reshapes are understood, networks that torch.fx
            cannot follow are tried by torch.export, and the form is held against the network.

    Raises:
        TracingError: if neither can follow the forward.
        ValueError: for a dropout that is active in evaluation, layers that compute their weights, or a form
            that answers otherwise than the network.
    """
    model = plain_copy(model).eval()
    example = None if example is None else _three(example)
    try:
        traced = trace(model)
        _with_shapes(traced, example)
    except TracingError as error:
        if example is None:
            raise
        traced = _exported(model, example, error)
        _with_shapes(traced, example)
    if example is not None:
        with torch.no_grad():
            wanted = flat_outputs(model(example))
    _Writer(traced).run()
    if example is not None:
        _prove(traced, example, wanted)
    return traced


def _with_shapes(traced: fx.GraphModule, example: torch.Tensor | None) -> None:
    """Note at every node the shape of its result on the example."""
    if example is None:
        return
    try:
        with torch.no_grad():
            ShapeProp(traced).propagate(example)
    except Exception as error:  # an input that is None, say, and is used all the same
        raise TracingError(f"the graph does not run on the example: {error}") from error


def _three(example: torch.Tensor) -> torch.Tensor:
    """A batch of three, a size that hardly any axis has: so that the batch's axis is known by its size.

    Floats are three different ones: what mixes examples would not show on equal ones.
    """
    if len(example) == 0:
        raise ValueError("example must hold at least one example, got 0")
    batch = example[:1].expand(3, *example.shape[1:]).contiguous()
    if not batch.is_floating_point() or batch.ndim == 1:
        return batch
    return batch * batch.new_tensor([1.0, 0.75, 0.5]).reshape(3, *[1] * (batch.ndim - 1))


def flat_outputs(output: object) -> torch.Tensor:
    """All tensors of an output as rows, [b, n]: what two networks that answer alike are compared by.

    Raises:
        ValueError: for tensors that do not all have the examples as their first axis.
    """
    if isinstance(output, torch.Tensor):
        return output.flatten(1) if output.ndim else output.reshape(1, 1)
    values = output.values() if hasattr(output, "values") else output
    rows = [flat_outputs(v) for v in values if v is not None]
    if len({len(r) for r in rows}) != 1:
        shapes = ", ".join(str(list(v.shape)) for v in values if isinstance(v, torch.Tensor))
        raise ValueError(
            f"a network's outputs must all have the examples as their first axis, got {shapes}: wrap it in a "
            "module that returns the one that counts"
        )
    return torch.cat(rows, 1)


def _exported(model: nn.Module, example: torch.Tensor, reason: TracingError) -> fx.GraphModule:
    try:
        with torch.no_grad():
            found = torch.export.export(model, (example,), strict=False).module()
    except Exception as error:  # torch.export's errors have no common class
        raise TracingError(f"{reason}; torch.export could not either: {error}") from error
    # Without export's own calling convention (pytrees, guards): plain tensors in, a tuple out.
    graph = fx.Graph()
    graph.output(graph.graph_copy(found.graph, {}))
    for node in reversed(graph.nodes):
        if node.op == "call_module" and not node.users:
            graph.erase_node(node)  # export's check of its example
    return fx.GraphModule(found, graph, type(model).__name__).eval()


def _prove(traced: fx.GraphModule, example: torch.Tensor, wanted: torch.Tensor) -> None:
    if wanted.is_meta:  # shapes without numbers
        return
    try:
        with torch.no_grad():
            found = flat_outputs(traced(example))
    except Exception as error:  # a form that does not even run
        if not example.is_floating_point():
            raise ValueError(
                "model looks up words and computes with integers besides, which no graph of layers follows: "
                "its linear layers can have int8 inputs by Dynamic() or packed weights by Weights()"
            ) from error
        raise ValueError(f"model cannot be written as a graph: {error}") from error
    numbers = wanted[wanted.isfinite()]
    reach = float(numbers.max() - numbers.min()) if numbers.numel() else 0.0
    if found.shape != wanted.shape or not torch.allclose(
        found, wanted, rtol=1e-3, atol=CLOSE * reach + 1e-6, equal_nan=True
    ):
        raise ValueError(
            "model answers otherwise when it is written as a graph: does its forward depend on the size of "
            "the batch or on state that it keeps?"
        )


DROPOUTS = (
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "dropout_",
    "feature_dropout",
)


def name_of(node: fx.Node) -> str:
    """The operation of a call, without its overload: `conv2d` for torch.conv2d and aten.conv2d.default."""
    if node.op not in ("call_function", "call_method"):
        return ""
    name = node.target if isinstance(node.target, str) else node.target.__name__
    return name.partition(".")[0]


def shape_of(value: object) -> tuple[int, ...] | None:
    """The shape that a node's result had on the example; None without one."""
    found = value.meta.get("tensor_meta") if isinstance(value, fx.Node) else None
    return tuple(found.shape) if hasattr(found, "shape") else None


# ---- writing -----------------------------------------------------------------------------------------
class _Writer:
    """Rewrites a graph in place, node by node."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced, self.graph = traced, traced.graph
        self.modules = dict(traced.named_modules(remove_duplicate=False))
        self.placed: set[str] = set()

    def run(self) -> None:
        for node in list(self.graph.nodes):
            self.visit(node)
        self.cuts_before_pooling()
        self.graph.eliminate_dead_code()
        for node in list(self.graph.nodes):
            if node.op == "placeholder" and not node.users and len(self.inputs()) > 1:
                self.graph.erase_node(node)
        self.one_output()
        self.graph.lint()
        self.traced.delete_all_unused_submodules()
        self.traced.recompile()

    def cuts_before_pooling(self) -> None:
        """max(cut(x)) = cut(max(x)): a cut behind a max pooling moves to the layer in front of it."""
        for node in list(self.graph.nodes):
            cut = module_at(node, self.modules)
            pool = node.args[0] if limits_of(cut) is not None else None
            if pool is None or len(pool.users) > 1:
                continue
            if isinstance(module_at(pool, self.modules), nn.MaxPool2d):
                source = pool.args[0]
                with self.graph.inserting_before(pool):
                    moved = self.graph.call_module(str(node.target), (source,))
                pool.args = (moved,)
                self.swap(node, pool)

    def inputs(self) -> list[fx.Node]:
        return [n for n in self.graph.nodes if n.op == "placeholder"]

    def one_output(self) -> None:
        """A tuple, list or dictionary that holds one tensor is that tensor."""
        last = next(n for n in reversed(self.graph.nodes) if n.op == "output")
        found = last.args[0]
        while isinstance(found, tuple | list | dict) and len(found) == 1:
            found = next(iter(found.values())) if isinstance(found, dict) else found[0]
        last.args = (found,)

    # -- how nodes are replaced
    def put(self, node: fx.Node, module: nn.Module, source: fx.Node, owner: str = "") -> fx.Node:
        """A call of a new module on `source` in front of the node, named after it or within its owner."""
        name = owner if owner and self.only_numbers(owner) else ""
        # Beside a layer that took its owner's name: what stands inside of it would go when it is replaced.
        between = "_" if owner in self.placed else "."
        base = f"{owner}{between}{name_of(node)}" if owner else node.name
        count = 1
        while not name or (name in self.modules and name != owner):
            name = base if count == 1 else f"{base}_{count - 1}"
            count += 1
        self.placed.add(name)
        module.train(self.traced.training)
        self.traced.add_submodule(name, module)
        self.modules[name] = module
        with self.graph.inserting_before(node):
            made = self.graph.call_module(name, (source,))
        made.meta = dict(node.meta)
        return made

    def only_numbers(self, owner: str) -> bool:
        """Whether a module holds a layer's parameters and nothing else: the layer then takes its name."""
        module = self.modules.get(owner)
        return module is not None and owner not in self.placed and not list(module.children())

    def swap(self, node: fx.Node, other: fx.Node) -> None:
        """Whoever read the node reads the other one."""
        node.replace_all_uses_with(other)
        self.graph.erase_node(node)

    def becomes(self, node: fx.Node, *modules: nn.Module, source: fx.Node | None = None) -> None:
        """One module after another in the place of a node."""
        at = node.args[0] if source is None else source
        for module in modules:
            at = self.put(node, module, at)
        self.swap(node, at)

    # -- what is read
    def tensor(self, value: object) -> torch.Tensor | None:
        """The parameter or buffer that a node gets; None if it gets none."""
        if not isinstance(value, fx.Node) or value.op != "get_attr":
            return None
        found: object = self.traced
        for part in str(value.target).split("."):
            found = getattr(found, part)
        return found if isinstance(found, torch.Tensor) else None

    def constant(self, value: object) -> object:
        """A size that was read from a tensor as the number that the example had, but for the batch's."""
        if isinstance(value, list | tuple):
            return type(value)(self.constant(v) for v in value)
        if not isinstance(value, fx.Node):
            return value
        name = name_of(value)
        if name == "size" or (name == "getattr" and value.args[1] == "shape"):
            shape = shape_of(value.args[0])
            if shape is None:
                return value
            return shape[value.args[1]] if name == "size" and len(value.args) > 1 else shape
        if name == "getitem" and not isinstance(value.args[1], fx.Node):
            found = self.constant(value.args[0])
            return found[value.args[1]] if isinstance(found, tuple) else value
        if name in ("mul", "floordiv", "add", "sub") and len(value.args) == 2:
            a, b = (self.constant(v) for v in value.args)
            if isinstance(a, int) and isinstance(b, int):
                return getattr(operator, name)(a, b)
        return value

    def visit(self, node: fx.Node) -> None:
        name, module = name_of(node), module_at(node, self.modules)
        if module is not None:
            self.module(node, module)
        elif not name:
            return
        elif name in SIMPLE and isinstance(node.args[0] if node.args else None, fx.Node):
            self.simple(node, name)
        elif name in DROPOUTS:
            self.dropout(node, name)
        elif name in ("conv2d", "linear", "batch_norm", "prelu", "conv_transpose2d"):
            getattr(self, name)(node)
        elif name in ("layer_norm", "group_norm"):
            self.float_norm(node, name)
        elif name in ADD + MULTIPLY + SUBTRACT + DIVIDE + ("neg",):
            self.arithmetic(node, name)
        elif name in ("cat", "concat", "concatenate"):
            self.concatenation(node)
        elif name == "mean":
            self.mean(node)
        elif name == "pow" and node.args[1:] == (2,):
            self.function(node, operator.mul, node.args[0], node.args[0])
        elif name in ("permute", "transpose", "transpose_") and self.permuted(node):
            pass
        elif name in ("getitem", "slice", "chunk", "split", "split_with_sizes"):
            self.part(node, name)
        elif name in COPIES or (name in ("to", "float", "_to_copy", "type_as") and self.same(node)):
            self.swap(node, node.args[0])
        else:
            self.reshape(node, name)

    def same(self, node: fx.Node) -> bool:
        """Whether a conversion changes nothing, as far as the example shows."""
        one, other = (n.meta.get("tensor_meta") for n in (node, node.args[0]))
        return one is not None and other is not None and one.dtype == other.dtype

    def simple(self, node: fx.Node, name: str) -> None:
        arguments = [self.constant(a) for a in node.args[1:]]
        named = {key: self.constant(a) for key, a in node.kwargs.items()}
        if any(isinstance(a, fx.Node) for a in (*arguments, *named.values())):
            return
        try:
            module = SIMPLE[name](*arguments, **named)
        except (TypeError, ValueError):
            return
        if module is not None:
            at = self.put(node, module, node.args[0])
            self.swap(node, at)
            self.module(at, module)

    def dropout(self, node: fx.Node, name: str) -> None:
        given = dict(zip(("p", "training"), node.args[1:], strict=False)) | dict(node.kwargs)
        training = given.get("training", given.get("train", True))
        if training:
            raise ValueError(
                f"node {node.name!r} is a dropout that is active in evaluation, too: give it "
                "training=self.training, or use nn.Dropout"
            )
        kind = nn.Dropout2d if name == "dropout2d" else nn.Dropout
        self.becomes(node, kind(float(given.get("p", 0.5))))

    # -- layers that are called as functions, on parameters of somebody's own
    def owned(self, node: fx.Node, names: Sequence[str], skip: int = 1) -> dict[str, object]:
        """Arguments by name, parameters as themselves."""
        given = dict(zip(names, node.args[skip:], strict=False)) | dict(node.kwargs)
        return {k: v if self.tensor(v) is None else self.tensor(v) for k, v in given.items()}

    def owner(self, value: object) -> str:
        return str(value.target).rpartition(".")[0] if isinstance(value, fx.Node) else ""

    def conv2d(self, node: fx.Node) -> None:
        names = ("weight", "bias", "stride", "padding", "dilation", "groups")
        given = self.owned(node, names)
        weight = given.pop("weight")
        bias = given.pop("bias", None)
        if not isinstance(weight, torch.Tensor) or isinstance(bias, fx.Node):
            return
        outputs, inputs, *kernel = weight.shape
        groups = given.get("groups", 1)
        window = {
            k: v if isinstance(v, str) else pair(v) for k, v in given.items() if k != "groups"
        }
        with torch.device("meta"):
            layer = nn.Conv2d(
                inputs * groups,
                outputs,
                tuple(kernel),
                groups=groups,
                bias=bias is not None,
                **window,
            )
        self.with_parameters(node, layer, weight, bias)

    def linear(self, node: fx.Node) -> None:
        given = self.owned(node, ("weight", "bias"))
        weight, bias = given["weight"], given.get("bias")
        if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or isinstance(bias, fx.Node):
            return
        outputs, inputs = weight.shape
        with torch.device("meta"):
            layer = nn.Linear(inputs, outputs, bias=bias is not None)
        self.with_parameters(node, layer, weight, bias)

    def with_parameters(
        self, node: fx.Node, layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        layer.weight, layer.bias = parameter(weight), None if bias is None else parameter(bias)
        weight_node = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
        at = self.put(node, layer, node.args[0], self.owner(weight_node))
        self.swap(node, at)
        self.module(at, layer)

    def batch_norm(self, node: fx.Node) -> None:
        functional = (
            "running_mean",
            "running_var",
            "weight",
            "bias",
            "training",
            "momentum",
            "eps",
        )
        aten = ("weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
        given = self.owned(node, functional if node.target is F.batch_norm else aten)
        mean, variance = given["running_mean"], given["running_var"]
        if not isinstance(mean, torch.Tensor) or given.get("training"):
            return
        kind = nn.BatchNorm1d if len(shape_of(node) or ()) == 2 else nn.BatchNorm2d
        weight, bias = given.get("weight"), given.get("bias")
        norm = kind(len(mean), given.get("eps", 1e-5), affine=weight is not None)
        norm.running_mean, norm.running_var = mean, variance
        if weight is not None:
            norm.weight = parameter(weight)
            norm.bias = parameter(torch.zeros_like(weight) if bias is None else bias)
        source = node.args[1] if len(node.args) > 1 else None
        self.swap(node, self.put(node, norm, node.args[0], self.owner(source)))

    def float_norm(self, node: fx.Node, name: str) -> None:
        first = "normalized_shape" if name == "layer_norm" else "num_groups"
        given = self.owned(node, (first, "weight", "bias", "eps"))
        weight, bias = given.get("weight"), given.get("bias")
        eps = given.get("eps", 1e-5)
        if name == "layer_norm":
            norm = nn.LayerNorm(tuple(given[first]), eps, weight is not None)
        elif shape_of(node) is None and weight is None:
            return
        else:
            channels = len(weight) if weight is not None else shape_of(node)[1]
            norm = nn.GroupNorm(given[first], channels, eps, weight is not None)
        if weight is not None:
            norm.weight = parameter(weight)
            norm.bias = parameter(torch.zeros_like(weight) if bias is None else bias)
        self.becomes(node, norm)

    def prelu(self, node: fx.Node) -> None:
        weight = self.tensor(node.args[1])
        if weight is not None:
            layer = nn.PReLU(weight.numel())
            layer.weight = parameter(weight)
            self.becomes(node, layer)

    def conv_transpose2d(self, node: fx.Node) -> None:
        names = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
        given = self.owned(node, names)
        weight, bias = given.pop("weight"), given.pop("bias", None)
        if not isinstance(weight, torch.Tensor) or isinstance(bias, fx.Node):
            return
        groups = given.pop("groups", 1)
        inputs, outputs, *kernel = weight.shape
        window = {k: pair(v) for k, v in given.items()}
        with torch.device("meta"):
            layer = nn.ConvTranspose2d(
                inputs,
                outputs * groups,
                tuple(kernel),
                groups=groups,
                bias=bias is not None,
                **window,
            )
        self.with_parameters(node, layer, weight, bias)

    # -- arithmetic
    def arithmetic(self, node: fx.Node, name: str) -> None:
        if name == "neg":
            self.becomes(node, Affine(-1))
            return
        if len(node.args) != 2 or set(node.kwargs) - {"alpha"}:
            return
        a, b = node.args if name != "rsub" else reversed(node.args)
        alpha = node.kwargs.get("alpha", 1)
        if not isinstance(alpha, int | float):
            return
        if isinstance(b, int | float):
            self.with_number(node, name, a, alpha * b if name not in MULTIPLY + DIVIDE else b)
        elif isinstance(a, int | float):
            self.number_with(node, name, a, b, alpha)
        elif self.tensor(b) is not None or self.tensor(a) is not None:
            self.with_buffer(node, name, a, b)
        elif name in ADD or name in SUBTRACT:
            factor = alpha if name in ADD else -alpha
            if factor != 1:
                b = self.put(node, Affine(factor), b)
            self.function(node, operator.add, a, b)
        elif name in MULTIPLY:
            self.function(node, operator.mul, a, b)

    def with_number(self, node: fx.Node, name: str, a: fx.Node, b: float) -> None:
        if isinstance(a, fx.Node) and isinstance(b, bool) is False:
            if name in ADD + SUBTRACT:
                self.becomes(node, Affine(1, b if name in ADD else -b), source=a)
            elif b != 0:
                self.becomes(node, Affine(b if name in MULTIPLY else 1 / b), source=a)

    def number_with(self, node: fx.Node, name: str, a: float, b: fx.Node, alpha: float) -> None:
        if name in ADD:
            self.becomes(node, Affine(alpha, a), source=b)
        elif name in SUBTRACT:
            self.becomes(node, Affine(-alpha, a), source=b)
        elif name in MULTIPLY:
            self.becomes(node, Affine(a), source=b)

    def with_buffer(self, node: fx.Node, name: str, a: object, b: object) -> None:
        """A number per channel, such as the mean and sd that images are normalised with, is a norm."""
        held = self.tensor(b) if self.tensor(b) is not None else self.tensor(a)
        source, shape = a if self.tensor(b) is not None else b, shape_of(node)
        turned = self.tensor(b) is None
        if held.numel() == 1 and not held.requires_grad:
            number = float(held)
            done = self.number_with if turned else self.with_number
            arguments = (number, source, 1) if turned else (source, number)
            done(node, name, *arguments)
            return
        wide = held.reshape(-1)
        last = shape is not None and held.ndim == 1 and len(wide) == shape[-1]
        if last and name in MULTIPLY and not node.kwargs:
            self.becomes(node, Scale(held), source=source)
            return
        per_channel = (
            shape is not None
            and len(shape) == 4
            and held.numel() == shape[1]
            and held.ndim >= 3
            and held.shape[-2:] == (1, 1)
        )
        if not per_channel or node.kwargs or (turned and name in SUBTRACT + DIVIDE):
            return
        norm = nn.BatchNorm2d(len(wide), eps=0.0)
        gain, shift = torch.ones_like(wide), torch.zeros_like(wide)
        gain = wide if name in MULTIPLY else 1 / wide if name in DIVIDE else gain
        shift = wide if name in ADD else -wide if name in SUBTRACT else shift
        norm.weight, norm.bias = nn.Parameter(gain.detach()), nn.Parameter(shift.detach())
        self.becomes(node, norm, source=source)

    def function(self, node: fx.Node, target: Callable, *arguments: object) -> None:
        with self.graph.inserting_before(node):
            made = self.graph.create_node("call_function", target, arguments, {}, node.name)
        made.meta = dict(node.meta)
        name = node.name
        self.swap(node, made)
        made.name = name

    def concatenation(self, node: fx.Node) -> None:
        given = dict(zip(("tensors", "dim"), node.args, strict=False)) | dict(node.kwargs)
        parts = list(given.get("tensors", ()))
        dim, shape = given.get("dim", given.get("axis", 0)), shape_of(node)
        dim = dim % len(shape) if shape and isinstance(dim, int) else dim
        channels = shape is None or len(shape) in (2, 4)
        if channels and all(isinstance(p, fx.Node) for p in parts) and dim == 1:
            self.function(node, torch.cat, parts, 1)

    # -- shapes
    def mean(self, node: fx.Node) -> None:
        given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | dict(node.kwargs)
        dims, shape = given.get("dim", given.get("axis")), shape_of(node.args[0])
        dims = [dims] if isinstance(dims, int) else dims
        if not isinstance(dims, list | tuple):
            return
        rank = len(shape) if shape else 4
        if sorted(d % rank for d in dims) == [2, 3] and rank == 4:
            modules = [nn.AdaptiveAvgPool2d(1), *([] if given.get("keepdim") else [nn.Flatten()])]
            self.becomes(node, *modules)

    def reshape(self, node: fx.Node, name: str) -> None:
        """What flattens an image is nn.Flatten; what moves nothing is nothing."""
        if name not in RESHAPES or not node.args or not isinstance(node.args[0], fx.Node):
            return
        if self.tensor(node.args[0]) is not None:
            self.fold(node)
            return
        if self.shuffles(node):
            return
        before, after = shape_of(node.args[0]), shape_of(node)
        if before is None or after is None:
            if (name == "flatten" and self.flattens(node)) or (
                name in ("view", "reshape") and self.by_batch(node)
            ):
                self.becomes(node, nn.Flatten())
            return
        if before == after:
            self.swap(node, node.args[0])
        elif len(after) == 2 and after[0] == before[0] == 3:
            self.becomes(node, nn.Flatten())
        elif len(before) == 2 and len(after) == 4 and after[0] == before[0] == 3:
            self.becomes(node, nn.Unflatten(1, after[1:]))
        elif self.is_pixel(node, before, after):
            # One number per channel, with or without axes of one pixel.
            pixel = len(after) == 4
            self.becomes(node, nn.Unflatten(1, after[1:]) if pixel else nn.Flatten())

    def is_pixel(self, node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
        """Whether axes of length 1 come or go; three axes only on the way to two or four."""
        if before[0] != 3 or _channels(before) is None or _channels(before) != _channels(after):
            return False
        on_the_way = (
            name_of(user) in RESHAPES and len(shape_of(user) or ()) in (2, 4) for user in node.users
        )
        return len(after) != 3 or all(on_the_way)

    def fold(self, node: fx.Node) -> None:
        """A reshape of a parameter is a parameter."""
        held = self.tensor(node.args[0])
        with torch.no_grad():
            given = (held, *node.args[1:])
            found = (
                getattr(held, str(node.target))(*node.args[1:], **node.kwargs)
                if node.op == "call_method"
                else node.target(*given, **node.kwargs)
            )
        name = f"{node.name}_folded"
        self.traced.register_buffer(name, found.detach().clone())
        with self.graph.inserting_before(node):
            made = self.graph.get_attr(name)
        made.meta = dict(node.meta)
        self.swap(node, made)

    def shuffles(self, node: fx.Node) -> bool:
        """Channels in groups, groups and members exchanged, and back: one `Select`."""
        turn = node.args[0]
        if name_of(turn) in COPIES:
            turn = turn.args[0]
        split = turn.args[0] if turn.args and isinstance(turn.args[0], fx.Node) else None
        if name_of(turn) not in ("transpose", "permute") or name_of(split or turn) not in RESHAPES:
            return False
        source = split.args[0]
        before, groups, turned, after = map(shape_of, (source, split, turn, node))
        wanted = None not in (before, groups, turned, after) and len(groups) == 5
        if not wanted or before != after or len(before) != 4:
            return False
        if turned != (groups[0], groups[2], groups[1], *groups[3:]) or groups[3:] != before[2:]:
            return False
        places = torch.arange(before[1]).reshape(groups[1], groups[2]).T.reshape(-1).tolist()
        self.becomes(node, Select(places), source=source)
        return True

    def permuted(self, node: fx.Node) -> bool:
        """Channels to the end, or back to their place."""
        before, after = shape_of(node.args[0]), shape_of(node)
        if before is None or len(before) != 4 or name_of(node) != "permute":
            return False
        order = node.args[1:] if len(node.args) > 2 else node.args[1]
        order = [d % 4 for d in order]
        kinds = {(0, 2, 3, 1): ChannelsLast, (0, 3, 1, 2): ChannelsFirst}
        kind = kinds.get(tuple(order))
        if kind is None or after is None:
            return False
        self.becomes(node, kind())
        return True

    def part(self, node: fx.Node, name: str) -> None:
        """Some of the channels: x[:, a:b], a part of torch.chunk or split, x[:, :, None, None]."""
        source = node.args[0]
        before, after = shape_of(source), shape_of(node)
        if name in ("chunk", "split", "split_with_sizes", "slice"):
            self.slices(node, name)
        elif before is not None and after is not None:
            index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
            full = [i == slice(None) for i in index]
            if full[:2] == [True, True] and _channels(before) == _channels(after) is not None:
                self.reshape(node, "squeeze")
            elif None in index and all(f or i is None for f, i in zip(full, index, strict=True)):
                self.reshape(node, "unsqueeze")
            elif (
                len(before) in (2, 4)
                and len(index) > 1
                and isinstance(index[1], slice)
                and full[0]
                and all(full[2:])
            ):
                self.becomes(node, Select(range(*index[1].indices(before[1]))))

    def slices(self, node: fx.Node, name: str) -> None:
        source = node.args[0]
        before = shape_of(source)
        if before is None:
            return
        if name == "slice":
            given = node.args[1:4]
            dim, start, end = (*given, *(0, 0, None)[len(given) :])
            if dim == 1 and not node.kwargs and len(node.args) < 5 and len(before) in (2, 4):
                self.becomes(node, Select(range(*slice(start, end).indices(before[1]))))
            elif shape_of(node) == before:
                self.swap(node, source)
            return
        given = dict(zip(("size", "dim"), node.args[1:], strict=False)) | dict(node.kwargs)
        dim = given.get("dim", 0)
        size = given.get("size", given.get("chunks", given.get("split_size_or_sections")))
        if dim != 1 or len(before) not in (2, 4) or not isinstance(size, int | list | tuple):
            return  # of tokens [b, length, width] the second axis holds no channels
        places = torch.arange(before[1])
        parts = torch.chunk(places, size) if name == "chunk" else torch.split(places, size)
        for user in list(node.users):
            if name_of(user) != "getitem" or not isinstance(user.args[1], int):
                return
            at = self.put(user, Select(parts[user.args[1]].tolist()), source)
            self.swap(user, at)

    def flattens(self, node: fx.Node) -> bool:
        given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
        return given.get("start_dim", 0) == 1 and given.get("end_dim", -1) == -1

    def by_batch(self, node: fx.Node) -> bool:
        """`x.view(x.size(0), -1)` and `x.view(x.shape[0], -1)`."""
        sizes = node.args[1] if len(node.args) == 2 else node.args[1:]
        if not isinstance(sizes, list | tuple) or len(sizes) != 2 or sizes[1] != -1:
            return False
        first = sizes[0]
        if not isinstance(first, fx.Node):
            return False
        if name_of(first) == "size":
            return first.args == (node.args[0], 0)
        of = first.args[0] if name_of(first) == "getitem" and first.args[1] == 0 else None
        return isinstance(of, fx.Node) and (
            of.args == (node.args[0], "shape")
            or (name_of(of) == "size" and of.args == (node.args[0],))
        )

    # -- modules whose form is not the plain one
    def module(self, node: fx.Node, module: nn.Module) -> None:
        if isinstance(module, nn.ConvTranspose2d):
            self.transposed(node, module)
        elif isinstance(module, nn.Conv2d):
            self.padding(node, module)
        elif isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            self.adaptive(node, module)
        elif isinstance(module, nn.Upsample) and module.size is not None:
            self.upsampled(node, module)
        elif isinstance(module, nn.ChannelShuffle) and shape_of(node) is not None:
            places = torch.arange(shape_of(node)[1]).reshape(module.groups, -1).T.reshape(-1)
            self.becomes(node, Select(places.tolist()))
        elif isinstance(module, nn.Flatten) and module.start_dim == 1:
            self.flat(node)

    def flat(self, node: fx.Node) -> None:
        """Rows are flat already."""
        if len(shape_of(node.args[0]) or (0,) * 4) == 2:
            self.swap(node, node.args[0])

    def padding(self, node: fx.Node, layer: nn.Conv2d) -> None:
        """Padding that a plain convolution has not becomes a module in front of it."""
        sides = layer._reversed_padding_repeated_twice  # left, right, top, bottom
        kinds = {
            "zeros": nn.ZeroPad2d,
            "reflect": nn.ReflectionPad2d,
            "replicate": nn.ReplicationPad2d,
        }
        even = len(set(sides)) == 1 and layer.padding_mode == "zeros"
        if layer.padding_mode not in kinds:
            return
        if even:
            if isinstance(layer.padding, str):
                layer.padding = (sides[0], sides[0])
            return
        pad = kinds[layer.padding_mode](tuple(sides))
        bare = copy.copy(layer)
        bare.__dict__ = dict(layer.__dict__)
        bare.padding, bare.padding_mode, bare._reversed_padding_repeated_twice = (
            (0, 0),
            "zeros",
            [0, 0, 0, 0],
        )
        at = self.put(node, pad, node.args[0])
        at.meta = {}
        with self.graph.inserting_before(node):
            # In the layer's own place, so that it keeps its name.
            self.traced.set_submodule(str(node.target), bare)
            self.modules[str(node.target)] = bare
        node.args = (at,)

    def transposed(self, node: fx.Node, layer: nn.ConvTranspose2d) -> None:
        """Y = conv(x with zeros between its pixels, the kernel turned round, its axes exchanged)."""
        border = [
            d * (k - 1) - p
            for d, k, p in zip(layer.dilation, layer.kernel_size, layer.padding, strict=True)
        ]
        if min(border) < 0:
            return
        weight, groups = layer.weight.detach(), layer.groups
        inputs, outputs, *kernel = weight.shape
        turned = weight.flip(2, 3).reshape(groups, inputs // groups, outputs, *kernel)
        turned = turned.transpose(1, 2).reshape(groups * outputs, inputs // groups, *kernel)
        new = nn.Conv2d(
            inputs,
            groups * outputs,
            tuple(kernel),
            padding=tuple(border),
            dilation=layer.dilation,
            groups=groups,
            bias=layer.bias is not None,
        )
        new.weight = nn.Parameter(turned.contiguous(), layer.weight.requires_grad)
        if layer.bias is not None:
            new.bias = layer.bias
        spread = Spread(tuple(layer.stride), tuple(layer.output_padding))
        at = self.put(node, spread, node.args[0])
        at.meta = {}
        last = self.put(node, new, at)
        self.swap(node, last)
        self.padding(last, new)

    def upsampled(self, node: fx.Node, module: nn.Upsample) -> None:
        """To a size that is a multiple of the example's: by that factor."""
        before, after = shape_of(node.args[0]), shape_of(node)
        if before is None or after is None or len(before) != 4:
            return
        pairs = list(zip(after[2:], before[2:], strict=True))
        if all(a % b == 0 for a, b in pairs):
            factors = tuple(float(a // b) for a, b in pairs)
            self.becomes(node, nn.Upsample(None, factors, module.mode, module.align_corners))

    def adaptive(self, node: fx.Node, module: nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) -> None:
        """With the example's sizes, windows of one size; over all pixels it stays as it is."""
        mean = isinstance(module, nn.AdaptiveAvgPool2d)
        before = shape_of(node.args[0])
        wanted = pair(module.output_size)
        if before is None or len(before) != 4 or (mean and wanted == (1, 1)):
            return
        sizes = [n if w is None else w for n, w in zip(before[2:], wanted, strict=True)]
        if any(n % w for n, w in zip(before[2:], sizes, strict=True)):
            return
        window = tuple(n // w for n, w in zip(before[2:], sizes, strict=True))
        if window == (1, 1):
            self.swap(node, node.args[0])
        else:
            self.becomes(node, nn.AvgPool2d(window) if mean else nn.MaxPool2d(window))


def _channels(shape: tuple[int, ...]) -> int | None:
    """How many channels a result of one number per channel has: [b, c], [b, c, 1] and [b, c, 1, 1]."""
    one = len(shape) in (2, 3, 4) and all(n == 1 for n in shape[2:])
    return shape[1] if one else None


def pair(value: object) -> tuple:
    """One number for both axes, or a number for each."""
    if isinstance(value, list | tuple):
        return tuple(value) * 2 if len(value) == 1 else tuple(value)
    return (value, value)
