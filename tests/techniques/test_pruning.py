"""Masks by brute force, torch's own pruning, the papers' formulas; surgery against the masked network."""

import copy
import itertools
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from compresslab import models
from compresslab.data import load
from compresslab.techniques import prune, regularize, scores, surgery
from compresslab.training import evaluate, fit, seed_everything

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def small(seed=0):
    seed_everything(seed)
    return models.VGGLike(SHAPE, 10, (8, 12, 16))


# ---- scores --------------------------------------------------------------------------------------
def test_taylor_is_the_weight_times_the_mean_magnitude_of_its_gradient(digits):
    model, data = small(), digits.train.first(300)
    got = scores.taylor(model, data, batch_size=100)
    model.eval()
    for name, layer in scores.prunable(model).items():
        total = 0
        for x, y in zip(data.x.split(100), data.y.split(100), strict=True):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            total = total + layer.weight.grad.abs()
        assert torch.allclose(got[name], layer.weight.abs() * total / 3, atol=1e-7)


def test_activation_scores_watch_the_relu_behind_a_layer(digits):
    model, data = small(), digits.train.first(50)
    model.eval()
    first = model[0]
    behind = torch.relu(first[1](first[0](data.x)))
    got = scores.activation(model, data)["0.0"]
    assert torch.allclose(got[:, 0, 0, 0], behind.mean((0, 2, 3)), atol=1e-6)
    share = scores.apoz(model, data)["0.0"]
    assert torch.allclose(share[:, 0, 1, 2], (behind > 0).float().mean((0, 2, 3)))


def test_norm_scores_are_the_gains_of_the_norm_behind():
    model = small()
    with torch.no_grad():
        model[2][1].weight.copy_(torch.linspace(-1, 1, 12))
    got = scores.norm_scale(model)
    assert torch.equal(got["2.0"][:, 3, 1, 1], torch.linspace(-1, 1, 12).abs())
    assert set(got) == {"0.0", "2.0", "4.0"}


def test_random_scores_are_repeatable():
    one, two, other = (scores.random(small(), seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[n], two[n]) and not torch.equal(one[n], other[n]) for n in one)


# ---- masks ---------------------------------------------------------------------------------------
@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_global_selection_keeps_the_largest_scores_of_all_layers(sparsity, seed):
    generator = torch.Generator().manual_seed(seed)
    made = {
        "a": torch.rand(5, 4, generator=generator),
        "b": torch.rand(3, 2, 3, 3, generator=generator),
    }
    mask = prune.select(made, sparsity)
    everything = torch.cat([v.flatten() for v in made.values()])
    kept = torch.cat([mask.keep[n].flatten() for n in made])
    assert int((~kept).sum()) == round(sparsity * everything.numel())
    if 0 < int(kept.sum()) < len(kept):
        assert everything[kept].min() >= everything[~kept].max()


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_selection_agrees_with_torchs_own_pruning(share):
    ours, theirs = small(), small()
    prune.select(scores.magnitude(ours), share).apply(ours)
    layers = [(m, "weight") for m in scores.prunable(theirs).values()]
    torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=share)
    for layer in scores.prunable(theirs).values():
        torch_prune.remove(layer, "weight")
    want = theirs.state_dict()
    assert all(torch.equal(value, want[name]) for name, value in ours.state_dict().items())


def test_layerwise_selection_takes_the_same_share_of_every_layer():
    mask = prune.select(scores.magnitude(small()), 0.5, scope="layer")
    assert all(abs(s - 0.5) < 0.01 for s in mask.of_layers().values())
    uneven = prune.select(scores.magnitude(small()), 0.5).of_layers().values()
    assert max(uneven) - min(uneven) > 0.1


@pytest.mark.parametrize(
    "granularity,axes",
    [("row", (1, 2, 3)), ("channel", (1, 2, 3)), ("column", (0, 2, 3)), ("kernel", (2, 3))],
)
def test_a_group_falls_as_a_whole_by_its_mean_score(granularity, axes):
    score = {"w": torch.rand(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))}
    keep = prune.select(score, 0.5, granularity).keep["w"]
    means = score["w"].mean(axes)
    kept = keep.float().mean(axes)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert means[kept == 1].min() > means[kept == 0].max()


def test_blocks_fall_as_a_whole_and_must_divide():
    score = {"w": torch.rand(16, 32)}
    keep = prune.select(score, 0.5, "block", block=(8, 16)).keep["w"]
    parts = keep.view(2, 8, 2, 16).float().mean((1, 3))
    assert sorted(parts.flatten().tolist()) == [0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"divide the matrix 16 x 32, got \(5, 16\)"):
        prune.select(score, 0.5, "block", block=(5, 16))


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_two_of_four_keeps_the_best_of_every_group(n, seed):
    score = torch.rand(3, 4, 2, 2, generator=torch.Generator().manual_seed(seed))
    keep = prune.select_n_of_m({"w": score}, n, 4).keep["w"].reshape(-1, 4)
    assert (keep.sum(1) == n).all()
    for row, kept in zip(score.reshape(-1, 4), keep, strict=True):
        assert sorted(row[kept].tolist()) == sorted(row.tolist())[4 - n :]


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: prune.select({"w": torch.rand(2, 2)}, 1.5), "sparsity must lie in 0..1"),
        (lambda: prune.select({"w": torch.rand(2, 2)}, 0.5, scope="all"), "scope must be"),
        (lambda: prune.select({"w": torch.rand(2, 2)}, 0.5, "filter"), "granularity must be"),
        (lambda: prune.select({"w": torch.full((2, 2), torch.nan)}, 0.5), "must not contain NaN"),
        (lambda: prune.select_n_of_m({"w": torch.rand(2, 3)}), "multiple of m = 4"),
        (lambda: prune.select_n_of_m({"w": torch.rand(2, 4)}, 5, 4), "0 < n <= m"),
        (lambda: prune.Mask({"w": torch.ones(2)}), "must be a bool tensor, got torch.float32"),
        (lambda: prune.Mask({"w": torch.ones(2) > 0}).apply(small()), "name layers of the model"),
        (lambda: prune.Mask({"0.0": torch.ones(2) > 0}).apply(small()), r"shape \(8, 1, 3, 3\)"),
        (lambda: prune.Mask.from_torch(small()), "no weight_mask"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_masks_go_to_torch_and_come_back():
    model = small()
    mask = prune.select(scores.magnitude(model), 0.6)
    again = prune.Mask.from_torch(mask.to_torch(copy.deepcopy(model)))
    assert all(torch.equal(mask.keep[n], again.keep[n]) for n in mask.keep)
    zeros = prune.Mask.of_zeros(mask.apply(model))
    assert zeros.sparsity == pytest.approx(mask.sparsity)


def test_a_held_mask_survives_momentum_and_weight_decay(digits):
    model = small()
    mask = prune.select(scores.magnitude(model), 0.7)
    fit(model, digits.train, 1, 0.1, hooks=[prune.KeepMask(mask)], progress=False)
    assert all((m.weight[~mask.keep[n]] == 0).all() for n, m in scores.prunable(model).items())


def test_rounds_keep_the_same_share_each_and_end_at_the_goal():
    made = prune.rounds(0.9, 4)
    kept = [1, *(1 - s for s in made)]
    assert made[-1] == pytest.approx(0.9)
    assert np.allclose([b / a for a, b in itertools.pairwise(kept)], 0.1 ** (1 / 4))


def test_the_cubic_schedule_is_that_of_zhu_and_gupta():
    assert [prune.cubic(t, 10, 0.8) for t in (0, 5, 10, 99)] == pytest.approx([0, 0.7, 0.8, 0.8])


def test_gradual_pruning_arrives_and_holds(digits):
    model = small()
    hook = prune.PruneGradually(0.75, every=3)
    fit(model, digits.train, 2, 0.1, hooks=[hook], progress=False)
    zeros = sum(int((m.weight == 0).sum()) for m in scores.prunable(model).values())
    total = sum(m.weight.numel() for m in scores.prunable(model).values())
    assert zeros / total == pytest.approx(0.75, abs=0.001)


def test_pruning_and_tuning_keeps_most_of_the_accuracy_where_random_scores_do_not(digits):
    model = small()
    fit(model, digits.train, 6, 0.1, progress=False)
    dense, kept = evaluate(model, digits.test), {}
    for name, score in (("magnitude", scores.magnitude), ("random", scores.random)):
        pruned = copy.deepcopy(model)
        arguments = (prune.rounds(0.8, 2), 4, score)
        mask = prune.prune_and_tune(pruned, digits.train, *arguments, progress=False)
        assert mask.sparsity == pytest.approx(0.8, abs=0.001)
        kept[name] = evaluate(pruned, digits.test)
    assert dense - kept["magnitude"] < 6
    assert kept["magnitude"] > kept["random"]


# ---- regularisers --------------------------------------------------------------------------------
def test_penalties_are_their_formulas():
    model = small()
    layers = [m.weight.detach() for m in scores.prunable(model).values()]
    assert regularize.l1(model).item() == pytest.approx(
        sum(float(w.detach().abs().sum()) for w in layers), rel=1e-5
    )
    lasso = sum(float(w[0].numel() ** 0.5 * w.flatten(1).norm(dim=1).sum()) for w in layers[:-1])
    assert regularize.group_lasso(model).item() == pytest.approx(lasso, rel=1e-5)
    assert regularize.slimming(model).item() == pytest.approx(8 + 12 + 16)
    for penalty in (regularize.slimming, regularize.l0):
        with pytest.raises(ValueError, match="got none"):
            penalty(nn.Sequential(nn.Linear(2, 2)))


def test_the_expected_number_of_open_gates_is_what_sampling_gives():
    torch.manual_seed(0)
    gate = regularize.HardConcrete(torch.Size([4000]), 0.5).train()
    with torch.no_grad():
        gate.logits.fill_(-0.7)
    open_share = float((gate(torch.ones(4000)) != 0).float().mean())
    assert float(gate.expected()) / 4000 == pytest.approx(open_share, abs=0.03)


def test_gates_close_under_an_l0_penalty_and_leave_zeros(digits):
    seed_everything(0)
    model = regularize.gated(small(), 0.7)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    loss = regularize.penalized(regularize.l0, 3e-3)
    fit(model, digits.train, 10, 0.1, loss=loss, optimizer=optimizer, progress=False)
    plain = regularize.ungated(model)
    assert torch.allclose(plain(digits.test.x), model(digits.test.x), atol=1e-5)
    assert prune.Mask.of_zeros(plain).sparsity > 0.3
    assert evaluate(plain, digits.test) > 50


# ---- surgery -------------------------------------------------------------------------------------
def trained_like(model, seed=0):
    """Running statistics and gains of a network that has seen something."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            with torch.no_grad():
                module.bias.normal_(generator=generator)
    return model.eval()


class Flat(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(96, 20),
            nn.ReLU(),
            nn.Linear(20, 10),
        )


BUILDS = {
    "VGG-like": lambda: models.VGGLike(SHAPE, 10, (8, 12, 16)),
    "ResNet-8": lambda: models.ResNet8(SHAPE, 10, (8, 12, 16)),
    "depthwise": lambda: models.DepthwiseNet(SHAPE, 10, (8, 12, 16)),
    "flatten and linear": Flat,
    "MLP": lambda: models.MLP(SHAPE, 10, (30, 20)),
}


@pytest.mark.parametrize("name", BUILDS)
def test_a_shrunk_network_is_the_silenced_one_and_smaller(name):
    seed_everything(0)
    model = trained_like(BUILDS[name]())
    layers = list(scores.prunable(model, last=False))
    generator = torch.Generator().manual_seed(1)
    keep = {
        n: torch.rand(len(model.get_submodule(n).weight), generator=generator) < 0.5 for n in layers
    }
    if name == "ResNet-8":
        # A residual channel goes only where every layer that adds to it is silent.
        for block in ("1", "2", "3"):
            side = f"{block}.shortcut.0"
            for twin in (side, "0.0" if block == "1" else side):
                if twin in keep:
                    keep[twin] = keep[f"{block}.second.0"]
    surgery.silence(model, keep)
    x = torch.rand(5, *SHAPE)
    small_model = surgery.shrink(model)
    assert torch.allclose(small_model(x), model(x), atol=1e-5)
    count = [sum(p.numel() for p in m.parameters()) for m in (small_model, model)]
    assert count[0] < 0.6 * count[1]
    # Trainable, and a network like any other.
    small_model.train()(x).sum().backward()
    again = surgery.shrink(small_model)
    assert torch.allclose(again(x), small_model.eval()(x), atol=1e-5)


def test_a_silent_side_of_an_addition_alone_changes_nothing():
    model = trained_like(models.ResNet8(SHAPE, 10, (8, 12, 16)))
    surgery.silence(model, {"1.second.0": torch.arange(8) < 4})
    shrunk = surgery.shrink(model)
    assert shrunk.get_submodule("1.second.0").weight.shape[0] == 8
    assert torch.equal(shrunk(torch.ones(1, *SHAPE)), model(torch.ones(1, *SHAPE)))


def test_a_zero_filter_in_front_of_a_norm_with_a_shift_is_not_silent():
    model = trained_like(small())
    with torch.no_grad():
        model[0][0].weight[:4] = 0
    assert surgery.shrink(model)[0][0].out_channels == 8


def test_one_channel_stays_even_if_all_are_silent():
    model = trained_like(small())
    surgery.silence(model, {"2.0": torch.zeros(12, dtype=torch.bool)})
    shrunk, x = surgery.shrink(model), torch.rand(2, *SHAPE)
    assert shrunk[2][0].out_channels == 1
    assert torch.allclose(shrunk(x), model(x), atol=1e-5)


class Sigmoid(nn.Module):
    def __init__(self, tail):
        super().__init__()
        self.conv, self.tail, self.out = nn.Conv2d(1, 4, 3), tail, nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.out(self.tail(self.conv(x)))


class Stacked(Sigmoid):
    """One above the other: not side by side."""

    def forward(self, x):
        y = self.conv(x)
        return torch.cat([y, y], 2)


@pytest.mark.parametrize(
    "model,words",
    [
        (Sigmoid(nn.Sigmoid()), "Sigmoid"),
        (Sigmoid(nn.GroupNorm(2, 4)), "GroupNorm"),
        (Sigmoid(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4))), "norm"),
        (Sigmoid(nn.Conv2d(4, 4, 3, groups=2)), "grouped"),
        (Stacked(nn.Identity()), "cat"),
    ],
)
def test_what_may_not_keep_a_zero_is_refused_by_name(model, words):
    surgery.silence(model, {"conv": torch.tensor([True, False, True, True])})
    with pytest.raises(surgery.SurgeryError, match=words):
        surgery.shrink(model)
    with torch.no_grad():
        model.conv.weight[1], model.conv.bias[1] = 1, 1
    surgery.shrink(model)


class OnWidth(nn.Module):
    """A linear layer over the width of an image that is as wide as it has channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        return self.out(self.conv(x))


class Twice(nn.Module):
    """One convolution used twice, behind another."""

    def __init__(self):
        super().__init__()
        self.conv, self.both = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.both(self.both(self.conv(x)))


class Tokens(nn.Module):
    """Features of several tokens, flattened: a feature's copies are not neighbours."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Linear(8, 4), nn.Linear(32, 3)

    def forward(self, x):
        return self.out(torch.flatten(self.conv(x[:, 0]), 1))


@pytest.mark.parametrize(
    "model,words",
    [
        (OnWidth(), "on an image"),
        (Twice(), "used twice"),
        (Tokens(), "more features"),
        (
            nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(1, 4, 3),
                    norm=nn.BatchNorm2d(4, affine=False),
                    out=nn.Conv2d(4, 2, 1),
                )
            ),
            "norm",
        ),
    ],
)
def test_what_only_looks_like_channels_is_refused(model, words):
    silent = torch.arange(len(model.conv.weight)) != 1
    surgery.silence(model, {"conv": silent})
    with pytest.raises(surgery.SurgeryError, match=words):
        surgery.shrink(model)


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"bool of shape \[8\]"):
        surgery.silence(small(), {"0.0": torch.ones(7, dtype=torch.bool)})


# ---- channels through a concatenation --------------------------------------------------------------
class Dense(nn.Module):
    """Each layer reads all before it, the image among them; then a depthwise one, a skip, and features."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(9, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.each = nn.Conv2d(14, 14, 3, padding=1, groups=14, bias=False)
        self.c = nn.Conv2d(14, 11, 1)
        self.d = nn.Conv2d(11, 7, 1)
        self.head = nn.Linear(7 * 4, 3)

    def forward(self, x):
        a = torch.relu(self.a(x))
        b = torch.relu(self.norm(self.b(torch.cat([x, a], 1))))
        whole = self.each(torch.cat((x, a, b), dim=1))
        # A sum of two concatenations is one of sums.
        c = self.c(whole + torch.cat([x, a, b], 1))
        pooled = F.max_pool2d(torch.relu(self.d(c)), 4)
        return self.head(torch.flatten(pooled, 1))


def dense(seed):
    torch.manual_seed(seed)
    network = Dense().eval()
    with torch.no_grad():
        network.norm.running_mean.normal_()
        network.norm.running_var.uniform_(0.5, 2)
        network.norm.weight.normal_()
        network.norm.bias.normal_()
    return network


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_behind_a_concatenation_the_smaller_network_computes_the_same(seed):
    generator = torch.Generator().manual_seed(seed)
    network = dense(seed % 1000)
    keep = {
        name: torch.rand(len(network.get_submodule(name).weight), generator=generator) < 0.6
        for name in ("a", "b", "c", "d")
    }
    silenced = surgery.silence(network, keep)
    small = surgery.shrink(silenced)
    x = torch.rand(3, 3, 8, 8, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(small(x), silenced(x), rtol=1e-4, atol=1e-5)
    a, b, c, d = (max(1, int(mask.sum())) for mask in keep.values())
    # By hand: what each layer reads and makes.
    assert (small.b.in_channels, small.b.out_channels, small.norm.num_features) == (3 + a, b, b)
    assert (small.each.groups, small.c.in_channels, small.c.out_channels) == (3 + a + b,) * 2 + (c,)
    assert (small.d.in_channels, small.head.in_features) == (c, 4 * d)


class Uneven(Dense):
    """One family is added to two that stand side by side."""

    def forward(self, x):
        a = self.a(x)
        b = self.b(torch.cat([x, a], 1))
        return self.d(self.c(torch.cat([x, a, b], 1)) + torch.cat([a, b], 1))


def test_one_family_added_to_two_is_refused_by_name():
    network = surgery.silence(Uneven(), {"a": torch.arange(6) > 0})
    with pytest.raises(surgery.SurgeryError, match=r"addition .* to a concatenation"):
        surgery.shrink(network)


class Unet(nn.Module):
    """Two ways side by side, read together with the image."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.down = nn.Conv2d(2, 6, 3, padding=1)
        self.deep = nn.Conv2d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Upsample(scale_factor=2)
        self.up = nn.Conv2d(8 + 6 + 2, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        near = torch.relu(self.down(x))
        far = self.wide(torch.relu(self.norm(self.deep(F.max_pool2d(near, 2)))))
        return self.out(torch.relu(self.up(torch.cat([far, near, x], 1))))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_each_side_of_a_skip_is_cut_for_itself(seed):
    generator = torch.Generator().manual_seed(seed)
    network = Unet(seed % 1000).eval()
    keep = {
        name: torch.rand(len(network.get_submodule(name).weight), generator=generator) < 0.5
        for name in ("down", "deep", "up")
    }
    silenced = surgery.silence(network, keep)
    small = surgery.shrink(silenced)
    near, far, up = (max(1, int(keep[name].sum())) for name in ("down", "deep", "up"))
    # By hand: what each layer reads and makes.
    assert (small.down.out_channels, small.deep.in_channels) == (near, near)
    assert (small.deep.out_channels, small.norm.num_features) == (far, far)
    assert (small.up.in_channels, small.up.out_channels) == (far + near + 2, up)
    x = torch.rand(2, 2, 8, 8, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(small(x), silenced(x), rtol=1e-4, atol=1e-5)


class Beside(nn.Module):
    """Features of channels beside those of the input: whose are whose cannot be told by their number."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Linear(6 * 16, 3)

    def forward(self, x):
        return self.head(torch.flatten(torch.cat([x, self.conv(x)], 1), 1))


def test_features_beside_those_of_an_input_are_refused_by_name():
    network = surgery.silence(Beside(), {"conv": torch.tensor([True, False, True, True])})
    with pytest.raises(surgery.SurgeryError, match="layer 'head' reads channels beside others"):
        surgery.shrink(network)


class Excited(nn.Module):
    """Squeeze and excitation (Hu et al. 2018, section 3) inside of a residual block."""

    def __init__(self, gate):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 12, 1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.each = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(12, 5, 1)
        self.excite = nn.Conv2d(5, 12, 1)
        self.gate = gate
        self.narrow = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        stem = torch.relu(self.stem(x))
        wide = self.each(torch.relu(self.norm(self.wide(stem))))
        scale = self.gate(self.excite(torch.relu(self.squeeze(self.pool(wide)))))
        out = stem + self.narrow(wide * scale)
        return self.head(torch.flatten(self.pool(out), 1))


@pytest.mark.parametrize(
    "gate", [nn.Sigmoid(), nn.Hardsigmoid(), torch.sigmoid], ids=["module", "hard", "function"]
)
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_gates_go_with_the_channels_that_they_multiply(gate, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed % 1000)
    network = Excited(gate).eval()
    keep = {
        name: torch.rand(len(network.get_submodule(name).weight), generator=generator) < 0.6
        for name in ("wide", "squeeze", "excite")
    }
    before = network.excite.weight.clone()
    silenced = surgery.silence(network, keep)
    assert torch.equal(silenced.excite.weight, before)
    small = surgery.shrink(silenced)
    wide, squeeze = (max(1, int(keep[name].sum())) for name in ("wide", "squeeze"))
    assert (small.wide.out_channels, small.each.groups, small.narrow.in_channels) == (wide,) * 3
    assert (small.squeeze.in_channels, small.squeeze.out_channels) == (wide, squeeze)
    assert (small.excite.in_channels, small.excite.out_channels) == (squeeze, wide)
    assert small.stem.out_channels == 8
    x = torch.rand(2, 3, 6, 6, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(small(x), silenced(x), rtol=1e-4, atol=1e-5)


class Lifted(Excited):
    """What a sigmoid gives is read by a layer: a silent channel is a half there."""

    def forward(self, x):
        stem = torch.relu(self.stem(x))
        wide = torch.sigmoid(self.wide(stem))
        return self.head(torch.flatten(self.pool(self.narrow(wide)), 1))


class Itself(Excited):
    """A channel times its own sigmoid, in two operations."""

    def forward(self, x):
        wide = self.wide(torch.relu(self.stem(x)))
        return self.head(torch.flatten(self.pool(self.narrow(wide * torch.sigmoid(wide))), 1))


@pytest.mark.parametrize("kind, words", [(Lifted, "sigmoid"), (Itself, "mul")])
def test_a_sigmoid_that_does_not_multiply_another_is_refused_by_name(kind, words):
    network = surgery.silence(kind(nn.Sigmoid()), {"wide": torch.arange(12) > 3})
    with pytest.raises(surgery.SurgeryError, match=words):
        surgery.shrink(network)


class Attended(Excited):
    """One number for all channels of a place (Woo et al. 2018, CBAM, section 3): as many gates as places."""

    def forward(self, x):
        stem = torch.relu(self.stem(x))
        wide = torch.relu(self.norm(self.wide(stem)))
        place = torch.sigmoid(self.single(wide))
        return self.head(torch.flatten(self.pool(stem + self.narrow(wide * place)), 1))

    def __init__(self, gate):
        super().__init__(gate)
        self.single = nn.Conv2d(12, 1, 3, padding=1)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_a_gate_for_places_stays_whichever_channels_go(seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed % 1000)
    network = Attended(nn.Sigmoid()).eval()
    keep = torch.rand(12, generator=generator) < 0.6
    silenced = surgery.silence(network, {"wide": keep})
    small = surgery.shrink(silenced)
    left = max(1, int(keep.sum()))
    assert (small.wide.out_channels, small.narrow.in_channels) == (left, left)
    assert (small.single.in_channels, small.single.out_channels) == (left, 1)
    x = torch.rand(2, 3, 6, 6, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(small(x), silenced(x), rtol=1e-4, atol=1e-5)


class Twice(Excited):
    """The same channels twice, by the name of the argument; then a gate of another width, for a part."""

    def forward(self, x):
        stem = torch.relu(self.stem(x))
        both = torch.cat(tensors=[stem, stem], dim=1)
        return self.head(torch.flatten(self.pool(self.down(both)), 1))

    def __init__(self, gate):
        super().__init__(gate)
        self.down = nn.Conv2d(16, 8, 1)


def test_channels_that_stand_side_by_side_with_themselves_go_twice():
    torch.manual_seed(2)
    network = Twice(nn.Sigmoid()).eval()
    silenced = surgery.silence(network, {"stem": torch.arange(8) % 3 > 0})
    small = surgery.shrink(silenced)
    assert (small.stem.out_channels, small.down.in_channels) == (5, 10)
    x = torch.rand(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(small(x), silenced(x), rtol=1e-4, atol=1e-5)


class ReadTwice(Excited):
    """What a gate is made of is read by another layer too, which needs all of it."""

    def __init__(self, gate):
        super().__init__(gate)
        self.beside = nn.Conv2d(12, 8, 1)

    def forward(self, x):
        wide = self.each(torch.relu(self.norm(self.wide(torch.relu(self.stem(x))))))
        scale = self.excite(torch.relu(self.squeeze(self.pool(wide))))
        out = self.narrow(wide * self.gate(scale)) + self.beside(scale)
        return self.head(torch.flatten(self.pool(out), 1))


def test_a_gate_that_another_layer_reads_is_refused_by_name():
    """Its channels are not silent: cut with those that they multiply, the other layer would miss them."""
    torch.manual_seed(4)
    network = surgery.silence(ReadTwice(nn.Sigmoid()).eval(), {"wide": torch.arange(12) > 3})
    with pytest.raises(surgery.SurgeryError, match="mul"):
        surgery.shrink(network)
