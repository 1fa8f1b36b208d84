"""Packed layers inside float models, their gradients, their files, and files that lie."""

import copy
import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from compresslab.gpt import GPT, generate
from compresslab.measure import disk_bytes
from compresslab.runtime import ops, weight_only
from compresslab.techniques import lora
from compresslab.techniques import weight_only as technique
from compresslab.techniques.weight_only import WeightConfig, round_to_nearest
from compresslab.training import seed_everything
from compresslab.writing import FileError


def small_gpt(seed=0):
    seed_everything(seed)
    return GPT(50, 16, width=32, layers=2, heads=2).eval()


def packed(bits=4, group=16):
    codes = technique.quantize(small_gpt(), WeightConfig(bits, group))
    return codes, weight_only.convert_weights(codes)


def tokens(n=8):
    return torch.randint(0, 50, (n, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("rows", [1, 8])
def test_packed_layers_compute_what_their_codes_mean(bits, rows):
    codes, model = packed(bits)
    x = tokens(rows)
    assert len(weight_only.packed_layers(model)) == 8
    assert torch.allclose(model(x), codes.model(x), atol=1e-4)
    assert torch.equal(generate(model, x[0, :4], 6), generate(codes.model, x[0, :4], 6))


def test_few_and_many_rows_go_different_ways_to_the_same_numbers():
    layer = weight_only.packed_layers(packed()[1])["layers.0.attention.qkv"]
    x = torch.randn(ops.MANY_ROWS, 32)
    assert torch.allclose(layer(x), torch.cat([layer(part) for part in x.split(7)]), atol=1e-4)
    assert layer(x[:0]).shape == (0, 96)
    assert layer(x.view(2, -1, 32)).shape == (2, ops.MANY_ROWS // 2, 96)


def test_gradients_reach_the_inputs():
    codes, model = packed()
    name = "layers.0.feedforward.0"
    ours, theirs = model.get_submodule(name), codes.model.get_submodule(name)
    a = torch.randn(3, 5, 32, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    (ours(a) ** 2).sum().backward()
    (theirs(b) ** 2).sum().backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-3, rtol=1e-4)


def test_the_operator_is_one_of_torchs():
    layer = weight_only.packed_layers(packed()[1])["layers.0.attention.qkv"]
    p = layer.packed
    numbers = (layer.words, layer.scales, layer.bias)
    sizes = (p.outputs, p.inputs, p.bits, p.group)
    for n in (3, ops.MANY_ROWS):
        x = torch.randn(n, 32, requires_grad=True)
        torch.library.opcheck(ops.lowbit_linear, (x, *numbers, *sizes))
    gradient = torch.randn(3, 96)
    torch.library.opcheck(ops.lowbit_gradient, (gradient, *numbers[:2], *sizes))


def test_lora_on_a_packed_base_learns_and_the_base_stays():
    _, model = packed()
    names = list(weight_only.packed_layers(model))
    tuned = lora.add_lora(model, 4, layers=names)
    before = {n: b.clone() for n, b in tuned.named_buffers() if n.endswith("words")}
    assert len(before) == 8
    trained = [p for p in tuned.parameters() if p.requires_grad]
    optimizer, x = torch.optim.Adam(trained, 0.02), tokens()
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(tuned(x).flatten(0, 1), x.roll(-1, 1).flatten())
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.2
    buffers = dict(tuned.named_buffers())
    assert all(torch.equal(buffers[n], b) for n, b in before.items())
    with pytest.raises(ValueError, match="float weight to be merged into"):
        lora.merge(tuned)


# ---- files ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_a_file_gives_the_same_model_and_takes_its_bits(tmp_path, bits):
    _, model = packed(bits)
    path = tmp_path / "model.safetensors"
    size = weight_only.save(model, path)
    assert size == path.stat().st_size == disk_bytes(model)
    again = weight_only.load(path, small_gpt(seed=7))
    assert torch.equal(again(tokens()), model(tokens()))
    weights = 2 * 12 * 32 * 32
    floats = 4 * (sum(p.numel() for p in small_gpt().parameters()) - weights)
    payload = weights * bits / 8 + weights / 16 * (16 + bits) / 8 + floats
    with open(path, "rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    assert size - header == payload


def test_tied_tensors_lie_in_a_file_once(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    made = weight_only.convert_weights(technique.quantize(model, WeightConfig(4)))
    weight_only.save(made, tmp_path / "m.safetensors")
    fresh = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    fresh[2].weight = fresh[0].weight
    again = weight_only.load(tmp_path / "m.safetensors", fresh)
    assert again[2].weight is again[0].weight
    x = torch.randn(3, 8)
    assert torch.equal(again(x), made(x))


def test_a_float_model_is_not_saved_as_a_packed_one(tmp_path):
    with pytest.raises(ValueError, match="must have packed layers, got none"):
        weight_only.save(small_gpt(), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="no file"):
        weight_only.load(tmp_path / "m.safetensors", small_gpt())


NAME = "layers.0.attention.qkv"


def drop(about, tensors):
    tensors.pop(f"{NAME}/zero")


def shorten(about, tensors):
    tensors[f"{NAME}/codes"] = tensors[f"{NAME}/codes"][:-1].clone()


def nan_scale(about, tensors):
    tensors[f"{NAME}/scale"][0, 0] = float("nan")


def float_scale(about, tensors):
    tensors[f"{NAME}/scale"] = tensors[f"{NAME}/scale"].float()


def huge(about, tensors):
    about[NAME]["shape"] = [2**31, 2**31]


def other_bits(about, tensors):
    about[NAME]["bits"] = 3


def no_bits(about, tensors):
    about[NAME]["bits"] = "4"


def other_group(about, tensors):
    about[NAME]["group"] = 5


def unknown_layer(about, tensors):
    about["layers.9"] = about.pop(NAME)


def more(about, tensors):
    tensors["extra"] = torch.zeros(3)


def other_shape(about, tensors):
    tensors["norm.weight"] = torch.zeros(31)


def other_dtype(about, tensors):
    tensors["norm.weight"] = torch.zeros(32, dtype=torch.float64)


LIES = [
    *(drop, shorten, nan_scale, float_scale, huge, other_bits, no_bits, other_group),
    *(unknown_layer, more, other_shape, other_dtype),
]


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused_and_changes_nothing(tmp_path, lie):
    path = tmp_path / "model.safetensors"
    weight_only.save(packed()[1], path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about = json.loads(metadata["layers"])
    lie(about, tensors)
    save_file(tensors, path, {**metadata, "layers": json.dumps(about)})
    model = small_gpt()
    before = model(tokens())
    with pytest.raises(FileError, match="is no whole file of this model"):
        weight_only.load(path, model)
    assert torch.equal(model(tokens()), before)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    weight_only.save(packed()[1], path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileError):
        weight_only.load(path, small_gpt())


def test_another_format_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"format": "pt"})
    with pytest.raises(FileError, match=r"expected format 'compresslab\.weights'"):
        weight_only.load(path, small_gpt())


def test_other_dtypes_and_widths_are_refused():
    layer = weight_only.packed_layers(packed()[1])[NAME]
    with pytest.raises(ValueError, match=r"x must be float32 \[\.\.\., 32\], got torch.float64"):
        layer(torch.zeros(1, 32, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"got torch.float32 \[1, 31\]"):
        layer(torch.zeros(1, 31))


# ---- what a cold reading found -------------------------------------------------------------------
def test_a_copy_computes_with_what_was_loaded_into_it():
    mine = copy.deepcopy(packed()[1])
    seed_everything(9)
    other = weight_only.convert_weights(technique.quantize(small_gpt(9), WeightConfig(4, 16)))
    mine.load_state_dict(other.state_dict())
    assert torch.equal(mine(tokens()), other(tokens()))


def test_a_shared_layer_lies_in_a_file_once(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    made = weight_only.convert_weights(technique.quantize(Twice(), WeightConfig(4)))
    assert made.a is made.b
    weight_only.save(made, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["a.bias", "a/codes", "a/scale", "a/zero"]
    again = weight_only.load(tmp_path / "m.safetensors", Twice())
    assert torch.equal(again(torch.ones(1, 8)), made(torch.ones(1, 8)))


def test_a_header_that_nests_too_deeply_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    metadata = {"format": weight_only.FORMAT, "version": weight_only.VERSION}
    save_file({"a": torch.zeros(1)}, path, {**metadata, "layers": "[" * 200_000})
    with pytest.raises(FileError):
        weight_only.load(path, small_gpt())


def test_a_model_without_memory_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    weight_only.save(packed()[1], path)
    with torch.device("meta"):
        hollow = GPT(50, 16, width=32, layers=2, heads=2)
    with pytest.raises(FileError, match="build the model on the CPU"):
        weight_only.load(path, hollow)


def test_a_layer_whose_weight_is_read_by_name_is_refused():
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    with pytest.raises(ValueError, match=r"linear1 is read by nn\.TransformerEncoderLayer"):
        weight_only.convert_weights(technique.quantize(model, WeightConfig(4)))


def test_scales_that_the_file_cannot_hold_are_refused():
    codes = round_to_nearest(torch.randn(4, 8), WeightConfig(4))
    params = dataclasses.replace(codes.qparams, scale=codes.qparams.scale * 1e6)
    layer = weight_only.WeightOnlyLinear(dataclasses.replace(codes, qparams=params))
    with pytest.raises(ValueError, match="scales must be float16 numbers"):
        layer.file_tensors()
