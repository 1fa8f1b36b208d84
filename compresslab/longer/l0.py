"""L0 beside magnitude: gates that count weights (Louizos et al. 2018), at the sparsity that they reach.

Hard concrete gates make the number of weights that are not 0 a penalty with a gradient (`regularize.l0`).
Whatever share of zeros they end with, magnitude pruning is given the same share and as many epochs. The
gates have an optimizer of their own: their logits must move by several units, which the weights' rate does
not allow in so few steps.
"""

import torch
from torch import nn

from compresslab.data import load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import MLP
from compresslab.pretrained import AlsoStep
from compresslab.techniques import prune, regularize
from compresslab.training import evaluate, fit, seed_everything

EPOCHS, RATE, GATES_RATE, OPEN = 15, 0.1, 0.1, 0.7
STRENGTHS = (3e-6, 1e-5)


def run(seed: int, size: int) -> Rows:
    """For each strength of the penalty the gated network, and magnitude pruning to its sparsity."""
    data = load("glyphs", train_size=size, seed=seed)
    dense = grow(lambda: MLP(data), data.train, EPOCHS, RATE, seed)
    rows = {"dense": {"zeros, %": 0.0, "test accuracy, %": evaluate(dense, data.test)}}
    for number, strength in enumerate(STRENGTHS, 1):
        seed_everything(seed)
        network = regularize.gated(MLP(data), OPEN)
        gates = [
            p
            for m in network.modules()
            if isinstance(m, regularize.HardConcrete)
            for p in m.parameters()
        ]
        sparse = regularize.ungated(_trained(network, gates, data.train, strength, seed))
        zeros = prune.Mask.of_zeros(sparse).sparsity
        cut = grow(
            lambda: MLP(data),
            *(data.train, EPOCHS, RATE, seed),
            hooks=lambda _, zeros=zeros: [prune.PruneGradually(zeros)],
        )
        for name, found in (
            (f"L0, penalty {number}", sparse),
            (f"magnitude, as many zeros as {number}", cut),
        ):
            rows[name] = {"zeros, %": 100 * zeros, "test accuracy, %": evaluate(found, data.test)}
    return rows


def _trained(
    network: nn.Module, gates: list, examples: object, strength: float, seed: int
) -> nn.Module:
    known = {id(p) for p in gates}
    weights = [p for p in network.parameters() if id(p) not in known]
    first = torch.optim.SGD(weights, RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    second = AlsoStep(torch.optim.Adam(gates, GATES_RATE), first)
    loss = regularize.penalized(regularize.l0, strength)
    fit(
        network,
        examples,
        EPOCHS,
        RATE,
        loss=loss,
        hooks=[second],
        seed=seed,
        optimizer=first,
        progress=False,
    )
    return network


def _behind(rows: Rows, number: int) -> float:
    return (
        rows[f"magnitude, as many zeros as {number}"]["test accuracy, %"]
        - rows[f"L0, penalty {number}"]["test accuracy, %"]
    )


EXPERIMENT = Experiment(
    question=(
        "A penalty that counts weights, or cutting the smallest: which loses less at the "
        "same number of zeros?"
    ),
    run=run,
    size=4_000,
    findings=(
        Finding(
            "Cutting the smallest weights loses less than the penalty that counts them, at both "
            "numbers of zeros",
            lambda r: min(_behind(r, number) for number in (1, 2)),
            "points",
        ),
    ),
)
