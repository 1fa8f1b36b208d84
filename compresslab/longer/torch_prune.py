"""torch's four ways to prune beside our masks, on copies of one network, before and after tuning.

`torch.nn.utils.prune` has `random_unstructured`, `l1_unstructured`, `ln_structured` and
`global_unstructured`. Each takes the same share of the weights of every layer but the last away
(`global_unstructured`: of all of them together). An article calls a loop of the second over all
convolutions "structured": it is not, as the shapes of the zeros show.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from compresslab.data import load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow, train
from compresslab.models import VGGLike
from compresslab.techniques import prune, scores
from compresslab.training import evaluate

SHARE, EPOCHS = 0.6, 5


def run(seed: int, size: int) -> Rows:
    """One dense network, cut by torch's four calls and by our masks."""
    data = load("glyphs", train_size=size, seed=seed)
    dense = grow(lambda: VGGLike(data, widths=(16, 32, 64)), data.train, EPOCHS, 0.2, seed)
    rows = {}
    for name, cut in WAYS.items():
        # torch's random mask takes a view, which weights with channels last in memory have not.
        network = cut(copy.deepcopy(dense).to(memory_format=torch.contiguous_format))
        mask = prune.Mask.of_zeros(network)
        before = evaluate(network, data.test)
        train(network, data.train, 1, 0.05, seed, hooks=lambda _, mask=mask: [prune.KeepMask(mask)])
        whole = [
            float((layer.weight.flatten(1) == 0).all(1).double().mean())
            for layer in _layers(network)
        ]
        rows[name] = {
            "zeros, %": 100 * mask.sparsity,
            "channels of zeros, %": 100 * sum(whole) / len(whole),
            "accuracy, %": before,
            "tuned one epoch, %": evaluate(network, data.test),
        }
    return rows


def _layers(network: nn.Module) -> list[nn.Module]:
    return list(scores.prunable(network, last=False).values())


def _each(method: Callable, **options: object) -> Callable[[nn.Module], nn.Module]:
    def cut(network: nn.Module) -> nn.Module:
        for layer in _layers(network):
            method(layer, "weight", amount=SHARE, **options)
            torch_prune.remove(layer, "weight")
        return network

    return cut


def _global(network: nn.Module) -> nn.Module:
    parts = [(layer, "weight") for layer in _layers(network)]
    torch_prune.global_unstructured(parts, torch_prune.L1Unstructured, amount=SHARE)
    for layer, name in parts:
        torch_prune.remove(layer, name)
    return network


def _squares(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: score.square() for name, score in scores.magnitude(network).items()}


def _ours(score: Callable, **options: object) -> Callable[[nn.Module], nn.Module]:
    def cut(network: nn.Module) -> nn.Module:
        kept = scores.prunable(network, last=False)
        found = {name: values for name, values in score(network).items() if name in kept}
        return prune.select(found, SHARE, **options).apply(network)

    return cut


WAYS = {
    "random_unstructured": _each(torch_prune.random_unstructured),
    "l1_unstructured": _each(torch_prune.l1_unstructured),
    "ln_structured, n = 2, dim = 0": _each(torch_prune.ln_structured, n=2, dim=0),
    "global_unstructured, L1": _global,
    "ours: random": _ours(scores.random, scope="layer"),
    "ours: magnitude, each layer": _ours(scores.magnitude, scope="layer"),
    "ours: squares, channels": _ours(_squares, granularity="channel", scope="layer"),
    "ours: magnitude, global": _ours(scores.magnitude),
}
TWINS = (
    ("l1_unstructured", "ours: magnitude, each layer"),
    ("global_unstructured, L1", "ours: magnitude, global"),
)
"""torch's call, and ours that should leave the same. Random masks differ; so may the number of channels."""


def _difference(rows: Rows) -> float:
    apart = [abs(rows[a][column] - rows[b][column]) for a, b in TWINS for column in rows[a]]
    return 0.5 - max(apart)


EXPERIMENT = Experiment(
    question=(
        "torch.nn.utils.prune has four calls. What does each leave of the same network, "
        "and is ours one of them?"
    ),
    run=run,
    size=4_000,
    findings=(
        Finding(
            "Our masks by magnitude leave what torch's leave, for each layer alone and for all together",
            _difference,
            "points",
        ),
        Finding(
            "Removed at random, weights cost more than the smallest ones do, after tuning",
            lambda r: (
                r["l1_unstructured"]["tuned one epoch, %"]
                - r["random_unstructured"]["tuned one epoch, %"]
            ),
            "points",
        ),
        Finding(
            "l1_unstructured, called structured in one of the articles, leaves less than a "
            "tenth of the channels silent",
            lambda r: 10 - r["l1_unstructured"]["channels of zeros, %"],
            "points",
        ),
        Finding(
            "Whole channels cost more than single weights, after tuning",
            lambda r: (
                r["l1_unstructured"]["tuned one epoch, %"]
                - r["ln_structured, n = 2, dim = 0"]["tuned one epoch, %"]
            ),
            "points",
        ),
    ),
    note="The last layer stays whole.",
)
