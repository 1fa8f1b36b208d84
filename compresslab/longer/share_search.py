"""Which share of each layer? Twenty random trials, beside one share for all and a global cut.

AutoML for pruning (He et al. 2018, AMC, https://arxiv.org/abs/1802.03494) searches the fraction of each
layer by reinforcement; random search is its plain control (Li and Talwalkar 2019,
https://arxiv.org/abs/1902.07638). All plans below remove the same number of weights, and all are tuned
alike; the search is judged by validation images without tuning, and reported on test images.
"""

import copy

import numpy as np
from torch import nn

from compresslab.data import load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow, train
from compresslab.models import VGGLike
from compresslab.techniques import prune, scores
from compresslab.training import evaluate

TRIALS, KEPT, EPOCHS = 20, 0.15, 5


def run(seed: int, size: int) -> Rows:
    """Prune one network by three kinds of plan, and tune each for an epoch."""
    data = load("glyphs", train_size=size, seed=seed)
    dense = grow(lambda: VGGLike(data, widths=(16, 32, 64)), data.train, EPOCHS, 0.2, seed)
    layers = scores.prunable(dense)
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    generator = np.random.default_rng(seed)
    plans = [random_plan(sizes, KEPT, generator) for _ in range(TRIALS)]
    found = max(plans, key=lambda plan: evaluate(_cut(dense, plan)[0], data.val))
    magnitude = scores.magnitude(dense)
    ways = {
        "one share for all": _cut(dense, dict.fromkeys(sizes, KEPT)),
        "the first random plan": _cut(dense, plans[0]),
        f"the best of {TRIALS} random plans": _cut(dense, found),
        "global magnitude": _masked(dense, prune.select(magnitude, 1 - KEPT)),
    }
    rows = {}
    for name, (network, mask) in ways.items():
        before = evaluate(network, data.test)
        train(network, data.train, 1, 0.05, seed, hooks=lambda _, mask=mask: [prune.KeepMask(mask)])
        rows[name] = {
            "weights kept, %": 100 * (1 - mask.sparsity),
            "test accuracy, %": before,
            "tuned one epoch, %": evaluate(network, data.test),
        }
    return rows


def random_plan(
    sizes: dict[str, int], kept: float, generator: np.random.Generator
) -> dict[str, float]:
    """Shares to keep, log-uniform for each layer, scaled until they are `kept` of all weights together."""
    drawn = {name: float(np.exp(generator.uniform(np.log(0.25), np.log(4)))) for name in sizes}
    low, high = 0.0, 4.0
    for _ in range(60):  # a bisection: the sum rises with the factor, clipped at whole layers
        factor = (low + high) / 2
        plan = {name: min(1.0, factor * drawn[name]) for name in sizes}
        together = sum(plan[name] * sizes[name] for name in sizes) / sum(sizes.values())
        low, high = (factor, high) if together < kept else (low, factor)
    return plan


def _cut(dense: nn.Module, plan: dict[str, float]) -> tuple[nn.Module, prune.Mask]:
    magnitude = scores.magnitude(dense)
    keep = {}
    for name, share in plan.items():
        keep |= prune.select({name: magnitude[name]}, 1 - share).keep
    return _masked(dense, prune.Mask(keep))


def _masked(dense: nn.Module, mask: prune.Mask) -> tuple[nn.Module, prune.Mask]:
    return mask.apply(copy.deepcopy(dense)), mask


def _tuned(rows: Rows, name: str) -> float:
    return rows[name]["tuned one epoch, %"]


EXPERIMENT = Experiment(
    question=(
        "85 % of the weights are to go. Does a search for the share of each layer beat one "
        "share for all?"
    ),
    run=run,
    size=4_000,
    findings=(
        Finding(
            "A global cut is better than one share for all, after tuning",
            lambda r: _tuned(r, "global magnitude") - _tuned(r, "one share for all"),
            "points",
        ),
    ),
    note="The search chooses before tuning; what its plan is worth after differs widely from seed to seed.",
)
