"""Techniques one after another, with a report after each: bytes on disk, milliseconds, accuracy.

    network -> stage -> network -> stage -> ... -> what is deployed

A stage is a function from a network to a network; a pipeline is a dictionary of stages by name, run in
its order:

    run({"prune": prune(material, 0.85), "share": share(material, 15)}, network, data.val)

The stages here are the course's techniques with the settings that its labs found good for small image
networks. What may be used, labelled images or only images, `Material` says: a stage that has nothing to
train on does what can be done without. Nothing is changed in place. A network that only simulates
integers has no file and no speed of its own, so its row says what `integers` would make of it: nothing is
reported that could not be deployed.

Left out: searching the settings.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx, nn

from compresslab.data import Examples
from compresslab.measure import latency
from compresslab.runtime import files
from compresslab.runtime.bits import convert_xnor
from compresslab.runtime.convert import convert
from compresslab.runtime.export import export_int8
from compresslab.runtime.peers import OnnxModel
from compresslab.techniques import lowrank, qat, scores, sharing
from compresslab.techniques.distill import Distillation, cached
from compresslab.techniques.prune import PruneGradually, select
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig, Quantized
from compresslab.techniques.surgery import channels_of, shrink, silence
from compresslab.training import evaluate, fit, logits

Stage = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Material:
    """What a pipeline may use.

    Attributes:
        images: for calibration; no labels.
        train: what is trained on; None: nothing may be trained.
        epochs: of a stage that trains.
        lr: its largest rate, as in `fit`.
        seed: the order of the batches.
        progress: whether trainings show their bars.
    """

    images: torch.Tensor
    train: Examples | None = None
    epochs: float = 4
    lr: float = 0.15
    seed: int = 0
    progress: bool = True

    def tune(self, model: nn.Module, **options: object) -> nn.Module:
        """Train a network, in place, if there is anything to train on."""
        if self.train is not None:
            settings = {"epochs": self.epochs, "lr": self.lr, "seed": self.seed}
            shown = {"label": "tuning", "progress": self.progress}
            fit(model, self.train, **(settings | shown | options))
        return model.eval()


@dataclass(frozen=True)
class Report:
    """One row: bytes on disk, seconds for one image, accuracy in per cent, and the network itself."""

    stage: str
    bytes_disk: int
    seconds: float
    accuracy: float
    network: nn.Module


def run(stages: Mapping[str, Stage], model: nn.Module, judge: Examples) -> list[Report]:
    """Run a pipeline.

    Args:
        stages: by name, in order.
        model: what to begin with; not changed.
        judge: what accuracy is measured on: validation images, as long as anything is being chosen.

    Returns:
        A report of the model as it was ("start"), and one after every stage.
    """
    reports = [report("start", model, judge)]
    for name, stage in stages.items():
        model = stage(model)
        reports.append(report(name, model, judge))
    return reports


def report(stage: str, model: nn.Module, judge: Examples) -> Report:
    """Weigh, time and test a network as it would be deployed."""
    runs = deployed(model)
    seconds = latency(runs, tuple(judge.x.shape[1:])).median
    size = files.size(model if sharing.shared_layers(model) else runs)
    return Report(stage, size, seconds, evaluate(runs, judge), model)


def deployed(model: nn.Module) -> nn.Module:
    """What runs in the end: integers for a simulation, plain floats for shared weights, else the network."""
    if any(isinstance(module, Quantized) for module in model.modules()):
        return convert(model)
    if sharing.shared_layers(model):
        return sharing.unshared(model).to(memory_format=torch.channels_last)
    return model


# ---- stages --------------------------------------------------------------------------------------
def prune(material: Material, share: float) -> Stage:
    """Single weights to 0 by magnitude: gradually in the first 60 % of the tuning; at once without any."""

    def stage(model: nn.Module) -> nn.Module:
        model = sharing.unshared(model)
        if material.train is None:
            select(scores.magnitude(model), share).apply(model)
            return model.eval()
        return material.tune(model, hooks=[PruneGradually(share, until=0.6)])

    return stage


def cut_channels(material: Material, share: float) -> Stage:
    """A share of every layer's channels removed, the smallest first; then tuning."""

    def stage(model: nn.Module) -> nn.Module:
        model = sharing.unshared(model)
        inner = scores.prunable(model, last=False)
        sizes = {n: s for n, s in scores.magnitude(model).items() if n in inner}
        mask = select(sizes, share, "channel", "layer")
        small = shrink(silence(model, channels_of(mask)))
        return material.tune(small.to(memory_format=torch.channels_last))

    return stage


def low_rank(material: Material, share: float) -> Stage:
    """Every layer as two thin ones with that share of its parameters; then tuning."""

    def stage(model: nn.Module) -> nn.Module:
        model = sharing.unshared(model)
        thin = lowrank.factorize(model, lowrank.ranks_by_budget(model, share))
        return material.tune(thin.to(memory_format=torch.channels_last))

    return stage


def student(material: Material, build: Callable[[], nn.Module], epochs: float) -> Stage:
    """Another network, taught by the one that comes in: its answers at T = 4 weigh nine tenths.

    Raises:
        ValueError: if nothing may be trained.
    """
    if material.train is None:
        raise ValueError("material must have train for a student to learn from, got None")

    def stage(model: nn.Module) -> nn.Module:
        loss = Distillation(cached(model, material.train.x), 0.1, 4.0)
        torch.manual_seed(material.seed)
        small = build().to(memory_format=torch.channels_last)
        return material.tune(small, loss=loss, epochs=epochs, label="student")

    return stage


def share(material: Material, colours: int, epochs: float = 1, lr: float = 0.1) -> Stage:
    """Weights share so many values a layer, which are tuned; zeros stay zeros."""

    def stage(model: nn.Module) -> nn.Module:
        shared = sharing.share_weights(sharing.unshared(model), colours)
        return material.tune(shared, epochs=epochs, lr=lr)

    return stage


def quantize(material: Material, config: QuantConfig, epochs: float = 0) -> Stage:
    """Simulated integers, calibrated on the images; with epochs, tuned toward the float network's answers."""

    def stage(model: nn.Module) -> fx.GraphModule:
        model = sharing.unshared(model)
        if epochs == 0 or material.train is None:
            return quantize_post_training(model, config, material.images)
        loss = qat.toward_teacher(model, material.train)
        options = {"loss": loss, "seed": material.seed, "label": "quantized tuning"}
        return qat.tune(model, config, material.train, epochs, **options)

    return stage


def integers() -> Stage:
    """The integer network that a simulation stands for."""
    return convert


def onnxruntime(material: Material) -> Stage:
    """The integer network that a simulation stands for, in ONNX Runtime on one thread."""

    def stage(model: fx.GraphModule) -> nn.Module:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            export_int8(model, tuple(material.images.shape[1:]), path)
            return OnnxModel(path, threads=1)

    return stage


def binary(material: Material, build: Callable[[], nn.Module], epochs: float) -> Stage:
    """A binary network from scratch, taught by the one that comes in, on bits.

    Raises:
        ValueError: if nothing may be trained.
    """
    if material.train is None:
        raise ValueError("material must have train for a binary network, got None")

    def stage(model: nn.Module) -> nn.Module:
        loss = Distillation(cached(model, material.train.x), 0.1, 4.0)
        torch.manual_seed(material.seed)
        network = build()
        adam = torch.optim.Adam(network.parameters(), 0.02)
        options = {"loss": loss, "optimizer": adam, "label": "binary network"}
        material.tune(network, epochs=epochs, lr=0.02, **options)
        return convert_xnor(network)

    return stage


def once(stage: Stage) -> Stage:
    """A stage that several pipelines begin with: for the network that it was given last, it runs once.

    The network is known by its identity: one that is changed in place gets the old answer.
    """
    known: list[tuple[nn.Module, nn.Module]] = []

    def remembered(model: nn.Module) -> nn.Module:
        if not known or known[0][0] is not model:
            known[:] = [(model, stage(model))]
        return known[0][1]

    return remembered


def own_answers(model: nn.Module, images: torch.Tensor) -> Examples:
    """Images with what the network says of them in the place of labels, for when there are none."""
    return Examples(images, logits(model, images).argmax(1))
