"""How large a network is: its weights, its file, its memory, and what one image needs on the way through."""

import contextlib

import torch
from torch import nn

from compresslab.network.taps import tapped
from compresslab.runtime import files
from compresslab.runtime.arena import NoPlaceError, lives_of, places
from compresslab.runtime.packed import Packed
from compresslab.runtime.program import Program
from compresslab.runtime.steps.step import Numbers
from compresslab.training import evaluating


def memory_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are held in memory, each once."""
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def disk_bytes(model: nn.Module) -> int:
    """Bytes of the file that `runtime.files.save` writes, which is written and thrown away.

    Raises:
        ValueError: for a network that only simulates integers: convert it first.
    """
    return files.size(model)


def working_bytes(model: nn.Module, shape: tuple[int, ...] | torch.Tensor) -> int:
    """Bytes that one image's activations need at once: the largest input and output of a layer together.

    What an engine needs that frees each result as soon as the next is there. Of an integer network, whose
    codes are a byte each, the arena is counted in which its results lie by their lifetimes (`runtime.arena`);
    of others, results that wait for an addition further on are not, nor is what happens outside of modules.

    Args:
        model: any network that runs on a batch of one image.
        shape: of the image, without the batch; or an example itself (tokens).
    """
    largest = 0

    def record(_name: str, _layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal largest
        held = [t for t in (*inputs, output) if isinstance(t, torch.Tensor)]
        largest = max(largest, sum(t.numel() * t.element_size() for t in held))

    named = model.layers.named_children() if isinstance(model, Program) else model.named_modules()
    leaves = {n: m for n, m in named if isinstance(model, Program) or not list(m.children())}
    with tapped(leaves, after=record), torch.no_grad(), evaluating(model):
        model(
            (shape if isinstance(shape, torch.Tensor) else torch.zeros(shape, dtype=torch.float32))[
                None
            ]
        )
    if isinstance(model, Program) and not isinstance(shape, torch.Tensor):
        with contextlib.suppress(NoPlaceError):  # tokens, which wait for nobody
            largest = max(largest, places(lives_of(model, shape))[1])
    return largest


def numbers(model: nn.Module) -> Numbers:
    """Weights and biases of any network, and how many are not 0; each tensor once.

    Codes of packed, integer, shared and binary layers count as the weights that they stand for.
    """
    total, seen, inside = Numbers(), set(), set()
    for module in model.modules():
        if id(module) in inside:
            continue
        if isinstance(module, Packed):
            total += module.numbers(again=module.memory in seen)
            seen.add(module.memory)
            continue
        if hasattr(module, "numbers"):
            total += Numbers(*module.numbers())
            inside |= {id(m) for m in module.modules()}
            continue
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                total += Numbers(parameter.numel(), int(parameter.count_nonzero()))
    return total


def nonzero_parameters(model: nn.Module) -> int:
    """How many of a network's weights and biases are not exactly 0."""
    return numbers(model).nonzeros
