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
give (`lockstep`: each batch passes the model once).
"""

from collections.abc import Sequence

import torch
from torch import nn

from compresslab.network.edit import plain_copy
from compresslab.network.select import linear_layers, matrix, set_matrix
from compresslab.numerics.affine import QParams, QTensor
from compresslab.techniques.lockstep import layer_by_layer
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


def mean_hessian(batches: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of x x^T over all rows of all batches, float64 [inputs, inputs].

    Args:
        batches: inputs of a layer, each [..., inputs].
    """
    total, rows = torch.zeros(1, dtype=torch.float64), 0
    for x in batches:
        x = x.reshape(-1, x.shape[-1])
        total, rows = total + hessian(x) * len(x), rows + len(x)
    return total / rows


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

    Weights that are 0 stay 0, and those behind make up for that as well (Frantar and Alistarh 2023,
    SparseGPT, section 3.5): what was pruned before stays pruned.

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
    kept = work != 0
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
            codes[:, here] = quantize_columns(
                work[:, here], factor[here, here], s, z, grid.high, kept[:, here]
            )
            errors = (work[:, here] - (codes[:, here] - z) * s) / factor.diagonal()[here]
            work[:, here.stop :] -= errors @ factor[here, here.stop :]
    back = torch.empty_like(codes)
    back[:, columns] = codes
    params = QParams(scale, zero.to(torch.int32), grid, group=group)
    return QTensor(back.to(grid.dtype), params)


def quantize_columns(
    work: torch.Tensor,
    factor: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    high: int,
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    """Codes of a few columns, one after another; those behind make up for each error.

    Args:
        work: [rows, columns]; changed: each column is left as it was when its turn came.
        factor: [columns, columns], upper triangular.
        scale: [rows, columns], or [rows, 1] for all.
        zero: the same shape.
        high: the largest code; the smallest is 0.
        kept: bool, [rows, columns]: False where a weight is to be 0; None for nowhere.

    Returns:
        Codes in work's dtype, [rows, columns].
    """
    # A column at a time: transposed, each of them is contiguous.
    columns = work.T.contiguous()
    scale, zero = scale.T.expand_as(columns), zero.T.expand_as(columns)
    codes = torch.empty_like(columns)
    gone = None if kept is None or bool(kept.all()) else ~kept.T
    for j, (w, s, z) in enumerate(zip(columns, scale, zero, strict=True)):
        torch.div(w, s, out=codes[j]).round_().add_(z).clamp_(0, high)
        if gone is not None:
            torch.where(gone[j], z, codes[j], out=codes[j])
        error = (w - (codes[j] - z) * s) / factor[j, j]
        columns[j + 1 :] -= factor[j, j + 1 :, None] * error
    work.copy_(columns.T)
    return codes.T.contiguous()


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
    model = plain_copy(model).eval()
    layers, found = linear_layers(model), {}

    def visit(name: str, reaching: list[torch.Tensor]) -> None:
        weight = matrix(layers[name])
        found[name] = quantize_layer(weight, mean_hessian(reaching), config, damping, order)
        set_matrix(layers[name], found[name].dequantize())

    layer_by_layer(model, inputs, layers, visit)
    return Codes(model, found)
