"""Binary layers that compute on bits: `kernels.xnor` as modules.

    XnorConv2d, XnorLinear              floats (or signs) in, floats out: sign, pack, multiply, alpha, K
    XnorConv2dSigns, XnorLinearSigns    signs in, signs out: no float in between
    TakeSigns                           floats in, signs out

The first two stand in for a `techniques.binarize` layer anywhere in a network. The others are what is left of
a chain convolution, pooling, batch norm, sign: batch norm is monotone in the dot product, so its sign is that
integer compared with a threshold (see `convert_xnor`), and max pooling before it a logical or after it.

Signs are uint64 words, 64 channels in one: images [b, h, w, ceil(c / 64)], rows [b, ceil(n / 64)]. Files hold
each weight as one bit, whatever the padding of the words.
"""

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from compresslab.kernels import xnor, xnor_conv
from compresslab.kernels.int8_conv import Window
from compresslab.runtime import ops
from compresslab.runtime.steps.integer import PADDING, STRIDE
from compresslab.runtime.steps.step import Flags, Numbers, Signs, Step, Vector, Whole, numbers_in
from compresslab.techniques.binarize import Binary, BinaryConv2d, BinaryLinear

SIXTEEN = 16
POOL = Whole(1, 1024)
SCALES = {"positions": Whole(0, 1), "alpha": Vector(), "bias": Vector()}
THRESHOLDS = {"at_least": Vector(torch.int32), "flip": Flags()}


def signs_of(layer: Binary) -> np.ndarray:
    """The weight's signs: bool [N, K], or [N, kh, kw, c].

    Raises:
        ValueError: if the layer's inputs are not signs, or its weights not of two values.
    """
    if not layer.config.activations or layer.config.ternary:
        raise ValueError(
            "an XNOR layer needs binary weights and activations, got "
            f"activations={layer.config.activations}, ternary={layer.config.ternary}"
        )
    bits = (layer.binary_weight()[0].detach() > 0).numpy()
    return np.ascontiguousarray(bits.transpose(0, 2, 3, 1) if bits.ndim == 4 else bits)


def scales_of(layer: Binary) -> tuple[np.ndarray, np.ndarray]:
    """Alpha and bias of every output, float32 [N]."""
    alpha = layer.binary_weight()[1]
    alpha = torch.ones(len(layer.weight), dtype=torch.float32) if alpha is None else alpha.detach()
    bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
    return alpha.numpy(), bias.numpy()


# ---- what the layers share -----------------------------------------------------------------------
class _XnorLayer(Step):
    weight_bits, activation_bits = 1, 1

    def __init__(self, signs: np.ndarray) -> None:
        super().__init__()
        self.shape = signs.shape
        if signs.ndim == 4:
            self.packed, self.channels = xnor_conv.pack_weight(signs), signs.shape[3]
        else:
            words = np.where(signs, np.float32(1), np.float32(-1))
            self.packed = xnor.pack_weight(xnor.pack_signs(words), signs.shape[1])
            self.channels = signs.shape[1]
        self.register_buffer("panels", torch.from_numpy(self.packed.panels.view(np.int32)))

    def signs(self) -> np.ndarray:
        """The weight as bool, in its own shape."""
        words = self.packed.unpacked()
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(bool)
        if len(self.shape) == 2:
            return bits[:, : self.channels]
        outputs, height, width, channels = self.shape
        across = -(-channels // 32) * 32
        taps = bits[:, : height * width * across].reshape(outputs, height, width, across)
        return np.ascontiguousarray(taps[..., :channels])

    def numbers(self) -> Numbers:
        """Signs, none of which is 0, and whatever the epilogue holds."""
        return Numbers(int(np.prod(self.shape)), int(np.prod(self.shape))) + numbers_in(
            getattr(self, "alpha", None),
            getattr(self, "bias", None),
            getattr(self, "at_least", None),
        )

    def macs(self, output: torch.Tensor) -> int:
        """Bit products of one example."""
        if len(self.shape) == 2:
            return self.packed.inputs * self.packed.outputs
        return self.packed.inputs * self.packed.outputs * self.pixels(output)

    def pixels(self, output: torch.Tensor) -> int:
        """Positions of one output image [b, N, h, w]."""
        return output.shape[2] * output.shape[3]


class _Scaled(_XnorLayer):
    """An epilogue of alpha, bias and, if `positions`, K."""

    def __init__(
        self, signs: np.ndarray, alpha: np.ndarray, bias: np.ndarray, positions: bool
    ) -> None:
        super().__init__(signs)
        self.positions = bool(positions)
        self.register_buffer("alpha", torch.from_numpy(alpha.astype(np.float32)))
        self.register_buffer("bias", torch.from_numpy(bias.astype(np.float32)))
        self._bind()

    def _bind(self) -> None:
        """What the kernel reads is what the buffers hold, also after loading into a copy."""
        panels = self.panels.numpy().view(np.uint32)
        self.packed = dataclasses.replace(self.packed, panels=panels)
        self.epilogue = xnor.scales(self.packed, self.alpha.numpy(), self.bias.numpy())

    def _load_from_state_dict(self, *arguments: object) -> None:
        nn.Module._load_from_state_dict(self, *arguments)
        self._bind()


class _Thresholded(_XnorLayer):
    """An epilogue of thresholds."""

    def __init__(self, signs: np.ndarray, at_least: np.ndarray, flip: np.ndarray) -> None:
        super().__init__(signs)
        self.register_buffer("at_least", torch.from_numpy(at_least.astype(np.int32)))
        self.flip = np.asarray(flip, bool)


# ---- convolutions --------------------------------------------------------------------------------
def as_image(x: torch.Tensor) -> tuple[np.ndarray, bool]:
    """A float image [b, c, h, w] as its own memory lies: (array, whether channels come first)."""
    x = x.detach()
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    # Channels first are packed sixteen pixels at a time.
    if last or x.shape[2] * x.shape[3] < SIXTEEN:
        return x.permute(0, 2, 3, 1).contiguous().numpy(), False
    return x.contiguous().numpy(), True


class XnorConv2d(_Scaled):
    """A binary convolution: float [b, c, h, w] or signs [b, h, w, words] -> float [b, N, h', w'].

    With `positions` the input must be floats: their magnitudes are needed.
    """

    kind = "xnor_conv2d"
    fields: ClassVar = {"signs": Signs(4), **SCALES, "stride": STRIDE, "padding": PADDING}

    def __init__(self, *arguments: object, stride: int, padding: int, **named: object) -> None:
        super().__init__(*arguments, **named)
        self.stride, self.padding = stride, padding
        self.window = Window(*self.shape[1:3], stride, padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sign, pack, convolve, scale."""
        if not ops.plain(x):
            w = self.window
            window = [w.height, w.width, w.stride, w.padding]
            numbers = (self.channels, self.packed.width, self.positions)
            return ops.xnor_conv2d(x, self.panels, self.alpha, self.bias, window, *numbers)
        return torch.from_numpy(self.run(x)).permute(0, 3, 1, 2)

    def run(self, x: torch.Tensor) -> np.ndarray:
        """The same as an array [b, h', w', N]."""
        scale = None
        if x.dtype == torch.uint64:
            signs = x.numpy()
        else:
            image, first = as_image(x)
            signs, means = xnor_conv.pack_image(image, first, magnitudes=self.positions)
            scale = xnor_conv.position_scales(means, self.window) if self.positions else None
        arguments = (signs, self.channels, self.packed, self.window, self.epilogue, scale)
        return xnor_conv.conv2d_scaled(*arguments, ops.threads())

    @classmethod
    def of(cls, layer: BinaryConv2d) -> "XnorConv2d":
        """The same layer on bits."""
        if isinstance(layer.padding, str) or len({*layer.stride}) + len({*layer.padding}) > 2:
            raise ValueError(
                "stride and padding must be one number each, "
                f"got stride={layer.stride}, padding={layer.padding}"
            )
        window = {"stride": layer.stride[0], "padding": layer.padding[0]}
        return cls(signs_of(layer), *scales_of(layer), layer.config.positions, **window)


class XnorConv2dSigns(_Thresholded):
    """A binary convolution with what follows it: signs -> signs, max pooling by `pool` included."""

    kind = "xnor_conv2d_signs"
    fields: ClassVar = {
        "signs": Signs(4),
        **THRESHOLDS,
        "stride": STRIDE,
        "padding": PADDING,
        "pool": POOL,
    }

    def __init__(
        self, *arguments: object, stride: int, padding: int, pool: int, **named: object
    ) -> None:
        super().__init__(*arguments, **named)
        self.stride, self.padding = stride, padding
        self.window, self.pool = Window(*self.shape[1:3], stride, padding), pool
        # A square's flips come after its or.
        inner = np.zeros_like(self.flip) if pool > 1 else self.flip
        self.epilogue = xnor.thresholds(self.packed, self.at_least.numpy(), inner)
        self.flips = xnor.flip_words(self.flip)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, compare, pool."""
        arguments = (x.numpy(), self.channels, self.packed, self.window, self.epilogue)
        signs = xnor_conv.conv2d_signs(*arguments, ops.threads())
        self.positions_seen = signs.shape[1] * signs.shape[2]
        if self.pool > 1:
            signs = xnor_conv.or_pool(signs, self.pool, self.flips)
        return torch.from_numpy(signs)

    def pixels(self, _output: torch.Tensor) -> int:
        """Positions before pooling, of the last image seen."""
        return self.positions_seen


# ---- linear layers -------------------------------------------------------------------------------
class XnorLinear(_Scaled):
    """A binary linear layer: float [..., K] or signs [b, words] -> float [..., N]."""

    kind = "xnor_linear"
    fields: ClassVar = {"signs": Signs(2), **SCALES}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sign, pack, multiply, scale."""
        if not ops.plain(x):
            numbers = (self.packed.width, self.positions)
            return ops.xnor_linear(x, self.panels, self.alpha, self.bias, *numbers)
        if x.dtype == torch.uint64:
            arguments = (x.numpy(), self.packed, self.epilogue, None, ops.threads())
            return torch.from_numpy(xnor.matmul_scaled(*arguments))
        rows = x.detach().reshape(-1, x.shape[-1]).contiguous().numpy()
        out = xnor.linear(rows, self.packed, self.epilogue, self.positions, ops.threads())
        return torch.from_numpy(out).reshape(*x.shape[:-1], self.packed.outputs)

    @classmethod
    def of(cls, layer: BinaryLinear) -> "XnorLinear":
        """The same layer on bits."""
        return cls(signs_of(layer), *scales_of(layer), layer.config.positions)


class XnorLinearSigns(_Thresholded):
    """A binary linear layer with what follows it: signs [b, words] -> signs [b, words']."""

    kind = "xnor_linear_signs"
    fields: ClassVar = {"signs": Signs(2), **THRESHOLDS}

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)
        self.epilogue = xnor.thresholds(self.packed, self.at_least.numpy(), self.flip)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply and compare."""
        arguments = (x.numpy(), self.packed, self.epilogue, ops.threads())
        return torch.from_numpy(xnor.matmul_signs(*arguments))


class TakeSigns(Step):
    """Floats to signs, (x >= t) xor flip of each channel, max pooling by `pool` included.

    Float [b, c, h, w] -> [b, h', w', words], or [b, n] -> [b, words].
    """

    kind = "take_signs"
    fields: ClassVar = {"at_least": Vector(finite=False), "flip": Flags(), "pool": POOL}

    def __init__(self, at_least: np.ndarray, flip: np.ndarray, pool: int = 1) -> None:
        super().__init__()
        if len(at_least) != len(flip):
            raise ValueError(f"at_least must hold {len(flip)} thresholds, got {len(at_least)}")
        self.register_buffer("at_least", torch.from_numpy(at_least.astype(np.float32)))
        self.flip, self.pool = np.asarray(flip, bool), pool
        self.flips = xnor.flip_words(self.flip)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compare, pack, pool."""
        image, first = as_image(x if x.ndim == 4 else x[:, :, None, None])
        inner = None if self.pool > 1 else self.flips
        signs, _ = xnor_conv.pack_image(image, first, self.at_least.numpy(), inner)
        if self.pool > 1:
            signs = xnor_conv.or_pool(signs, self.pool, self.flips)
        signs = torch.from_numpy(signs)
        return signs if x.ndim == 4 else signs[:, 0, 0]


XNOR_LAYERS: dict[type[nn.Module], type[_Scaled]] = {
    BinaryConv2d: XnorConv2d,
    BinaryLinear: XnorLinear,
}
