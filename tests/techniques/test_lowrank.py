"""Low rank: the error is what Eckart and Young say, factored layers are the layer, budgets are kept."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compresslab import models
from compresslab.measure import count_layers
from compresslab.techniques import lowrank as lr


def matrix(outputs, inputs, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(outputs, inputs))).float()


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99), st.data())
@settings(deadline=None, max_examples=40)
def test_the_error_is_the_singular_values_left_out(outputs, inputs, seed, data):
    weight = matrix(outputs, inputs, seed)
    rank = data.draw(st.integers(1, min(outputs, inputs)))
    first, second = lr.factors(weight, rank)
    assert first.shape == (rank, inputs)
    assert second.shape == (outputs, rank)
    left = np.linalg.svd(weight.numpy().astype(np.float64), compute_uv=False)[rank:]
    error = torch.linalg.norm(weight - second @ first)
    assert float(error) == pytest.approx(float(np.sqrt((left**2).sum())), abs=1e-4)


def test_both_factors_get_the_square_root_of_the_singular_values():
    first, second = lr.factors(matrix(7, 5), 3)
    values = lr.spectrum(_linear(matrix(7, 5)))[:3].float()
    assert torch.allclose(first @ first.T, torch.diag(values), atol=1e-5)
    assert torch.allclose(second.T @ second, torch.diag(values), atol=1e-5)


def _linear(weight, bias=False):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    layer.weight.data.copy_(weight)
    return layer


def test_the_randomised_svd_is_nearly_as_good_as_the_exact_one():
    weight = matrix(60, 8) @ matrix(8, 50, 1) + 0.1 * matrix(60, 50, 2)
    torch.manual_seed(0)
    errors = [
        float(torch.linalg.norm(weight - b @ a))
        for a, b in (lr.factors(weight, 8, svd=kind) for kind in lr.SVDS)
    ]
    assert errors[0] <= errors[1] + 1e-5
    assert errors[1] < 1.01 * errors[0]


def test_whitening_is_the_best_product_for_the_layers_outputs():
    """Against the closed form: of all BA of rank k, BAX = the truncated SVD of WX."""
    weight = matrix(9, 6)
    x = matrix(6, 200, 1) * torch.tensor([5.0, 3, 1, 1, 0.1, 0.1])[:, None]
    first, second = lr.factors(weight, 2, x @ x.T / 200)
    got = torch.linalg.norm((weight - second @ first) @ x)
    best = torch.linalg.svdvals(weight @ x)[2:].square().sum().sqrt()
    assert float(got) == pytest.approx(float(best), rel=1e-3)
    plain = lr.factors(weight, 2)
    assert got < torch.linalg.norm((weight - plain[1] @ plain[0]) @ x)


def test_inputs_that_are_always_zero_do_no_harm():
    x = matrix(6, 50, 1)
    x[2:] = 0
    first, second = lr.factors(matrix(4, 6), 2, x @ x.T / 50)
    assert bool(torch.isfinite(first).all())
    assert torch.allclose(second @ first @ x, matrix(4, 6) @ x, atol=1e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_of_full_rank_is_the_layer(bias):
    layer = nn.Linear(11, 7, bias=bias)
    x = torch.rand(2, 3, 11)
    assert torch.allclose(lr.factored(layer, 7)(x), layer(x), atol=1e-5)


CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2)},
    {"kernel_size": 3, "dilation": 2, "padding": "same"},
    {"kernel_size": 2, "stride": 2, "padding": "valid", "bias": False},
    {"kernel_size": 1},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("kind", lr.CONVOLUTIONS)
@pytest.mark.parametrize("channels", [(4, 6), (6, 4), (5, 1)])
def test_a_convolution_of_full_rank_is_the_convolution(kind, options, channels):
    torch.manual_seed(0)
    layer = nn.Conv2d(*channels, **options)
    rank = channels if kind == "tucker" else min(lr.as_matrix(layer, kind).shape)
    x = torch.rand(2, channels[0], 9, 8)
    new = lr.factored(layer, rank, kind)
    assert new(x).shape == layer(x).shape
    assert torch.allclose(new(x), layer(x), atol=1e-5)


def test_tucker_keeps_what_the_discarded_singular_values_allow():
    """The bound of the higher-order SVD: error^2 <= what both unfoldings lose."""
    layer = nn.Conv2d(8, 10, 3, bias=False)
    weight = layer.weight.detach().double()
    down, core, up = (c.weight.detach().double() for c in lr.factored(layer, (4, 5), "tucker"))
    rebuilt = torch.einsum("rc,qrhw,mq->mchw", down[:, :, 0, 0], core, up[:, :, 0, 0])
    lost = (
        torch.linalg.svdvals(weight.flatten(1))[5:].square().sum()
        + torch.linalg.svdvals(weight.transpose(0, 1).flatten(1))[4:].square().sum()
    )
    assert (weight - rebuilt).square().sum() <= lost + 1e-9


def test_whitened_convolutions_beat_plain_ones_on_their_own_images():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 16, 3, padding=1)
    x = torch.rand(40, 3, 8, 8).cumsum(2).cumsum(3)
    moment = lr.input_moments(nn.Sequential(layer), x)["0"]
    with torch.no_grad():
        plain, white = (
            (lr.factored(layer, 4, moment=m)(x) - layer(x)).square().mean() for m in (None, moment)
        )
    assert white < plain / 2


def test_input_moments_are_those_of_the_patches():
    x = torch.rand(30, 2, 5, 5)
    layer = nn.Conv2d(2, 3, 3, padding=1)
    moment = lr.input_moments(nn.Sequential(layer), x, batch_size=7)["0"]
    out = layer(x) - layer.bias.view(1, -1, 1, 1)
    weight = layer.weight.detach().flatten(1).double()
    power = (weight @ moment @ weight.T).diagonal()
    assert torch.allclose(power, out.detach().double().square().mean((0, 2, 3)), rtol=1e-4)


# ---- ranks -----------------------------------------------------------------------------------------
def test_break_even_is_where_two_factors_cost_as_much_as_one_matrix():
    assert lr.break_even(300, 256) == 300 * 256 / 556
    assert lr.break_even(4, 4) == 2


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.floats(0.01, 1))
def test_the_rank_for_an_energy_is_the_smallest_that_keeps_it(values, share):
    values = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    rank = lr.rank_for_energy(values, share)
    energy = values.square()
    total = float(energy.sum())
    assert float(energy[:rank].sum()) >= share * total * (1 - 1e-9)
    assert rank == 1 or float(energy[: rank - 1].sum()) < share * total


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.01, 1))
def test_the_rank_for_a_budget_is_the_largest_that_fits(outputs, inputs, share):
    rank = lr.rank_for_budget(outputs, inputs, share)
    assert rank == 1 or rank * (outputs + inputs) <= share * outputs * inputs * (1 + 1e-9)
    assert (rank + 1) * (outputs + inputs) > share * outputs * inputs * (1 - 1e-9)


def test_the_allocation_is_the_best_of_all():
    spectra = {"a": torch.tensor([5.0, 4, 1]), "b": torch.tensor([9.0, 1, 0.5])}
    shapes = {"a": (3, 3), "b": (3, 3)}
    ranks = lr.allocate(spectra, shapes, 24)

    def lost(choice):
        parts = zip(spectra.values(), choice, strict=True)
        return sum(float(s[k:].square().sum() / s.square().sum()) for s, k in parts)

    fitting = [c for c in itertools.product((1, 2, 3), repeat=2) if 6 * sum(c) <= 24]
    assert tuple(ranks.values()) == min(fitting, key=lost)


def test_importance_moves_the_budget():
    spectra = {"a": torch.tensor([2.0, 1]), "b": torch.tensor([2.0, 1])}
    shapes = {"a": (2, 2), "b": (2, 2)}
    assert lr.allocate(spectra, shapes, 12, {"b": 10}) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="budget must be at least 8"):
        lr.allocate(spectra, shapes, 7)
    with pytest.raises(ValueError, match="shapes must name"):
        lr.allocate(spectra, {"a": (2, 2)}, 7)


# ---- networks --------------------------------------------------------------------------------------
def test_a_network_is_factored_where_that_makes_it_smaller():
    model = models.MLP((1, 8, 8), 10, (40, 30))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ranks = {"1": 10, "3": 25, "5": 2}
    small = lr.factorize(model, ranks)
    assert isinstance(small[1], nn.Sequential)
    assert isinstance(small[3], nn.Linear), "25 is above the break-even of 17: left alone"
    counts = [c.parameters for c in count_layers(small, (1, 8, 8))]
    assert sum(counts) == 10 * 104 + 40 + 40 * 30 + 30 + 2 * 40 + 10
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert small(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("kind", lr.CONVOLUTIONS)
@pytest.mark.parametrize("build", [models.VGGLike, models.ResNet8, models.DepthwiseNet])
def test_budgets_are_kept_in_every_network(build, kind):
    model = build((1, 16, 16), 26).eval()
    ranks = lr.ranks_by_budget(model, 0.4, kind)
    small = lr.factorize(model, ranks, lr.Factoring(kind)).eval()
    layers = lr.factorizable(model)
    assert sum(isinstance(small.get_submodule(n), nn.Sequential) for n in layers) >= 2
    for name, layer in layers.items():
        new = small.get_submodule(name)
        if isinstance(new, nn.Sequential):
            size = sum(p.numel() for m in new for p in [m.weight])
            # A rank of 1 is the least there is.
            assert size <= 0.4 * layer.weight.numel() or 1 in (ranks[name], *_pair(ranks[name]))
    assert small(torch.rand(3, 1, 16, 16)).shape == (3, 26)


def _pair(rank):
    return rank if isinstance(rank, tuple) else (rank,)


def test_the_search_keeps_its_budget_and_loses_less_energy_than_equal_shares():
    torch.manual_seed(0)
    model = models.MLP((1, 8, 8), 10, (60, 40))
    model[1].weight.data.copy_(matrix(60, 3) @ matrix(3, 64, 1) / 10)
    ranks = lr.search(model, 0.3)
    assert ranks["1"] == 3, "what has rank 3 gets no more"
    total = sum(m.weight.numel() for m in lr.factorizable(model).values())
    small = lr.factorize(model, ranks)
    assert sum(m.weight.numel() for m in lr.factorizable(small).values()) <= 0.3 * total

    def lost(ranks):
        spectra = {n: lr.spectrum(m).square() for n, m in lr.factorizable(model).items()}
        return sum(float(s[ranks[n] :].sum() / s.sum()) for n, s in spectra.items())

    assert lost(ranks) < lost(lr.ranks_by_budget(model, 0.3)) - 0.1
    assert all(k < lr.break_even(*model.get_submodule(n).weight.shape) for n, k in ranks.items())


def test_sensitivity_measures_every_layer_alone():
    model = models.MLP((1, 8, 8), 10, (40, 30))
    seen = []

    def quality(candidate):
        seen.append([type(m).__name__ for m in candidate])
        return float(len(seen))

    found = lr.sensitivity(model, quality, (0.5, 0.1))
    assert [(f.layer, f.quality) for f in found][:3] == [("1", 1.0), ("1", 2.0), ("3", 3.0)]
    assert all(names.count("Sequential") <= 1 for names in seen)
    assert all(f.share <= 0.5 for f in found)


def test_a_rank_that_fits_exactly_is_not_rounded_away():
    assert lr.rank_for_budget(200, 200, 0.29) == 29


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_factored_layer_is_in_all_else_like_the_old_one(dtype):
    layer = nn.Linear(12, 9).to(dtype).eval().requires_grad_(False)
    new = lr.factored(layer, 9)
    assert all(p.dtype == dtype and not p.requires_grad for p in new.parameters())
    assert not new[0].training
    error = (new[1].weight.double() @ new[0].weight.double() - layer.weight.double()).abs().max()
    assert float(error) < 50 * torch.finfo(dtype).eps


def test_layers_that_share_a_weight_are_left_alone():
    shared = nn.Linear(20, 20)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(20, 20))
    assert list(lr.factorizable(model)) == ["3"]
    twin = nn.Linear(20, 20)
    twin.weight = shared.weight
    assert list(lr.factorizable(nn.Sequential(shared, twin))) == []


def test_a_model_that_is_a_single_layer_is_factored():
    assert isinstance(lr.factorize(nn.Linear(20, 20), {"": 2}), nn.Sequential)


def test_measuring_inputs_leaves_every_modules_mode_as_it_was():
    model = models.VGGLike((1, 8, 8), 10).train()
    model[0][1].eval()
    lr.input_moments(model, torch.rand(4, 1, 8, 8))
    assert model.training
    assert not model[0][1].training


# ---- bad input -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "call,text",
    [
        (lambda: lr.factors(torch.rand(3, 4), 0), "rank must be 1 to 3"),
        (lambda: lr.factors(torch.rand(3, 4), 4), "rank must be 1 to 3"),
        (lambda: lr.factors(torch.rand(3), 1), "weight must be a float matrix"),
        (lambda: lr.factors(torch.zeros(0, 3), 1), "weight must be a float matrix"),
        (lambda: lr.factors(torch.ones(3, 3, dtype=torch.int64), 1), "weight must be a float"),
        (lambda: lr.factors(torch.full((2, 2), torch.nan), 1), "weight must be finite"),
        (lambda: lr.factors(torch.rand(3, 4), 1, torch.eye(3)), r"shape \[4, 4\], got \[3, 3\]"),
        (lambda: lr.factors(torch.rand(3, 4), 1, svd="quick"), "svd must be one of"),
        (lambda: lr.rank_for_energy(torch.ones(3), 0), "share must lie above 0"),
        (lambda: lr.rank_for_energy(torch.arange(3.0), 0.5), "sorted downwards"),
        (lambda: lr.rank_for_energy(torch.tensor([torch.nan, 1]), 0.5), "sorted downwards"),
        (lambda: lr.rank_for_energy(torch.tensor([torch.inf, 1]), 0.5), "finite"),
        (lambda: lr.rank_for_energy(torch.zeros(0), 0.5), "not none"),
        (lambda: lr.factors(torch.rand(3, 2), 1, torch.tensor([[1.0, 1], [0, 1]])), "symmetric"),
        (lambda: lr.factors(torch.rand(3, 2), 1, -torch.eye(2)), "no negative eigenvalues"),
        (lambda: lr.input_moments(nn.Linear(2, 2), torch.zeros(0, 2)), "at least one input"),
        (lambda: lr.allocate({"a": torch.ones(1)}, {"a": (1, 1)}, 9, {"b": 1}), "importance must"),
        (
            lambda: lr.factorize(nn.Linear(9, 9), {"": 1}, lr.Factoring(moments={})),
            "moments must have every layer",
        ),
        (lambda: lr.rank_for_budget(3, 4, 1.5), "at most at 1, got 1.5"),
        (lambda: lr.factored(nn.ReLU(), 1), "got ReLU"),
        (lambda: lr.factored(nn.Conv2d(4, 4, 3, groups=2), 1), "ungrouped"),
        (lambda: lr.factored(nn.Conv2d(4, 4, 3), 1, "cp"), "convolution must be channel, spatial"),
        (lambda: lr.factored(nn.Conv2d(4, 4, 3), (5, 1), "tucker"), "rank must be 1 to 4"),
        (lambda: lr.factored(nn.Conv2d(4, 4, 3, padding_mode="reflect"), 1), "with zeros"),
        (lambda: lr.factored(nn.Conv2d(4, 4, 2, padding="same"), 1), "odd kernel"),
        (
            lambda: lr.factored(nn.Conv2d(4, 4, 3), 1, "spatial", torch.eye(36)),
            "moment must be None",
        ),
        (
            lambda: lr.factorize(models.MLP((1, 4, 4), 3), {"7": 1}),
            "ranks must name 1, 3, 5; got 7",
        ),
        (lambda: lr.Factoring("cp"), "convolution must be"),
        (lambda: lr.Factoring(svd="fast"), "svd must be"),
    ],
)
def test_bad_input_is_answered(call, text):
    with pytest.raises(ValueError, match=text):
        call()
