"""Re-estimated norms: means and variances are those of what comes in; nothing else has changed."""

import copy

import pytest
import torch
from torch import nn

import compresslab as cl
from compresslab.data import load
from compresslab.models import VGGLike
from compresslab.techniques.norms import fitted, reestimated
from compresslab.techniques.prune import select
from compresslab.techniques.scores import magnitude
from compresslab.training import evaluate, fit


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)
    )


def test_statistics_are_those_of_the_layers_outputs():
    """By NumPy's mean and variance, norm after norm; the variance is torch's unbiased one."""
    model, x = network(), torch.randn(60, 2, 8, 8)
    found = reestimated(model, x)
    with torch.no_grad():
        first = model[0](x)
        batch = nn.functional.batch_norm(first, None, None, model[1].weight, model[1].bias, True)
        second = model[3](torch.relu(batch))
    for norm, seen in ((found[1], first), (found[4], second)):
        channels = seen.transpose(0, 1).flatten(1)
        torch.testing.assert_close(norm.running_mean, channels.mean(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, channels.var(1), rtol=1e-4, atol=1e-5)


def test_passes_are_averaged_and_one_image_that_is_left_over_is_not_asked():
    model, x = network(), torch.randn(41, 2, 8, 8)
    found = reestimated(model, x, batch_size=20)
    with torch.no_grad():
        means = [model[0](part).transpose(0, 1).flatten(1).mean(1) for part in x[:40].split(20)]
    torch.testing.assert_close(found[1].running_mean, sum(means) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_callers_network_modes_momentum_and_weights_are_as_they_were(training):
    model = network().train(training)
    model[4].eval()
    model[1].momentum = 0.3
    before = copy.deepcopy(model.state_dict())
    found = reestimated(model, torch.randn(30, 2, 8, 8))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    modes = [m.training for m in model.modules()]
    assert [m.training for m in found.modules()] == modes
    assert (found[1].momentum, found[4].momentum) == (0.3, 0.1)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), found.parameters(), strict=True)
    )


def test_a_pruned_network_answers_better_and_a_trained_one_no_worse():
    data = load("glyphs", train_size=2_000, seed=0)
    torch.manual_seed(0)
    model = VGGLike(data, widths=(8, 16, 32))
    fit(model, data.train, 4, lr=0.2, progress=False)
    pruned = copy.deepcopy(model)
    select(magnitude(pruned), 0.7).apply(pruned)
    images = data.train.x[:500]
    before, after = (evaluate(m, data.test) for m in (pruned, reestimated(pruned, images)))
    assert after > before + 5
    assert evaluate(reestimated(model, images), data.test) > evaluate(model, data.test) - 2


def test_without_norms_it_is_a_copy():
    model, x = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), torch.randn(5, 3)
    found = reestimated(model, x)
    assert found is not model
    assert torch.equal(found(x), model(x))
    plain = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert reestimated(plain, x)[1].running_mean is None


@pytest.mark.parametrize("images, size", [(1, 10), (0, 10), (10, 1)])
def test_too_few_are_named(images, size):
    with pytest.raises(ValueError, match="images and batch_size must be at least 2"):
        reestimated(network(), torch.randn(images, 2, 8, 8), size)


# ---- in a pipeline -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def trained():
    data = load("glyphs", train_size=2_000, seed=0)
    torch.manual_seed(0)
    model = VGGLike(data, widths=(8, 16, 32))
    fit(model, data.train, 6, lr=0.2, progress=False)
    return model, data


@pytest.mark.parametrize(
    "stage", [cl.Prune(0.7), cl.CutChannels(0.3), cl.LowRank(0.5)], ids=lambda s: type(s).__name__
)
def test_without_labels_a_stage_ends_in_norms_that_fit(trained, stage):
    model, data = trained
    before = copy.deepcopy(model.state_dict())
    small = cl.compress(model, [stage], data.train.x[:500], progress=False)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert evaluate(small, data.test) == evaluate(reestimated(small, data.train.x[:250]), data.test)
    if isinstance(stage, cl.CutChannels):
        return  # Its norms are narrower than those before.
    # With the statistics as they were before.
    as_before = copy.deepcopy(small)
    norms = zip(_norms(as_before), _norms(model), strict=True)
    for norm, old in norms:
        norm.load_state_dict(old.state_dict())
    assert evaluate(small, data.test) > evaluate(as_before, data.test) + 2


def _norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_norms_that_fit_no_better_stay(trained):
    model, data = trained
    assert fitted(model, model, data.train.x[:500]) is model
    plain = nn.Sequential(nn.Flatten(), nn.Linear(256, 26))
    assert fitted(plain, model, data.train.x[:500]) is plain
    assert fitted(model, model, data.train.x[:3]) is model
