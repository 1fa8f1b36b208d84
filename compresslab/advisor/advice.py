"""What came of a scenario: a verdict for every candidate, and the best that meets every constraint."""

import math
from dataclasses import dataclass, field

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
        failed: a line for every constraint that does not hold.
        reports: of its stages.
    """

    name: str
    why: str
    bytes: int
    speedup: float
    points_lost: float
    failed: tuple[str, ...]
    network: nn.Module | None = field(repr=False)
    reports: tuple[Report, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Advice:
    """The verdicts, best first: those that meet everything, the most accurate in front, then the others."""

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
                "-" if v.network is None else f"{v.points_lost:+.2f}",
                "all constraints hold" if not v.failed else "; ".join(v.failed),
            ]
            for v in self.verdicts
        ]
        counted = "file" if self.scenario.hardware == "cpu" else "file + activations"
        headings = ["candidate", counted, "times faster", "points lost", "verdict"]
        how = "one thread, validation images; sorted by constraints missed, then by points lost"
        return Table(headings, rows, f"{self.scenario.name}; {how}")

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
