"""Stages one after another: a list of them in, a network that runs out.

Before anything is trained, every stage is asked whether it can take the network. A stage that replaces the
network by a student ends this: what comes after it meets the student, which does not exist yet.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from compresslab.arguments import bare, check_network, kind
from compresslab.data import Examples, Labelled, Split, TextSplit, labelled
from compresslab.measure import Measurement, deployed, measure
from compresslab.stages.bits import Dynamic, Quantize, Weights
from compresslab.stages.smaller import CutChannels, LowRank, Prune, Share
from compresslab.stages.stage import Material, Once, Stage
from compresslab.stages.students import Binary, Distill
from compresslab.stages.trial import check_trial
from compresslab.techniques import sharing
from compresslab.training import fit as train_in_place
from compresslab.training import logits

CALIBRATION = 500


@dataclass(frozen=True)
class Report:
    """What a stage left: its name, the network, and the measurement of it as it would be deployed."""

    stage: str
    measurement: Measurement
    network: nn.Module


def run(
    stages: Sequence[Stage | Once], network: nn.Module, material: Material, examples: Examples
) -> list[Report]:
    """Run stages one after another, with a measurement after each.

    Args:
        stages: in order.
        network: what to begin with; not changed.
        material: what they may use.
        examples: what accuracy is measured on: validation images, as long as anything is being chosen.

    Returns:
        A report of the network as it was ("start"), and one after every stage.
    """
    reports = [report("start", network, examples)]
    for stage in stages:
        network = stage(network, material)
        reports.append(report(repr(stage), network, examples))
    return reports


def report(stage: str, network: nn.Module, examples: Examples) -> Report:
    """Weigh, time and test a network as it would be deployed."""
    return Report(stage, measure(network, examples, stage, batches=(1,)), network)


def compress(
    network: nn.Module,
    stages: Sequence[Stage],
    data: Split | Examples | torch.Tensor,
    epochs: float = 4,
    lr: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """Apply stages one after another; what comes back runs, and `save` writes it.

    Args:
        network: a trained float32 network on the CPU; not changed, in whatever mode it is.
        stages: at least one, in order.
        data: a data set (trained on `train`, compared on `val`), examples with labels to train on, or a
            tensor of inputs, with which nothing is trained.
        epochs: of each stage that trains and has no number of its own.
        lr: the largest rate of those trainings; None: see `Material`.
        seed: the order of the batches.
        progress: whether trainings show their bars.

    Raises:
        ValueError: for no stages or something else than stages, data that the network cannot take, or a
            network of another dtype or on another device.
        ConversionError: before anything is trained, for a network that a stage cannot take; it names
            every obstacle.
    """
    if isinstance(stages, Stage):
        stages = [stages]
    if not isinstance(stages, Sequence) or isinstance(stages, str):
        raise ValueError(f"stages must be a list of stages such as Prune(0.85), got {kind(stages)}")
    wrong = [s for s in stages if not isinstance(s, Stage)]
    if not stages or wrong:
        found = repr(wrong[0]) if wrong else "an empty list"
        raise ValueError(f"stages must be a list of stages such as Prune(0.85), got {found}")
    material = material_of(data, epochs, lr, seed, progress)
    refuse_order(stages)
    check_network(network)
    network = bare(network)
    first = copy.deepcopy(network).eval()
    check_trial(first, material.images[:1])
    for stage in stages:
        # What replaces the network (a student) is not what comes in: only it is asked what comes after.
        stage.check(first, material.images[:1])
        if isinstance(stage, Distill | Binary):
            break
    for stage in stages:
        first = stage(first, material)
    return first if sharing.shared_layers(first) else deployed(first)


CHANGE_WEIGHTS = (Prune, CutChannels, LowRank, Share, Quantize, Weights, Dynamic)


def refuse_order(stages: Sequence[Stage]) -> None:
    """Refuse a stage behind one that leaves it nothing to change.

    Packed weights and int8 layers are no more changed, shared ones are stored in a form of their own, and of
    a network that simulates integers zeros alone can be told. What begins with another network may follow,
    and so may a stage of the caller's own.

    Raises:
        ValueError: naming the two.
    """
    for place, stage in enumerate(stages):
        for later in stages[place + 1 :]:
            if isinstance(later, Distill | Binary):
                break
            if not isinstance(later, CHANGE_WEIGHTS):
                continue
            packed = isinstance(stage, Weights | Dynamic)
            simulated = isinstance(stage, Quantize) and not isinstance(later, Prune)
            if packed or simulated:
                are = "packed or on int8 already" if packed else "steps of integers already"
                raise ValueError(
                    f"stages must have {stage!r} as the last that changes weights: behind it they are {are}, "
                    f"and {later!r} finds none; put it in front, or leave it out"
                )
            if isinstance(stage, Share) and isinstance(later, Weights | Dynamic):
                raise ValueError(
                    f"stages must have {stage!r} or {later!r}, not both: each stores weights in a form "
                    "of its own"
                )


def fit(network: nn.Module, data: Split | Examples, **options: object) -> nn.Module:
    """A trained copy of a network, in evaluation mode.

    Args:
        network: maps [n, ...] to logits [n, classes]; not changed.
        data: a data set, of which `train` is taken, or examples.
        options: as `training.fit` has them: epochs, lr, batch_size, hooks, seed, ...; an optimizer is made by
            a function of the copy, `optimizer=lambda network: torch.optim.Adam(network.parameters())`.

    Raises:
        ValueError: as `training.fit` does, and for an optimizer, which holds the parameters of the original.
        TrainingDiverged: at the first loss that is not finite.
    """
    check_network(network)
    with torch.inference_mode(False):  # its tensors could not be trained
        trained = copy.deepcopy(network)
    optimizer = options.pop("optimizer", None)
    if isinstance(optimizer, torch.optim.Optimizer) or not (
        optimizer is None or callable(optimizer)
    ):
        raise ValueError(
            "optimizer must be a function that makes one for the copy that is trained, lambda network: "
            f"torch.optim.Adam(network.parameters()), got {kind(optimizer)}"
        )
    if optimizer is not None:
        options["optimizer"] = optimizer(trained)
    train_in_place(trained, data.train if isinstance(data, Split | TextSplit) else data, **options)
    return trained.eval()


def material_of(
    data: Split | Examples | torch.Tensor,
    epochs: float = 4,
    lr: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Material:
    """What stages may use of a data set, of examples, or of inputs alone.

    Raises:
        ValueError: for anything else, or none at all.
    """
    options = {"epochs": epochs, "lr": lr, "seed": seed, "progress": progress}
    if isinstance(data, Split | TextSplit):
        return Material(data.train.x[:CALIBRATION], data.train, **options, val=data.val)
    if hasattr(data, "x") and hasattr(data, "y") and len(data):
        return Material(data.x[:CALIBRATION], data, **options)
    if isinstance(data, torch.Tensor) and len(data):
        return Material(data[:CALIBRATION], None, **options)
    raise ValueError(
        "data must be a data set, examples or a tensor of inputs, at least one of them; got "
        f"{type(data).__name__}"
    )


def own_answers(network: nn.Module, images: torch.Tensor) -> Labelled:
    """Images with what the network says of them in the place of labels, for when there are none."""
    return labelled(images, logits(network, images).argmax(1))
