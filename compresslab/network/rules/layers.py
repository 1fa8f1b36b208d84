"""Layers that are called as functions, on parameters of somebody's own.

    F.conv2d(x, self.weight, self.bias)    nn.Conv2d on the same parameters, in the place of their owner
    F.linear, F.conv_transpose2d           likewise
    F.batch_norm, F.layer_norm, F.prelu    the module on the same parameters and statistics

A layer whose weight is computed in the forward stays a call, for the reader of the graph to refuse by name.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import fx, nn

from compresslab.network.modules import parameter
from compresslab.network.rules.windows import plain_windows
from compresslab.network.writer import Writer, name_of, pair, shape_of


def _owned(write: Writer, node: fx.Node, names: Sequence[str], skip: int = 1) -> dict[str, object]:
    """Arguments by name, parameters as themselves."""
    given = dict(zip(names, node.args[skip:], strict=False)) | dict(node.kwargs)
    return {k: v if write.tensor(v) is None else write.tensor(v) for k, v in given.items()}


def _conv2d(write: Writer, node: fx.Node) -> None:
    names = ("weight", "bias", "stride", "padding", "dilation", "groups")
    given = _owned(write, node, names)
    weight = given.pop("weight")
    bias = given.pop("bias", None)
    if not isinstance(weight, torch.Tensor) or isinstance(bias, fx.Node):
        return
    outputs, inputs, *kernel = weight.shape
    groups = given.get("groups", 1)
    window = {k: v if isinstance(v, str) else pair(v) for k, v in given.items() if k != "groups"}
    with torch.device("meta"):
        layer = nn.Conv2d(
            inputs * groups,
            outputs,
            tuple(kernel),
            groups=groups,
            bias=bias is not None,
            **window,
        )
    _with_parameters(write, node, layer, weight, bias)


def _linear(write: Writer, node: fx.Node) -> None:
    given = _owned(write, node, ("weight", "bias"))
    weight, bias = given["weight"], given.get("bias")
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or isinstance(bias, fx.Node):
        return
    outputs, inputs = weight.shape
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs, bias=bias is not None)
    _with_parameters(write, node, layer, weight, bias)


def _with_parameters(
    write: Writer, node: fx.Node, layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    layer.weight, layer.bias = parameter(weight), None if bias is None else parameter(bias)
    weight_node = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
    at = write.put(node, layer, node.args[0], write.owner(weight_node))
    write.swap(node, at)
    plain_windows(write, at, layer)


def _batch_norm(write: Writer, node: fx.Node) -> None:
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
    given = _owned(write, node, functional if node.target is F.batch_norm else aten)
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
    write.swap(node, write.put(node, norm, node.args[0], write.owner(source)))


def _float_norm(write: Writer, node: fx.Node) -> None:
    name = name_of(node)
    first = "normalized_shape" if name == "layer_norm" else "num_groups"
    given = _owned(write, node, (first, "weight", "bias", "eps"))
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
    write.becomes(node, norm)


def _prelu(write: Writer, node: fx.Node) -> None:
    weight = write.tensor(node.args[1])
    if weight is not None:
        layer = nn.PReLU(weight.numel())
        layer.weight = parameter(weight)
        write.becomes(node, layer)


def _conv_transpose2d(write: Writer, node: fx.Node) -> None:
    names = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    given = _owned(write, node, names)
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
    _with_parameters(write, node, layer, weight, bias)


RULES = {
    "conv2d": _conv2d,
    "linear": _linear,
    "conv_transpose2d": _conv_transpose2d,
    "batch_norm": _batch_norm,
    "layer_norm": _float_norm,
    "group_norm": _float_norm,
    "prelu": _prelu,
}
