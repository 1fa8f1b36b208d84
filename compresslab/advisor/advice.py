"""What came of a scenario: a verdict for every candidate, and the best that meets every constraint.

Losses are means over a few thousand images, and as uncertain as such means are. Both networks answer the
*same* images, so the difference counts image by image:

    d_i = (float network right at i) - (candidate right at i)       in {-1, 0, 1}
    lost = 100 mean(d)        standard error = 100 sd(d) / sqrt(n)

A limit is held against the loss plus one standard error, and two candidates whose losses differ by no more
than the standard error of *their* difference are tied: of these the smallest is recommended.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from compresslab.advisor.scenario import Scenario
from compresslab.report import Table, in_bytes
from compresslab.stages import Report


@dataclass(frozen=True)
class Verdict:
    """A candidate as it was measured.

    Attributes:
        bytes: what `max_bytes` is held against.
        speedup: times faster than the float network; NaN where it is not timed.
        points_lost: below the float network on the same images; negative: above it.
        standard_error: of the points lost.
        failed: a line for every constraint that does not hold.
        reports: of its stages.
    """

    name: str
    why: str
    bytes: int
    speedup: float
    points_lost: float
    standard_error: float
    failed: tuple[str, ...]
    network: nn.Module | None = field(repr=False)
    reports: tuple[Report, ...] = field(default=(), repr=False)
    right: torch.Tensor | None = field(default=None, repr=False, compare=False)
    """Which validation images it answers rightly, [n] of bool."""


def lost_points(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """Points of accuracy lost from one network to another, and their standard error.

    Args:
        before: which images the first answers rightly, [n] of bool; of one image nothing is known.
        after: the second, on the same images.
    """
    if len(before) < 2:
        return 100 * float(before.double().mean() - after.double().mean()), math.inf
    difference = 100 * (before.double() - after.double())
    return float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))


def ranked(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Best first: by constraints missed, then points lost; of those tied for the best, the smallest first."""
    order = sorted(
        verdicts, key=lambda v: (v.network is None, len(v.failed), v.points_lost, v.bytes)
    )
    if not order or order[0].failed:
        return tuple(order)
    tied = {id(v) for v in order if not v.failed and _tied(v, order[0])}
    best = sorted((v for v in order if id(v) in tied), key=lambda v: v.bytes)
    return (*best, *(v for v in order if id(v) not in tied))


def _tied(one: Verdict, best: Verdict) -> bool:
    """Whether no more than a standard error lies between two candidates."""
    further, error = lost_points(best.right, one.right)
    return one is best or further <= error


@dataclass(frozen=True)
class Advice:
    """The verdicts, best first (see `ranked`)."""

    scenario: Scenario
    verdicts: tuple[Verdict, ...]

    @property
    def best(self) -> Verdict | None:
        """What is recommended; None if nothing meets every constraint."""
        return self.verdicts[0] if self.verdicts and not self.verdicts[0].failed else None

    def table(self) -> Table:
        """A row a candidate."""
        rows = [
            [
                v.name,
                "-" if v.network is None else in_bytes(v.bytes),
                "-" if math.isnan(v.speedup) else f"{v.speedup:.2f}",
                "-" if v.network is None else f"{v.points_lost:+.2f} ± {v.standard_error:.2f}",
                "all constraints hold" if not v.failed else "; ".join(v.failed),
            ]
            for v in self.verdicts
        ]
        counted = "file" if self.scenario.hardware == "cpu" else "file + activations"
        headings = ["candidate", counted, "times faster", "points lost", "verdict"]
        how = (
            "one thread, validation images, ± one standard error; sorted by constraints missed, then by "
            "points lost; of those tied for the best the smallest is first"
        )
        return Table(headings, rows, f"{self.scenario.name}; {how}")

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
