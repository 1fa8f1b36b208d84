"""The float steps of a deployed network: what stays what it is in torch.

First and last layers of binary networks, and islands in integer ones: a norm over positions, bilinear
upsampling, a softmax at the end. Each wraps a torch module; its tensors are the module's state and its
numbers the module's own, from which it is built again. Images are [b, c, h, w] here.

Left out: modules with an order of their own (attention, recurrent layers): those networks are converted layer
by layer, see `dynamic`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.runtime.steps.step import Field, Numbers, Positive, Step, Tensors, Whole, Word


@dataclass(frozen=True)
class Of(Field):
    """A number of the wrapped module: checked when a file is read, and then read from the description."""

    field: Field
    value: Callable[[nn.Module], object]

    def describe(self, step: "FloatLayer", name: str) -> dict:  # noqa: D102
        value = self.value(step.layer)
        return {name: int(value) if isinstance(self.field, Whole) else value}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        self.field.read(about, tensors, name)
        return {}


@dataclass(frozen=True)
class State(Field):
    """The wrapped module: its tensors, and how it is made from their shapes and the description."""

    build: Callable[[Mapping, Mapping[str, torch.Size]], nn.Module]

    def tensors(self, step: "FloatLayer", name: str) -> Tensors:  # noqa: D102
        state = step.layer.state_dict()
        return {k: t for k, t in state.items() if k != "num_batches_tracked"}

    def read(self, about: Mapping, tensors: Tensors, name: str) -> dict:  # noqa: D102
        found = {k: tensors.pop(k) for k in list(tensors)}
        layer = self.build(about, {k: t.shape for k, t in found.items()})
        state = layer.state_dict()
        expected = {k: v.shape for k, v in state.items() if k != "num_batches_tracked"}
        if expected != {k: v.shape for k, v in found.items()}:
            shapes = {k: list(v.shape) for k, v in found.items()}
            raise ValueError(f"tensors of {type(layer).__name__} do not fit together: {shapes}")
        for key, tensor in found.items():
            if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{key} of {type(layer).__name__} must hold finite float32")
        layer.load_state_dict(found, strict=False)
        return {name: layer}


class FloatLayer(Step):
    """A module of torch as a step; `layer` is it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer does."""
        return self.layer(x)

    def numbers(self) -> Numbers:
        """Of the layer's parameters."""
        found = list(self.layer.parameters())
        return Numbers(sum(p.numel() for p in found), sum(int(p.count_nonzero()) for p in found))


def _conv(about: Mapping, shapes: Mapping) -> nn.Module:
    outputs, inputs, *kernel = shapes["weight"]
    if len(kernel) != 2:
        raise ValueError(f"weight must have four dimensions, found {2 + len(kernel)}")
    window = {k: about[k] for k in ("stride", "padding")}
    return nn.Conv2d(inputs, outputs, kernel, bias="bias" in shapes, **window)


class FloatConv2d(FloatLayer):
    """nn.Conv2d with one group and no dilation."""

    kind = "float_conv2d"
    fields: ClassVar = {
        "stride": Of(Whole(1, 1024), lambda m: m.stride[0]),
        "padding": Of(Whole(0, 1024), lambda m: m.padding[0]),
        "layer": State(_conv),
    }

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one image."""
        return self.layer.weight.numel() * output.shape[2] * output.shape[3]


def _linear(_about: Mapping, shapes: Mapping) -> nn.Module:
    outputs, inputs = shapes["weight"]
    return nn.Linear(inputs, outputs, bias="bias" in shapes)


class FloatLinear(FloatLayer):
    """nn.Linear."""

    kind = "float_linear"
    fields: ClassVar = {"layer": State(_linear)}

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one example."""
        return self.layer.in_features * output[0].numel()


EPS = Of(Positive(), lambda m: m.eps)


class FloatNorm(FloatLayer):
    """nn.BatchNorm1d or 2d in evaluation mode, for rows and images."""

    kind = "float_norm"
    fields: ClassVar = {
        "eps": EPS,
        "layer": State(lambda about, s: nn.BatchNorm2d(s["weight"].numel(), about["eps"])),
    }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(x - mean) / sqrt(variance + eps) * gain + shift."""
        norm = self.layer
        numbers = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return F.batch_norm(x, *numbers, training=False, eps=norm.eps)


class FloatGroupNorm(FloatLayer):
    """nn.GroupNorm with gain and shift."""

    kind = "float_group_norm"
    fields: ClassVar = {
        "eps": EPS,
        "groups": Of(Whole(1, 2**20), lambda m: m.num_groups),
        "layer": State(
            lambda about, s: nn.GroupNorm(about["groups"], s["weight"].numel(), about["eps"])
        ),
    }


class FloatLayerNorm(FloatLayer):
    """nn.LayerNorm over the last axis, with gain and shift."""

    kind = "float_layer_norm"
    fields: ClassVar = {
        "eps": EPS,
        "layer": State(lambda about, s: nn.LayerNorm(tuple(s["weight"]), about["eps"])),
    }


class FloatUpsample(FloatLayer):
    """nn.Upsample by whole factors, bilinear: corners are pixels where `corners` is 1."""

    kind = "float_upsample"
    fields: ClassVar = {
        "down": Of(Whole(1, 64), lambda m: _factors(m)[0]),
        "across": Of(Whole(1, 64), lambda m: _factors(m)[1]),
        "corners": Of(Whole(0, 1), lambda m: bool(m.align_corners)),
        "layer": State(
            lambda about, _: nn.Upsample(
                scale_factor=(about["down"], about["across"]),
                mode="bilinear",
                align_corners=bool(about["corners"]),
            )
        ),
    }


def _factors(module: nn.Upsample) -> tuple[int, int]:
    factor = module.scale_factor
    return tuple(int(f) for f in (factor if isinstance(factor, tuple) else (factor, factor)))


class FloatSoftmax(FloatLayer):
    """Softmax or its logarithm over one axis."""

    kind = "float_softmax"
    fields: ClassVar = {
        "axis": Of(Whole(-4, 3), lambda m: 1 if m.dim is None else m.dim),
        "log": Of(Whole(0, 1), lambda m: isinstance(m, nn.LogSoftmax)),
        "layer": State(
            lambda about, _: (nn.LogSoftmax if about["log"] else nn.Softmax)(about["axis"])
        ),
    }


ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish),
        *(nn.Hardsigmoid, nn.Softplus, nn.Softsign),
    )
}
"""Functions of one number that need no number of their own."""


class FloatActivation(FloatLayer):
    """A function of one number at the end of a network, such as a sigmoid."""

    kind = "float_activation"
    fields: ClassVar = {
        "activation": Of(Word(tuple(ACTIVATIONS)), lambda m: type(m).__name__),
        "layer": State(lambda about, _: ACTIVATIONS[about["activation"]]()),
    }


class FloatRelu(Step):
    """max(x, 0)."""

    kind = "float_relu"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of any shape."""
        return torch.relu(x)


class FloatMaxPool(Step):
    """The largest of each square."""

    kind = "float_max_pool"
    fields: ClassVar = {"size": Whole(1, 1024)}

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c, h // size, w // size]."""
        return F.max_pool2d(x, self.size)


class FloatMeanPool(Step):
    """The mean over all pixels."""

    kind = "float_mean_pool"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c, 1, 1]."""
        return F.adaptive_avg_pool2d(x, 1)


class FloatFlatten(Step):
    """Images to rows."""

    kind = "float_flatten"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c h w]."""
        return x.flatten(1)
