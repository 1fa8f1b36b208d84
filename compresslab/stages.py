"""Techniques one after another: a list of stages in, a network that runs out.

    small = compress(network, [Prune(0.85), Quantize(4)], data)

A stage is a small frozen dataclass that prints itself. Called with a network and `Material` it gives a copy;
whatever trains, calibrates or compares takes its data from the material, and without training data a stage
does what can be done without. Before anything is trained, every stage is asked whether it can take the
network (`check`). Where there are validation examples, a tuned network that is worse than the untuned one is
not kept, and that is said.

    stage              leaves                                     in the course
    Prune              single weights at 0                        lab 04
    CutChannels        fewer channels                             lab 04
    LowRank            layers as two thin ones                    lab 06
    Distill            another network, taught by the one given   labs 08, 09
    Share              few values per layer                       lab 12
    Quantize           integers of 2 to 8 bits                    labs 02, 03
    Binary             signs                                      lab 10
    Weights            packed weights of 2 to 8 bits              lab 11
    Dynamic            int8 linear layers, activations as they come
    OnnxRuntime        the same integers in another engine

The settings are those that the labs found good for small image networks. Left out: searching them.
"""

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from compresslab.data import Examples, Labelled, Split, TextSplit, labelled
from compresslab.debugging import decibels
from compresslab.measure import Measurement, deployed, measure
from compresslab.network.graph import TracingError
from compresslab.network.normal import flat_outputs, normal_form
from compresslab.network.recurrent import unrolled
from compresslab.network.select import (
    linear_layers,
    own_linear_layers,
    refuse_fast_path,
    refuse_to_pack,
    word_tables,
)
from compresslab.notice import tell
from compresslab.precision import not_float32
from compresslab.runtime.convert import ConversionError, convert_dynamic
from compresslab.runtime.export import export_int8
from compresslab.runtime.integers import refuse_unknown
from compresslab.runtime.peers import OnnxModel
from compresslab.runtime.weight_only import convert_weights
from compresslab.techniques import gptq, lowrank, qat, scores, sharing, weight_only
from compresslab.techniques.adaround import learn_rounding
from compresslab.techniques.binarize import Binary as BinaryLayer
from compresslab.techniques.distill import Distillation, cached
from compresslab.techniques.norms import fitted
from compresslab.techniques.prune import PruneGradually, select
from compresslab.techniques.ptq import corrected, prepare, quantize_post_training
from compresslab.techniques.quantizer import QuantConfig, Quantized
from compresslab.techniques.surgery import SurgeryError, channels_of, shrink, silence
from compresslab.training import evaluate, evaluating, logits
from compresslab.training import fit as train_in_place

CALIBRATION, PROOF = 500, 100
NEAR = 10
"""Decibels below which a quantized network is said to be far from its float self."""
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
        if self.val is None or self.train is None:
            return tuned
        before, after = evaluate(deployed(untuned), self.val), evaluate(deployed(tuned), self.val)
        if after >= before:
            return tuned
        tell(
            f"{what}: tuning took the network from {before:.1f} to {after:.1f} % on the validation examples, "
            "so the untuned network is kept; a smaller rate (lr=...) or more epochs may do better"
        )
        return untuned


# ---- stages --------------------------------------------------------------------------------------
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
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise ValueError(f"fraction must be a number between 0 and 1, got {value!r}")


def quick_layout(network: nn.Module, examples: torch.Tensor) -> nn.Module:
    """The network channels last, in which torch computes convolutions faster, where its forward allows it.

    A forward that views an image as rows (`x.view(len(x), -1)`) needs channels first; it comes back as it is.
    """
    turned = copy.deepcopy(network).to(memory_format=torch.channels_last)
    layout = torch.channels_last if examples.ndim == 4 else torch.contiguous_format
    try:
        with torch.no_grad(), evaluating(turned):
            turned(examples[:2].contiguous(memory_format=layout))
    except RuntimeError:
        return network
    return turned


def with_recurrent_unrolled(network: nn.Module, examples: torch.Tensor) -> nn.Module:
    """The network with its recurrent layers written out; itself where its forward does not take them so.

    A forward may ask for nn.LSTM by its class, or read its weights: then the answers to two examples differ.
    """
    written, few = unrolled(network), examples[:2]
    if written is network:
        return network
    try:
        with torch.no_grad(), evaluating(network), evaluating(written):
            wanted, found = _tensors(network(few)), _tensors(written(few))
        same = len(wanted) == len(found) and all(
            a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)
            for a, b in zip(wanted, found, strict=True)
        )
    except Exception:
        same = False
    if not same:
        tell(
            "recurrent layers stay as they are: the network's forward reads them by name or by class"
        )
    return written if same else network


def _tensors(answer: object) -> list[torch.Tensor]:
    """All tensors of an answer, however deep in tuples and dictionaries, as floats."""
    if isinstance(answer, torch.Tensor):
        return [answer.double()]
    if isinstance(answer, PackedSequence):
        return [answer.data.double()]
    parts = answer.values() if isinstance(answer, Mapping) else answer
    if not isinstance(answer, Mapping | tuple | list):
        return []
    return [tensor for part in parts for tensor in _tensors(part)]


def _runs(network: nn.Module, examples: torch.Tensor) -> bool:
    """Whether it answers at all."""
    try:
        with torch.no_grad(), evaluating(network):
            network(examples[:2])
    except Exception:
        return False
    return True


@dataclass(frozen=True, repr=False)
class Prune(OfAFraction):
    """Single weights to 0 by magnitude: gradually in the first 60 % of the tuning; at once without any.

    Without labels there is no tuning, and batch norms are fitted to the images instead (`techniques.norms`).
    Recurrent layers are written out in linear ones, as they stay: their zeros are saved with the others.
    """

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A copy with that fraction of the weights at 0."""
        model = with_recurrent_unrolled(sharing.unshared(network), material.images)
        at_once = copy.deepcopy(model)
        select(scores.magnitude(at_once), self.fraction).apply(at_once)
        if material.train is None:
            return fitted(at_once.eval(), network, material.images)
        hooks = [PruneGradually(self.fraction, until=0.6)]
        tuned = material.tune(model, hooks=hooks, epochs=self.epochs)
        return material.better(tuned, at_once.eval(), repr(self))


@dataclass(frozen=True, repr=False)
class CutChannels(OfAFraction):
    """A fraction of every layer's channels removed, the smallest first; then tuning.

    Without labels batch norms are fitted to the images instead (`techniques.norms`).
    """

    def check(self, network: nn.Module, example: torch.Tensor) -> None:
        """A network whose channels cannot be followed is refused."""
        self.cut(sharing.unshared(network), example)

    def cut(self, model: nn.Module, example: torch.Tensor) -> nn.Module:
        """The smaller network, untuned; in normal form, unless the graph can be followed as it is written."""
        try:
            return self._cut(model)
        except (SurgeryError, TracingError):
            form = normal_form(model, example)
        try:
            # What export wrote down for the example's batch must hold for others.
            with torch.no_grad():
                form(example.expand(2, *example.shape[1:]))
        except RuntimeError as error:
            raise SurgeryError(f"its graph depends on the size of the batch: {error}") from error
        return self._cut(form)

    def _cut(self, model: nn.Module) -> nn.Module:
        inner = scores.prunable(model, last=False)
        sizes = {n: s for n, s in scores.magnitude(model).items() if n in inner}
        if not sizes:
            raise SurgeryError(
                "no layer but the last has channels that can be cut: 2-d convolutions and linear layers "
                "have; Prune and LowRank take other layers too"
            )
        mask = select(sizes, self.fraction, "channel", "layer")
        return shrink(silence(model, channels_of(mask)))

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A smaller copy."""
        small = quick_layout(
            self.cut(sharing.unshared(network), material.images[:1]), material.images
        )
        if material.train is None:
            return fitted(small.eval(), network, material.images)
        untuned = copy.deepcopy(small)
        return material.better(material.tune(small, epochs=self.epochs), untuned, repr(self))


@dataclass(frozen=True, repr=False)
class LowRank(OfAFraction):
    """Every layer as two thin ones with that fraction of its parameters; then tuning.

    Without labels batch norms are fitted to the images instead (`techniques.norms`).
    Recurrent layers are written out in linear ones.
    """

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A copy with thin layers."""
        model = with_recurrent_unrolled(sharing.unshared(network), material.images)
        thin = lowrank.factorize(model, lowrank.ranks_by_budget(model, self.fraction))
        _refuse_if_read_by_name(thin, material.images[:1])
        thin = quick_layout(thin, material.images)
        if material.train is None:
            return fitted(thin.eval(), network, material.images)
        untuned = copy.deepcopy(thin).eval()
        return material.better(material.tune(thin, epochs=self.epochs), untuned, repr(self))


def _refuse_if_read_by_name(network: nn.Module, example: torch.Tensor) -> None:
    """A parent that reads a layer's weight instead of calling it does not run with two in its place."""
    try:
        with torch.no_grad(), evaluating(network):
            network(example)
    except AttributeError as error:
        raise ValueError(
            f"network reads a layer by name that would become two ({error}): factorize the other layers by "
            "lowrank.factorize(network, ranks)"
        ) from error


@dataclass(frozen=True, repr=False)
class Share(Stage):
    """Each layer's nonzero weights take few values, which are tuned; zeros stay zeros.

    Recurrent layers are written out in linear ones.
    """

    clusters: int
    epochs: float = 1
    lr: float = 0.1

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A copy whose weights are looked up."""
        shared = sharing.share_weights(
            with_recurrent_unrolled(sharing.unshared(network), material.images), self.clusters
        )
        untuned = copy.deepcopy(shared).eval()
        tuned = material.tune(shared, epochs=self.epochs, lr=self.lr)
        return material.better(tuned, untuned, repr(self))


@dataclass(frozen=True, repr=False)
class Quantize(Stage):
    """Integers: calibrated on the images, the biases corrected where that helps; with epochs, tuned.

    Attributes:
        bits: of the weights, 2 to 8; below 8 with MSE ranges, and 8 bits in the first and last layer.
        epochs: of tuning toward the float network's answers; None: two below 8 bits, else none.
        activation_bits: 2 to 8.
        config: settings in full, in the place of `bits` and `activation_bits`.
        rounding: of the weights before any tuning, "nearest" or "learned" (`adaround`): toward each layer's
            outputs, on the calibration images alone, which takes seconds a layer.
    """

    bits: int = 8
    epochs: float | None = None
    activation_bits: int = 8
    config: QuantConfig | None = None
    rounding: str = "nearest"

    def __post_init__(self) -> None:
        """Validate bits as `QuantConfig` does, and the rounding."""
        self.settings()
        if self.rounding not in ("nearest", "learned"):
            raise ValueError(f"rounding must be nearest or learned, got {self.rounding!r}")

    def settings(self) -> QuantConfig:
        """The quantizers' settings."""
        if self.config is not None:
            return self.config
        if self.bits == 8:
            return QuantConfig(activation_bits=self.activation_bits)
        numbers = {"weight_bits": self.bits, "activation_bits": self.activation_bits}
        return QuantConfig(**numbers, weight_range="mse", edge_bits=8)

    def check(self, network: nn.Module, example: torch.Tensor) -> None:
        """A network with an operation that has no integer counterpart is refused."""
        refuse_unknown(prepare(sharing.unshared(network), self.settings(), example))

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """Simulated integers; `convert` makes the integer network of them."""
        model, config = sharing.unshared(network), self.settings()
        epochs = self.epochs
        if epochs is None:
            epochs = 0 if config.weight_bits == 8 else 2
        untuned = quantize_post_training(model, config, material.images)
        if self.rounding == "learned":
            options = {"seed": material.seed, "progress": material.progress}
            untuned = learn_rounding(untuned, model, material.images, **options)
        untuned = corrected(untuned, model, material.images)
        if epochs == 0 or material.train is None:
            self.prove(untuned, model, material.images)
            return untuned
        loss = qat.toward_teacher(model, material.train)
        options = {"loss": loss, "seed": material.seed, "label": "quantized tuning"}
        options |= {"progress": material.progress}
        tuned = qat.tune(model, config, material.train, epochs, **options)
        return material.better(tuned, untuned, repr(self))

    def prove(self, quantized: nn.Module, network: nn.Module, images: torch.Tensor) -> None:
        """Hold the answers against the float network's, and say so where they are far from them."""
        say_if_far(self, quantized, network, images, "quantize_post_training(...)")


def say_if_far(
    stage: Stage, after: nn.Module, before: nn.Module, images: torch.Tensor, name: str
) -> None:
    """Hold a network's answers against those before a stage, and say so where they are far from them.

    Args:
        stage: what was done.
        after: the network behind it.
        before: the network in front of it.
        images: of which the first few are taken.
        name: what `debug` should be called with to find the layer.
    """
    few = images[:PROOF]
    with torch.no_grad(), evaluating(before), evaluating(after):
        wanted, found = (flat_outputs(m(few)) for m in (before, after))
    # Against the differences between examples: what all answers have in common is no information.
    common = wanted.mean(0)
    near = decibels(wanted - common, found - common)
    if len(few) > 1 and near < NEAR:
        tell(
            f"{stage!r}: on the calibration inputs the answers are {near:.0f} dB from those of the network "
            f"before (less than {NEAR} dB are a third of their spread or more); debug(network, {name}, "
            "inputs) says which layer loses it"
        )


@dataclass(frozen=True, repr=False)
class Distill(Stage):
    """Another network, taught by the one that comes in: its answers at T = 4 weigh nine tenths."""

    build: Callable[[], nn.Module]
    epochs: float | None = None

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


@dataclass(frozen=True, repr=False)
class Weights(Stage):
    """Packed weights of linear layers, activations in floats: what language models bear.

    Attributes:
        bits: 2 to 8.
        group: weights that share a scale; it must divide every layer's inputs.
        method: "nearest", or "gptq", which takes the inputs of every layer from the material's images and
            leaves recurrent layers in floats.
        words: bits of tables of words (embeddings) and of a head that shares one; None leaves them in floats.
            At 8 bits a whole row shares a scale, below that a group.
    """

    bits: int = 4
    group: int = 32
    method: str = "nearest"
    words: int | None = 8

    def __post_init__(self) -> None:
        """Validate the settings."""
        weight_only.WeightConfig(self.bits, self.group)
        _check_words(self.words, self.group)
        if self.method not in ("nearest", "gptq"):
            raise ValueError(f"method must be nearest or gptq, got {self.method!r}")

    def check(self, network: nn.Module, _example: torch.Tensor) -> None:
        """A network without a layer to pack, or with one that is read by name, is refused."""
        refuse_to_pack(network)
        if self.words is None or not word_tables(network):
            linear_layers(network if self.method == "gptq" else unrolled(network))

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A copy on packed weights."""
        model = (
            network if self.method == "gptq" else with_recurrent_unrolled(network, material.images)
        )
        packed = self._packed(network, material, recurrent=model is not network)
        if model is not network and not _runs(packed, material.images):
            tell("recurrent layers stay in floats: the network's forward reads their parameters")
            packed = self._packed(network, material, recurrent=False)
        say_if_far(self, packed, network, material.images, "it")
        return packed

    def _packed(self, network: nn.Module, material: Material, recurrent: bool) -> nn.Module:
        config = weight_only.WeightConfig(self.bits, self.group)
        only_words = not own_linear_layers(unrolled(network) if recurrent else network)
        if self.words is not None and word_tables(network) and only_words:
            codes = weight_only.Codes(network, {})
        elif self.method == "gptq":
            codes = gptq.quantize(network, list(material.images.split(100)), config)
        else:
            codes = weight_only.quantize(network, config, recurrent)
        return convert_weights(_with_words(codes, self.words, self.group)).eval()


@dataclass(frozen=True, repr=False)
class Dynamic(Stage):
    """Linear layers on int8; activations are quantized row by row as they come. Nothing is calibrated.

    Attributes:
        words: as in `Weights`; a head that shares a table is packed with it, its activations stay floats.
    """

    words: int | None = field(default=8, kw_only=True)

    def __post_init__(self) -> None:
        """Validate the bits."""
        _check_words(self.words, 32)

    def check(self, network: nn.Module, _example: torch.Tensor) -> None:
        """A network without a linear layer, or with one that is read by name, is refused."""
        refuse_fast_path(network)
        linear_layers(unrolled(network))

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A copy with int8 layers."""
        plain = sharing.unshared(network)
        recurrent = with_recurrent_unrolled(plain, material.images) is not plain
        quick = self._quick(plain, recurrent)
        if recurrent and not _runs(quick, material.images):
            tell("recurrent layers stay in floats: the network's forward reads their parameters")
            quick = self._quick(plain, recurrent=False)
        say_if_far(self, quick, network, material.images, "it")
        return quick

    def _quick(self, network: nn.Module, recurrent: bool) -> nn.Module:
        dynamic = convert_dynamic(network, recurrent)
        codes = _with_words(weight_only.Codes(dynamic, {}), self.words, 32)
        return convert_weights(codes).eval() if codes.layers else dynamic


def _check_words(bits: int | None, group: int) -> None:
    if bits is None:
        return
    try:
        weight_only.WeightConfig(bits, group)
    except ValueError as error:
        raise ValueError(f"words must be an integer from 2 to 8, or None, got {bits!r}") from error


def _with_words(codes: weight_only.Codes, bits: int | None, group: int) -> weight_only.Codes:
    if bits is None or not word_tables(codes.model):
        return codes
    return weight_only.with_words(
        codes, weight_only.WeightConfig(bits, None if bits == 8 else group)
    )


@dataclass(frozen=True, repr=False)
class OnnxRuntime(Stage):
    """The integer network that a simulation stands for, in ONNX Runtime on one thread."""

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A session."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            export_int8(network, tuple(material.images.shape[1:]), path)
            return OnnxModel(path, threads=1)


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


# ---- lists of stages -----------------------------------------------------------------------------
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
    wrong = [s for s in stages if not isinstance(s, Stage)]
    if not stages or wrong:
        found = repr(wrong[0]) if wrong else "an empty list"
        raise ValueError(f"stages must be a list of stages such as Prune(0.85), got {found}")
    material = material_of(data, epochs, lr, seed, progress)
    check_network(network, material.images[:1])
    first = copy.deepcopy(network).eval()
    for stage in stages:
        # What replaces the network (a student) is not what comes in: only it is asked what comes after.
        stage.check(first, material.images[:1])
        if isinstance(stage, Distill | Binary):
            break
    for stage in stages:
        first = stage(first, material)
    return first if sharing.shared_layers(first) else deployed(first)


def fit(network: nn.Module, data: Split | Examples, **options: object) -> nn.Module:
    """A trained copy of a network, in evaluation mode.

    Args:
        network: maps [n, ...] to logits [n, classes]; not changed.
        data: a data set, of which `train` is taken, or examples.
        options: as `training.fit` has them: epochs, lr, batch_size, hooks, seed, ...

    Raises:
        ValueError: as `training.fit` does.
        TrainingDiverged: at the first loss that is not finite.
    """
    trained = copy.deepcopy(network)
    train_in_place(trained, data.train if isinstance(data, Split) else data, **options)
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


def check_network(network: nn.Module, example: torch.Tensor) -> None:
    """Refuse a network that is not in float32 on the CPU, or does not take the example.

    Raises:
        ValueError: saying which, and what to do.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(f"network must be a torch module, got {type(network).__name__}")
    if any(isinstance(m, Quantized) for m in network.modules()):
        raise ValueError("network must be of floats, got one that simulates integers already")
    for name, parameter in network.named_parameters():
        if parameter.device.type != "cpu":
            raise ValueError(
                f"network must be on the CPU, {name} is on {parameter.device}: network.cpu()"
            )
    if complaint := not_float32(network):
        raise ValueError(complaint)
    try:
        with torch.no_grad(), evaluating(network):
            flat_outputs(network(example))
    except Exception as error:  # whatever the author's own forward raises
        raise ValueError(
            f"network does not take inputs of shape {list(example.shape[1:])}: {error}"
        ) from error


def own_answers(network: nn.Module, images: torch.Tensor) -> Labelled:
    """Images with what the network says of them in the place of labels, for when there are none."""
    return labelled(images, logits(network, images).argmax(1))


__all__ = [
    "Binary",
    "ConversionError",
    "CutChannels",
    "Distill",
    "Dynamic",
    "LowRank",
    "Material",
    "Once",
    "OnnxRuntime",
    "Prune",
    "Quantize",
    "Report",
    "Share",
    "Stage",
    "Weights",
    "check_network",
    "compress",
    "fit",
    "material_of",
    "own_answers",
    "report",
    "run",
]
