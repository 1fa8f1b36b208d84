"""Quantizers as modules: what simulates integer weights and activations inside a float network.

A weight quantizer has a symmetric grid and one scale a tensor, channel or group. An activation quantizer
has an unsigned grid and one scale a tensor; it first *observes* (calibration, 校准), then quantizes with
what it saw, or, if dynamic, with each tensor's own range. Either scale may be learned (LSQ).

The codes a quantizer means are those of `numerics.affine`: `qparams()` gives them for packing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.network.select import arranged_like
from compresslab.numerics.affine import QParams, choose_qparams
from compresslab.numerics.grid import IntGrid
from compresslab.numerics.observers import observer, weight_range
from compresslab.techniques.ste import fake_quantize

SMALLEST = float(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class QuantConfig:
    """How to quantize a network.

    Attributes:
        weight_bits: 2 to 8.
        activation_bits: 2 to 8, or None to leave activations in float (weight-only).
        sharing: what shares a weight scale: "tensor", "channel" or "group".
        group: length of a group along a layer's flattened inputs, for sharing="group".
        weight_range: "minmax" or "mse".
        activation_range: "minmax", "average", "percentile", "mse" or "entropy".
        dynamic: activation ranges are taken from each tensor at run time.
        learned: scales are parameters (LSQ).
        edge_bits: bits of the input, the first and the last layer, if they differ from the rest.
        layers: weight bits of single layers, by dotted name.

    Raises:
        ValueError: for a value outside of these.
    """

    weight_bits: int = 8
    activation_bits: int | None = 8
    sharing: str = "channel"
    group: int = 32
    weight_range: str = "minmax"
    activation_range: str = "minmax"
    dynamic: bool = False
    learned: bool = False
    edge_bits: int | None = None
    layers: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning, by name."""
        for name in ("weight_bits", "activation_bits", "edge_bits"):
            bits = getattr(self, name)
            if bits is None and name != "weight_bits":
                continue
            if not isinstance(bits, Integral) or not 2 <= bits <= 8:
                raise ValueError(f"{name} must be an integer from 2 to 8, got {bits!r}")
        for name, bits in self.layers.items():
            if not isinstance(bits, Integral) or not 2 <= bits <= 8:
                raise ValueError(f"layers[{name!r}] must be an integer from 2 to 8, got {bits!r}")
        if self.sharing not in ("tensor", "channel", "group"):
            raise ValueError(f"sharing must be tensor, channel or group, got {self.sharing!r}")
        if self.weight_range not in ("minmax", "mse"):
            raise ValueError(f"weight_range must be minmax or mse, got {self.weight_range!r}")
        if not isinstance(self.group, Integral) or self.group < 1:
            raise ValueError(f"group must be an integer of 1 or more, got {self.group!r}")
        if self.dynamic and self.learned:
            raise ValueError(
                "dynamic and learned exclude each other: which scale would be learned?"
            )
        observer(self.activation_range, IntGrid(8, signed=False))


class WeightQuantizer(nn.Module):
    """Fake-quantizes a weight [outputs, ...] with symmetric scales.

    A group's length must divide a layer's flattened inputs; where it does not, the layer falls back to
    one scale a channel.
    """

    def __init__(self, weight: torch.Tensor, bits: int, config: QuantConfig) -> None:
        super().__init__()
        self.grid = IntGrid(bits, narrow=True)
        inputs = weight[0].numel()
        self.sharing = config.sharing
        if self.sharing == "group" and inputs % config.group:
            self.sharing = "channel"
        self.group = config.group if self.sharing == "group" else None
        self.method = config.weight_range
        scale = self.choose(weight)
        if config.learned:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    @property
    def axis(self) -> int | None:
        """The channel axis of `qparams`."""
        return 0 if self.sharing == "channel" else None

    def choose(self, weight: torch.Tensor) -> torch.Tensor:
        """Scales for this weight; shape [], [outputs] or [outputs, inputs / group]."""
        rows = weight.detach().reshape(len(weight), -1)
        lo, hi = weight_range(rows, self.grid, self.method, self.axis, self.group)
        return choose_qparams(lo, hi, self.grid, symmetric=True).scale.clamp(min=SMALLEST)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as its codes stand for it."""
        scale = self.scale.abs().clamp(min=SMALLEST)
        zero = torch.zeros_like(scale)
        if self.sharing == "group":
            rows = weight.reshape(len(weight), -1, self.group)
            scale, zero = scale[..., None], zero[..., None]
            back = fake_quantize(rows, scale, zero, self.grid.low, self.grid.high)
            return back.reshape(weight.shape)
        if self.axis == 0:
            # In the weight's own shape, which keeps its memory layout: torch's convolutions follow it.
            each = (-1, *(1 for _ in weight.shape[1:]))
            scale, zero = scale.reshape(each), zero.reshape(each)
        return fake_quantize(weight, scale, zero, self.grid.low, self.grid.high)

    def qparams(self) -> QParams:
        """Scales and zero points for the weight as [outputs, flattened inputs]."""
        scale = self.scale.detach().abs().clamp(min=SMALLEST)
        zero = torch.zeros(scale.shape, dtype=torch.int32)
        return QParams(scale, zero, self.grid, self.axis, self.group)


class ActivationQuantizer(nn.Module):
    """Fake-quantizes an activation; passes it through unchanged while it observes."""

    def __init__(self, bits: int, config: QuantConfig) -> None:
        super().__init__()
        self.grid = IntGrid(bits, signed=False)
        self.dynamic, self.learned = config.dynamic, config.learned
        self.observer = None if config.dynamic else observer(config.activation_range, self.grid)
        self.register_buffer("zero_point", torch.tensor(0.0, dtype=torch.float32))
        self.register_buffer("ready", torch.tensor(config.dynamic))
        if self.learned:
            self.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float32))
        else:
            self.register_buffer("scale", torch.tensor(1.0, dtype=torch.float32))

    def _load_from_state_dict(self, *arguments: object) -> None:
        super()._load_from_state_dict(*arguments)
        # Whoever reads a range that was found does not look for one.
        if bool(self.ready):
            self.observer = None

    def freeze(self) -> None:
        """Stop observing: from here on the range is what was seen.

        Raises:
            ValueError: if nothing was seen.
        """
        if self.observer is None:
            return
        params = choose_qparams(*self.observer.range(), self.grid)
        with torch.no_grad():
            self.scale.copy_(params.scale.clamp(min=SMALLEST))
            self.zero_point.copy_(params.zero_point)
            self.ready.fill_(True)
        self.observer = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The activation as its codes stand for it, or itself while observing."""
        if self.observer is not None:
            self.observer.update(x)
            return x
        p = self.qparams(x if self.dynamic else None)
        scale = self.scale.abs().clamp(min=SMALLEST) if not self.dynamic else p.scale
        return fake_quantize(x, scale, p.zero_point.float(), self.grid.low, self.grid.high)

    def qparams(self, x: torch.Tensor | None = None) -> QParams:
        """Scale and zero point: of this tensor if dynamic, else the calibrated ones.

        Raises:
            ValueError: if it has not been calibrated.
        """
        if x is not None:
            return choose_qparams(x.detach().min(), x.detach().max(), self.grid)
        if not bool(self.ready):
            raise ValueError("an activation quantizer must be calibrated before it can be used")
        scale = self.scale.detach().abs().clamp(min=SMALLEST)
        return QParams(scale, self.zero_point.to(torch.int32), self.grid)


class Quantized(nn.Module):
    """A convolution or linear layer that computes with its fake-quantized weight."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, bits: int, config: QuantConfig) -> None:
        super().__init__()
        self.layer = layer
        self.weight_quantizer = WeightQuantizer(layer.weight, bits, config)
        self.weight_bits = bits
        self.activation_bits = config.activation_bits or 32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output."""
        weight = arranged_like(self.weight_quantizer(self.layer.weight), self.layer.weight)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)

    def extra_repr(self) -> str:
        """Bits and sharing."""
        return f"{self.weight_bits} bits, one scale a {self.weight_quantizer.sharing}"
