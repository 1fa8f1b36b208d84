"""Does pruning make a network generalise better? Train and test accuracy over sparsity, with little data.

It is said that a pruned network is a regularised one. The networks below see few images, so that there is
something to regularise. The control is a dense network that trains for as many steps: with it, the gain of
tuning is not taken for a gain of pruning.
"""

import copy

from compresslab.data import load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow, train
from compresslab.models import VGGLike
from compresslab.techniques import prune
from compresslab.training import evaluate

SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
EPOCHS, TUNING = 15, 10


def run(seed: int, size: int) -> Rows:
    """One dense network; each copy is pruned gradually while it trains on, the first not at all."""
    data = load("glyphs", train_size=size, seed=seed)
    dense = grow(lambda: VGGLike(data), data.train, EPOCHS, 0.1, seed)
    rows = {}
    for sparsity in SPARSITIES:
        network = copy.deepcopy(dense)
        hooks = [prune.PruneGradually(sparsity, every=5)] if sparsity else []
        train(network, data.train, TUNING, 0.05, seed, hooks=lambda _, hooks=hooks: hooks)
        seen, unseen = evaluate(network, data.train), evaluate(network, data.test)
        rows[f"{100 * sparsity:.0f} % zeros"] = {
            "train accuracy, %": seen,
            "test accuracy, %": unseen,
            "gap, points": seen - unseen,
        }
    return rows


def _gain(rows: Rows) -> float:
    dense = rows["0 % zeros"]["test accuracy, %"]
    return max(row["test accuracy, %"] for row in rows.values()) - dense


EXPERIMENT = Experiment(
    question=(
        "With few images a network knows its training set by heart. Does a sparse one do "
        "better on new images?"
    ),
    run=run,
    size=1_000,
    findings=(
        Finding(
            "No sparsity is worth a point on new images over the dense network trained as long",
            lambda r: 1 - _gain(r),
            "points",
        ),
    ),
    note="0 % zeros is the dense network, trained on for as many steps.",
)
