"""How wrong numbers stand to the right ones, where it can be told: a factor, an offset, an order, a sign.

For answers that are no known mistake. A relation counts only if it holds in every failing case, and if there
are numbers enough to tell: two different ones at least. What it says is true of the numbers; what made them
so is for the learner to find.
"""

from collections.abc import Callable, Sequence

import numpy as np

# Bound here: what an answer puts in the place of a name of NumPy does not judge it.
from numpy import allclose

from compresslab.classroom.compare import Tensor

CLOSE = 1e-4
Pair = tuple[np.ndarray, np.ndarray]


def relation(got: Sequence[object], expected: Sequence[object]) -> str:
    """One sentence that is true of every failing case; "" if there is none.

    Args:
        got: what came out, case by case.
        expected: what should have.
    """
    pairs = [_arrays(one, other) for one, other in zip(got, expected, strict=True)]
    if any(pair is None for pair in pairs):
        return ""
    pairs = [pair for pair in pairs if pair[0].size or pair[1].size]
    # Without numbers there is nothing to tell, and of the same numbers something else is wrong.
    if any(not pair[0].size or not pair[1].size or _same(*pair) for pair in pairs):
        return ""
    if sum(len(np.unique(right)) for _, right in pairs) < 2:
        return ""
    return next((text for says in RELATIONS if (text := says(pairs))), "")


def _arrays(got: object, expected: object) -> Pair | None:
    """Both as finite float64 arrays; of tuples the first parts that differ. None if they are none."""
    if isinstance(expected, tuple):
        if not isinstance(got, tuple | list) or len(got) != len(expected):
            return None
        parts = [_arrays(one, other) for one, other in zip(got, expected, strict=True)]
        return next((p for p in parts if p is None or not _same(*p)), None)
    one, other = _array(got), _array(expected)
    if one is None or other is None:
        return None
    # Of yes and no nothing is a factor, an offset or a matter of rounding.
    yes_or_no = str(getattr(expected, "dtype", "")) in {"bool", "torch.bool"}
    return None if yes_or_no and not _same(one, 1 - other) else (one, other)


def _array(value: object) -> np.ndarray | None:
    if isinstance(value, Tensor):
        value = value.detach().float().numpy() if str(value.layout) == "torch.strided" else None
    if (
        isinstance(value, np.ndarray | np.generic | int | float)
        and np.asarray(value).dtype.kind in "biuf"
    ):
        array = np.asarray(value, np.float64)
        return array if np.isfinite(array).all() else None
    return None


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and allclose(one, other, rtol=CLOSE, atol=CLOSE)


def _always(holds: Callable[[np.ndarray, np.ndarray], bool], text: str) -> Callable:
    return lambda pairs: text if all(holds(*pair) for pair in pairs) else ""


def _one_number(
    of: Callable[[np.ndarray, np.ndarray], float | None], text: str, varies: str
) -> Callable:
    """Of a number that each case has: the text with it if it is the same in all, else with the first."""

    def says(pairs: Sequence[Pair]) -> str:
        numbers = [of(*pair) for pair in pairs]
        if any(n is None for n in numbers):
            return ""
        same = allclose(numbers, numbers[0], rtol=1e-3)
        if not same and all(other.size == 1 for _, other in pairs):
            return ""  # between two numbers there is always a factor, and an offset
        return (text if same else varies).format(f"{numbers[0]:.4g}")

    return says


def _factor(one: np.ndarray, other: np.ndarray) -> float | None:
    """By which all are multiplied; None if there is no such number."""
    if one.shape != other.shape or not other.any() or not one.any():
        return None
    factor = float((one * other).sum() / np.square(other).sum())
    return factor if _same(one, factor * other) else None


def _offset(one: np.ndarray, other: np.ndarray) -> float | None:
    if one.shape != other.shape:
        return None
    offset = float((one - other).mean())
    return offset if _same(one, other + offset) else None


def _transposed(one: np.ndarray, other: np.ndarray) -> bool:
    return one.ndim > 1 and any(
        _same(np.swapaxes(one, a, b), other) for a in range(one.ndim) for b in range(a)
    )


def _inverse(one: np.ndarray, other: np.ndarray) -> bool:
    return (
        one.shape == other.shape and bool(other.all()) and _same(one * other, np.ones_like(other))
    )


def _reordered(one: np.ndarray, other: np.ndarray) -> bool:
    return one.size == other.size > 1 and _same(np.sort(one, None), np.sort(other, None))


def _missing(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether one is the other but for some places that are 0."""
    left = one != 0
    return one.shape == other.shape and bool(left.any()) and _same(np.where(left, other, 0), one)


RELATIONS = (
    _always(lambda a, b: a.shape == b.shape and _same(a, 1 - b), "Yes and no are exchanged."),
    _always(lambda a, b: a.shape == b.shape and _same(a, -b), "Every value has the wrong sign."),
    _one_number(
        _factor,
        "Every value is {} times what it should be.",
        "In each case all values are off by one factor, which is another one in every case (here "
        "{}): of what "
        "does it depend, the number of values, a width, a scale?",
    ),
    _one_number(
        _offset,
        "Every value is off by {}.",
        "In each case all values are off by one and the same number, which is another one in every "
        "case (here {}).",
    ),
    _always(_transposed, "The numbers are right, but two axes are exchanged."),
    _always(
        lambda a, b: a.shape == b.shape and a.ndim > 0 and _same(a[::-1], b),
        "The order is reversed.",
    ),
    _always(_reordered, "The numbers are right, but in another order."),
    _always(_inverse, "Every value is 1 divided by what it should be."),
    _always(
        lambda a, b: a.shape == b.shape and _same(a, b**2),
        "Every value is the square of what it should be.",
    ),
    _always(
        lambda a, b: a.shape == b.shape and bool((b >= 0).all()) and _same(a, np.sqrt(np.abs(b))),
        "Every value is the square root of what it should be.",
    ),
    _always(_missing, "What is not 0 is right, but some values are missing: they are 0."),
    _always(
        lambda a, b: (
            a.shape == b.shape and np.abs(a - b).max(initial=0) <= 1 and _same(a, np.rint(a))
        ),
        "Some values are one off: look at how they are rounded, and at both ends.",
    ),
)
