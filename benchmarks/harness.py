"""A fair race: every runner once a round, round after round, and the median of each.

Interleaving makes a disturbance hit all alike; process CPU time leaves out what other processes did; so
ratios hold where absolute times do not. One thread unless a record says otherwise. Timings are printed
and kept as JSON, never tested.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from compresslab.kernels.simd import instruction_set

Runners = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Record:
    """One kernel against one peer; `ratio` is peer over ours, so above 1 ours is faster.

    `fraction_of_limit` is the share of what the machine reached in the same run (bandwidth or peak), None
    where there is no such limit.
    """

    kernel: str
    shape: str
    threads: int
    isa: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    fraction_of_limit: float | None


def race(
    runners: Runners,
    rounds: int = 15,
    seconds: float = 4.0,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Median CPU seconds of each runner, after one round that does not count.

    Args:
        runners: what to run, by name.
        rounds: at most so many rounds.
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


def repeated(run: Callable[[], object], times: int) -> Callable[[], None]:
    """A runner long enough for the clock: `run` so many times."""

    def runs() -> None:
        for _ in range(times):
            run()

    return runs


def two_threads(
    kernel: str, shape: str, run: Callable[[int], object], times: int = 1
) -> list[Record]:
    """A record of `run(2)` against `run(1)`, by the wall clock."""
    runners = {"ours": lambda: run(2), "ours, one thread": lambda: run(1)}
    runners = {name: repeated(call, times) for name, call in runners.items()}
    return records(kernel, shape, race(runners, clock=time.perf_counter), threads=2, times=times)


def records(
    kernel: str,
    shape: str,
    medians: dict[str, float],
    threads: int = 1,
    fraction_of_limit: float | None = None,
    limits: tuple[str, ...] = (),
    times: int = 1,
) -> list[Record]:
    """A record for every peer in `medians`, which holds ours under "ours".

    Args:
        kernel: its name.
        shape: of the data, as people write it.
        medians: seconds by name, from `race`.
        threads: how many were used.
        fraction_of_limit: of ours.
        limits: names in `medians` that are limits, not peers.
        times: how often a `repeated` runner ran.
    """
    ours = medians["ours"]
    return [
        Record(
            kernel,
            shape,
            threads,
            instruction_set(),
            1e3 * ours / times,
            peer,
            1e3 * theirs / times,
            theirs / ours,
            fraction_of_limit,
        )
        for peer, theirs in medians.items()
        if peer != "ours" and peer not in limits
    ]
