"""Networks on bits give the logits of the networks that simulate them, and so do their files."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from compresslab import models
from compresslab.data import load
from compresslab.measure import count_layers, disk_bytes
from compresslab.runtime import ops, storage
from compresslab.runtime.bits import (
    convert_xnor,
    float_thresholds,
    integer_thresholds,
    with_xnor_layers,
)
from compresslab.runtime.convert import ConversionError
from compresslab.runtime.steps import binary as xnor
from compresslab.techniques import binarize as b
from compresslab.training import fit, logits, seed_everything


def trained(model, data, epochs=1):
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    fit(model, data.train, epochs, 0.02, optimizer=optimizer, progress=False)
    with torch.no_grad():
        for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]:
            # Gains of every kind: a norm may turn a channel round, or off.
            norm.weight[0] = -norm.weight[0]
            norm.weight[-1] = 0
    return model


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def network(digits):
    seed_everything(0)
    return trained(b.XnorNet(digits.shape, 10, (24, 40, 70)), digits)


def mlp(config=b.XNOR):
    layers = [nn.Flatten(), nn.Linear(64, 50), nn.BatchNorm1d(50)]
    layers += [b.BinaryLinear(50, 90, config=config), nn.BatchNorm1d(90)]
    layers += [b.BinaryLinear(90, 33, config=config), nn.BatchNorm1d(33), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(33, 10))


def test_the_program_gives_the_simulations_logits_on_the_whole_test_set(network, digits):
    program = convert_xnor(network)
    want, got = logits(network, digits.test.x), logits(program, digits.test.x)
    assert torch.allclose(got, want, atol=1e-4)
    assert torch.equal(got.argmax(1), want.argmax(1))
    kinds = [layer.kind for layer in program.layers]
    assert kinds[:4] == ["float_conv2d", "take_signs", "xnor_conv2d_signs", "xnor_conv2d"]
    assert torch.allclose(logits(with_xnor_layers(network), digits.test.x), want, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [b.XNOR, b.BinaryConfig(positions=True), b.BinaryConfig(alpha=False)],
    ids=["alpha", "alpha and K", "neither"],
)
def test_every_configuration_and_linear_layers_too(config, digits):
    seed_everything(1)
    for model in (trained(mlp(config), digits), b.XnorNet(digits.shape, 10, (5, 9, 65), config)):
        want = logits(model, digits.test.x)
        for twin in (convert_xnor(model), with_xnor_layers(model)):
            assert torch.allclose(logits(twin, digits.test.x), want, atol=1e-4)


def test_a_network_with_binary_edges_runs_on_bits_as_well(digits):
    seed_everything(2)
    model = trained(b.XnorNet(digits.shape, 10, (8, 8, 8), binary_edges=True), digits)
    got = logits(convert_xnor(model), digits.test.x)
    assert torch.allclose(got, logits(model, digits.test.x), atol=1e-4)


def test_a_residual_network_runs_layer_by_layer_and_is_refused_as_a_chain(digits):
    seed_everything(3)
    model = b.binarize(models.ResNet8(digits.shape, 10), b.XNOR)
    twin = with_xnor_layers(model)
    assert sum(isinstance(m, xnor.XnorConv2d) for m in twin.modules()) == 8
    assert torch.allclose(logits(twin, digits.test.x), logits(model, digits.test.x), atol=1e-4)
    with pytest.raises(ConversionError, match="with_xnor_layers takes any network"):
        convert_xnor(model)


@pytest.mark.parametrize(
    "layer,words",
    [
        (b.BinaryLinear(4, 4, config=b.BINARY_CONNECT), "activations=False"),
        (b.BinaryLinear(4, 4, config=b.BinaryConfig(ternary=True)), "ternary=True"),
        (b.BinaryConv2d(4, 4, 3, stride=(1, 2)), "one number each"),
        (nn.Conv2d(4, 4, 3, groups=2), "Conv2d.*no counterpart"),
        (nn.MaxPool2d(3, 1), "without overlap"),
        (nn.Tanh(), "Tanh.*no counterpart"),
    ],
)
def test_what_has_no_counterpart_is_named(layer, words):
    with pytest.raises(ConversionError, match=words):
        convert_xnor(nn.Sequential(layer))


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_batch_norm_and_sign_are_one_integer_comparison(inputs, seed):
    generator = torch.Generator().manual_seed(seed)
    gain, shift, mean = torch.randn(3, 20, generator=generator)
    gain[0] = 0

    def after(dot):
        return gain * (dot - 5 * mean) + shift

    at_least, flip = integer_thresholds(after, inputs, 20)
    dot = torch.arange(-inputs, inputs + 1, dtype=torch.float32)[:, None].expand(-1, 20)
    assert np.array_equal((dot.numpy() >= at_least) ^ flip, (after(dot) >= 0).numpy())


@given(st.integers(0, 2**32 - 1))
def test_a_float_threshold_is_exact_on_both_sides(seed):
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(9).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(9, generator=generator))
        norm.bias.copy_(torch.randn(9, generator=generator))
        norm.running_mean.copy_(torch.randn(9, generator=generator))
    at_least, flip = float_thresholds(norm, 9)
    for x in (at_least, np.nextafter(at_least, np.float32(-np.inf)), np.zeros(9, np.float32)):
        want = norm(torch.from_numpy(x)[None, :, None, None])[0, :, 0, 0] >= 0
        assert np.array_equal((x >= at_least) ^ flip, want.numpy())


def test_a_binary_layer_takes_one_bit_a_weight_on_disk(network):
    program, weights = convert_xnor(network), 24 * 40 * 9 + 40 * 70 * 9
    empty = 4 * (24 * 9 + 10 * 70 + 10)
    assert weights / 8 < disk_bytes(program) - empty < weights / 8 + 6_000
    counts = {c.kind: c for c in count_layers(program, (1, 8, 8))}
    assert counts["XnorConv2dSigns"].macs == 24 * 40 * 9 * 16
    assert (counts["XnorConv2d"].weight_bits, counts["XnorConv2d"].activation_bits) == (1, 1)
    assert counts["FloatConv2d"].weight_bits == 32


def test_a_saved_network_is_the_same_network(network, digits, tmp_path):
    program = convert_xnor(network)
    storage.save(program, tmp_path / "net.safetensors")
    again = storage.load(tmp_path / "net.safetensors")
    assert torch.equal(logits(again, digits.test.x), logits(program, digits.test.x))


@pytest.mark.parametrize(
    "kind,key,value,words",
    [
        ("xnor_conv2d", "shape", [70, 3, 3, 41], "does not fit"),
        ("xnor_conv2d", "shape", [71, 3, 3, 40], "does not fit"),
        ("xnor_conv2d", "shape", [70, 360], "expected 4 dimensions"),
        ("xnor_conv2d_signs", "pool", 0, "pool must be 1"),
        ("take_signs", "channels", 2**40, "channels must be"),
        ("take_signs", "channels", 23, "thresholds"),
        ("float_norm", "eps", float("inf"), "eps must be positive"),
    ],
)
def test_a_file_that_lies_is_refused(network, tmp_path, kind, key, value, words):
    path = tmp_path / "net.safetensors"
    storage.save(convert_xnor(network), path)
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    steps = json.loads(metadata["steps"])
    next(step for step in steps if step["kind"] == kind)[key] = value
    save_file(tensors, path, metadata | {"steps": json.dumps(steps)})
    with pytest.raises(storage.FileError, match=words):
        storage.load(path)


def test_float_tensors_of_a_file_must_fit_together(network, tmp_path):
    path = tmp_path / "net.safetensors"
    storage.save(convert_xnor(network), path)
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    name = next(k for k in tensors if k.endswith("running_mean"))
    for wrong in (torch.zeros(3), torch.full_like(tensors[name], torch.nan)):
        save_file(tensors | {name: wrong}, path, metadata)
        with pytest.raises(storage.FileError, match=r"fit together|finite"):
            storage.load(path)


@pytest.mark.parametrize("positions", [False, True])
def test_the_operators_pass_torchs_own_checks(positions):
    torch.manual_seed(0)
    config = b.BinaryConfig(positions=positions)
    conv = xnor.XnorConv2d.of(b.BinaryConv2d(5, 7, 3, padding=1, config=config))
    linear = xnor.XnorLinear.of(b.BinaryLinear(70, 9, config=config))
    x, rows = torch.randn(2, 5, 6, 6), torch.randn(4, 70)
    numbers = (conv.channels, conv.packed.width, positions)
    window = [3, 3, 1, 1]
    arguments = (x, conv.panels, conv.alpha, conv.bias, window, *numbers)
    torch.library.opcheck(ops.xnor_conv2d, arguments)
    assert torch.allclose(ops.xnor_conv2d(*arguments), conv(x))
    arguments = (rows, linear.panels, linear.alpha, linear.bias, linear.packed.width, positions)
    torch.library.opcheck(ops.xnor_linear, arguments)
    assert torch.allclose(ops.xnor_linear(*arguments), linear(rows))
