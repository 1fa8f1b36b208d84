"""Networks drawn at random: what is cut computes the same as what was silenced, or is refused by name."""

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compresslab.techniques import scores, surgery

ALONE = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "dropout": lambda: nn.Dropout(0.1),
}


class Drawn(nn.Module):
    """Four to ten operations, each on results before it: layers, norms, sums, concatenations, gates."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.draw = random.Random(seed)
        self.parts, self.plan, self.widths = nn.ModuleList(), [], [3]
        for _ in range(self.draw.randint(4, 10)):
            self.add(
                self.draw.choice(
                    [*ALONE, "conv", "conv", "each", "norm", "cat", "sum", "gate", "place"]
                )
            )
        self.head = nn.Linear(16 * self.widths[-1], 3)

    def part(self, module: nn.Module) -> int:
        self.parts.append(module)
        return len(self.parts) - 1

    def add(self, kind: str) -> None:
        source = self.draw.randrange(len(self.widths))
        width = self.widths[source]
        made, other = width, 0
        if kind in ALONE:
            other = self.part(ALONE[kind]())
        elif kind == "conv":
            made = self.draw.randint(2, 6)
            other = self.part(nn.Conv2d(width, made, 3, padding=1, bias=self.draw.random() < 0.5))
        elif kind == "each":
            other = self.part(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False))
        elif kind == "norm":
            other = self.part(self.norm(width))
        elif kind == "sum":
            other = self.draw.choice([i for i, w in enumerate(self.widths) if w == width])
        elif kind == "cat":
            other = self.draw.randrange(len(self.widths))
            made = width + self.widths[other]
        else:
            gates = width if kind == "gate" else 1
            squeeze = nn.AdaptiveAvgPool2d(1) if kind == "gate" else nn.Identity()
            inner = (nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, gates, 1), nn.Sigmoid())
            other = self.part(nn.Sequential(squeeze, *inner))
        self.plan.append((kind, source, other))
        self.widths.append(made)

    def norm(self, width: int) -> nn.Module:
        norm = nn.BatchNorm2d(width)
        with torch.no_grad():
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                tensor.normal_()
            norm.running_var.uniform_(0.5, 2)
        return norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [x]
        for kind, source, other in self.plan:
            value = found[source]
            if kind == "sum":
                found.append(value + found[other])
            elif kind == "cat":
                found.append(torch.cat([value, found[other]], 1))
            elif kind in ("gate", "place"):
                found.append(value * self.parts[other](value))
            else:
                found.append(self.parts[other](value))
        return self.head(torch.flatten(found[-1], 1))


@given(st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_a_network_cut_anywhere_computes_the_same_or_is_refused_by_name(seed):
    network, generator = Drawn(seed).eval(), torch.Generator().manual_seed(seed)
    inner = scores.prunable(network, last=False)
    keep = {
        name: torch.rand(len(layer.weight), generator=generator) < 0.6
        for name, layer in inner.items()
        if getattr(layer, "groups", 1) == 1 and torch.rand((), generator=generator) < 0.7
    }
    silenced = surgery.silence(network, keep)
    try:
        small = surgery.shrink(silenced)
    except surgery.SurgeryError:
        return
    x = torch.rand(2, 3, 4, 4, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(small(x), silenced(x), rtol=1e-3, atol=1e-3)


def test_most_of_them_are_cut_and_not_refused():
    """Or the test above would say nothing."""
    cut = refused = 0
    for seed in range(60):
        network = Drawn(seed).eval()
        inner = scores.prunable(network, last=False)
        convolutions = [n for n, m in inner.items() if isinstance(m, nn.Conv2d) and m.groups == 1]
        keep = {n: torch.arange(len(inner[n].weight)) > 0 for n in convolutions}
        try:
            small = surgery.shrink(surgery.silence(network, keep))
        except surgery.SurgeryError:
            refused += 1
            continue
        cut += sum(p.numel() for p in small.parameters()) < sum(
            p.numel() for p in Drawn(seed).parameters()
        )
    assert cut > refused
    assert cut > 20
