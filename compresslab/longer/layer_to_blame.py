"""Which layer of a small convolutional network is to blame for what 4-bit weights cost?

Two measures, since losses do not add up: the layer alone at 4 bits, all else in floats; and all at 4 bits but
this one, which says how much of the whole loss is left if the layer is spared. A layer is to blame where the
first is large and the second small. Weights by channel, min-max, nothing tuned; activations stay floats.
"""

import copy
from collections.abc import Iterable

import torch
from torch import nn

from compresslab.data import load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import DepthwiseNet, ResNet8, VGGLike
from compresslab.techniques import scores
from compresslab.techniques.quantizer import QuantConfig, WeightQuantizer
from compresslab.training import evaluate

BITS, EPOCHS = 4, 5
ALONE, SPARED = "alone at W4, points lost", "all but this one at W4, points lost"


def run(seed: int, size: int) -> Rows:
    """Both losses of every layer, and the loss of all layers together, for four networks."""
    data = load("glyphs", train_size=size, seed=seed)
    kinds = {
        "VGG-like": lambda: VGGLike(data, widths=(16, 32, 64)),
        "residual": lambda: ResNet8(data),
        "depthwise": lambda: DepthwiseNet(data),
        "very small": lambda: VGGLike(data, widths=(4, 8, 16)),
    }
    rows = {}
    for kind, make in kinds.items():
        network = grow(make, data.train, EPOCHS, 0.2, seed)
        base = evaluate(network, data.test)
        layers = scores.prunable(network)
        whole = base - evaluate(rounded(network, layers), data.test)
        rows[f"{kind}: all layers"] = {ALONE: whole, SPARED: whole}
        for name, layer in layers.items():
            others = [other for other in layers if other != name]
            rows[f"{kind}: layer {name}, {_form(layer)}"] = {
                ALONE: base - evaluate(rounded(network, [name]), data.test),
                SPARED: base - evaluate(rounded(network, others), data.test),
            }
    return rows


def rounded(network: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy of the network in which the weights of the named layers are at 4 bits."""
    found = copy.deepcopy(network)
    for name in names:
        weight = found.get_submodule(name).weight
        with torch.no_grad():
            weight.copy_(WeightQuantizer(weight, BITS, QuantConfig(BITS))(weight))
    return found


def _form(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return "linear"
    size = "x".join(str(side) for side in layer.kernel_size)
    return f"{size}, depthwise" if layer.groups > 1 else size


def _layers(rows: Rows, kind: str) -> dict[str, dict[str, float]]:
    """The rows of one network's layers."""
    whole = f"{kind}: all layers"
    return {n: row for n, row in rows.items() if n.startswith(f"{kind}:") and n != whole}


def _left(rows: Rows, kind: str, part: str = "") -> float:
    """The smallest part of the network's loss that is left when one layer of a kind is spared."""
    least = min(row[SPARED] for name, row in _layers(rows, kind).items() if name.endswith(part))
    return least / rows[f"{kind}: all layers"][SPARED]


KINDS = ("VGG-like", "residual", "depthwise", "very small")

EXPERIMENT = Experiment(
    question="At 4-bit weights: which layer is to blame, if one is?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "In the residual network no layer but the first costs 0.6 points alone",
            lambda r: 0.6 - max(row[ALONE] for row in list(_layers(r, "residual").values())[1:]),
            "points",
        ),
        Finding(
            "The depthwise layers are not to blame: whichever of them is spared, more than two fifths of "
            "the depthwise network's loss stay",
            lambda r: _left(r, "depthwise", "depthwise") - 0.4,
            "of the loss",
        ),
        Finding(
            "Nor is any other single layer: with the one spared that helps most, more than a tenth of the "
            "loss stays, on average over the four networks",
            lambda r: sum(_left(r, kind) for kind in KINDS) / 4 - 0.1,
            "of the loss",
        ),
    ),
    note="Layers by their place in the network; 3x3, 1x1: sizes of filters. Activations stay floats.",
)
