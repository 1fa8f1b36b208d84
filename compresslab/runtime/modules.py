"""Layers of an integer network: uint8 codes in, uint8 codes out, images as [batch, height, width, channels].

A layer knows everything about its numbers: what its input codes mean, its packed weight, and how its sums
become the output's codes (`kernels.int8`: f = s_x s_w / s_y, bias in units of s_x s_w, ReLU as a lower
limit). So a network is a list of steps (`program`) that needs no scale at run time.

Each kind can describe itself as plain numbers and tensors, and be built again from them: that is its file
(`storage`). Left out: gradients; an integer network is finished.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from compresslab.kernels import affine, int8, int8_conv, int8_pool
from compresslab.numerics.affine import QParams, QTensor, unpacked
from compresslab.numerics.grid import IntGrid
from compresslab.runtime import ops

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Codes:
    """What the uint8 codes of an activation mean: (q - zero_point) * scale, q within low..high."""

    scale: float
    zero_point: int
    low: int
    high: int


class Called(nn.Module):
    """A module that is called thousands of times a second."""

    def __call__(self, *inputs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        """As every module's, without a microsecond of preparing for hooks where there are none."""
        watched = self._forward_hooks or self._forward_pre_hooks or _has_any_global_hook()
        if named or watched or self._compiled_call_impl or torch.compiler.is_compiling():
            return super().__call__(*inputs, **named)
        return self.forward(*inputs)


class IntegerModule(Called):
    """A step of an integer network; `kind` names it in files."""

    kind: ClassVar[str]

    def describe(self) -> dict[str, int | float | list[int]]:
        """Everything but tensors, as JSON has it."""
        return {}

    def tensors(self) -> Tensors:
        """What the file holds."""
        return {}

    def _load_from_state_dict(self, *_arguments: object) -> None:
        # Zero points, limits and windows are no tensors: a state dict says half of what a layer is.
        raise RuntimeError(
            f"{type(self).__name__} cannot be read from a state dict: use runtime.files.load"
        )


class QuantizeInput(IntegerModule):
    """Float images [b, c, h, w] or rows [b, n] to codes [b, h, w, c] or [b, n]."""

    kind = "quantize"

    def __init__(self, codes: Codes) -> None:
        super().__init__()
        self.codes = codes
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
        image = np.ascontiguousarray(image.transpose(0, 2, 3, 1) if image.ndim == 4 else image)
        codes, view = np.empty(image.shape, np.int8), (1, 1, image.size)
        numbers = (self.inverse, self.zero, *self.limits, view, codes.reshape(-1))
        if affine.quantize_runs(image.reshape(-1), *numbers):
            raise ValueError("image must not contain NaN")
        return torch.from_numpy(codes.view(np.uint8))

    def describe(self) -> dict:
        """The codes' meaning."""
        c = self.codes
        return {"scale": c.scale, "zero_point": c.zero_point, "low": c.low, "high": c.high}

    @classmethod
    def build(cls, about: dict, _tensors: Tensors) -> "QuantizeInput":
        """From a description."""
        return cls(Codes(about["scale"], about["zero_point"], about["low"], about["high"]))


class IntegerLayer(IntegerModule):
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
        self.packed = int8.pack_weight(weight.reshape(len(weight), -1))
        self.register_buffer("panels", torch.from_numpy(self.packed.panels), persistent=True)
        self.epilogue = self.packed.requantize(self.zero_point, *self._numbers())

    def _numbers(self) -> tuple:
        out = (self.out.zero_point, self.out.low, self.out.high)
        return (self.bias.numpy(), self.multiplier.numpy(), *out)

    def codes(self) -> np.ndarray:
        """The weight's codes in their own shape."""
        return self.packed.unpacked().reshape(self.shape)

    def describe(self) -> dict:
        """Shapes and numbers."""
        return {
            "shape": list(self.shape),
            "bits": self.weight_bits,
            "zero_point": self.zero_point,
            "out_scale": self.out.scale,
            "out_zero_point": self.out.zero_point,
            "out_low": self.out.low,
            "out_high": self.out.high,
        }

    def tensors(self) -> Tensors:
        """Packed codes, bias, multiplier."""
        weight = packed_codes(self.codes(), self.weight_bits)
        return {"weight": weight, "bias": self.bias, "multiplier": self.multiplier}

    @staticmethod
    def arguments(about: dict, tensors: Tensors) -> tuple:
        """Constructor arguments from a description; shapes are checked against the bytes there are."""
        weight = codes_from(tensors["weight"], tuple(about["shape"]), about["bits"])
        out = Codes(
            about["out_scale"], about["out_zero_point"], about["out_low"], about["out_high"]
        )
        bias, multiplier = tensors["bias"].numpy(), tensors["multiplier"].numpy()
        return weight, about["bits"], bias, multiplier, about["zero_point"], out


class IntLinear(IntegerLayer):
    """A linear layer: uint8 [b, K] -> uint8 [b, N]."""

    kind = "linear"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply and requantize."""
        p, e = self.packed, self.epilogue
        if ops.plain(x):
            return torch.from_numpy(int8.matmul_requantize(x.numpy(), p, e, ops.threads()))
        start, factor = torch.from_numpy(e.start), torch.from_numpy(e.factor)
        numbers = (int(e.zero), int(e.low), int(e.high))
        return ops.int8_linear(
            x, self.panels, start, factor, p.inputs, p.outputs, p.width, *numbers
        )

    def macs(self, _output: torch.Tensor) -> int:
        """Multiply-accumulates of one example."""
        return self.packed.inputs * self.packed.outputs

    @classmethod
    def build(cls, about: dict, tensors: Tensors) -> "IntLinear":
        """From a description."""
        return cls(*cls.arguments(about, tensors))


class IntConv2d(IntegerLayer):
    """A convolution: uint8 [b, h, w, c] -> uint8 [b, h', w', N]; weight [N, kh, kw, c]."""

    kind = "conv2d"

    def __init__(self, *arguments: object, stride: int, padding: int) -> None:
        self.stride, self.padding = stride, padding
        super().__init__(*arguments)
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

    def describe(self) -> dict:
        """Shapes, numbers, stride and padding."""
        return {**super().describe(), "stride": self.stride, "padding": self.padding}

    @classmethod
    def build(cls, about: dict, tensors: Tensors) -> "IntConv2d":
        """From a description."""
        arguments = cls.arguments(about, tensors)
        return cls(*arguments, stride=about["stride"], padding=about["padding"])


class IntDepthwiseConv2d(IntConv2d):
    """A depthwise convolution: uint8 [b, h, w, c] -> uint8 [b, h', w', c]; weight [kh, kw, c]."""

    kind = "depthwise"

    def prepare(self, weight: np.ndarray) -> None:
        """Keep the weight as it is; compute where the sums start."""
        self.shape = (weight.shape[2], *weight.shape[:2])
        self.register_buffer("taps", torch.from_numpy(np.ascontiguousarray(weight)))
        self.epilogue = int8_conv.depthwise_epilogue(weight, self.zero_point, *self._numbers())

    def codes(self) -> np.ndarray:
        """The weight's codes, [kh, kw, c]."""
        return self.taps.numpy()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve each channel and requantize."""
        arguments = (self.zero_point, self.taps.numpy(), self.window, self.epilogue, ops.threads())
        return torch.from_numpy(int8_conv.depthwise_requantize(x.numpy(), *arguments))

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one image."""
        return self.taps.numel() * output.shape[1] * output.shape[2]

    def describe(self) -> dict:
        """As for a convolution, with the weight's own shape."""
        return {**super().describe(), "shape": list(self.taps.shape)}


class IntLogits(IntegerModule):
    """The last layer: uint8 [b, K] -> float32 [b, N], sums times their scale plus a float bias."""

    kind = "logits"
    activation_bits = 8

    def __init__(
        self, weight: np.ndarray, bits: int, scale: np.ndarray, bias: np.ndarray, zero_point: int
    ) -> None:
        super().__init__()
        self.weight_bits, self.zero_point = bits, zero_point
        self.packed = int8.pack_weight(weight)
        self.register_buffer("panels", torch.from_numpy(self.packed.panels))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))
        self.register_buffer("bias", torch.from_numpy(bias.astype(np.float32)))
        self.epilogue = self.packed.dequantize(zero_point, self.scale.numpy(), self.bias.numpy())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply and dequantize."""
        arguments = (x.numpy(), self.packed, self.epilogue, None, ops.threads())
        return torch.from_numpy(int8.matmul_dequantize(*arguments))

    def macs(self, _output: torch.Tensor) -> int:
        """Multiply-accumulates of one example."""
        return self.packed.inputs * self.packed.outputs

    def describe(self) -> dict:
        """Shape and numbers."""
        shape = [self.packed.outputs, self.packed.inputs]
        return {"shape": shape, "bits": self.weight_bits, "zero_point": self.zero_point}

    def tensors(self) -> Tensors:
        """Packed codes, scales, bias."""
        weight = packed_codes(self.packed.unpacked(), self.weight_bits)
        return {"weight": weight, "scale": self.scale, "bias": self.bias}

    @classmethod
    def build(cls, about: dict, tensors: Tensors) -> "IntLogits":
        """From a description."""
        weight = codes_from(tensors["weight"], tuple(about["shape"]), about["bits"])
        numbers = (tensors["scale"].numpy(), tensors["bias"].numpy(), about["zero_point"])
        return cls(weight, about["bits"], *numbers)


class IntMaxPool(IntegerModule):
    """The largest code of each square."""

    kind = "max_pool"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, h, w, c] -> [b, h / size, w / size, c]."""
        return torch.from_numpy(int8_pool.max_pool(x.numpy(), self.size))

    def describe(self) -> dict:
        """The side of the square."""
        return {"size": self.size}

    @classmethod
    def build(cls, about: dict, _tensors: Tensors) -> "IntMaxPool":
        """From a description."""
        return cls(about["size"])


class IntMeanPool(IntegerModule):
    """The mean over all pixels, on a scale of its own."""

    kind = "mean_pool"

    def __init__(self, scale: float, zero_point: int, out: Codes) -> None:
        super().__init__()
        self.scale, self.zero_point, self.out = scale, zero_point, out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, h, w, c] -> [b, 1, 1, c]."""
        pixels = x.shape[1] * x.shape[2]
        o, factor = self.out, self.scale / (pixels * self.out.scale)
        numbers = (self.zero_point, factor, o.zero_point, o.low, o.high)
        return torch.from_numpy(int8_pool.mean_pool(x.numpy(), *numbers)[:, None, None])

    def describe(self) -> dict:
        """Both meanings of codes."""
        return {"scale": self.scale, "zero_point": self.zero_point, **describe_out(self.out)}

    @classmethod
    def build(cls, about: dict, _tensors: Tensors) -> "IntMeanPool":
        """From a description."""
        return cls(about["scale"], about["zero_point"], out_of(about))


class IntAdd(IntegerModule):
    """The sum of two activations with scales of their own."""

    kind = "add"

    def __init__(
        self, scales: tuple[float, float], zero_points: tuple[int, int], out: Codes
    ) -> None:
        super().__init__()
        self.scales, self.zero_points, self.out = tuple(scales), tuple(zero_points), out

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Two of one shape -> one."""
        o = self.out
        factors = tuple(s / o.scale for s in self.scales)
        numbers = (self.zero_points, factors, o.zero_point, o.low, o.high)
        return torch.from_numpy(int8_pool.add(a.numpy(), b.numpy(), *numbers))

    def describe(self) -> dict:
        """Three meanings of codes."""
        return {
            "scale": self.scales[0],
            "scale_b": self.scales[1],
            "zero_point": self.zero_points[0],
            "zero_point_b": self.zero_points[1],
            **describe_out(self.out),
        }

    @classmethod
    def build(cls, about: dict, _tensors: Tensors) -> "IntAdd":
        """From a description."""
        scales = (about["scale"], about["scale_b"])
        return cls(scales, (about["zero_point"], about["zero_point_b"]), out_of(about))


class IntFlatten(IntegerModule):
    """Images to rows in torch's order: channels first."""

    kind = "flatten"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, h, w, c] -> [b, c * h * w]; rows pass."""
        if x.ndim == 2:
            return x
        count, height, width, channels = x.shape
        if height == width == 1:
            return x.reshape(count, channels)
        return x.permute(0, 3, 1, 2).reshape(count, channels * height * width)

    @classmethod
    def build(cls, _about: dict, _tensors: Tensors) -> "IntFlatten":
        """From a description."""
        return cls()


class DynamicInt8Linear(Called):
    """An nn.Linear on int8 products; activations stay float and are quantized row by row as they come.

    Weights: symmetric int8, one scale an output. For float networks of any kind: see `convert_dynamic`.
    """

    weight_bits, activation_bits = 8, 8

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        codes, scale = affine.quantize_absmax(
            layer.weight.detach().float().contiguous().numpy(), 8, layer.in_features
        )
        self.packed = int8.pack_weight(codes)
        self.register_buffer("panels", torch.from_numpy(self.packed.panels))
        self.register_buffer("sums", torch.from_numpy(self.packed.sums))
        self.register_buffer("scale", torch.from_numpy(scale.reshape(-1)))
        bias = None if layer.bias is None else layer.bias.detach().float().clone()
        self.register_buffer("bias", bias)
        self._bind()

    def _bind(self) -> None:
        """What the kernel reads is what the buffers hold, also after loading into a copy."""
        arrays = {"panels": self.panels.numpy(), "sums": self.sums.numpy()}
        self.packed = dataclasses.replace(self.packed, **arrays)
        bias = None if self.bias is None else self.bias.numpy()
        self.epilogue = self.packed.dequantize(int8.SIGN, self.scale.numpy(), bias)

    def _load_from_state_dict(self, *arguments: object) -> None:
        super()._load_from_state_dict(*arguments)
        self._bind()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [..., K] -> float32 [..., N].

        Raises:
            ValueError: for activations of another dtype.
        """
        if x.dtype != torch.float32:
            raise ValueError(
                f"x must be float32, got {x.dtype}: convert_dynamic computes with float32 activations, so "
                "run the model in float32 and without autocast"
            )
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        if ops.plain(x):
            numbers = (self.packed, self.epilogue, ops.threads())
            array = rows.detach().numpy() if rows.requires_grad else rows.numpy()
            out = torch.from_numpy(int8.dynamic_linear(array, *numbers))
        else:
            arguments = (self.panels, self.sums, self.scale, self.bias, self.packed.width)
            out = ops.dynamic_int8_linear(rows, *arguments)
        return out if x.ndim == 2 else out.reshape(*x.shape[:-1], -1)

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one example."""
        return self.packed.inputs * output[0].numel()


# ---- codes in files ------------------------------------------------------------------------------
def describe_out(out: Codes) -> dict[str, float | int]:
    """An output's codes as JSON has them."""
    return {
        "out_scale": out.scale,
        "out_zero_point": out.zero_point,
        "out_low": out.low,
        "out_high": out.high,
    }


def out_of(about: dict) -> Codes:
    """The inverse of `describe_out`."""
    names = ("out_scale", "out_zero_point", "out_low", "out_high")
    return Codes(*(about[name] for name in names))


def _file_params(bits: int) -> QParams:
    one, zero = torch.tensor(1.0), torch.tensor(0, dtype=torch.int32)
    return QParams(one, zero, IntGrid(bits))


def packed_codes(codes: np.ndarray, bits: int) -> torch.Tensor:
    """Signed codes packed to `bits` bits each."""
    return QTensor(torch.from_numpy(np.ascontiguousarray(codes)), _file_params(bits)).packed()


def codes_from(packed: torch.Tensor, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """The inverse; refuses a number of bytes that the shape does not take."""
    return unpacked(packed, shape, _file_params(bits)).codes.numpy()
