"""What a node becomes: one function for each kind of operation, which adds a step to the walk.

A function of one number (hard swish, sigmoid, ...) is a table of 256 codes. Norms over positions, bilinear
upsampling and a softmax at the end compute in floats, between steps that say so.
"""

import math

import numpy as np
import torch
from torch import fx, nn

from compresslab.network.graph import Chain
from compresslab.network.modules import Scale, Select, Spread
from compresslab.network.writer import pair, shape_of
from compresslab.numerics.affine import quantize
from compresslab.runtime.integers.known import PADS, PER_CHANNEL, ConversionError
from compresslab.runtime.integers.layers import layer_step, logits_step
from compresslab.runtime.integers.sums import SUMS, folded, largest_sum, requantization
from compresslab.runtime.integers.walk import Value, Walk
from compresslab.runtime.integers.windows import square_of, whole_factors, windows_of
from compresslab.runtime.program import image_name
from compresslab.runtime.steps import between, floating, integer, moving, pooling
from compresslab.runtime.steps.step import Codes
from compresslab.techniques.ptq import FLOAT_ISLANDS
from compresslab.techniques.quantizer import ActivationQuantizer, Quantized


def layer(walk: Walk, node: fx.Node, module: Quantized) -> None:
    """A linear layer or a convolution with what belongs to it: codes behind it, or floats at the end."""
    source, value, x = walk.source(node)
    linear = isinstance(module.layer, nn.Linear)
    rank = len(shape_of(node.args[0]) or ())
    if linear and (value.image or (rank > 3 and not value.last)):
        raise ConversionError(f"layer {node.name!r} reads the rows of an image: flatten it first")
    chain, end, out = walk.follow(node)
    weight, bits = module.layer.weight.detach(), module.weight_bits
    params = module.weight_quantizer.qparams()
    if params.group is not None:
        raise ConversionError(f"layer {node.name!r}: scales of groups cannot share an integer sum")
    rows = weight.reshape(len(weight), -1)
    codes = quantize(rows, params).codes.reshape(weight.shape).numpy()
    if largest_sum(codes).max(initial=0) >= SUMS:
        raise ConversionError(
            f"layer {node.name!r}: its sums may be larger than 32 bits hold; give its weights fewer "
            "bits, or pool in front of it"
        )
    factor, bias = folded(module.layer, chain.norms)
    scale = x.scale * params.scale.expand(len(weight)).double().numpy() * factor
    if out is None:
        built = logits_step(module.layer, codes, (bits, scale, bias, x.zero_point))
        walk.step(end, built, (source,), None, not linear)
        _cut(walk, end, chain)
        return
    codes, multiplier, offset = requantization(codes, scale, bias, out)
    numbers = (bits, offset, multiplier, x.zero_point, out)
    built, rest = layer_step(module.layer, codes, numbers, node.name)
    walk.step(end, built, (source,), out, not linear)
    if rest is not None:  # strides that differ
        name = f"{end.name}_strided"
        walk.line(name, rest, (walk.values[end].step,))
        walk.values[end] = Value(name, out, True)


def _cut(walk: Walk, end: fx.Node, chain: Chain) -> None:
    """A ReLU behind the last layer, in floats."""
    if not chain.cuts:
        return
    kind = nn.ReLU if chain.high == math.inf else nn.ReLU6
    name = f"{end.name}_cut"
    walk.line(name, floating.FloatActivation(kind()), (walk.values[end].step,))
    walk.values[end].step = name


def max_pool(walk: Walk, node: fx.Node, module: nn.MaxPool2d) -> None:
    """The largest code is the largest number: nothing is quantized anew."""
    source, value, codes = walk.source(node)
    if pair(module.dilation) != (1, 1):
        raise ConversionError(f"node {node.name!r}: pooling with gaps (dilation) is unknown")
    if module.return_indices:
        raise ConversionError(f"node {node.name!r}: pooling that returns places is unknown")
    size = square_of(module)
    step = pooling.IntMaxPool(size) if size else pooling.IntMaxPoolWindows(**windows_of(module))
    walk.step(node, step, (source,), codes, value.image)


def mean_pool(walk: Walk, node: fx.Node, module: nn.AdaptiveAvgPool2d | nn.AvgPool2d) -> None:
    """The mean over all pixels or over windows, on the scale of what follows."""
    source, _, x = walk.source(node)
    whole = isinstance(module, nn.AdaptiveAvgPool2d)
    if whole and pair(module.output_size) != (1, 1):
        raise ConversionError(
            f"node {node.name!r}: of adaptive pooling only the mean over all pixels is known without an "
            "example, and windows of one size with one"
        )
    if getattr(module, "divisor_override", None) is not None:
        raise ConversionError(f"node {node.name!r}: a divisor of its own is unknown")
    end, out = walk.behind(node)
    if isinstance(module, nn.AvgPool2d):
        padded = int(module.count_include_pad)
        step = pooling.IntMeanWindows(
            x.scale, x.zero_point, out, padded=padded, **windows_of(module)
        )
    else:
        step = pooling.IntMeanPool(x.scale, x.zero_point, out)
    walk.step(end, step, (source,), out, True)


def flatten(walk: Walk, node: fx.Node, module: nn.Flatten) -> None:
    """Rows of an image, in the order that torch has."""
    source = node.args[0]
    value = walk.values[source]
    if module.start_dim != 1 or module.end_dim != -1:
        raise ConversionError(f"node {node.name!r}: only flatten(x, 1) is known")
    step = moving.IntFlatten() if value.codes is not None else floating.FloatFlatten()
    walk.step(node, step, (source,), value.codes, False)


def surround(walk: Walk, node: fx.Node, module: nn.Module) -> None:
    """A border, or zeros between pixels, of the code that stands for 0."""
    source, _, codes = walk.source(node)
    if isinstance(module, Spread):
        extra = dict(zip(("bottom", "right"), module.extra, strict=True))
        step = moving.IntSpread(*module.stride, **extra, zero_point=codes.zero_point)
    else:
        if min(module.padding) < 0:
            raise ConversionError(f"node {node.name!r}: padding must not be negative")
        step = moving.IntPad(*module.padding, PADS[type(module)], codes.zero_point)
    walk.step(node, step, (source,), codes, True)


def rearrange(walk: Walk, node: fx.Node, module: nn.Unflatten | Select) -> None:
    """Some of the channels, or rows that become images."""
    source, value, codes = walk.source(node)
    if isinstance(module, Select):
        step = moving.IntSelect(module.places.numpy())
        walk.step(node, step, (source,), codes, value.image)
        return
    sizes = tuple(module.unflattened_size)
    if module.dim != 1 or len(sizes) != 3:
        raise ConversionError(f"node {node.name!r}: rows are known to become images only")
    walk.step(node, moving.IntUnflatten(*sizes[1:]), (source,), codes, True)


def turn(walk: Walk, node: fx.Node, last: bool) -> None:
    """Channels to the end or to the front, which codes do not notice: theirs are always last."""
    value = walk.values[node.args[0]]
    if last == value.last and (last or value.image):
        raise ConversionError(
            f"node {node.name!r} takes the channels of an image to the {'end' if last else 'front'}, where "
            "they are already: view the rows as [batch, channels, height, width]"
        )
    places = [i for i, line in enumerate(walk.lines) if line.name == value.step]
    step = walk.steps[places[0]] if places else None
    if not last and value.image is None and isinstance(step, integer.QuantizeInput):
        # Images that come with their channels last are taken as they lie.
        if len(node.args[0].users) > 1:
            raise ConversionError(
                f"node {node.name!r} turns an input that something else reads as it is: turn it first"
            )
        step.last = 1
    walk.values[node] = Value(value.step, value.codes, not last, last)


def upsample(walk: Walk, node: fx.Node, module: nn.Upsample) -> None:
    """Every pixel several times."""
    source, _, codes = walk.source(node)
    factors = whole_factors(module)
    if factors is None:
        raise ConversionError(f"node {node.name!r}: upsampling is known by whole factors only")
    walk.step(node, moving.IntUpsample(*factors), (source,), codes, True)


@torch.no_grad()
def table(walk: Walk, node: fx.Node, module: nn.Module) -> None:
    """A function of one number as a table of 256 codes, per channel where it differs by channel."""
    source, value = node.args[0], walk.values[node.args[0]]
    if value.codes is None:
        floats(walk, node, floating.FloatActivation, module)
        return
    if isinstance(module, PER_CHANNEL) and len(shape_of(node.args[0]) or ()) == 3:
        raise ConversionError(
            f"node {node.name!r} differs by the second axis of three, which for the integer network are "
            "places: turn the axes, or use one that differs by the last"
        )
    if isinstance(module, Scale) and value.image is not False:
        raise ConversionError(f"node {node.name!r} scales the columns of an image")
    end, out = walk.behind(node)
    step = between.IntTable(between.as_codes(_results(node.name, module, value.codes), out))
    walk.step(end, step, (source,), out, value.image)


def two(walk: Walk, node: fx.Node, kind: type[between.IntAdd]) -> None:
    """A sum or a product of two results, each with its own scale."""
    (a, one, a_codes), (b, _, b_codes) = walk.source(node, 0), walk.source(node, 1)
    end, out = walk.behind(node)
    walk.step(end, kind.of(a_codes, b_codes, out), (a, b), out, one.image)


def concatenate(walk: Walk, node: fx.Node) -> None:
    """Several results side by side, each through a table to the scale of the whole."""
    parts = list(node.args[0])
    codes = [walk.require(walk.values[p].codes, p) for p in parts]
    end, out = walk.behind(node)
    step = between.IntConcatenate(between.tables(codes, out))
    walk.step(end, step, parts, out, walk.values[parts[0]].image)


def requantize(walk: Walk, node: fx.Node, module: ActivationQuantizer) -> None:
    """A quantizer behind what is codes already, or behind a float island."""
    source = node.args[0]
    value, out = walk.values[source], walk.codes_of(node, module)
    if value.codes is None:
        step = integer.QuantizeInput(out, int(value.last))
        walk.step(node, step, (source,), out, value.image)
    else:
        step = between.IntTable(between.tables([value.codes], out))
        walk.step(node, step, (source,), out, value.image)


def floats(walk: Walk, node: fx.Node, kind: type[floating.FloatLayer], module: nn.Module) -> None:
    """A module that computes in floats, between codes or at the end."""
    source = node.args[0]
    value = walk.values[source]
    if isinstance(module, nn.Upsample) and (
        module.mode != "bilinear" or whole_factors(module) is None
    ):
        raise ConversionError(
            f"node {node.name!r}: upsampling is known as nearest or bilinear, by whole factors"
        )
    if isinstance(module, FLOAT_ISLANDS[:2]) and getattr(module, "weight", None) is None:
        raise ConversionError(f"node {node.name!r}: a norm without gain and shift is unknown")
    before = walk.as_floats(source, value)
    try:
        walk.line(node.name, kind(module), (before,))
    except (KeyError, ValueError) as error:
        raise ConversionError(f"node {node.name!r}: {error}") from error
    walk.values[node] = Value(node.name, None, value.image, value.last)


def image(walk: Walk, node: fx.Node) -> None:
    """An input of the network, quantized."""
    name = image_name(walk.images)
    walk.images += 1
    if not node.users:
        return
    end, codes = walk.behind(node)
    walk.values[node] = Value(name, None, None)
    walk.step(end, integer.QuantizeInput(codes), (node,), codes, None)


@torch.no_grad()
def _results(name: str, module: nn.Module, codes: Codes) -> np.ndarray:
    """What a function of one number gives for each code, float32 [1, 256] or [channels, 256]."""
    values = torch.from_numpy(between.values_of(codes))
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        if module.running_mean is None:
            raise ConversionError(
                f"node {name!r}: a norm without running statistics depends on the batch"
            )
        rows = values[:, None].expand(256, module.num_features)
        return floating.FloatNorm(module)(rows[:, :, None, None])[:, :, 0, 0].T.numpy()
    channels = module.weight.numel() if isinstance(module, nn.PReLU | Scale) else 1
    return module(values[:, None].expand(256, channels)).T.numpy()
