"""Searching the shape: widths and depths of a VGG-like network under a budget of bytes and of time.

Neural architecture search (神经架构搜索) in its plainest forms, on one space (three stages, each
with a width and one or two convolutions):

    grid          every width the same share of the largest that fits
    random        shapes drawn at random (Li and Talwalkar 2019, https://arxiv.org/abs/1902.07638)
    evolution     the best of a few shapes, changed in one place, again and again (Real et al. 2019)

A shape's time is predicted by a *latency table*: every possible layer is measured once, and a shape is the
sum of its layers (Cai et al. 2019, ProxylessNAS, section 3.2). A shape is judged by a short training on
validation images; the winner of each search trains fully and is tested. All three look at equally many
shapes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from compresslab.data import Split, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.measure import race_networks
from compresslab.models import convolution
from compresslab.techniques.evolution import evolve
from compresslab.training import evaluate

WIDTHS, DEPTHS = (8, 12, 16, 24, 32, 48, 64), (1, 2)
LOOKS, SHORT, FULL, RATE = 12, 2.0, 6, 0.2
WEIGHTS = 30_000
"""The budget of parameters: 120 kB in floats."""


@dataclass(frozen=True)
class Shape:
    """Channels of each stage, and how many convolutions it has."""

    widths: tuple[int, int, int]
    depths: tuple[int, int, int]

    def layers(self, channels: int, size: int) -> list[tuple[int, int, int, bool]]:
        """(inputs, outputs, pixels a side, whether pooling follows) of every convolution."""
        found, inputs = [], channels
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            for place in range(depth):
                found.append((inputs, width, size >> stage, place == depth - 1))
                inputs = width
        return found

    def parameters(self, channels: int, classes: int) -> int:
        """Weights, norms and the head."""
        body = sum(9 * i * o + 2 * o for i, o, *_ in self.layers(channels, 1))
        return body + (self.widths[-1] + 1) * classes

    def network(self, data: Split) -> nn.Module:
        """Built, with random weights."""
        channels = data.shape[0]
        parts: list[nn.Module] = []
        inputs = channels
        for width, depth in zip(self.widths, self.depths, strict=True):
            for _ in range(depth):
                parts.append(convolution(inputs, width))
                inputs = width
            parts.append(nn.MaxPool2d(2))
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, len(data.classes))]
        return nn.Sequential(*parts, *head)


class LatencyTable:
    """Milliseconds of every layer at batch 64, with the pooling behind it, measured when first asked for."""

    def __init__(self, channels: int, size: int) -> None:
        self.channels, self.size = channels, size
        self.known: dict[tuple[int, int, int, bool], float] = {}

    def of(self, shape: Shape) -> float:
        """The sum over a shape's convolutions; the head is left out."""
        return sum(self._layer(*layer) for layer in shape.layers(self.channels, self.size))

    def _layer(self, inputs: int, outputs: int, side: int, pooled: bool) -> float:
        key = (inputs, outputs, side, pooled)
        if key not in self.known:
            parts = [convolution(inputs, outputs), *([nn.MaxPool2d(2)] if pooled else [])]
            layer = nn.Sequential(*parts).eval().to(memory_format=torch.channels_last)
            x = torch.zeros(64, inputs, side, side).to(memory_format=torch.channels_last)
            self.known[key] = 1e3 * race_networks({"layer": layer}, x, rounds=9)["layer"]
        return self.known[key]


def run(seed: int, size: int) -> Rows:
    """Three searches of equally many shapes, and the table's predictions held against the clock."""
    data = load("glyphs", train_size=size, seed=seed)
    roll = np.random.default_rng(seed)
    table = LatencyTable(data.shape[0], data.shape[1])
    middle = Shape((16, 24, 32), (1, 2, 1))
    limit = table.of(middle)  # no slower than a shape in the middle of the space
    seen: dict[Shape, float] = {}

    def fits(shape: Shape) -> bool:
        return (
            shape.parameters(data.shape[0], len(data.classes)) <= WEIGHTS
            and table.of(shape) <= limit
        )

    def worth(shape: Shape) -> float:
        if shape not in seen:
            network = grow(lambda: shape.network(data), data.train, SHORT, RATE, seed)
            seen[shape] = evaluate(network, data.val)
        return seen[shape]

    found = {
        "grid": max(_grid(fits), key=worth),
        "random": max((_drawn(roll, fits) for _ in range(LOOKS)), key=worth),
        "evolution": evolve(_first(roll, fits), _neighbours, fits, worth, LOOKS, roll),
    }
    rows = {}
    for name, shape in found.items():
        network = grow(lambda shape=shape: shape.network(data), data.train, FULL, RATE, seed)
        network = network.to(memory_format=torch.channels_last)
        took = race_networks({"network": network}, data.test.x[:64], rounds=7)["network"]
        rows[name] = {
            "parameters, thousand": shape.parameters(data.shape[0], len(data.classes)) / 1e3,
            "ms by the table": table.of(shape),
            "ms measured": 1e3 * took,
            "validation after the short training, %": worth(shape),
            "test accuracy, %": evaluate(network, data.test),
        }
    return rows


def _grid(fits: Callable[[Shape], bool]) -> list[Shape]:
    """Widths in the proportion 1 : 2 : 4 or equal, every pattern of depths, the largest that fit."""
    patterns = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1), (1, 2, 2), (2, 2, 2)]
    found = []
    for depths in patterns:
        for family in (lambda w: (w, 2 * w, 4 * w), lambda w: (w, w, w)):
            shapes = [Shape(family(w), depths) for w in WIDTHS]
            fitting = [s for s in shapes if fits(s)]
            found += fitting[-1:]
    return found[:LOOKS]


def _drawn(roll: np.random.Generator, fits: Callable[[Shape], bool]) -> Shape:
    while True:
        widths = tuple(WIDTHS[place] for place in roll.integers(len(WIDTHS), size=3))
        shape = Shape(widths, tuple(int(depth) for depth in roll.integers(1, 3, size=3)))
        if fits(shape):
            return shape


def _first(roll: np.random.Generator, fits: Callable[[Shape], bool]) -> list[Shape]:
    """Four different shapes to evolve from."""
    found: list[Shape] = []
    while len(found) < 4:
        shape = _drawn(roll, fits)
        if shape not in found:
            found.append(shape)
    return found


def _neighbours(shape: Shape) -> list[Shape]:
    """One stage a step wider or narrower, or with one convolution more or less."""
    found = []
    for stage in range(3):
        before, after = shape.widths[:stage], shape.widths[stage + 1 :]
        place = WIDTHS.index(shape.widths[stage])
        for near in WIDTHS[max(0, place - 1) : place + 2]:
            if near != shape.widths[stage]:
                found.append(replace(shape, widths=(*before, near, *after)))
        depths = (*shape.depths[:stage], 3 - shape.depths[stage], *shape.depths[stage + 1 :])
        found.append(replace(shape, depths=depths))
    return found


def _reached(rows: Rows) -> list[float]:
    return [row["test accuracy, %"] for row in rows.values()]


EXPERIMENT = Experiment(
    question="Widths and depths under a budget of bytes and time: does a search beat a rule of thumb?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "Grid, which is a rule of thumb, and the two searches end within six points of each other",
            lambda r: 6 - (max(_reached(r)) - min(_reached(r))),
            "points",
        ),
        Finding(
            "The sum of single layers is off from the network's measured time by less than two thirds",
            lambda r: (
                2 / 3 - max(abs(x["ms by the table"] / x["ms measured"] - 1) for x in r.values())
            ),
            "times",
        ),
    ),
    note=f"Each search looks at {LOOKS} shapes; batch 64, one thread.",
)
