"""What can be done with a network, before anything is: every layer, every technique, every obstacle at once.

    found = inspect(network, images[:1])
    found                          layers with shapes, parameters and MACs; what each technique would do
    found.obstacles["integers"]    why not, and what to write instead; empty where nothing stands in the way

A network is run once on the example and followed as a graph; nothing is trained and nothing is changed. Where
neither torch.fx nor torch.export can follow it, the techniques that need no graph are still judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from compresslab.arguments import bare, check_open
from compresslab.measure.counts import WITH_WEIGHTS, layer_macs
from compresslab.network.graph import LAYERS, TracingError
from compresslab.network.normal import normal_form
from compresslab.network.recurrent import recurrent_layers, unrolled
from compresslab.network.select import (
    check_weights,
    is_linear,
    is_table,
    is_transposed,
    linear_layers,
    packable,
    refuse_fast_path,
    refuse_to_pack,
    word_tables,
)
from compresslab.network.taps import tapped
from compresslab.precision import as_taken, not_float32
from compresslab.report import Table, in_units
from compresslab.runtime.integers import try_integers, unknown_operations
from compresslab.techniques.lowrank import factorizable
from compresslab.techniques.ptq import prepare
from compresslab.techniques.quantizer import QuantConfig
from compresslab.techniques.scores import prunable
from compresslab.techniques.sharing import shareable, shared_layers, unshared
from compresslab.techniques.surgery import NO_CHANNELS, SurgeryError, obstacles_of
from compresslab.training import evaluating

INSTEAD = {
    "local_response_norm": "use a batch norm, or leave it out",
    "softmax2d": "keep it for the end, or use a sigmoid",
    "scaled_dot_product_attention": "integers are for convolutional networks: use Dynamic() or Weights(4)",
    "getitem": "select channels by a slice of the second axis: x[:, :8]",
    "transpose": "shuffle channels by nn.ChannelShuffle",
    "permute": "use permute(0, 2, 3, 1) and back only",
    **dict.fromkeys(
        ("lstm", "gru", "rnn"), "use Dynamic() or Weights(4), which take recurrent layers"
    ),
    "instancenorm2d": "use nn.GroupNorm",
    "pixelshuffle": "use nn.Upsample and a convolution",
}
"""What can be written in the place of some operations, by their lower-case name."""
TECHNIQUES = (
    *("integers", "cut channels", "prune", "low rank", "share"),
    *("packed weights", "dynamic int8"),
)


@dataclass(frozen=True)
class Layer:
    """A layer with weights as the example met it: shapes without the batch, counts for one example."""

    name: str
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: int
    macs: int
    does: Mapping[str, str]
    """By technique "yes", or why it is left as it is."""


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        layers: those with weights, in order of execution.
        obstacles: by technique why the network cannot be taken, an empty tuple where it can.
        others: parameters outside of the layers above (norms, tables that are more than looked up).
    """

    network: str
    layers: tuple[Layer, ...]
    obstacles: Mapping[str, tuple[str, ...]]
    others: int

    def can(self, technique: str) -> bool:
        """Whether nothing stands in the way of a technique.

        Raises:
            ValueError: for an unknown one.
        """
        if technique not in self.obstacles:
            known = ", ".join(self.obstacles)
            raise ValueError(f"technique must be one of {known}, got {technique!r}")
        return not self.obstacles[technique]

    def coverage(self, technique: str) -> float:
        """The fraction of all parameters in layers that the technique would change."""
        total = self.others + sum(layer.parameters for layer in self.layers)
        taken = sum(layer.parameters for layer in self.layers if layer.does[technique] == "yes")
        return taken / total if total and self.can(technique) else 0.0

    def techniques(self) -> Table:
        """One row per technique: whether it can be done, what it reaches of the parameters, or why not."""
        rows = [
            [
                name,
                "no" if why else "yes",
                f"{100 * self.coverage(name):.0f} %",
                "; ".join(why) or "-",
            ]
            for name, why in self.obstacles.items()
        ]
        headings = ["technique", "can be done", "of the parameters", "what stands in the way"]
        return Table(headings, rows, self.network, text_columns=1)

    def table(self) -> Table:
        """One row per layer."""
        rows = [
            [
                layer.name or "(the network)",
                layer.kind,
                " x ".join(map(str, layer.inputs)),
                " x ".join(map(str, layer.outputs)),
                in_units(layer.parameters),
                in_units(layer.macs),
            ]
            for layer in self.layers
        ]
        caption = f"{in_units(self.others)} more parameters in norms and others"
        headings = ["layer", "kind", "in", "out", "parameters", "MACs"]
        return Table(headings, rows, caption, text_columns=2)

    def __str__(self) -> str:
        """Both tables."""
        return f"{self.table()}\n\n{self.techniques()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() + self.techniques()._repr_html_()


def inspect(network: nn.Module, example: object) -> Inspection:
    """Look at a network and say what each technique would do with it.

    Args:
        network: any module; not changed.
        example: what its forward takes, as a batch: a tensor, a tuple of them, or a dictionary of keyword
            arguments, as tokenizers give them.

    A network in half precision can be looked at, and takes an example in floats; to be compressed it must be
    in float32, which each technique says.

    Raises:
        ValueError: for no network, or one that does not run on the example, with what it answered.
    """
    check_open(network)
    network = bare(network)
    # Shared weights are looked at as what they stand for.
    network = unshared(network) if shared_layers(network) else network
    example = as_taken(network, example) if isinstance(example, torch.Tensor) else example
    layers, total = _layers(network, example)
    others = total - sum(layer.parameters for layer in layers)
    complaint = not_float32(network)
    obstacles = (
        dict.fromkeys(TECHNIQUES, (complaint,)) if complaint else _obstacles(network, example)
    )
    return Inspection(type(network).__name__, tuple(layers), obstacles, others)


def _obstacles(network: nn.Module, example: object) -> dict[str, tuple[str, ...]]:
    one = example if isinstance(example, torch.Tensor) else None
    return {
        "integers": _for_integers(network, one),
        "cut channels": _for_surgery(network, one),
        "prune": _of(lambda: check_weights(network) or prunable(unrolled(network))),
        "low rank": _of(lambda: factorizable(unrolled(network))),
        "share": _of(lambda: shareable(unrolled(network))),
        "packed weights": _for_packing(network),
        "dynamic int8": _for_dynamic(network),
    }


def run_on(network: nn.Module, example: object) -> object:
    """The network's answer to a tensor, a tuple of inputs, or a dictionary of keyword arguments."""
    if isinstance(example, torch.Tensor):
        return network(example)
    return network(**example) if isinstance(example, Mapping) else network(*example)


def _layers(network: nn.Module, example: object) -> tuple[list[Layer], int]:
    found: dict[str, Layer] = {}
    counted: set[int] = set()

    def own(layer: nn.Module) -> int:
        """Parameters, those of a tied weight at the layer that ran first."""
        new = [p for p in layer.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, new))
        return sum(p.numel() for p in new)

    def record(name: str, layer: nn.Module, inputs: tuple, output: object) -> None:
        if name in found:
            return
        first = output[0] if isinstance(output, tuple) else output
        # Of sequences packed together, what one step is.
        x, y = (t.data if isinstance(t, PackedSequence) else t for t in (inputs[0], first))
        shapes = (tuple(x.shape[1:]), tuple(y.shape[1:]))
        macs = 0 if is_table(layer) else layer_macs(layer, output, inputs)
        kind = type(layer).__name__
        found[name] = Layer(name, kind, *shapes, own(layer), macs, does[name])

    packed, recurrent = packable(network), recurrent_layers(network)
    watched = {
        n: m
        for n, m in network.named_modules()
        if isinstance(m, WITH_WEIGHTS) or is_transposed(m) or is_table(m)
    }
    # Before anything watches them: a layer with a hook does more than its kind.
    does = {
        name: _does(layer, name in packed, name in recurrent) for name, layer in watched.items()
    }
    with tapped(watched, after=record), torch.no_grad(), evaluating(network):
        try:
            run_on(network, example)
        except Exception as error:  # whatever the author's forward raises
            raise ValueError(f"network does not run on the example: {error}") from error
    return list(found.values()), sum(p.numel() for p in network.parameters())


def _does(layer: nn.Module, packed: bool, recurrent: bool) -> dict[str, str]:
    # A recurrent layer is written out in linear ones by whatever takes those.
    conv, linear = type(layer) is nn.Conv2d, is_linear(layer)
    transposed = type(layer) is nn.ConvTranspose2d
    grouped = conv and layer.groups > 1
    kind = type(layer).__name__

    def when(good: bool, why: str) -> str:
        return "yes" if good else why

    floats = f"{kind} stays in floats"
    return {
        "integers": when(conv or linear or transposed, floats),
        "cut channels": when(
            (conv and (not grouped or layer.groups == layer.in_channels))
            or type(layer) is nn.Linear,
            f"{kind} is not followed",
        ),
        "prune": when(conv or linear or recurrent, floats),
        "low rank": when(
            linear or recurrent or (conv and not grouped), "grouped" if grouped else floats
        ),
        "share": when(conv or recurrent or type(layer) is nn.Linear, floats),
        "packed weights": when(packed or recurrent, floats),
        "dynamic int8": when(packed or recurrent, floats),
    }


def _of(look: object) -> tuple[str, ...]:
    """Why a technique finds no layer, if it does not."""
    try:
        return () if look() else ("there is no layer that it could change",)
    except ValueError as error:
        return (str(error),)


def _for_packing(network: nn.Module) -> tuple[str, ...]:
    try:
        refuse_to_pack(network)
    except ValueError as error:
        return (str(error),)
    return _of(lambda: word_tables(network) or linear_layers(unrolled(network)))


def _for_dynamic(network: nn.Module) -> tuple[str, ...]:
    try:
        refuse_fast_path(network)
    except ValueError as error:
        return (str(error),)
    return _of(lambda: linear_layers(unrolled(network)))


def _for_integers(network: nn.Module, example: torch.Tensor | None) -> tuple[str, ...]:
    if example is None:
        return ("an integer network takes one tensor: wrap the network in a module that does",)
    if example.is_meta:
        return ("an example on the meta device has no numbers to calibrate with",)
    try:
        check_weights(network)
        prepared = prepare(network, QuantConfig(), example)
    except (TracingError, ValueError) as error:
        return (str(error),)
    unknown = unknown_operations(prepared)
    if unknown:
        return tuple(_with_advice(name, what) for name, what in unknown.items())
    return _of(lambda: try_integers(network, QuantConfig(), example) is None)


def _with_advice(name: str, what: str) -> str:
    instead = INSTEAD.get(what.lower())
    return f"{name} ({what}) has no integer counterpart" + (f": {instead}" if instead else "")


def _for_surgery(network: nn.Module, example: torch.Tensor | None) -> tuple[str, ...]:
    try:
        form = network if example is None else normal_form(network, example)
        obstacles = tuple(obstacles_of(form))
        if not any(isinstance(m, LAYERS) for m in prunable(form, last=False).values()):
            return (*obstacles, NO_CHANNELS)
        return obstacles
    except (TracingError, SurgeryError, ValueError) as error:
        return (str(error),)
