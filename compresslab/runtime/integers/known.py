"""Which operations the integer network has, and the error for those that it has not."""

from torch import fx, nn

from compresslab.network.graph import module_at
from compresslab.network.modules import ChannelsFirst, ChannelsLast, Scale, Select, Spread
from compresslab.network.writer import name_of
from compresslab.runtime.steps import floating
from compresslab.techniques.ptq import TABLES, is_addition, is_concatenation, is_product
from compresslab.techniques.quantizer import ActivationQuantizer, Quantized

WINDOWED = (nn.MaxPool2d, nn.AvgPool2d)


PADS = {
    nn.ZeroPad2d: "constant",
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad2d: "edge",
}


FLOATS: dict[type[nn.Module], type[floating.FloatLayer]] = {
    nn.GroupNorm: floating.FloatGroupNorm,
    nn.LayerNorm: floating.FloatLayerNorm,
    nn.Softmax: floating.FloatSoftmax,
    nn.LogSoftmax: floating.FloatSoftmax,
    nn.Upsample: floating.FloatUpsample,
}


class ConversionError(ValueError):
    """A part of the network that cannot run on integers; says which and why."""


def unknown_operations(prepared: fx.GraphModule) -> dict[str, str]:
    """Every node of a prepared network that no step computes, by name, with what it is."""
    modules = dict(prepared.named_modules())
    nodes = [n for n in prepared.graph.nodes if n.op != "output"]
    return {n.name: what_it_is(n, modules) for n in nodes if not _is_known(n, modules)}


def refuse_unknown(prepared: fx.GraphModule) -> None:
    """Refuse a prepared network with operations that have no integer counterpart.

    Raises:
        ConversionError: naming all of them.
    """
    unknown = unknown_operations(prepared)
    if unknown:
        said = "; ".join(f"node {name!r} ({what})" for name, what in unknown.items())
        raise ConversionError(
            f"{said}: no integer counterpart. Write it with an operation that has one (`inspect` lists "
            "them), or use convert_dynamic, which takes any network with linear layers"
        )


def _is_known(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    module = module_at(node, modules)
    if module is None:
        return (
            node.op == "placeholder"
            or is_addition(node)
            or is_product(node)
            or is_concatenation(node)
        )
    return isinstance(module, (Quantized, ActivationQuantizer, *KNOWN))


def what_it_is(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """The kind of a node's module, or the name of its operation."""
    module = module_at(node, modules)
    return type(module).__name__ if module is not None else name_of(node) or node.op


PER_CHANNEL = (nn.PReLU, nn.BatchNorm1d, nn.BatchNorm2d, Scale)
"""Tables that differ by channel: the second axis for torch, but for `Scale`, whose channels come last."""


IDLE = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout1d, nn.AlphaDropout)


KNOWN = (
    *(*WINDOWED, nn.AdaptiveAvgPool2d, nn.Flatten, *IDLE, *PADS, Spread, nn.Upsample, *TABLES),
    *(nn.ReLU, nn.Hardtanh, *FLOATS, nn.Unflatten, Select, ChannelsFirst, ChannelsLast),
)
