"""Linear layers on int8 products in any float model: activations become codes as they come.

    y = s_w s_row q_w (q_x - z_row) + b        one scale per output, one scale and zero point per row

Nothing is calibrated and nothing is traced, so it takes what `convert` cannot: transformers, recurrent
networks, forwards that decide by values. LSTM, GRU and RNN layers are written out in linear ones first
(`network.recurrent`): int8 are their products with inputs and states, gates and states stay in floats, as is
all that lies between the layers.
"""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from compresslab.kernels import affine, int8
from compresslab.kernels.panels import pack_weight
from compresslab.network.edit import in_place_of_, replaced
from compresslab.network.recurrent import unrolled
from compresslab.network.select import as_linear, linear_layers, own_linear_layers, refuse_fast_path
from compresslab.runtime import ops
from compresslab.runtime.rebuild import Shapes, in_shape
from compresslab.runtime.steps.step import Called, Numbers, numbers_in


class DynamicInt8Linear(Called):
    """An nn.Linear on int8 products; activations stay float and are quantized row by row as they come.

    Weights: symmetric int8, one scale an output. For float networks of any kind: see `convert_dynamic`.
    """

    weight_bits, activation_bits = 8, 8

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        codes, scale = affine.quantize_absmax(
            layer.weight.detach().float().contiguous().numpy(), 8, layer.in_features
        )
        self.packed = pack_weight(codes)
        self.register_buffer("panels", torch.from_numpy(self.packed.panels))
        self.register_buffer("sums", torch.from_numpy(self.packed.sums))
        self.register_buffer("scale", torch.from_numpy(scale.reshape(-1)))
        bias = None if layer.bias is None else layer.bias.detach().float().clone()
        self.register_buffer("bias", bias)
        self._bind()
        in_place_of_(self, layer)

    def _bind(self) -> None:
        """What the kernel reads is what the buffers hold, also after loading into a copy."""
        arrays = {"panels": self.panels.numpy(), "sums": self.sums.numpy()}
        self.packed = dataclasses.replace(self.packed, **arrays)
        bias = None if self.bias is None else self.bias.numpy()
        self.epilogue = self.packed.dequantize(int8.SIGN, self.scale.numpy(), bias)

    def _load_from_state_dict(self, *arguments: object) -> None:
        super()._load_from_state_dict(*arguments)
        self._bind()

    def __setstate__(self, state: dict) -> None:
        """A copy's kernel reads the copy's buffers, and the weights lie in memory once."""
        super().__setstate__(state)
        self._bind()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [..., K] -> float32 [..., N].

        Raises:
            ValueError: for activations of another dtype.
        """
        if x.dtype != torch.float32:
            raise ValueError(
                f"x must be float32, got {x.dtype}: convert_dynamic computes with float32 activations, so "
                "run the model in float32 and without autocast"
            )
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        if ops.plain(x):
            numbers = (self.packed, self.epilogue, ops.threads())
            array = rows.detach().numpy() if rows.requires_grad else rows.numpy()
            out = torch.from_numpy(int8.dynamic_linear(array, *numbers))
            out = ops.ended(x, out, "an int8 layer")
        else:
            arguments = (self.panels, self.sums, self.scale, self.bias, self.packed.width)
            out = ops.dynamic_int8_linear(rows, *arguments)
        return out if x.ndim == 2 else out.reshape(*x.shape[:-1], -1)

    @property
    def weight(self) -> torch.Tensor:
        """All weights in floats [N, K], made anew for a model that reads them past the layer."""
        return torch.from_numpy(self.packed.unpacked().astype(np.float32)) * self.scale[:, None]

    def numbers(self) -> Numbers:
        """Weights and biases."""
        return numbers_in(self.packed.unpacked(), self.bias)

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one example."""
        return self.packed.inputs * output[0].numel()


def convert_dynamic(model: nn.Module, recurrent: bool = True) -> nn.Module:
    """A copy of any model with its linear layers on int8 products, activations quantized at run time.

    GPT-2's Conv1D counts as linear, and so do the products inside of recurrent layers; a layer that shares
    its weight with another module stays as it is.

    Args:
        model: any module tree; not changed.
        recurrent: whether recurrent layers are written out; False leaves them in floats, for a forward that
            reads them by name.

    Raises:
        ValueError: if there is no linear layer.
    """
    refuse_fast_path(model)
    model = unrolled(model) if recurrent else model
    new = {name: DynamicInt8Linear(as_linear(m)) for name, m in linear_layers(model).items()}
    return replaced(model, new).eval()


def inputs_of(model: nn.Module) -> dict[str, int]:
    """The number of inputs of every int8 layer, by its name; its panels are filled up, and do not say it."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, DynamicInt8Linear)}
    return {name: layer.packed.inputs for name, layer in layers.items()}


def inputs_as_metadata(model: nn.Module) -> dict[str, str]:
    """What every kind of file says of the int8 layers in it, among its metadata."""
    inputs = inputs_of(model)
    return {"int8_inputs": json.dumps(inputs, separators=(",", ":"))} if inputs else {}


def in_form_of(shapes: Shapes, inputs: Mapping[str, int], model: nn.Module) -> nn.Module:
    """The model with int8 layers where a file has them: by their tensors' names; itself where it has none.

    Their channels may have been cut, or one layer been factored into two, before they became int8.

    Args:
        shapes: of the tensors of a file, by name.
        inputs: of the int8 layers, by name (`inputs_of`); {} for files from before they were written.
        model: of the same architecture, in floats or with int8 layers; not changed.

    Raises:
        ValueError: for a number of inputs that is not the model's.
    """
    # A network may be one layer, whose tensors have no name before theirs.
    places = {
        f".{name}".removesuffix(".panels")[1:] for name in shapes if f".{name}".endswith(".panels")
    }
    if inputs:
        model = in_shape(model, _in_floats(shapes, inputs))
    floats = {n: m for n, m in own_linear_layers(model).items() if n in places}
    new = {name: DynamicInt8Linear(as_linear(m)) for name, m in floats.items()}
    result = replaced(model, new) if new else model
    for name, count in inputs_of(result).items():
        if inputs.get(name, count) != count:
            raise ValueError(f"{name} must have {count} inputs, found {inputs[name]}")
    return result


def _in_floats(shapes: Shapes, inputs: Mapping[str, int]) -> Shapes:
    """The shapes of the layers' weights and biases, had they stayed floats."""
    found = {}
    for place, count in inputs.items():
        prefix = f"{place}." if place else ""
        outputs = tuple(shapes.get(f"{prefix}scale", ()))
        found[f"{prefix}weight"] = (*outputs, count)
        if f"{prefix}bias" in shapes:
            found[f"{prefix}bias"] = outputs
    return found
