"""Lab 09, open: which heads and neurons of the teacher stay, from one backward pass.

Every head and every neuron of the feed-forward layers is multiplied by a gate that stands at one. The
gradient of a sentence's loss at the gate, negated, is what closing it adds to that loss, to first order
(Michel et al. 2019, "Are sixteen heads really better than one?", section 4.1; Molchanov et al. 2019 for
its square).
"""

import functools

import numpy as np
import torch
from torch import nn

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.data import keywords
from compresslab.data.text import TextSplit
from compresslab.pretrained import ENCODER, keyword_teacher

WIDTH, _, HEADS = ENCODER.values()
NEURONS = 4 * WIDTH
UNITS = HEADS + NEURONS
"""Of one layer."""
FRACTIONS = (0.08, 0.12, 0.18)
"""Of the weights of all units, about what the budgets are."""
SENTENCES = 1_200
"""What a case draws of the sentences that are at hand."""


def units_to_keep(gradients: np.ndarray, sizes: np.ndarray, budget: int) -> np.ndarray:
    """The mean square over sentences: a gate that matters to some matters, whatever the sign."""
    return _packed((gradients.astype(np.float64) ** 2).mean(0), sizes, budget)


def _packed(worth: np.ndarray, sizes: np.ndarray, budget: int) -> np.ndarray:
    """The units of the greatest worth for each weight, as many as the budget holds."""
    kept = np.zeros(len(worth), bool)
    for unit in np.argsort(-worth / sizes, kind="stable"):
        if sizes[unit] <= budget:
            kept[unit], budget = True, budget - sizes[unit]
    return kept


def _mean(gradients, sizes, budget):
    """The plain way: gates whose closing raises the mean loss most."""
    return _packed(np.abs(gradients.mean(0)), sizes, budget)


def _signed(gradients, sizes, budget):
    return _packed(-gradients.mean(0), sizes, budget)


def _absolute(gradients, sizes, budget):
    return _packed(np.abs(gradients).mean(0), sizes, budget)


def _sizes_forgotten(gradients, sizes, budget):
    return _packed((gradients.astype(np.float64) ** 2).mean(0) * sizes, sizes, budget)


def _least(gradients, sizes, budget):
    worth = (gradients.astype(np.float64) ** 2).mean(0) / sizes
    return _packed(sizes / np.maximum(worth, 1e-30), sizes, budget)


def _everything(gradients, sizes, budget):
    return np.ones(len(sizes), bool)


class Gated(nn.Module):
    """A linear layer whose inputs are multiplied by gates first, as many as there are heads or neurons."""

    def __init__(self, layer: nn.Linear, gates: int) -> None:
        """Args: the layer, and into how many equal parts its inputs fall."""
        super().__init__()
        self.layer, self.gates = layer, torch.ones(1, gates)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, length, inputs] -> [n, length, outputs]."""
        parts = x.unflatten(2, (self.gates.shape[1], -1)) * self.gates[:, None, :, None]
        return self.layer(parts.flatten(2))


@functools.cache
def _teacher() -> nn.Module:
    teacher = keyword_teacher()
    for layer in teacher.layers:
        layer.attention.out = Gated(layer.attention.out, HEADS)
        layer.feedforward[2] = Gated(layer.feedforward[2], NEURONS)
    return teacher


@functools.cache
def _data() -> TextSplit:
    return keywords.load(1_500)


def gated(tokens: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """Logits of the teacher with gates [n or 1, layers * UNITS] at its heads and neurons."""
    for layer, gate in zip(_teacher().layers, gates.split(UNITS, 1), strict=True):
        layer.attention.out.gates, layer.feedforward[2].gates = gate.split((HEADS, NEURONS), 1)
    return _teacher()(tokens)


@functools.cache
def gradients() -> np.ndarray:
    """Of each training sentence's loss at every gate, float32 [sentences, units]."""
    train, found = _data().train, []
    for tokens, labels in zip(train.x.split(250), train.y.split(250), strict=True):
        gates = torch.ones(len(tokens), len(_teacher().layers) * UNITS, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(gated(tokens, gates), labels, reduction="sum")
        found.append(torch.autograd.grad(loss, gates)[0])
    return torch.cat(found).numpy()


def sizes() -> np.ndarray:
    """Weights of each unit, int64 [units]: of a head its four matrices, of a neuron its two rows."""
    layer = [4 * WIDTH * (WIDTH // HEADS)] * HEADS + [2 * WIDTH] * NEURONS
    return np.array(layer * len(_teacher().layers))


def measured(case: Case, kept: object) -> float | str:
    """Accuracy of the teacher with these units alone; a sentence if they break the rules."""
    weights, budget = case.args[1:]
    if not isinstance(kept, np.ndarray) or kept.dtype != bool or kept.shape != weights.shape:
        return f"the answer must be an array of bool [{len(weights)}], got {compare.show(kept)}"
    used = int(weights[kept].sum())
    if used > budget:
        return f"these units have {used:,} weights, allowed are {budget:,}"
    with torch.no_grad():
        gates, val = torch.from_numpy(kept).float()[None], _data().val
        right = sum(
            int((gated(x, gates).argmax(1) == y).sum())
            for x, y in zip(val.x.split(500), val.y.split(500), strict=True)
        )
    return 100 * right / len(val)


def _cases(generator: np.random.Generator) -> list[Case]:
    cases, weights, whole = [], sizes(), gradients()
    for fraction in FRACTIONS:
        budget = int(weights.sum() * fraction * generator.uniform(0.985, 1.015))
        some = np.sort(generator.choice(len(whole), SENTENCES, replace=False))
        label = f"{budget:,} of {weights.sum():,} weights"
        cases.append(Case(label, (whole[some], weights, budget)))
    return cases


UNITS_TO_KEEP = Exercise(
    id="transformers.units_to_keep",
    title="What a transformer can do without",
    points=12,
    reference=units_to_keep,
    cases=_cases,
    lines=6,
    medals=Medals(
        bronze=56.0,
        silver=67.0,
        gold=72.5,
        measure=measured,
        unit="% of the validation sentences, mean of three budgets",
        plain=_mean,
    ),
    mistakes=(
        Mistake(
            "the mean over sentences first",
            _mean,
            "The gradients of different sentences have different signs, and their mean cancels: a unit that "
            "helps one sentence and hurts the next counts as useless. Take what a unit does to each sentence "
            "first, and the mean of that.",
        ),
        Mistake(
            "units that raise the loss on the average",
            _signed,
            "Only units whose closing raises the mean loss are kept here. The gradient is good for small "
            "steps, and closing a gate is none: a unit that pushes sentences strongly either way matters.",
        ),
        Mistake(
            "the sizes forgotten",
            _sizes_forgotten,
            "A head has 32 times as many weights as a neuron. Rank by what a unit is worth for each weight.",
        ),
        Mistake(
            "the least important ones",
            _least,
            "These are the units that matter least: the array says which ones stay.",
        ),
        Mistake(
            "nothing removed",
            _everything,
            "Every unit is kept. Add up `sizes` over those that you keep, up to the budget.",
        ),
        Mistake(
            "absolute values",
            _absolute,
            "The mean of absolute values counts many small pushes like few strong ones. What a unit adds to "
            "a loss grows faster than its gradient: which mean weighs the strong ones more?",
        ),
    ),
)

EXERCISES = (UNITS_TO_KEEP,)
