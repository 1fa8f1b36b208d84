"""Layers of 4-bit floats: the simulation's numbers on the kernel, in files, by the front door."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import compresslab as cl
from compresslab.numerics import microscaling as ms
from compresslab.runtime import weight_only as files
from compresslab.runtime.convert import convert
from compresslab.runtime.export_weights import ConversionError, export_weights
from compresslab.runtime.microscaled import MicroscaledLinear
from compresslab.techniques import weight_only
from compresslab.writing import FileError

FORMS = pytest.mark.parametrize("form", ms.FORMATS.values(), ids=ms.FORMATS)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 32), nn.Linear(32, 5, False)
    ).eval()


X = torch.randn(9, 64, generator=torch.Generator().manual_seed(1))


@FORMS
def test_the_kernel_computes_what_the_simulation_does(form):
    codes = weight_only.quantize_blocks(network(), form)
    assert list(codes.layers) == ["0", "3"]  # 50 inputs are no blocks: that layer stays in floats
    assert codes.bits == form.bits
    running = convert(codes)
    assert type(running[0]) is MicroscaledLinear
    assert type(running[2]) is nn.Linear
    assert torch.allclose(running(X), codes.model(X), atol=1e-4)
    assert torch.allclose(running(X[:1]), codes.model(X[:1]), atol=1e-4)
    assert torch.equal(running[0].weight, codes.layers["0"].dequantize())


@FORMS
def test_a_file_brings_back_the_same_bits(form, tmp_path):
    running = convert(weight_only.quantize_blocks(network(), form))
    path = tmp_path / "small.safetensors"
    written = cl.save(running, path)
    assert written == path.stat().st_size
    with torch.no_grad():
        again = cl.load(path, network())
        assert torch.equal(again(X), running(X))
        assert torch.equal(cl.load(path, again)(X), running(X))
    tensors = load_file(path)
    assert tensors["0/codes"].numel() == 64 * 50 // 2
    assert tensors["0/scale"].dtype == torch.uint8
    assert tensors["0/scale"].shape == (50, 64 // form.block)
    assert ("0/tensor" in tensors) == (not form.powers)


@FORMS
def test_it_is_measured_like_any_other(form):
    running = convert(weight_only.quantize_blocks(network(), form))
    found = cl.measure(running, (64,), batches=(1,))
    weights = 64 * 50 + 50 + 50 * 32 + 32 + 32 * 5
    assert found.parameters == weights
    assert found.macs == 64 * 50 + 50 * 32 + 32 * 5
    assert found.nonzeros < weights  # small weights became 0
    assert running[0].weight_bits == 4


@FORMS
def test_no_gradient_goes_through_in_silence(form):
    running = convert(weight_only.quantize_blocks(network(), form))
    x = X.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="4-bit floats"):
        running(x).sum().backward()


@FORMS
def test_zeros_and_tiny_blocks_survive_the_file(form, tmp_path):
    layer = nn.Linear(64, 4, bias=False)
    with torch.no_grad():
        layer.weight[0] = 0
        layer.weight[1] *= 1e-6
        layer.weight[2, :32] = 0
    running = convert(weight_only.quantize_blocks(nn.Sequential(layer), form))
    path = tmp_path / "zeros.safetensors"
    cl.save(running, path)
    again = cl.load(path, nn.Sequential(nn.Linear(64, 4, bias=False)))
    assert torch.equal(again[0].weight, running[0].weight)


def test_other_inputs_are_named():
    layer = convert(weight_only.quantize_blocks(network(), ms.MXFP4))[0]
    for x in (torch.zeros(2, 63), torch.zeros(2, 64, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"x must be float32 \[..., 64\]"):
            layer(x)


def test_formats_and_models_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="MXFP4 or NVFP4"):
        weight_only.quantize_blocks(network(), "mxfp4")
    with pytest.raises(ValueError, match="multiple of 32"):
        weight_only.quantize_blocks(nn.Sequential(nn.Linear(50, 2)), ms.MXFP4)


def test_onnx_has_no_such_layer_and_says_so(tmp_path):
    running = convert(weight_only.quantize_blocks(network(), ms.MXFP4))
    with pytest.raises(ConversionError, match="4-bit floats"):
        export_weights(running, X[:1], tmp_path / "no.onnx")
    assert not list(tmp_path.iterdir())


@FORMS
def test_a_broken_file_is_named_and_the_network_stays(form, tmp_path):
    path = tmp_path / "small.safetensors"
    files.save(convert(weight_only.quantize_blocks(network(), form)), path)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = file.metadata()
    other = {"mxfp4": "nvfp4", "nvfp4": "mxfp4"}[form.name]
    broken = {
        "another format": (tensors, {**about, "layers": about["layers"].replace(form.name, other)}),
        "no format": (tensors, {**about, "layers": about["layers"].replace(form.name, "fp5")}),
        "a list": (tensors, {**about, "layers": about["layers"].replace(f'"{form.name}"', "[]")}),
        "short codes": ({**tensors, "0/codes": tensors["0/codes"][:-1]}, about),
        "floats": ({**tensors, "0/scale": tensors["0/scale"].float()}, about),
        "NaN": ({**tensors, "0/scale": torch.full_like(tensors["0/scale"], 255)}, about),
        "missing": ({k: v for k, v in tensors.items() if k != "0/scale"}, about),
    }
    if not form.powers:
        broken["a scale of 0"] = ({**tensors, "0/tensor": torch.zeros(())}, about)
        broken["infinite"] = ({**tensors, "0/tensor": torch.tensor(np.inf)}, about)
    like = network()
    before = like(X)
    for parts, metadata in broken.values():
        save_file({name: t.contiguous() for name, t in parts.items()}, path, metadata)
        with pytest.raises(FileError, match="no whole file of this model"):
            files.load(path, like)
    assert torch.equal(like(X), before)


def test_the_tensors_scale_stands_once_in_the_file(tmp_path):
    for form in ms.FORMATS.values():
        path = tmp_path / form.name
        files.save(convert(weight_only.quantize_blocks(network(), form)), path)
        assert "0.tensor" not in load_file(path)


def test_a_parameter_is_taken_like_its_numbers():
    layer = network()[0]
    for form in ms.FORMATS.values():
        blocks = ms.quantize(layer.weight, form)
        assert not blocks.scales.requires_grad
        assert MicroscaledLinear(blocks, layer.bias)(X).shape == (9, 50)
