"""GPTQ: quantize one column after another, and let the columns still to come make up for each error.

A layer's outputs change by X dw, so what an error dw costs is dw H dw^T with H = X^T X / n, the same for
every output. Fix one weight at its code, dw_j = q_j - w_j, and ask for the other dw that cost least. With
a Lagrange multiplier for the fixed one (Hassibi and Stork 1993, Optimal Brain Surgeon),

    H dw^T = lambda e_j        =>        dw = -(w_j - q_j) / [H^-1]_jj * [H^-1]_j,:

Frantar et al. 2022 (https://arxiv.org/abs/2210.17323, algorithm 1) make this fast: all rows take their
columns in one order, so all share one H^-1; and what remains of H^-1 once j is fixed is the next row of
its Cholesky factor, computed once:

    H^-1 = U^T U,   U upper triangular:     err = (w_j - q_j) / U_jj,     w_k -= err U_jk   for k > j

    damping       a share of H's mean diagonal is added to it, for directions that the samples do not show
    blocks        updates reach the columns far behind once a block, in one product
    order         columns with large H_jj first, while there are still many to make up for them
    groups        scales are chosen when their first column is reached, from the weights as updated so far;
                  with an order of columns, before it all, because a group's columns come apart

Layers are quantized in the order in which the model runs them, each on what the quantized ones before it
give.
"""

import contextlib
import copy
from collections.abc import Sequence

import torch
from torch import nn

from compresslab.numerics.affine import QParams, QTensor
from compresslab.techniques.layers import first_of, linear_layers, matrix, set_matrix
from compresslab.techniques.weight_only import Codes, WeightConfig

BLOCK = 128
DAMPING = 0.01


def hessian(x: torch.Tensor) -> torch.Tensor:
    """X^T X / n in float64.

    Args:
        x: inputs of a layer, [n, inputs].
    """
    x = x.double()
    return x.T @ x / max(len(x), 1)


def inverse_factor(h: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """The upper triangular U with U^T U = (H + damping * mean(diagonal) * I)^-1, float64.

    Raises:
        ValueError: if H is not square, or damping does not make it positive definite.
    """
    if h.ndim != 2 or h.shape[0] != h.shape[1]:
        raise ValueError(f"h must be [inputs, inputs], got {list(h.shape)}")
    h = h.double().clone()
    diagonal = h.diagonal()
    # An input that is always 0 leaves its weight free: any code will do, and it must neither make H singular
    # nor count for the damping of the others.
    live = diagonal != 0
    mean = diagonal[live].mean() if bool(live.any()) else torch.ones((), dtype=h.dtype)
    diagonal[~live] = mean
    diagonal += damping * mean
    lower, failed = torch.linalg.cholesky_ex(h)
    if failed:
        raise ValueError(
            f"damping must be larger for this h to be positive definite, got {damping}"
        )
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)


@torch.no_grad()
def quantize_layer(
    weight: torch.Tensor,
    h: torch.Tensor,
    config: WeightConfig,
    damping: float = DAMPING,
    order: bool = False,
    block: int = BLOCK,
) -> QTensor:
    """Codes of a matrix whose inputs have the second moments `h`.

    Args:
        weight: float32 [outputs, inputs].
        h: [inputs, inputs], from `hessian`.
        config: bits, groups and ranges.
        damping: see `inverse_factor`.
        order: whether columns with larger diagonals come first.
        block: columns between two updates of those far behind.

    Raises:
        ValueError: for shapes that do not belong together, or an h that is not positive definite.
    """
    if weight.ndim != 2 or h.shape != (weight.shape[1], weight.shape[1]):
        shapes = f"{list(h.shape)} and {list(weight.shape)}"
        raise ValueError(f"h must be [inputs, inputs] for weight [outputs, inputs], got {shapes}")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight must be finite, got NaN or infinity")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    columns = h.diagonal().argsort(descending=True, stable=True) if order else torch.arange(len(h))
    factor = inverse_factor(h[columns][:, columns], damping).float()
    work = weight[:, columns].clone()
    grid, group = config.grid, config.group_of(len(h))
    params = config.qparams(weight)
    scale, zero = params.scale.clone(), params.zero_point.float()
    codes = torch.empty_like(work)
    length = block if order else min(block, group)
    for start in range(0, len(h), len(h) if order else group):
        end = len(h) if order else start + group
        if not order:
            now = config.qparams(work[:, start:end].contiguous())
            scale[:, start // group] = now.scale[:, 0]
            zero[:, start // group] = now.zero_point[:, 0].float()
        for first in range(start, end, length):
            here = slice(first, min(first + length, end))
            s, z = (numbers[:, columns[here] // group] for numbers in (scale, zero))
            codes[:, here] = quantize_columns(work[:, here], factor[here, here], s, z, grid.high)
            errors = (work[:, here] - (codes[:, here] - z) * s) / factor.diagonal()[here]
            work[:, here.stop :] -= errors @ factor[here, here.stop :]
    back = torch.empty_like(codes)
    back[:, columns] = codes
    params = QParams(scale, zero.to(torch.int32), grid, group=group)
    return QTensor(back.to(grid.dtype), params)


def quantize_columns(
    work: torch.Tensor, factor: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, high: int
) -> torch.Tensor:
    """Codes of a few columns, one after another; those behind make up for each error.

    Args:
        work: [rows, columns]; changed: each column is left as it was when its turn came.
        factor: [columns, columns], upper triangular.
        scale: [rows, columns], or [rows, 1] for all.
        zero: the same shape.
        high: the largest code; the smallest is 0.

    Returns:
        Codes in work's dtype, [rows, columns].
    """
    scale, zero = scale.expand_as(work), zero.expand_as(work)
    codes = torch.empty_like(work)
    for j in range(work.shape[1]):
        codes[:, j] = ((work[:, j] / scale[:, j]).round() + zero[:, j]).clamp(0, high)
        error = (work[:, j] - (codes[:, j] - zero[:, j]) * scale[:, j]) / factor[j, j]
        work[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]
    return codes


# ---- a whole model -------------------------------------------------------------------------------
def quantize(
    model: nn.Module,
    inputs: Sequence[torch.Tensor],
    config: WeightConfig,
    damping: float = DAMPING,
    order: bool = False,
) -> Codes:
    """Quantize every linear layer of a model by GPTQ; the model given is not changed.

    Args:
        model: any module tree.
        inputs: batches for calibration, each what `model(batch)` takes; some ten thousand tokens.
        config: bits, groups and ranges.
        damping: see `inverse_factor`.
        order: see `quantize_layer`.

    Raises:
        ValueError: if there are no batches, or a layer is never run.
    """
    model = copy.deepcopy(model).eval()
    found = {}
    for name in run_order(model, inputs):
        layer = model.get_submodule(name)
        h = layer_hessian(model, name, inputs)
        found[name] = quantize_layer(matrix(layer), h, config, damping, order)
        set_matrix(layer, found[name].dequantize())
    return Codes(model, found)


def run_order(model: nn.Module, inputs: Sequence[torch.Tensor]) -> list[str]:
    """The names of the linear layers in the order in which the model runs them.

    Raises:
        ValueError: if there are no inputs, or a layer is never run.
    """
    if len(inputs) == 0:
        raise ValueError("inputs must hold at least one batch, got 0")
    layers, order = linear_layers(model), {}
    hooks = [
        layer.register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            model(inputs[0][:1])
    finally:
        for hook in hooks:
            hook.remove()
    missing = [name for name in layers if name not in order]
    if missing:
        raise ValueError(f"inputs must reach every linear layer, got none at {', '.join(missing)}")
    return list(order)


class _Reached(Exception):  # noqa: N818
    """The layer has its input; what comes after is of no interest."""


@torch.no_grad()
def layer_hessian(model: nn.Module, name: str, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of x x^T over everything that reaches a layer, float64 [inputs, inputs].

    A layer that is run several times within a batch is stopped at the first.
    """
    total, rows = torch.zeros(1, dtype=torch.float64), 0

    def keep(_module: nn.Module, arguments: tuple, named: dict) -> None:
        nonlocal total, rows
        x = first_of(arguments, named)
        x = x.reshape(-1, x.shape[-1])
        total, rows = total + hessian(x) * len(x), rows + len(x)
        raise _Reached

    hook = model.get_submodule(name).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for batch in inputs:
            with contextlib.suppress(_Reached):
                model(batch)
    finally:
        hook.remove()
    return total / rows
