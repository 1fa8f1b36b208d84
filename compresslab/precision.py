"""The floating-point format that a network takes: a network in half precision takes its examples so too.

A cast is the cheapest compression there is, `network.bfloat16()`, and the examples stay float32. Whatever
runs a network to count, time, test or train it hands the examples over in the network's own format.

Left out: networks whose parameters are of several formats. They cast inside, and get what they are given.
"""

import torch
from torch import nn


def as_taken(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The examples in the one format of all parameters; integers and those of mixed networks as they are."""
    if not x.is_floating_point():
        return x
    kinds = {p.dtype for p in network.parameters() if p.is_floating_point()}
    return x.to(kinds.pop()) if len(kinds) == 1 else x


def not_float32(network: nn.Module) -> str:
    """Which parameter is in another floating-point format, and the way out; "" if none is."""
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            return f"network must be in float32, {name} is {parameter.dtype}: network.float()"
    return ""
