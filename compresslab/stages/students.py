"""Stages that train another network, taught by the one that comes in (Hinton et al. 2015).

The student is built by a function without arguments, after torch's generator has been seeded; its teacher's
answers at T = 4 weigh nine tenths. Left out: features of hidden layers (`techniques.distill`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from compresslab.arguments import kind
from compresslab.stages.stage import Material, Stage, check_epochs
from compresslab.stages.trial import quick_layout
from compresslab.techniques.binarize import Binary as BinaryLayer
from compresslab.techniques.distill import Distillation, cached


@dataclass(frozen=True, repr=False)
class Distill(Stage):
    """Another network, taught by the one that comes in: its answers at T = 4 weigh nine tenths."""

    build: Callable[[], nn.Module]
    epochs: float | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_build(self.build)
        check_epochs(self.epochs)

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """The student.

        Raises:
            ValueError: if nothing may be trained.
        """
        if material.train is None:
            raise ValueError("material must have train for a student to learn from, got None")
        loss = Distillation(cached(network, material.train.x), 0.1, 4.0)
        torch.manual_seed(material.seed)
        small = quick_layout(self.build(), material.images)
        return material.tune(small, loss=loss, epochs=self.epochs, label="student")


@dataclass(frozen=True, repr=False)
class Binary(Stage):
    """A binary network from scratch, taught by the one that comes in, on bits."""

    build: Callable[[], nn.Module]
    epochs: float | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_build(self.build)
        check_epochs(self.epochs)

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """The binary network, whose layers simulate signs; `convert` puts them on bits.

        Raises:
            ValueError: if nothing may be trained, or `build` makes no binary layer.
        """
        if material.train is None:
            raise ValueError("material must have train for a binary network, got None")
        loss = Distillation(cached(network, material.train.x), 0.1, 4.0)
        torch.manual_seed(material.seed)
        binary = self.build()
        if not any(isinstance(m, BinaryLayer) for m in binary.modules()):
            raise ValueError("build must make a network with binary layers, got none")
        adam = torch.optim.Adam(binary.parameters(), 0.02)
        options = {"loss": loss, "optimizer": adam, "label": "binary network"}
        return material.tune(binary, epochs=self.epochs, lr=0.02, **options)


def check_build(value: object) -> None:
    """Refuse what makes no network.

    Raises:
        ValueError: with the way out.
    """
    if not callable(value) or isinstance(value, nn.Module):
        raise ValueError(
            f"build must be a function that makes a network, lambda: MyNetwork(...), got {kind(value)}"
        )
