"""Modules with a window whose form is not the plain one, as a plain one and what stands in front of it.

    Conv2d, padded by side or by mode      a padding module, and a convolution without
    ConvTranspose2d                        zeros between the pixels, and a convolution:
                                           Y = conv(spread(X), the kernel turned round, its axes exchanged)
    AdaptiveAvgPool2d(7) on 14 x 14        nn.AvgPool2d(2)
    Upsample to a size                     Upsample by a factor

A window that does not divide the example's pixels has no plain form, and stays as it is.
"""

import copy

import torch
from torch import fx, nn

from compresslab.network.modules import Select, Spread
from compresslab.network.writer import Writer, pair, shape_of


def plain_windows(write: Writer, node: fx.Node, module: nn.Module) -> None:
    """The plain form of a module, if it has a window and is not plain already."""
    if isinstance(module, nn.ConvTranspose2d):
        _transposed(write, node, module)
    elif isinstance(module, nn.Conv2d):
        _padding(write, node, module)
    elif isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        _adaptive(write, node, module)
    elif isinstance(module, nn.Upsample) and module.size is not None:
        _upsampled(write, node, module)
    elif isinstance(module, nn.ChannelShuffle) and shape_of(node) is not None:
        places = torch.arange(shape_of(node)[1]).reshape(module.groups, -1).T.reshape(-1)
        write.becomes(node, Select(places.tolist()))
    elif isinstance(module, nn.Flatten) and module.start_dim == 1:
        _flat(write, node)


def _flat(write: Writer, node: fx.Node) -> None:
    """Rows are flat already."""
    if len(shape_of(node.args[0]) or (0,) * 4) == 2:
        write.swap(node, node.args[0])


def _padding(write: Writer, node: fx.Node, layer: nn.Conv2d) -> None:
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
    at = write.put(node, pad, node.args[0])
    at.meta = {}
    with write.graph.inserting_before(node):
        # In the layer's own place, so that it keeps its name.
        write.traced.set_submodule(str(node.target), bare)
        write.modules[str(node.target)] = bare
    node.args = (at,)


def _transposed(write: Writer, node: fx.Node, layer: nn.ConvTranspose2d) -> None:
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
    at = write.put(node, spread, node.args[0])
    at.meta = {}
    last = write.put(node, new, at)
    write.swap(node, last)
    _padding(write, last, new)


def _upsampled(write: Writer, node: fx.Node, module: nn.Upsample) -> None:
    """To a size that is a multiple of the example's: by that factor."""
    before, after = shape_of(node.args[0]), shape_of(node)
    if before is None or after is None or len(before) != 4:
        return
    pairs = list(zip(after[2:], before[2:], strict=True))
    if all(a % b == 0 for a, b in pairs):
        factors = tuple(float(a // b) for a, b in pairs)
        write.becomes(node, nn.Upsample(None, factors, module.mode, module.align_corners))


def _adaptive(
    write: Writer, node: fx.Node, module: nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d
) -> None:
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
        write.swap(node, node.args[0])
    else:
        write.becomes(node, nn.AvgPool2d(window) if mean else nn.MaxPool2d(window))
