"""The float layers of a compressed network: its first and last, which stay what they are in torch.

Each is a torch module wrapped so that it can describe itself to a file. Left out: whatever the course's
networks do not have; the converter names what it does not know.
"""

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.runtime.modules import IntegerModule, Tensors


class _FloatLayer(IntegerModule):
    """A module of torch as a step; `layer` is it."""

    weight_bits, activation_bits = 32, 32

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer does."""
        return self.layer(x)

    def tensors(self) -> Tensors:
        """Parameters and statistics."""
        state = self.layer.state_dict()
        return {name: t for name, t in state.items() if name != "num_batches_tracked"}


def _load(layer: nn.Module, tensors: Tensors) -> nn.Module:
    """Put a file's tensors into a layer that was built from their shapes."""
    expected = {k: v for k, v in layer.state_dict().items() if k != "num_batches_tracked"}
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in tensors.items()}:
        shapes = {k: list(v.shape) for k, v in tensors.items()}
        raise ValueError(f"tensors of {type(layer).__name__} do not fit together: {shapes}")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} of {type(layer).__name__} must hold finite float32")
    layer.load_state_dict(tensors, strict=False)
    return layer


class FloatConv2d(_FloatLayer):
    """nn.Conv2d with one group and no dilation."""

    kind = "float_conv2d"

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one image."""
        return self.layer.weight.numel() * output.shape[2] * output.shape[3]

    def describe(self) -> dict:
        """Stride and padding."""
        return {"stride": self.layer.stride[0], "padding": self.layer.padding[0]}

    @classmethod
    def build(cls, about: dict, tensors: Tensors) -> "FloatConv2d":
        """From a description."""
        outputs, inputs, *kernel = tensors["weight"].shape
        if len(kernel) != 2:
            raise ValueError(f"weight must have four dimensions, found {2 + len(kernel)}")
        bias, options = "bias" in tensors, {k: about[k] for k in ("stride", "padding")}
        return cls(_load(nn.Conv2d(inputs, outputs, kernel, bias=bias, **options), tensors))


class FloatLinear(_FloatLayer):
    """nn.Linear."""

    kind = "float_linear"

    def macs(self, _output: torch.Tensor) -> int:
        """Multiply-accumulates of one example."""
        return self.layer.weight.numel()

    @classmethod
    def build(cls, _about: dict, tensors: Tensors) -> "FloatLinear":
        """From a description."""
        outputs, inputs = tensors["weight"].shape
        return cls(_load(nn.Linear(inputs, outputs, bias="bias" in tensors), tensors))


class FloatNorm(_FloatLayer):
    """nn.BatchNorm1d or 2d in evaluation mode, for rows and images."""

    kind = "float_norm"

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(x - mean) / sqrt(variance + eps) * gain + shift."""
        norm = self.layer
        numbers = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return F.batch_norm(x, *numbers, training=False, eps=norm.eps)

    def describe(self) -> dict:
        """What is added to the variance."""
        return {"eps": self.layer.eps}

    @classmethod
    def build(cls, about: dict, tensors: Tensors) -> "FloatNorm":
        """From a description."""
        norm = nn.BatchNorm2d(len(tensors["weight"]), about["eps"])
        return cls(_load(norm, tensors).eval())


class _Stateless(IntegerModule):
    @classmethod
    def build(cls, about: dict, _tensors: Tensors) -> "_Stateless":
        """From a description."""
        return cls(**{k: about[k] for k in ("size",) if k in about})


class FloatRelu(_Stateless):
    """max(x, 0)."""

    kind = "float_relu"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of any shape."""
        return torch.relu(x)


class FloatMaxPool(_Stateless):
    """The largest of each square."""

    kind = "float_max_pool"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c, h // size, w // size]."""
        return F.max_pool2d(x, self.size)

    def describe(self) -> dict:
        """The side of the square."""
        return {"size": self.size}


class FloatMeanPool(_Stateless):
    """The mean over all pixels."""

    kind = "float_mean_pool"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c, 1, 1]."""
        return F.adaptive_avg_pool2d(x, 1)


class FloatFlatten(_Stateless):
    """Images to rows."""

    kind = "float_flatten"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c h w]."""
        return x.flatten(1)
