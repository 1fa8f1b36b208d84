"""One row of the course's table: what a network holds, weighs, computes, takes and gets right.

Whatever was done to a network, the row is of what would be deployed: simulated integers are converted first,
shared weights run as floats from their coded file (`runtime.convert`).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral

import torch
from torch import nn

from compresslab.arguments import check_network, kind
from compresslab.data import Labelled, Split, TextSplit
from compresslab.experiment import side_by_side
from compresslab.measure.clocks import Timing, latency
from compresslab.measure.counts import LayerCount, count_layers
from compresslab.measure.energy import energy_microjoules
from compresslab.measure.sizes import disk_bytes, memory_bytes, numbers
from compresslab.runtime.convert import convert
from compresslab.techniques.binarize import Binary
from compresslab.techniques.quantizer import Quantized
from compresslab.techniques.sharing import Shared, shared_layers
from compresslab.training import evaluate

Data = Split | TextSplit | Labelled | torch.Tensor | tuple[int, ...]


@dataclass(frozen=True)
class Measurement:
    """One row of the course's table; bytes, counts for one example, seconds, microjoules, per cent.

    Attributes:
        latency: the Timing for each batch size that was measured.
        accuracies: test accuracy in per cent of each seed; empty where it was not measured.
    """

    name: str
    parameters: int
    nonzeros: int
    bytes_memory: int
    bytes_disk: int
    macs: int
    bops: int
    energy: float
    latency: dict[int, Timing] = field(default_factory=dict)
    accuracies: tuple[float, ...] = ()

    @property
    def accuracy(self) -> float:
        """Mean accuracy over the seeds, in per cent; NaN if there is none."""
        return statistics.fmean(self.accuracies) if self.accuracies else math.nan

    @property
    def accuracy_sd(self) -> float:
        """Sample standard deviation over the seeds; NaN for fewer than two."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else math.nan


def measure(
    model: nn.Module | Sequence[nn.Module],
    data: Data,
    name: str = "",
    batches: Sequence[int] = (1, 64),
) -> Measurement:
    """Count, weigh, time and test a network.

    Args:
        model: the network, or the same network trained from several seeds: accuracy is taken over all,
            everything else from the first.
        data: a data set (accuracy is taken on its test images), examples with labels, or, where there are
            none, one example without the batch, or its shape.
        name: the row's name; by default the kind of network.
        batches: batch sizes to time.

    Raises:
        ValueError: for no network at all, data that it does not take, or a name that is no string.
        ConversionError: for a simulation that has no integer network.
    """
    models = list(model) if isinstance(model, list | tuple) else [model]
    for one in models:
        check_network(one, "model")
    if not models:
        raise ValueError("model must be a module or at least one in a list, got an empty list")
    if not isinstance(name, str):
        raise ValueError(f"name must be a string, got {kind(name)}")
    test, example = _test_and_example(data)
    runs = [deployed(m) for m in models]
    first, layers = runs[0], _counted(runs[0], example)
    # The coded file of shared weights is smaller than that of the floats which run.
    disk = disk_bytes(models[0] if shared_layers(models[0]) else first)
    held = numbers(models[0] if shared_layers(models[0]) else first)
    return Measurement(
        name=name or type(models[0]).__name__,
        parameters=held.parameters,
        nonzeros=held.nonzeros,
        bytes_memory=memory_bytes(first),
        bytes_disk=disk,
        macs=sum(layer.macs for layer in layers),
        bops=sum(layer.bops for layer in layers),
        energy=energy_microjoules(layers, disk),
        latency={batch: latency(first, example, batch) for batch in batches},
        accuracies=_accuracies(runs, test) if test is not None else (),
    )


def _accuracies(runs: list[nn.Module], test: Labelled) -> tuple[float, ...]:
    """Of every network, side by side; in turn where one thread would see what another does.

    That is where networks share a module, whose mode both would set; under autocast, which holds for one
    thread; and where a forward pass draws random numbers.
    """
    modules = [id(module) for run in runs for module in run.modules()]
    in_turn = len(set(modules)) < len(modules) or torch.is_autocast_enabled("cpu")
    before = torch.get_rng_state()
    found = side_by_side(lambda run: evaluate(run, test), runs, in_turn=in_turn)
    if not in_turn and not torch.equal(before, torch.get_rng_state()):
        torch.set_rng_state(before)
        found = [evaluate(run, test) for run in runs]
    return tuple(found)


def _counted(model: nn.Module, example: torch.Tensor | tuple[int, ...]) -> list[LayerCount]:
    """Each layer's operations.

    Raises:
        ValueError: if the network does not take such an example.
    """
    try:
        return count_layers(model, example)
    except (RuntimeError, TypeError, IndexError) as error:
        shape = list(example.shape if isinstance(example, torch.Tensor) else example)
        raise ValueError(
            f"data must be a data set, examples or one example that the network takes, without the batch "
            f"axis; it does not take a batch of one with the shape {[1, *shape]}: {error}"
        ) from error


def deployed(model: nn.Module) -> nn.Module:
    """What runs in the end: integers or bits for simulations, floats for shared weights, else the model."""
    return convert(model) if any(_simulates(m) for m in model.modules()) else model


def _simulates(module: nn.Module) -> bool:
    bits = isinstance(module, Binary) and module.config.activations and not module.config.ternary
    return isinstance(module, Quantized | Shared) or bits


def _test_and_example(data: Data) -> tuple[Labelled | None, torch.Tensor | tuple[int, ...]]:
    data = data.test if isinstance(data, Split | TextSplit) else data
    if isinstance(data, Labelled):
        return data, tuple(data.x.shape[1:]) if data.x.is_floating_point() else data.x[0]
    whole = isinstance(data, tuple | list) and all(isinstance(n, Integral) and n > 0 for n in data)
    if isinstance(data, torch.Tensor):
        return None, data
    if not whole:
        raise ValueError(
            "data must be a data set, examples with labels, one example without the batch axis, or its "
            f"shape, got {kind(data)}"
        )
    return None, tuple(int(n) for n in data)
