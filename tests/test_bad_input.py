"""What once gave a wrong number in silence is answered now, or counted right."""

import copy
import importlib

import numpy as np
import pytest
import torch
from torch import nn

from compresslab import models
from compresslab.data import corpus
from compresslab.data.split import examples
from compresslab.kernels import int8, int8_conv, int8_pool, panels, xnor, xnor_conv
from compresslab.measure import (
    count_layers,
    disk_bytes,
    latency,
    layer_macs,
    memory_bytes,
    time_call,
    working_bytes,
)
from compresslab.numerics import codebook, entropy, formats
from compresslab.runtime import sparse as sparse_runtime
from compresslab.runtime.convert import convert
from compresslab.runtime.dynamic import DynamicInt8Linear
from compresslab.techniques import lora, mixed, prune, scores, sharing, ste, tickets, weight_only
from compresslab.techniques.folding import equalize, fold_batch_norms
from compresslab.techniques.ptq import correct_bias, quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluate, fit
from compresslab.writing import FileError

f32 = np.float32
SHAPE = (1, 16, 16)


def some(count=20):
    images = np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return examples(images, np.arange(count) % 5)


def packed(outputs=5, inputs=40):
    return panels.pack_weight(np.ones((outputs, inputs), np.int8))


def signs(outputs=5, inputs=40):
    return xnor.pack_weight(xnor.pack_signs(np.ones((outputs, inputs), f32)), inputs)


X = np.ones((3, 40), np.uint8)
IMAGE = np.ones((1, 4, 4, 70), f32)
CODES = np.ones((1, 4, 4, 3), np.uint8)
ONES = np.ones(5, f32)
REFUSED = {
    "row scales of another length": (
        lambda: int8.matmul_dequantize(X, packed(), packed().dequantize(0, ONES), np.ones(1, f32)),
        r"row_scale must have shape \[3\]",
    ),
    "row scales of signs": (
        lambda: xnor.matmul_scaled(
            xnor.pack_signs(np.ones((3, 40), f32)), signs(), xnor.scales(signs()), np.ones(1, f32)
        ),
        r"row_scale must have shape \[3\]",
    ),
    "a bias that is no int32": (
        lambda: packed().requantize(0, np.ones(5), ONES, 0, 0, 255),
        "bias must have dtype int32",
    ),
    "a multiplier with NaN": (
        lambda: packed().requantize(0, None, np.full(5, np.nan, f32), 0, 0, 255),
        "multiplier must be finite",
    ),
    "a code of 300": (
        lambda: packed().requantize(0, None, ONES, 0, 0, 300),
        "high must be an integer from 0 to 255",
    ),
    "limits the wrong way round": (
        lambda: packed().requantize(0, None, ONES, 0, 9, 3),
        "low must not lie above high",
    ),
    "a convolution's weight in one run": (
        lambda: int8_conv.conv2d_requantize(
            np.zeros((1, 5, 5, 21), np.uint8),
            0,
            packed(5, 189),
            int8_conv.Window(3, 3),
            packed(5, 189).requantize(0, None, np.ones(5, f32), 0, 0, 255),
        ),
        r"pack_weight\(w, 3\), got 48 words in runs=1",
    ),
    "a weight in runs that do not divide it": (
        lambda: panels.pack_weight(np.ones((2, 10), np.int8), 3),
        "runs must divide the 10 inputs, got 3",
    ),
    "a depthwise weight of two axes": (
        lambda: int8_conv.pack_taps(np.ones((3, 4), np.int8)),
        r"weight must have shape \[kh, kw, c\]",
    ),
    "depthwise, one multiplier for all": (
        lambda: int8_conv.pack_taps(np.ones((3, 3, 4), np.int8)).requantize(
            0, None, np.ones(1, f32), 0, 0, 255
        ),
        r"multiplier must have shape \[4\]",
    ),
    "a mean of codes up to 300": (
        lambda: int8_pool.mean_pool(CODES, 0, 1.0, 0, 0, 300),
        "high must be",
    ),
    "a sum with negative codes": (
        lambda: int8_pool.add(CODES, CODES, (0, 0), (1.0, 1.0), 0, -50, 255),
        "low must be",
    ),
    "too few flips": (
        lambda: xnor_conv.pack_image(IMAGE, flip=np.zeros(1, np.uint64)),
        r"flip must have shape \[2\]",
    ),
    "thresholds in float64": (
        lambda: xnor_conv.pack_image(IMAGE, at_least=np.full(70, 0.5)),
        "at_least must have dtype float32",
    ),
    "thresholds beyond int32": (
        lambda: xnor.thresholds(signs(), np.full(5, 2**40), np.zeros(5, bool)),
        "at_least must lie within int32",
    ),
    "no flips": (
        lambda: xnor.thresholds(signs(), np.zeros(5, np.int64), np.zeros(0, bool)),
        r"flip must have shape \[5\]",
    ),
    "gradients of one bit": (lambda: ste.quantize_gradient(torch.ones(2), 1), "bits must be"),
    "masks of different layers": (
        lambda: tickets.mask_distance(
            prune.Mask({"a": torch.ones(4, 4, dtype=torch.bool)}),
            prune.Mask({"a": torch.ones(4, 1, dtype=torch.bool)}),
        ),
        "other must have one's layers",
    ),
    "a rewind behind the end": (
        lambda: tickets.Trial(0, (0.5,), ("rewound",), epochs=0.5, rewind=2),
        "rewind must be at most",
    ),
    "answers that are NaN": (
        lambda: evaluate(nn.Sequential(nn.Flatten(), _NotANumber()), some()),
        "got NaN",
    ),
    "float images": (
        lambda: examples(np.full((2, 1, 4, 4), 0.5, f32), np.zeros(2, int)),
        "images must be uint8",
    ),
    "float labels": (
        lambda: examples(np.zeros((2, 1, 4, 4), np.uint8), np.array([0.7, 1.9])),
        "labels integers",
    ),
    "a negative count": (lambda: some().first(-1), "count must be 0 or more"),
    "no tokens": (lambda: corpus.load("python", tokens=0), "tokens must be 1 or more"),
    "rounds beyond everything": (lambda: prune.rounds(1.5, 2), "sparsity must lie in 0..1"),
    "a schedule of no steps": (lambda: prune.cubic(0, 0, 0.5), "steps must be 1"),
    "cuts that never come": (lambda: prune.PruneGradually(0.5, every=0), "every be 1 or more"),
    "no layers": (lambda: prune.select({}, 0.5), "at least one layer"),
    "no rounds": (
        lambda: prune.prune_and_tune(models.MLP(SHAPE, 5), some(), [], 1, scores.magnitude),
        "at least one round",
    ),
    "NaN in two of four": (
        lambda: prune.select_n_of_m({"a": torch.full((2, 4), torch.nan)}),
        "must not contain NaN",
    ),
    "no batches": (
        lambda: scores.taylor(models.MLP(SHAPE, 5), some(), batches=0),
        "batches and data",
    ),
    "lengths of no prefix code": (lambda: entropy.canonical_codes(np.ones(3, int)), "prefix code"),
    "more values than a byte names": (
        lambda: codebook.nearest(np.ones(2), np.arange(300.0)),
        "centroids must be 1 to 256",
    ),
    "an infinite weight in 4 bits": (
        lambda: weight_only.round_to_nearest(
            torch.tensor([[1.0, torch.inf, 2.0, -1.0]]), weight_only.WeightConfig(4, None)
        ),
        "weight must be finite",
    ),
    "layers that nobody counts": (
        lambda: layer_macs(nn.Bilinear(3, 4, 2), torch.ones(1, 2)),
        "must be of a kind that is counted",
    ),
    "bytes of a simulation": (
        lambda: disk_bytes(quantize_post_training(models.MLP(SHAPE, 5), QuantConfig(), some().x)),
        "converted to integers",
    ),
    "groups of nothing": (lambda: QuantConfig(sharing="group", group=0), "group must be"),
    "a scale both learned and fresh": (
        lambda: QuantConfig(dynamic=True, learned=True),
        "dynamic and learned exclude each other",
    ),
    "epochs that are no number": (
        lambda: fit(models.MLP(SHAPE, 5), some(), epochs=float("nan")),
        "epochs",
    ),
    "a latency of no images": (lambda: latency(models.MLP(SHAPE, 5), SHAPE, 0), "batch must be"),
    "one repeat": (lambda: time_call(lambda: None, repeats=1), "repeats must be 2 or more"),
    "biases corrected on nothing": (
        lambda: correct_bias(models.MLP(SHAPE, 5), models.MLP(SHAPE, 5), some().x[:0]),
        "images must hold at least one",
    ),
}


class _NotANumber(nn.Module):
    def forward(self, x):
        return x * torch.nan


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_the_reason(case):
    call, told = REFUSED[case]
    with pytest.raises(ValueError, match=told):
        call()


@pytest.mark.parametrize("kind", ["simulated", "shared"])
def test_layers_that_compute_with_an_inner_layers_numbers_are_counted(kind):
    network = models.VGGLike(SHAPE, 10).eval()
    plain = sum(c.macs for c in count_layers(network, SHAPE))
    if kind == "shared":
        made = sharing.share_weights(network, 15)
        bits = 32
    else:
        made = quantize_post_training(
            network, QuantConfig(weight_bits=4, activation_bits=4), some().x
        )
        bits = 4
    counts = count_layers(made, SHAPE)
    assert sum(c.macs for c in counts) == plain
    assert {c.weight_bits for c in counts if c.macs} == {bits}


def test_the_working_memory_of_a_network_for_tokens_is_counted_from_an_example():
    network = models.Encoder(20, 3, 8, width=16, layers=1)
    assert working_bytes(network, torch.ones(8, dtype=torch.int64)) >= 4 * 8 * 16


def test_a_file_of_lora_that_is_broken_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"nothing")
    network = lora.add_lora(models.MLP(SHAPE, 5), 2)
    with pytest.raises(FileError, match="is no file of LoRA layers"):
        lora.load_(path, network)


def test_a_tied_tensor_is_held_and_counted_once():
    network = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    network[1].weight = network[0].weight
    assert memory_bytes(network) == 4 * 64
    assert sum(c.parameters for c in count_layers(network, (8,))) == 64


def test_the_spacing_around_zero_is_that_of_subnormal_numbers():
    for form in formats.FORMATS.values():
        least = torch.finfo(form.dtype).smallest_normal * torch.finfo(form.dtype).eps
        assert float(formats.spacing(torch.zeros(1), form)) == least


def test_a_dynamic_layer_that_is_loaded_into_computes_with_what_was_loaded():
    torch.manual_seed(0)
    one, other = nn.Linear(40, 9), nn.Linear(40, 9)
    x, source = torch.randn(3, 40), DynamicInt8Linear(one)
    target = copy.deepcopy(DynamicInt8Linear(other))
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target(x), source(x), rtol=0, atol=0)


def test_integer_and_sparse_networks_are_not_read_from_half_of_what_they_are():
    network = models.MLP(SHAPE, 5).eval()
    program = convert(quantize_post_training(network, QuantConfig(), some().x))
    with pytest.raises(RuntimeError, match=r"use runtime\.files\.load"):
        program.load_state_dict(program.state_dict())
    thin = prune.select(scores.magnitude(network), 0.5).apply(network)
    thin = sparse_runtime.with_sparse_layers(thin)
    assert memory_bytes(thin) > 4 * 30_000
    with pytest.raises(RuntimeError, match="then with_sparse_layers"):
        thin.load_state_dict(thin.state_dict())


def test_a_rest_that_pooling_keeps_is_kept_by_the_converter():
    network = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, ceil_mode=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    simulated = quantize_post_training(network, QuantConfig(), some().x)
    assert torch.allclose(convert(simulated)(some().x), simulated(some().x), atol=0.02)


class _Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.one, self.two, self.relu = nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.ReLU()

    def forward(self, x):
        return self.a(self.relu(self.b(self.relu(self.two(self.a(self.one(self.a(x))))))))


@pytest.mark.parametrize("change", [fold_batch_norms, equalize])
def test_a_layer_that_runs_twice_keeps_the_function(change):
    torch.manual_seed(0)
    network = _Twice().eval()
    for norm in (network.one, network.two):
        norm.running_var.fill_(0.3)
        norm.running_mean.fill_(0.5)
        norm.weight.data.fill_(2.0)
    with torch.no_grad():
        network.a.weight[0] *= 20
    x = torch.randn(2, 2, 6, 6)
    torch.testing.assert_close(change(network)(x), network(x), rtol=1e-3, atol=1e-3)


def test_a_scan_that_fails_leaves_the_network_as_it_was():
    network = models.MLP(SHAPE, 5)
    before = copy.deepcopy(network.state_dict())

    def broken(_model):
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        mixed.sensitivity(network, broken)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_scales_of_groups_are_paid_for():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(256, 64))
    scan = mixed.sensitivity(network, lambda _m: 0.0, (4,), QuantConfig(sharing="group", group=16))
    assert scan[0].size == 256 * 64 // 2 + 4 * 64 * 16


@pytest.mark.parametrize("form", ["sparse", "deep_compression", "weight_only"])
def test_the_order_of_earlier_versions_is_told(form, tmp_path):
    read = importlib.import_module(f"compresslab.runtime.{form}").load
    with pytest.raises(ValueError, match="path must be a path or a string, got MLP"):
        read(models.MLP(SHAPE, 5), tmp_path / "a.safetensors")
