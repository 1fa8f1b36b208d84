"""What this machine can reach, and what that means for a layer: the roofline."""

from dataclasses import dataclass

import torch

from compresslab.measure.clocks import call_times


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
