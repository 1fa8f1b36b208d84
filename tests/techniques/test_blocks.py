"""Blocks: every formula against the counted network, every block against a plain torch peer."""

import pytest
import torch
from torch import nn

from compresslab.measure import count_layers, disk_bytes
from compresslab.techniques import blocks as b


def counted(module, shape):
    layers = count_layers(module, shape)
    return b.Cost(sum(p.numel() for p in module.parameters()), sum(c.macs for c in layers))


SIZES = [(8, 12, 3, 1), (8, 8, 5, 1), (12, 8, 3, 2), (4, 4, 1, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", b.BLOCKS)
def test_the_formula_is_what_is_counted(name, size):
    inputs, outputs, kernel, stride = size
    kind = b.BLOCKS[name]
    block = kind(inputs, outputs, kernel, stride)
    assert block(torch.rand(2, inputs, 10, 6)).shape == (2, outputs, 10 // stride, 6 // stride)
    positions = (10 // stride) * (6 // stride)
    found = counted(block, (inputs, 10, 6))
    options = {"stride": stride} if name == "1xk then kx1" else {}
    assert found == kind.cost(inputs, outputs, positions, kernel, **options)


def test_options_change_the_formula():
    assert counted(b.Grouped(8, 12, groups=2), (8, 6, 6)) == b.Grouped.cost(8, 12, 36, groups=2)
    narrow = b.Bottleneck(8, 12, narrow=5)
    assert counted(narrow, (8, 6, 6)) == b.Bottleneck.cost(8, 12, 36, narrow=5)
    assert counted(b.TwoThrees(6, 10), (6, 8, 8)) == b.TwoThrees.cost(6, 10, 64)


def test_two_threes_see_what_a_five_sees():
    """The gradient of one output reaches exactly 5 x 5 inputs."""
    for block in (b.Standard(1, 1, 5), b.TwoThrees(1, 1)):
        block.eval()
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.ones_(layer.weight)
        x = torch.ones(1, 1, 11, 11, requires_grad=True)
        block(x)[0, 0, 5, 5].backward()
        reached = x.grad[0, 0].nonzero()
        assert reached.min(0).values.tolist() == [3, 3]
        assert reached.max(0).values.tolist() == [7, 7]
        assert len(reached) == 25


def test_groups_do_not_see_each_other_and_the_shuffle_mixes_them():
    one = b.Grouped(8, 8, groups=2).eval()
    x = torch.rand(1, 8, 5, 5, requires_grad=True)
    one(x)[0, 0].sum().backward()
    assert (x.grad[0, 4:] == 0).all()
    two = nn.Sequential(b.Grouped(8, 8, groups=2), b.Grouped(8, 8, groups=2)).eval()
    for layer in two.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    x = torch.rand(1, 8, 5, 5, requires_grad=True)
    two(x)[0, 0].sum().backward()
    assert (x.grad[0].abs().amax((1, 2)) > 0).all()


def test_grouped_convolution_is_two_convolutions_side_by_side():
    grouped = b.Grouped(4, 6, groups=2)[0]
    x = torch.rand(2, 4, 5, 5)
    halves = [
        nn.functional.conv2d(x[:, 2 * g : 2 * g + 2], grouped.weight[3 * g : 3 * g + 3], padding=1)
        for g in range(2)
    ]
    assert torch.allclose(grouped(x), torch.cat(halves, 1), atol=1e-5)


def test_heads_and_their_formulas():
    pooled, flat = b.PooledHead(16, 5), b.FlatHead(16, 36, 5, 50)
    assert counted(pooled, (16, 6, 6)) == b.PooledHead.cost(16, 5)
    assert counted(flat, (16, 6, 6)) == b.FlatHead.cost(16, 36, 5, 50)
    x = torch.rand(3, 16, 6, 6)
    assert torch.allclose(pooled(x), pooled[2](x.mean((2, 3))), atol=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_a_repeated_block_is_in_the_file_once_and_on_the_clock_every_time(own):
    block = b.Standard(16, 16)
    shared = b.Repeated(block, 3, own_norms=own).eval()
    x = torch.rand(2, 16, 6, 6)
    assert torch.allclose(shared(x), block.eval()(block(block(x))))
    expected = b.Repeated.cost(b.Standard.cost(16, 16, 36), 3, norms=32 if own else 0)
    assert counted(shared, (16, 6, 6)) == expected
    separate = nn.Sequential(*(b.Standard(16, 16) for _ in range(3)))
    assert counted(separate, (16, 6, 6)).macs == expected.macs
    assert disk_bytes(shared) < disk_bytes(separate) / 2


def test_own_norms_learn_their_own_statistics_and_weights_stay_one():
    torch.manual_seed(0)
    shared = b.Repeated(b.Standard(4, 4), 3).train()
    shared(torch.rand(8, 4, 6, 6)).square().mean().backward()
    means = [step[1].running_mean for step in shared.steps]
    assert not torch.allclose(means[0], means[1])
    assert shared.steps[0][0].weight is shared.steps[2][0].weight
    torch.optim.SGD(shared.parameters(), 1.0).step()
    assert torch.equal(shared.steps[0][0].weight, shared.steps[2][0].weight)
    assert not torch.equal(shared.steps[0][1].weight, shared.steps[2][1].weight)


def test_the_gradient_of_a_shared_weight_is_the_sum_over_its_uses():
    torch.manual_seed(0)
    linear = nn.Linear(3, 3, bias=False)
    x = torch.rand(2, 3)
    b.Repeated(linear, 2)(x).sum().backward()
    one, two = (linear.weight.detach().clone().requires_grad_() for _ in range(2))
    ((x @ one.T) @ two.T).sum().backward()
    assert torch.allclose(linear.weight.grad, one.grad + two.grad, atol=1e-6)


def test_a_factorised_embedding_is_a_table_of_low_rank():
    embedding = b.FactorisedEmbedding(50, 12, 4)
    tokens = torch.arange(50)
    table = embedding[0].weight @ embedding[1].weight.T
    assert torch.allclose(embedding(tokens), table, atol=1e-5)
    assert int(torch.linalg.matrix_rank(table)) == 4
    expected = b.FactorisedEmbedding.cost(50, 12, 4, tokens=1)
    assert sum(p.numel() for p in embedding.parameters()) == expected.parameters == 50 * 4 + 4 * 12
    assert expected.macs == 48


@pytest.mark.parametrize(
    "call,text",
    [
        (lambda: b.Standard(4, 4, 2), "kernel must be odd"),
        (lambda: b.Standard(0, 4), "inputs and outputs must be at least 1"),
        (lambda: b.Separable(4, 4, 3, 0), "stride must be at least 1"),
        (lambda: b.Grouped(6, 8, groups=4), "groups must divide 6 and 8"),
        (lambda: b.SideBySide(4, 5), "outputs must be even"),
        (lambda: b.Bottleneck(4, 4, narrow=0), "narrow must be at least 1"),
        (lambda: b.Repeated(b.Standard(4, 4), 0), "times must be at least 1"),
        (lambda: b.Repeated(b.Standard(4, 6), 2)(torch.rand(1, 4, 5, 5)), "must keep the shape"),
        (lambda: b.FactorisedEmbedding(10, 4, 5), "narrow must be 1 to 4"),
    ],
)
def test_bad_input_is_answered(call, text):
    with pytest.raises(ValueError, match=text):
        call()
