"""Lab 04: the loop that prunes while it trains, on any network."""

import itertools
from collections.abc import Callable

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake

MASK, ZEROS, OTHERS, RISING = (
    "the smallest go",
    "zeros stay zeros",
    "the others learn",
    "the fraction rises",
)


def tune_pruned(
    network: torch.nn.Module, batches: list, fractions: tuple, lr: float
) -> dict[str, torch.Tensor]:
    """Train in place, a batch a step, with that fraction of all weights at 0; the last masks by name."""
    return _built()(network, batches, fractions, lr)


def _built(
    together: bool = True,
    biases: bool = False,
    smallest: bool = True,
    held: bool = True,
    anew: bool = True,
    momentum: bool = True,
    cleared: bool = True,
    first: bool = True,
    summed: bool = False,
    between: bool = True,
    gradients: bool = False,
    rounded: bool = True,
    late: bool = False,
) -> Callable:
    """The loop, with one thing or another done differently."""

    def chosen(weights, fraction):
        sizes = torch.cat([w.detach().abs().flatten() for w in weights.values()])
        order = sizes.argsort(descending=not smallest, stable=True)
        keep = torch.ones(len(sizes), dtype=torch.bool)
        keep[order[: round(fraction * len(sizes)) if rounded else int(fraction * len(sizes))]] = (
            False
        )
        parts = keep.split([w.numel() for w in weights.values()])
        return {
            name: part.view(w.shape) for (name, w), part in zip(weights.items(), parts, strict=True)
        }

    def tune_pruned(network, batches, fractions, lr):
        weights = {n: p for n, p in network.named_parameters() if biases or p.ndim > 1}
        groups = [weights] if together else [{n: w} for n, w in weights.items()]
        masks = {}

        def hold():
            with torch.no_grad():
                for name, keep in masks.items():
                    weights[name] *= keep

        optimizer = torch.optim.SGD(network.parameters(), lr, 0.9 if momentum else 0.0)
        for number, ((x, y), fraction) in enumerate(zip(batches, fractions, strict=True)):
            if not late and (number == 0 or anew):
                for group in groups:
                    masks |= chosen(group, fraction)
            if first:
                hold()
            reduction = "sum" if summed else "mean"
            loss = torch.nn.functional.cross_entropy(network(x), y, reduction=reduction)
            if cleared:
                optimizer.zero_grad()
            loss.backward()
            if gradients:
                for name, keep in masks.items():
                    weights[name].grad *= keep
            optimizer.step()
            if late:
                for group in groups:
                    masks |= chosen(group, fraction)
            if held and (between or number + 1 == len(batches)):
                hold()
        return masks

    return tune_pruned


def at_work(function: Callable) -> Callable:
    """What comes of it for a network that is made here: its parameters, and the masks of its weights."""

    def run(stage, widths, filters, parameters, images, labels, fractions, lr):
        nn, layers = torch.nn, []
        if filters:
            layers = [nn.Unflatten(1, (1, widths[0])), nn.Conv1d(1, filters, 3), nn.Tanh()]
            layers.append(nn.Flatten())
            widths = (filters * (widths[0] - 2), *widths[1:])
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):  # noqa: RUF007
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        network = nn.Sequential(*layers[:-1])
        with torch.no_grad():
            for parameter, values in zip(network.parameters(), parameters, strict=True):
                parameter.copy_(torch.from_numpy(values))
        names = [name for name, _ in network.named_parameters()]
        batches = [
            (torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(images, labels, strict=True)
        ]
        masks = function(network, batches, fractions, lr)
        if not isinstance(masks, dict):
            raise TypeError(f"tune_pruned must return a dict of masks, got {type(masks).__name__}")
        after = dict(network.named_parameters())
        missing = [name for name in names if name not in after]
        if missing:
            raise ValueError(f"the network must keep its parameters, {missing[0]} is gone")
        pruned = [name for name in names if after[name].ndim > 1]
        absent = [name for name in pruned if name not in masks]
        if absent:
            raise ValueError(f"the masks must name every weight, {absent[0]} is not among them")
        kept = tuple(np.asarray(masks[name]) for name in pruned)
        found = tuple(after[name].detach().numpy() for name in names)
        if stage == "zeros stay zeros":
            found = tuple(after[name].detach().numpy() != 0 for name in pruned)
        return found, kept

    return run


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(
        stage: str, label: str, widths: tuple, fractions: tuple, lr: float, filters: int = 0
    ) -> Case:
        inside = widths if not filters else (filters * (widths[0] - 2), *widths[1:])
        shapes = [(filters, 1, 3), (filters,)] if filters else []
        shapes += [shape for i, o in itertools.pairwise(inside) for shape in ((o, i), (o,))]
        # Layers of different sizes: over all layers is then something else than in each.
        parameters = tuple(
            (generator.normal(0, 1, shape) * (1 + number)).astype(np.float32)
            for number, shape in enumerate(shapes)
        )
        images = generator.normal(0, 1, (len(fractions), 6, widths[0])).astype(np.float32)
        labels = generator.integers(0, widths[-1], (len(fractions), 6))
        network = (widths, filters, parameters)
        args = (stage, *network, tuple(images), tuple(labels), fractions, lr)
        return Case(f"{stage}: {label}", args, stage)

    return [
        case(MASK, "a quarter of one layer", (6, 4), (0.25,), 0.0),
        case(MASK, "half of two layers together", (6, 8, 3), (0.5,), 0.0),
        case(MASK, "four of seven weights", (7, 1), (0.55,), 0.0),
        case(MASK, "a convolution among them", (9, 3), (0.5,), 0.0, 4),
        case(MASK, "nothing", (5, 4), (0.0,), 0.0),
        case(ZEROS, "one step", (6, 8, 3), (0.5,), 0.5),
        case(ZEROS, "two steps", (6, 7, 3), (0.7,) * 2, 0.3),
        case(OTHERS, "four steps", (5, 9, 4), (0.6,) * 4, 0.1),
        case(OTHERS, "six steps of three layers", (5, 6, 6, 3), (0.4,) * 6, 0.05),
        case(OTHERS, "ten large steps", (10, 16, 4), (0.6,) * 10, 0.5),
        case(RISING, "in three steps", (6, 8, 3), (0.2, 0.5, 0.8), 0.2),
        case(RISING, "from nothing", (6, 9, 4), (0.0, 0.0, 0.6, 0.9), 0.1),
        case(RISING, "with a convolution", (8, 3), (0.3, 0.5, 0.7), 0.1, 3),
    ]


TUNE_PRUNED = Exercise(
    id="prune.tune_pruned",
    title="The loop that prunes while it trains",
    points=16,
    reference=tune_pruned,
    cases=_cases,
    harness=at_work,
    lines=20,
    tolerance=1e-4,
    returns="the parameters after the last step (in stage 2: which weights are not 0), and the masks",
    stages=((MASK, 4), (ZEROS, 4), (OTHERS, 4), (RISING, 4)),
    mistakes=(
        Mistake(
            "each layer by itself",
            _built(together=False),
            "The fraction is of *all* weights: sort the sizes of all layers together, then cut the answer "
            "into layers again.",
        ),
        Mistake(
            "biases go, too",
            _built(biases=True),
            "Only weights are pruned: parameters of more than one axis, `p.ndim > 1`.",
        ),
        Mistake(
            "the largest go",
            _built(smallest=False),
            "The weights with the smallest absolute values go.",
        ),
        Mistake(
            "zeros come back",
            _built(held=False),
            "A step moves every weight, also by its momentum: set the pruned ones to 0 after each step.",
        ),
        Mistake(
            "the forward pass sees what is pruned",
            _built(first=False),
            "The masks hold from their own batch on: set weights to 0 in front of the forward pass, too.",
        ),
        Mistake(
            "zeros only at the end",
            _built(between=False),
            "After *each* step the pruned weights are 0, not only after the last: the next masks are chosen "
            "from the weights as they are then.",
        ),
        Mistake(
            "masks on the gradients",
            _built(held=False, gradients=True),
            "A gradient of 0 does not stop a weight: its momentum moves it. Set the weights themselves to 0.",
        ),
        Mistake(
            "cut off instead of rounded",
            _built(rounded=False),
            "The number of weights that go is `round(fraction * count)`; `int` cuts off.",
        ),
        Mistake(
            "chosen after the step",
            _built(late=True),
            "The masks of a batch are chosen before its forward pass, from the weights as they are then.",
        ),
        Mistake(
            "the masks of the first batch for good",
            _built(anew=False),
            "The fraction may rise: choose the masks anew for each batch.",
        ),
        Mistake(
            "no momentum",
            _built(momentum=False),
            "The optimizer is SGD with momentum 0.9, one for all batches.",
        ),
        Mistake(
            "gradients add up",
            _built(cleared=False),
            "`backward` adds to what is there: clear the gradients in each step.",
        ),
        Mistake(
            "the sum of the losses",
            _built(summed=True),
            "The loss is the mean over the batch, as `cross_entropy` has it by itself.",
        ),
    ),
)

EXERCISES = (TUNE_PRUNED,)
