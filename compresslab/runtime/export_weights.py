"""A network with packed weights as an ONNX file: MatMulNBits, weights of few bits beside float activations.

    here                                   there (com.microsoft, MatMulNBits)
    codes [N, K] on an unsigned grid       B uint8 [N, K / block, block * bits / 8], low bits first
    scales [N, K / group]                  scales float32 [N * K / block]
    zero points [N, K / group]             zero_points uint8, packed as the codes are
    group                                  block_size: 16, 32, 64, 128 or 256

ONNX Runtime multiplies by the codes as they lie in the file. Codes of 2, 3 and 4 bits are stored with 4,
others with 8: the weights are the same numbers. Writing takes `onnx` and `onnxscript` (the extra `peers`).

Left out: packed tables of words (`Weights(4, words=None)` leaves them in floats), groups of other lengths.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compresslab.kernels import bitpack
from compresslab.network.edit import replaced
from compresslab.runtime.export import write_onnx
from compresslab.runtime.integers import ConversionError
from compresslab.runtime.microscaled import MicroscaledLinear
from compresslab.runtime.packed import Packed, WeightOnlyLinear

BLOCKS = (16, 32, 64, 128, 256)


def export_weights(model: nn.Module, example: torch.Tensor, path: Path) -> int:
    """Write a network with packed linear layers, with a free batch size; returns the bytes on disk.

    Args:
        model: from `compress(network, [Weights(4, words=None)], ...)` or `convert_weights`; not changed. Its
            answer must be a tensor, or several.
        example: two examples or more, as the network takes them: floats or tokens.
        path: is written whole or not at all.

    Raises:
        ConversionError: naming a layer that has no such form, or if nothing is packed.
    """
    packed = {n: m for n, m in model.named_modules() if isinstance(m, Packed)}
    if not packed:
        raise ConversionError(
            "model has no packed layer: compress(network, [Weights(4)], inputs) packs them"
        )
    layers = {name: _checked(name, layer) for name, layer in packed.items()}
    return write_onnx(replaced(model, layers), example, Path(path), {})


def _checked(name: str, layer: Packed) -> nn.Module:
    if isinstance(layer, MicroscaledLinear):
        raise ConversionError(
            f"{name!r} has 4-bit floats, which MatMulNBits does not take: quantize it to integers"
        )
    if not isinstance(layer, WeightOnlyLinear):
        raise ConversionError(
            f"{name!r} is a packed table of words: leave it in floats by Weights(4, words=None)"
        )
    if layer.group not in BLOCKS:
        raise ConversionError(
            f"{name!r} has groups of {layer.group}: MatMulNBits takes {', '.join(map(str, BLOCKS))}"
        )
    return _FewBits(layer)


class _FewBits(nn.Module):
    """A packed layer with its numbers as MatMulNBits takes them: to be exported, not to be run."""

    def __init__(self, layer: WeightOnlyLinear) -> None:
        super().__init__()
        codes, scales, zeros = layer.packed.unpacked()
        self.inputs, self.outputs, self.block = layer.in_features, layer.out_features, layer.group
        self.bits = 4 if layer.weight_bits <= 4 else 8
        groups = layer.in_features // layer.group
        words = _packed(codes, self.bits).reshape(layer.out_features, groups, -1)
        self.register_buffer("words", torch.from_numpy(words))
        self.register_buffer(
            "scales", torch.from_numpy(scales.astype(np.float32).reshape(-1).copy())
        )
        packed = _packed(zeros.astype(np.uint8).reshape(layer.out_features, groups), self.bits)
        self.register_buffer("zeros", torch.from_numpy(packed.reshape(-1)))
        self.register_buffer("bias", layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        numbers = (x, self.words, self.scales, self.zeros)
        out = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            numbers,
            {"K": self.inputs, "N": self.outputs, "bits": self.bits, "block_size": self.block},
            dtype=torch.float32,
            shape=(*x.shape[:-1], self.outputs),
            version=1,
        )
        return out if self.bias is None else out + self.bias


def _packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows of codes as bytes; with 4 bits a row of odd length ends in half a byte."""
    codes = np.ascontiguousarray(codes, np.uint8)
    if bits == 8:
        return codes
    wide = np.zeros((len(codes), 2 * math.ceil(codes.shape[1] / 2)), np.uint8)
    wide[:, : codes.shape[1]] = codes
    return bitpack.pack(wide.reshape(-1), 4).reshape(len(codes), -1)
