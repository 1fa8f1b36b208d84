"""Wall-clock and processor time of calls and networks, with the number of threads beside it.

Warm-up calls first, then the median and the quartiles of many repeats. Networks that are compared run in one
race, in turn, so that a disturbance hits all alike and ratios hold where absolute times do not.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from compresslab.precision import as_taken
from compresslab.shorter import most_rounds
from compresslab.training import evaluating


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


def time_call(
    call: Callable[[], object], warmup: int = 3, repeats: int = 21, seconds: float = 2.0
) -> Timing:
    """Measure a call on the wall clock, with torch's number of threads recorded.

    Args:
        call: what to measure.
        warmup: calls before, which do not count.
        repeats: at most so many calls, at least 2; two where COMPRESSLAB_STEPS is set (`shorter`).
        seconds: begin no further call of either kind once so much time has passed, but for the first 5.

    Raises:
        ValueError: for fewer repeats than 2, which have no quartiles.
    """
    if repeats < 2:
        raise ValueError(f"repeats must be 2 or more for quartiles, got {repeats}")
    begin, most = time.perf_counter(), max(2, most_rounds(repeats))
    for _ in range(warmup):
        call()
        if time.perf_counter() - begin > seconds:
            break
    times: list[float] = []
    while len(times) < most and (len(times) < 5 or time.perf_counter() - begin < seconds):
        times += call_times(call, time.perf_counter, 0, 1)
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, lower, upper, len(times), torch.get_num_threads())


MOST_SECONDS = 0.7
"""Of timing a network at one batch size, where five calls take less: a table has many of them."""


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
        x = torch.rand(batch, *shape, generator=generator, dtype=torch.float32)
    x = as_taken(model, x)
    with torch.inference_mode(), evaluating(model):
        return time_call(lambda: model(x), repeats=repeats, seconds=MOST_SECONDS)


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
        rounds: at most so many rounds, at least 1; one where COMPRESSLAB_STEPS is set (`shorter`).
        seconds: stop earlier, but not before 5 rounds, once so much time has passed.
        clock: wall-clock time where threads are compared, whose CPU times add up.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        run()
    start = time.perf_counter()
    for number in range(most_rounds(rounds)):
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
        x: the batch, in the memory format that the networks want; those in half precision get it so.
        rounds: of the race; each takes as many passes as fill about two milliseconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), evaluating(nn.ModuleList(networks.values())):
            taken = {n: as_taken(m, x) for n, m in networks.items()}
            passes = {n: _passes(m, taken[n]) for n, m in networks.items()}
            runners = {
                n: lambda m=m, n=n: [m(taken[n]) for _ in range(passes[n])]
                for n, m in networks.items()
            }
            medians = race(runners, rounds)
    finally:
        torch.set_num_threads(threads)
    return {name: seconds / passes[name] for name, seconds in medians.items()}


def _passes(network: nn.Module, x: torch.Tensor) -> int:
    once = fair_time(lambda: network(x), warmup=1, repeats=3)
    return max(1, round(2e-3 / max(once, 1e-6)))
