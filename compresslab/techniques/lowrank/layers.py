"""A layer as two or three thinner ones: linear layers, and convolutions by channel, by axis, or by both."""

from collections import Counter

import torch
from torch import nn

from compresslab.network.edit import in_place_of_
from compresslab.network.select import computes_as, with_own_weight
from compresslab.techniques.lowrank.matrices import factors

CONVOLUTIONS = ("channel", "spatial", "tucker")


def factorizable(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and ungrouped convolutions padded with zeros by name, unless their weight is shared.

    Not those that compute more than their class does, with hooks or a forward of their own: two thin layers
    in their place would not.
    """
    layers = [
        (name, m)
        for name, m in model.named_modules(remove_duplicate=False)
        if (type(m) is nn.Linear or _divides(m)) and computes_as(m, type(m))
    ]
    uses, own = Counter(id(m.weight) for _, m in layers), with_own_weight(model)
    return {name: m for name, m in layers if uses[id(m.weight)] == 1 and name in own}


def _divides(layer: nn.Module) -> bool:
    return type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros"


def as_matrix(layer: nn.Module, convolution: str = "channel") -> torch.Tensor:
    """The layer's weight as the matrix [m, n] that is cut.

    Raises:
        ValueError: for another kind of layer or convolution ("tucker" cuts two matrices).
    """
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        return weight
    if not isinstance(layer, nn.Conv2d) or convolution not in CONVOLUTIONS[:2]:
        raise ValueError(
            "layer must be linear or a convolution, and convolution channel or spatial; "
            f"got {type(layer).__name__}, {convolution!r}"
        )
    if convolution == "channel":
        return weight.flatten(1)
    outputs, inputs, height, width = weight.shape
    return weight.permute(3, 0, 1, 2).reshape(width * outputs, inputs * height)


def spectrum(layer: nn.Module, convolution: str = "channel") -> torch.Tensor:
    """The singular values of the layer's matrix, sorted downwards."""
    return torch.linalg.svdvals(as_matrix(layer, convolution).double())


def factored(
    layer: nn.Module,
    rank: int | tuple[int, int],
    convolution: str = "channel",
    moment: torch.Tensor | None = None,
    svd: str = "exact",
) -> nn.Sequential:
    """New layers in series that compute nearly what this one does; the bias goes to the last.

    Args:
        layer: linear, or a convolution with any stride, padding and dilation, ungrouped.
        rank: how thin; for "tucker" a pair (inputs, outputs), or one number for both.
        convolution: "channel", "spatial" or "tucker".
        moment: of the inputs (of a convolution: of its patches), see `factors`; not for spatial or tucker.
        svd: see `factors`.

    Raises:
        ValueError: for a layer that cannot be factored, or arguments that do not fit it.
    """
    if not (type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1)):
        raise ValueError(
            f"layer must be linear or an ungrouped convolution, got {type(layer).__name__}"
        )
    if convolution not in CONVOLUTIONS:
        raise ValueError(f"convolution must be {', '.join(CONVOLUTIONS)}, got {convolution!r}")
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        raise ValueError(f"layer must be padded with zeros, got {layer.padding_mode!r}")
    if not bool(torch.isfinite(layer.weight).all()):
        raise ValueError("weight must be finite, got NaN or infinity in it")
    if isinstance(layer, nn.Conv2d) and convolution != "channel" and moment is not None:
        raise ValueError(f"moment must be None for a {convolution} factoring, got one")
    if isinstance(layer, nn.Conv2d) and convolution == "tucker":
        return _tucker(layer, rank if isinstance(rank, tuple) else (rank, rank))
    first, second = factors(as_matrix(layer, convolution), rank, moment, svd)
    if isinstance(layer, nn.Linear):
        return _linear_pair(layer, first, second)
    return (_channel_pair if convolution == "channel" else _spatial_pair)(layer, first, second)


def _linear_pair(layer: nn.Linear, first: torch.Tensor, second: torch.Tensor) -> nn.Sequential:
    rank = len(first)
    down = nn.Linear(layer.in_features, rank, bias=False)
    up = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    return _filled([down, up], [first, second], layer)


def _channel_pair(layer: nn.Conv2d, first: torch.Tensor, second: torch.Tensor) -> nn.Sequential:
    rank, where = len(first), _place(layer)
    thin = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, bias=False, **where)
    mix = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    return _filled([thin, mix], [first, second], layer)


def _spatial_pair(layer: nn.Conv2d, first: torch.Tensor, second: torch.Tensor) -> nn.Sequential:
    rank, (height, width) = len(first), layer.kernel_size
    up = {k: (v[0], 1 if k != "padding" else 0) for k, v in _place(layer).items()}
    across = {k: (1 if k != "padding" else 0, v[1]) for k, v in _place(layer).items()}
    column = nn.Conv2d(layer.in_channels, rank, (height, 1), bias=False, **up)
    row = nn.Conv2d(rank, layer.out_channels, (1, width), bias=layer.bias is not None, **across)
    weights = [
        first.view(rank, layer.in_channels, height, 1),
        second.view(width, layer.out_channels, rank).permute(1, 2, 0)[:, :, None],
    ]
    return _filled([column, row], weights, layer)


def _tucker(layer: nn.Conv2d, ranks: tuple[int, int]) -> nn.Sequential:
    """Tucker-2 by the higher-order SVD (De Lathauwer et al. 2000): the leading directions of both axes."""
    weight = layer.weight.detach().double()
    outputs, inputs = weight.shape[:2]
    if not (1 <= ranks[0] <= inputs and 1 <= ranks[1] <= outputs):
        raise ValueError(f"rank must be 1 to {inputs} and 1 to {outputs} for tucker, got {ranks}")
    u_in = torch.linalg.svd(weight.transpose(0, 1).flatten(1), full_matrices=False)[0]
    u_out = torch.linalg.svd(weight.flatten(1), full_matrices=False)[0]
    # Directions beyond the data are arbitrary: few outputs cannot span more than outputs * h * w inputs.
    down, up = u_in[:, : ranks[0]], u_out[:, : ranks[1]]
    core = torch.einsum("mchw,cr,mq->qrhw", weight, down, up)
    r, q = core.shape[1], core.shape[0]
    layers = [
        nn.Conv2d(inputs, r, 1, bias=False),
        nn.Conv2d(r, q, layer.kernel_size, bias=False, **_place(layer)),
        nn.Conv2d(q, outputs, 1, bias=layer.bias is not None),
    ]
    return _filled(layers, [down.T, core, up], layer)


def _place(layer: nn.Conv2d) -> dict[str, tuple[int, int]]:
    """Stride, padding in numbers, dilation."""
    padding = layer.padding
    if isinstance(padding, str):
        if padding == "same" and any(k % 2 == 0 for k in layer.kernel_size):
            raise ValueError("layer must have an odd kernel for padding='same', got an even one")
        spans = zip(layer.kernel_size, layer.dilation, strict=True)
        padding = tuple(d * (k - 1) // 2 if padding == "same" else 0 for k, d in spans)
    return {"stride": layer.stride, "padding": padding, "dilation": layer.dilation}


@torch.no_grad()
def _filled(layers: list[nn.Module], weights: list[torch.Tensor], old: nn.Module) -> nn.Sequential:
    """In series, and in all else like the old layer: device, dtype, mode, frozen or not."""
    new = nn.Sequential(*layers).to(old.weight.device, old.weight.dtype).train(old.training)
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.copy_(weight.reshape(layer.weight.shape))
    if old.bias is not None:
        layers[-1].bias.copy_(old.bias)
    return in_place_of_(new.requires_grad_(old.weight.requires_grad), old)
