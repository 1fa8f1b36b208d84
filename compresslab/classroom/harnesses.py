"""How an answer is driven where the cases' plain values are not what it takes: a clock, a gradient, a buffer.

A harness turns a learner's function into one from plain values to plain values. Each is complete in
itself, with nothing but NumPy and torch around it, because grading sends its text to another process,
which has no library.
"""

from collections.abc import Callable

import numpy as np
import torch


def on_fake_machine(function: Callable) -> Callable:
    """Timing on a clock that moves only when the timed call runs, by durations known beforehand."""

    class FakeMachine:
        def __init__(self, durations: np.ndarray) -> None:
            self.durations, self.now, self.calls = durations, 100.0, 0

        def call(self) -> None:
            self.now += float(self.durations[min(self.calls, len(self.durations) - 1)])
            self.calls += 1

        def clock(self) -> float:
            return self.now

    def timed(durations: np.ndarray, warmup: int, repeats: int) -> tuple[object, int]:
        machine = FakeMachine(durations)
        return function(machine.call, machine.clock, warmup, repeats), machine.calls

    return timed


def into_new_array(function: Callable) -> Callable:
    """Call with an int8 output array full of a sentinel, and return that array."""

    def called(x: np.ndarray, inverse: float, zero: int, low: int, high: int) -> np.ndarray:
        codes = np.full(x.shape, 99, np.int8)
        f32 = np.float32
        function(x, f32(inverse), f32(zero), f32(low), f32(high), codes)
        return codes

    return called


def with_gradient(function: Callable) -> Callable:
    """The function's value and the gradient of its weighted sum, as autograd finds it."""

    def called(x: torch.Tensor, *others: object) -> tuple:
        x = x.clone().requires_grad_(True)
        value = function(x, *others)
        if type(value) is not torch.Tensor or value.shape != x.shape:
            return value, None
        weights = torch.arange(1.0, x.numel() + 1).reshape(x.shape)
        if value.requires_grad:
            (value * weights).sum().backward()
        gradient = torch.zeros_like(x) if x.grad is None else x.grad
        return value.detach(), gradient

    return called


def product_and_balance(function: Callable) -> Callable:
    """What does not depend on the singular vectors' signs: shapes, the product, the size of each part."""

    def run(weight: np.ndarray, rank: int) -> tuple:
        first, second = function(weight, rank)
        shapes = tuple(map(int, first.shape)), tuple(map(int, second.shape))
        nothing = np.zeros(0, np.float32)
        # Before anything is multiplied: two thin arrays can have a product that fills the memory.
        fit = len(shapes[0]) == len(shapes[1]) == 2 and shapes[1][1] == shapes[0][0] <= rank
        if not fit or (shapes[1][0], shapes[0][1]) != weight.shape:
            return (*shapes, nothing, nothing, nothing)
        return *shapes, second @ first, np.square(first).sum(1), np.square(second).sum(0)

    return run


def as_one_kernel(function: Callable) -> Callable:
    """The shapes, the convolution that both make together, and how large each filter is."""

    def run(weight: np.ndarray, rank: int) -> tuple:
        thin, mix = function(weight, rank)
        shapes = tuple(map(int, thin.shape)), tuple(map(int, mix.shape))
        # As above: no product of shapes that were not asked for.
        fit = len(shapes[0]) == len(shapes[1]) == 4 and shapes[1][1] == shapes[0][0] <= rank
        if not fit or shapes[0][1:] != weight.shape[1:] or shapes[1][::2] != (len(weight), 1):
            return *shapes, np.zeros(0, np.float32), np.zeros(0, np.float32)
        together = np.einsum("mk,kchw->mchw", mix[:, :, 0, 0], thin)
        return *shapes, together, np.square(thin).sum((1, 2, 3))

    return run


def as_array(function: Callable) -> Callable:
    """A list counts as the array of its numbers."""
    return lambda *arguments: np.asarray(function(*arguments))


def any_best_code(function: Callable) -> Callable:
    """Ties may be broken either way: what counts is the length in all, and that it is a prefix code."""

    def judged(counts: np.ndarray) -> np.ndarray:
        lengths = np.asarray(function(counts))
        if lengths.shape != counts.shape or lengths.dtype.kind not in "iu":
            return lengths
        lengths = lengths.astype(np.float64)
        used = lengths[counts > 0]
        absent = float(np.abs(lengths[counts == 0]).sum())
        return np.array([(counts * lengths).sum(), (2.0**-used).sum(), absent])

    return judged


AFTERWARDS = (product_and_balance, as_one_kernel, as_array, any_best_code)
"""Those that only look at what the answer returned: grading lets them look outside of the sandbox."""


def with_rounding(function: Callable) -> Callable:
    """A search that is handed the rounding: groups along the rows, each with a symmetric grid of its own."""

    def rounded(w: np.ndarray, bits: int, group: int) -> np.ndarray:
        parts = np.ascontiguousarray(w, np.float32).reshape(len(w), -1, group)
        top = np.abs(parts).max(axis=2, keepdims=True)
        step = np.where(top > 0, top / (2 ** (bits - 1) - 1), 1).astype(np.float32)
        return (np.rint(parts / step) * step).reshape(w.shape)

    def searched(x: np.ndarray, w: np.ndarray, bits: int, group: int) -> np.ndarray:
        return function(x, w, lambda weight: rounded(weight, bits, group))

    return searched
