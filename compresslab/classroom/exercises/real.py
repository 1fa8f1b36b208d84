"""Lab 13, real networks: the bias that takes a channel's mean error away."""

from collections.abc import Callable

import numpy as np

from compresslab.classroom.exercise import Case, Exercise, Mistake

f32 = np.float32


def corrected_bias(bias: np.ndarray, wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The bias less the mean error of its channel, over examples and places (Nagel et al. 2019, section 4.2).

    Args:
        bias: float32 [channels].
        wanted: the layer's outputs in floats, [n, channels] or [n, channels, height, width].
        found: those of the rounded layer, in the same shape.
    """
    axes = (0, *range(2, wanted.ndim))
    return (bias - (found - wanted).mean(axis=axes, dtype=np.float64)).astype(f32)


def _corrected(
    sign: float = -1,
    axes: Callable = lambda x: (0, *range(2, x.ndim)),
    error: Callable = lambda found, wanted: found.astype(float) - wanted,
    average: Callable = np.mean,
    base: float = 1.0,
) -> Callable:
    """The correction, with one thing or another done differently."""

    def correct(bias, wanted, found):
        shift = average(error(found, wanted), axis=axes(wanted))
        return np.asarray(base * bias + sign * shift, f32)

    return correct


def _cases(generator: np.random.Generator) -> list[Case]:
    def problem(*shape: int, shift: float = 0.3) -> tuple[np.ndarray, ...]:
        wanted = generator.normal(0.5, 1, shape).astype(f32)
        moved = generator.normal(shift, 0.2, (shape[1], *(1,) * (len(shape) - 2)))
        found = wanted + moved + generator.normal(0, 0.1, shape)
        bias = generator.normal(0, 1, shape[1]).astype(f32)
        return bias, wanted, found.astype(f32)

    bias, wanted, _ = problem(4, 3)
    return [
        Case("a linear layer", problem(6, 4)),
        Case("a convolution", problem(3, 4, 5, 5)),
        Case("a convolution whose image is not square", problem(2, 3, 4, 7)),
        Case("as many examples as channels", problem(4, 4, 3, 3)),
        Case("errors below zero", problem(5, 3, 4, 4, shift=-0.4)),
        Case("one example", problem(1, 5)),
        Case("nothing to correct", (bias, wanted, wanted.copy())),
    ]


def _large(generator: np.random.Generator) -> Case:
    wanted = generator.normal(0, 1, (64, 128, 28, 28)).astype(f32)
    found = wanted + generator.normal(0.2, 0.05, (1, 128, 1, 1)).astype(f32)
    return Case("6 million outputs", (np.zeros(128, f32), wanted, found))


CORRECTED_BIAS = Exercise(
    id="real.corrected_bias",
    title="A bias that makes up for rounding",
    points=2,
    reference=corrected_bias,
    cases=_cases,
    lines=3,
    tolerance=1e-5,
    returns="float32 [channels]",
    large=_large,
    mistakes=(
        Mistake(
            "the wrong direction",
            _corrected(sign=1),
            "Where the rounded layer says too much, its bias must become smaller: take the error away.",
            also=(_corrected(error=lambda found, wanted: wanted.astype(float) - found),),
        ),
        Mistake(
            "one correction for all channels",
            _corrected(axes=lambda x: None),
            "Every channel has an error of its own: average over examples and places, not over channels.",
        ),
        Mistake(
            "the error only",
            _corrected(base=0.0),
            "That is the correction alone; asked is the bias with it.",
        ),
        Mistake(
            "magnitudes",
            _corrected(error=lambda found, wanted: np.abs(found.astype(float) - wanted)),
            "Errors above and below cancel, and they should: a bias can only mend what they have in common.",
        ),
        Mistake(
            "the sum, not the mean",
            _corrected(average=np.sum),
            "The bias is added at every place: take the mean of the error, not its sum.",
        ),
        Mistake(
            "the mean of the outputs",
            _corrected(error=lambda found, wanted: found.astype(float)),
            "Not what comes out is taken away, but by how much it differs from the floats.",
        ),
        Mistake(
            "the median",
            _corrected(average=np.median),
            "The mean, not the median: what is added up by the next layer is the mean.",
        ),
    ),
)

EXERCISES = (CORRECTED_BIAS,)
