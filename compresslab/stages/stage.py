"""A stage is a small frozen dataclass that prints itself and makes a copy of a network, with `Material`.

    stage(network, material)        -> a copy, with the technique applied
    stage.check(network, example)   raises before anything is trained, if it cannot be

Whatever trains, calibrates or compares takes its data from the material; without training data a stage does
what can be done without. Where there are validation examples, a tuned network that is worse than the untuned
one is not kept, and that is said.
"""

import dataclasses
import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import nn

from compresslab.data import Examples
from compresslab.measure import deployed
from compresslab.notice import tell
from compresslab.training import evaluate
from compresslab.training import fit as train_in_place

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Material:
    """What stages may use.

    Attributes:
        images: for calibration; no labels.
        train: what is trained on; None: nothing may be trained.
        epochs: of a stage that trains.
        lr: its largest rate, as in `fit`; None: 0.15, and 0.02 for a network without norms, which a rate that
            suits norms ruins.
        seed: the order of the batches.
        progress: whether trainings show their bars.
        val: what tuned and untuned networks are compared on; None: the tuned one is kept.
    """

    images: torch.Tensor
    train: Examples | None = None
    epochs: float = 4
    lr: float | None = None
    seed: int = 0
    progress: bool = True
    val: Examples | None = None

    def tune(self, model: nn.Module, **options: object) -> nn.Module:
        """Train a network, in place, if there is anything to train on."""
        if self.train is not None:
            rate = self.lr
            if rate is None:
                rate = 0.15 if any(isinstance(m, NORMS) for m in model.modules()) else 0.02
            settings = {"epochs": self.epochs, "lr": rate, "seed": self.seed}
            shown = {"label": "tuning", "progress": self.progress}
            given = {key: value for key, value in options.items() if value is not None}
            train_in_place(model, self.train, **(settings | shown | given))
        return model.eval()

    def better(self, tuned: nn.Module, untuned: nn.Module, what: str) -> nn.Module:
        """The one that is better on the validation examples; says so where that is the untuned one."""
        if self.val is None or len(self.val) == 0 or self.train is None:
            return tuned
        before, after = evaluate(deployed(untuned), self.val), evaluate(deployed(tuned), self.val)
        if after >= before:
            return tuned
        tell(
            f"{what}: tuning took the network from {before:.1f} to {after:.1f} % on the validation examples, "
            "so the untuned network is kept; a smaller rate (lr=...) or more epochs may do better"
        )
        return untuned


@dataclass(frozen=True, repr=False)
class Stage:
    """One technique with its settings; called, it gives a copy of the network."""

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """Apply the technique to a copy."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it does")

    def check(self, network: nn.Module, example: torch.Tensor) -> None:
        """Raise before anything is trained, if the stage cannot take the network."""

    def __repr__(self) -> str:
        """Such as "Prune(0.85)": the first setting, and those that are not the default."""
        found = []
        for index, one in enumerate(dataclasses.fields(self)):
            value = getattr(self, one.name)
            if index == 0 and not one.kw_only:
                found.append(f"{value!r}")
            elif value != one.default:
                found.append(f"{one.name}={value!r}")
        return f"{type(self).__name__}({', '.join(found)})"


@dataclass(frozen=True, repr=False)
class OfAFraction(Stage):
    """What the stages share that take a fraction away, and tune."""

    fraction: float
    epochs: float | None = None

    def __post_init__(self) -> None:
        """Validate the fraction."""
        value = self.fraction
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < 1:
            raise ValueError(f"fraction must be a number between 0 and 1, got {value!r}")
        check_epochs(self.epochs)


def check_epochs(value: object) -> None:
    """Refuse what is no number of epochs; None is one that is chosen elsewhere.

    Raises:
        ValueError: saying what is allowed.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if value is not None and not (number and 0 <= value < math.inf):
        raise ValueError(f"epochs must be a number, 0 or more, got {value!r}")


class Once:
    """A stage that several lists begin with: for the network that it was given last, it runs once.

    The network is known by its identity: one that is changed in place gets the old answer.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.known: list[tuple[nn.Module, nn.Module]] = []

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """What the stage gives, or gave."""
        if not self.known or self.known[0][0] is not network:
            self.known = [(network, self.stage(network, material))]
        return self.known[0][1]

    def check(self, network: nn.Module, example: torch.Tensor) -> None:
        """As the stage does."""
        self.stage.check(network, example)

    def __repr__(self) -> str:
        """As the stage's."""
        return repr(self.stage)
