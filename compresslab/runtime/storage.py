"""The file of an integer network: safetensors with packed codes, and its list of steps as metadata.

    [8 bytes: length of the header][header: JSON][tensors, one after another]

safetensors checks the header against the file before anything is allocated; its metadata holds our format,
version and the steps. Every number in there is checked before it is used, and a shape is believed only
if the packed bytes that are there are exactly what it takes. A file is written whole or not at all.

What a `Measurement` calls bytes on disk is the size of this file.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compresslab.runtime import steps as every_kind  # noqa: F401  (it makes them known)
from compresslab.runtime.program import Line, Program
from compresslab.runtime.steps.step import KINDS, Step
from compresslab.writing import FileError, write_whole

FORMAT, VERSION = "compresslab.program", "1"
MOST_STEPS = 10_000
MOST_INPUTS = 64


def _plain(number: object) -> int | float:
    """A number of NumPy's as Python has it: sizes and strides may have come out of an array."""
    if isinstance(number, np.generic):
        return number.item()
    raise TypeError(f"{type(number).__name__} is not JSON serializable")


def save(program: Program, path: Path) -> int:
    """Write a program; returns the bytes on disk."""
    path = Path(path)
    steps, tensors = [], {}
    for line, step in zip(program.steps, program.layers, strict=True):
        about = {"name": line.name, "kind": step.kind, "inputs": list(line.inputs)}
        steps.append({**about, **step.describe()})
        for name, tensor in step.tensors().items():
            tensors[f"{line.name}/{name}"] = tensor.contiguous()
    metadata = {"format": FORMAT, "version": VERSION, "steps": json.dumps(steps, default=_plain)}
    if program.outputs != (program.steps[-1].name,) or len(program.images) > 1:
        ends = {"outputs": list(program.outputs), "images": len(program.images)}
        metadata["ends"] = json.dumps(ends)
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
            metadata = file.metadata() or {}
            steps = _steps(metadata)
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        layers = [_build(about, tensors) for about in steps]
        if tensors:
            raise FileError(f"tensors that no step uses: {', '.join(sorted(tensors))}")
        lines = [Line(a["name"], tuple(a["inputs"])) for a in steps]
        return Program(lines, layers, **_ends(metadata))
    except (
        *(SafetensorError, ValueError, KeyError, TypeError),
        *(OverflowError, RecursionError, IndexError),
    ) as error:
        raise FileError(f"{path} is no whole compresslab program: {error}") from error


def _ends(metadata: Mapping[str, str]) -> dict:
    """Outputs and the number of inputs, where they are not the last step and one."""
    if "ends" not in metadata:
        return {}
    found = json.loads(metadata["ends"])
    outputs, images = found["outputs"], found["images"]
    if not isinstance(outputs, list) or not all(isinstance(name, str) for name in outputs):
        raise FileError(f"outputs must be names, found {outputs!r}")
    if type(images) is not int or not 1 <= images <= MOST_INPUTS:
        raise FileError(f"images must be 1 to {MOST_INPUTS}, found {images!r}")
    return {"outputs": outputs, "images": images}


def state_once(model: nn.Module) -> dict[str, torch.Tensor]:
    """A model's state by name; a tensor that several layers share stands there once, under its first name."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor.detach()))
    return dict(found.values())


def fill_ties(tensors: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """A file's tensors under every name that they have in the model."""
    state = model.state_dict(keep_vars=True)
    known = {id(state[name]): tensor for name, tensor in tensors.items() if name in state}
    tied = {n: known[id(t)] for n, t in state.items() if n not in tensors and id(t) in known}
    return tensors | tied


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
    """Name, kind and inputs of a step's description; its fields are checked when it is built."""
    if not isinstance(about, dict) or about.get("kind") not in KINDS:
        raise FileError(f"unknown kind of step: {str(about)[:80]}")
    inputs = about.get("inputs")
    if not isinstance(about.get("name"), str) or not isinstance(inputs, list):
        raise FileError("a step needs a name and a list of inputs")
    if not all(isinstance(name, str) for name in inputs):
        raise FileError(f"{about['name']}: inputs must be names")


def _build(about: dict, tensors: dict[str, torch.Tensor]) -> Step:
    """Build a step from its own tensors, taking them out of `tensors`."""
    prefix = f"{about['name']}/"
    own = {k[len(prefix) :]: tensors.pop(k) for k in sorted(tensors) if k.startswith(prefix)}
    try:
        return KINDS[about["kind"]].read(about, own)
    except KeyError as error:
        raise FileError(f"{about['name']}: {error.args[0]} is missing") from error
    except ValueError as error:
        raise FileError(f"{about['name']}: {error}") from error
