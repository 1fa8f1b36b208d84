"""Signs, scales and their gradients, against the papers' equations and brute force."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compresslab import models
from compresslab.data import load
from compresslab.techniques import binarize as b
from compresslab.training import evaluate, fit, logits, seed_everything


def test_the_sign_of_zero_is_plus_one_and_its_gradient_is_clipped():
    x = torch.tensor([-3.0, -1.0, -0.2, -0.0, 0.0, 0.9, 1.1], requires_grad=True)
    y = b.sign(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1]
    y.backward(torch.arange(1.0, 8.0))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


def test_the_stochastic_sign_is_right_on_average_and_has_the_same_gradient():
    torch.manual_seed(0)
    x = torch.tensor([-2.0, -0.5, 0.0, 0.3, 1.5]).repeat(20_000, 1).requires_grad_(True)
    y = b.stochastic_sign(x)
    assert set(y.unique().tolist()) == {-1, 1}
    assert torch.allclose(y.mean(0), x[0].clamp(-1, 1), atol=0.03)
    y.sum().backward()
    assert x.grad[0].tolist() == [0, 1, 1, 1, 0]


def test_alpha_times_sign_is_the_nearest_binary_weight_there_is():
    weight = torch.randn(1, 5, generator=torch.Generator().manual_seed(1))
    alpha, ours = b.channel_scale(weight), None
    errors = {}
    for signs in itertools.product([-1.0, 1.0], repeat=5):
        for scale in torch.linspace(0, 3, 301):
            errors[signs, float(scale)] = float(
                (weight - scale * torch.tensor(signs)).square().sum()
            )
    ours = float((weight - alpha * b.sign(weight)).square().sum())
    assert ours <= min(errors.values()) + 1e-9


def test_ternary_weights_are_those_of_the_paper():
    weight = torch.tensor([[0.9, -0.1, 0.5, -0.8, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    signs, alpha = b.ternarize(weight)
    limit = 0.7 * weight.abs().mean(1, keepdim=True)
    assert torch.equal(signs, torch.where(weight.abs() > limit, weight.sign(), 0.0))
    assert torch.allclose(alpha, torch.tensor([(0.9 + 0.5 + 0.8) / 3, 1.0]))
    assert b.ternarize(torch.zeros(2, 3))[1].tolist() == [0, 0]


def plain_layer(x, layer):
    """XNOR-Net's equation 11, written down with torch's own functions."""
    signs = torch.where(layer.weight >= 0, 1.0, -1.0)
    alpha = layer.weight.abs().mean(tuple(range(1, layer.weight.ndim)))
    inputs = torch.where(x >= 0, 1.0, -1.0)
    if isinstance(layer, nn.Linear):
        k = x.abs().mean(-1, keepdim=True)
        return F.linear(inputs, signs) * alpha * k + layer.bias
    box = torch.full((1, 1, *layer.kernel_size), 1 / np.prod(layer.kernel_size))
    k = F.conv2d(x.abs().mean(1, keepdim=True), box, stride=layer.stride, padding=layer.padding)
    out = F.conv2d(inputs, signs, None, layer.stride, layer.padding)
    return out * alpha[:, None, None] * k + layer.bias[:, None, None]


def test_a_binary_layer_computes_the_equation_of_xnor_net():
    torch.manual_seed(0)
    config = b.BinaryConfig(positions=True)
    conv = b.BinaryConv2d(5, 7, 3, stride=2, padding=1, config=config)
    linear = b.BinaryLinear(11, 4, config=config)
    x, rows = torch.randn(2, 5, 9, 8), torch.randn(3, 11)
    assert torch.allclose(conv(x), plain_layer(x, conv), atol=1e-5)
    assert torch.allclose(linear(rows), plain_layer(rows, linear), atol=1e-5)


def test_binary_connect_multiplies_floats_by_signs_only():
    linear = b.BinaryLinear(6, 3, bias=False, config=b.BINARY_CONNECT)
    x = torch.randn(4, 6)
    assert torch.allclose(linear(x), x @ torch.where(linear.weight >= 0, 1.0, -1.0).T)
    assert (linear.weight_bits, linear.activation_bits) == (1, 32)


def test_stochastic_weights_are_drawn_in_training_only():
    torch.manual_seed(0)
    config = b.BinaryConfig(activations=False, stochastic=True)
    linear, x = b.BinaryLinear(40, 3, config=config), torch.ones(1, 40)
    assert not torch.equal(linear(x), linear(x))
    linear.eval()
    assert torch.equal(linear(x), linear(x))


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: b.BinaryConfig(activations=False, positions=True), "positions=True"),
        (lambda: b.BinaryConfig(ternary=True, stochastic=True), "stochastic=True"),
        (lambda: b.BinaryConv2d(4, 4, 3, groups=2), "groups=1"),
        (lambda: b.binarize(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), b.XNOR), "a layer to"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_binarize_keeps_weights_and_the_edges():
    model = models.VGGLike((1, 16, 16), 5, (4, 6, 8))
    twin = b.binarize(model, b.BINARY_CONNECT)
    kinds = [type(m) for m in twin.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert kinds == [nn.Conv2d, b.BinaryConv2d, b.BinaryConv2d, nn.Linear]
    assert all(map(torch.equal, twin.state_dict().values(), model.state_dict().values()))
    everything = b.binarize(model, b.BINARY_CONNECT, edges=True)
    assert sum(isinstance(m, b.Binary) for m in everything.modules()) == 4


def test_clipping_keeps_real_weights_within_one():
    data = load("digits").train
    model = nn.Sequential(nn.Flatten(), b.BinaryLinear(64, 10, config=b.BINARY_CONNECT))
    free = nn.Sequential(nn.Flatten(), b.BinaryLinear(64, 10, config=b.BINARY_CONNECT))
    fit(model, data, 1, 5.0, hooks=[b.ClipWeights()], progress=False)
    fit(free, data, 1, 5.0, progress=False)
    assert model[1].weight.abs().max() <= 1 < free[1].weight.abs().max()


def test_an_xnor_network_learns_what_chance_cannot():
    data = load("digits")
    seed_everything(0)
    model = b.XnorNet(data.shape, 10, (16, 32, 32))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    fit(model, data.train, 3, 0.02, optimizer=optimizer, progress=False)
    assert evaluate(model, data.test) > 80
    assert logits(model, data.test.x[:2]).shape == (2, 10)


CONFIG = b.BinaryConfig()


def test_a_tied_head_and_what_attention_reads_by_name_stay_as_they_are():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(12, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.first, self.middle, self.last = (nn.Linear(8, 8) for _ in range(3))
            self.head = nn.Linear(8, 12, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens):
            x = self.table(tokens)
            x = self.attention(x, x, x)[0]
            return self.head(self.last(self.middle(self.first(x))))

    torch.manual_seed(0)
    network = Words().eval()
    binary = b.binarize(network, CONFIG, edges=True)
    kinds = {n: type(m) for n, m in binary.named_modules()}
    assert {n for n, k in kinds.items() if k is b.BinaryLinear} == {"first", "middle", "last"}
    assert binary.head.weight is binary.table.weight
    assert type(binary.attention.out_proj) is type(network.attention.out_proj)
    tokens = torch.arange(6)[None]
    assert not torch.equal(binary(tokens), network(tokens))


def test_layers_that_the_fast_path_reads_by_name_are_refused():
    network = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(ValueError, match="set_fastpath_enabled"):
        b.binarize(network, CONFIG, edges=True)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        binary = b.binarize(network, CONFIG, edges=True)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert type(binary.linear1) is type(binary.linear2) is b.BinaryLinear
