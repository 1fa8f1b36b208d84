"""Counted, not measured: parameters and multiply-accumulates of every layer.

    MACs of a linear layer       inputs * outputs                              (乘加次数)
    MACs of a convolution        k_h * k_w * (C_in / groups) * C_out * H_out * W_out
    MACs of a recurrent layer    steps * gates * hidden * (inputs + hidden)
    BOPs                         MACs * bits of a weight * bits of an activation

BOPs as in van Baalen et al. 2020 (https://arxiv.org/abs/2005.07093), appendix B. Counts come from one forward
pass with a hook on every layer, so they hold for any network that runs; on the meta device nothing is
allocated. Left out of MACs: biases, norms, activations and pooling, which together are a few per cent; matrix
products outside of layers, which their modules can add by a `macs` method.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.rnn import PackedSequence

from compresslab.network.select import is_transposed
from compresslab.network.taps import tapped
from compresslab.precision import as_taken
from compresslab.techniques.quantizer import Quantized
from compresslab.techniques.sharing import Shared
from compresslab.training import evaluating

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}
CELLS = {nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}
UNCOUNTED = (nn.Bilinear, nn.Transformer)
"""Layers that multiply, and whose multiplications are not counted."""
WITH_WEIGHTS = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, *GATES, *CELLS, nn.MultiheadAttention)


# ---- counting ------------------------------------------------------------------------------------
def linear_macs(inputs: int, outputs: int, positions: int = 1) -> int:
    """Multiply-accumulates of one example through a linear layer, applied at every position."""
    return positions * inputs * outputs


def conv2d_macs(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    output_size: tuple[int, int],
    groups: int = 1,
) -> int:
    """Multiply-accumulates of one image through a 2-D convolution.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: height and width of the kernel.
        output_size: height and width of the output.
        groups: each output channel sees inputs / groups input channels.
    """
    return math.prod(kernel) * (inputs // groups) * outputs * math.prod(output_size)


@dataclass(frozen=True)
class LayerCount:
    """One layer's share: its dotted name, parameters, and MACs for one example."""

    name: str
    kind: str
    parameters: int
    macs: int
    weight_bits: int = 32
    activation_bits: int = 32

    @property
    def bops(self) -> int:
        """Bit operations for one example."""
        return self.macs * self.weight_bits * self.activation_bits


def layer_macs(
    layer: nn.Module, output: torch.Tensor | tuple, inputs: tuple[torch.Tensor, ...] = ()
) -> int:
    """MACs of one example through one layer; 0 for layers that do not multiply.

    Args:
        layer: as a hook sees it.
        output: what it gave.
        inputs: what it was given; needed for transposed convolutions and attention.

    Raises:
        ValueError: for a kind of layer that multiplies and that the course does not count.
    """
    if isinstance(layer, Quantized | Shared):
        return layer_macs(layer.layer, output, inputs)
    if isinstance(layer, CONVOLUTIONS):
        channels = layer.in_channels // layer.groups * layer.out_channels
        return math.prod(layer.kernel_size) * channels * math.prod(output.shape[2:])
    if isinstance(layer, TRANSPOSED):
        # Every input pixel is multiplied with the whole kernel.
        channels = layer.in_channels // layer.groups * layer.out_channels
        return math.prod(layer.kernel_size) * channels * math.prod(inputs[0].shape[2:])
    if isinstance(layer, nn.Linear):
        positions = math.prod(output.shape[1:-1])
        return linear_macs(layer.in_features, layer.out_features, positions)
    if isinstance(layer, tuple(CELLS)):
        gates = next(count for kind, count in CELLS.items() if isinstance(layer, kind))
        return gates * layer.hidden_size * (layer.input_size + layer.hidden_size)
    if isinstance(layer, tuple(GATES)):
        return _recurrent_macs(layer, output[0])
    if isinstance(layer, nn.MultiheadAttention):
        return _attention_macs(layer, inputs)
    if hasattr(layer, "macs"):
        return layer.macs(output)
    if is_transposed(layer):
        outputs = output.shape[-1]
        return linear_macs(layer.weight.shape[0], outputs, math.prod(output.shape[1:-1]))
    if isinstance(layer, UNCOUNTED):
        raise ValueError(f"layer must be of a kind that is counted, got {type(layer).__name__}")
    return 0


def _recurrent_macs(layer: nn.LSTM | nn.GRU | nn.RNN, states: torch.Tensor) -> int:
    """Each gate a product of the input and of the last state, at every step."""
    if isinstance(states, PackedSequence):
        steps = len(states.data) // max(int(states.batch_sizes[0]), 1)
    else:
        steps = states.shape[1] if layer.batch_first else states.shape[0]
    gates = next(count for kind, count in GATES.items() if isinstance(layer, kind))
    directions = 2 if layer.bidirectional else 1
    inputs, total = layer.input_size, 0
    for _ in range(layer.num_layers):
        total += directions * gates * layer.hidden_size * (inputs + layer.hidden_size)
        inputs = directions * layer.hidden_size
    return steps * total


def _attention_macs(layer: nn.MultiheadAttention, inputs: tuple[torch.Tensor, ...]) -> int:
    """Four projections, the scores, and the weighted values."""
    axis = 1 if layer.batch_first else 0
    asked, seen = inputs[0].shape[axis], inputs[1].shape[axis]
    width, keys, values = layer.embed_dim, layer.kdim, layer.vdim
    projections = 2 * asked * width * width + seen * width * (keys + values)
    return projections + 2 * asked * seen * width


def count_layers(model: nn.Module, shape: tuple[int, ...] | torch.Tensor) -> list[LayerCount]:
    """Parameters and MACs of every layer for one example, in order of execution.

    A layer that runs twice appears twice; a parameter is counted the first time only. Quantizers' own scales
    and shared values count as parameters, codes do not.

    Args:
        model: any network that runs on a batch of one.
        shape: of an example of floats, without the batch; or an example itself (tokens).
    """
    counts, seen = [], set()

    def record(name: str, layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        new = [p for p in layer.parameters(recurse=layer in whole) if p not in seen]
        seen.update(new)
        parameters = sum(p.numel() for p in new)
        bits = _bits(layer, output)
        macs = layer_macs(layer, output, inputs)
        if macs or parameters:
            counts.append(LayerCount(name, type(layer).__name__, parameters, macs, *bits))

    names = {layer: name for name, layer in model.named_modules()}
    # Layers that compute with their inner layer's numbers, and never call it.
    whole = {m for m in names if isinstance(m, Quantized | Shared) or is_parametrized(m)}
    inside = {inner for layer in whole for inner in layer.modules() if inner is not layer}
    counted = {
        name: layer
        for layer, name in names.items()
        if layer not in inside
        and (
            layer in whole
            or not list(layer.children())
            or hasattr(layer, "macs")
            or isinstance(layer, (*WITH_WEIGHTS, *UNCOUNTED))
        )
    }
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else "cpu"
    with tapped(counted, after=record), torch.no_grad(), evaluating(model):
        example = (
            shape if isinstance(shape, torch.Tensor) else torch.zeros(shape, dtype=torch.float32)
        )
        model(as_taken(model, example[None].to(device)))
    return counts


def _bits(layer: nn.Module, output: torch.Tensor | tuple) -> tuple[int, int]:
    """Bits of a weight and of an activation: those that the layer names, else those of its floats."""
    found = []
    for name, held in (
        ("weight_bits", getattr(layer, "weight", None)),
        ("activation_bits", output),
    ):
        floats = isinstance(held, torch.Tensor) and held.is_floating_point()
        found.append(getattr(layer, name, 8 * held.element_size() if floats else 32))
    return found[0], found[1]
