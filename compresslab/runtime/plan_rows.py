"""What each kind of step writes into its row of a plan.

A writer gets the sheet, a row of integers in which the places and shapes of input and result stand already, a
row of real numbers, the step and its line. A kind that is not in `ROWS` runs step by step.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compresslab.kernels.panels import Requantize
from compresslab.kernels.plan import table
from compresslab.runtime.arena import Shapes
from compresslab.runtime.program import IMAGE, Line
from compresslab.runtime.steps.step import KINDS, Codes, Step


class NoPlanError(ValueError):
    """A network that runs step by step; says which step is the reason."""


class Sheet:
    """What writers write on: shapes and places of all results, what must stay alive, scratch memory.

    Args:
        sizes: (height, width, channels) of each result.
        at: where each of them lies, in bytes or, of what is handed back, in numbers.
    """

    def __init__(self, sizes: Shapes, at: Mapping[str, int]) -> None:
        self.sizes, self.at = sizes, at
        self.kept: list[np.ndarray] = []
        self.scratch = {"padded": 0, "channels": 1, "rows": 1}

    def row(self, line: Line, step: Step) -> tuple[np.ndarray, np.ndarray]:
        """The row of one operation: its integers and its real numbers."""
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
        """Scratch memory for one example; channels do not grow with the examples."""
        for name, size in scratch.items():
            self.scratch[name] = max(self.scratch[name], size)


class _Part:
    """One input of a concatenation, which has a row of its own."""

    kind = "concatenate"

    def __init__(self, step: Step, index: int, inputs: Sequence[str]) -> None:
        self.table, self.index, self.inputs = step.table, index, inputs


def operations(line: Line, step: Step) -> list[tuple[Line, Step]]:
    """What a step is in a plan: a concatenation is one operation for each of its inputs."""
    if step.kind != "concatenate":
        return [(line, step)]
    names = list(enumerate(line.inputs))
    return [(Line(line.name, (name,)), _Part(step, i, line.inputs)) for i, name in names]


Writer = Callable[[Sheet, np.ndarray, np.ndarray, Step, Line], None]


def row_of(step: Step) -> Writer:
    """The writer of a step's row.

    Raises:
        NoPlanError: for a kind without one, and for a step that computes in a way of its own.
    """
    kind = getattr(step, "kind", type(step).__name__)
    if kind not in ROWS:
        raise NoPlanError(f"a step of kind {kind!r} has no row in a plan")
    if type(step).forward is not FORWARDS[kind] or "forward" in vars(step):
        raise NoPlanError(f"a step of kind {kind!r} has a forward of its own")
    return ROWS[kind]


def _limits(real: np.ndarray, out: Codes) -> None:
    real[[table.ZERO, table.LOW, table.HIGH]] = out.zero_point, out.low, out.high


def _limits_of(real: np.ndarray, epilogue: Requantize) -> None:
    real[[table.ZERO, table.LOW, table.HIGH]] = epilogue.zero, epilogue.low, epilogue.high


def _quantize(_sheet: Sheet, whole: np.ndarray, real: np.ndarray, step: Step, line: Line) -> None:
    if line.inputs != (IMAGE,):
        raise NoPlanError(f"step {line.name!r} quantizes floats between layers")
    whole[table.KIND] = table.QUANTIZE
    height, width, channels = whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]]
    if step.last or height * width == 1:  # numbers as they lie
        size = (1, height * width * channels, 1)
        whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]] = size
    _limits(real, step.codes)
    real[table.FACTOR_A] = step.inverse[0]


def _weights(sheet: Sheet, whole: np.ndarray, step: Step, factor: np.ndarray) -> None:
    packed = step.packed
    whole[table.WEIGHT] = sheet.keep(packed.panels)
    whole[[table.WORDS, table.PANEL]] = packed.words, packed.width
    whole[table.START], whole[table.FACTOR] = sheet.keep(step.epilogue.start), sheet.keep(factor)
    whole[table.OUT_CHANNELS] = packed.outputs


def _rows_of(sheet: Sheet, whole: np.ndarray, step: Step) -> None:
    inputs, stride = int(whole[table.CHANNELS]), 4 * step.packed.words
    if inputs != stride:  # rows are filled up with zeros
        sheet.need(padded=int(whole[table.HEIGHT] * whole[table.WIDTH]) * stride)


def _linear(sheet: Sheet, whole: np.ndarray, real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.PRODUCT
    _weights(sheet, whole, step, step.epilogue.factor)
    _rows_of(sheet, whole, step)
    _limits_of(real, step.epilogue)


def _convolution(sheet: Sheet, whole: np.ndarray, real: np.ndarray, step: Step, line: Line) -> None:
    if step.window.pointwise:
        _linear(sheet, whole, real, step, line)
        return
    whole[table.KIND] = table.CONVOLUTION
    _window(sheet, whole, step)
    _weights(sheet, whole, step, step.epilogue.factor)
    _limits_of(real, step.epilogue)


def _depthwise(sheet: Sheet, whole: np.ndarray, real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.DEPTHWISE
    _window(sheet, whole, step)
    packed, epilogue = step.packed, step.epilogue
    across = int(whole[table.WIDTH]) + 2 * step.window.padding
    places = packed.places(across)
    whole[table.WEIGHT], whole[table.OFFSET] = sheet.keep(packed.taps), sheet.keep(places)
    whole[table.WORDS] = len(places) // 4
    whole[table.START], whole[table.FACTOR] = (
        sheet.keep(epilogue.start),
        sheet.keep(epilogue.factor),
    )
    _limits_of(real, step.epilogue)


def _window(sheet: Sheet, whole: np.ndarray, step: Step) -> None:
    w = step.window
    whole[[table.DOWN_SIZE, table.ACROSS_SIZE]] = w.height, w.width
    whole[[table.DOWN, table.ACROSS]] = w.stride
    whole[[table.TOP, table.LEFT]] = w.padding
    whole[table.ZERO_A] = step.zero_point
    height, width, channels = whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]]
    sheet.need(padded=int((height + 2 * w.padding) * (width + 2 * w.padding) * channels))


def _logits(sheet: Sheet, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.LOGITS
    _weights(sheet, whole, step, step.epilogue.scale)
    whole[table.OFFSET] = sheet.keep(step.epilogue.offset)
    _rows_of(sheet, whole, step)
    sheet.need(rows=int(whole[table.HEIGHT] * whole[table.WIDTH]))


def _dequantize(
    sheet: Sheet, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line
) -> None:
    whole[table.KIND] = table.DEQUANTIZE
    whole[table.WEIGHT] = sheet.keep(step.values)
    if step.last:
        size = (1, 1, math.prod(int(n) for n in whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]]))
        whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]] = size


def _max_pool(_sheet: Sheet, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.MAX
    whole[[table.DOWN_SIZE, table.ACROSS_SIZE]] = step.size


def _windows(sheet: Sheet, whole: np.ndarray, step: Step) -> None:
    w = step.windows
    whole[[table.DOWN_SIZE, table.ACROSS_SIZE]] = w.height, w.width
    whole[[table.DOWN, table.ACROSS]] = w.down, w.across
    whole[[table.TOP, table.LEFT]] = w.top, w.left
    sheet.need(channels=int(whole[table.CHANNELS]))


def _max_windows(sheet: Sheet, whole: np.ndarray, _real: np.ndarray, step: Step, _: Line) -> None:
    whole[table.KIND] = table.MAX_WINDOWS
    _windows(sheet, whole, step)


def _mean_windows(sheet: Sheet, whole: np.ndarray, real: np.ndarray, step: Step, _: Line) -> None:
    whole[table.KIND] = table.MEAN_WINDOWS
    _windows(sheet, whole, step)
    whole[table.ZERO_A], whole[table.EXTRA] = step.zero_point, step.padded
    real[table.FACTOR_A] = step.scale / step.out.scale
    _limits(real, step.out)


def _mean_pool(sheet: Sheet, whole: np.ndarray, real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.MEAN
    pixels = int(whole[table.HEIGHT] * whole[table.WIDTH])
    whole[table.ZERO_A] = step.zero_point
    real[table.FACTOR_A] = step.scale / (pixels * step.out.scale)
    _limits(real, step.out)
    sheet.need(channels=int(whole[table.CHANNELS]))


def _add(sheet: Sheet, whole: np.ndarray, real: np.ndarray, step: Step, line: Line) -> None:
    if sheet.sizes[line.inputs[0]] != sheet.sizes[line.inputs[1]]:
        raise NoPlanError(f"step {line.name!r} adds results of two shapes")
    whole[table.KIND] = table.ADD
    _two(sheet, whole, real, step, line.inputs)
    real[table.FACTOR_A] = step.scale / step.out.scale
    real[table.FACTOR_B] = step.scale_b / step.out.scale


def _multiply(sheet: Sheet, whole: np.ndarray, real: np.ndarray, step: Step, line: Line) -> None:
    whole[table.KIND] = table.MULTIPLY
    inputs, sizes = line.inputs, [sheet.sizes[name] for name in line.inputs]
    turned = math.prod(sizes[0]) < math.prod(sizes[1])
    inputs, sizes = (inputs[::-1], sizes[::-1]) if turned else (inputs, sizes)
    if sizes[0] != sizes[1] and sizes[1] != (1, 1, sizes[0][2]):
        raise NoPlanError(f"step {line.name!r} multiplies results of two shapes")
    whole[table.A] = sheet.at[inputs[0]]
    whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]] = sizes[0]
    whole[table.EXTRA] = sizes[1][0] * sizes[1][1]
    _two(sheet, whole, real, step, inputs)
    if turned:
        whole[[table.ZERO_A, table.ZERO_B]] = whole[[table.ZERO_B, table.ZERO_A]]
    real[table.FACTOR_A] = step.scale * step.scale_b / step.out.scale


def _two(sheet: Sheet, whole: np.ndarray, real: np.ndarray, step: Step, inputs: tuple) -> None:
    whole[table.B] = sheet.at[inputs[1]]
    whole[[table.ZERO_A, table.ZERO_B]] = step.zero_point, step.zero_point_b
    _limits(real, step.out)


def _table(sheet: Sheet, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    found = step.table.numpy()
    whole[table.KIND] = table.TABLE if len(found) == 1 else table.TABLES
    whole[table.WEIGHT] = sheet.keep(found)


def _concatenate(sheet: Sheet, whole: np.ndarray, _real: np.ndarray, step: Step, _: Line) -> None:
    whole[table.KIND] = table.CONCATENATE
    whole[table.WEIGHT] = sheet.keep(step.table.numpy()[step.index])
    whole[table.EXTRA] = sum(sheet.sizes[name][2] for name in step.inputs[: step.index])


def _select(sheet: Sheet, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.SELECT
    whole[table.WEIGHT] = sheet.keep(step.places.numpy())


def _flatten(_sheet: Sheet, whole: np.ndarray, _real: np.ndarray, _step: Step, _line: Line) -> None:
    whole[table.KIND] = table.ROWS_OF


def _unflatten(_sheet: Sheet, whole: np.ndarray, _real: np.ndarray, _step: Step, _: Line) -> None:
    whole[table.KIND] = table.IMAGE_OF
    places = [table.OUT_HEIGHT, table.OUT_WIDTH, table.OUT_CHANNELS]
    whole[[table.HEIGHT, table.WIDTH, table.CHANNELS]] = whole[places]


def _upsample(_sheet: Sheet, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
    whole[table.KIND] = table.ENLARGE
    whole[[table.DOWN, table.ACROSS]] = step.down, step.across


def _pad(_sheet: Sheet, whole: np.ndarray, _real: np.ndarray, step: Step, line: Line) -> None:
    if step.mode != "constant":
        raise NoPlanError(f"step {line.name!r} fills its border from the image")
    whole[table.KIND] = table.PLACE
    whole[[table.DOWN, table.ACROSS]] = 1
    whole[[table.TOP, table.LEFT]] = step.top, step.left
    whole[table.ZERO_A] = step.zero_point


def _spread(_sheet: Sheet, whole: np.ndarray, _real: np.ndarray, step: Step, _line: Line) -> None:
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
FORWARDS = {kind: KINDS[kind].forward for kind in ROWS}
"""What a step of each kind computes: a subclass with a forward of its own runs step by step."""
