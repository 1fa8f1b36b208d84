"""Writing in a graph of torch.fx: a module in the place of a call, a constant in the place of a size.

    put, becomes, function    new calls in front of a node, with its shapes, named after it or its owner
    swap                      whoever read a node reads another one
    tensor, constant          what an argument holds: a parameter, or a size that the example had

A rule (`network.rules`) decides what a node becomes; nothing is decided here.
"""

import operator
from collections.abc import Callable

import torch
from torch import fx, nn


class Writer:
    """Rewrites a graph in place, node by node."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced, self.graph = traced, traced.graph
        self.modules = dict(traced.named_modules(remove_duplicate=False))
        self.placed: set[str] = set()

    def put(self, node: fx.Node, module: nn.Module, source: fx.Node, owner: str = "") -> fx.Node:
        """A call of a new module on `source` in front of the node, named after it or within its owner."""
        name = owner if owner and self.only_numbers(owner, node) else ""
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

    def only_numbers(self, owner: str, node: fx.Node) -> bool:
        """Whether a module holds a layer's parameters and nothing else: the layer then takes its name.

        What another node reads in it, such as a gain of the author's own, would go with the module.
        """
        module = self.modules.get(owner)
        if module is None or owner in self.placed or list(module.children()):
            return False
        read = (n for n in self.graph.nodes if n.op == "get_attr" and self.owner(n) == owner)
        return not any(user is not node for one in read for user in one.users)

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

    def function(self, node: fx.Node, target: Callable, *arguments: object) -> None:
        """A call of a function in the place of a node, under its name."""
        with self.graph.inserting_before(node):
            made = self.graph.create_node("call_function", target, arguments, {}, node.name)
        made.meta = dict(node.meta)
        name = node.name
        self.swap(node, made)
        made.name = name

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

    def owner(self, value: object) -> str:
        """The module that holds the parameter which a node gets; empty for the network itself."""
        return str(value.target).rpartition(".")[0] if isinstance(value, fx.Node) else ""

    def inputs(self) -> list[fx.Node]:
        """The nodes of the arguments of forward."""
        return [n for n in self.graph.nodes if n.op == "placeholder"]

    def one_output(self) -> None:
        """A tuple, list or dictionary that holds one tensor is that tensor."""
        last = next(n for n in reversed(self.graph.nodes) if n.op == "output")
        found = last.args[0]
        while isinstance(found, tuple | list | dict) and len(found) == 1:
            found = next(iter(found.values())) if isinstance(found, dict) else found[0]
        last.args = (found,)


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


def pair(value: object) -> tuple:
    """One number for both axes, or a number for each."""
    if isinstance(value, list | tuple):
        return tuple(value) * 2 if len(value) == 1 else tuple(value)
    return (value, value)
