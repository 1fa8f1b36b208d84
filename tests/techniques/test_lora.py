"""LoRA: nothing changes at first, merged is unmerged, only A and B learn, a file holds one task."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compresslab import models
from compresslab.data import load
from compresslab.techniques import lora
from compresslab.training import fit
from compresslab.writing import FileError

X = torch.rand(5, 1, 8, 8)


def network():
    torch.manual_seed(0)
    return models.MLP((1, 8, 8), 10, (30, 20))


def perturbed(model):
    for layer in lora.corrections(model).values():
        nn.init.normal_(layer.up.weight, std=0.3)
    return model


@pytest.mark.parametrize("build", [models.MLP, models.VGGLike, models.ResNet8])
def test_at_first_nothing_changes(build):
    torch.manual_seed(0)
    model = build((1, 8, 8), 10).eval()
    assert torch.equal(lora.add_lora(model, 2)(X), model(X))


@pytest.mark.parametrize("build", [models.MLP, models.VGGLike, models.ResNet8])
def test_merged_computes_the_same_and_unmerged_is_the_base_again(build):
    torch.manual_seed(0)
    model = build((1, 8, 8), 10).eval()
    adapted = perturbed(lora.add_lora(model, 2, alpha=6))
    before = adapted(X)
    assert not torch.allclose(before, model(X), atol=1e-3)
    assert torch.allclose(lora.merge(adapted)(X), before, atol=1e-4)
    lora.unmerge(adapted)
    assert torch.equal(adapted(X), before) or torch.allclose(adapted(X), before, atol=1e-5)
    for name, layer in lora.corrections(adapted).items():
        assert torch.allclose(layer.base.weight, model.get_submodule(name).weight, atol=1e-6)


def test_the_formula():
    layer = nn.Linear(6, 4)
    adapted = lora.LoRA(layer, 2, alpha=8)
    nn.init.normal_(adapted.up.weight)
    x = torch.rand(3, 6)
    a, b = adapted.down.weight, adapted.up.weight
    expected = x @ (layer.weight + 8 / 2 * b @ a).T + layer.bias
    assert torch.allclose(adapted(x), expected, atol=1e-5)


def test_only_the_corrections_learn():
    data = load("digits")
    model = network()
    adapted = lora.add_lora(model, 2)
    before = copy.deepcopy(adapted.state_dict())
    fit(adapted, data.train.first(300), 2, 0.1, progress=False)
    for name, value in adapted.state_dict().items():
        assert torch.equal(value, before[name]) != (".up." in name or ".down." in name), name
    share = lora.trained_share(adapted)
    added = 2 * (64 + 30 + 30 + 20 + 20 + 10)
    assert share == pytest.approx(added / sum(p.numel() for p in model.parameters()))


def test_gpt2s_transposed_layer_is_understood():
    class Conv1D(nn.Module):
        def __init__(self, outputs, inputs):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(inputs, outputs))

        def forward(self, x):
            return x @ self.weight

    Conv1D.__module__ = "transformers.pytorch_utils"
    layer = Conv1D(4, 6)
    adapted = lora.LoRA(layer, 2)
    nn.init.normal_(adapted.up.weight)
    x = torch.rand(3, 6)
    before = adapted(x)
    adapted.merge()
    assert torch.allclose(adapted(x), before, atol=1e-5)


def test_a_base_without_float_weights_adapts_but_does_not_merge():
    class Packed(nn.Module):
        in_features, out_features = 6, 4

        def forward(self, x):
            return x[..., :4]

    adapted = lora.LoRA(Packed(), 1)
    assert torch.equal(adapted(torch.ones(2, 6)), torch.ones(2, 4))
    with pytest.raises(ValueError, match="must have a float weight"):
        adapted.merge()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
def test_every_kind_of_padding_merges(mode):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode=mode))
    adapted = perturbed(lora.add_lora(model, 2))
    x = torch.rand(2, 2, 6, 6)
    before = adapted(x)
    assert torch.allclose(lora.merge(adapted)(x), before, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_correction_has_the_bases_dtype(dtype):
    adapted = lora.add_lora(nn.Linear(6, 4).to(dtype), 2)
    assert adapted(torch.rand(3, 6, dtype=dtype)).dtype == dtype


def test_a_model_that_is_a_single_layer_is_adapted():
    adapted = lora.add_lora(nn.Linear(6, 4), 2)
    assert isinstance(adapted, lora.LoRA)
    assert adapted.train().down.training


def test_a_saved_network_knows_that_it_is_merged():
    one = lora.merge(perturbed(lora.add_lora(network(), 2)))
    other = lora.add_lora(network(), 2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(X), one(X))
    with pytest.raises(ValueError, match="only while the layer is unmerged"):
        next(iter(lora.corrections(one).values())).alpha = 2


def test_shared_weights_and_a_second_lora_are_refused():
    shared = nn.Linear(5, 5)
    with pytest.raises(ValueError, match=r"shared ones: \['0', '1'\]"):
        lora.add_lora(nn.Sequential(shared, shared), 1)
    with pytest.raises(ValueError, match="no LoRA layers yet"):
        lora.add_lora(lora.add_lora(network(), 1), 1)


def test_names_and_predicates_choose_layers():
    assert list(lora.corrections(lora.add_lora(network(), 2, layers=["3"]))) == ["3"]
    assert list(lora.corrections(lora.add_lora(network(), 2, layers="3"))) == ["3"]
    chosen = lora.add_lora(network(), 2, layers=lambda n, m: isinstance(m, nn.Linear) and n != "5")
    assert list(lora.corrections(chosen)) == ["1", "3"]


def test_a_file_holds_one_task(tmp_path):
    model = network()
    one = perturbed(lora.add_lora(model, 2, alpha=3))
    path = tmp_path / "task.safetensors"
    size = lora.save(one, path)
    assert size == path.stat().st_size < 4 * sum(p.numel() for p in model.parameters())
    other = lora.load_(path, lora.add_lora(model, 2))
    assert torch.equal(other(X), one(X)), "alpha travels with the file"
    with pytest.raises(ValueError, match=r"must have shape \[3, 64\], got \[2, 64\]"):
        lora.load_(path, lora.add_lora(model, 3))
    with pytest.raises(ValueError, match=r"these differ: 5\.down, 5\.up"):
        lora.load_(path, lora.add_lora(model, 2, layers=["1", "3"]))
    with pytest.raises(ValueError, match="unmerged first"):
        lora.load_(path, lora.merge(other))
    with pytest.raises(ValueError, match="must have LoRA layers"):
        lora.save(model, path)


@pytest.mark.parametrize(
    "call,text",
    [
        (lambda: lora.LoRA(nn.Linear(4, 3), 0), "rank must be 1 to 3"),
        (lambda: lora.LoRA(nn.Linear(4, 3), 4), "rank must be 1 to 3"),
        (lambda: lora.LoRA(nn.ReLU(), 1), "got ReLU"),
        (lambda: lora.add_lora(network(), 1, layers=["9"]), r"got \['9'\]"),
        (lambda: lora.add_lora(network(), 1, layers=[]), "got none"),
        (lambda: lora.unmerge(lora.add_lora(network(), 1)), "not merged"),
        (lambda: lora.merge(lora.merge(lora.add_lora(network(), 1))), "merged already"),
    ],
)
def test_bad_input_is_answered(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize("alpha", ["nan", "inf", "much"])
def test_a_file_whose_strength_is_no_number_is_refused_and_changes_nothing(alpha, tmp_path):
    model = lora.add_lora(nn.Sequential(nn.Linear(6, 4)), 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lora.save(model, tmp_path / "a")
    save_file(load_file(tmp_path / "a"), tmp_path / "a", {"0": alpha})
    with pytest.raises(FileError):
        lora.load_(tmp_path / "a", model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
