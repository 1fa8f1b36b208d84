"""One way to write a network, whatever was done to it, and one to read it back.

network                                        file
integer or binary Program                      `storage`: packed codes and the list of steps
shared weights                                 `deep_compression`: Huffman-coded
packed layers (weight-only)                    `weight_only`
floats, at least one weight in 32 a zero       `sparse`: a bit a weight, and the others
floats                                         safetensors as it is
an ONNX Runtime session                        the ONNX file that it was made from
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from compresslab.arguments import as_path, bare, check_network
from compresslab.network.recurrent import recurrent_layers, unrolled
from compresslab.runtime import deep_compression, sparse, storage, weight_only
from compresslab.runtime.dynamic import in_form_of, inputs_as_metadata
from compresslab.runtime.peers import OnnxModel
from compresslab.runtime.program import Program
from compresslab.runtime.rebuild import in_shape
from compresslab.runtime.storage import check_fit, fill_ties, state_once
from compresslab.techniques.quantizer import Quantized
from compresslab.techniques.scores import prunable
from compresslab.techniques.sharing import shared_layers, unshared
from compresslab.writing import FileError, write_whole

READERS = {
    storage.FORMAT: lambda path, like: storage.load(path),
    deep_compression.FORMAT: deep_compression.load,
    weight_only.FORMAT: weight_only.load,
    sparse.FORMAT: sparse.load,
    "": lambda path, like: _load_floats(path, like),
}


def save(model: nn.Module, path: Path) -> int:
    """Write a network in the form that suits it; returns the bytes on disk.

    Raises:
        ValueError: for a network that only simulates integers (convert it first), or an ONNX session under a
            name that does not end in .onnx.
    """
    check_network(model, "model")
    model, path = bare(model), as_path(path)
    _check_numbers(model)
    if isinstance(model, Program):
        return storage.save(model, path)
    if isinstance(model, OnnxModel):
        if path.suffix != ".onnx":
            raise ValueError(f"path of an ONNX session must end in .onnx, got {path.name}")
        write_whole(path, lambda temporary: temporary.write_bytes(model.file))
        return path.stat().st_size
    if within := next((n for n, m in model.named_modules() if isinstance(m, Program)), ""):
        raise ValueError(
            f"{within!r} is an integer network within another, which no file brings back: save "
            f"model.get_submodule({within!r}) and build the rest around it"
        )
    if any(isinstance(m, Quantized) for m in model.modules()):
        raise ValueError("model must be converted to integers before it is saved, got a simulation")
    if any(isinstance(m, sparse.SparseLinear) for m in model.modules()):
        return sparse.save(model, path)
    if shared_layers(model):
        return deep_compression.save(model, path)
    if weight_only.packed_layers(model):
        return weight_only.save(model, path)
    weights = [layer.weight for layer in prunable(model).values()]
    if 32 * sum(int((w == 0).sum()) for w in weights) >= max(1, sum(w.numel() for w in weights)):
        return sparse.save(model, path)
    tensors = {name: t.contiguous().clone() for name, t in state_once(model).items()}
    metadata = inputs_as_metadata(model) or None
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))
    return path.stat().st_size


def _check_numbers(model: nn.Module) -> None:
    """Refuse what no file brings back: NaN in a parameter, tensors that are not laid out as numbers.

    Raises:
        ValueError: naming the first.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(
                f"{name!r} is a state that is no tensor (get_extra_state), which no file holds: keep it in a "
                "buffer, or build the network with it"
            )
        if tensor.layout is not torch.strided:
            raise ValueError(
                f"{name!r} is a sparse tensor, which no file holds: register it dense, by .to_dense()"
            )
        if name in parameters and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name!r} must be finite to be saved, got NaN or an infinity")


def load(path: Path, like: nn.Module | None = None) -> nn.Module:
    """Read a network back.

    Args:
        path: from `save`.
        like: a network of the same architecture, for files that hold weights and no architecture; it is not
            changed. Channels may have been cut and layers factored since: the file says so (`rebuild`).

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it is broken, of another format, or does not fit `like`.
        ValueError: if `like` is needed and missing.
    """
    path = as_path(path)
    if like is not None:
        check_network(like, "like")
        like = bare(like)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix == ".onnx":
        return _load_onnx(path)
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FileError(f"{path} is no safetensors file: {error}") from error
    found = about.get("format", "")
    if found not in READERS and found.startswith("compresslab."):
        raise FileError(
            f"{path} has format {found!r}, known are {', '.join(filter(None, READERS))}"
        )
    reader = READERS.get(found, READERS[""])
    if like is not None:
        plain = unshared(like) if shared_layers(like) else like
        try:
            like = in_form_of(shapes, _inputs(about), _written_out(list(shapes), plain))
        except (ValueError, RecursionError) as error:
            raise FileError(f"{path} does not hold this model: {error}") from error
    if like is None and found != storage.FORMAT:
        raise ValueError(
            f"like must be a network of the same architecture to read {path}, got None"
        )
    return reader(path, like).eval()


def _inputs(about: Mapping[str, str]) -> dict[str, int]:
    """How many inputs the file's int8 layers have, by name.

    Raises:
        ValueError: if the file says something else there.
    """
    inputs = json.loads(about.get("int8_inputs", "{}"))
    whole = isinstance(inputs, dict) and all(type(n) is int and n > 0 for n in inputs.values())
    if not whole:
        raise ValueError(f"int8_inputs must be whole numbers by name, found {str(inputs)[:80]}")
    return inputs


def _written_out(names: list[str], like: nn.Module) -> nn.Module:
    """The network with those recurrent layers written out that the file has so."""
    found = [n for n in recurrent_layers(like) if any(t.startswith(_inside(n)) for t in names)]
    return unrolled(like, found)


def _inside(name: str) -> str:
    return f"{name}.inputs." if name else "inputs."


def _load_floats(path: Path, like: nn.Module) -> nn.Module:
    try:
        tensors = load_file(path)
        network = in_shape(like, {name: tuple(t.shape) for name, t in tensors.items()})
        tensors = fill_ties(tensors, network)
        check_fit(tensors, network.state_dict())
    except (ValueError, SafetensorError) as error:
        raise FileError(f"{path} does not hold this model: {error}") from error
    network.load_state_dict(tensors)
    return network


def _load_onnx(path: Path) -> OnnxModel:
    try:
        return OnnxModel(path, torch.get_num_threads())
    except ModuleNotFoundError:
        raise
    except Exception as error:  # ONNX Runtime's own errors have no common class but this one.
        raise FileError(f"{path} is no ONNX file that ONNX Runtime takes: {error}") from error


def size(model: nn.Module) -> int:
    """The bytes of the file, which is written and thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        suffix = "onnx" if isinstance(model, OnnxModel) else "safetensors"
        return save(model, Path(folder) / f"model.{suffix}")
