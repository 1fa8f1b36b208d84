"""Networks of shared weights, whose centroids are trained: trained quantization of Han et al. 2016.

    w_i = c[k_i]        dL / dc[k] = sum of dL / dw_i over all i with k_i = k         (equation 3)

The codes stay as k-means found them; training moves the centroids alone, each by what its weights want
together. Pruned weights have code 0, whose centroid is no parameter: they stay 0 without a mask.

A centroid's *step* is the mean, not the sum: n weights that move together by lr times their mean gradient
are a gradient step of all weights, projected onto those that share (in the coordinates c * sqrt(n), which
have the weights' own lengths, the gradient is sum / sqrt(n)). So the learning rates of ordinary weights
hold; with sums, a value that ten thousand weights share would need one ten thousand times smaller.

Layers are float32 convolutions and linear layers with a weight of their own; norms and biases are trained
along. What goes on from shared weights to another technique is made plain first (`unshared`).
"""

import collections
import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.network.edit import in_place_of_, replaced
from compresslab.network.select import arranged_like, refuse_hooks
from compresslab.numerics.codebook import Palette, share


class _LookUp(torch.autograd.Function):
    """centroids[codes - 1], 0 for code 0; backward gives each centroid the mean of its weights' gradients."""

    @staticmethod
    def forward(ctx, centroids: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:  # noqa: ANN001
        ctx.save_for_backward(codes)
        ctx.colours = len(centroids)
        return F.pad(centroids, (1, 0))[codes.long()]

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN001
        (codes,) = ctx.saved_tensors
        flat = codes.reshape(-1).int()
        sums = torch.bincount(flat, gradient.reshape(-1).double(), ctx.colours + 1)
        members = torch.bincount(flat, minlength=ctx.colours + 1).clamp(min=1)
        return (sums / members)[1:].to(gradient.dtype), None


class Shared(nn.Module):
    """A convolution or linear layer whose weight is looked up.

    Args:
        layer: gives the bias and the geometry.
        palette: codes of the weight's shape.

    Raises:
        ValueError: if the shapes differ.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, palette: Palette) -> None:
        super().__init__()
        if palette.codes.shape != layer.weight.shape:
            raise ValueError(
                f"codes must have shape {list(layer.weight.shape)}, got {list(palette.codes.shape)}"
            )
        self.layer = copy.deepcopy(layer)
        del self.layer.weight
        trained = layer.weight.requires_grad
        self.centroids = nn.Parameter(palette.centroids[1:].clone(), trained)
        self.register_buffer("codes", arranged_like(palette.codes.clone(), layer.weight))
        in_place_of_(self, layer)

    @property
    def palette(self) -> Palette:
        """Centroids, 0 in front, and codes, as they are now."""
        return Palette(F.pad(self.centroids.detach(), (1, 0)), self.codes)

    @property
    def weight(self) -> torch.Tensor:
        """The weight that is computed with; gradients reach the centroids, as means."""
        return arranged_like(_LookUp.apply(self.centroids, self.codes), self.codes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output."""
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, self.weight, self.layer.bias)
        return self.layer._conv_forward(x, self.weight, self.layer.bias)

    def plain(self) -> nn.Conv2d | nn.Linear:
        """The ordinary layer with this weight."""
        layer = copy.deepcopy(self.layer)
        layer.weight = nn.Parameter(self.weight.detach().clone(), self.centroids.requires_grad)
        return layer

    def numbers(self) -> tuple[int, int]:
        """Weights and biases, and how many of them are not 0."""
        bias = self.layer.bias
        plain = (0, 0) if bias is None else (bias.numel(), int(bias.count_nonzero()))
        return self.codes.numel() + plain[0], int(self.codes.count_nonzero()) + plain[1]

    def extra_repr(self) -> str:
        """How many colours."""
        return f"{len(self.centroids)} shared values"


def share_weights(
    model: nn.Module, colours: int | Mapping[str, int], start: str = "linear"
) -> nn.Module:
    """A copy of the model with shared weights, to be tuned with `fit`.

    Args:
        model: any module tree; zeros in its weights stay zeros.
        colours: values besides 0, 1 to 255: for all layers, or by layer name (others stay as they are).
        start: as in `codebook.share`.

    Raises:
        ValueError: for names that are no layer, other numbers of colours, or no layer at all.
    """
    layers = shareable(model)
    chosen = colours if isinstance(colours, Mapping) else dict.fromkeys(layers, colours)
    unknown = set(chosen) - set(layers)
    if not layers:
        raise ValueError(
            "model has no layer whose weights can be shared: linear layers and 2-d convolutions can, in "
            "float32, with a weight of their own"
        )
    if unknown or not chosen:
        raise ValueError(
            f"colours must name layers of {', '.join(layers) or 'a model that has none'}, "
            f"got {', '.join(sorted(unknown)) or 'no name'}"
        )
    refuse_hooks((name, layers[name]) for name in chosen)
    new = {}
    for name, count in chosen.items():
        try:
            new[name] = Shared(layers[name], share(layers[name].weight, count, start))
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    return replaced(model, new)


def shareable(model: nn.Module) -> dict[str, nn.Module]:
    """Layers whose weight is an ordinary float32 parameter that no other module has."""
    owners = collections.Counter(
        id(p) for m in model.modules() for p in m._parameters.values() if p is not None
    )
    return {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) in (nn.Conv2d, nn.Linear)
        and layer._parameters.get("weight") is not None
        and layer.weight.dtype == torch.float32
        and owners[id(layer.weight)] == 1
    }


def shared_layers(model: nn.Module) -> dict[str, Shared]:
    """The layers with shared weights, by name; one that has several names under each of them."""
    named = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in named if isinstance(module, Shared)}


def unshared(model: nn.Module) -> nn.Module:
    """A copy with ordinary layers in place of shared ones; it computes the same."""
    plain = {id(m): m.plain() for m in shared_layers(model).values()}
    new = {name: plain[id(m)] for name, m in shared_layers(model).items()}
    return (replaced(model, new) if new else copy.deepcopy(model)).eval()
