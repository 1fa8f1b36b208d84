"""Shared weights: what they compute, what moves them, what a step of them is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compresslab import models
from compresslab.data.split import Examples
from compresslab.techniques import sharing
from compresslab.techniques.prune import select
from compresslab.techniques.scores import magnitude
from compresslab.training import fit, seed_everything


@pytest.fixture
def network():
    seed_everything(0)
    return models.VGGLike((1, 8, 8), 5, (4, 6, 8)).eval()


def images(n=12):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 1, 8, 8, generator=generator)
    return Examples(x, torch.arange(n) % 5)


def test_every_layer_has_so_many_values_at_most(network):
    shared = sharing.share_weights(network, 5)
    for layer in sharing.shared_layers(shared).values():
        assert len(layer.weight.unique()) <= 5
    assert len(sharing.shared_layers(shared)) == 4


def test_the_network_that_was_shared_is_not_changed(network):
    before = copy.deepcopy(network.state_dict())
    sharing.share_weights(network, 3)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())


def test_as_many_values_as_weights_change_nothing():
    layer = nn.Sequential(nn.Linear(5, 4))
    x = torch.randn(3, 5)
    assert torch.allclose(sharing.share_weights(layer, 20)(x), layer(x), atol=1e-6)


def test_unshared_computes_the_same(network):
    shared = sharing.share_weights(network, 4)
    plain = sharing.unshared(shared)
    assert torch.equal(plain(images().x), shared.eval()(images().x))
    assert set(plain.state_dict()) == set(network.state_dict())
    assert not sharing.shared_layers(plain)


def test_a_centroid_gets_the_mean_of_its_weights_gradients(network):
    shared = sharing.share_weights(network, 4)
    plain = sharing.unshared(shared)
    for model in (shared, plain):
        F.cross_entropy(model.eval()(images().x), images().y).backward()
    for name, layer in sharing.shared_layers(shared).items():
        gradient = plain.get_submodule(name).weight.grad
        for k, got in enumerate(layer.centroids.grad, start=1):
            members = gradient[layer.codes == k]
            expected = members.mean() if len(members) else torch.tensor(0.0)
            assert torch.allclose(got, expected, rtol=1e-3, atol=1e-7)


def test_a_step_is_the_weights_own_step_projected_onto_those_that_share():
    layer = nn.Linear(6, 3, bias=False)
    shared = sharing.Shared(layer, sharing.share(layer.weight, 2))
    start, x = shared.weight.detach().clone(), torch.randn(4, 6)
    free = start.clone().requires_grad_()
    (x @ free.T).square().sum().backward()
    stepped = start - 0.1 * free.grad
    projected = torch.stack([stepped[shared.codes == k].mean() for k in (1, 2)])
    shared(x).square().sum().backward()
    with torch.no_grad():
        shared.centroids -= 0.1 * shared.centroids.grad
    assert torch.allclose(shared.centroids, projected, atol=1e-5)


def test_training_moves_values_and_not_codes_and_pruned_weights_stay_zero(network):
    select(magnitude(network), 0.6).apply(network)
    shared = sharing.share_weights(network, 6)
    codes = {n: m.codes.clone() for n, m in sharing.shared_layers(shared).items()}
    values = {n: m.centroids.detach().clone() for n, m in sharing.shared_layers(shared).items()}
    fit(shared, images(60), 2, 0.1, batch_size=20, progress=False)
    for name, layer in sharing.shared_layers(shared).items():
        assert torch.equal(layer.codes, codes[name])
        assert not torch.equal(layer.centroids, values[name])
        assert bool((layer.weight[layer.codes == 0] == 0).all())
        zeros = network.get_submodule(name).weight == 0
        assert bool((layer.weight[zeros] == 0).all())


def test_training_lowers_the_loss(network):
    shared = sharing.share_weights(network, 3)
    data = images(60)

    def loss():
        return F.cross_entropy(shared(data.x), data.y).item()

    before = loss()
    fit(shared, data, 20, 0.1, batch_size=20, progress=False)
    assert loss() < before


def test_layers_may_have_numbers_of_their_own(network):
    shared = sharing.share_weights(network, {"0.0": 2, "8": 7})
    found = {n: len(m.centroids) for n, m in sharing.shared_layers(shared).items()}
    assert found == {"0.0": 2, "8": 7}


def test_copies_keep_what_they_load(network):
    one, other = (sharing.share_weights(network, k) for k in (4, 4))
    with torch.no_grad():
        for layer in sharing.shared_layers(other).values():
            layer.centroids.mul_(2)
    copied = copy.deepcopy(one)
    copied.load_state_dict(other.state_dict())
    assert torch.equal(copied.eval()(images().x), other.eval()(images().x))


@pytest.mark.parametrize("colours", [{"nothing": 4}, {}])
def test_names_that_are_no_layers_are_refused(network, colours):
    with pytest.raises(ValueError, match=r"colours must name layers of 0\.0, 2\.0, 4\.0, 8"):
        sharing.share_weights(network, colours)


def test_tied_half_precision_and_parametrized_layers_are_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    model[2] = nn.utils.parametrizations.weight_norm(model[2])
    shared = sharing.share_weights(model, 3)
    assert list(sharing.shared_layers(shared)) == ["3"]
    with pytest.raises(ValueError, match="got 0"):
        sharing.share_weights(model, {"0": 3})
    with pytest.raises(ValueError, match="no layer whose weights can be shared"):
        sharing.share_weights(nn.Sequential(nn.Linear(3, 3)).double(), 3)


def test_a_weight_that_is_not_finite_is_refused_with_its_layer(network):
    with torch.no_grad():
        network.get_submodule("2.0").weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"layer '2\.0': values must be finite"):
        sharing.share_weights(network, 4)


def test_a_layer_under_two_names_stays_one():
    model = nn.Module()
    model.a = nn.Sequential(nn.Linear(3, 3))
    model.b = model.a
    shared = sharing.share_weights(model, 2)
    assert shared.a is shared.b
    assert list(sharing.shared_layers(shared)) == ["a.0", "b.0"]
    plain = sharing.unshared(shared)
    assert plain.a is plain.b


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="no layer whose weights can be shared"):
        sharing.share_weights(nn.Sequential(nn.ReLU()), 4)


def test_a_palette_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"codes must have shape \[3, 4\], got \[4, 3\]"):
        sharing.Shared(nn.Linear(4, 3), sharing.share(torch.randn(4, 3), 2))
