"""Findings as sentences that are checked while a notebook runs, with their distance from failing.

    claim("8 bits cost less than 0.3 points", 0.3 - lost, "points")

A finding is a sentence and a *margin*: how far the measurement lies on the right side of the sentence's
threshold, in the sentence's own unit. It holds where the margin is above zero. The sentence holds no
measured number, so that it reads the same wherever it is true. Exact statements (equal, identical) may be
True or False.

One run proves little. `python -m benchmarks.claims` replicates every claim over seeds, threads and
instruction sets; `findings.csv` beside this file has what came out, and docs/findings.md shows it.

    where                      a claim that does not hold
    a learner's notebook       is printed with ✘ and how often it held in our runs; the lab goes on
    COMPRESSLAB_STRICT=1       stops the notebook, unless it is about time, on other data or of a lab that was
                               made shorter (tests, releases)

With COMPRESSLAB_CLAIMS=FILE every claim is also written there, one JSON object a line.
"""

import csv
import json
import math
import numbers
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from compresslab import data
from compresslab.language import translated
from compresslab.notice import tell
from compresslab.ownership import is_the_librarys
from compresslab.shorter import is_shorter

STRICT, RECORD = "COMPRESSLAB_STRICT", "COMPRESSLAB_CLAIMS"
FINDINGS = Path(__file__).with_name("findings.csv")
COLUMNS = ("lab", "sentence", "unit", "runs", "held", "mean", "sd")


class ClaimFailed(AssertionError):  # noqa: N818
    """A sentence that the numbers do not bear out."""


def claim(
    sentence: str,
    margin: float | bool,
    unit: str | None = None,
    *,
    timed: bool = False,
    asked: bool = True,
    yours: Callable | tuple[Callable, ...] = (),
) -> None:
    """State a finding: print the sentence with ✔ if it holds, otherwise with ✘ (see the module).

    Args:
        sentence: the finding, without measured numbers.
        margin: the distance from the sentence's threshold, above zero where it holds; or, for an exact
            statement, whether it is true. NaN does not hold.
        unit: of the margin: "points", "times", "bits", ...; None for an exact statement.
        timed: whether the margin rests on a measured time, which belongs to a machine and a minute.
        asked: False where the sentence speaks of what is not here: another class of processors, a network
            that is not installed.
        yours: the answers that the sentence calls "yours". Where one of them is the library's, because an
            exercise is not done yet, the sentence is not asked.

    Raises:
        ClaimFailed: if the claim does not hold and COMPRESSLAB_STRICT is set, rests on no time, and the
            data are the default.
        TypeError: for a margin that is no number, a number without a unit, or a unit without a number.
    """
    exact = isinstance(margin, bool | np.bool_)
    if not exact and not isinstance(margin, numbers.Real):
        raise TypeError(f"margin must be a number, or True or False, got {margin!r}")
    if exact != (unit is None):
        need = "no unit" if exact else "a unit, such as 'points'"
        raise TypeError(f"a margin of {margin!r} needs {need}, got unit={unit!r}")
    if not asked:
        tell(f"· not asked here: {sentence}", "open")
        return
    if any(map(is_the_librarys, yours if isinstance(yours, tuple) else (yours,))):
        tell(f"· not asked before the exercise is done: {sentence}", "open")
        return
    holds = bool(margin) if exact else float(margin) > 0
    _record(sentence, margin, unit, holds, timed)
    if holds:
        tell(f"✔ {sentence}", "held")
    elif (
        os.environ.get(STRICT) and not timed and data.chosen() == data.DEFAULT and not is_shorter()
    ):
        raise ClaimFailed(f"not borne out here: {sentence}{_short_by(margin, unit)}")
    else:
        tell(_not_here(sentence, margin, unit, timed), "open")


def agreement(got: object, expected: object, rtol: float = 0.0, atol: float = 0.0) -> float:
    """How well two arrays agree, as a margin in tolerances: 1 for equal ones, below 0 beyond the tolerance.

        1 - max |got - expected| / (atol + rtol |expected|)

    Args:
        got: numbers of any shape, or a tensor.
        expected: of the same shape.
        rtol: relative tolerance.
        atol: absolute tolerance.

    Returns:
        The margin; -inf where shapes differ or only one of two numbers is finite; 1 for no numbers at all.

    Raises:
        ValueError: for a negative tolerance, or none.
    """
    if not rtol >= 0 or not atol >= 0 or rtol + atol == 0:
        raise ValueError(f"rtol and atol must be >= 0 and one of them > 0, got {rtol} and {atol}")
    one, other = (np.asarray(_plain(a), np.float64) for a in (got, expected))
    if one.shape != other.shape:
        return -math.inf
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if same.all():
        return 1.0
    apart = np.abs(one[~same] - other[~same])
    with np.errstate(divide="ignore", invalid="ignore"):
        worst = (apart / (atol + rtol * np.abs(other[~same]))).max()
    return -math.inf if math.isnan(worst) else 1 - float(worst)


def _plain(values: object) -> object:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


# ---- what is said where a claim does not hold ----------------------------------------------------
def _short_by(margin: float | bool, unit: str | None) -> str:
    if unit is None:
        return ""
    number = f"{-float(margin):.3g}"
    return translated(f" (by {number} {unit})")


def _not_here(sentence: str, margin: float | bool, unit: str | None, timed: bool) -> str:
    said = f"{translated(sentence)}{_short_by(margin, unit)}"
    if data.chosen() != data.DEFAULT:
        return f"✘ {translated(f'not on {data.chosen()}, in this run')}: {said}"
    where = "not on this machine, in this run" if timed else "not in this run"
    where = "not in so short a run" if is_shorter() and not timed else where
    found = findings().get(sentence)
    ours = (
        f"; held in {found.held} of {found.runs} runs of ours (docs/findings.md)" if found else ""
    )
    return f"✘ {translated(where)}: {said}{translated(ours)}"


# ---- what is kept --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Finding:
    """A sentence, and what came out when it was replicated; mean and sd are of the margins."""

    lab: str
    sentence: str
    unit: str
    runs: int
    held: int
    mean: float
    sd: float


@cache
def findings(path: Path = FINDINGS) -> dict[str, Finding]:
    """What replication showed, by sentence; empty if there is no file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return {}
    return {
        r["sentence"]: Finding(
            r["lab"],
            r["sentence"],
            r["unit"],
            int(r["runs"]),
            int(r["held"]),
            float(r["mean"]),
            float(r["sd"]),
        )
        for r in rows
    }


def _record(
    sentence: str, margin: float | bool, unit: str | None, holds: bool, timed: bool
) -> None:
    """Append the claim to the file in COMPRESSLAB_CLAIMS, with the cell and line that it stands in."""
    target = os.environ.get(RECORD)
    if not target:
        return
    frame = sys._getframe(2)
    entry = {
        "sentence": sentence,
        "margin": bool(margin) if unit is None else float(margin),
        "unit": unit,
        "holds": holds,
        "timed": timed,
        "place": f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}",
    }
    with Path(target).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
