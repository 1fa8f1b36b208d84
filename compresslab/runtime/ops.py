"""The integer kernels as torch operators, so that torch's own machinery can see them.

`torch.ops.compresslab.*` take and return tensors, have fake implementations (shapes without data, for
torch.compile and torch.export) and are checked by `torch.library.opcheck`. Integers in, integers out:
they have no gradient. The modules call the kernels directly when nobody is watching, because an operator
call costs as much as a small layer.
"""

import numpy as np
import torch

from compresslab.kernels import int8, int8_conv, xnor, xnor_conv


def threads() -> int:
    """How many threads kernels may use: as many as torch does."""
    return torch.get_num_threads()


def _packed(panels: torch.Tensor, outputs: int, inputs: int, width: int) -> int8.PackedWeight:
    count = -(-outputs // width) * width
    return int8.PackedWeight(panels.numpy(), np.zeros(count, np.int32), outputs, inputs, width)


@torch.library.custom_op("compresslab::int8_linear", mutates_args=())
def int8_linear(
    x: torch.Tensor,
    panels: torch.Tensor,
    start: torch.Tensor,
    factor: torch.Tensor,
    inputs: int,
    outputs: int,
    width: int,
    zero: int,
    low: int,
    high: int,
) -> torch.Tensor:
    """Codes of a linear layer: uint8 [M, K] -> uint8 [M, N]; see `int8.matmul_requantize`."""
    numbers = (np.float32(v) for v in (zero, low, high))
    epilogue = int8.Requantize(start.numpy(), factor.numpy(), *numbers)
    weight = _packed(panels, outputs, inputs, width)
    return torch.from_numpy(int8.matmul_requantize(x.numpy(), weight, epilogue, threads()))


@int8_linear.register_fake
def _(x, panels, start, factor, inputs, outputs, width, zero, low, high):  # noqa: ANN001, ANN202
    torch._check(x.shape[1] == inputs, lambda: f"x must have shape [M, {inputs}]")
    return x.new_empty((x.shape[0], outputs), dtype=torch.uint8)


@torch.library.custom_op("compresslab::int8_conv2d", mutates_args=())
def int8_conv2d(
    x: torch.Tensor,
    panels: torch.Tensor,
    start: torch.Tensor,
    factor: torch.Tensor,
    window: list[int],
    zero_point: int,
    outputs: int,
    width: int,
    zero: int,
    low: int,
    high: int,
) -> torch.Tensor:
    """Codes of a convolution [b, h, w, c] -> [b, h', w', N]; window = kh, kw, stride, padding."""
    numbers = (np.float32(v) for v in (zero, low, high))
    epilogue = int8.Requantize(start.numpy(), factor.numpy(), *numbers)
    view = int8_conv.Window(*window)
    inputs = view.height * view.width * x.shape[3]
    weight = _packed(panels, outputs, inputs, width)
    arguments = (x.numpy(), zero_point, weight, view, epilogue, threads())
    return torch.from_numpy(int8_conv.conv2d_requantize(*arguments))


@int8_conv2d.register_fake
def _(x, panels, start, factor, window, zero_point, outputs, width, zero, low, high):  # noqa: ANN001, ANN202
    height, columns, stride, padding = window
    shape = (
        x.shape[0],
        (x.shape[1] + 2 * padding - height) // stride + 1,
        (x.shape[2] + 2 * padding - columns) // stride + 1,
        outputs,
    )
    return x.new_empty(shape, dtype=torch.uint8)


@torch.library.custom_op("compresslab::dynamic_int8_linear", mutates_args=())
def dynamic_int8_linear(
    x: torch.Tensor,
    panels: torch.Tensor,
    sums: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    width: int,
) -> torch.Tensor:
    """A float linear layer on int8 products, each row of x quantized as it comes: [M, K] -> [M, N]."""
    weight = int8.PackedWeight(panels.numpy(), sums.numpy(), len(scale), x.shape[1], width)
    offset = None if bias is None else bias.numpy()
    epilogue = weight.dequantize(int8.SIGN, scale.numpy(), offset)
    return torch.from_numpy(int8.dynamic_linear(x.numpy(), weight, epilogue, threads()))


@dynamic_int8_linear.register_fake
def _(x, panels, sums, scale, bias, width):  # noqa: ANN001, ANN202
    return x.new_empty((x.shape[0], scale.shape[0]))


@torch.library.custom_op("compresslab::xnor_linear", mutates_args=())
def xnor_linear(
    x: torch.Tensor,
    panels: torch.Tensor,
    alpha: torch.Tensor,
    bias: torch.Tensor,
    width: int,
    positions: bool,
) -> torch.Tensor:
    """A binary linear layer on floats, float32 [..., K] -> [..., N]; see `xnor.linear`."""
    rows = x.reshape(-1, x.shape[-1]).contiguous().numpy()
    weight = xnor.PackedSigns(panels.numpy().view(np.uint32), len(alpha), x.shape[-1], width)
    epilogue = xnor.scales(weight, alpha.numpy(), bias.numpy())
    out = torch.from_numpy(xnor.linear(rows, weight, epilogue, positions, threads()))
    return out.reshape(*x.shape[:-1], len(alpha))


@xnor_linear.register_fake
def _(x, panels, alpha, bias, width, positions):  # noqa: ANN001, ANN202
    return x.new_empty((*x.shape[:-1], alpha.shape[0]))


@torch.library.custom_op("compresslab::xnor_conv2d", mutates_args=())
def xnor_conv2d(
    x: torch.Tensor,
    panels: torch.Tensor,
    alpha: torch.Tensor,
    bias: torch.Tensor,
    window: list[int],
    channels: int,
    width: int,
    positions: bool,
) -> torch.Tensor:
    """A binary convolution on floats, [b, c, h, w] -> [b, N, h', w']; window = kh, kw, stride, padding."""
    view = int8_conv.Window(*window)
    inputs = view.height * view.width * channels
    weight = xnor.PackedSigns(panels.numpy().view(np.uint32), len(alpha), inputs, width)
    image = x.contiguous().numpy()
    signs, means = xnor_conv.pack_image(image, channels_first=True, magnitudes=positions)
    scale = xnor_conv.position_scales(means, view) if positions else None
    epilogue = xnor.scales(weight, alpha.numpy(), bias.numpy())
    arguments = (signs, channels, weight, view, epilogue, scale, threads())
    out = xnor_conv.conv2d_scaled(*arguments).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(out))


@xnor_conv2d.register_fake
def _(x, panels, alpha, bias, window, channels, width, positions):  # noqa: ANN001, ANN202
    height, columns, stride, padding = window
    size = (
        (x.shape[2] + 2 * padding - height) // stride + 1,
        (x.shape[3] + 2 * padding - columns) // stride + 1,
    )
    return x.new_empty((x.shape[0], alpha.shape[0], *size))


def plain(x: torch.Tensor) -> bool:
    """Whether x is an ordinary tensor with data, and nobody is tracing."""
    return type(x) is torch.Tensor and not torch.compiler.is_compiling()
