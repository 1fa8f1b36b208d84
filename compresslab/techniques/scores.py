"""How much does a weight matter? Importance scores (重要性分数) for pruning.

    score            of a weight w                              source
    random           U(0, 1)                                    the control
    magnitude        |w|                                        Han et al. 2015, https://arxiv.org/abs/1506.02626
    taylor           |w| * mean over batches of |dL/dw|         after Molchanov et al. 2016,
                                                                https://arxiv.org/abs/1611.06440, equation 8
    activation       mean |output| of its channel               the same, section 2.2
    apoz             share of outputs of its channel that       Hu et al. 2016,
                     are not 0 behind the ReLU                  https://arxiv.org/abs/1607.03250, equation 1
    norm_scale       |gain| of the batch norm behind            Liu et al. 2017,
                                                                https://arxiv.org/abs/1708.06519, section 3

The first-order Taylor term of removing w is w * dL/dw, whose *signed* sum over batches cancels at a minimum
of the loss: it is the sum of magnitudes that tells.

Every function gives a dictionary from layer name to a tensor of the weight's shape; a score that belongs to a
channel is the same for all its weights. What becomes of them is `prune`'s business.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.data import Examples
from compresslab.network.select import is_transposed
from compresslab.network.taps import tapped
from compresslab.training import evaluating

Scores = dict[str, torch.Tensor]
SOURCES = nn.Conv2d | nn.Linear


def prunable(model: nn.Module, last: bool = True) -> dict[str, nn.Module]:
    """Convolutions and linear layers by name; without the last one if `last` is False.

    Of layers that share their weight only the first is named: one tensor has one mask.

    GPT-2's Conv1D counts as linear. Its weight lies [inputs, outputs]: weights may be pruned as they are,
    rows and columns once it is `layers.as_linear`.
    """
    layers, seen = {}, set()
    for name, layer in model.named_modules():
        if not (isinstance(layer, SOURCES) or is_transposed(layer)):
            continue
        weight = layer._parameters.get("weight")
        if weight is None or id(weight) not in seen:
            seen.add(id(weight))
            layers[name] = layer
    return layers if last else dict(list(layers.items())[:-1])


def random(model: nn.Module, seed: int = 0) -> Scores:
    """The control: no information at all."""
    generator = torch.Generator().manual_seed(seed)
    layers = prunable(model)
    return {n: torch.rand(m.weight.shape, generator=generator) for n, m in layers.items()}


def magnitude(model: nn.Module) -> Scores:
    """|w|."""
    return {n: m.weight.detach().abs() for n, m in prunable(model).items()}


def taylor(model: nn.Module, data: Examples, batch_size: int = 128, batches: int = 8) -> Scores:
    """|w| times the mean magnitude of its gradient over a few batches.

    Raises:
        ValueError: for no batches or no data.
    """
    if batches < 1 or len(data) == 0:
        raise ValueError(f"batches and data must not be empty, got {batches} and {len(data)}")
    layers = prunable(model)
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        means = _mean_gradients(model, data, layers, batch_size, batches)
    return {n: layers[n].weight.detach().abs() * means[n] for n in layers}


def _mean_gradients(
    model: nn.Module, data: Examples, layers: dict[str, nn.Module], batch_size: int, batches: int
) -> dict[str, torch.Tensor]:
    """Of each weight the mean over batches of its gradient's magnitude."""
    totals = {n: torch.zeros_like(m.weight) for n, m in layers.items()}
    parameters = [m.weight for m in layers.values()]
    parts = list(zip(data.x.split(batch_size), data.y.split(batch_size), strict=True))[:batches]
    for x, y in parts:
        gradients = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
        for total, gradient in zip(totals.values(), gradients, strict=True):
            total += gradient.abs()
    return {name: total / len(parts) for name, total in totals.items()}


def activation(model: nn.Module, data: Examples) -> Scores:
    """The mean magnitude of each channel's output behind its ReLU (or its own, without one).

    Raises:
        ValueError: for no data.
    """
    return _by_channel(model, data, lambda out: out.abs())


def apoz(model: nn.Module, data: Examples) -> Scores:
    """One minus the average percentage of zeros of each channel behind its ReLU."""
    return _by_channel(model, data, lambda out: (out > 0).float())


def norm_scale(model: nn.Module) -> Scores:
    """|gain| of the batch norm that follows, for each channel; layers without one are left out."""
    behind = following(model, nn.BatchNorm1d | nn.BatchNorm2d)
    return {
        n: _spread(behind[n].weight.detach().abs(), m)
        for n, m in prunable(model).items()
        if n in behind
    }


def following(model: nn.Module, kind: type) -> dict[str, nn.Module]:
    """For each prunable layer the first module of that kind before the next one, in order of definition."""
    found, current = {}, None
    for name, module in model.named_modules():
        if isinstance(module, SOURCES):
            current = name
        elif isinstance(module, kind) and current is not None and current not in found:
            found[current] = module
    return found


@torch.no_grad()
def _by_channel(
    model: nn.Module, data: Examples, statistic: Callable[[torch.Tensor], torch.Tensor]
) -> Scores:
    if len(data) == 0:
        raise ValueError("data must hold at least one example, got 0")
    layers, relus = prunable(model), following(model, nn.ReLU)
    values: dict[str, torch.Tensor] = {}

    def record(name: str, _module: nn.Module, _inputs: tuple, out: torch.Tensor) -> None:
        # Channels of an image come second, those of a token last.
        tokens = out.ndim > 2 and isinstance(layers[name], nn.Linear)
        axes = tuple(range(out.ndim - 1)) if tokens else (0, *range(2, out.ndim))
        # A ReLU may serve several layers; the first call after the layer is its own.
        values.setdefault(name, statistic(out).mean(axes))

    watched = {n: relus.get(n, m) for n, m in layers.items()}
    with tapped(watched, after=record), evaluating(model):
        model(data.x)
    return {n: _spread(values[n], m) for n, m in layers.items()}


def _spread(channel: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    shape = (-1, *[1] * (layer.weight.ndim - 1))
    return channel.reshape(shape).expand_as(layer.weight).contiguous()
