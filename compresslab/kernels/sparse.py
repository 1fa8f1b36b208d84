"""Sparse weights times dense activations: skip the zeros, and pay for finding the rest (稀疏).

    Y = W X        W [N, K] mostly zeros, X [K, B] with the batch innermost, Y [N, B]

Three ways to write the nonzeros down; each trades freedom for speed:

    CSR          any pattern        row n owns values[starts[n] : starts[n + 1]], each with its column
    2:4          2 of every 4       values [N, K / 2] and one byte a group: first column + 4 * second column
    blocks       whole BR x BK      block row I owns blocks[starts[I] : starts[I + 1]], values [BK, BR] each

A nonzero multiplies a whole row of X: 16 columns of the batch in a register, several registers side by side,
so the sums of one output stay in registers while its nonzeros stream by. A dense product reuses every loaded
number several times; CSR loads a row of X for each nonzero: it wins only where most of the weights are gone,
and blocks, which share what they load, win earlier. So that those rows come from the first-level cache, X
is cut into strips of the batch, and CSR multiplies with PANEL columns of W at a time. With one input
(B = 1) there is nothing side by side, and CSR gathers single numbers.

Left out: sparse activations, gradients, 16-bit column differences.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compresslab.kernels import _checks
from compresslab.kernels._threads import split_rows
from compresslab.kernels.panels import aligned
from compresslab.kernels.simd import Static
from compresslab.kernels.sparse_loops import (
    EIGHT,
    FOUR,
    PANEL,
    block_rows,
    csr_rows,
    csr_vector,
    pair_rows,
)

WIDTHS = {16: Static(16), 32: Static(32), 64: Static(64)}
BLOCK_ROWS = {4: FOUR, 8: EIGHT}
CHAINS = FOUR
"""Sums in flight for each register of an output: eight and more hide what a multiply-add takes."""
SPLIT_MACS = 2_000_000


@dataclass(frozen=True)
class Csr:
    """Compressed sparse rows: starts int64 [N + 1], columns int32 and values float32 [nonzeros]."""

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def of(cls, dense: np.ndarray) -> "Csr":
        """The nonzeros of a float32 matrix.

        Raises:
            ValueError: if it is no float32 matrix.
        """
        dense = _matrix("dense", dense)
        rows, columns = np.nonzero(dense)
        starts = np.zeros(len(dense) + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=len(dense)), out=starts[1:])
        return cls(starts, columns.astype(np.int32), dense[rows, columns], dense.shape)

    @functools.cached_property
    def panels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same by PANEL columns at a time: starts int64 [panels, N + 1], columns, values.

        Each row's part is filled up to a multiple of CHAINS with zeros, at the column of its last nonzero.
        """
        outputs = self.shape[0]
        rows = np.repeat(np.arange(outputs), np.diff(self.starts))
        count = max(1, -(-self.shape[1] // PANEL))
        part = self.columns // PANEL * outputs + rows
        sizes = np.bincount(part, minlength=count * outputs)
        room = -(-sizes // CHAINS.number) * CHAINS.number
        ends = np.cumsum(room)
        order = np.argsort(part, kind="stable")
        within = np.arange(len(part)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        places = np.repeat(ends - room, sizes) + within
        columns, values = np.zeros(room.sum(), np.int32), np.zeros(room.sum(), np.float32)
        last = np.cumsum(sizes)[sizes > 0] - 1
        columns[:] = np.repeat(self.columns[order][last], room[sizes > 0])
        columns[places], values[places] = self.columns[order], self.values[order]
        starts = np.zeros((count, outputs + 1), np.int64)
        starts[:, 1:] = ends.reshape(count, outputs)
        starts[1:, 0] = starts[:-1, -1]
        return starts, columns, values

    def dense(self) -> np.ndarray:
        """The matrix with its zeros."""
        out = np.zeros(self.shape, np.float32)
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self.starts))
        out[rows, self.columns] = self.values
        return out


@dataclass(frozen=True)
class TwoOfFour:
    """2:4 sparsity: values float32 [N, K / 2], codes uint8 [N, K / 4] = first + 4 * second column."""

    values: np.ndarray
    codes: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def of(cls, dense: np.ndarray) -> "TwoOfFour":
        """A matrix in which at most two of every four neighbours in a row are not 0.

        Raises:
            ValueError: if it is no float32 matrix, K no multiple of 4, or a group is fuller.
        """
        dense = _matrix("dense", dense)
        outputs, inputs = dense.shape
        if inputs % 4:
            raise ValueError(f"dense must have a multiple of 4 columns, got {inputs}")
        groups = dense.reshape(outputs, inputs // 4, 4)
        if ((groups != 0).sum(axis=2) > 2).any():
            n, g = np.argwhere((groups != 0).sum(axis=2) > 2)[0]
            raise ValueError(
                f"dense must have at most 2 nonzeros in every group of 4, got {groups[n, g]} "
                f"in row {n}, columns {4 * g} to {4 * g + 3}"
            )
        # A stable sort puts the nonzeros first, in their own order.
        chosen = np.argsort(groups == 0, axis=2, kind="stable")[..., :2]
        chosen.sort(axis=2)
        values = np.take_along_axis(groups, chosen, axis=2).reshape(outputs, -1)
        codes = (chosen[..., 0] + 4 * chosen[..., 1]).astype(np.uint8)
        return cls(np.ascontiguousarray(values), codes, dense.shape)

    def dense(self) -> np.ndarray:
        """The matrix with its zeros."""
        out = np.zeros((*self.codes.shape, 4), np.float32)
        pairs = self.values.reshape(*self.codes.shape, 2)
        # The second first: where a group has one nonzero, the other value is a 0 somewhere else.
        for place, column in ((1, self.codes >> 2), (0, self.codes & 3)):
            np.put_along_axis(
                out, column[..., None].astype(np.int64), pairs[..., place : place + 1], 2
            )
        return out.reshape(self.shape)


@dataclass(frozen=True)
class Blocks:
    """Block-sparse rows: starts int64 [N / BR + 1], columns int32, values float32 [blocks, BK, BR]."""

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def of(cls, dense: np.ndarray, block: tuple[int, int] = (8, 16)) -> "Blocks":
        """The blocks of a float32 matrix that are not all 0.

        Args:
            dense: [N, K].
            block: BR x BK; BR 4 or 8. They must divide N and K.

        Raises:
            ValueError: if they do not.
        """
        dense = _matrix("dense", dense)
        rows, columns = block
        if rows not in BLOCK_ROWS or columns < 1:
            raise ValueError(f"block must have 4 or 8 rows and at least 1 column, got {block}")
        if dense.shape[0] % rows or dense.shape[1] % columns:
            raise ValueError(f"block must divide the shape {dense.shape}, got {block}")
        tiles = dense.reshape(dense.shape[0] // rows, rows, dense.shape[1] // columns, columns)
        tiles = tiles.transpose(0, 2, 3, 1)
        kept = (tiles != 0).any(axis=(2, 3))
        places = np.nonzero(kept)
        starts = np.zeros(len(tiles) + 1, np.int64)
        np.cumsum(kept.sum(axis=1), out=starts[1:])
        values = np.ascontiguousarray(tiles[places])
        return cls(starts, places[1].astype(np.int32), values, dense.shape)

    def dense(self) -> np.ndarray:
        """The matrix with its zeros."""
        _, columns, rows = self.values.shape
        out = np.zeros((len(self.starts) - 1, self.shape[1] // columns, columns, rows), np.float32)
        rows_of = np.repeat(np.arange(len(out)), np.diff(self.starts))
        out[rows_of, self.columns] = self.values
        return out.transpose(0, 3, 1, 2).reshape(self.shape)


Sparse = Csr | TwoOfFour | Blocks
Runner = Callable[[int, int], None]


def matmul(weight: Sparse, x: np.ndarray, threads: int = 1) -> np.ndarray:
    """The product W X.

    Args:
        weight: [N, K] in one of the three forms.
        x: float32 [K, B].
        threads: at most so many.

    Returns:
        float32 [N, B].

    Raises:
        ValueError: if x is no float32 matrix with K rows.
    """
    x = _matrix("x", x)
    outputs, inputs = weight.shape
    if len(x) != inputs:
        raise ValueError(f"x must have shape [{inputs}, B], got {x.shape}")
    batch = x.shape[1]
    if batch == 1 and isinstance(weight, Csr):
        out = np.empty((outputs, 1), np.float32)
        run = _vector_runner(weight, x, out)
    else:
        widest = 64 if isinstance(weight, TwoOfFour) else 32
        width = next((w for w in (16, 32) if batch <= w < widest), widest)
        strips = _strips(x, width)
        out = np.empty((outputs, len(strips) * width), np.float32)
        run = _RUNNERS[type(weight)](weight, strips, out)
    work = weight.values.size * batch
    unit = weight.values.shape[2] if isinstance(weight, Blocks) else 1
    split_rows(run, outputs // unit, threads if work > SPLIT_MACS else 1)
    return out[:, :batch]


def _matrix(name: str, value: np.ndarray) -> np.ndarray:
    value = _checks.array_of(name, value, np.float32)
    if value.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, got shape {value.shape}")
    return value


def _strips(x: np.ndarray, width: int) -> np.ndarray:
    """X cut into strips of the batch, [strips, K, width], the last one padded with 0.

    A strip's rows are neighbours: at the distance of a whole batch many of them would share the few places
    that a cache has for them.
    """
    inputs, batch = x.shape
    count = max(1, -(-batch // width))
    strips = aligned(count * inputs * width, np.float32).reshape(count, inputs, width)
    whole = batch // width
    cut = x[:, : whole * width].reshape(inputs, whole, width)
    strips[:whole] = cut.transpose(1, 0, 2)
    if whole < count:
        strips[whole, :, : batch - whole * width] = x[:, whole * width :]
    return strips


def _vector_runner(weight: Csr, x: np.ndarray, out: np.ndarray) -> Runner:
    vector, result = x.reshape(-1), out.reshape(-1)

    def run(first: int, last: int) -> None:
        csr_vector(weight.starts, weight.columns, weight.values, vector, first, last, result)

    return run


def _csr_runner(weight: Csr, strips: np.ndarray, out: np.ndarray) -> Runner:
    arrays = (*weight.panels, strips.reshape(-1), weight.shape[1])

    def run(first: int, last: int) -> None:
        csr_rows(*arrays, first, last, WIDTHS[strips.shape[2]], CHAINS, out)

    return run


def _pair_runner(weight: TwoOfFour, strips: np.ndarray, out: np.ndarray) -> Runner:
    arrays = (weight.values.reshape(-1), weight.codes, strips.reshape(-1))
    rows = FOUR if strips.shape[2] == 64 else EIGHT

    def run(first: int, last: int) -> None:
        pair_rows(*arrays, first, last, WIDTHS[strips.shape[2]], rows, out)

    return run


def _block_runner(weight: Blocks, strips: np.ndarray, out: np.ndarray) -> Runner:
    arrays = (weight.starts, weight.columns, weight.values.reshape(-1), strips.reshape(-1))
    _, columns, rows = weight.values.shape
    shape = (weight.shape[1], columns, BLOCK_ROWS[rows])

    def run(first: int, last: int) -> None:
        block_rows(*arrays, *shape, first, last, WIDTHS[strips.shape[2]], out)

    return run


_RUNNERS = {Csr: _csr_runner, TwoOfFour: _pair_runner, Blocks: _block_runner}
