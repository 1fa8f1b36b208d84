"""From a network that simulates signs to one that computes with them.

In a chain  binary convolution, max pooling, batch norm, sign  nothing needs a float:

    sign(norm(alpha dot)) = +1   exactly where   dot >= t[n]    (or, where the norm's gain is negative, not)

because every operation in it is monotone in dot. The threshold is not computed by a formula but found: the
network's own norm is applied to every value that dot can take (there are 2 K + 1), in float32, as the
simulation does it. So rounding cannot make the two differ. Behind a float layer the same is done by bisection
over all float32 numbers, of which there are 2^32.

Left out: graphs that are no chain; for those `with_xnor_layers` replaces layer by layer.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import fx, nn

from compresslab.network.edit import replaced
from compresslab.network.graph import trace
from compresslab.runtime.integers import ConversionError, pool_size
from compresslab.runtime.program import IMAGE, Line, Program
from compresslab.runtime.steps import binary, floating
from compresslab.runtime.steps.step import Step
from compresslab.techniques.binarize import Binary, BinaryConv2d

Norm = nn.BatchNorm1d | nn.BatchNorm2d


def with_xnor_layers(model: nn.Module) -> nn.Module:
    """A copy of any network with every binary layer computing on bits, floats in between."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Binary)}
    return replaced(model, {n: binary.XNOR_LAYERS[type(m)].of(m) for n, m in layers.items()}).eval()


def convert_xnor(model: nn.Module) -> Program:
    """The network on bits, from its first sign to its last binary layer.

    Args:
        model: a trained network of binary and float layers, each reading the one before.

    Returns:
        A Program with the same logits.

    Raises:
        ConversionError: naming the node, if the network is no such chain.
    """
    chain = _chain(copy.deepcopy(model).eval())
    layers: list[Step] = []
    place = 0
    while place < len(chain):
        place += _convert_next(chain[place:], layers)
    names = [str(i) for i in range(len(layers))]
    inputs = [IMAGE, *names[:-1]]
    steps = [Line(name, (source,)) for name, source in zip(names, inputs, strict=True)]
    return Program(steps, layers)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, Binary) or super().is_leaf_module(module, name)


def _chain(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The network's layers by name, in order."""
    chain, modules, previous = [], dict(model.named_modules()), None
    for node in trace(model, _Tracer).graph.nodes:
        if node.op == "output":
            continue
        if previous is not None:
            if node.op != "call_module" or node.args != (previous,) or len(previous.users) > 1:
                raise ConversionError(
                    f"node {node.name!r}: only a chain of modules can run on bits throughout; "
                    "with_xnor_layers takes any network"
                )
            if not isinstance(modules[node.target], nn.Identity | nn.Dropout):
                chain.append((node.name, modules[node.target]))
        previous = node
    return chain


def _convert_next(chain: list[tuple[str, nn.Module]], layers: list[Step]) -> int:
    """Append what the next modules become; returns how many they were."""
    pool, norm, found = _signs_ahead(chain)
    if found is None:
        name, module = chain[0]
        if isinstance(module, Binary):
            layers.append(_with_name(name, binary.XNOR_LAYERS[type(module)].of, module))
        else:
            layers.append(_float_step(name, module))
        return 1
    used = (pool is not None) + (norm is not None) + 1
    size = 1 if pool is None else pool_size(*pool)
    name, layer = found
    previous = layers[-1] if layers else None
    of = binary.XNOR_LAYERS[type(layer)].of
    if isinstance(previous, binary.XnorConv2d | binary.XnorLinear):
        layers[-1] = _thresholded(previous, norm, size)
    else:
        channels = layer.in_channels if isinstance(layer, BinaryConv2d) else layer.in_features
        layers.append(binary.TakeSigns(*float_thresholds(norm, channels), size))
    layers.append(_with_name(name, of, layer))
    return used


def _signs_ahead(chain: list[tuple[str, nn.Module]]) -> tuple:
    """(pooling, norm, binary layer) if that is what comes next, the first two perhaps None."""
    pool, norm, rest = None, None, list(chain)
    if rest and isinstance(rest[0][1], nn.MaxPool2d):
        pool, *rest = rest
    if rest and isinstance(rest[0][1], Norm):
        norm, *rest = rest[0][1], *rest[1:]
    if rest and isinstance(rest[0][1], Binary) and not rest[0][1].config.positions:
        return pool, norm, rest[0]
    return None, None, None


def _with_name(name: str, build: Callable, module: nn.Module) -> Step:
    try:
        return build(module)
    except ValueError as error:
        raise ConversionError(f"node {name!r}: {error}") from error


def _float_step(name: str, module: nn.Module) -> Step:
    if isinstance(module, nn.Conv2d):
        window = {*module.stride} | {0}, {*module.padding} if module.padding != "same" else {0, 1}
        plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
        if plain and len(window[0]) == 2 and len(window[1]) == 1:
            return floating.FloatConv2d(module)
    elif isinstance(module, nn.Linear):
        return floating.FloatLinear(module)
    elif isinstance(module, Norm):
        return floating.FloatNorm(module)
    elif isinstance(module, nn.ReLU):
        return floating.FloatRelu()
    elif isinstance(module, nn.MaxPool2d):
        return floating.FloatMaxPool(pool_size(name, module))
    elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return floating.FloatMeanPool()
    elif isinstance(module, nn.Flatten) and module.start_dim == 1:
        return floating.FloatFlatten()
    raise ConversionError(f"node {name!r} ({type(module).__name__}) has no counterpart")


# ---- thresholds ----------------------------------------------------------------------------------
def _thresholded(
    layer: binary.XnorConv2d | binary.XnorLinear, norm: Norm | None, pool: int
) -> Step:
    inputs = layer.packed.inputs

    def after(dot: torch.Tensor) -> torch.Tensor:
        return normalized(dot * layer.alpha + layer.bias, norm)

    at_least, flip = integer_thresholds(after, inputs, layer.packed.outputs)
    if isinstance(layer, binary.XnorLinear):
        return binary.XnorLinearSigns(layer.signs(), at_least, flip)
    window = {"stride": layer.window.stride, "padding": layer.window.padding, "pool": pool}
    return binary.XnorConv2dSigns(layer.signs(), at_least, flip, **window)


@torch.no_grad()
def normalized(x: torch.Tensor, norm: Norm | None) -> torch.Tensor:
    """The norm in evaluation mode on rows [n, channels]; x itself without one."""
    if norm is None:
        return x
    return floating.FloatNorm(norm)(x[:, :, None, None])[:, :, 0, 0]


def integer_thresholds(
    after: Callable[[torch.Tensor], torch.Tensor], inputs: int, outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the sign of a monotone function of a dot product changes.

    Args:
        after: float32 [n, outputs] -> [n, outputs], monotone in each column.
        inputs: K; the dot product lies in -K..K.
        outputs: N.

    Returns:
        int [N] and bool [N]: sign(after(dot)) is +1 where (dot >= threshold) xor flip.
    """
    dot = torch.arange(-inputs, inputs + 1, dtype=torch.float32)
    positive = (after(dot[:, None].expand(-1, outputs)) >= 0).numpy()
    flip = positive[0] & ~positive[-1]
    rising = positive ^ flip
    # argmax finds the first True; where there is none, no dot product is large enough.
    first = np.where(rising.any(0), rising.argmax(0), 2 * inputs + 1)
    return first - inputs, flip


def float_thresholds(norm: Norm | None, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for the sign of a norm of any float32: float32 [channels] and bool [channels]."""
    if norm is None:
        return np.zeros(channels, np.float32), np.zeros(channels, bool)
    # Sorted as floats are: the keys of negative numbers run backwards.
    low = np.full(channels, -0x7F800000, np.int64)
    high = np.full(channels, 0x7F800000, np.int64)

    def positive(keys: np.ndarray) -> np.ndarray:
        return (normalized(torch.from_numpy(_from_keys(keys))[None], norm) >= 0).numpy()[0]

    biggest = np.float32(3.0e38).view(np.int32).astype(np.int64)
    ends = [positive(np.full(channels, key)) for key in (-biggest, biggest)]
    flip = ends[0] & ~ends[1]
    always = ends[0] & ends[1]
    while (high - low > 1).any():
        middle = (low + high) // 2
        reached = positive(middle) ^ flip
        high, low = np.where(reached, middle, high), np.where(reached, low, middle)
    return np.where(always, -np.inf, _from_keys(high)).astype(np.float32), flip


def _from_keys(keys: np.ndarray) -> np.ndarray:
    """The float32 whose place among all is the key: 0 is 0, 1 the smallest above it, -1 below."""
    magnitude = np.abs(keys).astype(np.int32).view(np.float32)
    return np.where(keys < 0, -magnitude, magnitude)
