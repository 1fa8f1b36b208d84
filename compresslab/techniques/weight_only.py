"""Weight-only quantization (仅权重量化): few bits in memory, floats in the product; for any model.

    q = clip(rint(w / s) + z, 0, 2^b - 1),     w' = (q - z) s,     s, z one for `group` inputs of an output

A model that writes one token at a time waits for its weights, not for its multiplications; activations may
stay what they are. A weight then costs

    b + (16 + b) / group   bits             with a float16 scale and a b-bit zero point a group

Rounding to nearest (RTN) needs no data and is the base that `gptq` and `smoothing` must beat. The result
is a `Codes`: the model with its weights replaced by what the codes mean, to be measured, and the codes,
to be packed (`runtime.weight_only`).

Words (embeddings) are tables of rows that are looked up, not multiplied. They are often most of a small
language model, and `with_words` rounds them too, each row in groups; a head that shares the table's weight
goes with it. Small tables (of positions, of sentence kinds) are taken as well: they cost as little.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from compresslab.network.edit import plain_copy
from compresslab.network.recurrent import unrolled
from compresslab.network.select import linear_layers, matrix, set_matrix, word_tables
from compresslab.numerics import microscaling
from compresslab.numerics.affine import QParams, QTensor
from compresslab.numerics.affine import quantize as quantize_tensor
from compresslab.numerics.grid import IntGrid
from compresslab.numerics.microscaling import BlockFormat, Blocks
from compresslab.numerics.observers import weight_range

SCALE_BITS = 16
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-24, 65504.0


@dataclass(frozen=True)
class WeightConfig:
    """How to quantize weights.

    Attributes:
        bits: 2 to 8.
        group: inputs that share a scale; None for all inputs of an output.
        range: "minmax", or "mse": the ends are drawn in to where the squared error is least.

    Raises:
        ValueError: for a value outside of these.
    """

    bits: int = 4
    group: int | None = 128
    range: str = "minmax"

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning, by name."""
        if not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be an integer from 2 to 8, got {self.bits!r}")
        if self.group is not None and (not isinstance(self.group, int) or self.group < 1):
            raise ValueError(f"group must be a positive integer or None, got {self.group!r}")
        if self.range not in ("minmax", "mse"):
            raise ValueError(f"range must be minmax or mse, got {self.range!r}")

    @property
    def grid(self) -> IntGrid:
        """Unsigned codes: a group need not be centred on 0."""
        return IntGrid(self.bits, signed=False)

    def group_of(self, inputs: int) -> int:
        """The group of a layer: its whole row where the wanted one does not divide it."""
        return self.group if self.group and inputs % self.group == 0 else inputs

    def qparams(self, weight: torch.Tensor) -> QParams:
        """Scales and zero points for a matrix [outputs, inputs].

        Raises:
            ValueError: for weights that are not finite.
        """
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("weight must be finite, got NaN or an infinity")
        group = self.group_of(weight.shape[1])
        lo, hi = weight_range(weight, self.grid, self.range, group=group, symmetric=False)
        lo, hi = lo.clamp(max=0.0), hi.clamp(min=0.0)
        # Rounded to float16 before a code is chosen: what is stored is what was counted with.
        scale = ((hi - lo) / self.grid.high).clamp(SMALLEST_SCALE, LARGEST_SCALE).half().float()
        zero = (-lo / scale).round().clamp(0, self.grid.high).to(torch.int32)
        return QParams(scale, zero, self.grid, group=group)


@dataclass(frozen=True)
class Codes:
    """A model with quantized weights, as floats, and their codes by layer."""

    model: nn.Module
    layers: Mapping[str, QTensor | Blocks]

    @property
    def bits(self) -> float:
        """Bits a quantized weight, scales and zero points included."""
        weights = sum(q.codes.numel() for q in self.layers.values())
        return sum(_bits(q) for q in self.layers.values()) / weights


def _bits(found: QTensor | Blocks) -> float:
    """Bits that a matrix takes, its scales and zero points included."""
    if isinstance(found, Blocks):
        return found.codes.numel() * found.form.bits
    grid, scales = found.qparams.grid, found.qparams.scale.numel()
    return found.codes.numel() * grid.bits + scales * (SCALE_BITS + grid.bits)


def round_to_nearest(weight: torch.Tensor, config: WeightConfig) -> QTensor:
    """Codes of a matrix float32 [outputs, inputs], each weight for itself.

    Raises:
        ValueError: for another shape or dtype, or NaN.
    """
    if weight.ndim != 2:
        raise ValueError(f"weight must be [outputs, inputs], got {list(weight.shape)}")
    return quantize_tensor(weight, config.qparams(weight))


def quantize(model: nn.Module, config: WeightConfig, recurrent: bool = True) -> Codes:
    """Round every linear layer of a model to nearest, those that recurrent layers are written out in as well.

    The model given is not changed. `recurrent` False leaves recurrent layers in floats.
    """
    model = plain_copy(unrolled(model) if recurrent else model).eval()
    return with_codes(
        model, {n: round_to_nearest(matrix(m), config) for n, m in linear_layers(model).items()}
    )


def quantize_blocks(model: nn.Module, form: BlockFormat) -> Codes:
    """Round every linear layer to 4-bit floats that share a scale a block; the model given is not changed.

    Layers whose inputs the block does not divide stay floats, and are not among the result's `layers`.

    Args:
        model: any module tree.
        form: `microscaling.MXFP4` or `NVFP4`.

    Raises:
        ValueError: for another format, or if there is no layer that the block divides.
    """
    if not isinstance(form, BlockFormat):
        raise ValueError(f"form must be MXFP4 or NVFP4, got {form!r}")
    model = plain_copy(model).eval()
    matrices = {n: matrix(m) for n, m in linear_layers(model).items()}
    fitting = {n: w for n, w in matrices.items() if w.shape[1] % form.block == 0}
    if not fitting:
        raise ValueError(
            f"model must have a linear layer whose inputs are a multiple of {form.block}, got none"
        )
    return with_codes(model, {n: microscaling.quantize(w, form) for n, w in fitting.items()})


def with_words(codes: Codes, config: WeightConfig) -> Codes:
    """A copy with the tables of words rounded to nearest as well.

    Args:
        codes: from `quantize` or `gptq.quantize`; `Codes(model, {})` for a model of which nothing else is
            quantized.
        config: bits and groups of the tables, which need not be those of the layers.

    Raises:
        ValueError: if the model has no table.
    """
    tables = word_tables(codes.model)
    if not tables:
        raise ValueError("model must have a table of words (nn.Embedding), got none")
    model = plain_copy(codes.model).eval()
    words = {n: round_to_nearest(matrix(model.get_submodule(n)), config) for n in tables}
    return Codes(model, {**codes.layers, **with_codes(model, words).layers})


def with_codes(model: nn.Module, layers: Mapping[str, QTensor | Blocks]) -> Codes:
    """Write what the codes mean into the model's layers, in place."""
    for name, codes in layers.items():
        set_matrix(model.get_submodule(name), codes.dequantize())
    return Codes(model, layers)
