"""One network for all widths: weights shared between sub-networks, and the same shapes trained alone.

A once-for-all network (Cai et al. 2020, https://arxiv.org/abs/1908.09791; for widths only: slimmable
networks, Yu et al. 2019, https://arxiv.org/abs/1812.08928) trains its sub-networks together: of every
convolution the first channels are used, as many as the width says, with batch norms of each width's own.
Every step trains the full width on the labels and the two narrower ones on its answers (the sandwich rule,
with all of so few widths). Control: each width trained alone, for as many steps as the
shared network took in all its widths together, and for a third.
"""

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.data import Split, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import VGGLike
from compresslab.techniques.distill import soft_loss
from compresslab.training import Batch, evaluate

FULL, SHARES, EPOCHS, RATE = (16, 32, 64), (0.25, 0.5, 1.0), 6, 0.2


class SharedWidths(nn.Module):
    """A VGG-like network of which any of a few widths can be run."""

    def __init__(self, data: Split) -> None:
        super().__init__()
        channels, classes = data.shape[0], len(data.classes)
        inputs = (channels, *FULL[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in zip(inputs, FULL, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(int(share * o)) for o in FULL) for share in SHARES
        )
        self.head = nn.Linear(FULL[-1], classes)
        self.share = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images -> logits, at the width that `share` says."""
        norms = self.norms[SHARES.index(self.share)]
        for convolution, norm in zip(self.convolutions, norms, strict=True):
            outputs = norm.num_features
            x = F.conv2d(x, convolution.weight[:outputs, : x.shape[1]], padding=1)
            x = F.max_pool2d(norm(x).relu(), 2)
        x = x.mean((2, 3))
        return F.linear(x, self.head.weight[:, : x.shape[1]], self.head.bias)


def sandwich(seed: int) -> object:
    """Labels for the full width, its answers for the others."""
    generator = torch.Generator().manual_seed(seed)

    def loss(model: SharedWidths, batch: Batch) -> torch.Tensor:
        model.share = 1.0
        whole = model(batch.x)
        total = F.cross_entropy(whole, batch.y)
        for place in torch.randperm(len(SHARES) - 1, generator=generator)[:2].tolist():
            model.share = SHARES[place]
            total = total + soft_loss(model(batch.x), whole, 1.0)
        model.share = 1.0
        return total

    return loss


def run(seed: int, size: int) -> Rows:
    """The shared network at each of its widths, and each width alone."""
    data = load("glyphs", train_size=size, seed=seed)
    shared = grow(lambda: SharedWidths(data), data.train, EPOCHS, RATE, seed, loss=sandwich(seed))
    rows = {}
    for share in SHARES:
        shared.share = share
        widths = tuple(int(share * width) for width in FULL)
        alone = grow(
            lambda widths=widths: VGGLike(data, widths=widths), data.train, EPOCHS, RATE, seed
        )
        longer = grow(
            lambda widths=widths: VGGLike(data, widths=widths),
            data.train,
            EPOCHS * len(SHARES),
            RATE,
            seed,
        )
        rows[f"{100 * share:.0f} % of the channels"] = {
            "shared, %": evaluate(shared, data.test),
            "alone, as many steps, %": evaluate(alone, data.test),
            "alone, three times the steps, %": evaluate(longer, data.test),
        }
    return rows


EXPERIMENT = Experiment(
    question="Three widths out of one set of weights: what does sharing cost each of them?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "Alone with three times the steps, as many as the three shared widths took "
            "together, each is better",
            lambda r: min(
                x["alone, three times the steps, %"] - x["shared, %"] for x in r.values()
            ),
            "points",
        ),
    ),
)
