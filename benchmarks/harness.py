"""Records of fair races: our kernels against their peers, as ratios.

One thread unless a record says otherwise. Timings are printed and kept as JSON, never tested.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from compresslab.kernels.simd import instruction_set
from compresslab.measure import race


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
