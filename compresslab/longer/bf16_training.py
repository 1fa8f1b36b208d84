"""Training in bf16: products in 16 bits with weights in 32, or everything in 16.

Kalamkar et al. (2019, https://arxiv.org/abs/1905.12322) train large networks in bf16 without loss and keep
a copy of the weights in fp32. `torch.autocast` does that; the control has its weights in bf16 as well,
where a step that is smaller than a 256th of a weight is lost. How long a step takes depends on whether the
processor multiplies bf16.
"""

import time

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.data import load
from compresslab.experiment import built
from compresslab.longer.experiment import Experiment, Finding, Rows, reached
from compresslab.models import VGGLike
from compresslab.training import Batch, cross_entropy, evaluate, fit

EPOCHS, RATE = 6, 0.1


def in_bf16(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy with products in bf16; the loss in fp32."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answers = model(batch.x)
    return F.cross_entropy(answers.float(), batch.y)


def all_in_bf16(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy of a network whose weights are bf16."""
    return F.cross_entropy(model(batch.x.bfloat16()).float(), batch.y)


def run(seed: int, size: int) -> Rows:
    """The same network in three formats, the same steps on the same images."""
    data = load("glyphs", train_size=size, seed=seed)
    lessons = {
        "fp32": (cross_entropy, torch.float32),
        "bf16 products, fp32 weights": (in_bf16, torch.float32),
        "all in bf16": (all_in_bf16, torch.bfloat16),
    }
    rows = {}
    for name, (loss, kind) in lessons.items():
        network = built(lambda: VGGLike(data, widths=(16, 32, 64)), (seed,))[0].to(kind)
        started = time.process_time()
        done = fit(network, data.train, EPOCHS, RATE, loss=loss, seed=seed, progress=False)
        took = time.process_time() - started
        rows[name] = {
            "ms a step": 1e3 * took / done.steps,
            "test accuracy, %": evaluate(network.float(), data.test),
        }
    return rows


EXPERIMENT = Experiment(
    question="Does training in bf16 lose anything, and is it faster here?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "With weights in fp32, products in bf16 cost less than two points",
            lambda r: 2 - (reached(r, "fp32") - reached(r, "bf16 products, fp32 weights")),
            "points",
        ),
    ),
    note=(
        "All in bf16 does as well here: so few steps at so high a rate need no copy in fp32. "
        "How fast: the processor."
    ),
)
