"""Lab 11: GPTQ for a whole layer, from the inputs' moments to weights on the grid."""

from collections.abc import Callable

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.techniques import gptq
from compresslab.techniques.weight_only import WeightConfig

NEAREST, MOVES, DEAD, GROUPS = (
    "inputs that have nothing in common",
    "columns make up for each other",
    "inputs that are always 0",
    "groups",
)


def gptq_layer(weight: np.ndarray, moment: np.ndarray, bits: int, group: int) -> np.ndarray:
    """The library's: float32 [outputs, inputs], on the grid."""
    found = gptq.quantize_layer(
        torch.from_numpy(weight), torch.from_numpy(moment), WeightConfig(bits, group)
    )
    return found.dequantize().numpy()


def _with_parts(
    damping: float = gptq.DAMPING,
    factor: Callable = lambda h: np.linalg.cholesky(np.linalg.inv(h)).T,
    groups_from: str = "work",
    fp16: bool = True,
    zero: bool = True,
    rest: Callable = lambda j, end: slice(j + 1, None),
    error: Callable = lambda w, q, u, j: (w - q) / u[j, j],
) -> Callable:
    """A plain way over the columns, with one thing or another done differently."""

    def layer(weight, moment, bits, group):
        h = moment.astype(float).copy()
        diagonal = np.diag(h).copy()
        alive = diagonal != 0
        mean = diagonal[alive].mean()
        diagonal[~alive] = mean
        np.fill_diagonal(h, diagonal + damping * mean)
        u = factor(h)
        work, out = weight.astype(float).copy(), np.zeros(weight.shape, np.float32)
        for j in range(work.shape[1]):
            if j % group == 0:
                part = (work if groups_from == "work" else weight)[:, j : j + group]
                lo, hi = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
                scale = (hi - lo) / (2**bits - 1)
                scale = scale.astype(np.float16).astype(float) if fp16 else scale
                scale[scale == 0] = 1
                z = np.clip(np.rint(-lo / scale), 0, 2**bits - 1) if zero else 0 * lo
            code = np.clip(np.rint(work[:, j] / scale) + z, 0, 2**bits - 1)
            out[:, j] = (code - z) * scale
            after = rest(j, (j // group + 1) * group)
            work[:, after] -= np.outer(error(work[:, j], out[:, j], u, j), u[j, after])
        return out

    return layer


def _cases(generator: np.random.Generator) -> list[Case]:
    def moment(inputs: int, dead: tuple[int, ...] = ()) -> np.ndarray:
        x = generator.normal(0, 1, (6 * inputs, inputs)) @ generator.normal(0, 1, (inputs, inputs))
        x[:, list(dead)] = 0
        return x.T @ x / len(x)

    def weight(outputs: int, inputs: int) -> np.ndarray:
        return generator.normal(0, 1, (outputs, inputs)).astype(np.float32)

    return [
        Case("4 bits, white inputs", (weight(3, 8), np.eye(8), 4, 8), NEAREST),
        Case(
            "3 bits, each input of its own size",
            (weight(4, 6), np.diag(np.arange(1.0, 7)), 3, 6),
            NEAREST,
        ),
        Case(
            "two columns, strongly tied",
            (weight(3, 2), np.array([[2.0, 1.8], [1.8, 2.0]]), 3, 2),
            MOVES,
        ),
        Case("4 bits, twelve inputs", (weight(5, 12), moment(12), 4, 12), MOVES),
        Case("2 bits, sixteen inputs", (weight(4, 16), moment(16), 2, 16), MOVES),
        Case("one dead input", (weight(3, 8), moment(8, (3,)), 4, 8), DEAD),
        Case("most inputs dead", (weight(24, 16), moment(16, tuple(range(2, 15))), 2, 16), DEAD),
        Case("two groups", (weight(3, 8), moment(8), 4, 4), GROUPS),
        Case("four groups, 3 bits", (weight(5, 32), moment(32), 3, 8), GROUPS),
    ]


GPTQ_LAYER = Exercise(
    id="llm.gptq_layer",
    title="GPTQ for a whole layer",
    points=16,
    reference=gptq_layer,
    cases=_cases,
    lines=20,
    tolerance=1e-5,
    stages=((NEAREST, 4), (MOVES, 4), (DEAD, 4), (GROUPS, 4)),
    mistakes=(
        Mistake(
            "plain rounding",
            _with_parts(error=lambda w, q, u, j: 0 * w),
            "That is rounding to the nearest. After each column the columns still to come take over its "
            "error. "
            "(If yours do: `np.linalg.cholesky` gives the lower factor, whose rows are 0 right of the "
            "diagonal.)",
            also=(_with_parts(factor=lambda h: np.linalg.cholesky(np.linalg.inv(h))),),
        ),
        Mistake(
            "the inverse itself, not its factor",
            _with_parts(factor=np.linalg.inv),
            "What remains of the inverse once a column is fixed is the next row of its Cholesky factor, "
            "not a "
            "row of the inverse.",
        ),
        Mistake(
            "the factor of H, not of its inverse",
            _with_parts(factor=lambda h: np.linalg.cholesky(h).T),
            "U^T U is the *inverse* of the damped moment.",
        ),
        Mistake(
            "not divided by the diagonal",
            _with_parts(error=lambda w, q, u, j: w - q),
            "The error of column j is divided by U_jj before it is passed on.",
        ),
        Mistake(
            "no damping",
            _with_parts(damping=0.0),
            "One hundredth of the mean diagonal is added to the diagonal.",
            also=(_with_parts(damping=0.001), _with_parts(damping=0.1)),
        ),
        Mistake(
            "scales not rounded to float16",
            _with_parts(fp16=False),
            "A scale is stored as float16: round it before you compute codes with it.",
        ),
        Mistake(
            "scales from the weights as they were",
            _with_parts(groups_from="weight"),
            "When a group's turn comes its weights have moved: take its scale from what they are *then*.",
        ),
        Mistake(
            "errors stay in the group",
            _with_parts(rest=lambda j, end: slice(j + 1, end)),
            "All the columns to come take over the error, those of the following groups too.",
        ),
    ),
)

EXERCISES = (GPTQ_LAYER,)
