"""A scenario: what is asked of a compressed network, and what may be used to make it."""

import math
from dataclasses import dataclass

HARDWARE = ("cpu", "microcontroller")


@dataclass(frozen=True)
class Scenario:
    """What is asked for, and what may be used.

    Attributes:
        name: a line for the table.
        max_bytes: of the file; on a microcontroller of file and activations together.
        min_speedup: times faster than the float network, on one thread.
        batch: images at once, for the speed.
        max_points_lost: accuracy below the float network's, in points; negative asks for a gain.
        labels: whether the training images have labels.
        may_train: whether training is allowed at all.
        hardware: "cpu" or "microcontroller".

    Raises:
        ValueError: for values outside of these.
    """

    name: str
    max_bytes: float = math.inf
    min_speedup: float = 0.0
    batch: int = 1
    max_points_lost: float = 1.0
    labels: bool = True
    may_train: bool = True
    hardware: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        if self.hardware not in HARDWARE:
            raise ValueError(
                f"hardware must be one of {', '.join(HARDWARE)}, got {self.hardware!r}"
            )
        if not self.max_bytes > 0 or not self.min_speedup >= 0:
            raise ValueError(
                "max_bytes must be > 0 and min_speedup >= 0, got "
                f"{self.max_bytes} and {self.min_speedup}"
            )
        if type(self.batch) is not int or self.batch < 1:
            raise ValueError(f"batch must be an integer of 1 or more, got {self.batch!r}")
        for name in ("labels", "may_train"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if math.isnan(self.max_points_lost):
            raise ValueError("max_points_lost must be a number, got nan")
        if self.hardware == "microcontroller" and self.min_speedup:
            raise ValueError(
                f"min_speedup must be 0 for a microcontroller, which is not here to be timed, "
                f"got {self.min_speedup}"
            )
