"""Lab 11, open: a matrix of a language model in three bits, judged by its outputs on other text.

    error of the outputs = tr((W - Q) H (W - Q)^T),   H = X^T X / n of the layer's inputs X

An answer is handed W and H of training text; decibels are taken with H of validation text. The model answer
goes on where GPTQ ends: it visits every column again and gives it the code that is best while all others
stay (coordinate descent).
"""

import numpy as np

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.classroom.exercises.opens.matrices import cases, damped, decibels

HIGH = 7
Coded = tuple[np.ndarray, np.ndarray, np.ndarray]


def three_bits(weight: np.ndarray, moment: np.ndarray) -> Coded:
    """Narrowed grids, GPTQ on them, then coordinate descent on the codes, scales fitted in between."""
    h = damped(moment)
    scale, zero = _best_grids(weight, h)
    codes = _gptq(weight, h, scale, zero)
    for _ in range(3):
        codes = _descended(weight, h, codes, scale, zero)
        scale = _fitted(weight, h, codes, zero, scale)
    return _descended(weight, h, codes, scale, zero).astype(np.uint8), scale, zero


def _grid(weight: np.ndarray, shrink: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points of the rows; the range runs from the least weight to the largest, narrowed."""
    low, high = weight.min(1) * shrink, weight.max(1) * shrink
    scale = np.maximum((high - low) / HIGH, 1e-12)
    return scale, np.clip(np.rint(-low / scale), 0, HIGH)


def _codes(w: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(w / scale + zero), 0, HIGH)


def _best_grids(weight: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of several widths the one whose outputs are nearest, row by row, all weights rounded."""
    least, kept = np.full(len(weight), np.inf), _grid(weight)
    for shrink in np.arange(0.5, 1.01, 0.05):
        scale, zero = _grid(weight, shrink)
        d = (
            weight
            - (_codes(weight, scale[:, None], zero[:, None]) - zero[:, None]) * scale[:, None]
        )
        error = ((d @ h) * d).sum(1)
        better = error < least
        kept = tuple(
            np.where(better, new, old) for new, old in zip((scale, zero), kept, strict=True)
        )
        least = np.minimum(least, error)
    return kept


def _gptq(weight: np.ndarray, h: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    factor = np.linalg.cholesky(np.linalg.inv(h)).T
    w, codes = weight.astype(np.float64), np.zeros(weight.shape)
    for j in range(weight.shape[1]):
        codes[:, j] = _codes(w[:, j], scale, zero)
        error = (w[:, j] - (codes[:, j] - zero) * scale) / factor[j, j]
        w[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]
    return codes


def _descended(
    weight: np.ndarray, h: np.ndarray, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray
) -> np.ndarray:
    """Every column gets the code that is best while the others stay, twice over."""
    codes = codes.copy()
    left = weight - (codes - zero[:, None]) * scale[:, None]
    for _ in range(2):
        for j in range(weight.shape[1]):
            wanted = left @ h[:, j] / h[j, j]
            new = np.clip(np.rint(codes[:, j] + wanted / scale), 0, HIGH)
            left[:, j] -= (new - codes[:, j]) * scale
            codes[:, j] = new
    return codes


def _fitted(
    weight: np.ndarray, h: np.ndarray, codes: np.ndarray, zero: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """The scale of every row that is best for its codes: least squares."""
    c = codes - zero[:, None]
    below = ((c @ h) * c).sum(1)
    fitted = ((weight @ h) * c).sum(1) / np.maximum(below, 1e-12)
    return np.where((below > 0) & (fitted > 0), fitted, scale)


# ---- how it is measured ----------------------------------------------------------------------------
def measured(case: Case, found: object) -> float | str:
    """Decibels of the outputs over their error, on other text; a sentence for what is no such matrix."""
    weight, _ = case.args
    if type(found) not in (tuple, list) or len(found) != 3:
        return "the answer must be codes, scales and zero points"
    if not all(isinstance(a, np.ndarray) for a in found):
        return "codes, scales and zero points must be arrays"
    codes, scale, zero = found
    if codes.shape != weight.shape or codes.dtype.kind not in "iu":
        return f"the codes must be integers {weight.shape}, got {compare.show(codes)}"
    if codes.min() < 0 or codes.max() > HIGH:
        return f"the codes must be from 0 to {HIGH}, got {codes.min()} to {codes.max()}"
    for name, numbers in (("scales", scale), ("zero points", zero)):
        fine = numbers.shape == (len(weight),) and numbers.dtype.kind in "iuf"
        if not fine or not np.isfinite(numbers).all():
            return f"there must be {len(weight)} finite {name}, got {compare.show(numbers)}"
    rounded = (codes.astype(np.float64) - zero[:, None]) * scale[:, None]
    return decibels(weight, rounded, *case.hidden)


# ---- other ways ------------------------------------------------------------------------------------
def _rounded(weight, moment):
    scale, zero = _grid(weight)
    return _codes(weight, scale[:, None], zero[:, None]).astype(np.uint8), scale, zero


def _narrowed(weight, moment):
    scale, zero = _best_grids(weight, np.diag(np.diag(moment)))
    return _codes(weight, scale[:, None], zero[:, None]).astype(np.uint8), scale, zero


def _only_gptq(weight, moment):
    scale, zero = _grid(weight)
    return _gptq(weight, damped(moment), scale, zero).astype(np.uint8), scale, zero


def _one_scale(weight, moment):
    scale, zero = (np.full(len(weight), a[0]) for a in _grid(weight.reshape(1, -1)))
    return _codes(weight, scale[:, None], zero[:, None]).astype(np.uint8), scale, zero


def _four_bits(weight, moment):
    low, high = weight.min(1), weight.max(1)
    scale = (high - low) / 15
    zero = np.rint(-low / scale)
    return np.rint(weight / scale[:, None] + zero[:, None]).astype(np.uint8), scale, zero


THREE_BITS = Exercise(
    id="llm.three_bits",
    title="Three bits, as good as you can",
    points=12,
    reference=three_bits,
    cases=cases,
    lines=25,
    medals=Medals(
        bronze=15.1,
        silver=17.5,
        gold=18.9,
        measure=measured,
        unit="dB, mean of three layers",
        plain=_rounded,
    ),
    mistakes=(
        Mistake(
            "rounded to the nearest",
            _rounded,
            "Every weight goes to its nearest code here. What is lost in one column the columns "
            "behind it can "
            "make up for: that is GPTQ, and H says how.",
        ),
        Mistake(
            "narrower grids, rounded to the nearest",
            _narrowed,
            "A narrower grid is worth something, and it comes on top of GPTQ: H is used on its "
            "diagonal only "
            "here.",
        ),
        Mistake(
            "GPTQ on the full range",
            _only_gptq,
            "GPTQ is right. Before it, a grid that cuts off the largest weights may be better; after "
            "it, go "
            "through the columns once more.",
        ),
        Mistake(
            "one scale for all rows",
            _one_scale,
            "Every row may have a scale and a zero point of its own.",
        ),
        Mistake(
            "codes of four bits",
            _four_bits,
            "Three bits have eight codes, 0 to 7.",
        ),
    ),
)

EXERCISES = (THREE_BITS,)
