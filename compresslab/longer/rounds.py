"""A tenth a round or a half a round? The lottery ticket's search at two paces, to the same share of weights.

Frankle and Carbin (2019) remove 20 % a round and say that more rounds find smaller tickets; an article
takes 10 %. Halves need three rounds to an eighth, tenths twenty: nearly seven times the training. The
control is one cut to an eighth, by magnitude, and the same weights drawn anew.
"""

import copy

import torch
from torch import nn

from compresslab.data import load
from compresslab.longer.experiment import Experiment, Finding, Rows, reached, train
from compresslab.models import MLP
from compresslab.techniques import prune, tickets
from compresslab.training import evaluate, seed_everything

EPOCHS = 10
PACES = {"one cut to an eighth": 0.125, "halves, 3 rounds": 0.5, "tenths, 20 rounds": 0.9}


def run(seed: int, size: int) -> Rows:
    """Search at each pace, then train the ticket, and the same mask from other weights."""
    data = load("glyphs", train_size=size, seed=seed)
    seed_everything(seed)
    start = MLP(data).state_dict()

    def trained(state: dict[str, torch.Tensor], mask: prune.Mask | None) -> nn.Module:
        network = MLP(data)
        network.load_state_dict(copy.deepcopy(state))
        hooks = [prune.KeepMask(mask)] if mask else []
        return train(network, data.train, EPOCHS, 0.1, seed, hooks=lambda _: hooks)

    dense = trained(start, None)
    rows = {
        "dense": {
            "left, %": 100.0,
            "trainings": 1.0,
            "test accuracy, %": evaluate(dense, data.test),
        }
    }
    for name, pace in PACES.items():
        mask, network, shares = None, dense, _shares(pace)
        for share in shares:
            mask = tickets.next_mask(network, mask, share)
            network = trained(start, mask)
        rows[name] = {
            "left, %": 100 * (1 - mask.sparsity),
            "trainings": 1.0 + len(shares),
            "test accuracy, %": evaluate(network, data.test),
        }
    seed_everything(seed + 500)
    other = trained(MLP(data).state_dict(), mask)
    rows["tenths, other weights"] = rows["tenths, 20 rounds"] | {
        "test accuracy, %": evaluate(other, data.test)
    }
    return rows


def _shares(pace: float) -> list[float]:
    """What is left after each round, down to an eighth."""
    left, found = 1.0, []
    while left > 0.125 * 1.001:
        left = max(left * pace, 0.125)
        found.append(left)
    return found


EXPERIMENT = Experiment(
    question=(
        "A ticket of an eighth of the weights, found by cutting once, by halves, or by "
        "tenths: is patience paid?"
    ),
    run=run,
    size=4_000,
    findings=(
        Finding(
            "Tenths find a better ticket than halves, for five times the training",
            lambda r: reached(r, "tenths, 20 rounds") - reached(r, "halves, 3 rounds"),
            "points",
        ),
        Finding(
            "Tenths find a better ticket than one cut, at ten times the training",
            lambda r: reached(r, "tenths, 20 rounds") - reached(r, "one cut to an eighth"),
            "points",
        ),
    ),
)
