"""Early exit (提前退出): easy examples leave after a few layers, hard ones go all the way.

    uncertainty(p) = - sum p log p / log(classes)          entropy between 0 (sure) and 1 (knows nothing)
    an example leaves at the first exit whose uncertainty is below `speed`

FastBERT (Liu et al. 2020, https://arxiv.org/abs/2004.02178, section 3): a trained backbone is frozen, a
small classifier is put behind every layer but the last, and each of them learns to answer what the last one
answers (self-distillation: no labels). One network then serves every speed.

`answer` runs it in batches: whoever has left is dropped from the batch, so that time is saved and not only
counted. Written for `models.Encoder`; the exits' features are what its own head reads.

Left out: FastBERT's attention inside each classifier (ours has one hidden layer), training exits and backbone
together. Its divergence is KL(exit || last); ours is KL(last || exit), as in all of the course.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from compresslab.models import Encoder
from compresslab.techniques.distill import soft_loss
from compresslab.training import Batch


def uncertainty(logits: torch.Tensor) -> torch.Tensor:
    """Entropy over its largest possible value: [n, classes] -> [n], 0 (sure) to 1.

    Raises:
        ValueError: for fewer than two classes.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"logits must be [n, classes] with 2 classes or more, got {list(logits.shape)}"
        )
    entropy = torch.special.entr(logits.softmax(1)).sum(1)
    return entropy / math.log(logits.shape[1])


class Exit(nn.Sequential):
    """A small classifier on a layer's states: norm, one hidden layer, logits."""

    def __init__(self, width: int, classes: int, hidden: int = 64) -> None:
        """Args: width of the states, classes, hidden width."""
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, classes)
        )


@dataclass(frozen=True)
class Answer:
    """Logits [n, classes] and after how many layers each example left, int64 [n]."""

    logits: torch.Tensor
    layers: torch.Tensor


class EarlyExit(nn.Module):
    """An encoder with exits behind all its layers but the last, whose own head is the last exit.

    `forward` gives the logits of every exit, which is for training; `answer` leaves early.
    """

    def __init__(self, backbone: Encoder, hidden: int = 64) -> None:
        """Args: a trained encoder, which is frozen; the exits' hidden width.

        Raises:
            ValueError: for an encoder of a single layer, which has nowhere to leave early.
        """
        super().__init__()
        if len(backbone.layers) < 2:
            raise ValueError(f"backbone must have 2 layers or more, got {len(backbone.layers)}")
        self.backbone = backbone.requires_grad_(False)
        width, classes = backbone.head.in_features, backbone.head.out_features
        count = len(backbone.layers) - 1
        self.exits = nn.ModuleList(Exit(width, classes, hidden) for _ in range(count))

    def train(self, mode: bool = True) -> "EarlyExit":
        """Only the exits train: a backbone with dropout goes on answering the same."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of all exits, the backbone's own last: [n, layers, classes]."""
        x, nothing = self.backbone.embed(tokens)
        found = []
        for index, layer in enumerate(self.backbone.layers):
            x = layer(x, nothing)
            found.append(self._leave(index, x, nothing))
        return torch.stack(found, dim=1)

    def _leave(self, index: int, x: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
        if index == len(self.exits):
            return self.backbone.classify(x, nothing)
        return self.exits[index](self.backbone.read(x, nothing))

    @torch.no_grad()
    def answer(self, tokens: torch.Tensor, speed: float) -> Answer:
        """Leave as soon as sure enough.

        Args:
            tokens: int64 [n, length].
            speed: the uncertainty below which an example leaves; 0 never, above 1 at the first exit.

        Raises:
            ValueError: for a negative or NaN speed.
        """
        if not speed >= 0:
            raise ValueError(f"speed must be 0 or more, got {speed}")
        n, last = len(tokens), len(self.exits)
        head = self.backbone.head.weight
        logits = head.new_empty(n, self.backbone.head.out_features)
        layers = torch.full((n,), last + 1, device=head.device)
        waiting = torch.arange(n, device=head.device)
        x, nothing = self.backbone.embed(tokens)
        for index, layer in enumerate(self.backbone.layers):
            x = layer(x, nothing)
            found = self._leave(index, x, nothing)
            done = torch.ones(len(x), dtype=torch.bool, device=head.device)
            if index < last:
                done = uncertainty(found) < speed
            logits[waiting[done]], layers[waiting[done]] = found[done], index + 1
            waiting, x, nothing = waiting[~done], x[~done], nothing[~done]
            if len(waiting) == 0:
                break
        return Answer(logits, layers)


def self_distillation(model: EarlyExit, batch: Batch) -> torch.Tensor:
    """A loss for `fit`: every exit's distance to the last one's answer, at temperature 1."""
    answers = model(batch.x)
    last = answers[:, -1]
    return sum(soft_loss(answers[:, i], last, 1.0) for i in range(answers.shape[1] - 1))
