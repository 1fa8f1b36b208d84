"""Lab 06: a linear layer with a LoRA correction, which trains and can be merged away."""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from compresslab.classroom.exercise import RIGHT, Case, Exercise, Mistake

START, ALONE, LEARNS, MERGES = "starts as it was", "trains alone", "learns", "merges"


class _Corrected(nn.Module):
    """The reference, with what people get wrong as options."""

    def __init__(
        self,
        layer: nn.Linear,
        rank: int,
        alpha: float,
        *,
        up: Callable = torch.zeros,
        down: Callable = torch.randn,
        frozen: bool = True,
        bias_frozen: bool = True,
        merge_scale: float | None = None,
        keep_bias: bool = True,
        in_place: bool = False,
        factors: int | None = None,
    ) -> None:
        super().__init__()
        self.layer, self.scale = layer, alpha / rank
        rank = factors or rank
        self.down = nn.Parameter(down(rank, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(up(layer.out_features, rank))
        self.merge_scale = self.scale if merge_scale is None else merge_scale
        self.keep_bias, self.in_place = keep_bias, in_place
        layer.weight.requires_grad_(not frozen)
        layer.bias.requires_grad_(not bias_frozen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.scale * (x @ self.down.T @ self.up.T)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer that gives the same."""
        sizes = self.layer.in_features, self.layer.out_features
        new = self.layer if self.in_place else nn.Linear(*sizes, bias=self.keep_bias)
        new.weight.copy_(self.layer.weight + self.merge_scale * (self.up @ self.down))
        if self.keep_bias:
            new.bias.copy_(self.layer.bias)
        return new


def lora_layer(layer: nn.Linear, rank: int, alpha: float) -> nn.Module:
    """The layer, frozen, with a trainable correction of low rank, and a way to merge both."""
    return _Corrected(layer, rank, alpha)


def at_work(function: Callable) -> Callable:
    """What comes of the module in one stage, as arrays."""

    def run(stage, weight, bias, x, target, rank, alpha):
        torch.manual_seed(0)
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
        module, inputs = function(layer, rank, alpha), torch.from_numpy(x)
        if not isinstance(module, torch.nn.Module):
            return "none", type(module).__name__
        start = module(inputs).detach().numpy().copy()
        if stage == "starts as it was":
            return "start", start
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            return "nothing to train", 0
        numbers = sum(p.numel() for p in trained)
        optimizer = torch.optim.Adam(trained, 0.05)
        for _ in range(20 if stage == "trains alone" else 150):
            optimizer.zero_grad()
            loss = (module(inputs) - torch.from_numpy(target)).square().mean()
            loss.backward()
            optimizer.step()
        if stage == "trains alone":
            return "alone", numbers, layer.weight.detach().numpy(), layer.bias.detach().numpy()
        end = module(inputs).detach().numpy().copy()
        if stage == "learns":
            return "learns", start, end
        before = layer.weight.detach().numpy().copy()
        merged = module.merged()
        size = sum(p.numel() for p in merged.parameters())
        factors = tuple(p.detach().numpy().copy() for p in trained)
        difference = merged.weight.detach().numpy() - layer.weight.detach().numpy()
        return (
            "merges",
            size,
            merged(inputs).detach().numpy(),
            end,
            before,
            layer.weight.detach().numpy(),
            factors,
            difference,
        )

    return run


def seen(value: tuple, stage, weight, bias, x, target, rank, alpha) -> str:
    """One sentence about a stage."""
    kind, *found = value
    if kind == "none":
        return "it hands back no module"
    if kind == "nothing to train":
        return "there is nothing to train"
    if stage == MERGES:
        return _merges(found, weight, bias, alpha / rank)
    return {START: _start, ALONE: _alone, LEARNS: _learns}[stage](
        found, weight, bias, x, target, rank
    )


def _start(found, weight, bias, x, target, rank):
    same = np.allclose(found[0], x @ weight.T + bias, atol=1e-4)
    return RIGHT if same else "before any training its outputs are not the layer's"


def _alone(found, weight, bias, x, target, rank):
    numbers, after, after_bias = found
    if not np.array_equal(after, weight):
        return "training changes the layer's own weight"
    if not np.array_equal(after_bias, bias):
        return "training changes the layer's own bias"
    wanted = rank * sum(weight.shape)
    return RIGHT if numbers == wanted else "it trains other numbers than two factors of that rank"


def _learns(found, weight, bias, x, target, rank):
    start, end = (np.square(y - target).mean() for y in found)
    if end > 0.9 * start:
        return "150 steps of training change next to nothing"
    return RIGHT if end < 0.01 * start else "150 steps of training leave much of the error"


def _merges(found, weight, bias, scale):
    size, merged, end, before, after, factors, difference = found
    if not np.array_equal(before, after):
        return "merging changes the layer that was given"
    if size != weight.size + len(bias):
        return "the merged layer has another number of parameters than the layer"
    if not np.allclose(merged, end, atol=1e-3):
        return "the merged layer gives other outputs than the module"
    products = [_product(*pair, weight.shape) for pair in itertools.permutations(factors, 2)]
    same = any(p is not None and np.allclose(scale * p, difference, atol=1e-3) for p in products)
    return RIGHT if same else "what it adds is not alpha / r times the product of its factors"


def _product(one, other, shape):
    """Of two factors as [outputs, inputs], whichever way round each is kept; None if they do not fit."""
    for a, b in itertools.product((one, one.T), (other, other.T)):
        if a.shape[-1:] == b.shape[:1] and (len(a), b.shape[-1]) == shape:
            return a @ b
    return None


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(stage: str, label: str, inputs: int, outputs: int, rank: int, alpha: float) -> Case:
        weight = generator.normal(0, 1, (outputs, inputs)) / inputs**0.5
        shift = generator.normal(0, 1, (outputs, 2)) @ generator.normal(0, 1, (2, inputs))
        bias, x = generator.normal(0, 1, outputs), generator.normal(0, 1, (64, inputs))
        target = x @ (weight + shift / inputs**0.5).T + bias
        arrays = (a.astype(np.float32) for a in (weight, bias, x, target))
        return Case(f"{stage}: {label}", (stage, *arrays, rank, alpha), stage)

    wide, square = ("a wide layer", 12, 5, 3, 6.0), ("a square layer", 8, 8, 2, 2.0)
    return [
        case(stage, *which) for stage in (ALONE, START, LEARNS, MERGES) for which in (wide, square)
    ]


def _wrong(**options: object) -> Callable:
    return lambda layer, rank, alpha: _Corrected(layer, rank, alpha, **options)


LORA_LAYER = Exercise(
    id="low_rank.lora_layer",
    title="A LoRA layer that trains and merges",
    points=12,
    reference=lora_layer,
    cases=_cases,
    harness=at_work,
    look=seen,
    lines=20,
    stages=((ALONE, 3), (START, 3), (LEARNS, 3), (MERGES, 3)),
    mistakes=(
        Mistake(
            "both factors random",
            _wrong(up=torch.randn),
            "With both factors random the network is another one before the first step. One of them "
            "starts at 0.",
        ),
        Mistake(
            "both factors zero",
            _wrong(down=torch.zeros),
            "The gradient of each factor is a product with the other one: if both are 0 it is 0 for ever. "
            "Only "
            "B starts at 0.",
        ),
        Mistake(
            "the layer not frozen",
            _wrong(frozen=False, bias_frozen=False),
            "The optimizer is given all that requires a gradient. Call `requires_grad_(False)` on the "
            "layer's "
            "own parameters.",
            also=(_wrong(frozen=False),),
        ),
        Mistake(
            "the bias not frozen",
            _wrong(bias_frozen=False),
            "The weight is frozen, the bias is not: it has `requires_grad` of its own.",
        ),
        Mistake(
            "merged without the scale",
            _wrong(merge_scale=1.0),
            "What the module adds is alpha / r times B A; so must be what is merged.",
        ),
        Mistake(
            "alpha without the rank",
            lambda layer, rank, alpha: _Corrected(layer, 1, alpha, factors=rank),
            "The scale is alpha / r, so that one learning rate suits every rank.",
        ),
        Mistake(
            "the bias lost in merging",
            _wrong(keep_bias=False),
            "The merged layer needs the layer's bias, too.",
        ),
        Mistake(
            "merged into the layer that was given",
            _wrong(in_place=True),
            "`merged()` hands back a new layer; the one that was given stays as it is, for the next task's "
            "correction.",
        ),
    ),
)

EXERCISES = (LORA_LAYER,)
