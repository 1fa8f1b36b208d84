"""Layer by layer through a network that changes on the way: every batch runs once, and waits at each layer.

What GPTQ does to a layer depends on what the layers before it, already quantized, hand on. To run the model
from its beginning for every layer costs a time quadratic in its depth. Here each batch has a thread that
stops in front of a layer; when all batches that get there have stopped, the layer's inputs are visited (and
the layer may be changed), and they go on:

    batch 0   ──── layer a ──── layer b ────
    batch 1   ──── layer a ──── layer b ────
                   │            │
                   visit(a)     visit(b), on what the changed a gives

One thread runs at a time, so results are those of one after another, bit for bit. In memory are, of every
batch, the tensors that it needs to go on. Left out: gradients; a layer's second run in one batch.
"""

import threading
from collections.abc import Callable, Sequence

import torch
from torch import nn

from compresslab.network.taps import tapped

Visit = Callable[[str, list[torch.Tensor]], None]


class _Abandoned(BaseException):
    """Another batch failed, or the visit did: this one need not go on."""


class _Batch(threading.Thread):
    """One batch on its way; runs only between `advance` and the next stop."""

    def __init__(self, model: nn.Module, batch: torch.Tensor) -> None:
        super().__init__(daemon=True)
        self.model, self.batch = model, batch
        self.go, self.stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.place: str | None = None
        self.x: torch.Tensor | None = None
        self.error: BaseException | None = None
        self.abandoned = self.done = False

    def run(self) -> None:
        self.go.acquire()
        try:
            if not self.abandoned:
                with torch.no_grad():  # the mode belongs to the thread
                    self.model(self.batch)
        except _Abandoned:
            pass
        except BaseException as error:
            self.error = error
        self.place, self.x, self.done = None, None, True
        self.stopped.release()

    def wait_at(self, name: str, x: torch.Tensor) -> None:
        """In this thread: stop in front of a layer."""
        self.place, self.x = name, x
        self.stopped.release()
        self.go.acquire()
        self.x = None
        if self.abandoned:
            raise _Abandoned

    def advance(self) -> None:
        """In the caller's thread: let it run to its next stop, or its end."""
        self.go.release()
        self.stopped.acquire()
        if self.error is not None:
            raise self.error


def run_order(
    model: nn.Module, inputs: Sequence[torch.Tensor], layers: dict[str, nn.Module]
) -> list[str]:
    """The names of layers in the order in which the model runs them on one example.

    Raises:
        ValueError: if there are no inputs, or a layer is never run.
    """
    if len(inputs) == 0:
        raise ValueError("inputs must hold at least one batch, got 0")
    order: dict[str, None] = {}
    with tapped(layers, before=lambda name, *_: order.setdefault(name)), torch.no_grad():
        model(inputs[0][:1])
    missing = [name for name in layers if name not in order]
    if missing:
        raise ValueError(f"inputs must reach every layer, got none at {', '.join(missing)}")
    return list(order)


def layer_by_layer(
    model: nn.Module,
    inputs: Sequence[torch.Tensor],
    layers: dict[str, nn.Module],
    visit: Visit,
) -> None:
    """Visit every layer once, in the order of the run, with what reaches it; what `visit` changes counts.

    Args:
        model: any module tree; runs in the mode that it is in.
        inputs: batches, each what `model(batch)` takes.
        layers: the modules of the model to stop at, by name.
        visit: called with the name and the layer's first argument in each batch that reaches it.

    Raises:
        ValueError: if there are no inputs, or a layer is never run.
        Exception: what the model or `visit` raises.
    """
    order = run_order(model, inputs, layers)
    visited: set[str] = set()
    batches = {batch.name: batch for batch in (_Batch(model, x) for x in inputs)}

    def stop(name: str, _layer: nn.Module, arguments: tuple) -> None:
        batch = batches.get(threading.current_thread().name)
        if batch is not None and name not in visited:
            batch.wait_at(name, arguments[0])

    with tapped(layers, before=stop):
        for batch in batches.values():
            batch.start()
        try:
            _walk(list(batches.values()), order, visited, visit)
        finally:
            for batch in batches.values():
                batch.abandoned = True
                batch.go.release()
                batch.join()


def _walk(batches: Sequence[_Batch], order: list[str], visited: set[str], visit: Visit) -> None:
    for batch in batches:
        batch.advance()
    while any(not batch.done for batch in batches):
        # Batches may take different ways (a mixture of experts): first the layer that comes first.
        name = min((batch.place for batch in batches if not batch.done), key=order.index)
        here = [batch for batch in batches if batch.place == name]
        visited.add(name)
        with torch.no_grad():
            visit(name, [batch.x for batch in here])
        for batch in here:
            batch.advance()
