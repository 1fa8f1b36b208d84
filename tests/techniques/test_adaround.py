"""Learned rounding against every rounding there is, where these can be counted."""

import copy
import itertools

import pytest
import torch
from torch import nn

import compresslab as cl
from compresslab.debugging import decibels
from compresslab.stages import Quantize
from compresslab.techniques.adaround import learn_rounding
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig, Quantized

WEIGHTS_ONLY = QuantConfig(weight_bits=3, activation_bits=None, edge_bits=3, weight_range="minmax")


def layers(network):
    return [m for m in network.modules() if isinstance(m, Quantized)]


def rounded(layer):
    with torch.no_grad():
        return layer.weight_quantizer(layer.layer.weight)


def network_of(*shapes, seed=0):
    torch.manual_seed(seed)
    parts = []
    for inputs, outputs in shapes:
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def correlated(n, width, seed=0):
    """Inputs that go up and down together, where rounding each weight for itself is far from best."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 1, generator=generator)
    return (common + 0.3 * torch.randn(n, width, generator=generator)).abs()


def error(x, weight, target):
    return float((x @ weight.T - target).square().sum(1).mean())


def test_it_comes_near_the_best_of_all_roundings():
    """Six weights have 64 roundings up or down: all are tried, for twenty layers."""
    lost, could = 0.0, 0.0
    for seed in range(20):
        network, x = network_of((6, 1), seed=seed), correlated(64, 6, seed)
        quantized = quantize_post_training(network, WEIGHTS_ONLY, x)
        learned = learn_rounding(quantized, network, x, progress=False)
        (before,), (after,) = layers(quantized), layers(learned)
        weight, scale = before.layer.weight.detach(), before.weight_quantizer.qparams().scale
        below, target = torch.floor(weight / scale), x @ weight.T
        best = min(
            error(x, scale * (below + torch.tensor([up])).clamp(-3, 3), target)
            for up in itertools.product((0.0, 1.0), repeat=6)
        )
        nearest, found = (error(x, rounded(m), target) for m in (before, after))
        assert best - 1e-6 <= found <= nearest + 1e-6
        lost, could = lost + found - best, could + nearest - best
    assert lost < 0.15 * could


@pytest.mark.parametrize("sharing", ["tensor", "channel", "group"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_code_is_the_one_below_or_above(sharing, bits):
    network, x = network_of((16, 8), (8, 4)), correlated(40, 16)
    config = QuantConfig(bits, None, sharing=sharing, group=8, edge_bits=bits)
    quantized = quantize_post_training(network, config, x)
    learned = learn_rounding(quantized, network, x, steps=50, progress=False)
    for old, new in zip(layers(quantized), layers(learned), strict=True):
        params = new.weight_quantizer.qparams()
        scale = params.scale
        if params.group:
            scale = scale.repeat_interleave(params.group, dim=1)
        scale = scale.reshape(*scale.shape, *(1,) * (2 - scale.ndim)) if scale.ndim else scale
        exact = (old.layer.weight.detach() / scale).clamp(params.grid.low, params.grid.high)
        code = rounded(new) / scale
        assert torch.allclose(code, code.round(), atol=1e-4)
        assert float((code - exact).abs().max()) < 1 + 1e-4
        assert float(code.abs().max()) <= params.grid.high + 1e-4


def test_outputs_come_nearer_and_the_networks_that_came_in_are_as_they_were():
    network, x = network_of((24, 16), (16, 10), seed=3), correlated(200, 24)
    quantized = quantize_post_training(network, WEIGHTS_ONLY, x)
    states = [copy.deepcopy(m.state_dict()) for m in (network, quantized)]
    learned = learn_rounding(quantized, network, x, progress=False)
    with torch.no_grad():
        wanted = network(x)
        near = [decibels(wanted, m(x)) for m in (quantized, learned)]
    assert near[1] > near[0] + 3
    for before, module in zip(states, (network, quantized), strict=True):
        after = module.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
    again = learn_rounding(quantized, network, x, progress=False)
    assert torch.equal(again(x), learned(x))


def test_convolutions_and_what_converts():
    torch.manual_seed(5)
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(8 * 16, 5)),
    ).eval()
    x = torch.rand(64, 1, 8, 8)
    config = QuantConfig(weight_bits=3, activation_bits=8, edge_bits=3)
    quantized = quantize_post_training(network, config, x)
    learned = learn_rounding(quantized, network, x, progress=False)
    with torch.no_grad():
        wanted = network(x)
        near = [decibels(wanted, m(x)) for m in (quantized, learned)]
        integers = cl.convert(learned)(x)
    assert near[1] > near[0]
    assert decibels(learned(x).detach(), integers) > 25


def test_a_layer_whose_weights_lie_on_their_grid_stays():
    network, x = network_of((8, 4)), correlated(50, 8)
    with torch.no_grad():
        network[0].weight.copy_(torch.randint(-3, 4, (4, 8)) * 0.25)
        network[0].weight[:, 0] = 0.75
    quantized = quantize_post_training(network, WEIGHTS_ONLY, x)
    learned = learn_rounding(quantized, network, x, steps=50, progress=False)
    assert torch.equal(rounded(layers(learned)[0]), network[0].weight)


def test_what_was_pruned_stays_pruned():
    network, x = network_of((24, 16), (16, 10), seed=3), correlated(200, 24)
    with torch.no_grad():
        network[0].weight *= torch.rand(16, 24) < 0.3
    quantized = quantize_post_training(network, WEIGHTS_ONLY, x)
    first, _ = layers(learn_rounding(quantized, network, x, progress=False))
    assert not torch.equal(rounded(first), rounded(layers(quantized)[0]))
    assert bool((rounded(first)[network[0].weight == 0] == 0).all())


def test_the_stage_takes_it_and_a_loader_of_images_alone_is_enough():
    network, x = network_of((12, 12), (12, 6), seed=9), correlated(120, 12)
    small = {
        how: cl.compress(network, [Quantize(3, rounding=how)], x, progress=False)
        for how in ("nearest", "learned")
    }
    with torch.no_grad():
        wanted = network(x)
        near = {how: decibels(wanted, m(x)) for how, m in small.items()}
    assert near["learned"] > near["nearest"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"images": torch.rand(0, 4)}, "images must hold at least one"),
        ({"steps": 3}, "steps must be 10 or more, got 3"),
        ({"quantized": nn.Linear(4, 2)}, "must have quantized layers"),
    ],
)
def test_what_cannot_be_done_is_named(change, words):
    network, x = network_of((4, 2)), torch.rand(8, 4)
    options = {
        "quantized": quantize_post_training(network, WEIGHTS_ONLY, x),
        "model": network,
        "images": x,
        "progress": False,
    }
    with pytest.raises(ValueError, match=words):
        learn_rounding(**options | change)
    with pytest.raises(ValueError, match="rounding must be nearest or learned, got 'up'"):
        Quantize(4, rounding="up")
