"""Low rank (低秩分解): a layer as two or three thinner ones.

    linear    W [m, n]  ~  B A,    A = sqrt(S_k) V_k^T [k, n],    B = U_k sqrt(S_k) [m, k],    W = U S V^T

The truncated SVD is the best approximation of rank k (Eckart and Young 1936), and what it misses is known
beforehand: |W - BA|^2 = the sum of the squared singular values left out. It pays below the break-even rank,
k (m + n) < m n.

    whitened  the best k for the layer's *outputs*: with E[x x^T] = L L^T the SVD of W L is cut instead, and
              A is multiplied by L^-1 (Wang et al. 2024, https://arxiv.org/abs/2403.07378, section 3)

    channel   [m, c, h, w] as [m, c h w]:    k filters of h x w, then 1x1     Zhang et al. 2016,
                                                                              https://arxiv.org/abs/1505.06798
    spatial   as [c h, w m]:                 k filters of h x 1, then 1 x w   Jaderberg et al. 2014,
                                                                              https://arxiv.org/abs/1405.3866
    tucker    both channel axes:             1x1 to r, h x w to q, then 1x1   Kim et al. 2016,
                                                                              https://arxiv.org/abs/1511.06530

Ranks come from a share of the energy, from a share of the parameters, or from `allocate`, which spends one
budget over all layers. Which of them keeps a network's accuracy is measured, here by `sensitivity`.

Left out: CP decomposition (unstable to tune) and grouped or transposed convolutions (left as they are).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.network.edit import in_place_of_, plain_copy, replace_
from compresslab.network.taps import tapped
from compresslab.progress_bar import track
from compresslab.training import evaluating

CONVOLUTIONS = ("channel", "spatial", "tucker")
SVDS = ("exact", "randomised")
DAMPING = 1e-6
"""Added to the second moments' diagonal, relative to its mean: inputs that are always 0 have none."""

Moments = Mapping[str, torch.Tensor]


# ---- matrices ------------------------------------------------------------------------------------
def factors(
    weight: torch.Tensor,
    rank: int,
    moment: torch.Tensor | None = None,
    svd: str = "exact",
) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, n] and B [m, rank] whose product is nearest to the weight [m, n].

    Args:
        weight: float [m, n].
        rank: 1 to min(m, n).
        moment: E[x x^T] of the inputs, [n, n]; if given, |(W - BA) x|^2 is what becomes smallest.
        svd: "exact" (`torch.linalg.svd`) or "randomised" (`torch.svd_lowrank`; Halko et al. 2011,
            https://arxiv.org/abs/0909.4061), faster where rank is far below min(m, n).

    Raises:
        ValueError: for another shape, rank or svd, a weight with NaN or infinity, or a moment that is not
            [n, n] and finite.
    """
    _check_matrix(weight, rank, svd)
    root = None if moment is None else _root(moment, weight.shape[1])
    target = weight.double() if root is None else weight.double() @ root
    if svd == "exact":
        u, s, vt = torch.linalg.svd(target, full_matrices=False)
    else:
        # Some more columns than asked for, and power iterations: Halko et al., section 4.
        u, s, v = torch.svd_lowrank(target, min(rank + 8, *target.shape), niter=4)
        vt = v.T
    half = s[:rank].sqrt()
    first, second = half[:, None] * vt[:rank], u[:, :rank] * half
    if root is not None:
        first = torch.linalg.solve_triangular(root, first, upper=False, left=False)
    return first.to(weight.dtype), second.to(weight.dtype)


def _check_matrix(weight: torch.Tensor, rank: int, svd: str) -> None:
    if weight.ndim != 2 or not weight.is_floating_point() or 0 in weight.shape:
        kind = f"{weight.dtype} {list(weight.shape)}"
        raise ValueError(f"weight must be a float matrix with rows and columns, got {kind}")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight must be finite, got NaN or infinity in it")
    if not 1 <= rank <= min(weight.shape):
        raise ValueError(f"rank must be 1 to {min(weight.shape)} for this weight, got {rank}")
    if svd not in SVDS:
        raise ValueError(f"svd must be one of {', '.join(SVDS)}, got {svd!r}")


def _root(moment: torch.Tensor, inputs: int) -> torch.Tensor:
    """The lower triangular L with L L^T = moment, slightly damped."""
    if tuple(moment.shape) != (inputs, inputs) or not bool(torch.isfinite(moment).all()):
        raise ValueError(
            f"moment must be finite and of shape [{inputs}, {inputs}], got {list(moment.shape)}"
        )
    moment = moment.double()
    if not torch.allclose(moment, moment.T, rtol=1e-4, atol=1e-6 * float(moment.abs().max())):
        raise ValueError("moment must be symmetric, as E[x x^T] is")
    ridge = DAMPING * moment.diagonal().mean().clamp(min=1e-12)
    damped = moment + ridge * torch.eye(inputs, dtype=torch.float64)
    root, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        raise ValueError("moment must have no negative eigenvalues, as E[x x^T] has none")
    return root


# ---- ranks ---------------------------------------------------------------------------------------
def break_even(outputs: int, inputs: int) -> float:
    """The rank at which two factors have as many numbers as the matrix: m n / (m + n)."""
    return outputs * inputs / (outputs + inputs)


def rank_for_energy(singular_values: torch.Tensor, share: float) -> int:
    """The smallest rank that keeps `share` of the energy, the sum of squared singular values.

    Raises:
        ValueError: for a share outside 0..1 or values that are negative or not sorted downwards.
    """
    _check_share("share", share)
    falling = bool((singular_values >= 0).all()) and bool((singular_values.diff() <= 0).all())
    if len(singular_values) == 0 or not falling or not bool(torch.isfinite(singular_values[0])):
        raise ValueError(
            "singular_values must be sorted downwards, finite, not negative and not none"
        )
    energy = singular_values.double().square().cumsum(0)
    # A little less than the share, so that rounding does not ask for one more than all.
    enough = energy >= (share - 1e-12) * energy[-1]
    return int(enough.int().argmax()) + 1


def rank_for_budget(outputs: int, inputs: int, share: float) -> int:
    """The largest rank whose factors have at most `share` of the matrix's numbers, at least 1."""
    _check_share("share", share)
    # A little more than the share, so that a rank that fits exactly is not rounded away.
    return max(1, int(share * outputs * inputs * (1 + 1e-12) / (outputs + inputs)))


def allocate(
    spectra: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, int]],
    budget: int,
    importance: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Ranks of all layers under one budget of parameters, at the least total loss of relative energy.

    Every rank of a layer costs m + n numbers and brings s_i^2 / sum(s^2), less and less: taking the best
    buy first is then optimal, up to the last one that does not fit.

    Args:
        spectra: singular values by layer, sorted downwards.
        shapes: outputs and inputs of the same layers as matrices.
        budget: numbers that all factors may have together.
        importance: a weight for each layer's loss, such as what `sensitivity` found; if None, 1.

    Returns:
        A rank of at least 1 for every layer.

    Raises:
        ValueError: if not even rank 1 everywhere fits, names differ, or an importance is negative.
    """
    if set(spectra) != set(shapes):
        raise ValueError(
            f"shapes must name the layers of spectra, {sorted(spectra)}; got {sorted(shapes)}"
        )
    importance = importance or {}
    if not set(importance) <= set(spectra) or not all(v >= 0 for v in importance.values()):
        raise ValueError(
            f"importance must give layers of {sorted(spectra)} weights of 0 or more, got {importance}"
        )
    offers = []
    for name, values in spectra.items():
        energy = values.double().square()
        price = sum(shapes[name])
        gain = importance.get(name, 1.0) * energy / energy.sum().clamp(min=1e-30) / price
        offers += [(-float(g), name, price) for g in gain[1:]]
    ranks = dict.fromkeys(spectra, 1)
    left = budget - sum(sum(shapes[name]) for name in spectra)
    if left < 0:
        raise ValueError(f"budget must be at least {budget - left} for rank 1, got {budget}")
    for _, name, price in sorted(offers):
        if price <= left:
            ranks[name] += 1
            left -= price
    return ranks


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"{name} must lie above 0 and at most at 1, got {share}")


# ---- layers --------------------------------------------------------------------------------------
def factorizable(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and ungrouped convolutions by name, but for those that share their weight."""
    layers = [
        (name, m)
        for name, m in model.named_modules(remove_duplicate=False)
        if type(m) is nn.Linear or (type(m) is nn.Conv2d and m.groups == 1)
    ]
    uses = Counter(id(m.weight) for _, m in layers)
    return {name: m for name, m in layers if uses[id(m.weight)] == 1}


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
    if not factorizable(nn.ModuleList([layer])):
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


# ---- networks ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Factoring:
    """How layers are cut: the kind for convolutions, the SVD, and the inputs' moments if they count.

    Moments are used for linear layers and for convolutions cut by channel.
    """

    convolution: str = "channel"
    svd: str = "exact"
    moments: Moments | None = None

    def __post_init__(self) -> None:
        """Refuse unknown kinds."""
        if self.convolution not in CONVOLUTIONS:
            kinds = ", ".join(CONVOLUTIONS)
            raise ValueError(f"convolution must be {kinds}, got {self.convolution!r}")
        if self.svd not in SVDS:
            raise ValueError(f"svd must be one of {', '.join(SVDS)}, got {self.svd!r}")


def factorize(
    model: nn.Module,
    ranks: Mapping[str, int | tuple[int, int]],
    how: Factoring | None = None,
) -> nn.Module:
    """A copy of the model with the named layers factored; one that would not become smaller stays whole.

    Args:
        model: any module tree; not changed.
        ranks: by layer name.
        how: the default is SVD, convolutions by channel.

    Raises:
        ValueError: if a name is none of the model's linear layers and ungrouped convolutions, or a rank
            does not fit its layer.
    """
    how = how or Factoring()
    model = plain_copy(model)
    layers = factorizable(model)
    unknown = sorted(set(ranks) - set(layers))
    if unknown:
        raise ValueError(f"ranks must name {', '.join(layers)}; got {', '.join(unknown)}")
    for name, rank in ranks.items():
        layer = layers[name]
        pair = factored(layer, rank, how.convolution, _moment(how, name, layer), how.svd)
        if _size(pair) >= _size(layer):
            continue
        model = replace_(model, {name: pair})
    return model


def _moment(how: Factoring, name: str, layer: nn.Module) -> torch.Tensor | None:
    """The layer's moment, if it is to be used and can be."""
    if how.moments is None or (isinstance(layer, nn.Conv2d) and how.convolution != "channel"):
        return None
    if name not in how.moments:
        raise ValueError(f"moments must have every layer that is factored, got none for {name!r}")
    return how.moments[name]


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def ranks_by_energy(model: nn.Module, share: float, convolution: str = "channel") -> dict[str, int]:
    """For every layer the rank that keeps so much of its energy."""
    layers = factorizable(model).items()
    return {n: rank_for_energy(spectrum(m, convolution), share) for n, m in layers}


def ranks_by_budget(
    model: nn.Module, share: float, convolution: str = "channel"
) -> dict[str, int | tuple[int, int]]:
    """For every layer the largest rank whose factors have at most so much of its numbers."""
    layers = factorizable(model).items()
    if convolution != "tucker":
        return {n: rank_for_budget(*as_matrix(m, convolution).shape, share) for n, m in layers}
    return {
        n: _tucker_budget(m.weight.shape, share)
        if isinstance(m, nn.Conv2d)
        else rank_for_budget(*m.weight.shape, share)
        for n, m in layers
    }


def _tucker_budget(shape: torch.Size, share: float) -> tuple[int, int]:
    """The same part of both channel axes, as large as the budget allows."""
    _check_share("share", share)
    outputs, inputs, area = shape[0], shape[1], shape[2:].numel()
    best = (1, 1)
    for step in range(1, 101):
        r, q = max(1, step * inputs // 100), max(1, step * outputs // 100)
        if inputs * r + r * q * area + q * outputs <= share * shape.numel():
            best = r, q
    return best


def search(
    model: nn.Module,
    share: float,
    convolution: str = "channel",
    importance: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Ranks under one budget: `share` of the weights of all layers that can be factored together.

    No layer gets a rank at or above break-even: there it would be larger than it was. One that has no rank
    below it stays whole, and is not in the answer.
    """
    _check_share("share", share)
    layers = factorizable(model)
    shapes = {n: tuple(as_matrix(m, convolution).shape) for n, m in layers.items()}
    budget = int(share * sum(m * n for m, n in shapes.values()))
    worthwhile = {n: math.ceil(break_even(*shape)) - 1 for n, shape in shapes.items()}
    whole = [n for n, most in worthwhile.items() if most < 1]
    budget -= sum(math.prod(shapes.pop(n)) for n in whole)
    spectra = {n: spectrum(layers[n], convolution)[: worthwhile[n]] for n in shapes}
    return allocate(spectra, shapes, budget, importance)


@torch.no_grad()
def input_moments(
    model: nn.Module, x: torch.Tensor, batch_size: int = 500
) -> dict[str, torch.Tensor]:
    """E[x x^T] over everything that each layer is given, [n, n] as its matrix has columns.

    Args:
        model: run in evaluation mode.
        x: calibration inputs of the model, at least one.
        batch_size: inputs a pass.
    """
    if len(x) == 0:
        raise ValueError("x must hold at least one input, got none")
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def record(name: str, layer: nn.Module, inputs: tuple) -> None:
        rows = _rows(layer, inputs[0]).double()
        sums[name] = sums.get(name, 0) + rows.T @ rows
        counts[name] = counts.get(name, 0) + len(rows)

    with tapped(factorizable(model), before=record), evaluating(model):
        for part in x.split(batch_size):
            model(part)
    return {name: total / counts[name] for name, total in sums.items()}


def _rows(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the layer's matrix is multiplied with, one row each: inputs, or patches."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    place = _place(layer)
    patches = F.unfold(x, layer.kernel_size, place["dilation"], place["padding"], place["stride"])
    return patches.transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True)
class Sensitivity:
    """What one layer alone at a rank costs: the share of its weights that is left, the quality reached."""

    layer: str
    rank: int
    share: float
    quality: float


def sensitivity(
    model: nn.Module,
    quality: Callable[[nn.Module], float],
    shares: Sequence[float] = (0.5, 0.25, 0.125),
    how: Factoring | None = None,
) -> list[Sensitivity]:
    """Factor one layer at a time to each share of its weights, and measure.

    Args:
        model: the trained network; not changed.
        quality: what to keep high, such as validation accuracy.
        shares: of the layer's numbers that the factors may have.
        how: as in `factorize`; not for tucker.
    """
    how = how or Factoring()
    results = []
    for name, layer in track(factorizable(model).items(), "sensitivity", "layer"):
        shape = as_matrix(layer, how.convolution).shape
        for share in shares:
            rank = rank_for_budget(*shape, share)
            reached = quality(factorize(model, {name: rank}, how))
            results.append(Sensitivity(name, rank, rank / break_even(*shape), reached))
    return results
