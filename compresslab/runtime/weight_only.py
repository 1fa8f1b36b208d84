"""Linear layers and tables of words on packed low-bit weights inside any model, and the file of such a model.

    file    [8 bytes: length of the header][header: JSON][tensors]             safetensors

    NAME/codes     uint8    codes at b bits each (`kernels.bitpack`)
    NAME/scale     float16  [outputs, inputs / group]
    NAME/zero      uint8    zero points at b bits each
                   of 4-bit floats: codes and scales as bytes, and the tensor's own scale (`microscaled`)
    others         everything else of the model's state, as it was; of tied tensors the first

The header's metadata names each packed layer's bits, group and shape; layers that share a table are told by
the model (a tied head multiplies by the codes that the table is read from). A file is read into a model
of the same architecture: built from its configuration, it need not have the right weights. Every size is
checked against the model and the bytes that are there before anything is built; the model given is not
changed.

The layers themselves are in `packed` and, for 4-bit floats that share a scale, in `microscaled`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compresslab.arguments import as_path, kind
from compresslab.kernels import bitpack
from compresslab.network.edit import replaced
from compresslab.network.select import own_linear_layers, sizes, word_tables
from compresslab.numerics.affine import QParams, QTensor
from compresslab.numerics.microscaling import FORMATS, Blocks
from compresslab.runtime.dynamic import inputs_as_metadata
from compresslab.runtime.microscaled import MicroscaledLinear, blocks_from_file
from compresslab.runtime.packed import Packed, WeightOnlyEmbedding, WeightOnlyLinear
from compresslab.runtime.rebuild import Shapes, in_shape
from compresslab.techniques.weight_only import Codes, WeightConfig
from compresslab.writing import FileError, write_whole

FORMAT, VERSION = "compresslab.weights", "1"
PARTS = ("codes", "scale", "zero")


def convert_weights(codes: Codes) -> nn.Module:
    """A copy of a quantized model that computes with its packed codes.

    Args:
        codes: from `weight_only.quantize`, `quantize_blocks` or `gptq.quantize`, with words or without.

    Raises:
        ValueError: naming a layer whose parent reads its weight instead of calling it; for something else
            than codes.
    """
    if not isinstance(codes, Codes):
        raise ValueError(
            f"codes must come from weight_only.quantize, quantize_blocks or gptq.quantize, got {kind(codes)}"
        )
    for name in codes.layers:
        parent = codes.model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.TransformerEncoderLayer):
            raise ValueError(
                f"{name} is read by nn.TransformerEncoderLayer, not called: leave it out"
            )
    return replaced(codes.model, _packed_in_place_of(codes.model, codes.layers))


def _packed_in_place_of(
    model: nn.Module, codes: Mapping[str, QTensor | Blocks]
) -> dict[str, nn.Module]:
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


def _packed(layer: nn.Module, codes: QTensor | Blocks) -> Packed:
    if isinstance(codes, Blocks):
        return MicroscaledLinear(codes, layer.bias)
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
    # In the model's order, so that a file is the same every time.
    for name, layer in layers.items():
        if name not in owners:
            continue
        about[name] = layer.about
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
    packed = packed_layers(model).values()
    seen = {id(t) for layer in packed for t in (layer.words, layer.scales)}
    seen |= {id(layer.tensor) for layer in packed if isinstance(layer, MicroscaledLinear)}
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
        form = one.get("form")
        fits = form in FORMATS and name not in tables and (bits, group) == (4, FORMATS[form].block)
        if "form" in one and not fits:
            raise ValueError(f"{name}: no layer of {bits} bits, groups of {group}, is {form!r}")
    return about


def _codes(name: str, about: dict, tensors: dict[str, torch.Tensor]) -> QTensor | Blocks:
    """The codes of a packed layer from its tensors, which are taken out of `tensors`."""
    if "form" in about:
        return blocks_from_file(name, about, tensors)
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
