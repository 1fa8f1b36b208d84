"""Half precision as a step of its own: trained networks cast to fp16 and bf16, tested, weighed and timed.

Nothing is tuned and nothing is calibrated: the cast is the cheapest compression there is, and the first to
try. One of the articles has a converter that "quantizes to 8 bits" and writes float16 files: this is what
it does.
"""

import copy

import torch
from torch import nn

from compresslab import pretrained
from compresslab.data import keywords, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.measure import disk_bytes, race_networks
from compresslab.models import DepthwiseNet, VGGLike
from compresslab.training import evaluate

KINDS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
EPOCHS, TEXT_EPOCHS, RATE = 5, 4, 0.004


class Cast(nn.Module):
    """A network in another format, between float32 inputs and outputs."""

    def __init__(self, network: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.network, self.kind = copy.deepcopy(network).to(kind), kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of any shape; tokens stay integers."""
        return self.network(x.to(self.kind) if x.is_floating_point() else x).float()


def run(seed: int, size: int) -> Rows:
    """Three networks in three formats."""
    images = load("glyphs", train_size=size, seed=seed)
    windows = keywords.load(train_size=size, seed=seed)
    encoder = grow(
        lambda: pretrained.keyword_encoder(width=64, layers=3),
        *(windows.train, TEXT_EPOCHS, RATE, seed),
        batch_size=64,
        optimizer=lambda n: torch.optim.AdamW(n.parameters(), RATE, weight_decay=0.05),
    )
    subjects = {
        "VGG-like": (
            grow(lambda: VGGLike(images, widths=(16, 32, 64)), images.train, EPOCHS, 0.2, seed),
            images,
        ),
        "depthwise": (grow(lambda: DepthwiseNet(images), images.train, EPOCHS, 0.2, seed), images),
        "encoder": (encoder, windows),
    }
    rows = {}
    for name, (network, data) in subjects.items():
        casts = {kind: Cast(network, dtype) for kind, dtype in KINDS.items()}
        took = race_networks(casts, data.test.x[:64], rounds=7)
        for kind, cast in casts.items():
            rows[f"{name}, {kind}"] = {
                "file, kB": disk_bytes(cast.network) / 1e3,
                "test accuracy, %": evaluate(cast, data.test),
                "time, fp32 = 1": took[kind] / took["fp32"],
            }
    return rows


def _lost(rows: Rows, kind: str) -> float:
    names = ("VGG-like", "depthwise", "encoder")
    return max(
        rows[f"{n}, fp32"]["test accuracy, %"] - rows[f"{n}, {kind}"]["test accuracy, %"]
        for n in names
    )


EXPERIMENT = Experiment(
    question="Half of the bytes by a cast alone: what is lost, and is it faster?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "fp16 loses less than a quarter of a point", lambda r: 0.25 - _lost(r, "fp16"), "points"
        ),
        Finding("bf16 loses less than a point", lambda r: 1 - _lost(r, "bf16"), "points"),
    ),
    note="Batches of 64 on one thread; how fast a format is, the processor decides.",
    digits=2,
)
