"""Rounding, GPTQ and moving scales, against brute force, least squares, and functions that must stay."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compresslab.gpt import GPT
from compresslab.network.select import as_linear, linear_layers, matrix
from compresslab.techniques import gptq, smoothing, weight_only
from compresslab.techniques.weight_only import WeightConfig, round_to_nearest
from compresslab.training import seed_everything


def small_gpt():
    seed_everything(0)
    model = GPT(50, 16, width=32, layers=2, heads=2).eval()
    for p in model.parameters():
        p.requires_grad_(False)
        if p.ndim == 2:
            p.mul_(4)
    return model


def tokens(n=8, seed=1):
    return torch.randint(0, 50, (n, 16), generator=torch.Generator().manual_seed(seed))


# ---- rounding ------------------------------------------------------------------------------------
@settings(deadline=None)
@given(
    st.integers(2, 8),
    st.sampled_from([None, 1, 4, 16]),
    st.sampled_from(["minmax", "mse"]),
    st.integers(0, 99),
)
def test_no_weight_is_further_from_its_code_than_half_a_step(bits, group, ends, seed):
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(seed))
    codes = round_to_nearest(weight, WeightConfig(bits, group, ends))
    scale = codes.qparams.scale.repeat_interleave(group or 16, 1)
    error = (codes.dequantize() - weight).abs()
    # The zero point is rounded, too, so that an end of the range may be cut by half a step more.
    if ends == "minmax":
        assert bool((error <= scale * 1.01 + 1e-6).all())
    assert torch.equal(codes.qparams.scale, codes.qparams.scale.half().float())


@given(st.integers(2, 8))
def test_zero_has_a_code_of_its_own(bits):
    weight = torch.randn(4, 32) + 3
    weight[:, ::5] = 0
    back = round_to_nearest(weight, WeightConfig(bits, 8)).dequantize()
    assert bool((back[:, ::5] == 0).all())


def test_drawn_in_ends_never_cost_more_than_the_extremes():
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) ** 3
    for bits in (2, 3, 4):
        errors = [
            float(
                (round_to_nearest(weight, WeightConfig(bits, 32, ends)).dequantize() - weight)
                .square()
                .mean()
            )
            for ends in ("minmax", "mse")
        ]
        assert errors[1] < errors[0]


def test_bits_a_weight_count_scales_and_zero_points():
    model = nn.Sequential(nn.Linear(128, 8))
    for group, want in ((128, 4 + 20 / 128), (32, 4 + 20 / 32)):
        assert weight_only.quantize(model, WeightConfig(4, group)).bits == want


def test_a_group_that_does_not_divide_a_row_becomes_the_row():
    codes = round_to_nearest(torch.randn(3, 20), WeightConfig(4, 16))
    assert codes.qparams.group == 20


@pytest.mark.parametrize(
    "options,match",
    [
        ({"bits": 1}, "bits must be an integer from 2 to 8"),
        ({"bits": 4.0}, "bits must be"),
        ({"group": 0}, "group must be a positive integer or None"),
        ({"range": "max"}, "range must be minmax or mse"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        WeightConfig(**options)


def test_nan_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[outputs, inputs\]"):
        round_to_nearest(torch.zeros(4), WeightConfig())
    with pytest.raises(ValueError, match=r"NaN|finite"):
        round_to_nearest(torch.full((2, 4), torch.nan), WeightConfig())


def test_the_given_model_is_not_changed_and_tied_weights_are_left_alone():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    before = copy.deepcopy(model.state_dict())
    codes = weight_only.quantize(model, WeightConfig(2))
    assert list(codes.layers) == ["1"]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(codes.model[0].weight, before["0.weight"])
    with pytest.raises(ValueError, match="linear layer with a weight of its own"):
        weight_only.quantize(nn.Sequential(nn.ReLU()), WeightConfig())


# ---- GPTQ ----------------------------------------------------------------------------------------
def correlated(n=200, inputs=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, inputs, generator=generator) @ torch.randn(
        inputs, inputs, generator=generator
    )


def cost(weight, codes, h):
    error = (codes.dequantize() - weight).double()
    return float((error @ h * error).sum())


def test_the_factor_is_the_cholesky_factor_of_the_damped_inverse():
    h = gptq.hessian(correlated())
    factor = gptq.inverse_factor(h, 0.01)
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(6)
    assert torch.allclose(factor.T @ factor, torch.linalg.inv(damped))
    assert torch.equal(factor, factor.triu())


def test_each_step_is_the_optimal_update_of_the_columns_to_come():
    """Fix column j, let the later ones move freely: least squares says where to."""
    x = correlated().double()
    h = gptq.hessian(x)
    factor = gptq.inverse_factor(h, 0.0)
    for j in range(5):
        step = torch.zeros(6, dtype=torch.float64)
        step[j] = 1.0
        step[j + 1 :] = factor[j, j + 1 :] / factor[j, j]
        later = torch.linalg.lstsq(x[:, j + 1 :], -x[:, j]).solution
        assert torch.allclose(step[j + 1 :], later, atol=1e-6)


def test_codes_lie_between_rounding_and_the_best_of_all():
    ratios = []
    for seed in range(30):
        x = correlated(seed=seed)
        h = gptq.hessian(x)
        weight = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
        config = WeightConfig(2, None)
        rounded, ours = round_to_nearest(weight, config), gptq.quantize_layer(weight, h, config)
        p = rounded.qparams
        all_codes = torch.tensor(list(itertools.product(range(4), repeat=6)), dtype=torch.float32)
        errors = (all_codes - p.zero_point) * p.scale - weight
        best = float((errors.double() @ h * errors).sum(1).min())
        assert best <= cost(weight, ours, h) * (1 + 1e-6)
        ratios.append(cost(weight, ours, h) / cost(weight, rounded, h))
    assert sum(ratios) / len(ratios) < 0.9


def slow_gptq(weight, h, config, damping, columns):
    """Algorithm 1 with one inverse after another and no blocks: what remains of H is inverted anew.

    A weight that is 0 is given the code of 0, whatever those before it have made of it.
    """
    h = h.double() + damping * h.double().diagonal().mean() * torch.eye(len(h))
    p = config.qparams(weight)
    group = p.group
    work, codes = weight.double().clone(), torch.zeros_like(weight)
    for place, j in enumerate(columns):
        s, z = p.scale[:, j // group].double(), p.zero_point[:, j // group]
        nearest = ((work[:, j] / s).round() + z).clamp(0, config.grid.high)
        codes[:, j] = torch.where(weight[:, j] == 0, z, nearest)
        left = columns[place:]
        inverse = torch.linalg.inv(h[left][:, left])
        error = (work[:, j] - (codes[:, j] - z) * s) / inverse[0, 0]
        work[:, left] -= error[:, None] * inverse[0]
    return codes


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 4),
    st.booleans(),
    st.integers(1, 40),
    st.integers(0, 20),
    st.sampled_from([0.0, 0.5]),
)
def test_blocks_and_the_factor_change_nothing(bits, order, block, seed, pruned):
    x = correlated(100, 24, seed)
    h = gptq.hessian(x)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(7, 24, generator=generator)
    weight *= torch.rand(7, 24, generator=generator) >= pruned
    # One group a row: its scales do not depend on updates.
    config = WeightConfig(bits, None)
    got = gptq.quantize_layer(weight, h, config, 0.01, order, block).codes.float()
    columns = h.diagonal().argsort(descending=True, stable=True) if order else torch.arange(24)
    want = slow_gptq(weight, h, config, 0.01, columns.tolist())
    # Sums in another order round a tie to the other side now and then, and all after it may differ.
    same = (got == want).all(1)
    assert int(same.sum()) >= 5


def test_a_group_gets_its_scales_from_the_weights_as_updated():
    x = correlated(100, 32)
    h, weight = gptq.hessian(x), torch.randn(4, 32)
    codes = gptq.quantize_layer(weight, h, WeightConfig(3, 8), block=5)
    before = WeightConfig(3, 8).qparams(weight).scale
    assert torch.equal(codes.qparams.scale[:, 0], before[:, 0])
    assert not torch.equal(codes.qparams.scale[:, 1:], before[:, 1:])


@pytest.mark.parametrize("order", [False, True])
def test_what_was_pruned_stays_pruned_and_the_others_make_up_for_it(order):
    config, ratios = WeightConfig(3, None), []
    for seed in range(20):
        h = gptq.hessian(correlated(200, 32, seed))
        weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(seed))
        weight[:, ::2] = 0
        got = gptq.quantize_layer(weight, h, config, order=order)
        assert bool((got.dequantize()[:, ::2] == 0).all())
        ratios.append(cost(weight, got, h) / cost(weight, round_to_nearest(weight, config), h))
    assert sum(ratios) / len(ratios) < 0.95


def test_white_inputs_make_gptq_rounding():
    weight = torch.randn(8, 16)
    ours = gptq.quantize_layer(weight, torch.eye(16), WeightConfig(3, None))
    assert torch.equal(ours.codes, round_to_nearest(weight, WeightConfig(3, None)).codes)


def test_an_input_that_is_always_zero_is_no_trouble():
    x = correlated(100, 16)
    x[:, 3] = 0
    weight = torch.randn(4, 16)
    codes = gptq.quantize_layer(weight, gptq.hessian(x), WeightConfig(4, None))
    assert bool(torch.isfinite(codes.dequantize()).all())


def test_inputs_that_are_always_zero_do_not_damp_the_others():
    live = correlated(300, 16) @ torch.randn(16, 32)
    weight = torch.randn(8, 64)
    found = []
    for scale in (1.0, 1e-3):
        x = torch.cat([live * scale, torch.zeros(300, 32)], 1)
        found.append(gptq.quantize_layer(weight, gptq.hessian(x), WeightConfig(3, None)).codes)
    assert float((found[0] == found[1]).float().mean()) > 0.95


def test_nan_weights_are_refused():
    weight = torch.randn(2, 4)
    weight[0, 3] = torch.nan
    with pytest.raises(ValueError, match="weight must be finite"):
        gptq.quantize_layer(weight, torch.eye(4), WeightConfig())


def test_layers_may_be_called_by_name_and_with_a_single_vector():
    class ByName(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 4)

        def forward(self, x):
            return self.linear(input=self.norm(x))

    model, x = ByName(), torch.randn(20, 8)
    assert list(gptq.quantize(model, [x], WeightConfig(4)).layers) == ["linear"]
    assert smoothing.feeds(model, [x])[0].readers == ("linear",)
    assert gptq.mean_hessian([x[0]]).shape == (8, 8)


def test_bfloat16_models_can_be_searched():
    model, inputs = small_gpt().bfloat16(), [tokens()]
    scaled = smoothing.search_scales(model, inputs, WeightConfig(4, 16))
    assert scaled.norm.weight.dtype == torch.bfloat16


def test_bad_hessians_and_blocks_are_refused():
    with pytest.raises(ValueError, match=r"h must be \[inputs, inputs\]"):
        gptq.quantize_layer(torch.randn(2, 4), torch.eye(5), WeightConfig())
    with pytest.raises(ValueError, match="damping must be larger"):
        gptq.inverse_factor(-torch.eye(3))
    with pytest.raises(ValueError, match="block must be at least 1"):
        gptq.quantize_layer(torch.randn(2, 4), torch.eye(4), WeightConfig(), block=0)


def test_a_model_is_quantized_in_the_order_of_its_run_on_what_the_codes_before_give():
    model = small_gpt()
    inputs = [tokens()]
    codes = gptq.quantize(model, inputs, WeightConfig(3, 16))
    assert list(codes.layers) == list(linear_layers(model))
    # The last layer's codes come from the inputs that the quantized model itself gives it.
    name = list(codes.layers)[-1]
    reaching = []
    hook = codes.model.get_submodule(name).register_forward_pre_hook(
        lambda _, x: reaching.append(x[0])
    )
    codes.model(inputs[0])
    hook.remove()
    h = gptq.mean_hessian(reaching)
    again = gptq.quantize_layer(matrix(model.get_submodule(name)), h, WeightConfig(3, 16))
    assert torch.equal(again.codes, codes.layers[name].codes)
    wanted = model(inputs[0])
    rounded = weight_only.quantize(model, WeightConfig(3, 16)).model(inputs[0])
    assert (codes.model(inputs[0]) - wanted).norm() < 0.9 * (rounded - wanted).norm()


def test_a_layer_that_never_runs_is_named():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match="got none at idle"):
        gptq.quantize(Idle(), [torch.randn(3, 4)], WeightConfig())
    with pytest.raises(ValueError, match="at least one batch"):
        gptq.quantize(Idle(), [], WeightConfig())


# ---- moving scales -------------------------------------------------------------------------------
def outliers(model, inputs):
    found = smoothing.feeds(model, inputs)
    return max(float(f.x.abs().amax(0).max() / f.x.abs().amax(0).median()) for f in found)


def test_norms_and_their_readers_are_found():
    found = smoothing.feeds(small_gpt(), [tokens()])
    assert [(f.norm, f.readers) for f in found] == [
        ("layers.0.norm1", ("layers.0.attention.qkv",)),
        ("layers.0.norm2", ("layers.0.feedforward.0",)),
        ("layers.1.norm1", ("layers.1.attention.qkv",)),
        ("layers.1.norm2", ("layers.1.feedforward.0",)),
    ]
    assert found[0].x.shape == (8 * 16, 32)


def test_planting_and_smoothing_change_no_output():
    model, inputs = small_gpt(), [tokens()]
    wanted = model(inputs[0])
    planted = smoothing.plant_outliers(model, inputs, [3, 7], 30.0)
    smoothed = smoothing.smooth(planted, inputs, 0.5)
    searched = smoothing.search_scales(planted, inputs, WeightConfig(3, 16))
    for other in (planted, smoothed, searched):
        assert torch.allclose(other(inputs[0]), wanted, atol=1e-4)
    assert outliers(planted, inputs) > 8 * outliers(model, inputs)
    assert outliers(smoothed, inputs) < outliers(planted, inputs) / 3


def test_the_scale_is_equation_4():
    x, w = torch.tensor([[1.0, -4.0], [2.0, 0.0]]), torch.tensor([[0.5, 8.0], [-2.0, 1.0]])
    for alpha in (0.0, 0.3, 1.0):
        want = torch.tensor([2**alpha / 2 ** (1 - alpha), 4**alpha / 8 ** (1 - alpha)])
        assert torch.allclose(smoothing.smoothing_scale(x, [w], alpha), want)


def test_the_searched_scale_never_costs_more_than_none():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 32, generator=generator) * torch.logspace(-1, 1, 32)
    weight = torch.randn(16, 32, generator=generator)
    config = WeightConfig(3, None)
    scale = smoothing.best_scale(x, weight, lambda w: round_to_nearest(w, config).dequantize())
    errors = [
        float(
            (x @ (round_to_nearest(weight * s, config).dequantize() / s - weight).T).square().mean()
        )
        for s in (torch.ones(32), scale)
    ]
    assert errors[1] < 0.8 * errors[0]
    assert abs(float(scale.log().mean())) < 1e-5


def test_a_norm_that_something_else_reads_is_not_scaled():
    class PostNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.norm(x)
            return x + self.linear(x)

    model, x = PostNorm(), torch.randn(5, 8)
    with pytest.raises(ValueError, match="only linear layers read its norms"):
        smoothing.plant_outliers(model, [x], [0], 50.0)
    assert torch.equal(model.norm.weight, torch.ones(8))
    with pytest.raises(ValueError, match="a norm that linear layers read"):
        smoothing.feeds(nn.Sequential(nn.Linear(8, 8)), [x])
    with pytest.raises(ValueError, match=r"alpha must lie in 0\.\.1"):
        smoothing.smooth(model, [x], 2.0)


def test_conv1d_is_the_linear_layer_that_computes_the_same():
    transformers = pytest.importorskip("transformers")
    layer = transformers.pytorch_utils.Conv1D(6, 4)
    x = torch.randn(3, 4)
    assert torch.allclose(as_linear(layer)(x), layer(x))
    assert torch.equal(matrix(layer), layer.weight.T)
