"""Layers whose weights are low-bit codes in memory: linear ones, and tables of words.

Weights are packed as the kernels take them (`kernels.lowbit`). A layer has no trainable weight but lets
gradients through to its inputs: a base for LoRA, which makes QLoRA (Dettmers et al. 2023,
https://arxiv.org/abs/2305.14314, with their number format replaced by groups of integers). Many rows at once
are computed with the weights restored.
"""

import numpy as np
import torch
from torch import nn

from compresslab.kernels import bitpack, lowbit
from compresslab.numerics.affine import QTensor
from compresslab.runtime import ops
from compresslab.runtime.steps.step import Numbers, numbers_in


class Packed(nn.Module):
    """Codes [outputs, inputs] in memory as the kernels take them.

    Args:
        codes: on an unsigned grid, one scale a group.
    """

    activation_bits = 32

    def __init__(self, codes: QTensor) -> None:
        """Pack the codes for the kernel."""
        super().__init__()
        p = codes.qparams
        self.rows, self.columns = codes.codes.shape
        self.weight_bits, self.group = p.grid.bits, p.group
        arrays = (codes.codes.numpy(), p.scale.numpy(), p.zero_point.float().numpy())
        packed = lowbit.pack_weight(*arrays, self.weight_bits, self.group)
        self.register_buffer("words", torch.from_numpy(packed.words.view(np.int32)))
        self.register_buffer("scales", torch.from_numpy(packed.scales.view(np.int32)))

    @property
    def packed(self) -> lowbit.PackedCodes:
        """The buffers as the kernel takes them; a view, so that it is what was loaded last."""
        arrays = (self.words.numpy().view(np.uint32), self.scales.numpy().view(np.uint32))
        return lowbit.PackedCodes(*arrays, *self.sizes)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Outputs, inputs, bits and group, as the kernels take them."""
        return self.rows, self.columns, self.weight_bits, self.group

    def read_from_(self, table: "Packed") -> "Packed":
        """Use the codes of a table instead of its own, as a tied layer does; returns itself."""
        self.words, self.scales = table.words, table.scales
        return self

    @property
    def memory(self) -> int:
        """The same for layers that read the same codes."""
        return id(self.words)

    @property
    def weight(self) -> torch.Tensor:
        """All weights in floats [rows, columns], made anew for a model that reads them past the layer."""
        return torch.from_numpy(lowbit.restore(self.packed)).T

    def numbers(self, again: bool = False) -> Numbers:
        """Weights; a code that is its group's zero point is a 0.

        Args:
            again: whether another layer with this memory was counted before.
        """
        if again:
            return Numbers()
        codes, _, zero = self.packed.unpacked()
        groups = codes.reshape(*zero.shape, -1)
        return Numbers(codes.size, int((groups != zero[..., None]).sum()))

    @property
    def about(self) -> dict[str, object]:
        """What a file says about it."""
        return {
            "bits": self.weight_bits,
            "group": self.group,
            "shape": [self.rows, self.columns],
        }

    def check_input(self, x: torch.Tensor) -> None:
        """Refuse what a linear layer on these codes does not take.

        Raises:
            ValueError: for another dtype or another number of inputs.
        """
        if x.dtype != torch.float32 or x.shape[-1] != self.columns:
            raise ValueError(
                f"x must be float32 [..., {self.columns}], got {x.dtype} {list(x.shape)}"
            )

    def extra_repr(self) -> str:
        """Sizes, bits and group."""
        return f"{self.columns}, {self.rows}, {self.weight_bits} bits, groups of {self.group}"

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """Codes and zero points packed to their bits, scales as float16."""
        codes, scale, zero = self.packed.unpacked()
        if not bool((torch.from_numpy(scale).half().float() == torch.from_numpy(scale)).all()):
            raise ValueError(
                "scales must be float16 numbers to be saved, as `WeightConfig` makes them"
            )
        return {
            "codes": torch.from_numpy(bitpack.pack(codes.reshape(-1), self.weight_bits)),
            "scale": torch.from_numpy(scale).half(),
            "zero": torch.from_numpy(
                bitpack.pack(zero.astype(np.uint8).reshape(-1), self.weight_bits)
            ),
        }


class WeightOnlyLinear(Packed):
    """A linear layer whose weights are low-bit codes in memory; activations are float32.

    Args:
        codes: of a matrix [outputs, inputs].
        bias: float32 [outputs] or None.
    """

    def __init__(self, codes: QTensor, bias: torch.Tensor | None = None) -> None:
        """Pack the codes, keep a copy of the bias."""
        super().__init__(codes)
        self.out_features, self.in_features = self.rows, self.columns
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [..., inputs] -> float32 [..., outputs].

        Raises:
            ValueError: for another dtype or another number of inputs.
        """
        self.check_input(x)
        rows = x.reshape(-1, self.in_features)
        if ops.plain(x) and not (x.requires_grad and torch.is_grad_enabled()):
            out = ops.lowbit_product(rows.detach(), self.packed, self.bias)
        else:
            numbers = (self.words, self.scales, self.bias)
            out = ops.lowbit_linear(rows, *numbers, *self.sizes)
        return out.reshape(*x.shape[:-1], self.out_features)

    def numbers(self, again: bool = False) -> Numbers:
        """Weights, as in `Packed`, and biases."""
        return super().numbers(again) + numbers_in(self.bias)

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one example."""
        return self.in_features * output[0].numel()


class WeightOnlyEmbedding(Packed):
    """A table of words whose rows are low-bit codes in memory, and float32 when they are read.

    Args:
        codes: of a table [words, width].
        padding_idx: as nn.Embedding has it, for a model that reads it by name.
    """

    max_norm, norm_type, scale_grad_by_freq, sparse = None, 2.0, False, False

    def __init__(self, codes: QTensor, padding_idx: int | None = None) -> None:
        """Pack the rows."""
        super().__init__(codes)
        self.num_embeddings, self.embedding_dim = self.rows, self.columns
        self.padding_idx = padding_idx

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Integers [...], each 0 to words - 1 -> float32 [..., width].

        Raises:
            ValueError: for numbers that are not integers.
            IndexError: for a word that is not there.
        """
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise ValueError(f"tokens must be integers, got {tokens.dtype}")
        rows = ops.table_rows(tokens.reshape(-1).long(), self.words, self.scales, *self.sizes)
        return rows.reshape(*tokens.shape, self.columns)

    def macs(self, _output: torch.Tensor) -> int:
        """None: rows are read, not multiplied."""
        return 0
