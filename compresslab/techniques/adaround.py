"""AdaRound (自适应舍入): each weight rounded up or down as suits the layer's output, not to the nearest code.

    code = floor(w / s) + h(v)        h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1)
    minimise over v:   mean (y - x̂ * s code)²  +  lambda sum (1 - |2 h(v) - 1|^beta)

Nagel et al. 2020, https://arxiv.org/abs/2004.10568, equations 21 to 25. `y` is what the float layer gives in
the float network, `x̂` what comes in from the quantized layers before, so that a layer makes up for them. The
second term, whose beta falls from 20 to 2, drives every h to 0 or 1; it is absent in the first fifth of the
steps. Nothing is trained but the direction of each rounding: scales, biases and activation ranges stay.

The result is a network of the same kind, whose float weights lie on their grids: nearest rounding finds the
codes again. A layer that is not nearer to the float outputs than before keeps its old weights. Weights that
are 0 have nothing to round, and stay 0: what was pruned before stays pruned.

Left out: the activation function inside the error, and one pass for all layers: the float network runs once
for each layer.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.network.normal import normal_form
from compresslab.network.taps import tapped
from compresslab.progress_bar import Bar
from compresslab.techniques.lockstep import layer_by_layer, run_order
from compresslab.techniques.quantizer import Quantized
from compresslab.training import evaluating

STEPS, RATE, BATCH, WEIGHT = 400, 0.02, 32, 0.01
"""Steps a layer, Adam's rate, examples a step, and lambda (the paper: 10,000 steps, 0.01)."""
STRETCH, WARM, BETAS = (-0.1, 1.1), 0.2, (20.0, 2.0)


def learn_rounding(
    quantized: nn.Module,
    model: nn.Module,
    images: torch.Tensor,
    steps: int = STEPS,
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """A copy whose weights are rounded so that each layer's outputs are nearest to the float network's.

    Args:
        quantized: from `quantize_post_training`; not changed.
        model: the float network that it was made from.
        images: what the outputs are compared on; some hundreds.
        steps: of each layer.
        seed: of the order of the examples.
        progress: whether to show a bar.

    Raises:
        ValueError: for no images, fewer than ten steps, or a network without quantized layers.
    """
    if len(images) == 0:
        raise ValueError("images must hold at least one, got 0")
    if steps < 10:
        raise ValueError(f"steps must be 10 or more, got {steps}")
    result = copy.deepcopy(quantized)
    layers = {n: m for n, m in result.named_modules() if isinstance(m, Quantized)}
    if not layers:
        raise ValueError("quantized must have quantized layers, got none")
    reference = normal_form(model, images[:1])
    parts = images.split(BATCH)
    with (
        evaluating(result),
        evaluating(reference),
        Bar(len(layers), "rounding" if progress else "") as bar,
    ):
        names = run_order(result, parts[:1], layers)

        def visit(name: str, inputs: list[torch.Tensor]) -> None:
            wanted = _outputs(reference, name, parts)
            _learn(layers[name], inputs, wanted, steps, seed + names.index(name))
            bar.advance()

        layer_by_layer(result, parts, layers, visit)
    return result


def _outputs(model: nn.Module, name: str, parts: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """What a layer of the float network gives for each batch."""
    found: list[torch.Tensor] = []
    layer = {name: model.get_submodule(name)}
    with tapped(layer, after=lambda _n, _l, _i, output: found.append(output)), torch.no_grad():
        for part in parts:
            model(part)
    return found


def _learn(
    layer: Quantized, inputs: list[torch.Tensor], wanted: list[torch.Tensor], steps: int, seed: int
) -> None:
    """Choose each rounding of one layer; its weights come to lie on their grid, if that is better."""
    x, y = torch.cat(inputs), torch.cat(wanted)
    weight = layer.layer.weight.detach()
    scale = _scale_of_each(layer)
    below, kept = torch.floor(weight / scale), (weight != 0).to(weight.dtype)
    grid = layer.weight_quantizer.grid

    def soft(up: torch.Tensor) -> torch.Tensor:
        return scale * (below + up * kept).clamp(grid.low, grid.high)

    low, high = STRETCH
    share = ((weight / scale - below).clamp(0.01, 0.99) - low) / (high - low)
    v = torch.log(share / (1 - share)).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([v], RATE)
    with torch.enable_grad():
        for step in range(steps):
            index = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator)
            up = (torch.sigmoid(v) * (high - low) + low).clamp(0, 1)
            loss = _error(layer.layer, x[index], soft(up), y[index])
            done = step / steps
            if done >= WARM:
                beta = BETAS[1] + (BETAS[0] - BETAS[1]) * (1 - (done - WARM) / (1 - WARM))
                loss = loss + WEIGHT * (1 - (2 * up - 1).abs().pow(beta)).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    chosen = soft((torch.sigmoid(v.detach()) * (high - low) + low >= 0.5).to(weight.dtype))
    nearest = layer.weight_quantizer(weight)
    with torch.no_grad():
        if _error(layer.layer, x, chosen, y) < _error(layer.layer, x, nearest, y):
            layer.layer.weight.copy_(chosen)


def _scale_of_each(layer: Quantized) -> torch.Tensor:
    """The scale of every weight, in the weight's shape."""
    params, weight = layer.weight_quantizer.qparams(), layer.layer.weight
    scale = params.scale
    if params.group is not None:
        return scale.repeat_interleave(params.group, dim=1).reshape(weight.shape)
    return scale.reshape(-1, *(1 for _ in weight.shape[1:])).expand(weight.shape)


def _error(
    layer: nn.Module, x: torch.Tensor, weight: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """The squared error of an example's outputs at one place, summed over channels, on average."""
    if isinstance(layer, nn.Linear):
        found = F.linear(x, weight, layer.bias)
        return (found - wanted).square().sum(-1).mean()
    return (layer._conv_forward(x, weight, layer.bias) - wanted).square().sum(1).mean()
