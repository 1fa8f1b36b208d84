"""Tight resources, and a processor that counts bits: does the binary network win where an article sends it?

"Where resources are tight: binarize, or choose bits to taste." The device here has popcount (as every
processor of the last fifteen years), and room for less than an eighth of the float network's file. What the
advisor proposes there is built, tested on validation images, and raced with the float network: two bits, half
of the channels at four bits, and a binary network, wherever it ranks.
"""

import math

from compresslab.advisor import Advisor, Scenario
from compresslab.data import load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import VGGLike
from compresslab.runtime import files

WIDTHS, EPOCHS, FRACTION = (32, 64, 128), 8, 8.5


def run(seed: int, size: int) -> Rows:
    """One float network, and everything that the advisor proposes below the limit."""
    data = load("glyphs", train_size=size, seed=seed)
    network = grow(lambda: VGGLike(data, widths=WIDTHS), data.train, EPOCHS, 0.2, seed)
    limit = files.size(network) / FRACTION
    scenario = Scenario("tight", max_bytes=limit, max_points_lost=math.inf, batch=16)
    advice = Advisor(network, data, seed=seed, widths=WIDTHS).advise(scenario)
    return {
        verdict.name: {
            "file, kB": verdict.bytes / 1e3,
            "points lost, validation": verdict.points_lost,
            "times faster, batch 16": verdict.speedup,
        }
        for verdict in sorted(advice.verdicts, key=lambda verdict: verdict.name)
        if math.isfinite(verdict.points_lost)
    }


LOST, FASTER = "points lost, validation", "times faster, batch 16"

EXPERIMENT = Experiment(
    question="An eighth of the bytes, on a processor with popcount: where does the binary network rank?",
    run=run,
    size=3_000,
    findings=(
        Finding(
            "Half of the channels at four bits lose less than the binary network",
            lambda r: r["binary"][LOST] - r["half the channels, 4 bits"][LOST],
            "points",
        ),
        Finding(
            "And are faster than it in batches of 16",
            lambda r: r["half the channels, 4 bits"][FASTER] - r["binary"][FASTER],
            "times",
        ),
        Finding(
            "In a file more than 1.5 times smaller",
            lambda r: r["binary"]["file, kB"] / r["half the channels, 4 bits"]["file, kB"] - 1.5,
            "times",
        ),
    ),
)
