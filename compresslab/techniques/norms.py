"""Batch norms that fit the network again: their statistics re-estimated after its weights were changed.

    mean, variance of each channel  <-  those of what really comes in, averaged over batches of images

A pruned or rounded layer gives other means and variances than the norm behind it has learned, and that is a
good part of what accuracy falls by before any tuning. Images without labels are enough, and no weight is
trained. Li et al. 2020 (EagleEye, https://arxiv.org/abs/2007.02491, section 3) judge pruned networks so.

Each norm is re-estimated while all norms before it use the batch's own statistics, as in training. Left out:
other norms (they take no statistics), and norms without running statistics.
"""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compresslab.network.normal import flat_outputs
from compresslab.training import evaluating

BATCH = 250


def reestimated(network: nn.Module, images: torch.Tensor, batch_size: int = BATCH) -> nn.Module:
    """A copy whose batch norms have the statistics of these images.

    Args:
        network: any; not changed.
        images: as the network takes them; some hundreds, all classes among them.
        batch_size: of a forward pass; the passes' means and variances are averaged.

    Raises:
        ValueError: for fewer than two images, or a batch size below 2, whose variance says nothing.
    """
    if len(images) < 2 or batch_size < 2:
        raise ValueError(
            f"images and batch_size must be at least 2, got {len(images)} and {batch_size}"
        )
    result = copy.deepcopy(network)
    norms = [m for m in result.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momentum = [norm.momentum for norm in norms]
    parts = [part for part in images.split(batch_size) if len(part) > 1]
    with evaluating(result), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a plain average
            norm.train()
        for part in parts:
            result(part)
    for norm, own in zip(norms, momentum, strict=True):
        norm.momentum = own
    return result


@torch.no_grad()
def fitted(small: nn.Module, network: nn.Module, images: torch.Tensor) -> nn.Module:
    """The network with norms re-estimated, if its answers are then nearer to those of another; else itself.

    Half of the images say the statistics, the other half judges.

    Args:
        small: whose weights were changed; not changed here.
        network: what it was before, whose answers are wanted.
        images: fewer than four, or a network without norms: it stays as it is.
    """
    half = len(images) // 2
    if half < 2 or not any(isinstance(m, _BatchNorm) for m in small.modules()):
        return small
    other, judges = reestimated(small, images[:half]), images[half:]
    with evaluating(network), evaluating(small):
        wanted = flat_outputs(network(judges))
        errors = [(flat_outputs(m(judges)) - wanted).square().mean() for m in (small, other)]
    return other if errors[1] < errors[0] else small
