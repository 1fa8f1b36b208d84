"""PTQ, folding, equalisation, mixed precision and training through quantizers, against torch."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from compresslab import models, pretrained
from compresslab.classroom.exercises.ptq import exhaustive
from compresslab.data import keywords, load
from compresslab.network.graph import trace
from compresslab.runtime.convert import convert
from compresslab.techniques import folding, mixed, ptq, qat, ste
from compresslab.techniques.quantizer import (
    ActivationQuantizer,
    QuantConfig,
    Quantized,
    WeightQuantizer,
)
from compresslab.training import evaluate, fit, logits, seed_everything

NETWORKS = [models.MLP, models.VGGLike, models.ResNet8, models.DepthwiseNet]


@pytest.fixture(scope="module")
def data():
    return load("digits", size=16)


def warm(network, data, seed=0):
    """A network whose batch norms have seen data, so that folding them is not trivial."""
    seed_everything(seed)
    model = network(data.shape, 10)
    fit(model, data.train, epochs=1, lr=0.1, batch_size=64, progress=False)
    return model


@pytest.fixture(scope="module")
def trained(data):
    return {network: warm(network, data) for network in NETWORKS}


# ---- the straight-through estimator ----------------------------------------------------------------
@given(st.integers(0, 10_000), st.sampled_from([(-8, 7), (-7, 7), (0, 15), (-2, 1)]))
def test_fake_quantize_and_its_gradient_are_torchs(seed, limits):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(50, generator=generator) * 3).requires_grad_(True)
    y = x.detach().clone().requires_grad_(True)
    low, high = limits
    zero = int(torch.randint(low, high + 1, (1,), generator=generator))
    ours = ste.fake_quantize(x, torch.tensor(0.37), torch.tensor(float(zero)), low, high)
    theirs = torch.fake_quantize_per_tensor_affine(y, 0.37, zero, low, high)
    weights = torch.randn(50, generator=generator)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    assert torch.equal(ours, theirs)
    assert torch.equal(x.grad, y.grad)


@given(st.integers(0, 10_000), st.booleans())
def test_the_gradient_of_the_step_is_torchs_learnable_one(seed, per_channel):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 20, generator=generator)
    low, high = -7, 7
    scale = torch.rand(6, generator=generator) * 0.2 + 0.1 if per_channel else torch.tensor([0.2])
    factor = 1 / np.sqrt(x.numel() / scale.numel() * high)
    ours = scale.reshape(-1, 1).clone().requires_grad_(True)
    theirs = scale.clone().requires_grad_(True)
    ste.fake_quantize(x, ours, torch.zeros_like(ours), low, high).sum().backward()
    zero = torch.zeros(len(scale))
    if per_channel:
        torch._fake_quantize_learnable_per_channel_affine(
            x, theirs, zero, 0, low, high, factor
        ).sum().backward()
    else:
        torch._fake_quantize_learnable_per_tensor_affine(
            x, theirs, zero, low, high, factor
        ).sum().backward()
    assert torch.allclose(ours.grad.reshape(-1), theirs.grad, rtol=1e-3, atol=1e-4)


def test_gradients_rounded_at_random_are_right_on_average():
    seed_everything(0)
    total = torch.zeros(1000)
    for _ in range(200):
        x = torch.zeros(1000, requires_grad=True)
        ste.quantize_gradient(x, 3).backward(torch.linspace(-1, 1, 1000))
        assert len(x.grad.unique()) <= 7
        total += x.grad
    assert (total / 200 - torch.linspace(-1, 1, 1000)).abs().max() < 0.12


# ---- folding and equalisation ----------------------------------------------------------------------
@given(st.integers(0, 10_000))
def test_folding_is_torchs_fusion(seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 3, 3, 3, generator=generator)
    bias, gain, shift, mean = (torch.randn(5, generator=generator) for _ in range(4))
    variance = torch.rand(5, generator=generator) + 0.1
    ours = folding.fold_batch_norm(weight, bias, gain, shift, mean, variance, 1e-3)
    theirs = fuse_conv_bn_weights(weight, bias, mean, variance, 1e-3, gain, shift)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("network", NETWORKS)
def test_folded_and_equalised_networks_compute_the_same(network, trained, data):
    model, x = trained[network], data.test.x
    folded = folding.fold_batch_norms(model)
    even = folding.equalize(folded)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert torch.allclose(logits(folded, x), logits(model, x), atol=1e-3)
    assert torch.allclose(logits(even, x), logits(model, x), atol=1e-3)


def test_equalisation_makes_neighbouring_ranges_equal(trained):
    even = folding.equalize(folding.fold_batch_norms(trained[models.VGGLike]), rounds=20)
    first, second = (
        m for m in list(even.modules()) if isinstance(m, nn.Conv2d) and m.in_channels > 1
    )
    r1 = first.weight.flatten(1).abs().amax(1)
    r2 = second.weight.transpose(0, 1).flatten(1).abs().amax(1)
    assert torch.allclose(r1, r2, rtol=0.02)


def test_a_norm_with_two_readers_is_not_folded():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    folded = folding.fold_batch_norms(Twice())
    assert any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())


# ---- post-training quantization --------------------------------------------------------------------
@pytest.mark.parametrize("network", NETWORKS)
def test_eight_bits_change_next_to_nothing(network, trained, data):
    model = trained[network]
    quantized = ptq.quantize_post_training(model, QuantConfig(), data.train.x[:200])
    signal = logits(model, data.test.x)
    noise = logits(quantized, data.test.x) - signal
    assert float(noise.square().mean()) < 0.01 * float(signal.square().mean())


def test_the_model_itself_is_not_changed(trained, data):
    model = trained[models.VGGLike]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ptq.quantize_post_training(model, QuantConfig(2, 2), data.train.x[:50])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("sharing", ["tensor", "channel", "group"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_take_no_more_values_than_their_grid_has(sharing, bits, trained):
    layer = trained[models.MLP][3]
    config = QuantConfig(bits, sharing=sharing, group=30)
    quantizer = WeightQuantizer(layer.weight, bits, config)
    params = quantizer.qparams()
    back = quantizer(layer.weight).detach()
    rows = back.reshape(len(back), -1)
    from compresslab.numerics.affine import quantize

    assert torch.allclose(quantize(layer.weight.detach(), params).dequantize(), rows, atol=1e-6)
    assert params.scale.numel() == {"tensor": 1, "channel": 100, "group": 1000}[sharing]


def test_dynamic_ranges_are_each_tensors_own():
    quantizer = ActivationQuantizer(8, QuantConfig(dynamic=True))
    for size in (1.0, 1000.0):
        x = torch.rand(100) * size
        assert (quantizer(x) - x).abs().max() <= size / 255


def test_bits_of_single_layers_are_obeyed(trained, data):
    config = QuantConfig(8, 8, layers={"4.0": 2}, edge_bits=6)
    prepared = ptq.prepare(trained[models.VGGLike], config)
    bits = {n: m.weight_bits for n, m in prepared.named_modules() if isinstance(m, Quantized)}
    assert bits == {"0.0": 6, "2.0": 8, "4.0": 2, "8": 6}


def test_weight_only_quantization_leaves_activations_alone(trained):
    prepared = ptq.prepare(trained[models.ResNet8], QuantConfig(4, None))
    assert not qat.quantizers(prepared)


def test_correcting_biases_removes_the_mean_error(trained, data):
    model = folding.fold_batch_norms(trained[models.VGGLike])
    images = data.train.x[:200]
    quantized = ptq.quantize_post_training(model, QuantConfig(3, 8, "tensor"), images)
    names = [n for n, m in quantized.named_modules() if isinstance(m, Quantized)]

    def bias_error():
        wanted, got = (ptq._channel_means(m, names, images) for m in (model, quantized))
        return sum(float((wanted[n] - got[n]).detach().abs().sum()) for n in names)

    before = bias_error()
    ptq.correct_bias(quantized, model, images)
    assert bias_error() < 0.05 * before


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"weight_bits": 1}, "weight_bits must be an integer from 2 to 8, got 1"),
        ({"weight_bits": None}, "weight_bits must be an integer from 2 to 8, got None"),
        ({"activation_bits": 9}, "activation_bits must be an integer from 2 to 8, got 9"),
        ({"edge_bits": 0}, "edge_bits must be"),
        ({"sharing": "row"}, "sharing must be tensor, channel or group, got 'row'"),
        ({"weight_range": "median"}, "weight_range must be minmax or mse"),
        ({"activation_range": "median"}, "observer must be one of"),
        ({"layers": {"0": 1}}, r"layers\['0'\] must be"),
    ],
)
def test_impossible_configurations_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        QuantConfig(**arguments)


def test_unknown_layers_and_missing_images_are_named(trained):
    with pytest.raises(ValueError, match=r"got 9\.9"):
        ptq.prepare(trained[models.VGGLike], QuantConfig(layers={"9.9": 4}))
    with pytest.raises(ValueError, match="at least one example"):
        ptq.quantize_post_training(
            trained[models.VGGLike], QuantConfig(), torch.zeros(0, 1, 16, 16)
        )


# ---- mixed precision ---------------------------------------------------------------------------------
def test_the_scan_leaves_the_model_as_it_was(trained, data):
    model = trained[models.VGGLike]
    before = [p.clone() for p in model.parameters()]
    scan = mixed.sensitivity(model, lambda m: evaluate(m, data.val), bits=(8, 2))
    assert all(map(torch.equal, before, model.parameters()))
    assert len(scan) == 8
    assert all(a.sqnr > b.sqnr for a, b in zip(scan[::2], scan[1::2], strict=True))
    assert scan[0].size == 288 + 4 * 32


def test_a_plan_of_one_layer_is_what_the_scan_measured_and_the_network_stays():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(20, 6)
    scan = mixed.sensitivity(model, lambda m: float(m(x).square().sum()), bits=(8, 3))
    for entry in scan:
        alone = mixed.with_bits(model, {entry.layer: entry.bits})
        assert float(alone(x).square().sum()) == pytest.approx(entry.quality)
    both = mixed.with_bits(model, {"0": 3, "2": 2})
    assert len(both[0].weight.unique()) <= 5 * 7  # seven codes and a scale a row
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    with pytest.raises(ValueError, match="bits must name layers of the model, got 1, 9"):
        mixed.with_bits(model, {"1": 4, "9": 4})


@given(st.integers(0, 1000))
def test_greedy_search_fits_and_is_near_the_best_of_all(seed):
    generator = np.random.default_rng(seed)
    widths = (8, 4, 2)
    scan = [
        mixed.Sensitivity(str(layer), bits, 90 - loss, 6.0 * bits, int(count * bits))
        for layer, count in enumerate(generator.integers(10, 100, 5))
        for bits, loss in zip(widths, np.sort(generator.uniform(0, 10, 3)), strict=True)
    ]
    size = np.array([[e.size for e in scan[i : i + 3]] for i in range(0, 15, 3)])
    loss = np.array([[90 - e.quality for e in scan[i : i + 3]] for i in range(0, 15, 3)])
    budget = int(size.mean(axis=1).sum())
    chosen = mixed.search(scan, budget, 90.0)
    places = [widths.index(chosen[str(i)]) for i in range(5)]
    best = exhaustive(loss, size, budget)
    layers = np.arange(5)
    assert size[layers, places].sum() <= budget
    assert size[layers, best].sum() <= budget
    assert loss[layers, best].sum() <= loss[layers, places].sum() + 1e-9


def test_an_impossible_budget_is_named():
    scan = [mixed.Sensitivity("a", bits, 90, 6.0, 100 * bits) for bits in (4, 2)]
    with pytest.raises(ValueError, match="budget must be at least 200 bytes"):
        mixed.search(scan, 199, 90)
    with pytest.raises(ValueError, match="budget must be at least 5"):
        exhaustive(np.zeros((1, 2)), np.array([[9, 5]]), 4)


# ---- training through quantizers -----------------------------------------------------------------------
@pytest.mark.slow
def test_fine_tuning_brings_two_bits_back(trained, data):
    model = trained[models.VGGLike]
    config = QuantConfig(
        2, 2, edge_bits=8, weight_range="mse", activation_range="mse", learned=True
    )
    before = evaluate(ptq.quantize_post_training(model, config, data.train.x[:200]), data.test)
    tuned = qat.tune(model, config, data.train, epochs=5, lr=0.05, batch_size=64, progress=False)
    assert evaluate(tuned, data.test) > before + 3


def test_learned_steps_move_and_fixed_steps_stay(trained, data):
    for learned in (True, False):
        config = QuantConfig(3, 3, learned=learned)
        part, options = data.train.first(128), {"batch_size": 8, "progress": False}
        tuned = qat.tune(trained[models.MLP], config, part, epochs=2, lr=0.1, **options)
        fresh = ptq.quantize_post_training(trained[models.MLP], config, data.train.x[:128])
        names = [n for n in fresh.state_dict() if n.endswith("scale")]
        assert names
        moved = [not torch.equal(fresh.state_dict()[n], tuned.state_dict()[n]) for n in names]
        assert all(moved) if learned else not any(moved)


def test_a_teachers_loss_is_hintons(trained, data):
    teacher, student = trained[models.VGGLike], trained[models.MLP]
    part = data.train.first(32)
    from compresslab.training import Batch

    index = torch.randperm(32)
    batch = Batch(part.x[index], part.y[index], index)
    value = qat.toward_teacher(teacher, part, temperature=3.0, weight=0.6)(student, batch)
    p = torch.softmax(teacher(batch.x) / 3, 1)
    q = torch.softmax(student(batch.x) / 3, 1)
    soft = (p * (p / q).log()).sum(1).mean() * 9
    hard = nn.functional.cross_entropy(student(batch.x), batch.y)
    assert float(value.detach()) == pytest.approx(float(0.4 * hard + 0.6 * soft), rel=1e-4)


def test_rounded_gradients_reach_every_weight(data):
    model = qat.with_quantized_gradients(models.MLP(data.shape, 10, (8,)), 4)
    model(data.train.x[:4]).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# ---- networks of words ---------------------------------------------------------------------------
@pytest.mark.parametrize("recurrent", [False, True])
def test_words_are_tuned_layer_by_layer_and_what_comes_of_it_runs_on_integers(recurrent):
    data = keywords.load(train_size=200, seed=0)
    torch.manual_seed(0)
    network = (
        models.BiLSTM(keywords.WORDS, len(keywords.CLASSES), 16, 16)
        if recurrent
        else pretrained.keyword_encoder(width=16, layers=2)
    )
    before = copy.deepcopy(network.state_dict())
    tuned = qat.tune(network, QuantConfig(4, 8), data.train, epochs=1, lr=0.01, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    x = data.test.x[:32]
    simulated, run = logits(tuned, x), logits(convert(tuned), x)
    assert not torch.equal(simulated, logits(network, x))
    assert (simulated - run).abs().max() < 0.1 * simulated.abs().max()


def test_an_encoder_can_be_traced_and_still_refuses_other_lengths():
    network = pretrained.keyword_encoder(width=16, layers=2)
    x = keywords.load(train_size=50, seed=0).test.x[:5]
    traced = trace(network)
    assert torch.equal(traced(x), network(x))
    for one in (network, traced):
        with pytest.raises(ValueError, match=r"tokens must be \[n, \d+\], got \[5, 7\]"):
            one(x[:, :7])
