"""Two worked cases of a warm-up, as comments where its answer is written.

    # pack4([1, 2]) -> [33]
    # pack4([3, 15, 7]) -> [243, 7]

They are small cases of the check and the library's own results; arrays and tensors stand as lists, their
dtypes in the docstring above. Left out: exercises whose cases are no plain values (no number, infinite), and
cases that do not fit two lines.
"""

import math

import numpy as np
from torch import Tensor

from compresslab.classroom import compare
from compresslab.classroom.exercise import Exercise

WIDEST, MOST, NUMBERS = 84, 2, 16
"""Columns of a line, cases, and numbers that an array may have."""


def worked_cases(exercise: Exercise) -> list[str]:
    """Comment lines with at most two cases of an exercise and what the library gives for them."""
    if exercise.kind != "warm-up" or exercise.harness or exercise.look:
        return []
    name, found = exercise.id.partition(".")[2], []
    for case in exercise.cases(np.random.default_rng(0)):
        parts = [written(value) for value in case.args]
        if None in parts:
            continue
        result = written(exercise.reference(*compare.fresh(case.args)))
        lines = _lines(f"{name}({', '.join(parts)})", result) if result else None
        if lines and lines not in found:
            found.append(lines)
    return [line for lines in found[:MOST] for line in lines]


def _lines(call: str, result: str) -> list[str] | None:
    """A case in one line or in two; None if it does not fit."""
    for lines in ([f"# {call} -> {result}"], [f"# {call}", f"#     -> {result}"]):
        if max(map(len, lines)) <= WIDEST:
            return lines
    return None


def written(value: object) -> str | None:
    """A value as Python writes it, numbers to four digits; None for what is long or has no such form."""
    if isinstance(value, np.ndarray | Tensor):
        size = value.numel() if isinstance(value, Tensor) else value.size
        return written(value.tolist()) if 0 < size <= NUMBERS else None
    if isinstance(value, np.generic):
        return written(value.item())
    if isinstance(value, list | tuple):
        parts = [written(part) for part in value]
        if None in parts:
            return None
        inside = ", ".join(parts)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(parts) == 1)})"
    if isinstance(value, float):
        short = f"{value + 0.0:.4g}"  # -0.0 as 0
        finite = math.isfinite(value)
        return (short if math.isfinite(float(short)) else repr(value)) if finite else None
    return repr(value) if isinstance(value, bool | int | str | None) else None
