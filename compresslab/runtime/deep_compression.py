"""The file of Deep Compression: pruned, shared, Huffman-coded (Han et al. 2016, arXiv:1510.00149).

    stage           a layer's weights are                                       of 32 bits a weight are left
    pruned          gaps between nonzeros, and the nonzeros                     32 d + H(d)
    shared          gaps, a code a nonzero, and a palette of K values           d log2 K + H(d)
    Huffman-coded   both streams with fewer bits for what is common             d H(codes) + H(d)

with d the share of nonzeros and H(d) what the mask itself tells. One uint8 tensor NAME.weight holds of a
layer

    [centroids: K float32] [lengths of the codes: K bytes] [lengths of the gaps: 2^b bytes] [gaps] [codes]

and the metadata its shape, K, b, the number of gaps and their bytes. The width b of the gaps is tried
from 2 to 8 and the smallest kept. All other parameters and buffers are stored as they are, so that the
network that comes back has bit for bit the weights of `unshared`.

Less on disk is not less in memory, nor faster: `load` fills in an ordinary float network.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compresslab.arguments import as_path
from compresslab.numerics import entropy, gaps
from compresslab.numerics.codebook import Palette
from compresslab.runtime.dynamic import inputs_as_metadata
from compresslab.runtime.rebuild import in_shape
from compresslab.runtime.storage import check_fit
from compresslab.techniques.sharing import Shared, shared_layers
from compresslab.writing import FileError, write_whole

FORMAT, VERSION = "compresslab.deep", "1"
WIDTHS = range(2, 9)
KEYS = ("shape", "colours", "gap_bits", "gaps", "gap_bytes")


def save(model: nn.Module, path: Path, huffman: bool = True) -> int:
    """Write a model with shared weights; returns the bytes on disk.

    Args:
        model: from `sharing.share_weights`, tuned or not.
        path: is written whole or not at all.
        huffman: False gives all symbols of a stream the same length: the stage before Huffman coding.

    Raises:
        ValueError: if no layer of the model is shared, or its values are not float32.
    """
    path, layers = Path(path), shared_layers(model)
    if not layers:
        raise ValueError("model must have layers from share_weights, got none")
    for name, layer in layers.items():
        if layer.centroids.dtype != torch.float32:
            raise ValueError(
                f"the values of {name!r} must be float32 to be saved, got {layer.centroids.dtype}: "
                "model.float()"
            )
    tensors, about = {}, {}
    for name, layer in layers.items():
        about[name], tensors[_within(name, "weight")] = _pack(layer.palette, not huffman)
    for name, value in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        if owner not in layers or leaf not in ("centroids", "codes"):
            tensors[_plain_name(name, layers)] = value.contiguous().clone()
    # The separators' blanks would be a tenth of a small network's header.
    layers_text = json.dumps(about, separators=(",", ":"))
    metadata = {"format": FORMAT, "version": VERSION, "layers": layers_text}
    metadata |= inputs_as_metadata(model)
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))
    return path.stat().st_size


def load(path: Path, like: nn.Module) -> nn.Module:
    """An ordinary float copy of a network with the weights of a file.

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
            about = _described(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        shapes = {name: tuple(t.shape) for name, t in tensors.items()}
        shapes |= {_within(name, "weight"): tuple(one["shape"]) for name, one in about.items()}
        model = in_shape(like, shapes)
        state = model.state_dict()
        for name, entry in about.items():
            key = _within(name, "weight")
            if key not in state or list(state[key].shape) != entry["shape"]:
                raise FileError(f"the model has no {key} of shape {entry['shape']}")
            tensors[key] = _unpack(tensors[key], entry, key).dequantize()
        check_fit(tensors, state)
        model.load_state_dict(tensors)
    except (
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        RuntimeError,
    ) as error:
        raise FileError(f"{path} does not hold this model: {error}") from error
    return model


def _plain_name(name: str, layers: dict[str, Shared]) -> str:
    """`0.layer.bias` of a shared layer 0 is the bias of the ordinary one."""
    owner, inside, leaf = f".{name}".rpartition(".layer.")
    return _within(owner[1:], leaf) if inside and owner[1:] in layers else name


def _within(owner: str, leaf: str) -> str:
    """The dotted name of a layer's tensor; the layer may be the whole model."""
    return f"{owner}.{leaf}" if owner else leaf


def _pack(palette: Palette, fixed: bool) -> tuple[dict, torch.Tensor]:
    codes = palette.codes.numpy()
    keep = codes != 0
    centroids = palette.centroids[1:].numpy()
    about = {"shape": list(codes.shape), "colours": len(centroids), "gap_bits": 2}
    if not keep.any():
        about |= {"colours": 0, "gaps": 0, "gap_bytes": 0}
        return about, torch.zeros(0, dtype=torch.uint8)
    coded = {b: entropy.encode(gaps.gaps(keep, b), 2**b, fixed) for b in WIDTHS}
    bits, where = min(coded.items(), key=lambda item: 2 ** item[0] + item[1].stream.size)
    which = entropy.encode(codes[keep] - 1, len(centroids), fixed)
    about |= {"gap_bits": bits, "gaps": where.count, "gap_bytes": where.stream.size}
    centroids = np.frombuffer(centroids.astype("<f4").tobytes(), np.uint8)
    parts = (centroids, which.lengths, where.lengths, where.stream, which.stream)
    return about, torch.from_numpy(np.concatenate(parts))


def _unpack(packed: torch.Tensor, about: dict, name: str) -> Palette:
    shape, colours, bits = about["shape"], about["colours"], about["gap_bits"]
    tables = (4 * colours, colours, 2**bits) if colours else (0, 0, 0)
    sizes = (*tables, about["gap_bytes"])
    if packed.dtype != torch.uint8 or packed.ndim != 1 or packed.numel() < sum(sizes):
        raise FileError(f"{name} must be {sum(sizes)} bytes or more, found {list(packed.shape)}")
    codes = torch.zeros(shape, dtype=torch.uint8)
    if colours == 0:
        if packed.numel() or about["gaps"]:
            raise FileError(f"{name} has no colours, but {packed.numel()} bytes")
        return Palette(torch.zeros(1), codes)
    parts = np.split(packed.numpy(), np.cumsum(sizes))
    centroids, which_lengths, where_lengths, where, which = parts
    symbols = entropy.decode(entropy.Coded(where, where_lengths, about["gaps"]))
    places = gaps.positions(symbols, bits)
    if places.size and places[-1] >= codes.numel():
        raise FileError(f"{name}: a weight stands outside of {shape}")
    found = entropy.decode(entropy.Coded(which, which_lengths, places.size))
    codes.view(-1)[torch.from_numpy(places)] = torch.from_numpy(found + np.uint8(1))
    values = np.frombuffer(centroids.tobytes(), "<f4").astype(np.float32)
    return Palette(torch.cat([torch.zeros(1), torch.from_numpy(values)]), codes)


def _described(metadata: dict[str, str]) -> dict[str, dict]:
    """The layers' entries, every number checked before it is used."""
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        found = f"{metadata.get('format')!r} {metadata.get('version')!r}"
        raise FileError(f"expected format {FORMAT!r} version {VERSION!r}, found {found}")
    layers = json.loads(metadata["layers"])
    if not isinstance(layers, dict):
        raise FileError("expected a description of each layer")
    for name, entry in layers.items():
        if not isinstance(entry, dict) or set(entry) != set(KEYS):
            raise FileError(f"layer {name!r} must be described by {', '.join(KEYS)}")
        shape = entry["shape"]
        good = isinstance(shape, list) and all(type(n) is int and 0 < n < 2**31 for n in shape)
        if not good or not 2 <= len(shape) <= 4 or math.prod(shape) > 2**40:
            raise FileError(f"layer {name!r}: impossible shape {shape!r}")
        limits = {"colours": (0, 255), "gap_bits": (2, 8), "gaps": (0, 2**40)}
        for key, (low, high) in (limits | {"gap_bytes": (0, 2**40)}).items():
            if type(entry[key]) is not int or not low <= entry[key] <= high:
                raise FileError(
                    f"layer {name!r}: {key} must be {low} to {high}, got {entry[key]!r}"
                )
    return layers
