"""Pruning at once: choices against sorting by hand, SparseGPT against least squares."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compresslab.gpt import GPT
from compresslab.network.select import linear_layers, matrix
from compresslab.network.taps import tapped
from compresslab.techniques import gptq, one_shot


def problem(seed, outputs=6, inputs=16, rows=80):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator)
    x = torch.randn(rows, inputs, generator=generator) @ mix
    return torch.randn(outputs, inputs, generator=generator), x, gptq.hessian(x)


@given(st.integers(0, 999), st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
def test_wanda_keeps_the_largest_products_of_each_output(seed, sparsity):
    weight, x, h = problem(seed)
    found = one_shot.prune_layer(weight, h, "wanda", sparsity)
    score = weight.abs() * x.norm(dim=0)
    count = 16 - round(sparsity * 16)
    for row in range(6):
        best = set(score[row].argsort(descending=True)[:count].tolist())
        assert set(torch.nonzero(found[row]).flatten().tolist()) == best
    assert torch.equal(found[found != 0], weight[found != 0])


@given(
    st.integers(0, 999),
    st.sampled_from(one_shot.METHODS),
    st.sampled_from([(2, 4), (1, 4), (4, 8)]),
)
def test_a_pattern_holds_in_every_group(seed, method, pattern):
    weight, _, h = problem(seed)
    found = one_shot.prune_layer(weight, h, method, pattern=pattern)
    assert bool(((found.reshape(-1, pattern[1]) != 0).sum(1) == pattern[0]).all())


@pytest.mark.parametrize("pattern", [None, (2, 4)])
def test_sparsegpt_errs_less_in_the_outputs_than_what_does_not_make_up(pattern):
    error = dict.fromkeys(one_shot.METHODS, 0.0)
    for seed in range(5):
        weight, x, h = problem(seed, 20, 32, 300)
        for method in error:
            pruned = one_shot.prune_layer(weight, h, method, 0.5, pattern)
            error[method] += float((x @ (pruned - weight).T).square().sum())
    assert error["sparsegpt"] < 0.9 * min(error["magnitude"], error["wanda"])


def test_with_inputs_that_have_nothing_in_common_the_rest_stays_as_it_was():
    weight, h = problem(0)[0], torch.eye(16).double()
    found = one_shot.prune_layer(weight, h, "sparsegpt", pattern=(2, 4))
    assert torch.equal(found, one_shot.prune_layer(weight, h, "magnitude", pattern=(2, 4)))


def test_columns_behind_a_single_zero_are_the_exact_optimum():
    """One weight of four goes, the first: the others are least squares over what may still move."""
    weight, x, h = problem(3, 1, 4, 60)
    weight[0, 0] = 1e-3  # the cheapest
    found = one_shot.prune_layer(weight, h, "sparsegpt", pattern=(3, 4), damping=0.0)
    target = (x.double() @ weight[0].double()).numpy()
    best = np.linalg.lstsq(x[:, 1:].double().numpy(), target, rcond=None)[0]
    assert float(found[0, 0]) == 0
    assert np.allclose(found[0, 1:].numpy(), best, atol=1e-3)


@pytest.mark.parametrize("pattern", [None, (2, 4), (3, 7)])
def test_blocks_are_a_way_to_compute_and_no_other_result(pattern, monkeypatch):
    """In a pattern the choice is made group by group, so blocks of any length give the same."""
    weight, _, h = problem(1, 6, 28)
    wide = one_shot.prune_layer(weight, h, "sparsegpt", 0.5, pattern)
    if pattern is not None:
        monkeypatch.setattr(one_shot, "BLOCK", 8)
        assert torch.allclose(
            one_shot.prune_layer(weight, h, "sparsegpt", 0.5, pattern), wide, atol=1e-4
        )
    assert (
        abs(
            float((wide == 0).double().mean())
            - (0.5 if pattern is None else 1 - pattern[0] / pattern[1])
        )
        < 0.01
    )


def test_a_whole_model_is_pruned_on_what_the_pruned_ones_before_give():
    torch.manual_seed(0)
    model = GPT(30, 12, width=16, layers=2, heads=2).eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    inputs = [torch.randint(0, 30, (4, 12)) for _ in range(2)]
    pruned = one_shot.prune(model, inputs, "sparsegpt", pattern=(2, 4))
    for layer in linear_layers(pruned).values():
        assert float((matrix(layer) == 0).double().mean()) == 0.5
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())
    # A later layer was chosen by what the pruned ones before it give.
    name, reaching = "layers.1.feedforward.2", []
    tap = tapped({name: pruned.get_submodule(name)}, before=lambda _, __, x: reaching.append(x[0]))
    with torch.no_grad(), tap:
        for batch in inputs:
            pruned(batch)
    weight, h = matrix(model.get_submodule(name)), gptq.mean_hessian(reaching)
    expected = one_shot.prune_layer(weight, h, "sparsegpt", pattern=(2, 4))
    assert torch.allclose(matrix(pruned.get_submodule(name)), expected, atol=1e-5)
    some = one_shot.prune(model, inputs, "wanda", 0.25)
    shares = [float((matrix(m) == 0).double().mean()) for m in linear_layers(some).values()]
    assert max(abs(share - 0.25) for share in shares) < 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "random"}, "method must be"),
        ({"sparsity": 1.5}, "sparsity must lie"),
        ({"sparsity": float("nan")}, "sparsity must lie"),
        ({"pattern": (5, 4)}, "pattern must be"),
        ({"pattern": (0, 4)}, "pattern must be"),
        ({"pattern": (2, 5)}, "pattern must divide"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(options, words):
    weight, _, h = problem(0)
    with pytest.raises(ValueError, match=words):
        one_shot.prune_layer(weight, h, **options)
    with pytest.raises(ValueError, match=words):
        one_shot.prune(nn.Sequential(nn.Linear(16, 2)), [torch.randn(3, 16)], **options)


def test_shapes_and_numbers_that_do_not_belong_together_are_refused():
    weight, _, h = problem(0)
    with pytest.raises(ValueError, match="h must be"):
        one_shot.prune_layer(weight, h[:8, :8])
    for method in one_shot.METHODS:
        for pair in ((weight * torch.nan, h), (weight, h * torch.nan)):
            with pytest.raises(ValueError, match="finite"):
                one_shot.prune_layer(*pair, method)
    with pytest.raises(ValueError, match="at least one batch"):
        one_shot.prune(nn.Sequential(nn.Linear(16, 2)), [])
