"""What a public function is handed, looked at before anything is done with it.

A wrong kind of argument is answered by the argument's name, what came, and what to write instead. Values are
checked where they mean something; here it is kinds alone.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from compresslab.data import Split, TextSplit


def check_network(value: object, name: str = "network") -> None:
    """Refuse what is no module.

    Raises:
        ValueError: with the way out where one can be guessed.
    """
    if isinstance(value, nn.Module):
        return
    way_out = ""
    if isinstance(value, type) and issubclass(value, nn.Module):
        way_out = f": make one first, {value.__name__}(...)"
    elif isinstance(value, dict):
        way_out = ": weights without a network; network.load_state_dict(...) puts them into one"
    elif isinstance(value, str | os.PathLike):
        way_out = ": cl.load(path) reads a network from its file"
    raise ValueError(f"{name} must be a network, a torch.nn.Module, got {kind(value)}{way_out}")


def check_open(value: object, name: str = "network") -> None:
    """Refuse what is no module, or one that can be run and not be changed.

    Raises:
        ValueError: with the way out.
    """
    check_network(value, name)
    if isinstance(value, torch.jit.ScriptModule):
        raise ValueError(
            f"{name} must be written in Python to be looked into or changed, got a scripted one "
            f"({kind(value)}): give the module that it was made from"
        )


def bare(network: nn.Module) -> nn.Module:
    """The network inside of torch.compile's and nn.DataParallel's wrappers, which rename its layers."""
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(network, nn.DataParallel):
            inner = network.module
        if inner is None:
            return network
        network = inner


def check_labelled(value: object, name: str = "data") -> None:
    """Refuse what is no examples with labels.

    Raises:
        ValueError: with the way out where one can be guessed.
    """
    if isinstance(getattr(value, "x", None), Tensor) and isinstance(
        getattr(value, "y", None), Tensor
    ):
        return
    way_out = "cl.data.labelled(x, y) makes them from tensors"
    if isinstance(value, Split | TextSplit):
        way_out = "a data set has them as .train, .val and .test"
    raise ValueError(f"{name} must be examples with labels, got {kind(value)}: {way_out}")


def as_path(value: object, name: str = "path") -> Path:
    """A path from a string or a path, "~" included.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise ValueError(f"{name} must be a path or a string, got {kind(value)}")
    return Path(value).expanduser()


def kind(value: object) -> str:
    """What something is, for a message: "None", "the class Linear", "int 5", "Tensor"."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, bool | int | float | str):
        shown = repr(value)
        return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
    return type(value).__name__
