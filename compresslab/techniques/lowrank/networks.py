"""Networks of thin layers: all of them factored, their ranks chosen, and what each rank costs in accuracy."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.network.edit import plain_copy, replace_
from compresslab.network.taps import tapped
from compresslab.progress_bar import track
from compresslab.techniques.lowrank.layers import (
    CONVOLUTIONS,
    _place,
    as_matrix,
    factored,
    factorizable,
    spectrum,
)
from compresslab.techniques.lowrank.matrices import SVDS
from compresslab.techniques.lowrank.ranks import (
    allocate,
    break_even,
    check_share,
    rank_for_budget,
    rank_for_energy,
    tucker_budget,
)
from compresslab.training import evaluating

Moments = Mapping[str, torch.Tensor]


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
        n: tucker_budget(m.weight.shape, share)
        if isinstance(m, nn.Conv2d)
        else rank_for_budget(*m.weight.shape, share)
        for n, m in layers
    }


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
    check_share("share", share)
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
