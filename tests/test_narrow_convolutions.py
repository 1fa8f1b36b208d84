"""Narrow strided 1×1 convolutions: torch corrupts memory when it trains them channels last on AVX2."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from compresslab.data import Examples
from compresslab.experiment import built, fit_all
from compresslab.narrow_convolutions import is_narrow, lay_out_safely_
from compresslab.training import fit

TRAINS = """
import torch
from torch import nn
from compresslab.data import Examples
from compresslab.training import fit

torch.set_num_threads(1)
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(1, {channels}, 3, padding=1),
    nn.Conv2d({channels}, 12, 1, {stride}, bias=False),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
).to(memory_format=torch.channels_last)
x = torch.rand(640, 1, 16, 16){images}
fit(network, Examples(x, torch.arange(640) % 4), 4, 0.01, 64, progress=False)
junk = [torch.randn(i + 1) for i in range(2000)]
print("trained")
"""


def network(channels=6, stride=2, kernel=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.Conv2d(channels, 12, kernel, stride, groups=groups, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


@pytest.mark.parametrize("channels,stride", [(3, 2), (6, 2), (7, 3)])
@pytest.mark.parametrize(
    "images", ["", ".contiguous(memory_format=torch.channels_last)"], ids=["plain", "channels last"]
)
def test_it_trains_in_a_process_that_lives_to_say_so(channels, stride, images):
    code = TRAINS.format(channels=channels, stride=stride, images=images)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("trained"), done.stderr[-500:]


def test_it_becomes_what_it_becomes_in_torchs_own_layout():
    data = Examples(torch.rand(256, 1, 8, 8), torch.arange(256) % 4)
    torch.manual_seed(1)
    plain = network()
    (last,) = built(network, [1])
    for one in (plain, last):
        fit(one, data, 2, 0.1, 64, progress=False)
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "about,narrow",
    [
        ({}, True),
        ({"stride": 1}, False),
        ({"kernel": 3}, False),
        ({"channels": 16}, False),
        ({"channels": 24, "groups": 12}, True),
    ],
)
def test_only_such_layers_change_a_networks_layout(about, narrow):
    one = network(**about).to(memory_format=torch.channels_last)
    assert is_narrow(one[1]) == narrow
    before = {name: value.clone() for name, value in one.state_dict().items()}
    held = one[1].weight
    x = torch.rand(2, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    assert lay_out_safely_(one)(x).stride() == (x.contiguous().stride() if narrow else x.stride())
    assert one[1].weight is held  # an optimizer has it already
    assert all(torch.equal(before[name], value) for name, value in one.state_dict().items())
    if narrow:
        assert one[1].weight.stride()[1:] == (1, 1, 1)


def test_networks_side_by_side_are_kept_from_it_too():
    data = Examples(torch.rand(256, 1, 8, 8), torch.arange(256) % 4)
    for one in fit_all(built(network, [0, 1]), data, 1, 0.1, seeds=[0, 1], label="narrow"):
        assert all(torch.isfinite(p).all() for p in one.parameters())
