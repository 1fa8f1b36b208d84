"""Quantization-aware training from scratch, run longer: does it overtake fine-tuning? What does a step cost?

In lab 03 training in 2 bits from scratch (QAT) stays below fine-tuning a trained network (QAF) at equal
epochs; an article says the reverse. Here both get more and more epochs; QAF spends three quarters of them in
floats. It begins twice: at the steps that the smallest and largest numbers give, as training from scratch
does, and at those of the smallest squared error, which a trained network has and a fresh one has not.
"""

import time
from dataclasses import replace

import torch

from compresslab.data import load
from compresslab.experiment import built
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import VGGLike
from compresslab.techniques.qat import tune
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluate

BUDGETS, BITS, EDGES = (4, 8, 16), 2, 8


def run(seed: int, size: int) -> Rows:
    """For each budget of epochs: floats, QAT from scratch, and QAF."""
    data = load("glyphs", train_size=size, seed=seed)
    config = QuantConfig(BITS, BITS, edge_bits=EDGES, learned=True)
    good_start = replace(config, weight_range="mse", activation_range="mse")

    def make() -> torch.nn.Module:
        return VGGLike(data, widths=(16, 32, 64))

    rows = {}
    for budget in BUDGETS:
        float_part = 3 * budget // 4
        floats, of_floats = _timed(lambda b=budget: grow(make, data.train, b, 0.2, seed))
        fresh = built(make, (seed,))[0]
        scratch, of_scratch = _timed(
            lambda n=fresh, b=budget: tune(n, config, data.train, b, 0.1, seed=seed, progress=False)
        )
        begun = grow(make, data.train, float_part, 0.2, seed)
        fine, from_mse = (
            tune(begun, c, data.train, budget - float_part, 0.02, seed=seed, progress=False)
            for c in (config, good_start)
        )
        steps = budget * -(-len(data.train) // 128)
        rows[f"{budget} epochs"] = {
            "floats, %": evaluate(floats, data.test),
            "2 bits from scratch, %": evaluate(scratch, data.test),
            "2 bits, fine-tuned, %": evaluate(fine, data.test),
            "fine-tuned from MSE steps, %": evaluate(from_mse, data.test),
            "ms a step, floats": 1e3 * of_floats / steps,
            "ms a step, 2 bits": 1e3 * of_scratch / steps,
        }
    return rows


def _timed(call: object) -> tuple[torch.nn.Module, float]:
    started = time.process_time()
    return call(), time.process_time() - started


def _ahead(row: dict[str, float]) -> float:
    return row["2 bits, fine-tuned, %"] - row["2 bits from scratch, %"]


EXPERIMENT = Experiment(
    question="Given four times the epochs, does training in 2 bits from scratch overtake fine-tuning?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "In 4 epochs fine-tuning is ahead of training from scratch",
            lambda r: _ahead(r["4 epochs"]),
            "points",
        ),
        Finding(
            "In 16 epochs training from scratch is ahead of fine-tuning from the same kind of steps, which "
            "has the last four of them",
            lambda r: -_ahead(r["16 epochs"]),
            "points",
        ),
        Finding(
            "Fine-tuning from MSE steps is no more than two points behind training from scratch, however "
            "many epochs both have",
            lambda r: (
                2
                + min(
                    row["fine-tuned from MSE steps, %"] - row["2 bits from scratch, %"]
                    for row in r.values()
                )
            ),
            "points",
        ),
        Finding(
            "A step through quantizers takes longer than one without",
            lambda r: (
                1
                - sum(row["ms a step, floats"] / row["ms a step, 2 bits"] for row in r.values())
                / len(r)
            ),
            "of its time",
        ),
    ),
    note="Fine-tuning has a quarter of the epochs, at a tenth of the rate.",
)
