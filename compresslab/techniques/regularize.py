"""The other road to zeros: let training make them (正则化).

    L1              lambda * sum |w|                                   single weights
    group lasso     lambda * sum over outputs of sqrt(n) * |W[n]|_2    whole channels (Yuan and Lin 2006)
    slimming        lambda * sum |gain| of the batch norms             whole channels (Liu et al. 2017,
                                                                       https://arxiv.org/abs/1708.06519)
    L0              lambda * sum P(gate > 0)                           hard concrete gates (Louizos et al.
                                                                       2018, https://arxiv.org/abs/1712.01312)

L2, the weight decay of `fit`, makes weights small and none of them 0. The gradient of |w| is the same however
small w is, so L1 goes all the way. L0 counts: each weight is multiplied by a gate

    z = clip(s (r1 - r0) + r0, 0, 1),    s = sigmoid((log u - log(1 - u) + a) / b),    r0, r1 = -0.1, 1.1

which is exactly 0 with a probability that a controls and that has a gradient.
"""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.techniques.scores import prunable
from compresslab.training import Batch, Loss

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3


def l1(model: nn.Module) -> torch.Tensor:
    """The sum of all weights' magnitudes."""
    return sum(m.weight.abs().sum() for m in prunable(model).values())


def group_lasso(model: nn.Module) -> torch.Tensor:
    """The sum of all outputs' norms, each times the root of its size; the last layer left out."""
    layers = prunable(model, last=False).values()
    return sum(m.weight[0].numel() ** 0.5 * m.weight.flatten(1).norm(dim=1).sum() for m in layers)


def slimming(model: nn.Module) -> torch.Tensor:
    """The sum of all batch norms' |gain|.

    Raises:
        ValueError: if there is no norm with a gain.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    norms = [norm for norm in norms if norm.weight is not None]
    if not norms:
        raise ValueError("model must have batch norms with gains to slim, got none")
    return sum(norm.weight.abs().sum() for norm in norms)


def l0(model: nn.Module) -> torch.Tensor:
    """The expected number of weights that are not 0, of all gated layers."""
    gates = [m for m in model.modules() if isinstance(m, HardConcrete)]
    if not gates:
        raise ValueError("model must have gates (see gated), got none")
    return sum(gate.expected() for gate in gates)


def penalized(penalty: Callable[[nn.Module], torch.Tensor], strength: float) -> Loss:
    """Cross-entropy plus `strength` times a penalty."""

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(model(batch.x), batch.y) + strength * penalty(model)

    return loss


class HardConcrete(nn.Module):
    """Gates on a weight, as a parametrization: random while training, their likeliest value after."""

    def __init__(self, shape: torch.Size, open_share: float = 0.9) -> None:
        """Args: the weight's shape; how likely a gate is open at first."""
        super().__init__()
        start = math.log(open_share / (1 - open_share))
        self.logits = nn.Parameter(torch.full(shape, start) + 0.01 * torch.randn(shape))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The gated weight."""
        if self.training:
            u = torch.rand_like(self.logits).clamp(1e-6, 1 - 1e-6)
            s = torch.sigmoid((u.log() - (1 - u).log() + self.logits) / TEMPERATURE)
        else:
            s = torch.sigmoid(self.logits)
        return weight * (s * (HIGH - LOW) + LOW).clamp(0, 1)

    def expected(self) -> torch.Tensor:
        """How many gates are open: the sum of P(z > 0) (equation 12)."""
        return torch.sigmoid(self.logits - TEMPERATURE * math.log(-LOW / HIGH)).sum()


def gated(model: nn.Module, open_share: float = 0.9) -> nn.Module:
    """A copy whose prunable weights have gates."""
    model = copy.deepcopy(model)
    for layer in prunable(model).values():
        gate = HardConcrete(layer.weight.shape, open_share)
        nn.utils.parametrize.register_parametrization(layer, "weight", gate)
    return model


def ungated(model: nn.Module) -> nn.Module:
    """A copy with the gates' likeliest values multiplied in: closed gates leave zeros."""
    model = copy.deepcopy(model).eval()
    for layer in prunable(model).values():
        if nn.utils.parametrize.is_parametrized(layer, "weight"):
            weight = layer.weight.detach()
            # remove_parametrizations would take the property off the class, which the original shares.
            del layer.parametrizations
            layer.__class__ = type(layer).__mro__[1]
            layer.weight = nn.Parameter(weight)
    return model
