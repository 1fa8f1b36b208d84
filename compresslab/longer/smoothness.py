"""Small changes of the weights have small effects: how small, and how far does it go?

Every weight of a trained network is moved at random by a share of its layer's root mean square. To first
order the loss changes by g d, which is near 0 at a minimum; to second order by d H d / 2, which grows with
the square of the share (LeCun et al. 1989, "Optimal brain damage", equation 1). If that holds, twice the
share is four times the loss, and pruning and rounding are cheap as long as they are small.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.data import load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import VGGLike
from compresslab.techniques import scores
from compresslab.training import evaluate, logits

SHARES, DRAWS, EPOCHS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), 4, 5


def run(seed: int, size: int) -> Rows:
    """Loss and accuracy on test images, means over four directions, the same ones for every share."""
    data = load("glyphs", train_size=size, seed=seed)
    network = grow(lambda: VGGLike(data, widths=(16, 32, 64)), data.train, EPOCHS, 0.2, seed)

    def state(model: nn.Module) -> tuple[float, float]:
        answers = logits(model, data.test.x)
        return float(F.cross_entropy(answers, data.test.y)), evaluate(model, data.test)

    loss, accuracy = state(network)
    rows = {}
    for share in SHARES:
        found = [state(moved(network, share, seed * DRAWS + draw)) for draw in range(DRAWS)]
        rows[f"{100 * share:g} %"] = {
            "loss up by": sum(one for one, _ in found) / DRAWS - loss,
            "accuracy down by, points": accuracy - sum(one for _, one in found) / DRAWS,
        }
    return rows


@torch.no_grad()
def moved(network: nn.Module, share: float, seed: int) -> nn.Module:
    """A copy with normal noise on every weight, of `share` of its layer's root mean square."""
    generator = torch.Generator().manual_seed(seed)
    network = copy.deepcopy(network)
    for layer in scores.prunable(network).values():
        size = layer.weight.square().mean().sqrt()
        noise = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.add_(share * size * noise)
    return network


EXPERIMENT = Experiment(
    question="If every weight moves a little at random, how much does the network change?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "Moved by 2 % of their size, the weights cost less than half a point",
            lambda r: 0.5 - r["2 %"]["accuracy down by, points"],
            "points",
        ),
        Finding(
            "Moved by half of their size, they cost more than 20 points",
            lambda r: r["50 %"]["accuracy down by, points"] - 20,
            "points",
        ),
        Finding(
            "From 10 to 20 % the loss grows more than twice as much: faster than in proportion",
            lambda r: r["20 %"]["loss up by"] / r["10 %"]["loss up by"] - 2,
            "times",
        ),
    ),
    digits=3,
)
