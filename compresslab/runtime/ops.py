"""The integer kernels as torch operators, so that torch's own machinery can see them.

`torch.ops.compresslab.*` take and return tensors, have fake implementations (shapes without data, for
torch.compile and torch.export) and are checked by `torch.library.opcheck`. Where activations are integers
there is no gradient; `lowbit_linear` has one for its float inputs. The modules call the kernels directly
when nobody is watching, because an operator call costs as much as a small layer.
"""

import numpy as np
import torch

from compresslab.kernels import int8, int8_conv, lowbit, xnor, xnor_conv
from compresslab.kernels.panels import PackedWeight, Requantize


def threads() -> int:
    """How many threads kernels may use: as many as torch does."""
    return torch.get_num_threads()


def _packed(
    panels: torch.Tensor, outputs: int, inputs: int, width: int, runs: int = 1
) -> PackedWeight:
    count = -(-outputs // width) * width
    return PackedWeight(panels.numpy(), np.zeros(count, np.int32), outputs, inputs, width, runs)


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
    epilogue = Requantize(start.numpy(), factor.numpy(), *numbers)
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
    epilogue = Requantize(start.numpy(), factor.numpy(), *numbers)
    view = int8_conv.Window(*window)
    inputs = view.height * view.width * x.shape[3]
    weight = _packed(panels, outputs, inputs, width, view.height)
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
    weight = PackedWeight(panels.numpy(), sums.numpy(), len(scale), x.shape[1], width)
    offset = None if bias is None else bias.numpy()
    epilogue = weight.dequantize(int8.SIGN, scale.numpy(), offset)
    return torch.from_numpy(int8.dynamic_linear(x.numpy(), weight, epilogue, threads()))


@dynamic_int8_linear.register_fake
def _(x, panels, sums, scale, bias, width):  # noqa: ANN001, ANN202
    return x.new_empty((x.shape[0], scale.shape[0]))


MANY_ROWS = 128
"""From so many rows on, restoring the weights first takes less time than unpacking them for each row."""


def lowbit_product(
    rows: torch.Tensor, weight: lowbit.PackedCodes, bias: torch.Tensor | None
) -> torch.Tensor:
    """Float rows [M, K] times packed weights, float32 [M, N], by the way that is faster for M."""
    bias = None if bias is None else bias.float()
    if len(rows) < MANY_ROWS:
        offset = None if bias is None else bias.numpy()
        return torch.from_numpy(lowbit.matmul(rows.numpy(), weight, offset, threads()))
    restored = torch.from_numpy(lowbit.restore(weight))
    return rows @ restored if bias is None else torch.addmm(bias, rows, restored)


def _codes(words, scales, sizes) -> lowbit.PackedCodes:  # noqa: ANN001
    arrays = (t.numpy().view(np.uint32) for t in (words, scales))
    return lowbit.PackedCodes(*arrays, *sizes)


@torch.library.custom_op("compresslab::table_rows", mutates_args=())
def table_rows(
    tokens: torch.Tensor,
    words: torch.Tensor,
    scales: torch.Tensor,
    outputs: int,
    inputs: int,
    bits: int,
    group: int,
) -> torch.Tensor:
    """Rows of a packed table, int64 [n] -> float32 [n, inputs]."""
    table = _codes(words, scales, (outputs, inputs, bits, group))
    return torch.from_numpy(table.rows(tokens.numpy()))


@table_rows.register_fake
def _(tokens, words, scales, outputs, inputs, bits, group):  # noqa: ANN001, ANN202
    return words.new_empty((tokens.shape[0], inputs), dtype=torch.float32)


@torch.library.custom_op("compresslab::lowbit_linear", mutates_args=())
def lowbit_linear(
    x: torch.Tensor,
    words: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    outputs: int,
    inputs: int,
    bits: int,
    group: int,
) -> torch.Tensor:
    """A float linear layer on low-bit weights, [M, K] -> [M, N]; see `kernels.lowbit`."""
    return lowbit_product(x, _codes(words, scales, (outputs, inputs, bits, group)), bias)


@lowbit_linear.register_fake
def _(x, words, scales, bias, outputs, inputs, bits, group):  # noqa: ANN001, ANN202
    torch._check(x.shape[1] == inputs, lambda: f"x must have shape [M, {inputs}]")
    return x.new_empty((x.shape[0], outputs))


@torch.library.custom_op("compresslab::lowbit_gradient", mutates_args=())
def lowbit_gradient(
    gradient: torch.Tensor,
    words: torch.Tensor,
    scales: torch.Tensor,
    outputs: int,
    inputs: int,
    bits: int,
    group: int,
) -> torch.Tensor:
    """What reaches the inputs of `lowbit_linear`: dL/dx = dL/dy W, [M, N] -> [M, K]."""
    weight = _codes(words, scales, (outputs, inputs, bits, group))
    return gradient @ torch.from_numpy(lowbit.restore(weight)).T


@lowbit_gradient.register_fake
def _(gradient, words, scales, outputs, inputs, bits, group):  # noqa: ANN001, ANN202
    return gradient.new_empty((gradient.shape[0], inputs))


def _keep(ctx, inputs, output) -> None:  # noqa: ANN001
    ctx.save_for_backward(*inputs[1:3])
    ctx.sizes = inputs[4:]


def _backward(ctx, gradient):  # noqa: ANN001, ANN202
    return lowbit_gradient(gradient, *ctx.saved_tensors, *ctx.sizes), *[None] * 7


torch.library.register_autograd("compresslab::lowbit_linear", _backward, setup_context=_keep)


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
    """Whether x is an ordinary tensor with data, and nobody is tracing.

    Raises:
        RuntimeError: under `torch.jit.trace`, which would keep the answer to its example.
    """
    if torch.jit.is_tracing():
        raise RuntimeError(
            "torch.jit.trace cannot record layers that compute outside of torch, and would keep the answer "
            "to its example: save the network with compresslab.runtime.files, or export its float original"
        )
    return type(x) is torch.Tensor and not torch.compiler.is_compiling()


class _Ended(torch.autograd.Function):
    """A result as it is, through which no gradient goes: whoever asks for one is told."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, result: torch.Tensor, what: str) -> torch.Tensor:  # noqa: ANN001
        ctx.what = what
        return result.clone()  # of a tensor made in inference mode, too

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ANN001
        raise RuntimeError(
            f"{ctx.what} has no gradient for what stands in front of it: train before it is made"
        )


def ended(x: torch.Tensor, result: torch.Tensor, what: str) -> torch.Tensor:
    """The result of a kernel that was computed past autograd.

    Backward through it raises a RuntimeError instead of leaving the layers in front of it without a gradient.
    """
    asked = x.requires_grad and torch.is_grad_enabled()
    return _Ended.apply(x, result, what) if asked else result
