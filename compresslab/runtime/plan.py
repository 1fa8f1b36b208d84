"""A deployed network as a table that one compiled function walks (`kernels.plan`).

    Program    one Python call for each step, its result in an array of its own
    Plan       one call for all steps; results in one arena, whose places are used again (`runtime.arena`)

A `Program` makes a plan for a size of image that comes a second time, and runs it where nobody watches its
steps (no hooks, no torch.compile). Codes are the same, bit for bit; what differs is the calling, which costs
a step of a small network more than its arithmetic. Batches run in groups of examples whose activations stay
in the cache, the groups over threads. The function is compiled once for all networks, which takes a while the
first time on a machine: it holds a loop for every kind of step and every width of a tile.

Left out: networks with a step in floats in their middle, with binary layers, with several inputs or with
tokens: those run step by step, and NoPlanError says why.
"""

import math

import numpy as np
import torch

from compresslab.kernels._threads import split_rows
from compresslab.kernels.int8_conv import SLACK
from compresslab.kernels.plan import walk
from compresslab.runtime.arena import NoPlaceError, Shapes, lives_by_name, places, shapes_of
from compresslab.runtime.plan_rows import NoPlanError, Sheet, operations, row_of
from compresslab.runtime.program import IMAGE, Program

FLOATS = ("logits", "dequantize")
"""Steps whose results are numbers, not codes: what the network hands back."""
GROUP_BYTES = 256 << 10
"""Bytes of activations that a group of examples may take: they stay in the second-level cache."""
LARGEST_GROUP = 64
ALIGNED = 64
SPLIT_BYTES = 1 << 19
"""Below so many bytes of activations a second thread costs more than it saves."""


class Plan:
    """The table of a network for images of one size, and where its results lie.

    Args:
        program: the network; its weights stay where they are.
        shape: of an image, without the batch: (channels, height, width), or (inputs,).

    Raises:
        NoPlanError: for a step that has no row.
        ValueError: for a shape that the network does not take.
    """

    def __init__(self, program: Program, shape: tuple[int, ...]) -> None:
        if program.images != (IMAGE,):
            raise NoPlanError("the network has several inputs")
        for step in program.layers:
            row_of(step)
        self.shape, self.inputs = torch.Size(shape), math.prod(shape)
        try:
            sizes = shapes_of(program, shape)
        except NoPlaceError as error:
            raise NoPlanError(str(error)) from error
        self.sheet = Sheet(sizes, self._places(program, sizes))
        rows = [
            self.sheet.row(*operation)
            for line, step in zip(program.steps, program.layers, strict=True)
            for operation in operations(line, step)
        ]
        self.rows = np.stack([whole for whole, _ in rows])
        self.reals = np.stack([real for _, real in rows])
        bytes_each = self.arena + self.sheet.scratch["padded"]
        self.group = max(1, min(LARGEST_GROUP, GROUP_BYTES // max(bytes_each, 1)))
        self.ones = np.ones(self.group * self.sheet.scratch["rows"], np.float32)

    @classmethod
    def of(cls, program: Program, shape: tuple[int, ...]) -> "Plan | None":
        """A plan, or None where the network runs step by step, which also says what a shape is wrong by."""
        try:
            return cls(program, shape)
        except ValueError:
            return None

    def _places(self, program: Program, sizes: Shapes) -> dict[str, int]:
        """Codes in the arena, numbers in the order of the outputs."""
        steps = zip(program.steps, program.layers, strict=True)
        floats = {line.name for line, step in steps if step.kind in FLOATS}
        if floats != set(program.outputs):
            raise NoPlanError(
                "a result in floats is read by another step, or codes are handed back"
            )
        lives = lives_by_name(program, sizes, program.outputs, ALIGNED)
        starts, self.arena = places(list(lives.values()))
        at, self.numbers = dict(zip(lives, starts, strict=True)), 0
        for name in dict.fromkeys(program.outputs):
            at[name] = self.numbers
            self.numbers += math.prod(sizes[name])
        # An output may be handed back twice.
        self.parts = [(at[n], math.prod(sizes[n])) for n in dict.fromkeys(program.outputs)]
        self.outputs = [(at[n], math.prod(sizes[n])) for n in program.outputs]
        self.outside = _shapes_outside(program, self.shape)
        return at

    def __call__(self, image: torch.Tensor, threads: int = 1) -> tuple[torch.Tensor, ...]:
        """Float images of the plan's shape, with a batch -> all outputs.

        Raises:
            ValueError: for images of another shape or dtype, or with NaN.
        """
        if image.dtype != torch.float32 or image.shape[1:] != self.shape:
            raise ValueError(
                f"image must be float32 of shape {list(self.shape)} behind the batch, got {image.dtype} of "
                f"{list(image.shape[1:])}"
            )
        images = image.detach().contiguous().numpy().reshape(-1)
        count = len(image)
        out = np.empty(count * self.numbers, np.float32)
        if threads == 1 or count * self.arena <= SPLIT_BYTES:
            bad = self._run(images, out, 0, count)
        else:
            bad = []
            split_rows(lambda a, b: bad.append(self._run(images, out, a, b)), count, threads)
            bad = any(bad)
        if bad:
            raise ValueError("image must not contain NaN")
        if len(self.outputs) == 1:
            return (torch.from_numpy(out.reshape(count, *self.outside[0])),)
        rows = out.reshape(count, self.numbers)
        return tuple(
            torch.from_numpy(rows[:, place : place + size].reshape(count, *shape).copy())
            for (place, size), shape in zip(self.outputs, self.outside, strict=True)
        )

    def _run(self, images: np.ndarray, out: np.ndarray, first: int, last: int) -> bool:
        """Examples first..last, a group at a time; whether one of them holds NaN."""
        group, bad = max(1, min(self.group, last - first)), False
        scratch = self._scratch(group)
        for begin in range(first, last, group):
            n = min(group, last - begin)
            part = images[begin * self.inputs : (begin + n) * self.inputs]
            target = out[begin * self.numbers : (begin + n) * self.numbers]
            numbers = (self.rows, self.reals, part, *scratch, self.ones, target, n)
            bad |= bool(walk(*numbers))
            if len(self.parts) > 1:
                target[:] = self._by_example(target, n)
        return bad

    def _scratch(self, group: int) -> tuple[np.ndarray, ...]:
        arena = np.empty(group * self.arena + SLACK, np.uint8)
        padded = np.empty(group * self.sheet.scratch["padded"] + SLACK, np.uint8)
        return arena, padded, np.empty(self.sheet.scratch["channels"], np.int32)

    def _by_example(self, target: np.ndarray, n: int) -> np.ndarray:
        """What lies output after output, as example after example."""
        parts = [target[p * n : (p + size) * n].reshape(n, size) for p, size in self.parts]
        return np.concatenate(parts, axis=1).reshape(-1)


def _shapes_outside(program: Program, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes of the outputs as torch has them, without the batch."""
    found = program.step_by_step(torch.zeros(1, *shape))
    return [tuple(t.shape[1:]) for t in (found if isinstance(found, tuple) else (found,))]
