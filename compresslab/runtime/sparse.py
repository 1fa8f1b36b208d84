"""Pruned networks that are smaller on disk, and linear layers that skip their zeros.

A file holds each tensor with enough zeros as one bit a weight (is it there?) and the values that are:

    n / 8 + 4 * nonzeros bytes instead of 4 n        less wherever more than 1 in 32 weights is 0

A `SparseLinear` computes with one of the forms of `kernels.sparse`. Left out: sparse convolutions (a pruned
convolution is stored sparse and computed dense; structured pruning is what makes it faster).
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compresslab.arguments import as_path
from compresslab.kernels import sparse
from compresslab.network.edit import replaced
from compresslab.network.select import computes_as
from compresslab.runtime import ops
from compresslab.runtime.dynamic import inputs_as_metadata
from compresslab.runtime.rebuild import in_shape
from compresslab.runtime.steps.step import Numbers, bits_from_file, bits_to_file, numbers_in
from compresslab.runtime.storage import fill_ties, state_once
from compresslab.writing import FileError, write_whole

FORMAT, VERSION = "compresslab.sparse", "1"
FORMS = {"csr": sparse.Csr.of, "2:4": sparse.TwoOfFour.of, "blocks": sparse.Blocks.of}


class SparseLinear(nn.Module):
    """An nn.Linear that multiplies with its nonzero weights only.

    Args:
        layer: with zeros in its weight.
        form: "csr", "2:4" or "blocks" (8 x 16).

    Raises:
        ValueError: for another form, or a weight that has not its pattern.
    """

    def __init__(self, layer: nn.Linear, form: str = "csr") -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form must be {', '.join(FORMS)}, got {form!r}")
        self.form, self.in_features, self.out_features = form, layer.in_features, layer.out_features
        weight = layer.weight.detach().contiguous().numpy()
        self.packed = FORMS[form](weight)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        for name, array in self._arrays().items():
            self.register_buffer(name, torch.from_numpy(array))

    def _arrays(self) -> dict[str, np.ndarray]:
        """What the form is made of, by name."""
        fields = ((f.name, getattr(self.packed, f.name)) for f in dataclasses.fields(self.packed))
        return {name: value for name, value in fields if isinstance(value, np.ndarray)}

    def _load_from_state_dict(self, *_arguments: object) -> None:
        # Another network has its zeros elsewhere: as many numbers, or not even that.
        raise RuntimeError(
            "SparseLinear cannot be read from a state dict: load the network, then with_sparse_layers"
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [..., K] -> float32 [..., N]."""
        ops.plain(x)
        rows = x.detach().reshape(-1, x.shape[-1])
        out = sparse.matmul(self.packed, np.ascontiguousarray(rows.numpy().T), ops.threads())
        out = torch.from_numpy(out.T)
        if self.bias is not None:
            out = out + self.bias
        return ops.ended(x, out.reshape(*x.shape[:-1], self.out_features), "a sparse layer")

    def dense(self) -> nn.Linear:
        """The layer with its zeros."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.packed.dense()))
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer.train(self.training).requires_grad_(False)

    def numbers(self) -> Numbers:
        """Weights, most of which are not stored, and biases."""
        held = Numbers(
            self.in_features * self.out_features, int(np.count_nonzero(self.packed.values))
        )
        return held + numbers_in(self.bias)

    def macs(self, output: torch.Tensor) -> int:
        """Multiply-accumulates of one example: one a stored value."""
        return self.packed.values.size * output[0].numel() // self.out_features


def with_sparse_layers(model: nn.Module, form: str = "csr") -> nn.Module:
    """A copy with every nn.Linear that has the form's pattern as a SparseLinear; others stay.

    So do layers that do more than theirs: with hooks, or a forward of their own.
    """
    new: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if computes_as(module, nn.Linear):
            try:
                new[name] = SparseLinear(module, form)
            except ValueError:
                if form not in FORMS:
                    raise
    return replaced(model, new).eval()


def with_dense_layers(model: nn.Module) -> nn.Module:
    """The model, or a copy of it with every SparseLinear as the nn.Linear that it was, zeros and all."""
    new = {n: m.dense() for n, m in model.named_modules() if isinstance(m, SparseLinear)}
    return replaced(model, new) if new else model


def save(model: nn.Module, path: Path) -> int:
    """Write parameters and buffers, zeros as bits where that is smaller; returns the bytes on disk.

    Of sparse layers what they were made from is written: `with_sparse_layers` makes them again after reading.
    """
    path, tensors, shapes = Path(path), {}, {}
    for name, value in state_once(with_dense_layers(model)).items():
        value = value.contiguous()
        nonzero = int(value.count_nonzero())
        if value.dtype == torch.float32 and value.numel() // 8 + 4 * nonzero < 4 * value.numel():
            shapes[name] = list(value.shape)
            tensors[f"{name}/bits"] = bits_to_file((value != 0).numpy())
            tensors[f"{name}/values"] = value[value != 0]
        else:
            tensors[name] = value.clone()
    metadata = {"format": FORMAT, "version": VERSION, "shapes": json.dumps(shapes)}
    metadata |= inputs_as_metadata(model)
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))
    return path.stat().st_size


def load(path: Path, like: nn.Module) -> nn.Module:
    """A copy of a network with the weights of a file.

    Args:
        path: from `save`.
        like: of the same architecture; channels may have been cut since (`rebuild`).

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it is truncated, of another format, or does not fit `like`.
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            found = (metadata.get("format"), metadata.get("version", VERSION))
            if found != (FORMAT, VERSION):
                raise FileError(
                    f"expected format {FORMAT!r} version {VERSION!r}, found {found[0]!r} version {found[1]!r}"
                )
            names = set(file.keys())
            shapes = json.loads(metadata["shapes"])
            here = {n: file.get_slice(n).get_shape() for n in names if not _is_part(n)}
            model = in_shape(like, here | {n: tuple(s) for n, s in shapes.items()})
            state = {}
            stored = {n.removesuffix("/bits").removesuffix("/values") for n in names}
            wanted = stored | set(state_once(model))
            for name, expected in model.state_dict().items():
                if name in wanted:
                    state[name] = _read(file, names, name, shapes.get(name), expected.shape)
        if names:
            raise FileError(f"tensors that the model has not: {', '.join(sorted(names))}")
        model.load_state_dict(fill_ties(state, model))
    except (
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise FileError(f"{path} does not hold this model: {error}") from error
    return model


def _is_part(name: str) -> bool:
    return name.endswith(("/bits", "/values"))


def _read(
    file: safe_open, names: set[str], name: str, shape: list[int] | None, expected: torch.Size
) -> torch.Tensor:
    """One tensor, taken off the list of names."""
    if shape is None:
        names.discard(name)
        return file.get_tensor(name)
    if shape != list(expected):
        raise FileError(f"{name} must have shape {list(expected)}, found {shape}")
    names -= {f"{name}/bits", f"{name}/values"}
    bits = bits_from_file(file.get_tensor(f"{name}/bits"), tuple(shape))
    values = file.get_tensor(f"{name}/values")
    if values.dtype != torch.float32 or values.shape != (int(bits.sum()),):
        raise FileError(
            f"{name} must have {int(bits.sum())} float32 values, found {list(values.shape)}"
        )
    full = torch.zeros(shape)
    full[torch.from_numpy(bits)] = values
    return full
