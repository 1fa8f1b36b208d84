"""Mistakes that a rule makes, known by what they give: `-` for `+`, `<` for `<=`, another axis, no clip.

`python -m benchmarks.mutants` changes every model answer in one place, runs it on the cases that a check
shows, and keeps a digest of each result in by_rule.json:

    an array    "a", its type and shape, how many values are NaN, sum |v|, sum v cos(i), sum v sin(1.7 i + 1)
    a tuple     "t", the digests of its parts
    an error    "e", the name of its class

Whoever makes the same mistake in other words gets the same numbers, and is told. The digests say nothing of
how the answer is written.

Left out: other seeds than a check's, and what trains, whose numbers are a machine's own.
"""

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compresslab.classroom.compare import Tensor
from compresslab.classroom.result import Outcome

DATA = Path(__file__).with_name("by_rule.json")
CLOSE = 1e-4
Digest = list
HINTS = dict(  # noqa: C408 - a key is no message
    operator="These are the results of a version with {wrong} where {right} belongs. Which one is it?",
    comparison="These are the results of a version that compares with {wrong} where {right} belongs: "
    "what becomes of two equal numbers?",
    constant="These are the results of a version in which one constant is 1 too large: look at your "
    "numbers, your exponents and where you begin to count.",
    function="These are the results of a version with {wrong} where {right} belongs.",
    axis="These are the results of a version that goes along another axis in one place.",
    missing="These are the results of a version without {right}.",
    sign="These are the results of a version in which one {right} is missing.",
    slice="These are the results of a version in which one slice begins one element later.",
)
"""What is said of each rule's mistakes."""


def hint(exercise: str, outcomes: Sequence[Outcome]) -> str:
    """The hint of the first mistake that gives the same in every case; "" if there is none.

    Args:
        exercise: its id.
        outcomes: what the check's cases gave, in order.
    """
    rows = known().get(exercise, [])
    if not rows:
        return ""
    found = [digest(outcome) for outcome in outcomes]
    for row in rows:
        if len(row["cases"]) == len(found) and all(map(same, row["cases"], found)):
            return HINTS[row["rule"]].format(wrong=row["wrong"], right=row["right"])
    return ""


@functools.cache
def known() -> dict[str, list[dict]]:
    """The mistakes by exercise: rule, wrong, right, and the digests of the check's cases."""
    found: dict[str, list[dict]] = {}
    for row in json.loads(DATA.read_text(encoding="utf-8")):
        found.setdefault(row["exercise"], []).append(row)
    return found


def digest(outcome: Outcome) -> Digest | None:
    """What is kept of one outcome; None if it is of a kind that has no digest."""
    if outcome.error is not None:
        return ["e", type(outcome.error).__name__]
    of_value = _of_value(outcome.value)
    return None if of_value is None else [*of_value, outcome.changed_input]


def _of_value(value: object) -> Digest | None:
    if value is None or isinstance(value, str):
        return ["s", str(value)]
    if isinstance(value, tuple | list):
        parts = [_of_value(part) for part in value]
        return None if None in parts else ["t", parts]
    if isinstance(value, Tensor):
        if str(value.layout) != "torch.strided":
            return None
        kind, array = str(value.dtype), value.detach().double().cpu().numpy()
    elif isinstance(value, np.ndarray | np.generic | int | float):
        array = np.asarray(value)
        kind = str(array.dtype)
        if array.dtype.kind not in "biuf":
            return None
    else:
        return None
    flat = array.astype(np.float64).ravel()
    whole = np.where(np.isfinite(flat), flat, 0)
    places = np.arange(flat.size)
    sums = (np.abs(whole), whole * np.cos(places), whole * np.sin(1.7 * places + 1))
    numbers = [float(f"{part.sum():.6g}") for part in sums]
    return ["a", kind, list(array.shape), int(flat.size - np.isfinite(flat).sum()), *numbers]


def same(one: Digest | None, other: Digest | None) -> bool:
    """Whether two digests are of equal results, up to rounding."""
    if one is None or other is None or len(one) != len(other) or one[0] != other[0]:
        return False
    if one[0] == "t":
        parts = len(one[1]) == len(other[1]) and all(map(same, one[1], other[1]))
        return parts and one[2:] == other[2:]
    if one[0] != "a":
        return one == other
    size = max(one[4], other[4])
    close = (
        math.isclose(a, b, abs_tol=CLOSE * size) for a, b in zip(one[4:7], other[4:7], strict=True)
    )
    return one[:4] == other[:4] and one[7:] == other[7:] and all(close)
