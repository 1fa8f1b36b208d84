"""A deployed network as a table that one compiled function walks (`kernels.plan`).

    Program    one Python call for each step, its result in an array of its own
    Plan       one call for all steps; results in one arena, whose places are used again (`runtime.arena`)

A `Program` makes a plan for each size of image that it meets, and runs it where nobody watches its steps (no
hooks, no torch.compile). Codes are the same, bit for bit; what differs is the calling, which costs a step of
a small network more than its arithmetic. Batches run in groups of examples whose activations stay in the
cache, the groups over threads.

Left out: networks with a step in floats in their middle, with binary layers, with several inputs or with
tokens: those run step by step. `Plan.of` says so by NoPlanError.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from compresslab.kernels import plan as table
from compresslab.kernels._threads import split_rows
from compresslab.kernels.int8_conv import BLOCK, SLACK
from compresslab.kernels.simd import tiles_available
from compresslab.runtime.arena import NoPlaceError, lives_by_name, places, shapes_of
from compresslab.runtime.program import IMAGE, Line, Program
from compresslab.runtime.steps.step import Codes, Step

FLOATS = ("logits", "dequantize")
"""Steps whose results are numbers, not codes: what the network hands back."""
GROUP_BYTES = 256 << 10
"""Bytes of activations that a group of examples may take: they stay in the second-level cache."""
LARGEST_GROUP = 64
ALIGNED = 64
SPLIT_BYTES = 1 << 20
"""Below so many bytes of activations a second thread costs more than it saves."""


class NoPlanError(ValueError):
    """A network that runs step by step; says which step is the reason."""


def suits(image: torch.Tensor) -> bool:
    """Whether images can go through a plan: plain float32 images or rows, in memory.

    On matrix tiles convolutions of many pixels are faster step by step.
    """
    plain = type(image) in (torch.Tensor, torch.nn.Parameter) and image.device.type == "cpu"
    if not plain or image.dtype != torch.float32 or image.ndim not in (2, 4):
        return False
    return len(image) == 1 or not tiles_available()


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
        unknown = [step.kind for step in program.layers if step.kind not in ROWS]
        if unknown:
            raise NoPlanError(f"a step of kind {unknown[0]!r} has no row in a plan")
        self.shape, self.inputs = shape, math.prod(shape)
        self.kept: list[object] = []
        try:
            self.sizes = shapes_of(program, shape)
        except NoPlaceError as error:
            raise NoPlanError(str(error)) from error
        self._place(program)
        self.scratch = {"padded": 0, "words": 1, "channels": 1, "rows": 1}
        rows = [
            self._row(line, step)
            for line, step in zip(program.steps, program.layers, strict=True)
            for line, step in _parts(line, step)
        ]
        self.rows = np.stack([whole for whole, _ in rows])
        self.reals = np.stack([real for _, real in rows])
        bytes_each = self.arena + self.scratch["padded"]
        self.group = max(1, min(LARGEST_GROUP, GROUP_BYTES // max(bytes_each, 1)))
        self.ones = np.ones(self.group * self.scratch["rows"], np.float32)

    @classmethod
    def of(cls, program: Program, shape: tuple[int, ...]) -> "Plan | None":
        """A plan, or None where the network runs step by step: also for a shape that it does not take."""
        try:
            return cls(program, shape)
        except ValueError:
            return None

    def _place(self, program: Program) -> None:
        """Codes in the arena, numbers in the order of the outputs."""
        steps = zip(program.steps, program.layers, strict=True)
        floats = {line.name for line, step in steps if step.kind in FLOATS}
        if floats != set(program.outputs):
            raise NoPlanError(
                "a result in floats is read by another step, or codes are handed back"
            )
        lives = lives_by_name(program, self.sizes, program.outputs, ALIGNED)
        starts, self.arena = places(list(lives.values()))
        self.at = dict(zip(lives, starts, strict=True))
        self.outputs, place = [], 0
        for name in program.outputs:
            count = math.prod(self.sizes[name])
            self.at[name] = place
            self.outputs.append((place, count))
            place += count
        self.numbers = place
        self.outside = _shapes_outside(program, self.shape)

    def _row(self, line: Line, step: Step) -> tuple[np.ndarray, np.ndarray]:
        whole, real = np.zeros(table.COLUMNS, np.int64), np.zeros(table.REALS, np.float32)
        whole[table.OUT] = self.at[line.name]
        if line.inputs != (IMAGE,):
            whole[table.A] = self.at[line.inputs[0]]
        source = self.sizes[line.name if line.inputs == (IMAGE,) else line.inputs[0]]
        whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]] = source
        whole[[table.OUT_HEIGHT, table.OUT_WIDTH, table.OUT_CHANNELS]] = self.sizes[line.name]
        ROWS[step.kind](self, whole, real, step, line)
        return whole, real

    def keep(self, array: np.ndarray) -> int:
        """The address of an array that lives as long as the plan."""
        array = np.ascontiguousarray(array)
        self.kept.append(array)
        return array.ctypes.data

    def need(self, **scratch: int) -> None:
        """Scratch memory for one example; words and channels do not grow with the examples."""
        for name, size in scratch.items():
            self.scratch[name] = max(self.scratch[name], size)

    def __call__(self, image: torch.Tensor, threads: int = 1) -> tuple[torch.Tensor, ...]:
        """Float images of the plan's shape, with a batch -> all outputs.

        Raises:
            ValueError: if the image holds NaN.
        """
        images = image.detach().contiguous().numpy().reshape(-1)
        count = len(image)
        out = np.empty(count * self.numbers, np.float32)
        bad = []

        def run(first: int, last: int) -> None:
            group = min(self.group, last - first)
            scratch = self._scratch(group)
            for begin in range(first, last, max(group, 1)):
                n = min(group, last - begin)
                part = images[begin * self.inputs : (begin + n) * self.inputs]
                target = out[begin * self.numbers : (begin + n) * self.numbers]
                if table.walk(self.rows, self.reals, part, *scratch, self.ones, target, n):
                    bad.append(begin)
                if len(self.outputs) > 1:
                    target[:] = self._by_example(target, n)

        if threads == 1 or count * self.arena <= SPLIT_BYTES:
            run(0, count)
        else:
            split_rows(run, count, threads)
        if bad:
            raise ValueError("image must not contain NaN")
        rows = torch.from_numpy(out).view(count, self.numbers)
        return tuple(
            rows[:, place : place + size].reshape(count, *shape)
            for (place, size), shape in zip(self.outputs, self.outside, strict=True)
        )

    def _scratch(self, group: int) -> tuple[np.ndarray, ...]:
        arena = np.empty(group * self.arena + SLACK, np.uint8)
        padded = np.empty(group * self.scratch["padded"] + SLACK, np.uint8)
        words = np.empty(BLOCK * self.scratch["words"] + SLACK // 4, np.uint32)
        return arena, padded, words, np.empty(self.scratch["channels"], np.int32)

    def _by_example(self, target: np.ndarray, n: int) -> np.ndarray:
        """What lies output after output, as example after example."""
        parts = [target[p * n : (p + size) * n].reshape(n, size) for p, size in self.outputs]
        return np.concatenate(parts, axis=1).reshape(-1)


def _parts(line: Line, step: Step) -> list[tuple[Line, Step]]:
    """A concatenation is one row for each of its inputs; everything else is one."""
    if step.kind != "concatenate":
        return [(line, step)]
    return [(Line(line.name, (name,)), _Part(step, i, line)) for i, name in enumerate(line.inputs)]


class _Part:
    """One input of a concatenation."""

    kind = "concatenate"

    def __init__(self, step: Step, index: int, line: Line) -> None:
        self.table, self.index, self.inputs = step.table, index, line.inputs


def _shapes_outside(program: Program, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes of the outputs as torch has them, without the batch."""
    found = program.step_by_step(torch.zeros(1, *shape))
    return [tuple(t.shape[1:]) for t in (found if isinstance(found, tuple) else (found,))]


# ---- a row for each kind of step -----------------------------------------------------------------
Writer = Callable[[Plan, np.ndarray, np.ndarray, Step, Line], None]


def _limits(real: np.ndarray, out: Codes) -> None:
    real[[table.ZERO, table.LOW, table.HIGH]] = out.zero_point, out.low, out.high


def _quantize(_plan: Plan, whole: np.ndarray, real: np.ndarray, step: Step, line: Line) -> None:
    if line.inputs != (IMAGE,):
        raise NoPlanError(f"step {line.name!r} quantizes floats between layers")
    whole[table.KIND] = table.QUANTIZE
    height, width, channels = whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]]
    if step.last or height * width == 1:  # numbers as they lie
        size = (1, height * width * channels, 1)
        whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]] = size
    _limits(real, step.codes)
    real[table.FACTOR_A] = step.inverse[0]


def _weights(plan: Plan, whole: np.ndarray, step: Step, factor: np.ndarray) -> None:
    packed = step.packed
    whole[table.WEIGHT] = plan.keep(packed.panels)
    whole[[table.WORDS, table.PANEL]] = packed.words, packed.width
    whole[table.START], whole[table.FACTOR] = plan.keep(step.epilogue.start), plan.keep(factor)
    whole[table.OUT_CHANNELS] = packed.outputs


def _rows_of(plan: Plan, whole: np.ndarray, step: Step) -> None:
    pixels = int(whole[table.HEIGHT] * whole[table.WIDTH])
    plan.need(padded=pixels * 4 * step.packed.words, rows=pixels)


def _linear(plan: Plan, whole: np.ndarray, real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.PRODUCT
    _weights(plan, whole, step, step.epilogue.factor)
    _rows_of(plan, whole, step)
    _limits(real, step.out)


def _convolution(plan: Plan, whole: np.ndarray, real: np.ndarray, step: Step, line: Line) -> None:
    if step.window.pointwise:
        _linear(plan, whole, real, step, line)
        return
    whole[table.KIND] = table.CONVOLUTION
    _window(plan, whole, step)
    _weights(plan, whole, step, step.epilogue.factor)
    plan.need(words=step.packed.words)
    _limits(real, step.out)


def _depthwise(plan: Plan, whole: np.ndarray, real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.DEPTHWISE
    _window(plan, whole, step)
    whole[table.WEIGHT] = plan.keep(step.taps.numpy())
    epilogue = step.epilogue
    whole[table.START], whole[table.FACTOR] = plan.keep(epilogue.start), plan.keep(epilogue.factor)
    _limits(real, step.out)


def _window(plan: Plan, whole: np.ndarray, step: Step) -> None:
    w = step.window
    whole[[table.DOWN_SIZE, table.ACROSS_SIZE]] = w.height, w.width
    whole[[table.DOWN, table.ACROSS]] = w.stride
    whole[[table.TOP, table.LEFT]] = w.padding
    whole[table.ZERO_A] = step.zero_point
    height, width, channels = whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]]
    plan.need(padded=int((height + 2 * w.padding) * (width + 2 * w.padding) * channels))


def _logits(plan: Plan, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.LOGITS
    _weights(plan, whole, step, step.epilogue.scale)
    whole[table.OFFSET] = plan.keep(step.epilogue.offset)
    _rows_of(plan, whole, step)


def _dequantize(plan: Plan, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.DEQUANTIZE
    whole[table.WEIGHT] = plan.keep(step.values)
    if step.last:
        size = (1, 1, math.prod(int(n) for n in whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]]))
        whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]] = size


def _max_pool(_plan: Plan, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.MAX
    whole[[table.DOWN_SIZE, table.ACROSS_SIZE]] = step.size


def _windows(plan: Plan, whole: np.ndarray, step: Step) -> None:
    w = step.windows
    whole[[table.DOWN_SIZE, table.ACROSS_SIZE]] = w.height, w.width
    whole[[table.DOWN, table.ACROSS]] = w.down, w.across
    whole[[table.TOP, table.LEFT]] = w.top, w.left
    plan.need(channels=int(whole[table.CHANNELS]))


def _max_windows(plan: Plan, whole: np.ndarray, _real: np.ndarray, step: Step, _: Line) -> None:
    whole[table.KIND] = table.MAX_WINDOWS
    _windows(plan, whole, step)


def _mean_windows(plan: Plan, whole: np.ndarray, real: np.ndarray, step: Step, _: Line) -> None:
    whole[table.KIND] = table.MEAN_WINDOWS
    _windows(plan, whole, step)
    whole[table.ZERO_A], whole[table.EXTRA] = step.zero_point, step.padded
    real[table.FACTOR_A] = step.scale / step.out.scale
    _limits(real, step.out)


def _mean_pool(plan: Plan, whole: np.ndarray, real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.MEAN
    pixels = int(whole[table.HEIGHT] * whole[table.WIDTH])
    whole[table.ZERO_A] = step.zero_point
    real[table.FACTOR_A] = step.scale / (pixels * step.out.scale)
    _limits(real, step.out)
    plan.need(channels=int(whole[table.CHANNELS]))


def _add(plan: Plan, whole: np.ndarray, real: np.ndarray, step: Step, line: Line) -> None:
    if plan.sizes[line.inputs[0]] != plan.sizes[line.inputs[1]]:
        raise NoPlanError(f"step {line.name!r} adds results of two shapes")
    whole[table.KIND] = table.ADD
    _two(plan, whole, real, step, line.inputs)
    real[table.FACTOR_A] = step.scale / step.out.scale
    real[table.FACTOR_B] = step.scale_b / step.out.scale


def _multiply(plan: Plan, whole: np.ndarray, real: np.ndarray, step: Step, line: Line) -> None:
    whole[table.KIND] = table.MULTIPLY
    inputs, sizes = line.inputs, [plan.sizes[name] for name in line.inputs]
    turned = math.prod(sizes[0]) < math.prod(sizes[1])
    inputs, sizes = (inputs[::-1], sizes[::-1]) if turned else (inputs, sizes)
    if sizes[0] != sizes[1] and sizes[1] != (1, 1, sizes[0][2]):
        raise NoPlanError(f"step {line.name!r} multiplies results of two shapes")
    whole[table.A] = plan.at[inputs[0]]
    whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]] = sizes[0]
    whole[table.EXTRA] = sizes[1][0] * sizes[1][1]
    _two(plan, whole, real, step, inputs)
    if turned:
        whole[[table.ZERO_A, table.ZERO_B]] = whole[[table.ZERO_B, table.ZERO_A]]
    real[table.FACTOR_A] = step.scale * step.scale_b / step.out.scale


def _two(plan: Plan, whole: np.ndarray, real: np.ndarray, step: Step, inputs: tuple) -> None:
    whole[table.B] = plan.at[inputs[1]]
    whole[[table.ZERO_A, table.ZERO_B]] = step.zero_point, step.zero_point_b
    _limits(real, step.out)


def _table(plan: Plan, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    found = step.table.numpy()
    whole[table.KIND] = table.TABLE if len(found) == 1 else table.TABLES
    whole[table.WEIGHT] = plan.keep(found)


def _concatenate(plan: Plan, whole: np.ndarray, _real: np.ndarray, step: Step, _: Line) -> None:
    whole[table.KIND] = table.CONCATENATE
    whole[table.WEIGHT] = plan.keep(step.table.numpy()[step.index])
    whole[table.EXTRA] = sum(plan.sizes[name][2] for name in step.inputs[: step.index])


def _select(plan: Plan, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.SELECT
    whole[table.WEIGHT] = plan.keep(step.places.numpy().astype(np.int32))


def _flatten(_plan: Plan, whole: np.ndarray, _real: np.ndarray, _step: Step, _line: Line) -> None:
    whole[table.KIND] = table.ROWS_OF


def _unflatten(_plan: Plan, whole: np.ndarray, _real: np.ndarray, _step: Step, _: Line) -> None:
    whole[table.KIND] = table.IMAGE_OF
    places = [table.OUT_HEIGHT, table.OUT_WIDTH, table.OUT_CHANNELS]
    whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]] = whole[places]


def _upsample(_plan: Plan, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.ENLARGE
    whole[[table.DOWN, table.ACROSS]] = step.down, step.across


def _pad(_plan: Plan, whole: np.ndarray, _real: np.ndarray, step: Step, line: Line) -> None:
    if step.mode != "constant":
        raise NoPlanError(f"step {line.name!r} fills its border from the image")
    whole[table.KIND] = table.PLACE
    whole[[table.DOWN, table.ACROSS]] = 1
    whole[[table.TOP, table.LEFT]] = step.top, step.left
    whole[table.ZERO_A] = step.zero_point


def _spread(_plan: Plan, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.PLACE
    whole[[table.DOWN, table.ACROSS]] = step.down, step.across
    whole[table.ZERO_A] = step.zero_point


ROWS: dict[str, Writer] = {
    "quantize": _quantize,
    "conv2d": _convolution,
    "depthwise": _depthwise,
    "linear": _linear,
    "logits": _logits,
    "dequantize": _dequantize,
    "max_pool": _max_pool,
    "max_pool_windows": _max_windows,
    "mean_windows": _mean_windows,
    "mean_pool": _mean_pool,
    "add": _add,
    "multiply": _multiply,
    "table": _table,
    "concatenate": _concatenate,
    "select": _select,
    "flatten": _flatten,
    "unflatten": _unflatten,
    "upsample": _upsample,
    "pad": _pad,
    "spread": _spread,
}
"""What writes the row of each kind of step; a kind that is not here runs step by step."""
