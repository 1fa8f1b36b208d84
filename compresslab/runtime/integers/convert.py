"""From a network that simulates integers to one that computes with them.

Every node of the prepared graph becomes a step. A layer takes its batch norm and its cut (ReLU, ReLU6) along.
What the converter does not know it refuses by name: nothing falls back to floats in silence.
"""

from torch import fx, nn

from compresslab.network.graph import limits_of, module_at
from compresslab.network.modules import ChannelsFirst, ChannelsLast, Select, Spread
from compresslab.runtime.integers.known import (
    FLOATS,
    IDLE,
    PADS,
    PER_CHANNEL,
    ConversionError,
    refuse_unknown,
    what_it_is,
)
from compresslab.runtime.integers.rules import (
    concatenate,
    flatten,
    floats,
    image,
    layer,
    max_pool,
    mean_pool,
    rearrange,
    requantize,
    surround,
    table,
    turn,
    two,
    upsample,
)
from compresslab.runtime.integers.walk import Walk
from compresslab.runtime.program import Program, image_name
from compresslab.runtime.steps import between
from compresslab.techniques.ptq import TABLES, is_addition, is_concatenation, is_product
from compresslab.techniques.quantizer import ActivationQuantizer, Quantized


def convert_integers(prepared: fx.GraphModule) -> Program:
    """The integer network that a prepared, calibrated (and perhaps trained) network simulates.

    Args:
        prepared: from `ptq.quantize_post_training` or `qat.tune`, with quantized activations.

    Returns:
        A Program whose codes agree with the simulation to within one code.

    Raises:
        ConversionError: naming every node that has no integer counterpart.
    """
    refuse_unknown(prepared)
    return _run(Walk(prepared))


def _run(walk: Walk) -> Program:
    outputs: list[str] = []
    for node in walk.graph.nodes:
        if node.op == "output":
            outputs = _outputs(walk, node)
        elif node not in walk.values and node not in walk.absorbed:
            _visit(walk, node)
    return Program(walk.lines, walk.steps, outputs, walk.images)


def _visit(walk: Walk, node: fx.Node) -> None:
    module = module_at(node, walk.modules)
    _refuse_channels_last(walk, node, module)
    if node.op == "placeholder":
        image(walk, node)
    elif isinstance(module, Quantized):
        layer(walk, node, module)
    elif isinstance(module, nn.MaxPool2d):
        max_pool(walk, node, module)
    elif isinstance(module, nn.AdaptiveAvgPool2d | nn.AvgPool2d):
        mean_pool(walk, node, module)
    elif isinstance(module, nn.Flatten):
        flatten(walk, node, module)
    elif isinstance(module, IDLE):
        walk.values[node] = walk.values[node.args[0]]
    elif isinstance(module, (*PADS, Spread)):
        surround(walk, node, module)
    elif isinstance(module, ChannelsLast | ChannelsFirst):
        turn(walk, node, isinstance(module, ChannelsLast))
    elif isinstance(module, nn.Unflatten | Select):
        rearrange(walk, node, module)
    elif isinstance(module, nn.Upsample) and module.mode == "nearest":
        upsample(walk, node, module)
    elif isinstance(module, TABLES) or limits_of(module) is not None:
        table(walk, node, module)
    elif isinstance(module, tuple(FLOATS)):
        floats(walk, node, FLOATS[type(module)], module)
    elif is_addition(node) or is_product(node):
        two(walk, node, between.IntAdd if is_addition(node) else between.IntMultiply)
    elif is_concatenation(node):
        concatenate(walk, node)
    elif isinstance(module, ActivationQuantizer):
        requantize(walk, node, module)
    else:
        _belongs_to_no_layer(walk, node, module)


def _refuse_channels_last(walk: Walk, node: fx.Node, module: nn.Module | None) -> None:
    """Where channels come last in the network, the other axes are no channels for what follows."""
    read = [walk.values[n] for n in node.all_input_nodes if n in walk.values]
    if not any(value.last for value in read):
        return
    linear = isinstance(module, Quantized) and isinstance(module.layer, nn.Linear)
    each = isinstance(module, TABLES) and not isinstance(module, PER_CHANNEL[:-1])
    borne = (*IDLE, ChannelsFirst, nn.LayerNorm, nn.Softmax, nn.LogSoftmax, ActivationQuantizer)
    two = is_addition(node) or is_product(node)
    if linear or each or two or isinstance(module, borne) or limits_of(module) is not None:
        return
    raise ConversionError(
        f"node {node.name!r} ({what_it_is(node, walk.modules)}) takes images whose channels come last: "
        "permute them back, x.permute(0, 3, 1, 2), in front of it"
    )


def _belongs_to_no_layer(walk: Walk, node: fx.Node, module: nn.Module | None) -> None:
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        raise ConversionError(f"a norm behind {node.args[0].name!r} belongs to no layer")
    raise ConversionError(
        f"node {node.name!r} ({what_it_is(node, walk.modules)}) has no integer counterpart"
    )


def _outputs(walk: Walk, node: fx.Node) -> list[str]:
    """The names of what is handed back; codes become floats."""
    results = node.args[0]
    many = isinstance(results, tuple | list)
    found = []
    for result in results if many else [results]:
        if not isinstance(result, fx.Node):
            raise ConversionError(
                f"forward must return a tensor or a tuple of tensors, got {type(results).__name__}: "
                "return the tensors themselves"
            )
        value = walk.values[result]
        if value.codes is None and value.step in [image_name(i) for i in range(walk.images)]:
            raise ConversionError(f"forward must return a layer's result, got {result.name!r}")
        found.append(walk.as_floats(result, value))
    return found
