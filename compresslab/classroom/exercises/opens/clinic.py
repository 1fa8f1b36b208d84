"""Lab 14, open: which of eight faults a quantized layer has, told from what it puts out.

A healthy layer of this ward has 6 bits a weight and 8 bits an input:

    weight codes   q_w = round(W / s_w),   s_w = max |row| / 31,   one scale for each output
    input codes    q_x = round(x / s_x) + z,   s_x = (max x - min x) / 255,   z = round(-min x / s_x)
    output         s_w s_x sum (q_x - z) q_w + b

and somebody's runtime adds a little noise of its own. A fault changes one of these lines.
"""

from collections.abc import Callable
from enum import IntEnum
from functools import partial

import numpy as np

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake


class Fault(IntEnum):
    """What a layer may have."""

    HEALTHY = 0
    ONE_SCALE = 1
    INPUTS_CLIPPED = 2
    NO_ZERO_POINT = 3
    NO_BIAS = 4
    SIGNED_CODES = 5
    OTHER_ORDER = 6
    OTHER_NORM = 7


PATIENTS, SAMPLES = 240, 48
NOISE = 0.08
"""Of the outputs' standard deviation: what a runtime's own rounding adds."""
Patient = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def diagnose(patients: tuple[Patient, ...]) -> np.ndarray:
    """Every fault is brought about on purpose, and the one that comes nearest to what is seen is named."""
    return np.array([_nearest(*patient, SIMULATED) for patient in patients])


def _nearest(x, weight, bias, seen, suspects):
    errors = np.full(len(Fault), np.inf)
    for fault, simulate in suspects.items():
        for output in simulate(x, weight, bias, seen):
            errors[fault] = min(errors[fault], float(np.sqrt(((output - seen) ** 2).mean())))
    # A fault with a free choice fits noise a little better than none: it must be clearly better.
    errors[Fault.HEALTHY] *= 0.97
    return int(errors.argmin())


def outputs(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    *,
    row_scales: bool = True,
    clip: float = 1.0,
    zero_point: bool = True,
    order: np.ndarray | None = None,
    signed: bool = False,
) -> np.ndarray:
    """What a layer of this ward puts out, float64 [n, outputs]; by default a healthy one."""
    largest = np.abs(weight).max(1) if row_scales else np.full(len(weight), np.abs(weight).max())
    scale = largest / 31
    codes = np.rint(weight / scale[:, None])
    low, high = clip * min(0.0, x.min()), clip * max(0.0, x.max())
    step = (high - low) / 255
    zero = np.rint(-low / step)
    inputs = np.clip(np.rint(x / step) + zero, 0, 255)
    if signed:
        inputs = inputs - 256 * (inputs > 127)
    sums = (inputs - (zero if zero_point else 0)) @ codes.T
    return sums * (scale if order is None else scale[order]) * step + bias


def _healthy(x, weight, bias, _seen):
    yield outputs(x, weight, bias)


def _one_scale(x, weight, bias, _seen):
    yield outputs(x, weight, bias, row_scales=False)


def _clipped(x, weight, bias, _seen):
    for clip in np.arange(0.35, 0.96, 0.05):
        yield outputs(x, weight, bias, clip=clip)


def _no_zero_point(x, weight, bias, _seen):
    yield outputs(x, weight, bias, zero_point=False)


def _no_bias(x, weight, bias, _seen):
    yield outputs(x, weight, 0 * bias)


def _signed_codes(x, weight, bias, _seen):
    yield outputs(x, weight, bias, signed=True)


def _other_scales(x, weight, bias, seen):
    """The rows' scales in the order of those that fit best: the largest where the largest is wanted."""
    exact = outputs(x, weight, 0 * bias)
    scale = np.abs(weight).max(1)
    fitted = scale * (exact * (seen - bias)).sum(0) / np.maximum((exact**2).sum(0), 1e-30)
    order = np.empty(len(scale), np.int64)
    order[fitted.argsort()] = scale.argsort()
    if (order != np.arange(len(order))).mean() > 0.5:
        yield outputs(x, weight, bias, order=order)


def _other_norm(x, weight, bias, seen):
    """A factor and an offset for each output, as they fit best."""
    exact = outputs(x, weight, bias)
    middle, seen_middle = exact.mean(0), seen.mean(0)
    factor = ((exact - middle) * (seen - seen_middle)).sum(0) / ((exact - middle) ** 2).sum(0)
    # The price of so many free choices.
    if np.abs(factor - 1).mean() > 0.05:
        yield 1.05 * (factor * (exact - middle) + seen_middle - seen) + seen


SIMULATED: dict[Fault, Callable] = {
    Fault.HEALTHY: _healthy,
    Fault.ONE_SCALE: _one_scale,
    Fault.INPUTS_CLIPPED: _clipped,
    Fault.NO_ZERO_POINT: _no_zero_point,
    Fault.NO_BIAS: _no_bias,
    Fault.SIGNED_CODES: _signed_codes,
    Fault.OTHER_ORDER: _other_scales,
    Fault.OTHER_NORM: _other_norm,
}


def _healthy_all(patients):
    """The plain way: the fault that all symptoms fit a little."""
    return np.zeros(len(patients), np.int64)


def _by_size(patients):
    """From the size of the error alone."""
    found = []
    for x, weight, bias, seen in patients:
        exact = x @ weight.T + bias
        error = np.abs(seen - exact).mean() / exact.std()
        found.append(np.searchsorted([0.12, 0.25, 0.5, 1.0], error))
    return np.array([0, 1, 4, 7, 3])[np.array(found)]


def _without_choices(patients):
    """The faults that need no parameter."""
    choices = (Fault.INPUTS_CLIPPED, Fault.OTHER_ORDER, Fault.OTHER_NORM)
    plain = {fault: way for fault, way in SIMULATED.items() if fault not in choices}
    return np.array([_nearest(*patient, plain) for patient in patients])


def _names(patients):
    return [fault.name for fault in (Fault.HEALTHY,) * len(patients)]


def measured(case: Case, found: object) -> float | str:
    """Per cent of the patients whose fault was named; a sentence if the answer breaks the rules."""
    count = len(case.args[0])
    if not isinstance(found, np.ndarray) or found.shape != (count,) or found.dtype.kind != "i":
        return f"the answer must be an array of integers [{count}], got {compare.show(found)}"
    if found.size and not (found.min() >= 0 and found.max() < len(Fault)):
        return f"a fault is one of 0 to {len(Fault) - 1}, got {found.min()} to {found.max()}"
    return 100 * float((found == case.hidden[0]).mean())


def _patient(generator: np.random.Generator, fault: Fault) -> Patient:
    inputs, rows = int(generator.integers(128, 513)), int(generator.integers(8, 25))
    loud = np.exp(generator.normal(0, 0.5, rows))
    weight = generator.normal(0, 1, (rows, inputs)) * loud[:, None] / np.sqrt(inputs)
    bias = generator.normal(0, 0.15, rows) * loud
    x = generator.normal(0.5, 1, (SAMPLES, inputs)) * np.exp(generator.normal(0, 0.3, inputs))
    seen = _caused(generator, fault, rows)(x, weight, bias)
    if fault == Fault.NO_BIAS:
        seen = seen - bias
    if fault == Fault.OTHER_NORM:
        spread = seen.std(0)
        seen = seen * np.exp(generator.normal(0, 0.15, rows))
        seen = seen + generator.normal(0, 0.15, rows) * spread
    seen = seen + NOISE * seen.std() * generator.normal(0, 1, seen.shape)
    return tuple(a.astype(np.float32) for a in (x, weight, bias, seen))


def _caused(generator: np.random.Generator, fault: Fault, rows: int) -> Callable:
    """`outputs` with this fault, as bad as the generator draws it."""
    return {
        Fault.ONE_SCALE: partial(outputs, row_scales=False),
        Fault.INPUTS_CLIPPED: partial(outputs, clip=generator.uniform(0.4, 0.9)),
        Fault.NO_ZERO_POINT: partial(outputs, zero_point=False),
        Fault.SIGNED_CODES: partial(outputs, signed=True),
        Fault.OTHER_ORDER: partial(outputs, order=generator.permutation(rows)),
    }.get(fault, outputs)


def _cases(generator: np.random.Generator) -> list[Case]:
    faults = generator.permutation(np.arange(PATIENTS) % len(Fault))
    patients = tuple(_patient(generator, Fault(fault)) for fault in faults)
    return [Case(f"{PATIENTS} layers", (patients,), hidden=(faults,))]


DIAGNOSE = Exercise(
    id="clinic.diagnose",
    title="The ward",
    points=3,
    reference=diagnose,
    cases=_cases,
    lines=30,
    medals=Medals(
        bronze=40.0,
        silver=75.0,
        gold=94.0,
        measure=measured,
        unit="% of the layers",
        plain=_healthy_all,
    ),
    mistakes=(
        Mistake(
            "everybody is healthy",
            _healthy_all,
            "Every layer is called healthy. Compute what a healthy layer would put out, and see which of "
            "them "
            "are further away than the noise.",
        ),
        Mistake(
            "by the size of the error",
            _by_size,
            "How large the error is says little about its cause: a lost bias and a wrong norm can be equally "
            "large. Bring every fault about on purpose, and see whose outputs come nearest.",
        ),
        Mistake(
            "only faults without a choice",
            _without_choices,
            "Three of the faults have something to be found out first: how far the inputs are clipped, in "
            "which order the scales are, what the norm's factors are. Try several, or fit them.",
        ),
        Mistake(
            "names instead of numbers",
            _names,
            "The answer is an array of the faults' numbers, 0 to 7, one for each layer.",
        ),
    ),
)

EXERCISES = (DIAGNOSE,)
