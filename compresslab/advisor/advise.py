"""The advisor builds what the rules propose, measures it, and holds it against every constraint.

Candidates are built once for a network and remembered, since scenarios share many. Every one is written to a
file, raced with the float network in one run on one thread, and tested on validation images.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from compresslab.advisor.advice import Advice, Verdict, lost_points, ranked
from compresslab.advisor.rules import (
    Candidate,
    always,
    for_little_memory,
    for_memory,
    for_quality,
    for_speed,
    untrained,
)
from compresslab.advisor.scenario import Scenario
from compresslab.data import Split
from compresslab.measure import deployed, race_networks, working_bytes
from compresslab.progress_bar import track
from compresslab.report import in_bytes
from compresslab.runtime import files
from compresslab.runtime.program import Program
from compresslab.stages import CutChannels, Material, Once, Report, own_answers, run
from compresslab.stages.trial import quick_layout
from compresslab.training import right_answers

FOURFOLD, EIGHTFOLD = 4, 8
QUALITY = 0.25


@dataclass(frozen=True)
class Built:
    """What a candidate's stages made: a network as it is deployed and their reports, or why there is none."""

    network: nn.Module | None
    reports: tuple[Report, ...]
    failure: str = ""
    right: torch.Tensor | None = None
    """Which validation images it answers rightly, [n] of bool."""


class Advisor:
    """Builds candidates for one network and remembers them, since scenarios share many.

    Args:
        network: the trained float network.
        data: `train` for tuning, `val` for verifying; `test` is not touched.
        train: how many training images are used.
        epochs: of each stage that trains.
        seed: of the tuning.
        widths: of the network if it is a VGGLike, for students; None leaves students out.
    """

    def __init__(
        self,
        network: nn.Module,
        data: Split,
        train: int = 5000,
        epochs: float = 4,
        seed: int = 0,
        widths: Sequence[int] | None = None,
    ) -> None:
        # A copy: layout and mode are changed, and the caller's network is not to be.
        plain = copy.deepcopy(network).eval()
        self.network = quick_layout(plain, data.val.x)
        # A forward that views images as rows needs them, too, as they are.
        self.layout = torch.contiguous_format if self.network is plain else torch.channels_last
        self.data, self.widths = data, widths
        self.few, self.epochs, self.seed = data.train.first(train), epochs, seed
        self.float_bytes = files.size(self.network)
        self.float_right = right_answers(self.network, data.val)
        self.built: dict[tuple[str, bool, bool], Built] = {}
        self.halves: dict[tuple[bool, bool], Once] = {}

    def material(self, scenario: Scenario) -> Material:
        """What the scenario lets a pipeline use."""
        train = self.few if scenario.labels else own_answers(self.network, self.few.x)
        train = train if scenario.may_train else None
        return Material(self.few.x[:500], train, self.epochs, seed=self.seed)

    def candidates(self, scenario: Scenario) -> list[Candidate]:
        """What the rules propose, without running anything."""
        material, epochs = self.material(scenario), self.epochs
        half = self.halves.setdefault(
            (scenario.labels, scenario.may_train),
            Once(CutChannels(0.5)),
        )
        pressure = self.float_bytes / scenario.max_bytes
        proposed = [*always(scenario)]
        if material.train is None:
            return proposed + (untrained(scenario) if pressure > FOURFOLD else [])
        if pressure > FOURFOLD:
            proposed += for_memory(scenario, half)
        if pressure > EIGHTFOLD:
            proposed += for_little_memory(scenario, half, self.data, epochs)
        if scenario.min_speedup > 1:
            proposed += for_speed(half, self.data, self.widths, epochs)
        if scenario.max_points_lost <= QUALITY:
            proposed += for_quality(self.data, self.widths, epochs)
        return list({c.name: c for c in proposed}.values())

    def advise(self, scenario: Scenario, also: Sequence[Candidate] = ()) -> Advice:
        """Run every candidate and hold it against every constraint.

        Args:
            scenario: what is asked for.
            also: candidates of your own, judged beside those of the rules and built anew each time.

        Raises:
            ValueError: if one of them has no name, or a name that is taken; for a batch of more images than
                there are to validate on.
        """
        if scenario.batch > len(self.data.val):
            raise ValueError(
                f"batch must be at most {len(self.data.val)}, the validation images, "
                f"got {scenario.batch}"
            )
        candidates = self.candidates(scenario)
        names = [c.name for c in (*candidates, *also)]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"also must have names of its own, got {[c.name for c in also]}")
        built: dict[str, Built] = {}
        for candidate in track((*candidates, *also), scenario.name, "candidate"):
            key = (candidate.name, scenario.labels, scenario.may_train)
            if candidate in also:
                own = copy.deepcopy(self.network)
                built[candidate.name] = self.build(candidate, own, self.material(scenario))
            else:
                if key not in self.built:
                    self.built[key] = self.build(candidate, self.network, self.material(scenario))
                built[candidate.name] = self.built[key]
        runs = {n: b.network for n, b in built.items() if b.network is not None}
        speeds = self.speeds(scenario, runs)
        verdicts = [
            self.verdict(scenario, c, built[c.name], speeds.get(c.name, math.nan))
            for c in (*candidates, *also)
        ]
        return Advice(scenario, ranked(verdicts))

    def build(self, candidate: Candidate, network: nn.Module, material: Material) -> Built:
        """Run a candidate's stages; a stage that refuses the network makes it a failure, with the reason."""
        try:
            reports = run(candidate.stages, network, material, self.data.val)
            network = deployed(reports[-1].network)
            return Built(network, tuple(reports), right=right_answers(network, self.data.val))
        except (ValueError, RuntimeError) as error:
            return Built(None, (), f"cannot be built: {error}")

    def speeds(self, scenario: Scenario, networks: Mapping[str, nn.Module]) -> dict[str, float]:
        """How many times faster than the float network each is, all raced together."""
        if scenario.hardware == "microcontroller":
            return {}
        x = self.data.val.x[: scenario.batch].contiguous(memory_format=self.layout)
        # No candidate is without a name, so the float network can be.
        seconds = race_networks({"": self.network, **networks}, x)
        return {name: seconds[""] / seconds[name] for name in networks}

    def verdict(
        self,
        scenario: Scenario,
        candidate: Candidate,
        built: Built,
        speedup: float,
    ) -> Verdict:
        """Hold one candidate against the constraints."""
        if built.network is None:
            why = (built.failure,)
            unknown = math.nan
            return Verdict(candidate.name, candidate.why, 0, unknown, unknown, unknown, why, None)
        network, size = built.network, built.reports[-1].measurement.bytes_disk
        lost, error = lost_points(self.float_right, built.right)
        failed = []
        if scenario.hardware == "microcontroller":
            if not _integers_only(network):
                failed.append("needs floating point")
            size += working_bytes(network, self.data.shape)
        if size > scenario.max_bytes:
            failed.append(f"{in_bytes(size)} where {in_bytes(scenario.max_bytes)} are allowed")
        if speedup < scenario.min_speedup:
            failed.append(f"{speedup:.2f} of {scenario.min_speedup:g} times faster")
        # Losses are multiples of one image: what is above by less is a rounding error.
        if lost + error > scenario.max_points_lost + 1e-9:
            failed.append(
                f"{lost:.2f} points lost of {scenario.max_points_lost:g}, with a standard error of "
                f"{error:.2f}"
            )
        return Verdict(
            candidate.name,
            candidate.why,
            size,
            speedup,
            lost,
            error,
            tuple(failed),
            network,
            built.reports,
            built.right,
        )


def _integers_only(network: nn.Module) -> bool:
    """Whether a network is a program without steps in floating point."""
    layers = network.layers if isinstance(network, Program) else [None]
    return not any(layer is None or layer.kind.startswith("float") for layer in layers)
