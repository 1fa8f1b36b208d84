"""Networks over seeds: built in turn, trained side by side, reported as mean ± sd.

A small network leaves most of a second core idle: torch divides each of its many short operations among
its threads, and they wait for one another at the end of each, the longer the busier the machine is. So a
lab runs torch on *one* thread, and its seeds on as many Python threads as there are cores (torch and the
kernels let go of Python's lock while they compute).

    networks = fit_all(built(make, SEEDS), data.train, 4, 0.2, seeds=SEEDS, label="VGG-like")

Weights come from torch's global generator, so networks are built one after the other; batches come from a
generator of each run's own. The results are those of training in turn, bit for bit. What draws from the
global generator *while* it trains (dropout, augmentation) must not run side by side: `in_turn=True`.
"""

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from compresslab.data import Examples
from compresslab.progress_bar import Bar
from compresslab.seeds import seeds
from compresslab.training import (
    Hook,
    Loss,
    Run,
    cross_entropy,
    evaluate,
    fit,
    seed_everything,
    steps_of,
)

THREADS, MOST_THREADS = "COMPRESSLAB_THREADS", 1024
Result = TypeVar("Result")


def begin(count: int = 3) -> tuple[int, ...]:
    """What a lab starts with: torch and NumPy on one thread, torch's generator seeded, and the lab's seeds.

    COMPRESSLAB_SEED shifts the seeds (see `seeds`), COMPRESSLAB_SEEDS makes them fewer (see `shorter`).
    COMPRESSLAB_THREADS gives torch more threads, to see what that does.

    Args:
        count: how many seeds.

    Raises:
        ValueError: if COMPRESSLAB_THREADS is no whole number that makes sense, and as `seeds` does.
    """
    text = os.environ.get(THREADS) or "1"
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MOST_THREADS:
        raise ValueError(
            f"{THREADS} must be a whole number from 1 to {MOST_THREADS:,}, got {text!r}"
        )
    torch.set_num_threads(int(text))
    # OpenBLAS' threads spin while they wait for each other: next to another busy process a singular value
    # decomposition takes many times as long on two of them as on one.
    threadpool_limits(int(text), user_api="blas")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", text)  # for a BLAS that is loaded later
    chosen = seeds(count)
    seed_everything(chosen[0])
    return chosen


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, or less where a container is given a share."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


# ---- side by side --------------------------------------------------------------------------------
def side_by_side(
    function: Callable[..., Result],
    *columns: Iterable,
    label: str = "",
    workers: int | None = None,
    in_turn: bool = False,
) -> list[Result]:
    """[function(a, b, ...) for a, b, ... in zip(*columns)], on as many threads as there are cores.

    Args:
        function: what is done; it must not draw from torch's global generator, nor trace a network
            (see `network.graph`).
        columns: its arguments, of equal length.
        label: of the progress bar, which counts the calls; none is shown for "".
        workers: Python threads; if None, one a core.
        in_turn: one after the other all the same.

    Returns:
        The results, in the order of the arguments.

    Raises:
        ValueError: for columns of different lengths, or fewer than one worker.
        Exception: the first error of a call, once the calls that had begun have ended.
    """
    rows = list(zip(*columns, strict=True))
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    workers = _workers(len(rows), in_turn, workers)
    with Bar(len(rows), label, "network") as bar:

        def call(row: tuple) -> Result:
            result = function(*row)
            bar.advance()
            return result

        return _on_threads(call, rows, workers)


def _workers(calls: int, in_turn: bool, wanted: int | None = None) -> int:
    """One if torch itself was asked for several threads: side by side it would get none of them."""
    alone = in_turn or (os.environ.get(THREADS) or "1") != "1"
    return 1 if alone else min(wanted or usable_cores(), calls)


def in_worker() -> bool:
    """Whether the caller runs inside a call that `side_by_side` or `fit_all` made."""
    return getattr(_here, "working", False)


_here = threading.local()


def _on_threads(call: Callable[[tuple], Result], rows: Sequence[tuple], workers: int) -> list:
    if workers <= 1:
        return [call(row) for row in rows]
    enter = partial(setattr, _here, "working", True)
    with _single_threaded_torch(), ThreadPoolExecutor(workers, initializer=enter) as pool:
        waiting = [pool.submit(call, row) for row in rows]
        try:
            return [future.result() for future in waiting]
        except BaseException:
            for future in waiting:
                future.cancel()
            raise


@contextmanager
def _single_threaded_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# ---- training ------------------------------------------------------------------------------------
def built(make: Callable[[], nn.Module], seeds: Sequence[int]) -> list[nn.Module]:
    """A fresh network for each seed, channels last in memory (torch trains convolutions faster so)."""
    networks = []
    for seed in seeds:
        seed_everything(seed)
        networks.append(make().to(memory_format=torch.channels_last))
    return networks


class _Advance(Hook):
    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def after_step(self, run: Run) -> None:
        self.bar.advance()


def fit_all(
    networks: Sequence[nn.Module],
    examples: Examples,
    epochs: float,
    lr: float,
    *,
    seeds: Sequence[int],
    label: str,
    batch_size: int = 128,
    loss: Loss | Sequence[Loss] = cross_entropy,
    hooks: Callable[[int], Sequence[Hook]] | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    in_turn: bool = False,
) -> list[nn.Module]:
    """Train networks in place, side by side, under one progress bar; as `fit` for each of them.

    Args:
        networks: one for each seed.
        examples: what all of them train on.
        epochs: as in `fit`.
        lr: as in `fit`.
        seeds: of each network's batches.
        label: of the bar.
        batch_size: as in `fit`.
        loss: one for all, which must keep nothing from one batch to the next, or one for each network.
        hooks: from the index of a network to its hooks, which hold a state of their own.
        optimizer: from a network to its optimizer; None for that of `fit`.
        in_turn: one after the other: for losses that draw from torch's global generator.

    Returns:
        The networks, in evaluation mode.

    Warns:
        UserWarning: if networks that trained side by side drew from torch's global generator.

    Raises:
        ValueError: if networks, seeds or losses are not equally many, and as `fit` does.
    """
    networks = list(networks)
    losses = [loss] * len(networks) if callable(loss) else list(loss)
    if not len(networks) == len(seeds) == len(losses):
        raise ValueError(
            f"networks, seeds and losses must be equally many, got {len(networks)}, "
            f"{len(seeds)} and {len(losses)}"
        )
    steps = steps_of(epochs, len(examples), batch_size)
    with Bar(steps * len(networks), label, "step") as bar:

        def train(row: tuple[int, nn.Module, int, Loss]) -> nn.Module:
            index, network, seed, its_loss = row
            more = list(hooks(index)) if hooks else []
            fit(
                network,
                examples,
                epochs,
                lr,
                batch_size,
                its_loss,
                [*more, _Advance(bar)],
                seed,
                optimizer(network) if optimizer else None,
                progress=False,
            )
            return network

        rows = list(zip(range(len(networks)), networks, seeds, losses, strict=True))
        workers = _workers(len(rows), in_turn)
        before = torch.get_rng_state()
        trained = _on_threads(train, rows, workers)
    if workers > 1 and not torch.equal(before, torch.get_rng_state()):
        warnings.warn(
            f"{label}: training drew from torch's global generator, which the networks shared; its numbers "
            "will be others next time. Pass in_turn=True.",
            stacklevel=2,
        )
    return trained


# ---- over seeds ----------------------------------------------------------------------------------
def mean_and_sd(values: Iterable[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the sd of a single value is 0.

    Raises:
        ValueError: for no values.
    """
    numbers = np.array(list(values), np.float64)
    if numbers.size == 0:
        raise ValueError("values must hold at least one number, got none")
    return float(numbers.mean()), float(numbers.std(ddof=1)) if numbers.size > 1 else 0.0


def accuracy(networks: Sequence[nn.Module], examples: Examples) -> tuple[float, float]:
    """Mean and sd of the networks' accuracies in per cent."""
    return mean_and_sd(side_by_side(lambda network: evaluate(network, examples), networks))
