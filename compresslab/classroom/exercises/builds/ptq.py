"""Lab 02: a linear layer of integers, from the floats and some calibration inputs."""

from collections.abc import Callable

import numpy as np

from compresslab.classroom.exercise import RIGHT, Case, Exercise, Mistake

HALF = 0.501
"""How far an integer may be from what it is rounded from: another precision rounds halves otherwise."""
RANGES, STORED, RUNS = "ranges", "what is stored", "runs on codes"


def _grid(x: np.ndarray, zero: bool = True) -> tuple[float, int]:
    """Scale and zero point of codes 0 to 255 that hold these numbers."""
    lo, hi = float(x.min()), float(x.max())
    lo, hi = (min(lo, 0.0), max(hi, 0.0)) if zero else (lo, hi)
    scale = (hi - lo) / 255
    return scale, round(-lo / scale)


def integer_layer(weight: np.ndarray, bias: np.ndarray, x: np.ndarray) -> tuple:
    """((scale_x, zero_x), (scale_y, zero_y), codes int8, bias int32, run: uint8 codes -> uint8 codes)."""
    return _built()(weight, bias, x)


def _built(
    zero: bool = True,
    per_row: bool = True,
    outputs: Callable = lambda w, b, x: x @ w.T + b,
    bias_scale: Callable = lambda sx, sw: sx * sw,
    shifts: bool = True,
    back: bool = True,
    clips: bool = True,
    wide: bool = True,
    rounding: Callable = np.rint,
) -> Callable:
    """The layer, with one thing or another done differently."""

    def layer(weight, bias, x):
        scale_x, zero_x = _grid(x, zero)
        scale_y, zero_y = _grid(outputs(weight, bias, x), zero)
        top = np.abs(weight).max(1) if per_row else np.full(len(weight), np.abs(weight).max())
        scale_w = top / 127
        codes = np.rint(weight / scale_w[:, None]).astype(np.int8)
        whole = np.rint(bias / bias_scale(scale_x, scale_w)).astype(np.int32)

        def run(given):
            left = given.astype(np.int32) - (zero_x if shifts else 0)
            kind = np.int32 if wide else np.int8
            with np.errstate(over="ignore"):
                sums = left.astype(kind) @ codes.astype(kind).T + whole
            real = rounding(sums * (scale_x * scale_w / scale_y)) + (zero_y if back else 0)
            real = np.clip(real, 0, 255) if clips else real.astype(np.int64) % 256
            return real.astype(np.uint8)

        return (scale_x, zero_x), (scale_y, zero_y), codes, whole, run

    return layer


def at_work(function: Callable) -> Callable:
    """What comes of the layer in one stage, as arrays."""

    def run(stage, weight, bias, x, codes):
        grid_x, grid_y, stored, whole, layer = function(weight, bias, x)
        if stage == "ranges":
            return tuple(float(v) for v in (*grid_x, *grid_y))
        return (stored, whole) if stage == "what is stored" else (layer(codes),)

    return run


def seen(
    value: tuple, stage: str, weight: np.ndarray, bias: np.ndarray, x: np.ndarray, codes: np.ndarray
) -> str | np.ndarray:
    """One sentence about a stage; of the last, the codes."""
    grid_x, grid_y, wanted, whole, run = integer_layer(weight, bias, x)
    if stage == RANGES:
        close = np.allclose(value, (*grid_x, *grid_y), rtol=1e-3, atol=1e-6)
        if close:
            return RIGHT
        inputs = np.allclose(value[:2], grid_x, rtol=1e-3, atol=1e-6)
        return "the outputs' grid is another one" if inputs else "the inputs' grid is another one"
    if stage == STORED:
        stored, biases = value
        if stored.dtype != np.int8 or biases.dtype != np.int32:
            return "the weight is not int8, or the bias not int32"
        if stored.shape != wanted.shape or biases.shape != whole.shape:
            return "weight or bias have another shape"
        if np.abs(stored.astype(int) - wanted).max() > 0:
            return "the weight's codes are others"
        real = bias / (grid_x[0] * (np.abs(weight).max(1) / 127))
        near = np.abs(biases - real) <= HALF
        return RIGHT if near.all() else "the bias's integers are others"
    (found,) = value
    expected = run(codes)
    if (
        not isinstance(found, np.ndarray)
        or found.dtype != np.uint8
        or found.shape != expected.shape
    ):
        return "it gives no uint8 codes [rows, outputs]"
    # In the middle between two codes either is right.
    multiplier = grid_x[0] * (np.abs(weight).max(1) / 127) / grid_y[0]
    real = ((codes.astype(int) - grid_x[1]) @ wanted.T.astype(int) + whole) * multiplier + grid_y[1]
    return np.where(np.abs(found - np.clip(real, 0, 255)) <= HALF, expected, found)


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(stage: str, label: str, inputs: int, outputs: int, shift: float) -> Case:
        weight = generator.normal(0, 1, (outputs, inputs)) * generator.uniform(0.1, 2, (outputs, 1))
        bias, x = generator.normal(0, 1, outputs), generator.normal(shift, 1, (40, inputs))
        # A row of extremes reaches the ends of the output's grid.
        codes = generator.integers(0, 256, (8, inputs))
        codes[0], codes[1] = 255 * (weight[0] > 0), 255 * (weight[0] < 0)
        arrays = (a.astype(np.float32) for a in (weight, bias, x))
        return Case(f"{stage}: {label}", (stage, *arrays, codes.astype(np.uint8)), stage)

    sizes = (("inputs around 0", 6, 4, 0.0), ("inputs that are all positive", 12, 5, 6.0))
    found = [case(stage, *size) for stage in (RANGES, STORED, RUNS) for size in sizes]
    return [*found, case(RUNS, "300 inputs", 300, 7, 0.5)]


INTEGER_LAYER = Exercise(
    id="ptq.integer_layer",
    title="A layer of integers",
    points=16,
    reference=integer_layer,
    cases=_cases,
    harness=at_work,
    look=seen,
    lines=18,
    stages=((RANGES, 4), (STORED, 4), (RUNS, 8)),
    mistakes=(
        Mistake(
            "ranges without 0",
            _built(zero=False),
            "The range has to hold 0, even where all inputs are positive: padding and dead activations "
            "are 0, and "
            "must have a code of their own.",
        ),
        Mistake(
            "the outputs' range without the bias",
            _built(outputs=lambda w, b, x: x @ w.T),
            "The outputs' range is that of the whole layer, bias included.",
        ),
        Mistake(
            "one scale for all outputs",
            _built(per_row=False),
            "Each row of the weight has a scale of its own.",
        ),
        Mistake(
            "the bias in the weight's unit",
            _built(bias_scale=lambda sx, sw: sw),
            "The bias is added to sums of products: its unit is the *product* of the input's and the "
            "row's scale.",
        ),
        Mistake(
            "the input's zero point forgotten",
            _built(shifts=False),
            "An input code q means (q - zero_x) scale_x: subtract the zero point before the product.",
        ),
        Mistake(
            "the output's zero point forgotten",
            _built(back=False),
            "After scaling, the output's zero point is added.",
        ),
        Mistake(
            "wrapped around instead of clipped",
            _built(clips=False),
            "What is beyond the ends of the grid stays at the end: clip to 0 and 255 *before* the "
            "conversion to "
            "uint8, which wraps around.",
        ),
        Mistake(
            "sums in 8 bits",
            _built(wide=False),
            "Products of two bytes do not fit a byte: convert to int32 before you multiply.",
        ),
    ),
)

EXERCISES = (INTEGER_LAYER,)
