"""Pruning a language model at once, without training it: Wanda and SparseGPT, beside magnitude.

    method       what goes                                             what stays
    magnitude    the smallest |w| of each output                       as it was
    wanda        the smallest |w_ij| ||x_j||_2 of each output          as it was
    sparsegpt    the smallest w_ij^2 / U_jj^2 of a few columns         makes up for what went, as in GPTQ

||x_j|| is the length of input j over the calibration text: a small weight that meets large activations
matters (Sun et al. 2023, Wanda, https://arxiv.org/abs/2306.11695, equation 1). SparseGPT (Frantar and
Alistarh 2023, https://arxiv.org/abs/2301.00774, algorithm 1) is Optimal Brain Surgeon with GPTQ's order of
columns: with U^T U = H^-1, U upper triangular, a weight that is set to 0 costs w_j^2 / (2 U_jj^2), and the
columns behind move by -(w_j / U_jj) U_jk. Which go is decided for `BLOCK` columns when their turn comes,
from the weights as they have become; in a pattern n of m, for every m columns and output.

Layers are visited in the order of the run, each on what the pruned ones before it give. Training tells more
(`prune`); it needs gradients, and text for more than some minutes. Left out: shares that differ between
layers.
"""

from collections.abc import Sequence

import torch
from torch import nn

from compresslab.network.edit import plain_copy
from compresslab.network.select import linear_layers, matrix, set_matrix
from compresslab.techniques.gptq import DAMPING, inverse_factor, mean_hessian
from compresslab.techniques.lockstep import layer_by_layer
from compresslab.techniques.prune import select_n_of_m

METHODS = ("magnitude", "wanda", "sparsegpt")
BLOCK = 128


def scores(weight: torch.Tensor, method: str, h: torch.Tensor) -> torch.Tensor:
    """|w|, or |w_ij| ||x_j||_2, float32 [outputs, inputs].

    Args:
        weight: [outputs, inputs].
        method: "magnitude" or "wanda".
        h: mean of x x^T, [inputs, inputs]: its diagonal is ||x_j||^2 over the number of rows.
    """
    size = weight.abs()
    return size if method == "magnitude" else size * h.diagonal().sqrt().to(size.dtype)


def keep_best(
    score: torch.Tensor, sparsity: float, pattern: tuple[int, int] | None
) -> torch.Tensor:
    """Which weights of each output stay, bool [outputs, inputs].

    Args:
        score: [outputs, inputs], what is larger stays; of equal ones the first.
        sparsity: the share of each output that goes, round(sparsity * inputs) of them.
        pattern: (n, m): n of every m neighbours stay instead; m divides the inputs.
    """
    if pattern is not None:
        return select_n_of_m({"": score}, *pattern).keep[""]
    count = score.shape[1] - round(sparsity * score.shape[1])
    best = score.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros(score.shape, dtype=torch.bool).scatter_(1, best, True)


@torch.no_grad()
def prune_layer(
    weight: torch.Tensor,
    h: torch.Tensor,
    method: str = "sparsegpt",
    sparsity: float = 0.5,
    pattern: tuple[int, int] | None = None,
    damping: float = DAMPING,
) -> torch.Tensor:
    """A matrix with zeros, float32 [outputs, inputs].

    Args:
        weight: float32 [outputs, inputs].
        h: mean of x x^T of its inputs, [inputs, inputs], from `gptq.mean_hessian`.
        method: "magnitude", "wanda" or "sparsegpt".
        sparsity: the share that goes, 0 to 1 (of each output; of SparseGPT, of a block of columns).
        pattern: (n, m): n of every m neighbours stay, whatever `sparsity` says.
        damping: see `gptq.inverse_factor`.

    Raises:
        ValueError: for settings outside of these, or shapes that do not belong together.
    """
    _check(method, sparsity, pattern)
    if weight.ndim != 2 or h.shape != (weight.shape[1], weight.shape[1]):
        shapes = f"{list(h.shape)} and {list(weight.shape)}"
        raise ValueError(f"h must be [inputs, inputs] for weight [outputs, inputs], got {shapes}")
    for name, matrix_ in (("weight", weight), ("h", h)):
        if not bool(torch.isfinite(matrix_).all()):
            raise ValueError(f"{name} must be finite, got NaN or an infinity")
    if pattern is not None and weight.shape[1] % pattern[1]:
        raise ValueError(f"pattern must divide the {weight.shape[1]} inputs, got {pattern}")
    if method != "sparsegpt":
        return weight * keep_best(scores(weight, method, h), sparsity, pattern)
    factor, work = inverse_factor(h, damping).float(), weight.clone()
    step = BLOCK if pattern is None else max(1, BLOCK // pattern[1]) * pattern[1]
    for first in range(0, len(h), step):
        here = slice(first, min(first + step, len(h)))
        errors = _take_out_(work[:, here], factor[here, here], sparsity, pattern)
        work[:, here.stop :] -= errors @ factor[here, here.stop :]
    return work


def _take_out_(
    work: torch.Tensor, factor: torch.Tensor, sparsity: float, pattern: tuple[int, int] | None
) -> torch.Tensor:
    """Set weights of a few columns to 0, column by column; those behind make up for it, in place.

    Args:
        work: [outputs, columns].
        factor: their part of U, [columns, columns].
        sparsity: which share goes, over all these weights.
        pattern: (n, m), chosen when the first of m columns comes.

    Returns:
        w / U_jj of what went, [outputs, columns]: what columns further behind have to make up for.
    """
    diagonal, errors = factor.diagonal(), torch.empty_like(work)
    kept = torch.empty(work.shape, dtype=torch.bool)
    if pattern is None:
        cost = (work / diagonal).square()
        kept[:] = keep_best(cost.reshape(1, -1), sparsity, None).reshape(cost.shape)
    for j in range(work.shape[1]):
        if pattern is not None and j % pattern[1] == 0:
            group = slice(j, j + pattern[1])
            kept[:, group] = keep_best((work[:, group] / diagonal[group]).square(), 0, pattern)
        errors[:, j] = torch.where(kept[:, j], 0, work[:, j]) / diagonal[j]
        work[:, j] *= kept[:, j]
        work[:, j + 1 :] -= errors[:, j, None] * factor[j, j + 1 :]
    return errors


def prune(
    model: nn.Module,
    inputs: Sequence[torch.Tensor],
    method: str = "sparsegpt",
    sparsity: float = 0.5,
    pattern: tuple[int, int] | None = None,
) -> nn.Module:
    """A copy with zeros in every linear layer that has a weight of its own.

    Args:
        model: any module tree.
        inputs: batches for calibration, each what `model(batch)` takes.
        method: "magnitude", "wanda" or "sparsegpt".
        sparsity: see `prune_layer`.
        pattern: see `prune_layer`; layers whose inputs it does not divide stay as they are.

    Raises:
        ValueError: for settings outside of these, no batches, a layer that is never run, or a pattern that
            divides the inputs of no layer.
    """
    _check(method, sparsity, pattern)
    model = plain_copy(model).eval()
    layers = linear_layers(model)
    if pattern is not None:
        layers = {n: m for n, m in layers.items() if matrix(m).shape[1] % pattern[1] == 0}
        if not layers:
            raise ValueError(f"pattern must divide the inputs of a layer, got {pattern}")

    def visit(name: str, reaching: list[torch.Tensor]) -> None:
        weight = matrix(layers[name])
        set_matrix(
            layers[name],
            prune_layer(weight, mean_hessian(reaching), method, sparsity, pattern),
        )

    layer_by_layer(model, inputs, layers, visit)
    return model


def _check(method: str, sparsity: float, pattern: tuple[int, int] | None) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be {', '.join(METHODS)}, got {method!r}")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must lie in 0..1, got {sparsity}")
    if pattern is not None:
        good = len(pattern) == 2 and all(type(n) is int for n in pattern)
        if not good or not 0 < pattern[0] <= pattern[1]:
            raise ValueError(f"pattern must be (n, m) with 0 < n <= m, got {pattern}")
