"""Half of the channels of a residual network, really removed, beside the plain network's.

What a shortcut adds to must lose the same channels as what is added (Fang et al. 2023, DepGraph,
https://arxiv.org/abs/2301.12900, call them coupled). `surgery` follows the graph and cuts them together.
The control is a network of half the width, trained from scratch for as many steps in all (Liu et al. 2019,
https://arxiv.org/abs/1810.05270).
"""

from compresslab.data import load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.measure import disk_bytes
from compresslab.models import ResNet8, VGGLike
from compresslab.stages import CutChannels, material_of
from compresslab.training import evaluate

EPOCHS, TUNING = 5, 3


def run(seed: int, size: int) -> Rows:
    """Both kinds of network: whole, cut, cut and tuned, and half as wide from scratch."""
    data = load("glyphs", train_size=size, seed=seed)
    rows = {}
    for kind, name in ((ResNet8, "residual"), (VGGLike, "plain")):
        whole = grow(
            lambda kind=kind: kind(data, widths=(16, 32, 64)), data.train, EPOCHS, 0.2, seed
        )
        material = material_of(data, epochs=TUNING, seed=seed, progress=False)
        cut = CutChannels(0.5, epochs=0)(whole, material)
        tuned = CutChannels(0.5)(whole, material)
        half = grow(
            lambda kind=kind: kind(data, widths=(8, 16, 32)), data.train, EPOCHS + TUNING, 0.2, seed
        )
        for what, network in (
            ("whole", whole),
            ("cut", cut),
            ("cut and tuned", tuned),
            ("half, from scratch", half),
        ):
            rows[f"{name}, {what}"] = {
                "file, kB": disk_bytes(network) / 1e3,
                "test accuracy, %": evaluate(network, data.test),
            }
    return rows


REACHED = "test accuracy, %"

EXPERIMENT = Experiment(
    question=(
        "Half of every layer's channels go, those that a shortcut joins together as well. "
        "What does it cost?"
    ),
    run=run,
    size=4_000,
    findings=(
        Finding(
            "The cut residual network's file is 2.5 times smaller than the whole one's and more",
            lambda r: r["residual, whole"]["file, kB"] / r["residual, cut"]["file, kB"] - 2.5,
            "times",
        ),
        Finding(
            "Cut, both kinds are near guessing; tuned, they have more than 60 points back",
            lambda r: (
                min(
                    r[f"{name}, cut and tuned"][REACHED] - r[f"{name}, cut"][REACHED]
                    for name in ("plain", "residual")
                )
                - 60
            ),
            "points",
        ),
    ),
)
