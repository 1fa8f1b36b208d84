"""From a network to its graph of operations, by torch.fx, in one place; and how to read that graph.

    trace(model)                the graph module; an error in our words where a forward cannot be followed
    module_at(node, modules)    the module that a node calls, None for anything else
    chain_behind(node, modules) what belongs to a layer: the norms right behind it, then where values are cut

While fx traces, every module of the *process* answers through a patched call. A network that another thread
trains meanwhile would be recorded, or fail: so networks are prepared in turn, and only trained side by side.
"""

import linecache
import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx, nn

from compresslab.experiment import in_worker
from compresslab.network.writer import shape_of

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LAYERS = (nn.Conv2d, nn.Linear)


class TracingError(fx.proxy.TraceError):
    """A forward that torch.fx cannot follow; says which line it was, and what can be done instead."""


def trace(model: nn.Module, tracer: type[fx.Tracer] = fx.Tracer) -> fx.GraphModule:
    """The network as a graph module that shares the model's parameters.

    Args:
        model: the network; callers that change the graph hand over a copy.
        tracer: decides which modules stay whole.

    Raises:
        RuntimeError: inside `experiment.side_by_side`.
        TracingError: if the model's forward depends on values and cannot be traced.
    """
    if in_worker():
        raise RuntimeError(
            "a network cannot be traced inside side_by_side, because torch.fx patches the modules of all "
            "threads while it traces: prepare the networks first, one after the other"
        )
    made = tracer()
    try:
        graph = made.trace(model)
    except Exception as error:  # whatever the author's own code does with a proxy
        raise TracingError(_untraceable(model, error)) from error
    return fx.GraphModule(made.root, graph, type(model).__name__)


def _untraceable(model: nn.Module, error: Exception) -> str:
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(torch.__file__).parent not in Path(frame.filename).parents
        and Path(frame.filename) != Path(__file__)
    ]
    where = ""
    if own:
        line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
        where = f", line {own[-1].lineno} of {Path(own[-1].filename).name} ({line})"
    return (
        f"the forward of {type(model).__name__} cannot be followed as a graph{where}: {error}. Ways out: "
        "give an example, so that torch.export can follow it; write the line without a decision that depends "
        "on values; or use what works layer by layer: convert_dynamic, weight_only.quantize"
    )


def module_at(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The module that a node calls; None if it calls a function, or is an input or the output."""
    return modules.get(str(node.target)) if node.op == "call_module" else None


def norm_of_tokens(node: fx.Node) -> bool:
    """Whether a batch norm's input has three axes, of which a linear layer in front of it makes the last.

    nn.BatchNorm1d normalizes the second. Without an example nobody knows, and rows are taken for granted.
    """
    return len(shape_of(node.args[0]) or ()) == 3


def limits_of(module: nn.Module | None) -> tuple[float, float] | None:
    """Between which numbers an activation cuts its input, (0, inf) for a ReLU; None if it does more."""
    if isinstance(module, nn.ReLU):
        return 0.0, math.inf
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return float(module.min_val), float(module.max_val)
    return None


@dataclass(frozen=True)
class Chain:
    """What belongs to a layer.

    Attributes:
        norms: batch norms right behind it, in order.
        low: below which its results are cut, -inf if they are not.
        high: above which they are cut, inf if they are not.
        nodes: the nodes of norms and cuts, in order.
        end: the last of them, or the layer's own node.
    """

    norms: tuple[nn.Module, ...]
    low: float
    high: float
    nodes: tuple[fx.Node, ...]
    end: fx.Node

    @property
    def cuts(self) -> bool:
        """Whether results are cut at all."""
        return self.low > -math.inf or self.high < math.inf


def chain_behind(node: fx.Node, modules: Mapping[str, nn.Module]) -> Chain:
    """The norms and cuts (ReLU, ReLU6, Hardtanh) behind a node that nobody else reads.

    Norms belong to convolutions and linear layers; behind anything else, or behind a cut, one ends the chain.
    """
    owner = module_at(node, modules)
    folds = isinstance(owner, LAYERS) or hasattr(owner, "weight_quantizer")
    norms: list[nn.Module] = []
    nodes: list[fx.Node] = []
    low, high = -math.inf, math.inf
    while len(node.users) == 1:
        user = next(iter(node.users))
        module = module_at(user, modules)
        limits = limits_of(module)
        if folds and isinstance(module, NORMS) and low == -math.inf and high == math.inf:
            if norm_of_tokens(user):
                break
            norms.append(module)
        elif limits is not None:
            low, high = (min(max(edge, low), high) for edge in limits)
        else:
            break
        nodes.append(user)
        node = user
    return Chain(tuple(norms), low, high, tuple(nodes), node)
