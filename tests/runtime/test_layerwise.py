"""Integers simulated layer by layer, deployed: the simulation's codes, and answers as near to the floats."""

import pytest
import torch
from torch import nn

import compresslab as cl
from compresslab.data.text import Sequences
from compresslab.models import BiLSTM, Encoder
from compresslab.runtime.convert import ConversionError, convert
from compresslab.runtime.dynamic import DynamicInt8Linear
from compresslab.runtime.weight_only import WeightOnlyLinear, packed_layers
from compresslab.techniques.ptq import calibrate, prepare_layers
from compresslab.techniques.quantizer import QuantConfig, Quantized
from compresslab.training import fit

WORDS, CLASSES, LENGTH = 40, 5, 12


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Encoder(WORDS, CLASSES, LENGTH, width=32, layers=2).eval()


@pytest.fixture
def tokens():
    return torch.randint(1, WORDS, (8, LENGTH))


def decibels(wanted, got):
    return float(10 * torch.log10(wanted.square().mean() / (wanted - got).square().mean()))


@pytest.mark.parametrize("sharing", ["channel", "tensor", "group"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@torch.no_grad()
def test_packed_codes_are_the_simulations(encoder, tokens, bits, sharing):
    simulated = prepare_layers(encoder, QuantConfig(bits, None, sharing, group=16))
    packed = convert(simulated)
    assert len(packed_layers(packed)) == sum(isinstance(m, Quantized) for m in simulated.modules())
    for name, layer in packed_layers(packed).items():
        quantized = simulated.get_submodule(name)[-1]
        wanted = quantized.weight_quantizer(quantized.layer.weight)
        torch.testing.assert_close(layer.weight, wanted, rtol=1e-3, atol=1e-6)
    assert decibels(simulated(tokens), packed(tokens)) > 45


@torch.no_grad()
def test_eight_bits_run_on_integer_products(encoder, tokens):
    simulated = prepare_layers(encoder, QuantConfig(8, 8, dynamic=True))
    small = convert(simulated)
    layers = {n: m for n, m in small.named_modules() if isinstance(m, DynamicInt8Linear)}
    for name, layer in layers.items():
        quantized = simulated.get_submodule(name)[-1]
        wanted = quantized.weight_quantizer(quantized.layer.weight)
        torch.testing.assert_close(layer.weight, wanted, rtol=1e-5, atol=1e-7)
    assert len(layers) == 9
    wanted = encoder(tokens)
    assert decibels(wanted, small(tokens)) > decibels(wanted, simulated(tokens)) - 1


def test_what_was_trained_through_its_quantizers_is_saved_and_read(encoder, tokens, tmp_path):
    simulated = prepare_layers(encoder, QuantConfig(4, 8, dynamic=True))
    data = Sequences(tokens, torch.arange(8) % CLASSES)
    fit(simulated, data, 3, 0.01, 4, progress=False)
    small = convert(simulated)
    assert any(isinstance(m, WeightOnlyLinear) for m in small.modules())
    assert (
        cl.save(small, tmp_path / "e.safetensors")
        < cl.measure(encoder, tokens[0], batches=()).bytes_disk / 2
    )
    again = cl.load(
        tmp_path / "e.safetensors", like=Encoder(WORDS, CLASSES, LENGTH, width=32, layers=2)
    )
    with torch.no_grad():
        assert torch.equal(small(tokens), again(tokens))
        assert decibels(simulated(tokens), small(tokens)) > 15


@torch.no_grad()
def test_recurrent_networks_as_well(tokens):
    network = BiLSTM(WORDS, CLASSES, 16, 24).eval()
    small = convert(prepare_layers(network, QuantConfig(8, 8, dynamic=True)))
    assert decibels(network(tokens), small(tokens)) > 25


def test_calibrated_ranges_are_left_for_finer_ones(encoder, tokens):
    simulated = calibrate(prepare_layers(encoder, QuantConfig(8, 8)), tokens)
    with torch.no_grad():
        wanted = encoder(tokens)
        assert (
            decibels(wanted, convert(simulated)(tokens)) > decibels(wanted, simulated(tokens)) - 1
        )


def test_few_bits_for_inputs_are_refused_with_the_way_out(encoder):
    simulated = prepare_layers(encoder, QuantConfig(4, 4, dynamic=True))
    with pytest.raises(
        ConversionError, match=r"inputs of layers.0.attention.qkv have 4 bits.*activation_bits=8"
    ):
        convert(simulated)


def test_a_layer_of_another_kind_is_named():
    quantized = Quantized(nn.Conv2d(1, 2, 3), 8, QuantConfig())
    with pytest.raises(
        ConversionError, match="0 must be linear to be converted by itself, got Conv2d"
    ):
        convert(nn.Sequential(nn.Sequential(quantized)))


@torch.no_grad()
def test_one_scale_for_all_keeps_its_codes():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 4)).eval()
    network[0].weight.mul_(torch.logspace(-3, 0, 16)[:, None])
    simulated = calibrate(
        prepare_layers(network, QuantConfig(sharing="tensor")), torch.randn(20, 32)
    )
    quantized = simulated[0][-1]
    wanted = quantized.weight_quantizer(quantized.layer.weight)
    torch.testing.assert_close(convert(simulated)[0].weight, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_scales_beyond_float16_are_refused_by_the_layers_name(size):
    layer = nn.Sequential(nn.Linear(32, 4))
    with torch.no_grad():
        layer[0].weight.mul_(size)
    with pytest.raises(ConversionError, match="the scales of 0 must be numbers of float16"):
        convert(prepare_layers(layer, QuantConfig(4, None)))
