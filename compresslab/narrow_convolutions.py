"""Convolutions that torch must not train in channels-last memory: 1×1, with a stride, of few input channels.

On a processor with AVX2 and without AVX-512, oneDNN copies the inputs that the stride leaves into a buffer.
For fewer input channels than its block has (8) it writes past the end of it, in the gradient of the weights:
torch 2.13 then ends with "double free or corruption", or goes on with broken numbers (oneDNN issue 6035). In
torch's own layout it takes another way. So a network that holds such a layer is trained in that layout; its
numbers stay the same, but for rounding.

Left out: training loops that are not `training.fit`.
"""

from collections.abc import Callable

import torch
from torch import nn

BLOCK = 16
"""Input channels of a block: 8 with AVX2; 16 with AVX-512, of which nobody has reported the fault."""


def lay_out_safely_(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Bring a network with narrow convolutions into torch's own layout; leave any other as it is.

    Args:
        model: about to be trained.

    Returns:
        What does the same with its batches.
    """
    narrow = [layer for layer in model.modules() if is_narrow(layer)]
    if not narrow:
        return lambda batch: batch
    model.to(memory_format=torch.contiguous_format)
    for layer in narrow:  # a 1×1 kernel counts as both layouts, so that `to` leaves it as it is
        layer.weight.data = layer.weight.data.clone(memory_format=torch.contiguous_format)
    return torch.Tensor.contiguous


def is_narrow(layer: nn.Module) -> bool:
    """Whether a layer is a 1×1 convolution with a stride and fewer input channels than a block."""
    return (
        isinstance(layer, nn.Conv2d)
        and isinstance(getattr(layer, "weight", None), nn.Parameter)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels // layer.groups < BLOCK
    )
