"""Tables of words on packed codes: rows, ties, files, and what a stage makes of them."""

import json
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

import compresslab as cl
from compresslab.kernels import lowbit
from compresslab.measure.sizes import numbers
from compresslab.network.select import word_tables
from compresslab.runtime import files, weight_only
from compresslab.runtime.dynamic import convert_dynamic, in_form_of
from compresslab.techniques.weight_only import (
    Codes,
    WeightConfig,
    quantize,
    round_to_nearest,
    with_words,
)
from compresslab.writing import FileError


class Language(nn.Module):
    """Words, a layer, and a head that shares the words' weight, or reads it past the module."""

    def __init__(self, words=70, width=32, head="tied"):
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.layer = nn.Linear(width, width)
        if head != "functional":
            self.head = nn.Linear(width, words, bias=head == "tied")
        if head == "tied":
            self.head.weight = self.words.weight

    def forward(self, tokens):
        x = torch.relu(self.layer(self.words(tokens)))
        if hasattr(self, "head"):
            return self.head(x)
        return nn.functional.linear(x, self.words.weight)


def language(head="tied", **sizes):
    torch.manual_seed(0)
    return Language(head=head, **sizes).eval()


TOKENS = torch.tensor([[0, 1, 69, 64], [63, 5, 5, 0]])


@settings(max_examples=40, deadline=None)
@given(
    bits=st.integers(2, 8),
    outputs=st.integers(1, 150),
    groups=st.integers(1, 3),
    group=st.sampled_from([1, 3, 16, 32, 40]),
    count=st.integers(0, 20),
    seed=st.integers(0, 99),
)
def test_rows_are_what_the_codes_mean(bits, outputs, groups, group, count, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, (outputs, groups * group), dtype=np.uint8)
    scale = rng.uniform(0.01, 1, (outputs, groups)).astype(np.float16).astype(np.float32)
    zero = rng.integers(0, 1 << bits, (outputs, groups)).astype(np.float32)
    packed = lowbit.pack_weight(codes, scale, zero, bits, group)
    wanted = (codes.reshape(outputs, groups, group) - zero[..., None]) * scale[..., None]
    some = rng.integers(0, outputs, count)
    np.testing.assert_array_equal(packed.rows(some), wanted.reshape(outputs, -1)[some])
    np.testing.assert_array_equal(packed.unpacked()[0], codes)


@pytest.mark.parametrize("outside", [-1, 70])
def test_a_word_that_is_not_there_is_refused(outside):
    table = weight_only.WeightOnlyEmbedding(
        round_to_nearest(torch.randn(70, 32), WeightConfig(4, 32))
    )
    with pytest.raises(IndexError, match="0 to 69"):
        table(torch.tensor([3, outside]))
    with pytest.raises(ValueError, match=r"integers, got torch\.float32"):
        table(torch.tensor([3.0]))
    assert table(torch.empty(0, 5, dtype=torch.int64)).shape == (0, 5, 32)
    assert torch.equal(table(torch.tensor([3], dtype=torch.int32)), table(torch.tensor([3])))


@pytest.mark.parametrize("head", ["tied", "free", "functional"])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_packed_model_answers_as_its_codes_mean(head, bits):
    model = language(head)
    codes = with_words(quantize(model, WeightConfig(4, 16)), WeightConfig(bits, 16))
    packed = weight_only.convert_weights(codes)
    assert type(packed.words) is weight_only.WeightOnlyEmbedding
    with torch.no_grad():
        torch.testing.assert_close(packed(TOKENS), codes.model(TOKENS), atol=1e-5, rtol=1e-5)
    assert torch.equal(packed.words.weight, codes.model.words.weight)
    assert type(model.words) is nn.Embedding
    assert packed(TOKENS).isfinite().all()


def test_tied_layers_read_one_memory_and_one_place_of_the_file(tmp_path):
    model = language()
    small = cl.compress(model, [cl.Weights(4, group=16)], TOKENS)
    assert small.head.words.data_ptr() == small.words.words.data_ptr()
    assert numbers(small).parameters == sum(p.numel() for p in model.parameters())
    path = tmp_path / "words.safetensors"
    cl.save(small, path)
    again = cl.load(path, like=language())
    assert torch.equal(again(TOKENS), small(TOKENS))
    assert again.head.words.data_ptr() == again.words.words.data_ptr()
    words, layer = 70 * 32, 32 * 32
    stored = words + 70 * 3 + layer // 2 + layer // 16 * 2.5 + 4 * (70 + 32)
    assert stored <= path.stat().st_size <= stored + 1500


class Half(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.head, self.words = nn.Linear(32, 70, bias=False), table
        self.head.weight = table.weight

    def forward(self, tokens):
        return self.head(self.words(tokens))


def test_a_part_whose_table_is_somebody_elses_too_is_saved_whole(tmp_path):
    table = nn.Embedding(70, 32)
    model = nn.Sequential(Half(table), Half(nn.Embedding(70, 32)))
    model[1].words.weight = model[1].head.weight = table.weight
    codes = with_words(Codes(model, {}), WeightConfig(8, 16))
    small = weight_only.convert_weights(codes)
    part = small[1]
    assert numbers(part).parameters == numbers(small).parameters == 70 * 32
    cl.save(part, tmp_path / "part.safetensors")
    again = cl.load(tmp_path / "part.safetensors", like=Half(nn.Embedding(70, 32)))
    assert torch.equal(again(TOKENS), part(TOKENS))
    cl.save(part.head, tmp_path / "head.safetensors")
    head = cl.load(
        tmp_path / "head.safetensors", like=nn.Sequential(nn.Linear(32, 70, bias=False))[0]
    )
    assert torch.equal(head(torch.ones(1, 32)), part.head(torch.ones(1, 32)))


def hooked(layer, before=False):
    if before:
        layer.register_forward_pre_hook(lambda module, given: (3 * given[0],))
    else:
        layer.register_forward_hook(lambda module, given, out: 3 * out)
    return layer


def with_forward(layer):
    layer.forward = types.MethodType(lambda self, x: 3 * type(self).forward(self, x), layer)
    return layer


class Called(nn.Embedding):
    def __call__(self, tokens):
        return 3 * super().__call__(tokens)


class CalledLinear(nn.Linear):
    def __call__(self, x):
        return 3 * super().__call__(x)


class Keeping(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.gain = 3.0


class Conv1D(nn.Module):
    """Of somebody's own, not GPT-2's."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), None

    def forward(self, x):
        return torch.relu(x @ self.weight)


@pytest.mark.parametrize("stage", [cl.Weights(8, group=16), cl.Dynamic()])
@pytest.mark.parametrize(
    "build",
    [
        lambda: (hooked(nn.Embedding(70, 32)), nn.Linear(32, 32)),
        lambda: (with_forward(nn.Embedding(70, 32)), nn.Linear(32, 32)),
        lambda: (Called(70, 32), nn.Linear(32, 32)),
        lambda: (nn.Embedding(70, 32), hooked(nn.Linear(32, 32))),
        lambda: (nn.Embedding(70, 32), hooked(nn.Linear(32, 32), before=True)),
        lambda: (nn.Embedding(70, 32), with_forward(nn.Linear(32, 32))),
        lambda: (nn.Embedding(70, 32), CalledLinear(32, 32)),
        lambda: (nn.Embedding(70, 32), Keeping(32, 32)),
        lambda: (nn.Embedding(70, 32), Conv1D(32, 32)),
    ],
)
def test_a_layer_that_does_more_than_its_kind_stays_as_it_is(build, stage):
    torch.manual_seed(0)
    model = nn.Sequential(*build(), nn.Linear(32, 5)).eval()
    small = cl.compress(model, [stage], TOKENS)
    changed = [type(one) is not type(other) for one, other in zip(model, small, strict=True)]
    assert sum(changed) == 2
    with torch.no_grad():
        wanted = model(TOKENS)
        assert float((small(TOKENS) - wanted).norm() / wanted.norm()) < 0.05
    found = cl.inspect(model, TOKENS).layers
    assert sum(layer.does["packed weights"] == "yes" for layer in found) == 2


def test_weights_of_packed_layers_can_be_read_past_them():
    model = language()
    four = cl.compress(model, [cl.Weights(8, group=16)], TOKENS)
    eight = cl.compress(model, [cl.Dynamic()], TOKENS)
    for layer in (four.layer, four.words, four.head, eight.layer):
        wanted = model.layer.weight if layer in (four.layer, eight.layer) else model.words.weight
        assert layer.weight.shape == wanted.shape
        assert float((layer.weight - wanted).abs().max()) < 0.02 * float(wanted.abs().max())


def test_a_table_alone_is_packed_and_an_answer_that_is_lost_is_said(capsys):
    model = nn.Sequential(nn.Embedding(70, 32), nn.Conv1d(4, 3, 1)).eval()
    small = cl.compress(model, [cl.Weights(8)], TOKENS)
    assert type(small[0]) is weight_only.WeightOnlyEmbedding
    tiny = nn.Sequential(nn.Embedding(70, 32), nn.Linear(32, 9, bias=False)).eval()
    with torch.no_grad():
        tiny[1].weight.mul_(1e-8)
    capsys.readouterr()
    cl.compress(tiny, [cl.Weights(8)], TOKENS)
    assert "dB from those of the network before" in capsys.readouterr().out


def test_buffers_that_share_memory_are_saved(tmp_path):
    model = language()
    model.register_buffer("long", torch.rand(9, 4))
    model.register_buffer("short", model.long[:2])
    small = cl.compress(model, [cl.Weights(4, group=16)], TOKENS)
    cl.save(small, tmp_path / "k.safetensors")
    assert torch.equal(cl.load(tmp_path / "k.safetensors", like=model).short, model.short)


def test_two_tables_and_a_head_can_share_one_weight():
    model = nn.ModuleDict({"a": nn.Embedding(9, 8), "b": nn.Embedding(9, 8), "c": nn.Linear(8, 9)})
    model["b"].weight = model["c"].weight = model["a"].weight
    assert word_tables(model) == {"a": ("b", "c")}
    packed = weight_only.convert_weights(with_words(Codes(model, {}), WeightConfig(8, 8)))
    assert packed["b"].words is packed["a"].words is packed["c"].words
    assert torch.equal(packed["a"](torch.arange(9)), packed["b"].weight)


def test_the_same_table_under_two_names_is_one_module():
    table = nn.Embedding(9, 8)
    model = nn.ModuleDict(
        {"encoder": nn.ModuleDict({"t": table}), "decoder": nn.ModuleDict({"t": table})}
    )
    packed = weight_only.convert_weights(with_words(Codes(model, {}), WeightConfig(8, 8)))
    assert packed["encoder"]["t"] is packed["decoder"]["t"]
    assert type(packed["encoder"]["t"]) is weight_only.WeightOnlyEmbedding


class Scaled(nn.Embedding):
    def forward(self, tokens):
        return 3 * super().forward(tokens)


@pytest.mark.parametrize(
    "table",
    [Scaled(9, 8), nn.Embedding(9, 8, max_norm=1.0), nn.EmbeddingBag(9, 8), nn.Embedding(0, 8)],
)
def test_tables_that_do_more_than_look_up_are_left_in_floats(table):
    assert word_tables(nn.Sequential(table)) == {}
    with pytest.raises(ValueError, match="must have a table of words"):
        with_words(Codes(nn.Sequential(table), {}), WeightConfig(8, 8))


def test_a_weight_that_a_layer_of_another_kind_reads_is_left_alone():
    model = nn.Sequential(nn.Embedding(9, 8), nn.Bilinear(8, 8, 9))
    model[1].register_parameter("other", model[0].weight)
    assert word_tables(model) == {}


def test_dynamic_int8_takes_words_and_a_tied_head_along(tmp_path):
    model = language(words=700, width=64)
    small, floats = (cl.compress(model, [cl.Dynamic(words=words)], TOKENS) for words in (8, None))
    assert type(floats.words) is nn.Embedding
    assert files.size(small) < 0.35 * files.size(floats)
    with torch.no_grad():
        wanted = model(TOKENS)
        for other in (small, floats):
            assert float((other(TOKENS) - wanted).norm() / wanted.norm()) < 0.02
    cl.save(small, tmp_path / "k.safetensors")
    cl.save(floats, tmp_path / "f.safetensors")
    other = language(words=700, width=64)
    with torch.no_grad():  # a network in whose place the file's numbers must come
        for parameter in other.parameters():
            parameter.copy_(torch.randn_like(parameter))
    for like in (other, language(words=700, width=64), small, floats, convert_dynamic(model)):
        again = cl.load(tmp_path / "k.safetensors", like=like)
        assert torch.equal(again(TOKENS), small(TOKENS))
        assert again.head.words is again.words.words
    for like in (language(words=700, width=64), floats):
        again = cl.load(tmp_path / "f.safetensors", like=like)
        assert torch.equal(again(TOKENS), floats(TOKENS))


@pytest.mark.parametrize("stage", [cl.Weights, cl.Dynamic])
@pytest.mark.parametrize("words", [1, 9, 4.0, "8"])
def test_bits_of_words_are_checked(stage, words):
    with pytest.raises(ValueError, match="words must be an integer from 2 to 8, or None"):
        stage(words=words)


def test_a_file_with_words_is_refused_by_another_model(tmp_path):
    small = cl.compress(language(), [cl.Weights(4, group=16)], TOKENS)
    cl.save(small, tmp_path / "k.safetensors")
    for other in (language(words=71), language("free"), nn.Sequential(nn.Linear(32, 32))):
        with pytest.raises(FileError):
            cl.load(tmp_path / "k.safetensors", like=other)


def test_a_table_that_is_not_finite_is_refused_and_the_model_stays():
    model = language()
    with torch.no_grad():
        model.words.weight[3, 3] = float("nan")
    before = model.words.weight.clone()
    with pytest.raises(ValueError, match="finite"):
        with_words(Codes(model, {}), WeightConfig(8, 16))
    assert torch.equal(model.words.weight.nan_to_num(), before.nan_to_num())


def test_a_packed_table_is_exported_with_its_row_shapes():
    table = weight_only.WeightOnlyEmbedding(
        round_to_nearest(torch.randn(20, 16), WeightConfig(8, 16))
    )
    program = torch.export.export(nn.Sequential(table), (torch.tensor([[1, 2]]),))
    assert torch.equal(program.module()(torch.tensor([[1, 2]])), table(torch.tensor([[1, 2]])))


@pytest.mark.parametrize("stage", [cl.LowRank(0.5), cl.CutChannels(0.5)])
@pytest.mark.parametrize("words", [8, None])
def test_what_was_cut_or_factored_before_comes_back_packed(stage, words, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5)
    )
    x = torch.randn(20, 32)
    small = cl.compress(model, [stage, cl.Weights(4, group=8, words=words)], x)
    cl.save(small, tmp_path / "k.safetensors")
    again = cl.load(tmp_path / "k.safetensors", like=model)
    assert torch.equal(again(x), small(x))
    assert [tuple(m.weight.shape) for m in (model[0], model[2])] == [(64, 32), (48, 64)]


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_looking_at_a_table_that_scales_its_rows_changes_none(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind(70, 32, max_norm=1.0), nn.Linear(32, 5))
    before = model[0].weight.detach().clone()
    cl.inspect(model, TOKENS)
    small = cl.compress(model, [cl.Weights(8)], TOKENS)
    cl.debug(model, small, TOKENS)
    cl.measure(model, TOKENS[0], batches=(1,))
    assert torch.equal(model[0].weight, before)


def test_a_layer_of_somebodys_own_may_have_a_memory():
    layer = nn.Linear(3, 2)
    layer.memory = torch.zeros(4)
    assert numbers(nn.Sequential(layer)).parameters == 8


def test_a_float_network_that_a_file_is_read_into_is_not_copied_twice():
    model = language()
    assert in_form_of({"layer.weight": (8, 8)}, {}, model) is model
    assert in_form_of({"layer.panels": (64,)}, {}, model) is not model
    assert type(model.layer) is nn.Linear


def test_a_file_has_its_layers_in_the_models_order(tmp_path):
    layers = [nn.Linear(16, 16) for _ in range(12)]
    small = cl.compress(nn.Sequential(*layers), [cl.Weights(4, group=16)], torch.randn(4, 16))
    cl.save(small, tmp_path / "k.safetensors")
    with safe_open(tmp_path / "k.safetensors", "pt") as file:
        assert list(json.loads(file.metadata()["layers"])) == [str(n) for n in range(12)]
