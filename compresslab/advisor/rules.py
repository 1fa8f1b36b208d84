"""The rules: which pipelines are proposed for what a scenario asks.

A rule is a function that gives candidates, each with a line that says why. The table of all rules is in
`compresslab.advisor`; nothing is run here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from compresslab import models
from compresslab.advisor.scenario import Scenario
from compresslab.data import Split
from compresslab.runtime import peers
from compresslab.stages import Binary, Distill, Once, OnnxRuntime, Prune, Quantize, Share, Stage
from compresslab.techniques.binarize import XnorNet


@dataclass(frozen=True)
class Candidate:
    """A pipeline and the rule that proposes it."""

    name: str
    why: str
    stages: Sequence[Stage | Once]


def always(scenario: Scenario) -> list[Candidate]:
    """For every scenario: int8 after training, in both engines."""
    why = "a few images, no training: the first thing to try"
    found = [Candidate("int8", why, [Quantize(8)])]
    if scenario.hardware == "cpu" and peers.onnxruntime_available():
        stages = [Quantize(8), OnnxRuntime()]
        found.append(Candidate("int8 in ONNX Runtime", "the same codes in a C++ engine", stages))
    return found


def untrained(scenario: Scenario) -> list[Candidate]:
    """For memory over fourfold, where nothing may be trained."""
    found = [Candidate("4 bits", "MSE ranges stand in for training", [Quantize(4)])]
    if scenario.hardware == "cpu":
        stages = [Prune(0.3), Share(31)]
        found.append(Candidate("pruned a little, shared", "what bears it untuned", stages))
    return found


def for_memory(scenario: Scenario, half: Once) -> list[Candidate]:
    """For memory over fourfold; `half` cuts half the channels."""
    found = [
        Candidate("4 bits, trained", "an eighth of the weights' bytes", [Quantize(4)]),
        _half_the_channels(half, 8),
    ]
    if scenario.hardware == "cpu":
        stages = [Prune(0.85), Share(15)]
        found.append(Candidate("pruned, shared", "a file of a few bits per weight", stages))
    return found


def for_little_memory(
    scenario: Scenario, half: Once, data: Split, epochs: float
) -> list[Candidate]:
    """For memory over eightfold: 2 bits, half the channels at 4, a binary network of the data's shape."""
    found = [
        Candidate("2 bits, trained", "a sixteenth of the weights' bytes", [Quantize(2)]),
        _half_the_channels(half, 4),
    ]
    if scenario.hardware == "cpu":

        def build() -> nn.Module:
            return XnorNet(data.shape, len(data.classes))

        found.append(Candidate("binary", "one bit per weight", [Binary(build, 2 * epochs)]))
    return found


def for_speed(
    half: Once, data: Split, widths: Sequence[int] | None, epochs: float
) -> list[Candidate]:
    """For time: half the channels; a student of half the `widths`, if the network has any."""
    found = [_half_the_channels(half, 8)]
    if widths:
        small = tuple(w // 2 for w in widths)
        stages = [Distill(_vgg(data, small), 2 * epochs), Quantize(8)]
        found.append(Candidate("student of half the width, int8", "distil, then round", stages))
    return found


def for_quality(data: Split, widths: Sequence[int] | None, epochs: float) -> list[Candidate]:
    """For accuracy: training toward the float network; a student of the same `widths`."""
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
