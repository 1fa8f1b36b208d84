"""GPTQ at 8 bits and at 4, and its seconds: where is compensating worth the time?

Rounding to nearest needs no data; GPTQ (Frantar et al. 2023) needs passages and a Hessian for each layer, and
takes longer. What it takes is compared with one pass of training over the same passages, of which fine-tuning
needs many. The language model is the package's own; calibration and test passages are drawn anew for each
seed.
"""

import copy
import time
from collections.abc import Callable

import torch
from torch import nn

from compresslab import pretrained
from compresslab.data import corpus
from compresslab.gpt import next_token_loss, perplexity
from compresslab.longer.experiment import Experiment, Finding, Rows, train
from compresslab.techniques import gptq, weight_only
from compresslab.techniques.weight_only import WeightConfig

BITS, GROUP, RATE = (8, 4, 3), 64, 1e-4


def run(seed: int, size: int) -> Rows:
    """Both ways at each width; `size` is the number of calibration tokens."""
    model = pretrained.language_model()
    calibration = corpus.load("python", "train", 400_000).some(max(1, size // corpus.LENGTH), seed)
    test = corpus.load("python", "test", 60_000).some(max(2, min(size // 40, 100)), seed)
    base = perplexity(model, test)
    inputs = list(calibration.x.split(16))
    rows = {"floats": {"perplexity": base, "more, %": 0.0, "seconds": 0.0}}
    ways = {"floats, a pass of training": lambda: _trained(model, calibration, seed)}
    for bits in BITS:
        config = WeightConfig(bits, GROUP)
        ways[f"{bits} bits, nearest"] = lambda c=config: weight_only.quantize(model, c).model
        ways[f"{bits} bits, GPTQ"] = lambda c=config: gptq.quantize(model, inputs, c).model
    for name, way in ways.items():
        network, took = _timed(way)
        reached = perplexity(network, test)
        rows[name] = {
            "perplexity": reached,
            "more, %": 100 * (reached / base - 1),
            "seconds": took,
        }
    return rows


def _trained(model: nn.Module, passages: corpus.Passages, seed: int) -> nn.Module:
    options = dict(  # noqa: C408
        batch_size=16,
        loss=next_token_loss,
        optimizer=lambda n: torch.optim.AdamW(n.parameters(), RATE, weight_decay=0.0),
    )
    return train(copy.deepcopy(model), passages, 1, RATE, seed, **options)


def _timed(way: Callable[[], nn.Module]) -> tuple[nn.Module, float]:
    started = time.process_time()
    return way(), time.process_time() - started


EXPERIMENT = Experiment(
    question="GPTQ at 8 bits: is there anything left to compensate, and how long does it take?",
    run=run,
    size=4_096,
    findings=(
        Finding(
            "At 8 bits both are within a half per cent of the floats",
            lambda r: 0.5 - max(abs(r[f"8 bits, {n}"]["more, %"]) for n in ("nearest", "GPTQ")),
            "%",
        ),
        Finding(
            "At 3 bits GPTQ loses less than two thirds of what rounding to nearest loses",
            lambda r: 2 / 3 - r["3 bits, GPTQ"]["more, %"] / r["3 bits, nearest"]["more, %"],
            "times",
        ),
        Finding(
            "At 4 bits GPTQ costs less than six per cent of perplexity",
            lambda r: 6 - r["4 bits, GPTQ"]["more, %"],
            "%",
        ),
        Finding(
            "At 4 bits GPTQ takes less time than four passes of training over its passages",
            lambda r: 4 - r["4 bits, GPTQ"]["seconds"] / r["floats, a pass of training"]["seconds"],
            "times",
        ),
    ),
    digits=2,
)
