"""From a stream of tensors to a range: which numbers should a grid cover?

Covering everything makes steps coarse; covering less clips outliers. Each observer settles it its own way:

    minmax       the extremes seen                                     nothing is clipped
    average      an exponential mean of each batch's extremes          Jacob et al. 2018, section 3.1
    percentile   up to the p-th percentile, at each end with values    Wu et al. 2020, arXiv:2004.09602, 3.2
    mse          the range with the least squared error            Nagel et al. 2021, arXiv:2106.08295, 3.1
    entropy      the range whose codes diverge least (KL) from the data   Migacz, GTC 2017, session 7310

The last three look at a sample of the values, drawn evenly from every tensor: fewer than 2 * SAMPLE.
`weight_range` does the same for weights, for all channels or groups at once.
"""

from collections.abc import Callable

import numpy as np
import torch

from compresslab.kernels._checks import channel_view
from compresslab.numerics.affine import affine_qparams, minmax
from compresslab.numerics.grid import IntGrid

SAMPLE = 1 << 17
PER_TENSOR = 1 << 14
SHRINK = torch.linspace(0.1, 1.0, 46)
"""Fractions of the full range that the searches try."""
HISTOGRAM = 2048

Range = tuple[torch.Tensor, torch.Tensor]


class Observer:
    """Sees tensors, then says which range to cover; `grid` matters to those that weigh the error."""

    def __init__(self, grid: IntGrid) -> None:
        self.grid = grid

    def update(self, x: torch.Tensor) -> None:
        """See one tensor of any shape.

        Raises:
            ValueError: if it is empty or holds NaN or an infinity.
        """
        if x.numel() == 0:
            raise ValueError(f"x must not be empty to be observed, got shape {tuple(x.shape)}")
        if not bool(torch.isfinite(x).all()):
            raise ValueError("x must be finite to be observed, got NaN or an infinity")
        self.see(x.detach().float())

    def see(self, x: torch.Tensor) -> None:
        """Take a checked tensor in."""
        raise TypeError(f"{type(self).__name__} does not say how it sees")

    def range(self) -> Range:
        """The smallest and largest number to cover, float32 scalars.

        Raises:
            ValueError: if nothing was seen.
        """
        raise TypeError(f"{type(self).__name__} does not say what it saw")


class MinMax(Observer):
    """The extremes of everything seen."""

    def __init__(self, grid: IntGrid) -> None:
        super().__init__(grid)
        self.seen: Range | None = None

    def see(self, x: torch.Tensor) -> None:
        """Widen the range."""
        lo, hi = x.min(), x.max()
        if self.seen is not None:
            lo, hi = self.merge(self.seen, (lo, hi))
        self.seen = lo, hi

    def merge(self, old: Range, new: Range) -> Range:
        """The range of both."""
        return torch.minimum(old[0], new[0]), torch.maximum(old[1], new[1])

    def range(self) -> Range:
        """What was covered."""
        if self.seen is None:
            raise ValueError("an observer must see at least one tensor, got none")
        return self.seen


class Average(MinMax):
    """An exponential moving average of each tensor's extremes, new ones weighing 1 - MOMENTUM."""

    MOMENTUM = 0.9

    def merge(self, old: Range, new: Range) -> Range:
        """Move a little towards the new extremes."""
        return tuple(
            self.MOMENTUM * a + (1 - self.MOMENTUM) * b for a, b in zip(old, new, strict=True)
        )


class Sampling(Observer):
    """Keeps a sample of the values; what to make of it is up to `choose`."""

    def __init__(self, grid: IntGrid, choose: Callable[[torch.Tensor, IntGrid], Range]) -> None:
        super().__init__(grid)
        self.choose = choose
        self.parts: list[torch.Tensor] = []

    def see(self, x: torch.Tensor) -> None:
        """Keep evenly spaced values, and the extremes (which thinning may take out again)."""
        flat = x.reshape(-1)
        step = max(1, flat.numel() // PER_TENSOR)
        self.parts.append(torch.cat([flat[::step], torch.stack([flat.min(), flat.max()])]))

    def range(self) -> Range:
        """The range of the sample, thinned to less than twice SAMPLE values."""
        if not self.parts:
            raise ValueError("an observer must see at least one tensor, got none")
        values = torch.cat(self.parts)
        return self.choose(values[:: max(1, values.numel() // SAMPLE)], self.grid)


# ---- choosing from values ------------------------------------------------------------------------
def percentile_range(values: torch.Tensor, _grid: IntGrid, percent: float = 99.9) -> Range:
    """The range that leaves out (100 - percent) % of the values at each end that has values."""
    low, high = (100 - percent) / 100, percent / 100
    ends = np.quantile(values.numpy(), [low if bool((values < 0).any()) else 0.0, high])
    lo, hi = torch.from_numpy(ends.astype(np.float32))
    return lo, hi


def mse_range(values: torch.Tensor, grid: IntGrid) -> Range:
    """The shrunken range with the least mean squared error of rounding and clipping."""
    lo, hi = values.min().reshape(1), values.max().reshape(1)
    lo, hi = _least_error(values.reshape(1, -1), lo, hi, grid, symmetric=False)
    return lo[0], hi[0]


def entropy_range(values: torch.Tensor, grid: IntGrid) -> Range:
    """The clipping threshold t whose quantized histogram of |x| diverges least from the clipped one.

    Both are histograms of HISTOGRAM bins: P with what lies above t counted into its last bin, Q made of
    P's bins merged into as many as the grid has magnitudes, each spread evenly over the bins of P that
    are not empty.
    """
    largest = float(values.abs().max())
    if largest == 0:
        return values.min(), values.max()
    # Exact zeros (half of all values behind a ReLU) have a code of their own and are not at stake.
    magnitudes = values[values != 0].abs()
    counts = torch.histc(magnitudes, HISTOGRAM, 0, largest).double().numpy()
    signed = bool((values < 0).any())
    levels = grid.levels // 2 if signed else grid.levels
    candidates = range(max(levels, 16), HISTOGRAM + 1, 16)
    best = min(candidates, key=lambda bins: _divergence(counts, bins, levels))
    threshold = torch.tensor(largest * best / HISTOGRAM)
    return (-threshold if signed else torch.tensor(0.0)), threshold


def _divergence(counts: np.ndarray, bins: int, levels: int) -> float:
    """KL(P || Q) for a threshold after `bins` bins."""
    clipped = counts[:bins].copy()
    clipped[-1] += counts[bins:].sum()
    place = np.arange(bins) * levels // bins
    filled = counts[:bins] > 0
    totals = np.bincount(place, counts[:bins], levels)
    members = np.bincount(place, filled, levels)
    q = np.where(filled, totals[place] / np.maximum(members[place], 1), 0)
    p = clipped / clipped.sum()
    q = q / max(q.sum(), 1e-300)
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / np.maximum(q[p > 0], 1e-12))))


OBSERVERS: dict[str, Callable[[IntGrid], Observer]] = {
    "minmax": MinMax,
    "average": Average,
    "percentile": lambda grid: Sampling(grid, percentile_range),
    "mse": lambda grid: Sampling(grid, mse_range),
    "entropy": lambda grid: Sampling(grid, entropy_range),
}


def observer(name: str, grid: IntGrid) -> Observer:
    """A new observer.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in OBSERVERS:
        raise ValueError(f"observer must be one of {', '.join(OBSERVERS)}, got {name!r}")
    return OBSERVERS[name](grid)


# ---- weights: every channel or group at once -----------------------------------------------------
def weight_range(
    weight: torch.Tensor,
    grid: IntGrid,
    method: str = "minmax",
    axis: int | None = None,
    group: int | None = None,
    symmetric: bool = True,
) -> Range:
    """Ranges of a weight, one for the tensor, each channel or each group.

    Args:
        weight: float32 of any shape.
        grid: the codes; signed where the ranges are symmetric.
        method: "minmax" or "mse".
        axis: the channel axis.
        group: length of a group along the last axis.
        symmetric: whether the ends are as far from 0 as each other.

    Raises:
        ValueError: for another method, or an empty weight.
    """
    weight = weight.detach()
    lo, hi = minmax(weight, axis, group)
    if symmetric:
        hi = torch.maximum(-lo, hi).clamp(min=0.0)
        lo = -hi
    if method == "minmax":
        return lo, hi
    if method != "mse":
        raise ValueError(f"method must be minmax or mse for weights, got {method!r}")
    (outer, channels, inner), shape = channel_view(tuple(weight.shape), axis, group)
    rows = weight.reshape(outer, channels, inner).transpose(0, 1).reshape(channels, -1)
    lo, hi = _least_error(rows, lo.reshape(-1), hi.reshape(-1), grid, symmetric)
    return lo.reshape(shape), hi.reshape(shape)


def _least_error(
    rows: torch.Tensor, lo: torch.Tensor, hi: torch.Tensor, grid: IntGrid, symmetric: bool
) -> Range:
    """For each row of values [rows, n], the shrunken range with the least squared error."""
    best, chosen = torch.full(lo.shape, torch.inf), torch.ones(lo.shape)
    for fraction in SHRINK:
        if symmetric:
            scale, zero = (hi * fraction / grid.high).clamp(min=1e-30), torch.zeros(lo.shape)
        else:
            scale, zero = affine_qparams(lo * fraction, hi * fraction, grid.low, grid.high)
        step, z = scale[:, None], zero[:, None]
        back = ((rows / step).round() + z).clamp(grid.low, grid.high).sub(z) * step
        error = (rows - back).square().mean(dim=1)
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, fraction, chosen)
    return lo * chosen, hi * chosen
