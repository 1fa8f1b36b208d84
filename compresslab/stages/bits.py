"""Stages that leave fewer bits per number: integers in the whole network, or packed weights of its layers.

    Quantize      weights and activations are integers; `convert` makes the network of integers
    Weights       weights are packed, activations stay floats: what language models bear
    Dynamic       weights are int8, activations are quantized row by row as they come
    OnnxRuntime   the integers of `Quantize` in another engine

Whatever comes out is held against the network before on a few examples, and a far answer is said.
"""

import tempfile
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path

import torch
from torch import nn

from compresslab.arguments import kind
from compresslab.network.normal import normal_form
from compresslab.network.recurrent import unrolled
from compresslab.network.select import (
    linear_layers,
    own_linear_layers,
    refuse_fast_path,
    refuse_to_pack,
    word_tables,
)
from compresslab.notice import tell
from compresslab.runtime.convert import convert_dynamic
from compresslab.runtime.export import export_int8
from compresslab.runtime.integers import try_integers
from compresslab.runtime.peers import OnnxModel
from compresslab.runtime.weight_only import convert_weights
from compresslab.stages.stage import Material, Stage, check_epochs
from compresslab.stages.trial import runs, say_if_far, say_if_one_size, with_recurrent_unrolled
from compresslab.techniques import gptq, qat, sharing, weight_only
from compresslab.techniques.adaround import learn_rounding
from compresslab.techniques.ptq import corrected, quantize_post_training
from compresslab.techniques.quantizer import QuantConfig


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
        if self.config is not None and not isinstance(self.config, QuantConfig):
            raise ValueError(f"config must be a QuantConfig or None, got {kind(self.config)}")
        self.settings()
        check_epochs(self.epochs)
        if self.rounding not in ("nearest", "learned"):
            raise ValueError(f"rounding must be nearest or learned, got {self.rounding!r}")

    def settings(self) -> QuantConfig:
        """The quantizers' settings."""
        if self.config is not None:
            return self.config
        if isinstance(self.bits, Integral) and self.bits == 8:
            return QuantConfig(activation_bits=self.activation_bits)
        numbers = {"weight_bits": self.bits, "activation_bits": self.activation_bits}
        return QuantConfig(**numbers, weight_range="mse", edge_bits=8)

    def check(self, network: nn.Module, example: torch.Tensor) -> None:
        """A network that has no integer counterpart is refused: one is made of it, and tried."""
        model = sharing.unshared(network)
        try_integers(model, self.settings(), example)
        say_if_one_size(self, normal_form(model, example), model, example)

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
        if model is not network and not runs(packed, material.images):
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
        if recurrent and not runs(quick, material.images):
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
