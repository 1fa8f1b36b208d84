"""A scenario in, a recommendation out that was run: candidates by rule, every constraint verified.

    what presses             candidates                                              rule from
    nothing yet              int8 after training                                     lab 02
    memory, over fourfold    4 bits, trained; half the channels, int8;               labs 03, 04;
                             pruned, shared, Huffman-coded                           Han et al. 2016
    memory, over eightfold   2 bits, trained; half the channels, 4 bits;             lab 03;
                             a binary network                                        lab 10
    time                     half the channels, int8; a student of half the width    labs 04, 08
    quality                  int8 trained toward the float network;                  lab 03;
                             a student of the same shape                             lab 08
    nothing may be trained   int8; 4 bits with MSE ranges;                           lab 02;
                             a little pruning and sharing, untuned                   labs 04, 12

The rules only propose. Every candidate is built with what the scenario allows, written to a file, raced with
the float network in one run on one thread, and tested on validation images; what misses a constraint stays in
the table with the reason. No constraint met, no recommendation. Where there are no labels but training is
allowed, the network's own answers take their place.

On a microcontroller only integer networks count, and their activations count against its memory; its speed
cannot be measured here, so a scenario that asks for one is refused. Left out: energy, searching settings.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from compresslab import models, stages
from compresslab.data import Split
from compresslab.measure import deployed, race_networks, working_bytes
from compresslab.progress_bar import track
from compresslab.report import Table, in_bytes
from compresslab.runtime import files, peers
from compresslab.runtime.program import Program
from compresslab.stages import (
    Binary,
    CutChannels,
    Distill,
    Material,
    Once,
    OnnxRuntime,
    Prune,
    Quantize,
    Report,
    Share,
    Stage,
    quick_layout,
)
from compresslab.techniques.binarize import XnorNet
from compresslab.training import evaluate

HARDWARE = ("cpu", "microcontroller")
FOURFOLD, EIGHTFOLD = 4, 8
QUALITY = 0.25


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


@dataclass(frozen=True)
class Candidate:
    """A pipeline and the rule that proposes it."""

    name: str
    why: str
    stages: Sequence[Stage | Once]


@dataclass(frozen=True)
class Built:
    """What a candidate's stages made: a network as it is deployed and their reports, or why there is none."""

    network: nn.Module | None
    reports: tuple[Report, ...]
    failure: str = ""


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
        self.float_accuracy = evaluate(self.network, data.val)
        self.built: dict[tuple[str, bool, bool], Built] = {}
        self.halves: dict[tuple[bool, bool], Once] = {}

    def material(self, scenario: Scenario) -> Material:
        """What the scenario lets a pipeline use."""
        train = self.few if scenario.labels else stages.own_answers(self.network, self.few.x)
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
        proposed = [*_always(scenario)]
        if material.train is None:
            return proposed + (_untrained(scenario) if pressure > FOURFOLD else [])
        if pressure > FOURFOLD:
            proposed += _for_memory(scenario, half)
        if pressure > EIGHTFOLD:
            proposed += _for_little_memory(scenario, half, self.data, epochs)
        if scenario.min_speedup > 1:
            proposed += _for_speed(half, self.data, self.widths, epochs)
        if scenario.max_points_lost <= QUALITY:
            proposed += _for_quality(self.data, self.widths, epochs)
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
        verdicts.sort(key=lambda v: (v.network is None, len(v.failed), v.points_lost, v.bytes))
        return Advice(scenario, tuple(verdicts))

    def build(self, candidate: Candidate, network: nn.Module, material: Material) -> "Built":
        """Run a candidate's stages; a stage that refuses the network makes it a failure, with the reason."""
        try:
            reports = stages.run(candidate.stages, network, material, self.data.val)
            return Built(deployed(reports[-1].network), tuple(reports))
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
        built: "Built",
        speedup: float,
    ) -> Verdict:
        """Hold one candidate against the constraints."""
        if built.network is None:
            why = (built.failure,)
            return Verdict(candidate.name, candidate.why, 0, math.nan, math.nan, why, None)
        network, last = built.network, built.reports[-1]
        row = last.measurement
        size, lost = row.bytes_disk, self.float_accuracy - row.accuracy
        failed = []
        if scenario.hardware == "microcontroller":
            if not _integers_only(network):
                failed.append("needs floating point")
            size += working_bytes(network, self.data.shape)
        if size > scenario.max_bytes:
            failed.append(f"{in_bytes(size)} of {in_bytes(scenario.max_bytes)}")
        if speedup < scenario.min_speedup:
            failed.append(f"{speedup:.2f} of {scenario.min_speedup:g} times faster")
        # Accuracies are multiples of one image: what is above by less is a rounding error.
        if lost > scenario.max_points_lost + 1e-9:
            failed.append(f"{lost:.2f} points lost of {scenario.max_points_lost:g}")
        return Verdict(
            candidate.name,
            candidate.why,
            size,
            speedup,
            lost,
            tuple(failed),
            network,
            built.reports,
        )


def _integers_only(network: nn.Module) -> bool:
    """Whether a network is a program without steps in floating point."""
    layers = network.layers if isinstance(network, Program) else [None]
    return not any(layer is None or layer.kind.startswith("float") for layer in layers)


# ---- the rules -----------------------------------------------------------------------------------
def _always(scenario: Scenario) -> list[Candidate]:
    why = "a few images, no training: the first thing to try"
    found = [Candidate("int8", why, [Quantize(8)])]
    if scenario.hardware == "cpu" and peers.onnxruntime_available():
        stages = [Quantize(8), OnnxRuntime()]
        found.append(Candidate("int8 in ONNX Runtime", "the same codes in a C++ engine", stages))
    return found


def _untrained(scenario: Scenario) -> list[Candidate]:
    found = [Candidate("4 bits", "MSE ranges stand in for training", [Quantize(4)])]
    if scenario.hardware == "cpu":
        stages = [Prune(0.3), Share(31)]
        found.append(Candidate("pruned a little, shared", "what bears it untuned", stages))
    return found


def _for_memory(scenario: Scenario, half: Once) -> list[Candidate]:
    found = [
        Candidate("4 bits, trained", "an eighth of the weights' bytes", [Quantize(4)]),
        _half_the_channels(half, 8),
    ]
    if scenario.hardware == "cpu":
        stages = [Prune(0.85), Share(15)]
        found.append(Candidate("pruned, shared", "a file of a few bits per weight", stages))
    return found


def _for_little_memory(
    scenario: Scenario, half: Once, data: Split, epochs: float
) -> list[Candidate]:
    found = [
        Candidate("2 bits, trained", "a sixteenth of the weights' bytes", [Quantize(2)]),
        _half_the_channels(half, 4),
    ]
    if scenario.hardware == "cpu":

        def build() -> nn.Module:
            return XnorNet(data.shape, len(data.classes))

        found.append(Candidate("binary", "one bit per weight", [Binary(build, 2 * epochs)]))
    return found


def _for_speed(
    half: Once, data: Split, widths: Sequence[int] | None, epochs: float
) -> list[Candidate]:
    found = [_half_the_channels(half, 8)]
    if widths:
        small = tuple(w // 2 for w in widths)
        stages = [Distill(_vgg(data, small), 2 * epochs), Quantize(8)]
        found.append(Candidate("student of half the width, int8", "distil, then round", stages))
    return found


def _for_quality(data: Split, widths: Sequence[int] | None, epochs: float) -> list[Candidate]:
    why = "toward the float network's answers"
    found = [Candidate("int8, trained", why, [Quantize(8, epochs=epochs)])]
    if widths:
        stages = [Distill(_vgg(data, widths), 2 * epochs), Quantize(8)]
        found.append(Candidate("student of its own width, int8", "born again", stages))
    return found


def _half_the_channels(half: Once, bits: int) -> Candidate:
    name = "int8" if bits == 8 else f"{bits} bits"
    why = "a quarter of the weights, and kernels that stay full"
    return Candidate(f"half the channels, {name}", why, [half, Quantize(bits)])


def _vgg(data: Split, widths: Sequence[int]) -> Callable[[], nn.Module]:
    return lambda: models.VGGLike(data.shape, len(data.classes), tuple(widths))
