"""`python -m benchmarks.threads`: how many times faster each kernel is on 2, 4, ... threads than on one.

    kernel                       1 thread, ms    2     4     8
    int8 product, 2048^3              ...        1.9   3.6   ...
    torch fp32 product, 2048^3        ...

By the wall clock, medians of rounds in which all thread counts take turns. The same product in torch stands
beside ours: what it does not gain, the machine does not have (threads that share a core, a clock that falls).
Left out: a page of results. The course's machines have two cores; this is for whoever has more.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn

from compresslab import models
from compresslab.experiment import usable_cores
from compresslab.kernels import int8, lowbit, panels, xnor
from compresslab.kernels.simd import instruction_set
from compresslab.measure import race
from compresslab.report import Table
from compresslab.runtime.convert import convert
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig

Kernel = Callable[[int], object]


def kernels(scale: int = 1) -> dict[str, Kernel]:
    """What is timed, by name: a call with a number of threads.

    Args:
        scale: sizes are divided by it, for a quick look.
    """
    random = np.random.default_rng(0)
    found: dict[str, Kernel] = {}
    n = 2048 // scale
    codes, weight = (
        random.integers(0, 256, (n, n), dtype=np.uint8),
        random.integers(-127, 128, (n, n)),
    )
    packed = panels.pack_weight(weight.astype(np.int8))
    found[f"int8 product, {n}^3"] = lambda threads: int8.matmul(codes, packed, threads)
    signs = random.normal(size=(2 * n, 2 * n)).astype(np.float32)
    words = xnor.pack_signs(signs)
    signed = xnor.pack_weight(words, 2 * n)
    found[f"product of signs, {2 * n}^3"] = lambda threads: xnor.matmul(words, signed, threads)
    rows = random.normal(size=(16, 2 * n)).astype(np.float32)
    nibbles = random.integers(0, 16, (2 * n, 2 * n), dtype=np.uint8)
    scales, zeros = np.full((2 * n, 2 * n // 32), 0.1, np.float32), np.full((2 * n, 2 * n // 32), 8)
    low = lowbit.pack_weight(nibbles, scales, zeros, 4, 32)
    found[f"4-bit weights, 16 x {2 * n}^2"] = lambda threads: lowbit.matmul(
        rows, low, threads=threads
    )
    images = torch.randn(max(2, 256 // scale), 1, 28, 28)
    program = _integers(images)
    found[f"ResNet-8 in integers, batch {len(images)}"] = in_torch(lambda: program(images))
    a = torch.randn(n, n)
    found[f"torch fp32 product, {n}^3"] = in_torch(lambda: a @ a)
    return found


def in_torch(run: Callable[[], object]) -> Kernel:
    """A call that takes torch's number of threads."""

    def threaded(threads: int) -> object:
        torch.set_num_threads(threads)
        try:
            return run()
        finally:
            torch.set_num_threads(1)

    return threaded


def _integers(images: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    network = models.ResNet8((1, 28, 28), 10).eval()
    return convert(quantize_post_training(network, QuantConfig(), images[:64]))


def counts(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`, and that itself."""
    found = [2**i for i in range(most.bit_length()) if 2**i <= most]
    return found if found[-1] == most else [*found, most]


def scaling(most: int, scale: int = 1, rounds: int = 7) -> Table:
    """The table: milliseconds on one thread, and how many times faster on more."""
    columns, lines = counts(most), []
    for name, run in kernels(scale).items():
        runners = {str(n): partial(run, n) for n in columns}
        seconds = race(runners, rounds=rounds, clock=time.perf_counter)
        faster = [f"{seconds['1'] / seconds[str(n)]:.2f}" for n in columns[1:]]
        lines.append([name, f"{1e3 * seconds['1']:.2f}", *faster])
    headings = ["kernel", "1 thread, ms", *(f"{n} threads, times" for n in columns[1:])]
    return Table(headings, lines, f"{instruction_set()}; medians of {rounds} rounds, wall clock")


def main(
    most: Annotated[int, typer.Option(min=0, help="threads at the most; 0: all cores")] = 0,
    scale: Annotated[int, typer.Option(min=1, help="divide the sizes, for a quick look")] = 1,
) -> None:
    """Time every kernel on 1, 2, 4, ... threads."""
    print(scaling(most or usable_cores(), scale))


if __name__ == "__main__":
    typer.run(main)
