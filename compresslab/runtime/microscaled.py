"""Linear layers whose weights are 4-bit floats in blocks that share a scale (`numerics.microscaling`).

    NAME/codes     uint8      two codes in a byte
    NAME/scale     uint8      of MXFP4 the exponent + 127, of NVFP4 the bits of an 8-bit float
    NAME/tensor    float32    the scale of the whole tensor, []; of NVFP4 alone

A file of a model holds them beside layers of integer codes (`weight_only`). Left out: gradients to the
inputs, and tables of words.
"""

import numpy as np
import torch
from torch import nn

from compresslab.kernels import bitpack, microscaling
from compresslab.numerics.microscaling import EIGHT, FORMATS, POWERS, Blocks
from compresslab.runtime import ops
from compresslab.runtime.packed import Packed
from compresslab.runtime.steps.step import Numbers, numbers_in

BIAS = 127
"""Of the exponents in E8M0."""


class MicroscaledLinear(Packed):
    """A linear layer on 4-bit floats; activations are float32.

    Args:
        blocks: a matrix [outputs, inputs].
        bias: float32 [outputs] or None.
    """

    def __init__(self, blocks: Blocks, bias: torch.Tensor | None = None) -> None:
        """Pack the codes for the kernel, keep the scales as a file has them and a copy of the bias."""
        nn.Module.__init__(self)
        self.rows, self.columns = blocks.codes.shape
        self.out_features, self.in_features = self.rows, self.columns
        self.form, self.weight_bits, self.group = blocks.form, 4, blocks.form.block
        packed = microscaling.pack_weight(
            blocks.codes.numpy(), blocks.block_scales.numpy(), self.group
        )
        self.register_buffer("words", torch.from_numpy(packed.words.view(np.int32)))
        self.register_buffer("scales", torch.from_numpy(packed.scales))
        # In files it stands as NAME/tensor, and of MXFP4 nowhere.
        self.register_buffer("tensor", None if blocks.form.powers else blocks.tensor.clone())
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())

    @property
    def packed(self) -> microscaling.PackedBlocks:
        """The buffers as the kernel takes them; a view, so that it is what was loaded last."""
        arrays = (self.words.numpy().view(np.uint32), self.scales.numpy())
        return microscaling.PackedBlocks(*arrays, self.rows, self.columns, self.group)

    @property
    def weight(self) -> torch.Tensor:
        """All weights in floats [outputs, inputs], made anew."""
        return torch.from_numpy(microscaling.restore(self.packed)).T

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [..., inputs] -> float32 [..., outputs].

        Raises:
            ValueError: for another dtype or another number of inputs.
        """
        self.check_input(x)
        ops.plain(x)
        rows = np.ascontiguousarray(x.detach().reshape(-1, self.in_features).numpy())
        bias = None if self.bias is None else self.bias.numpy()
        out = torch.from_numpy(microscaling.matmul(rows, self.packed, bias, ops.threads()))
        return ops.ended(
            x, out.reshape(*x.shape[:-1], self.out_features), "a layer of 4-bit floats"
        )

    def numbers(self, again: bool = False) -> Numbers:
        """Weights, of which the codes 0 and 8 are a 0, and biases."""
        codes, _ = self.packed.unpacked()
        held = Numbers() if again else Numbers(codes.size, int(np.count_nonzero(codes & 7)))
        return held + numbers_in(self.bias)

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one example."""
        return self.in_features * output[0].numel()

    @property
    def about(self) -> dict[str, object]:
        """What a file says about it."""
        return super().about | {"form": self.form.name}

    def extra_repr(self) -> str:
        """Sizes and the format."""
        return f"{self.columns}, {self.rows}, {self.form.name}"

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """Codes in their bits, scales as bytes."""
        codes, scales = self.packed.unpacked()
        scales = torch.from_numpy(scales)
        parts = {"codes": torch.from_numpy(bitpack.pack(codes.reshape(-1), 4))}
        if self.form.powers:
            return parts | {"scale": (torch.frexp(scales)[1] - 1 + BIAS).to(torch.uint8)}
        # What was a number of E4M3 is one again, once the rounding of the product is undone.
        eights = (scales / self.tensor).to(EIGHT).view(torch.uint8)
        return parts | {"scale": eights, "tensor": self.tensor}


def blocks_from_file(name: str, about: dict, tensors: dict[str, torch.Tensor]) -> Blocks:
    """The blocks of a layer from its tensors, which are taken out of `tensors`.

    Raises:
        ValueError: for other sizes or dtypes, or scales that no weight has.
        KeyError: for a tensor that is missing.
    """
    form, (outputs, inputs) = FORMATS[about["form"]], about["shape"]
    codes, scale = (tensors.pop(f"{name}/{part}") for part in ("codes", "scale"))
    shape = (outputs, inputs // form.block)
    if scale.dtype != torch.uint8 or tuple(scale.shape) != shape or codes.dtype != torch.uint8:
        raise ValueError(f"{name}: codes and scales {list(shape)} must be uint8")
    tensor = torch.ones(())
    if form.powers:
        exponent = scale.int() - BIAS
        if not bool(((exponent >= POWERS[0]) & (exponent <= POWERS[1])).all()):
            raise ValueError(f"{name}/scale must lie in {POWERS[0] + BIAS}..{POWERS[1] + BIAS}")
        scales = torch.ldexp(torch.ones(shape), exponent)
    else:
        tensor = tensors.pop(f"{name}/tensor")
        good = tensor.dtype == torch.float32 and tensor.ndim == 0 and bool(tensor.isfinite())
        scales = scale.view(EIGHT).float()
        if not good or not float(tensor) > 0 or not bool((scales >= 0).all()):
            raise ValueError(
                f"{name}/tensor must be a finite float32 above 0, and scales 0 or larger"
            )
    codes = torch.from_numpy(bitpack.unpack(codes.numpy(), 4, outputs * inputs))
    return Blocks(codes.view(outputs, inputs), scales, tensor, form)
