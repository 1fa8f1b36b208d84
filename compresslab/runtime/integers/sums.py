"""The arithmetic of a layer on integers: from its sums to the codes of its results.

    y = g (acc s_x s_w - m) + b + ... = acc * (s_x s_w t) + c        t, c: the folded norm
    code = clip(rint(acc * s_x s_w t / s_y + c / s_y) + z_y)

so the norm's factor t joins the requantization (it is one number per channel) and no weight code changes; a
cut (ReLU, ReLU6) is a limit of the codes.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from compresslab.runtime.integers.known import ConversionError
from compresslab.runtime.steps.step import Codes
from compresslab.techniques.folding import fold_batch_norm

DEAD = 0.5
"""A channel whose sums move its result by less than half a code is its bias alone."""


SUMS = 2**31
"""What an int32 sum must stay below."""


def code_of(edge: float, scale: float, zero: int) -> int:
    """The code that stands for a limit, within 0..255."""
    return (
        int(min(max(np.rint(edge / scale) + zero, 0), 255))
        if math.isfinite(edge)
        else (0 if edge < 0 else 255)
    )


def folded(layer: nn.Module, norms: Sequence[nn.Module]) -> tuple[np.ndarray, np.ndarray]:
    """The norms' factor t on the weight and the bias c of layer and norms together, float64 [N]."""
    factor = torch.ones(len(layer.weight), 1, dtype=torch.float64)
    bias = None if layer.bias is None else layer.bias.detach().double()
    for norm in norms:
        if norm.running_mean is None:
            raise ConversionError("a norm without running statistics depends on the batch")
        gain, shift = norm.weight, norm.bias
        gain = torch.ones(norm.num_features) if gain is None else gain
        shift = torch.zeros(norm.num_features) if shift is None else shift
        numbers = (n.detach().double() for n in (gain, shift, norm.running_mean, norm.running_var))
        factor, bias = fold_batch_norm(factor, bias, *numbers, norm.eps)
    bias = torch.zeros(len(factor), dtype=torch.float64) if bias is None else bias
    return factor[:, 0].numpy(), bias.numpy()


def requantization(
    codes: np.ndarray, scale: np.ndarray, bias: np.ndarray, out: Codes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, multiplier s_x s_w t / s_y and integer bias of every output channel.

    A channel whose largest sum moves its result by less than half a code is its bias alone. One whose bias is
    so large beside its scale that 32 bits do not hold it gets coarser weights, which then hardly count.
    """
    dead = largest_sum(codes) * np.abs(scale) < DEAD * out.scale
    scale = np.where(dead, out.scale / 64, scale)
    coarser = np.maximum(np.abs(bias / scale) / 2**30, 1)
    shape = (-1, *[1] * (codes.ndim - 1))
    codes = np.where(dead.reshape(shape), 0, np.rint(codes / coarser.reshape(shape)))
    scale = scale * coarser
    offset = np.rint(bias / scale)
    return codes.astype(np.int8), (scale / out.scale).astype(np.float32), offset.astype(np.int32)


def largest_sum(codes: np.ndarray) -> np.ndarray:
    """What the integer sum of each output channel can reach at most, float64 [N]: 255 times its codes."""
    return 255.0 * np.abs(codes.reshape(len(codes), -1).astype(np.float64)).sum(axis=1)
