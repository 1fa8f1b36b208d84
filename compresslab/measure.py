"""What a network costs, measured: bytes, parameters, MACs, milliseconds, picojoules, accuracy.

    MACs of a linear layer       inputs * outputs                              (乘加次数)
    MACs of a convolution        k_h * k_w * (C_in / groups) * C_out * H_out * W_out
    BOPs                         MACs * bits of a weight * bits of an activation
    energy                       MACs * (multiply + add) + weight bytes * DRAM read

BOPs as in van Baalen et al. 2020 (https://arxiv.org/abs/2005.07093), appendix B. Bytes on disk are the size
of a safetensors file that was really written. Latency is wall-clock time in this process: warm-up calls
first, then the median and the quartiles of many repeats, with the number of threads beside it.

Counts come from one forward pass with a hook on every layer, so they hold for any network that runs;
on the meta device nothing is allocated. Left out of MACs: biases, norms, activations and pooling, which
together are a few per cent; matrix products outside of layers (attention scores), which their modules
can add by a `macs` method.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from compresslab.data import Examples
from compresslab.network.select import is_transposed
from compresslab.network.taps import tapped
from compresslab.runtime import storage, weight_only
from compresslab.runtime.peers import OnnxModel
from compresslab.runtime.program import Program
from compresslab.techniques.quantizer import Quantized
from compresslab.techniques.sharing import Shared
from compresslab.training import evaluate, evaluating

UNCOUNTED = (
    *(nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.RNN, nn.GRU, nn.Bilinear, nn.MultiheadAttention),
)
"""Layers that multiply, and whose multiplications are not counted."""


# ---- counting ------------------------------------------------------------------------------------
def linear_macs(inputs: int, outputs: int, positions: int = 1) -> int:
    """Multiply-accumulates of one example through a linear layer, applied at every position."""
    return positions * inputs * outputs


def conv2d_macs(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    output_size: tuple[int, int],
    groups: int = 1,
) -> int:
    """Multiply-accumulates of one image through a 2-D convolution.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: height and width of the kernel.
        output_size: height and width of the output.
        groups: each output channel sees inputs / groups input channels.
    """
    return math.prod(kernel) * (inputs // groups) * outputs * math.prod(output_size)


@dataclass(frozen=True)
class LayerCount:
    """One layer's share: its dotted name, parameters, and MACs for one example."""

    name: str
    kind: str
    parameters: int
    macs: int
    weight_bits: int = 32
    activation_bits: int = 32

    @property
    def bops(self) -> int:
        """Bit operations for one example."""
        return self.macs * self.weight_bits * self.activation_bits


def layer_macs(layer: nn.Module, output: torch.Tensor) -> int:
    """MACs of one example through one layer, from its output; 0 for layers that do not multiply.

    Raises:
        ValueError: for a kind of layer that multiplies and that the course does not count.
    """
    if isinstance(layer, Quantized | Shared):
        return layer_macs(layer.layer, output)
    if isinstance(layer, nn.Conv2d):
        size = tuple(output.shape[-2:])
        kernel = layer.kernel_size
        return conv2d_macs(layer.in_channels, layer.out_channels, kernel, size, layer.groups)
    if isinstance(layer, nn.Linear):
        positions = math.prod(output.shape[1:-1])
        return linear_macs(layer.in_features, layer.out_features, positions)
    if isinstance(layer, nn.LSTM):
        return _lstm_macs(layer, output[0])
    if hasattr(layer, "macs"):
        return layer.macs(output)
    if is_transposed(layer):
        outputs = output.shape[-1]
        return linear_macs(layer.weight.shape[0], outputs, math.prod(output.shape[1:-1]))
    if isinstance(layer, UNCOUNTED):
        raise ValueError(f"layer must be of a kind that is counted, got {type(layer).__name__}")
    return 0


def _lstm_macs(layer: nn.LSTM, states: torch.Tensor) -> int:
    """Four gates, each a product of the input and of the last state, at every step."""
    steps = states.shape[1] if layer.batch_first else states.shape[0]
    directions = 2 if layer.bidirectional else 1
    inputs, total = layer.input_size, 0
    for _ in range(layer.num_layers):
        total += directions * 4 * layer.hidden_size * (inputs + layer.hidden_size)
        inputs = directions * layer.hidden_size
    return steps * total


def count_layers(model: nn.Module, shape: tuple[int, ...] | torch.Tensor) -> list[LayerCount]:
    """Parameters and MACs of every layer for one example, in order of execution.

    A layer that runs twice appears twice; a parameter is counted the first time only. Quantizers' own scales
    and shared values count as parameters, codes do not.

    Args:
        model: any network that runs on a batch of one.
        shape: of an example of floats, without the batch; or an example itself (tokens).
    """
    counts, seen = [], set()

    def record(name: str, layer: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        new = [p for p in layer.parameters(recurse=layer in whole) if p not in seen]
        seen.update(new)
        parameters = sum(p.numel() for p in new)
        bits = getattr(layer, "weight_bits", 32), getattr(layer, "activation_bits", 32)
        macs = layer_macs(layer, output)
        if macs or parameters:
            counts.append(LayerCount(name, type(layer).__name__, parameters, macs, *bits))

    names = {layer: name for name, layer in model.named_modules()}
    # Layers that compute with their inner layer's numbers, and never call it.
    whole = {m for m in names if isinstance(m, Quantized | Shared) or is_parametrized(m)}
    inside = {inner for layer in whole for inner in layer.modules() if inner is not layer}
    counted = {
        name: layer
        for layer, name in names.items()
        if layer not in inside
        and (
            layer in whole
            or not list(layer.children())
            or hasattr(layer, "macs")
            or isinstance(layer, UNCOUNTED)
        )
    }
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else "cpu"
    with tapped(counted, after=record), torch.no_grad(), evaluating(model):
        example = shape if isinstance(shape, torch.Tensor) else torch.zeros(shape)
        model(example[None].to(device))
    return counts


def parameter_bytes(parameters: int, bits: int) -> int:
    """Whole bytes that so many parameters take at `bits` bits each, packed without gaps."""
    return (parameters * bits + 7) // 8


def memory_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are held in memory, each once."""
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def disk_bytes(model: nn.Module) -> int:
    """Bytes of the safetensors file that holds the model: packed codes, or parameters and buffers.

    A tensor that several layers share lies in the file once. Zeros and shared values are not coded here: what
    a file that does is worth, `runtime.files.size` says.

    Raises:
        ValueError: for a network that only simulates integers: convert it first.
    """
    if any(isinstance(module, Quantized) for module in model.modules()):
        raise ValueError("model must be converted to integers to be weighed, got a simulation")
    if isinstance(model, OnnxModel):
        return len(model.file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        if isinstance(model, Program):
            return storage.save(model, path)
        if weight_only.packed_layers(model):
            return weight_only.save(model, path)
        # A tensor that appears under several names is one object here, and is kept under its last.
        tensors = {id(t): (n, t) for n, t in model.state_dict(keep_vars=True).items()}
        save_file({n: t.detach().contiguous().clone() for n, t in tensors.values()}, path)
        return path.stat().st_size


def working_bytes(model: nn.Module, shape: tuple[int, ...] | torch.Tensor) -> int:
    """Bytes that one image's activations need at once: the largest input and output of a layer together.

    What an engine needs that frees each result as soon as the next is there; results that wait for an
    addition further on are not counted, nor is what happens outside of modules. Codes of an integer
    network count as they are held here, a byte each.

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
        model((shape if isinstance(shape, torch.Tensor) else torch.zeros(shape))[None])
    return largest


def nonzero_parameters(model: nn.Module) -> int:
    """How many parameters are not exactly 0."""
    return sum(int(p.count_nonzero()) for p in model.parameters())


# ---- time ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Timing:
    """Seconds a call takes: the median and the quartiles of `repeats` calls on `threads` threads."""

    median: float
    lower: float
    upper: float
    repeats: int
    threads: int

    def __str__(self) -> str:
        """Median and quartiles in milliseconds."""
        return f"{1e3 * self.median:.3g} ms ({1e3 * self.lower:.3g}-{1e3 * self.upper:.3g})"


def call_times(
    call: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    warmup: int = 3,
    repeats: int = 21,
) -> list[float]:
    """The duration of each of `repeats` calls, after `warmup` calls that are not timed."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return times


def fair_time(
    call: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    warmup: int = 3,
    repeats: int = 21,
) -> float:
    """The median duration of a call: unmoved by a slow start or by a few disturbed calls."""
    return statistics.median(call_times(call, clock, warmup, repeats))


def time_call(call: Callable[[], object], warmup: int = 3, repeats: int = 21) -> Timing:
    """Measure a call on the wall clock, with torch's number of threads recorded; at least 2 repeats."""
    if repeats < 2:
        raise ValueError(f"repeats must be 2 or more for quartiles, got {repeats}")
    times = call_times(call, time.perf_counter, warmup, repeats)
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, lower, upper, repeats, torch.get_num_threads())


def latency(
    model: nn.Module, shape: tuple[int, ...] | torch.Tensor, batch: int = 1, repeats: int = 21
) -> Timing:
    """Time of one forward pass over `batch` examples, in evaluation mode.

    The examples are random floats of `shape`, or copies of the one that is given.
    """
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, got {batch}")
    generator = torch.Generator().manual_seed(0)
    if isinstance(shape, torch.Tensor):
        x = shape.expand(batch, *shape.shape).contiguous()
    else:
        x = torch.rand(batch, *shape, generator=generator)
    with torch.inference_mode(), evaluating(model):
        return time_call(lambda: model(x), repeats=repeats)


def race(
    runners: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    seconds: float = 4.0,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Median CPU seconds of each runner: every one once a round, after one round that does not count.

    Interleaving makes a disturbance hit all alike, and process CPU time leaves out what other processes
    did: so ratios hold where absolute times do not.

    Args:
        runners: what to run, by name.
        rounds: at most so many rounds, at least 1.
        seconds: stop earlier, but not before 5 rounds, once so much time has passed.
        clock: wall-clock time where threads are compared, whose CPU times add up.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        run()
    start = time.perf_counter()
    for number in range(rounds):
        if number >= 5 and time.perf_counter() - start > seconds:
            break
        for name, run in runners.items():
            before = clock()
            run()
            times[name].append(clock() - before)
    return {name: statistics.median(values) for name, values in times.items()}


def race_networks(
    networks: Mapping[str, nn.Module], x: torch.Tensor, rounds: int = 21
) -> dict[str, float]:
    """Seconds of a forward pass over `x` on one thread, by network, from a race.

    Args:
        networks: run in evaluation mode.
        x: the batch, in the memory format that the networks want.
        rounds: of the race; each takes as many passes as fill about two milliseconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), evaluating(nn.ModuleList(networks.values())):
            passes = {n: _passes(m, x) for n, m in networks.items()}
            runners = {
                n: lambda m=m, n=n: [m(x) for _ in range(passes[n])] for n, m in networks.items()
            }
            medians = race(runners, rounds)
    finally:
        torch.set_num_threads(threads)
    return {name: seconds / passes[name] for name, seconds in medians.items()}


def _passes(network: nn.Module, x: torch.Tensor) -> int:
    once = fair_time(lambda: network(x), warmup=1, repeats=3)
    return max(1, round(2e-3 / max(once, 1e-6)))


# ---- the roofline --------------------------------------------------------------------------------
@dataclass(frozen=True)
class MachineLimits:
    """What this machine reaches in this process: fp32 MACs and bytes moved, each per second."""

    macs_per_second: float
    bytes_per_second: float
    threads: int


def machine_limits(size: int = 768, megabytes: int = 64) -> MachineLimits:
    """Measure both limits, each the best of some calls: a limit is what is never exceeded.

    Arithmetic: a size^3 fp32 matrix product. Memory: a copy (bytes read and written count) or a matrix times
    a vector (bytes read), whichever moves more; processors differ in which that is.
    """
    a, b = torch.rand(size, size), torch.rand(size, size)
    source = torch.rand(megabytes * 1_000_000 // 4 // 1000, 1000)
    target, vector = torch.empty_like(source), torch.rand(1000)
    product = min(call_times(lambda: torch.mm(a, b), repeats=15))
    copied = 2 * source.nbytes / min(call_times(lambda: target.copy_(source), repeats=9))
    read = source.nbytes / min(call_times(lambda: torch.mv(source, vector), repeats=9))
    return MachineLimits(size**3 / product, max(copied, read), torch.get_num_threads())


def roofline(
    macs: float, bytes_moved: float, macs_per_second: float, bytes_per_second: float
) -> tuple[float, str]:
    """The least time a layer can take, and which limit sets it.

    Arithmetic and memory traffic overlap, so the longer of the two decides (Williams, Waterman and
    Patterson 2009, https://doi.org/10.1145/1498765.1498785).

    Returns:
        Seconds, and "compute" or "memory" (on a tie: "compute").
    """
    compute, memory = macs / macs_per_second, bytes_moved / bytes_per_second
    return max(compute, memory), "compute" if compute >= memory else "memory"


# ---- energy --------------------------------------------------------------------------------------
PICOJOULES = {
    "int8 multiply": 0.2,
    "int32 add": 0.1,
    "fp16 multiply": 1.1,
    "fp16 add": 0.4,
    "fp32 multiply": 3.7,
    "fp32 add": 0.9,
    "DRAM byte": 160.0,
}
"""Energy of one operation in a 45 nm process at 0.9 V: M. Horowitz, ISSCC 2014, figure 1.1.9; the DRAM
read (640 pJ for 32 bits) as quoted by Han et al. 2015, https://arxiv.org/abs/1506.02626, table 1."""


def mac_picojoules(weight_bits: int, activation_bits: int) -> float:
    """Energy of one multiply-accumulate, in pJ.

    Integer multipliers below 8 bits are extrapolated by area, as the product of the two widths; mixed
    integer and float operands are computed in the float format.
    """
    widest = max(weight_bits, activation_bits)
    if widest > 16:
        return PICOJOULES["fp32 multiply"] + PICOJOULES["fp32 add"]
    if widest > 8:
        return PICOJOULES["fp16 multiply"] + PICOJOULES["fp16 add"]
    product = weight_bits * activation_bits / 64
    return PICOJOULES["int8 multiply"] * product + PICOJOULES["int32 add"]


def energy_microjoules(layers: Sequence[LayerCount], weight_bytes: int) -> float:
    """Estimated energy of one inference at batch 1, each weight read once from DRAM, in microjoules."""
    compute = sum(c.macs * mac_picojoules(c.weight_bits, c.activation_bits) for c in layers)
    return 1e-6 * (compute + weight_bytes * PICOJOULES["DRAM byte"])


# ---- all of it -----------------------------------------------------------------------------------
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
    name: str,
    model: nn.Module | Sequence[nn.Module],
    shape: tuple[int, ...] | torch.Tensor,
    test: Examples | None = None,
    batches: Sequence[int] = (1, 64),
) -> Measurement:
    """Count, weigh, time and test a network.

    Args:
        name: the row's name.
        model: the network, or the same network trained from several seeds: accuracy is taken over all,
            everything else from the first.
        shape: of one example, without the batch; or an example (tokens).
        test: what accuracy is measured on; if None, it is not.
        batches: batch sizes to time.
    """
    models = [model] if isinstance(model, nn.Module) else list(model)
    if not models:
        raise ValueError("model must be a module or at least one in a list, got an empty list")
    first = models[0]
    layers = count_layers(first, shape)
    disk = disk_bytes(first)
    return Measurement(
        name=name,
        parameters=sum(p.numel() for p in first.parameters()),
        nonzeros=nonzero_parameters(first),
        bytes_memory=memory_bytes(first),
        bytes_disk=disk,
        macs=sum(layer.macs for layer in layers),
        bops=sum(layer.bops for layer in layers),
        energy=energy_microjoules(layers, disk),
        latency={batch: latency(first, shape, batch) for batch in batches},
        accuracies=tuple(evaluate(m, test) for m in models) if test is not None else (),
    )
