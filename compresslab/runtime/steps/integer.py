"""Integer layers: uint8 codes in, uint8 codes out, images as [batch, height, width, channels].

A layer knows everything about its numbers: what its input codes mean, its packed weight, and how its sums
become the output's codes (`kernels.int8`: f = s_x s_w / s_y, bias in units of s_x s_w, ReLU as a lower
limit). So a network is a list of steps (`program`) that needs no scale at run time.

    QuantizeInput        floats -> codes
    IntLinear            codes [..., K] -> codes [..., N]
    IntConv2d            codes [b, h, w, c] -> codes [b, h', w', N]
    IntDepthwiseConv2d   the same, each channel by itself
    IntLogits            codes [..., K] -> floats [..., N]: the last layer
    IntConvLogits        codes [b, h, w, c] -> floats [b, N, h', w']: a convolution as the last layer

What stands between layers is in `between`.
"""

from typing import ClassVar

import numpy as np
import torch

from compresslab.kernels import affine, int8, int8_conv
from compresslab.kernels.panels import pack_weight
from compresslab.runtime import ops
from compresslab.runtime.steps.step import (
    Codes,
    Meaning,
    Numbers,
    Step,
    Vector,
    Weight,
    Whole,
    numbers_in,
)

CODE = Whole(0, 255)
STRIDE, PADDING = Whole(1, 1024), Whole(0, 1024)


class QuantizeInput(Step):
    """Float images [b, c, h, w] or rows [..., n] to codes [b, h, w, c] or [..., n].

    With `last` the channels of an image come last already.
    """

    kind = "quantize"
    fields: ClassVar = {"codes": Meaning(), "last": Whole(0, 1, 0)}

    def __init__(self, codes: Codes, last: int = 0) -> None:
        super().__init__()
        self.codes, self.last = codes, last
        self.inverse = np.array([np.float32(1) / np.float32(codes.scale)], np.float32)
        self.zero = np.array([codes.zero_point], np.float32)
        self.limits = np.float32(codes.low), np.float32(codes.high)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Quantize, channels last.

        Raises:
            ValueError: if the image is not float32 or holds NaN.
        """
        if x.dtype != torch.float32:
            raise ValueError(f"image must be float32, got {x.dtype}")
        image = x.detach().numpy() if x.requires_grad else x.numpy()
        turned = image.ndim == 4 and not self.last
        image = np.ascontiguousarray(image.transpose(0, 2, 3, 1) if turned else image)
        codes, view = np.empty(image.shape, np.int8), (1, 1, image.size)
        numbers = (self.inverse, self.zero, *self.limits, view, codes.reshape(-1))
        if affine.quantize_runs(image.reshape(-1), *numbers):
            raise ValueError("image must not contain NaN")
        return torch.from_numpy(codes.view(np.uint8))


class IntegerLayer(Step):
    """What convolutions and linear layers share: weight codes [N, ...], bias, multiplier, limits.

    Args:
        weight: int8 codes, [N, K], [N, kh, kw, c] or, depthwise, [kh, kw, c].
        bits: how many a weight takes in the file.
        bias: int32 [N], in units of s_x * s_w.
        multiplier: float32 [N].
        zero_point: of the input codes.
        out: the output's codes; `low` is its zero point behind a ReLU.
    """

    activation_bits = 8

    def __init__(
        self,
        weight: np.ndarray,
        bits: int,
        bias: np.ndarray,
        multiplier: np.ndarray,
        zero_point: int,
        out: Codes,
    ) -> None:
        super().__init__()
        self.shape, self.weight_bits = tuple(weight.shape), bits
        self.zero_point, self.out = zero_point, out
        self.register_buffer("bias", torch.from_numpy(bias.astype(np.int32)))
        self.register_buffer("multiplier", torch.from_numpy(multiplier.astype(np.float32)))
        self.prepare(weight)

    def prepare(self, weight: np.ndarray) -> None:
        """Pack the weight and everything else the kernel wants."""
        runs = self.shape[1] if len(self.shape) == 4 else 1
        self.packed = pack_weight(weight.reshape(len(weight), -1), runs)
        self.register_buffer("panels", torch.from_numpy(self.packed.panels), persistent=True)
        self.epilogue = self.packed.requantize(self.zero_point, *self._numbers())

    def _numbers(self) -> tuple:
        out = (self.out.zero_point, self.out.low, self.out.high)
        return (self.bias.numpy(), self.multiplier.numpy(), *out)

    def codes(self) -> np.ndarray:
        """The weight's codes in their own shape."""
        return self.packed.unpacked().reshape(self.shape)

    def numbers(self) -> Numbers:
        """Weights and biases."""
        return numbers_in(self.codes(), self.bias)


LAYER = {
    "bias": Vector(torch.int32),
    "multiplier": Vector(),
    "zero_point": CODE,
    "out": Meaning("out_"),
}


class IntLinear(IntegerLayer):
    """A linear layer: uint8 [..., K] -> uint8 [..., N]."""

    kind = "linear"
    fields: ClassVar = {"weight": Weight(2), **LAYER}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply and requantize."""
        p, e = self.packed, self.epilogue
        if x.ndim != 2:
            return self.forward(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], p.outputs)
        if ops.plain(x):
            return torch.from_numpy(int8.matmul_requantize(x.numpy(), p, e, ops.threads()))
        start, factor = torch.from_numpy(e.start), torch.from_numpy(e.factor)
        numbers = (int(e.zero), int(e.low), int(e.high))
        return ops.int8_linear(
            x, self.panels, start, factor, p.inputs, p.outputs, p.width, *numbers
        )

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one example."""
        return self.packed.inputs * output[0].numel()


class IntConv2d(IntegerLayer):
    """A convolution: uint8 [b, h, w, c] -> uint8 [b, h', w', N]; weight [N, kh, kw, c]."""

    kind = "conv2d"
    fields: ClassVar = {"weight": Weight(4), **LAYER, "stride": STRIDE, "padding": PADDING}

    def __init__(
        self, *arguments: object, stride: int = 1, padding: int = 0, **named: object
    ) -> None:
        self.stride, self.padding = stride, padding
        super().__init__(*arguments, **named)
        self.window = int8_conv.Window(self.shape[1], self.shape[2], stride, padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve and requantize."""
        p, e, w = self.packed, self.epilogue, self.window
        if ops.plain(x):
            arguments = (x.numpy(), self.zero_point, p, w, e, ops.threads())
            return torch.from_numpy(int8_conv.conv2d_requantize(*arguments))
        start, factor = torch.from_numpy(e.start), torch.from_numpy(e.factor)
        window = [w.height, w.width, w.stride, w.padding]
        numbers = (int(e.zero), int(e.low), int(e.high))
        return ops.int8_conv2d(
            x, self.panels, start, factor, window, self.zero_point, p.outputs, p.width, *numbers
        )

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one image."""
        return self.packed.inputs * self.packed.outputs * output.shape[1] * output.shape[2]


class IntDepthwiseConv2d(IntConv2d):
    """A depthwise convolution: uint8 [b, h, w, c] -> uint8 [b, h', w', c]; weight [kh, kw, c]."""

    kind = "depthwise"
    fields: ClassVar = {"weight": Weight(3), **LAYER, "stride": STRIDE, "padding": PADDING}

    def prepare(self, weight: np.ndarray) -> None:
        """Keep the weight as it is; compute where the sums start."""
        self.shape = (weight.shape[2], *weight.shape[:2])
        self.register_buffer("taps", torch.from_numpy(np.ascontiguousarray(weight)))
        self.packed = int8_conv.pack_taps(weight)
        self.epilogue = self.packed.requantize(self.zero_point, *self._numbers())

    def codes(self) -> np.ndarray:
        """The weight's codes, [kh, kw, c]."""
        return self.taps.numpy()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve each channel and requantize."""
        arguments = (self.zero_point, self.packed, self.window, self.epilogue, ops.threads())
        return torch.from_numpy(int8_conv.depthwise_requantize(x.numpy(), *arguments))

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one image."""
        return self.taps.numel() * output.shape[1] * output.shape[2]


class IntLogits(Step):
    """The last layer: uint8 [..., K] -> float32 [..., N], sums times their scale plus a float bias."""

    kind = "logits"
    fields: ClassVar = {
        "weight": Weight(2),
        "scale": Vector(),
        "bias": Vector(),
        "zero_point": CODE,
    }
    activation_bits = 8

    def __init__(
        self, weight: np.ndarray, bits: int, scale: np.ndarray, bias: np.ndarray, zero_point: int
    ) -> None:
        super().__init__()
        self.shape, self.weight_bits, self.zero_point = tuple(weight.shape), bits, zero_point
        self.packed = pack_weight(weight.reshape(len(weight), -1))
        self.register_buffer("panels", torch.from_numpy(self.packed.panels))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))
        self.register_buffer("bias", torch.from_numpy(bias.astype(np.float32)))
        self.epilogue = self.packed.dequantize(zero_point, self.scale.numpy(), self.bias.numpy())

    def codes(self) -> np.ndarray:
        """The weight's codes in their own shape."""
        return self.packed.unpacked().reshape(self.shape)

    def numbers(self) -> Numbers:
        """Weights and biases."""
        return numbers_in(self.codes(), self.bias)

    def product(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [n, K] -> float32 [n, N]."""
        arguments = (rows, self.packed, self.epilogue, None, ops.threads())
        return int8.matmul_dequantize(*arguments)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply and dequantize."""
        rows = x.numpy().reshape(-1, x.shape[-1])
        out = torch.from_numpy(self.product(rows))
        return out if x.ndim == 2 else out.reshape(*x.shape[:-1], self.packed.outputs)

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one example."""
        return self.packed.inputs * output[0].numel()


class IntConvLogits(IntLogits):
    """A convolution as the last layer: uint8 [b, h, w, c] -> float32 [b, N, h', w']."""

    kind = "conv_logits"
    fields: ClassVar = {
        **IntLogits.fields,
        "weight": Weight(4),
        "stride": STRIDE,
        "padding": PADDING,
    }

    def __init__(
        self, *arguments: object, stride: int = 1, padding: int = 0, **named: object
    ) -> None:
        super().__init__(*arguments, **named)
        self.stride, self.padding = stride, padding
        self.window = int8_conv.Window(self.shape[1], self.shape[2], stride, padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply each patch and dequantize."""
        patches = int8_conv.patches(x.numpy(), self.zero_point, self.window)
        out = self.product(patches.reshape(-1, patches.shape[-1]))
        return torch.from_numpy(out.reshape(*patches.shape[:3], -1)).permute(0, 3, 1, 2)
