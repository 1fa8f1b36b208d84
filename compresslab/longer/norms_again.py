"""Pruned and not tuned: how much of the loss is in the batch norms?

Weights that are gone change the mean and the variance of every layer's outputs, and the norms behind expect
the old ones. Their statistics can be taken anew from images without labels (Li et al. 2020, section 3). Rows:
the pruned network as it is, with norms re-estimated from 500 images, and tuned for an epoch with labels; the
dense network with norms re-estimated is the control.
"""

import copy

from torch import nn

from compresslab.data import Split, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow, train
from compresslab.models import ResNet8, VGGLike
from compresslab.techniques.norms import reestimated
from compresslab.techniques.prune import KeepMask, select
from compresslab.techniques.scores import magnitude
from compresslab.training import evaluate

EPOCHS, RATE, TUNING = 5, 0.2, 0.05
SHARES = (0.6, 0.8, 0.9)
NETWORKS = ("VGG-like", "ResNet-8")


def run(seed: int, size: int) -> Rows:
    """Two networks at three shares of zeros."""
    data = load("glyphs", train_size=size, seed=seed)
    networks = {
        "VGG-like": grow(
            lambda: VGGLike(data, widths=(16, 32, 64)), data.train, EPOCHS, RATE, seed
        ),
        "ResNet-8": grow(lambda: ResNet8(data), data.train, EPOCHS, RATE, seed),
    }
    rows = {}
    for name, network in networks.items():
        rows[f"{name}, dense"] = _row(network, data)
        rows[f"{name}, dense, norms again"] = _row(reestimated(network, data.train.x[:500]), data)
        for share in SHARES:
            pruned, mask = copy.deepcopy(network), select(magnitude(network), share)
            mask.apply(pruned)
            tuned = copy.deepcopy(pruned)
            train(tuned, data.train, 1, TUNING, seed, hooks=lambda _, mask=mask: [KeepMask(mask)])
            label = f"{name}, {100 * share:.0f} % zeros"
            rows[label] = _row(pruned, data)
            rows[f"{label}, norms again"] = _row(reestimated(pruned, data.train.x[:500]), data)
            rows[f"{label}, an epoch of tuning"] = _row(tuned, data)
    return rows


def _row(network: nn.Module, data: Split) -> dict[str, float]:
    return {"test accuracy, %": evaluate(network, data.test)}


def _reached(rows: Rows, name: str) -> float:
    return rows[name]["test accuracy, %"]


def _won_back(rows: Rows, name: str, share: int) -> float:
    """The share of the lost points that the norms alone win back."""
    dense = _reached(rows, f"{name}, dense")
    as_it_is = _reached(rows, f"{name}, {share} % zeros")
    return (_reached(rows, f"{name}, {share} % zeros, norms again") - as_it_is) / (dense - as_it_is)


EXPERIMENT = Experiment(
    question="Pruned and not tuned: how much of the loss is in the norms?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "At 80 % zeros the norms alone win back more than 70 % of the points that pruning lost, in both "
            "networks",
            lambda r: min(_won_back(r, name, 80) for name in NETWORKS) - 0.7,
            "of the points",
        ),
        Finding(
            "An epoch of tuning with labels is better still",
            lambda r: min(
                _reached(r, f"{name}, 80 % zeros, an epoch of tuning")
                - _reached(r, f"{name}, 80 % zeros, norms again")
                for name in NETWORKS
            ),
            "points",
        ),
        Finding(
            "The dense network gains or loses less than a point by it",
            lambda r: (
                1
                - max(
                    abs(_reached(r, f"{name}, dense, norms again") - _reached(r, f"{name}, dense"))
                    for name in NETWORKS
                )
            ),
            "points",
        ),
    ),
    note="Norms again: means and variances of 500 images, no label, no weight trained.",
)
