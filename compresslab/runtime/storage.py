"""The file of an integer network: safetensors with packed codes, and its list of steps as metadata.

    [8 bytes: length of the header][header: JSON][tensors, one after another]

safetensors checks the header against the file before anything is allocated; its metadata holds our format,
version and the steps. Every number in there is checked before it is used, and a shape is believed only
if the packed bytes that are there are exactly what it takes. A file is written whole or not at all.

What a `Measurement` calls bytes on disk is the size of this file.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from compresslab.data.files import write_whole
from compresslab.runtime.kinds import KINDS
from compresslab.runtime.modules import IntegerModule
from compresslab.runtime.program import Program, Step

FORMAT, VERSION = "compresslab.program", "1"
MOST_STEPS = 10_000
LIMITS = {
    "bits": (2, 8),
    "zero_point": (0, 255),
    "zero_point_b": (0, 255),
    "out_zero_point": (0, 255),
    "low": (0, 255),
    "out_low": (0, 255),
    "high": (1, 255),
    "out_high": (1, 255),
    "stride": (1, 1024),
    "padding": (0, 1024),
    "size": (1, 1024),
    "pool": (1, 1024),
    "positions": (0, 1),
    "channels": (1, 2**31 - 1),
}
SCALES = ("scale", "scale_b", "out_scale", "eps")
DTYPES = {
    "weight": torch.uint8,
    "multiplier": torch.float32,
    "scale": torch.float32,
    "signs": torch.uint8,
    "flip": torch.uint8,
    "alpha": torch.float32,
}
PACKED = ("weight", "signs", "flip")
DIMENSIONS = {
    "linear": 2,
    "logits": 2,
    "conv2d": 4,
    "depthwise": 3,
    "xnor_linear": 2,
    "xnor_linear_signs": 2,
    "xnor_conv2d": 4,
    "xnor_conv2d_signs": 4,
}


class FileError(ValueError):
    """A file that is not a whole, consistent integer network; names the file and what is wrong."""


def _plain(number: object) -> int | float:
    """A number of NumPy's as Python has it: sizes and strides may have come out of an array."""
    if isinstance(number, np.generic):
        return number.item()
    raise TypeError(f"{type(number).__name__} is not JSON serializable")


def save(program: Program, path: Path) -> int:
    """Write a program; returns the bytes on disk."""
    path = Path(path)
    steps, tensors = [], {}
    for step, layer in zip(program.steps, program.layers, strict=True):
        about = {"name": step.name, "kind": layer.kind, "inputs": list(step.inputs)}
        steps.append({**about, **layer.describe()})
        for name, tensor in layer.tensors().items():
            tensors[f"{step.name}/{name}"] = tensor.contiguous()
    metadata = {"format": FORMAT, "version": VERSION, "steps": json.dumps(steps, default=_plain)}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))
    return path.stat().st_size


def load(path: Path) -> Program:
    """Read a program back.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it is truncated, of another format, or contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, "pt") as file:
            steps = _steps(file.metadata() or {})
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        layers = [_build(about, tensors) for about in steps]
        if tensors:
            raise FileError(f"tensors that no step uses: {', '.join(sorted(tensors))}")
        return Program([Step(a["name"], tuple(a["inputs"])) for a in steps], layers)
    except (
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise FileError(f"{path} is no whole compresslab program: {error}") from error


def _is_broken(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether there are NaN or infinities that the model itself has not: a causal mask is full of them."""
    if not tensor.is_floating_point():
        return False
    strange = ~torch.isfinite(tensor)
    return bool((strange & (tensor != own)).any())


def check_fit(tensors: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Whether a file's tensors are those that a model's state takes, before any of them is copied.

    Raises:
        FileError: for other names, shapes or types; values that are not finite; or two names that are one
            tensor in the model and two in the file.
    """
    if set(tensors) != set(state):
        raise FileError(f"other tensors than the model's: {sorted(set(tensors) ^ set(state))}")
    first: dict[tuple, str] = {}
    for name, tensor in tensors.items():
        if tensor.shape != state[name].shape or tensor.dtype != state[name].dtype:
            wanted = f"{list(state[name].shape)} {state[name].dtype}"
            raise FileError(f"{name} must be {wanted}, found {list(tensor.shape)} {tensor.dtype}")
        if _is_broken(tensor, state[name]):
            raise FileError(f"{name} holds NaN or an infinity")
        place = (state[name].data_ptr(), tensor.shape)
        other = first.setdefault(place, name) if tensor.numel() else name
        if not torch.equal(tensors[other], tensor):
            raise FileError(
                f"{name} and {other} are one tensor in the model, and differ in the file"
            )


def _steps(metadata: dict[str, str]) -> list[dict]:
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        found = f"{metadata.get('format')!r} {metadata.get('version')!r}"
        raise FileError(f"expected format {FORMAT!r} version {VERSION!r}, found {found}")
    steps = json.loads(metadata["steps"])
    if not isinstance(steps, list) or not 0 < len(steps) <= MOST_STEPS:
        raise FileError(f"expected a list of 1 to {MOST_STEPS} steps")
    for about in steps:
        _check(about)
    return steps


def _check(about: dict) -> None:
    """Every value of a step's description is of its kind and within its limits."""
    if not isinstance(about, dict) or about.get("kind") not in KINDS:
        raise FileError(f"unknown kind of step: {str(about)[:80]}")
    if not isinstance(about.get("name"), str) or not isinstance(about.get("inputs"), list):
        raise FileError("a step needs a name and a list of inputs")
    for key, value in about.items():
        if key in LIMITS:
            low, high = LIMITS[key]
            if type(value) is not int or not low <= value <= high:
                raise FileError(f"{about['name']}: {key} must be {low} to {high}, found {value!r}")
        elif key in SCALES:
            if type(value) not in (int, float) or not (0 < value < math.inf):
                raise FileError(f"{about['name']}: {key} must be positive, found {value!r}")
        elif key == "shape":
            good = isinstance(value, list) and all(type(n) is int and 0 < n < 2**31 for n in value)
            if not good or not 2 <= len(value) <= 4:
                raise FileError(f"{about['name']}: impossible shape {value!r}")
        elif key == "inputs":
            if not all(isinstance(name, str) for name in value):
                raise FileError(f"{about['name']}: inputs must be names")
        elif key not in ("name", "kind"):
            raise FileError(f"{about['name']}: unknown entry {key!r}")


def _build(about: dict, tensors: dict[str, torch.Tensor]) -> IntegerModule:
    """Build a step from its own tensors, taking them out of `tensors`."""
    prefix = f"{about['name']}/"
    own = {k[len(prefix) :]: tensors.pop(k) for k in sorted(tensors) if k.startswith(prefix)}
    for name, tensor in own.items():
        expected = torch.float32 if about["kind"].startswith("float") else DTYPES.get(name)
        if expected is not None and tensor.dtype != expected:
            raise FileError(f"{prefix}{name} must be {expected}, found {tensor.dtype}")
    if "shape" in about:
        _check_channels(about, own)
    return KINDS[about["kind"]].build(about, own)


def _check_channels(about: dict, own: dict[str, torch.Tensor]) -> None:
    shape = about["shape"]
    channels = shape[-1] if about["kind"] == "depthwise" else shape[0]
    dimensions = DIMENSIONS[about["kind"]]
    if len(shape) != dimensions:
        raise FileError(f"{about['name']}: expected {dimensions} dimensions, found {shape}")
    for name, tensor in own.items():
        if name not in PACKED and tuple(tensor.shape) != (channels,):
            raise FileError(
                f"{about['name']}/{name} must have shape [{channels}], found {list(tensor.shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise FileError(f"{about['name']}/{name} holds NaN or an infinity")
