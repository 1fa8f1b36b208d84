"""The row of an open project: what a learner's network weighs, how fast and how good it is, measured.

The network is written to a file, and from here on only what is *read back* counts: its bytes are the
file's, its accuracy is the loaded network's on images that it was not chosen by, and its speed comes from
one race on one thread with the float network that it is compared with. A row is valid if it is within a
point of that network.

It is on the learner's honour: the code that reads the file is the learner's own, and could know more than the
file does. Whoever compares rows of several people measures them again from file and code.
"""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from compresslab.data import Examples
from compresslab.measure import Measurement, measure, race_networks
from compresslab.report import Table, in_bytes
from compresslab.runtime import files
from compresslab.runtime.peers import OnnxModel
from compresslab.training import evaluate
from compresslab.writing import FileError

WITHIN = 1.0
"""Points that a network may lose."""
TIE = 1.05
"""Entries this near are equal: a race on a busy machine says no more."""


@dataclass(frozen=True)
class Row:
    """One entry as it was read back, and how it stands to the float network.

    Attributes:
        measurement: of the network that was read back; its `bytes_disk` is the file's.
        smaller: times smaller than the float network's file.
        faster: times faster, in one race.
        points_lost: accuracy below the float network's, in points.
    """

    measurement: Measurement
    smaller: float
    faster: float
    points_lost: float

    @property
    def valid(self) -> bool:
        """Whether it is within a point."""
        return self.points_lost <= WITHIN + 1e-9


def row(
    name: str,
    network: nn.Module,
    reference: nn.Module,
    judge: Examples,
    like: Callable[[], nn.Module] | None = None,
    batch: int = 1,
) -> Row:
    """Measure an entry.

    Args:
        name: the learner's, or the network's.
        network: whatever `files.save` can write; not a simulation.
        reference: the float network.
        judge: test images.
        like: builds a network of the entry's architecture, if its file holds weights only; if None, the
            reference's architecture is taken.
        batch: images at once, for the speed.

    Raises:
        ValueError: if the name is empty, the network cannot be saved, or there are not so many images.
        FileError: if what was saved cannot be read back into `like`.
    """
    if not name.strip():
        raise ValueError(f"name must not be empty, got {name!r}")
    if type(batch) is not int or not 1 <= batch <= len(judge):
        raise ValueError(f"batch must be an integer from 1 to {len(judge)}, got {batch!r}")
    # A copy is filled in, so that the reference keeps its weights.
    shell = like() if like is not None else copy.deepcopy(reference)
    with tempfile.TemporaryDirectory() as folder:
        kind = "onnx" if isinstance(network, OnnxModel) else "safetensors"
        path = Path(folder) / f"entry.{kind}"
        size = files.save(network, path)
        try:
            back = files.load(path, shell)
        except FileError as error:
            if like is not None:
                raise
            raise FileError(
                f"{name!r} is read back into the reference's architecture, which it does not fit: if its "
                f"own is another, pass like=lambda: ..., which builds a network of it ({error})"
            ) from error
        if isinstance(back, OnnxModel):
            back = OnnxModel(path, threads=1)
    x = judge.x[:batch].contiguous(memory_format=torch.channels_last)
    fastest = copy.deepcopy(reference).to(memory_format=torch.channels_last)
    seconds = race_networks({"float": fastest, "entry": back}, x)
    found = replace(measure(back, judge, name, batches=()), bytes_disk=size)
    faster = seconds["float"] / seconds["entry"]
    lost = evaluate(reference, judge) - found.accuracy
    return Row(found, files.size(reference) / size, faster, lost)


def table(rows: list[Row]) -> Table:
    """The board: valid entries in front; a star for the smallest and the fastest, and who is within 5 %."""
    valid = [r for r in rows if r.valid]
    smallest = min((r.measurement.bytes_disk for r in valid), default=None)
    fastest = max((r.faster for r in valid), default=None)
    cells = [
        [
            r.measurement.name,
            in_bytes(r.measurement.bytes_disk),
            f"{r.smaller:.1f}{' ★' if r.valid and r.measurement.bytes_disk <= TIE * smallest else ''}",
            f"{r.faster:.2f}{' ★' if r.valid and TIE * r.faster >= fastest else ''}",
            f"{r.measurement.accuracy:.2f}",
            f"{r.points_lost:+.2f}",
            "valid" if r.valid else f"more than {WITHIN:g} point lost",
        ]
        for r in sorted(rows, key=lambda r: (not r.valid, r.measurement.bytes_disk))
    ]
    headings = [
        "entry",
        "file",
        "times smaller",
        "times faster",
        "accuracy, %",
        "points lost",
        "verdict",
    ]
    return Table(
        headings, cells, "read back from their files, on everybody's honour; speed on one thread"
    )
