"""Which layer is to blame: a compressed network held against the float one, layer by layer.

    found = debug(network, simulated, images)

    alone         only this layer's weights are compressed, everything else is float: its own error
    accumulated   the whole compressed network up to this layer

in decibels of signal to noise, 10 log10(E[y^2] / E[(y - y')^2]): 6 dB are a factor of two in the error, and
less than 20 dB is a tenth. The layer that loses most by itself is named first.

It takes a simulation, whose layers have the names of the float network's; of a converted network only the
answers can be compared.
"""

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import nn

from compresslab.arguments import check_network, kind
from compresslab.network.graph import module_at
from compresslab.network.normal import flat_outputs, normal_form
from compresslab.network.taps import by_name, tapped
from compresslab.report import COLOURS, Table
from compresslab.techniques.quantizer import ActivationQuantizer, Quantized
from compresslab.training import evaluating


def decibels(wanted: torch.Tensor, found: torch.Tensor) -> float:
    """10 log10 of the signal's power over the error's; inf where they are equal.

    Raises:
        ValueError: if the shapes differ.
    """
    if wanted.shape != found.shape:
        raise ValueError(f"found must have shape {list(wanted.shape)}, got {list(found.shape)}")
    signal = float(wanted.double().square().mean())
    noise = float((wanted - found).double().square().mean())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


@dataclass(frozen=True)
class LayerError:
    """What one layer loses, in decibels: by its weights alone, by its activations alone, and accumulated."""

    name: str
    weights: float
    activations: float
    accumulated: float

    @property
    def alone(self) -> float:
        """The worse of the first two."""
        return min(self.weights, self.activations)


@dataclass(frozen=True)
class Diagnosis:
    """What `debug` found: the layers in order of execution, and the answers' own decibels."""

    layers: tuple[LayerError, ...]
    answers: float

    @property
    def worst(self) -> tuple[LayerError, ...]:
        """The layers, the one that loses most by itself first."""
        return tuple(sorted(self.layers, key=lambda layer: layer.alone))

    def table(self) -> Table:
        """One row per layer, the one to blame first."""
        rows = [
            [e.name, *(f"{v:.1f}" for v in (e.weights, e.activations, e.accumulated))]
            for e in self.worst
        ]
        headings = [
            "layer",
            "its weights alone, dB",
            "its activations alone, dB",
            "all up to it, dB",
        ]
        return Table(headings, rows, f"answers: {self.answers:.1f} dB; 6 dB are half the error")

    def plot(self, axes: Axes | None = None) -> Axes:
        """The decibels along the network."""
        axes = axes or plt.subplots(figsize=(max(6, 0.3 * len(self.layers)), 3.5))[1]
        places = range(len(self.layers))
        for label, marker, colour in (
            ("weights", "o", COLOURS[0]),
            ("activations", "s", COLOURS[1]),
            ("accumulated", "^", COLOURS[2]),
        ):
            values = [min(getattr(e, label), 99.0) for e in self.layers]
            axes.plot(places, values, marker=marker, color=colour, label=label)
        axes.set_xticks(places, [e.name for e in self.layers], rotation=90, fontsize=7)
        axes.set(ylabel="signal to noise, dB")
        axes.legend(fontsize=9)
        return axes

    def __str__(self) -> str:
        """The table."""
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


@torch.no_grad()
def debug(network: nn.Module, compressed: nn.Module, examples: torch.Tensor) -> Diagnosis:
    """Compare a compressed network with its float self, layer by layer.

    Args:
        network: the float one.
        compressed: a simulation of it (`quantize_post_training`, `qat.tune`), or any network that answers in
            the same shape, of which only the answers are compared.
        examples: a batch, as the networks take it.

    Raises:
        ValueError: for no networks, no tensor, no examples, or answers of other shapes.
    """
    check_network(network)
    check_network(compressed, "compressed")
    if not isinstance(examples, torch.Tensor):
        raise ValueError(f"examples must be a tensor, a batch of inputs, got {kind(examples)}")
    if len(examples) == 0:
        raise ValueError("examples must hold at least one, got 0")
    with evaluating(network), evaluating(compressed):
        answers = decibels(flat_outputs(network(examples)), flat_outputs(compressed(examples)))
        layers = {n: m for n, m in compressed.named_modules() if isinstance(m, Quantized)}
        if not layers:
            return Diagnosis((), answers)
        reference = normal_form(network, examples[:1])
        wanted, inputs = _outputs(reference, list(layers), examples)
        together, _ = _outputs(compressed, list(layers), examples)
        found = []
        for name in wanted:
            layer, quantizer = layers[name], _quantizer_in_front(compressed, name)
            x, y = inputs[name], wanted[name]
            weights = decibels(y, layer(x))
            rounded = x if quantizer is None else quantizer(x)
            activations = decibels(y, layer.layer(rounded))
            found.append(LayerError(name, weights, activations, decibels(y, together[name])))
    return Diagnosis(tuple(found), answers)


def _outputs(
    model: nn.Module, names: list[str], examples: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the named layers give and are given, in order of execution, at their first run."""
    outputs: dict[str, torch.Tensor] = {}
    inputs: dict[str, torch.Tensor] = {}

    def keep(name: str, _layer: nn.Module, given: tuple, output: torch.Tensor) -> None:
        inputs.setdefault(name, given[0])
        outputs.setdefault(name, output)

    with tapped(by_name(model, names), after=keep):
        model(examples)
    return outputs, inputs


def _quantizer_in_front(compressed: nn.Module, name: str) -> ActivationQuantizer | None:
    """The quantizer that a layer's input comes from, through whatever hands codes on."""
    graph = getattr(compressed, "graph", None)
    if graph is None:
        return None
    modules = dict(compressed.named_modules())
    node = next(n for n in graph.nodes if n.op == "call_module" and n.target == name)
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
        module = module_at(node, modules)
        if isinstance(module, ActivationQuantizer):
            return module
        if isinstance(module, Quantized):
            return None
    return None
