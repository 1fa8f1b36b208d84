"""Weight sharing (权重共享): a few values for all weights of a layer, and for each weight which one.

    minimise   sum_i (w_i - c[k_i])^2     over the centroids (质心) c and the codes k       k-means (k 均值)

Lloyd's two steps by turns: every weight to its nearest centroid, every centroid to the mean of its
weights. In one dimension the weights of a centroid are neighbours once they are sorted, so a step costs K
searches and K differences of one running sum, not n * K distances.

    start          centroids                         (Han et al. 2016, section 3.2: linear is best,
    "linear"       even over the range                since the few large weights matter most)
    "density"      even over the sorted weights
    "random"       drawn from the weights

A weight of exactly 0 was pruned and stays 0: it has code 0, whose centroid is 0, and takes no part. Left
out: the optimum by dynamic programming (Wang and Song 2011), codebooks of vectors.
"""

from dataclasses import dataclass

import numpy as np
import torch

from compresslab.kernels import _checks

STARTS = ("linear", "density", "random")


@dataclass(frozen=True)
class Palette:
    """A tensor of shared values.

    Attributes:
        centroids: float32 [K + 1], the first of them 0.
        codes: uint8 of the tensor's shape, 0 to K.
    """

    centroids: torch.Tensor
    codes: torch.Tensor

    def dequantize(self) -> torch.Tensor:
        """The values, float32 of the codes' shape."""
        return self.centroids[self.codes.long()]


def share(weight: torch.Tensor, colours: int, start: str = "linear") -> Palette:
    """Give a tensor a palette; zeros stay zeros.

    Args:
        weight: float of any shape, finite.
        colours: how many values besides 0, 1 to 255; fewer, if there are not so many different ones.
        start: "linear", "density" or "random".

    Raises:
        ValueError: for values that are not finite, or arguments outside of these.
    """
    colours = _checks.integer_in("colours", colours, 1, 255)
    if not weight.is_floating_point():
        raise ValueError(f"weight must be of floats, got {weight.dtype}")
    values = weight.detach().float()
    nonzero = values != 0
    centroids = torch.zeros(1, dtype=torch.float32)
    codes = torch.zeros(weight.shape, dtype=torch.uint8)
    if bool(nonzero.any()):
        found, labels = kmeans(values[nonzero].numpy(), colours, start)
        centroids = torch.cat([centroids, torch.from_numpy(found)])
        codes[nonzero] = torch.from_numpy(labels) + 1
    return Palette(centroids, codes)


def kmeans(
    values: np.ndarray, colours: int, start: str = "linear", rounds: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's k-means of numbers.

    Args:
        values: float32 of any shape, at least one, finite.
        colours: 1 to 256.
        start: as in `share`; "random" always draws the same.
        rounds: at most so many; it stops when no weight changes its centroid.

    Returns:
        Centroids float32 [at most colours], ascending, and codes uint8 of values' shape. A centroid that
        nothing is near stays where it is.

    Raises:
        ValueError: for no values, or values that are not finite.
    """
    values = _checks.array_of("values", values, np.float32)
    colours = _checks.integer_in("colours", colours, 1, 256)
    rounds = _checks.integer_in("rounds", rounds, 1, 2**31)
    if start not in STARTS:
        raise ValueError(f"start must be {', '.join(STARTS)}, got {start!r}")
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("values must be finite and at least one")
    ordered = np.sort(values.reshape(-1)).astype(np.float64)
    sums = np.concatenate([[0], np.cumsum(ordered)])
    centroids, last = _start(ordered, colours, start), None
    for _ in range(rounds):
        ends = np.searchsorted(ordered, borders(centroids), side="right")
        ends = np.concatenate([[0], ends, [ordered.size]])
        if last is not None and np.array_equal(ends, last):
            break
        last, members = ends, np.diff(ends)
        means = np.diff(sums[ends]) / np.maximum(members, 1)
        # A mean may leave its neighbours' order by a rounding of the running sum: it must not.
        centroids = np.maximum.accumulate(np.where(members > 0, means, centroids))
    centroids = centroids.astype(np.float32)
    return centroids, nearest(values, centroids)


def borders(centroids: np.ndarray) -> np.ndarray:
    """Half-way between neighbours: what lies at most there belongs to the lower one, float64 [K - 1]."""
    centroids = np.asarray(centroids, np.float64)
    return (centroids[1:] + centroids[:-1]) / 2


def nearest(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The code of each value's nearest centroid, uint8 of values' shape.

    Raises:
        ValueError: for no or more than 256 centroids, centroids that do not ascend, or NaN.
    """
    if not 1 <= len(centroids) <= 256 or (np.diff(centroids) < 0).any():
        raise ValueError(f"centroids must be 1 to 256, ascending, got {len(centroids)}")
    if np.isnan(values).any() or np.isnan(centroids).any():
        raise ValueError("values and centroids must not contain NaN")
    return np.searchsorted(borders(centroids), values, side="left").astype(np.uint8)


def _start(ordered: np.ndarray, colours: int, start: str) -> np.ndarray:
    different = np.unique(ordered)
    if len(different) <= colours:
        return different
    if start == "linear":
        return np.linspace(ordered[0], ordered[-1], colours)
    if start == "density":
        places = (np.arange(colours) + 0.5) / colours * ordered.size
        return np.unique(ordered[places.astype(np.int64)])
    return np.sort(np.random.default_rng(0).choice(different, colours, replace=False))
