"""Sparse products against dense float32 and torch's CSR, over the share of zeros.

"dense fp32" is the fastest of torch in both orientations and NumPy in the same race. The limit is how fast
multiply-adds run on registers alone, counted for the nonzeros only.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.harness import Record, race, records, two_threads
from compresslab.kernels import sparse
from compresslab.kernels._jit import kernel
from compresslab.kernels.simd import Static, f32x16, fma, load, register_tile, splat, store

CHAINS, LANES = Static(12), Static(16)
PEAK_STEPS = 100_000


def run(scale: int = 1) -> Iterator[Record]:
    """A 1024 x 1024 weight with batches of 1, 32 and 256."""
    side = max(64, 1024 // scale)
    for batch in (1, 32, 256):
        for zeros in (0.3, 0.6, 0.9):
            yield from _products(side, batch, zeros)


@kernel
def peak(numbers, steps, out):
    """Multiply-adds on registers alone: 12 independent sums of 16 lanes."""
    tile = register_tile(CHAINS, LANES, f32x16)
    a = load(numbers, 0, f32x16)
    for i in range(0, 192, 16):
        store(tile, i, load(out, 0, f32x16))
    for step in range(steps):
        b = splat(np.float32(step), f32x16)
        for i in range(0, 192, 16):
            store(tile, i, fma(a, b, load(tile, i, f32x16)))
    for i in range(0, 192, 16):
        store(out, 0, load(out, 0, f32x16) + load(tile, i, f32x16))


def _peak_runner() -> tuple[Callable[[], object], int]:
    """A loop of nothing but multiply-adds, and how many it does."""
    numbers, out = np.full(16, 1e-9, np.float32), np.zeros(16, np.float32)
    return lambda: peak(numbers, PEAK_STEPS, out), PEAK_STEPS * 12 * 16


def _weight(side: int, zeros: float, block: tuple[int, int] = (1, 1)) -> np.ndarray:
    generator = np.random.default_rng(0)
    kept = generator.random((side // block[0], side // block[1])) >= zeros
    numbers = generator.normal(0, 1, (side, side)) * np.kron(kept, np.ones(block))
    return numbers.astype(np.float32)


def _products(side: int, batch: int, zeros: float) -> Iterator[Record]:
    x = np.random.default_rng(1).normal(0, 1, (side, batch)).astype(np.float32)
    plain = _weight(side, zeros)
    weight, inputs = torch.from_numpy(plain), torch.from_numpy(x)
    rows = inputs.T.contiguous()
    with warnings.catch_warnings():
        # torch calls its CSR support beta, once a process.
        warnings.simplefilter("ignore")
        theirs = weight.to_sparse_csr()
    dense = {
        "torch, W X": lambda: weight @ inputs,
        "torch, X W": lambda: rows @ weight.T,
        "NumPy": lambda: plain @ x,
    }
    forms = {
        "CSR matmul": sparse.Csr.of(plain),
        "block-sparse matmul, 8x16": sparse.Blocks.of(_weight(side, zeros, (8, 16))),
        "block-sparse matmul, 4x16": sparse.Blocks.of(_weight(side, zeros, (4, 16)), (4, 16)),
    }
    if zeros == 0.6:
        forms["2:4 matmul (half zeros)"] = sparse.TwoOfFour.of(_pairs(side))
    run_peak, products = _peak_runner()
    for name, form in forms.items():
        runners = {"ours": lambda form=form: sparse.matmul(form, x), "peak": run_peak, **dense}
        if name == "CSR matmul":
            runners["torch CSR"] = lambda: theirs @ inputs
        medians = race(runners, seconds=1.0)
        medians["dense fp32"] = min(medians.pop(peer) for peer in dense)
        done = form.values.size * batch / medians["ours"] / (products / medians["peak"])
        shape = f"{side}x{side}, batch {batch}, {100 * zeros:.0f} % zeros"
        yield from records(name, shape, medians, 1, done, limits=("peak",))
    if batch == 256 and zeros == 0.6:
        form = forms["CSR matmul"]
        yield from two_threads("CSR matmul", shape, lambda n: sparse.matmul(form, x, n))


def _pairs(side: int) -> np.ndarray:
    """Two random columns of every four."""
    generator = np.random.default_rng(2)
    groups = generator.normal(0, 1, (side, side // 4, 4)).astype(np.float32)
    dropped = np.argsort(generator.random(groups.shape), axis=2)[..., :2]
    np.put_along_axis(groups, dropped, 0, axis=2)
    return groups.reshape(side, side)
