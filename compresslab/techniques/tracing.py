"""From a network to its graph of operations, by torch.fx, in one place.

While fx traces, every module of the *process* answers through a patched call. A network that another thread
trains meanwhile would be recorded, or fail: so networks are prepared in turn, and only trained side by side.
"""

from torch import fx, nn

from compresslab.experiment import in_worker


def trace(model: nn.Module, tracer: type[fx.Tracer] = fx.Tracer) -> fx.GraphModule:
    """The network as a graph module that shares the model's parameters.

    Args:
        model: the network; callers that change the graph hand over a copy.
        tracer: decides which modules stay whole.

    Raises:
        RuntimeError: inside `experiment.side_by_side`.
        torch.fx.proxy.TraceError: if the model's forward depends on values and cannot be traced.
    """
    if in_worker():
        raise RuntimeError(
            "a network cannot be traced inside side_by_side, because torch.fx patches the modules of all "
            "threads while it traces: prepare the networks first, one after the other"
        )
    made = tracer()
    graph = made.trace(model)
    return fx.GraphModule(made.root, graph, type(model).__name__)
