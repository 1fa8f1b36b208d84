"""Linear layers and tables of words on packed low-bit weights inside any model, and the file of such a model.

    file    [8 bytes: length of the header][header: JSON][tensors]             safetensors

    NAME/codes     uint8    codes at b bits each (`kernels.bitpack`)
    NAME/scale     float16  [outputs, inputs / group]
    NAME/zero      uint8    zero points at b bits each
    others         everything else of the model's state, as it was; of tied tensors the first

The header's metadata names each packed layer's bits, group and shape; layers that share a table are told by
the model (a tied head multiplies by the codes that the table is read from). A file is read into a model
of the same architecture: built from its configuration, it need not have the right weights. Every size is
checked against the model and the bytes that are there before anything is built; the model given is not
changed.

A layer has no trainable weight but lets gradients through to its inputs: a base for LoRA, which makes
QLoRA (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, with their number format replaced by groups
of integers). Many rows at once are computed with the weights restored, see `kernels.lowbit`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compresslab.arguments import as_path, kind
from compresslab.kernels import bitpack, lowbit
from compresslab.network.edit import replaced
from compresslab.network.select import own_linear_layers, sizes, word_tables
from compresslab.numerics.affine import QParams, QTensor
from compresslab.runtime import ops
from compresslab.runtime.dynamic import inputs_as_metadata
from compresslab.runtime.rebuild import Shapes, in_shape
from compresslab.runtime.steps.step import Numbers, numbers_in
from compresslab.techniques.weight_only import Codes, WeightConfig
from compresslab.writing import FileError, write_whole

FORMAT, VERSION = "compresslab.weights", "1"
PARTS = ("codes", "scale", "zero")


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
        if x.dtype != torch.float32 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x must be float32 [..., {self.in_features}], got {x.dtype} {list(x.shape)}"
            )
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


def convert_weights(codes: Codes) -> nn.Module:
    """A copy of a quantized model that computes with its packed codes.

    Args:
        codes: from `weight_only.quantize` or `gptq.quantize`, with words or without.

    Raises:
        ValueError: naming a layer whose parent reads its weight instead of calling it; for something else
            than codes.
    """
    if not isinstance(codes, Codes):
        raise ValueError(
            f"codes must come from weight_only.quantize or gptq.quantize, got {kind(codes)}"
        )
    for name in codes.layers:
        parent = codes.model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.TransformerEncoderLayer):
            raise ValueError(
                f"{name} is read by nn.TransformerEncoderLayer, not called: leave it out"
            )
    return replaced(codes.model, _packed_in_place_of(codes.model, codes.layers))


def _packed_in_place_of(model: nn.Module, codes: Mapping[str, QTensor]) -> dict[str, nn.Module]:
    """A packed layer for each that has codes, and for those that share a table's."""
    ties, new = _ties(model), {}
    for name, one in codes.items():
        new[name] = _packed(model.get_submodule(name), one)
        for tied in ties.get(name, ()):
            new[tied] = _packed(model.get_submodule(tied), one).read_from_(new[name])
    return new


def _ties(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """By name of the first that reads some codes or a table: the other layers that do."""
    groups: dict[int, list[str]] = {}
    layers = packed_layers(model)
    # A table before its head, wherever the two are defined: so it is in files.
    for name in sorted(layers, key=lambda n: not isinstance(layers[n], WeightOnlyEmbedding)):
        groups.setdefault(layers[name].memory, []).append(name)
    return word_tables(model) | {first: tuple(others) for first, *others in groups.values()}


def _packed(layer: nn.Module, codes: QTensor) -> Packed:
    if isinstance(layer, nn.Embedding | WeightOnlyEmbedding):
        return WeightOnlyEmbedding(codes, layer.padding_idx)
    return WeightOnlyLinear(codes, layer.bias)


def packed_layers(model: nn.Module) -> dict[str, Packed]:
    """The packed layers of a model by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, Packed)}


# ---- files ---------------------------------------------------------------------------------------
def save(model: nn.Module, path: Path) -> int:
    """Write a model with packed layers; returns the bytes on disk.

    Raises:
        ValueError: if it has no packed layer.
    """
    layers = packed_layers(model)
    if not layers:
        raise ValueError("model must have packed layers, got none: see convert_weights")
    tensors = dict(_other_state(model))
    about = {}
    owners = _ties(model)
    for (
        name,
        layer,
    ) in layers.items():  # in the model's order, so that a file is the same every time
        if name not in owners:
            continue
        about[name] = {
            "bits": layer.weight_bits,
            "group": layer.group,
            "shape": [layer.rows, layer.columns],
        }
        tensors |= {f"{name}/{part}": t for part, t in layer.file_tensors().items()}
    metadata = {"format": FORMAT, "version": VERSION, "layers": json.dumps(about)}
    metadata |= inputs_as_metadata(model)
    tensors = {name: t.contiguous().clone() for name, t in tensors.items()}
    write_whole(Path(path), lambda temporary: save_file(tensors, temporary, metadata))
    return Path(path).stat().st_size


def load(path: Path, like: nn.Module) -> nn.Module:
    """A copy of a network with the weights of a file, packed layers included.

    Args:
        path: from `save`.
        like: of the same architecture, with or without weights that mean anything; layers may be packed
            already, or have been cut and factored since (`rebuild`).

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if the file is broken, of another format, or of another architecture.
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            model = in_shape(like, _shapes(file.metadata() or {}, tensors))
            about = _about(file.metadata() or {}, model)
        codes = {name: _codes(name, one, tensors) for name, one in about.items()}
        result = replaced(model, _packed_in_place_of(model, codes))
        _load_others(result, tensors)
    except (
        *(SafetensorError, ValueError, KeyError, TypeError, AttributeError),
        *(RecursionError, OverflowError),
    ) as error:
        raise FileError(f"{path} is no whole file of this model: {error}") from error
    return result


def _other_state(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """Parameters and buffers outside of packed layers' codes, each tied tensor once."""
    found = {}
    seen = {id(t) for layer in packed_layers(model).values() for t in (layer.words, layer.scales)}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            found[name] = tensor.detach()
            seen.add(id(tensor))
    return found


def _shapes(metadata: dict[str, str], tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """What `rebuild` asks of a file: the shape of every tensor and of every packed weight."""
    found = {name: tuple(t.shape) for name, t in tensors.items() if "/" not in name}
    for name, one in json.loads(metadata.get("layers", "{}")).items():
        shape = tuple(one["shape"])
        if len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"{name} must have two positive sizes, found {one['shape']!r}")
        found[f"{name}.weight" if name else "weight"] = shape
    return found


def _about(metadata: dict[str, str], model: nn.Module) -> dict[str, dict]:
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        found = f"{metadata.get('format')!r} {metadata.get('version')!r}"
        raise ValueError(f"expected format {FORMAT!r} version {VERSION!r}, found {found}")
    about = json.loads(metadata["layers"])
    tables = {name: model.get_submodule(name) for name in word_tables(model)}
    known = tables | own_linear_layers(model) | packed_layers(model)
    if not isinstance(about, dict) or not about or set(about) - set(known):
        raise ValueError("its packed layers are not layers of this model")
    for name, one in about.items():
        inputs, outputs = sizes(known[name])
        bits, group = one["bits"], one["group"]
        if one["shape"] != [outputs, inputs]:
            raise ValueError(f"{name} must have shape {[outputs, inputs]}, found {one['shape']}")
        if type(bits) is not int or not 2 <= bits <= 8:
            raise ValueError(f"{name}: bits must be 2 to 8, found {bits!r}")
        if type(group) is not int or group < 1 or inputs % group:
            raise ValueError(f"{name}: group must divide {inputs}, found {group!r}")
    return about


def _codes(name: str, about: dict, tensors: dict[str, torch.Tensor]) -> QTensor:
    """The codes of a packed layer from its tensors, which are taken out of `tensors`."""
    codes, scale, zero = (tensors.pop(f"{name}/{part}") for part in PARTS)
    outputs, inputs = about["shape"]
    bits, groups = about["bits"], inputs // about["group"]
    if scale.dtype != torch.float16 or tuple(scale.shape) != (outputs, groups):
        raise ValueError(f"{name}/scale must be float16 of shape {[outputs, groups]}")
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise ValueError(f"{name}/scale must be positive and finite")
    for part in (codes, zero):
        if part.dtype != torch.uint8:
            raise ValueError(f"{name}: codes and zero points must be uint8, found {part.dtype}")
    codes = torch.from_numpy(bitpack.unpack(codes.numpy(), bits, outputs * inputs))
    zero = torch.from_numpy(bitpack.unpack(zero.numpy(), bits, outputs * groups))
    zero = zero.to(torch.int32).view(outputs, groups)
    params = QParams(scale.float(), zero, WeightConfig(bits).grid, group=about["group"])
    return QTensor(codes.view(outputs, inputs), params)


@torch.no_grad()
def _load_others(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy the file's other tensors into the model: the same names, shapes and dtypes, or none."""
    own = _other_state(model)
    if set(own) != set(tensors):
        other = sorted(set(own) ^ set(tensors))
        raise ValueError(f"these tensors differ: {', '.join(other[:5])}")
    for name, tensor in tensors.items():
        if own[name].is_meta:
            raise ValueError(f"{name} has no memory: build the model on the CPU, not on meta")
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise ValueError(
                f"{name} must be {own[name].dtype} {list(own[name].shape)}, "
                f"found {tensor.dtype} {list(tensor.shape)}"
            )
    # By way of the state dict: int8 layers read what they computed from their buffers, and compute it anew.
    # torch's own method, whatever the model's class made of it.
    missed = nn.Module.load_state_dict(model, tensors, strict=False).unexpected_keys
    if missed:
        raise ValueError(f"the model does not take {', '.join(missed[:5])}")
