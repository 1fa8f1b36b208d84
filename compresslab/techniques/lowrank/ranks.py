"""How many ranks: by energy, by a share of the parameters, or one budget spent over all layers."""

from collections.abc import Mapping

import torch


def break_even(outputs: int, inputs: int) -> float:
    """The rank at which two factors have as many numbers as the matrix: m n / (m + n)."""
    return outputs * inputs / (outputs + inputs)


def rank_for_energy(singular_values: torch.Tensor, share: float) -> int:
    """The smallest rank that keeps `share` of the energy, the sum of squared singular values.

    Raises:
        ValueError: for a share outside 0..1 or values that are negative or not sorted downwards.
    """
    check_share("share", share)
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
    check_share("share", share)
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


def check_share(name: str, share: float) -> None:
    """Raise ValueError unless a share lies above 0 and at most at 1."""
    if not 0 < share <= 1:
        raise ValueError(f"{name} must lie above 0 and at most at 1, got {share}")


def tucker_budget(shape: torch.Size, share: float) -> tuple[int, int]:
    """The same part of both channel axes, as large as the budget allows."""
    check_share("share", share)
    outputs, inputs, area = shape[0], shape[1], shape[2:].numel()
    best = (1, 1)
    for step in range(1, 101):
        r, q = max(1, step * inputs // 100), max(1, step * outputs // 100)
        if inputs * r + r * q * area + q * outputs <= share * shape.numel():
            best = r, q
    return best
