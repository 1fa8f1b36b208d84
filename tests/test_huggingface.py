"""Quantizers, pruners and converters on models of Hugging Face, and on the folders users have."""

import pytest
import torch

from compresslab.network.select import linear_layers, matrix
from compresslab.runtime import weight_only
from compresslab.runtime.dynamic import convert_dynamic
from compresslab.techniques import gptq, lora, prune, ptq, scores, smoothing
from compresslab.techniques import weight_only as technique
from compresslab.techniques.quantizer import QuantConfig
from compresslab.techniques.weight_only import WeightConfig
from compresslab.training import seed_everything

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
WORDS = 60


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=32, n_embd=32, n_layer=2, n_head=2
    )
    return transformers.GPT2LMHeadModel(config)


def bert():
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=WORDS, hidden_size=32, **sizes)
    return transformers.BertForMaskedLM(config)


def llama():
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=WORDS, max_position_embeddings=32, **sizes, **heads)
    )


# Name, builder, linear layers with a weight of their own.
MODELS = [("gpt2", gpt2, 2 * 4), ("bert", bert, 2 * 6 + 1), ("llama", llama, 2 * 7 + 1)]


def built(build):
    seed_everything(0)
    model = build().eval()
    for p in model.parameters():
        p.requires_grad_(False)
        if p.ndim == 2:
            p.mul_(5)
    return model


def tokens(n=6, seed=0):
    return torch.randint(1, WORDS, (n, 16), generator=torch.Generator().manual_seed(seed))


def error(model, other):
    wanted = model(tokens()).logits
    return float((other(tokens()).logits - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name,build,count", MODELS)
def test_rounding_and_gptq_reach_every_layer(name, build, count):
    model = built(build)
    layers = linear_layers(model)
    assert len(layers) == count
    config = WeightConfig(3, 16)
    rounded = technique.quantize(model, config)
    optimized = gptq.quantize(model, [tokens(40, 1), tokens(40, 2)], config)
    assert set(rounded.layers) == set(optimized.layers) == set(layers)
    for one, codes in rounded.layers.items():
        assert codes.codes.shape == matrix(layers[one]).shape
    assert error(model, optimized.model) < 0.95 * error(model, rounded.model)
    assert error(model, technique.quantize(model, WeightConfig(8, 16)).model) < 0.02


@pytest.mark.parametrize("name,build,count", MODELS)
def test_packed_and_int8_models_compute_the_same(name, build, count):
    model = built(build)
    codes = technique.quantize(model, WeightConfig(4, 16))
    packed = weight_only.convert_weights(codes)
    assert len(weight_only.packed_layers(packed)) == count
    assert error(codes.model, packed) < 1e-4
    assert error(model, convert_dynamic(model)) < 0.03
    simulated = ptq.calibrate(ptq.prepare_layers(model, QuantConfig(8, 8)), tokens())
    assert 0 < error(model, simulated) < 0.06


@pytest.mark.parametrize("name,build,count", MODELS)
def test_weights_can_be_pruned_and_corrected(name, build, count):
    model = built(build)
    mask = prune.select(scores.magnitude(model), 0.5)
    mask.apply(model)
    assert abs(mask.sparsity - 0.5) < 0.01
    assert all(
        bool((m.weight[~mask.keep[n]] == 0).all()) for n, m in scores.prunable(model).items()
    )
    names = list(linear_layers(model))
    tuned = lora.add_lora(model, 2, layers=names)
    assert error(model, tuned) == 0
    assert len(lora.corrections(tuned)) == count


@pytest.mark.parametrize("name,build", [("gpt2", gpt2), ("llama", llama)])
def test_norms_in_front_of_layers_take_scales(name, build):
    model = built(build)
    found = smoothing.feeds(model, [tokens()])
    assert len(found) >= 4
    assert all(
        len(f.readers) == {"gpt2": 1, "llama": (3, 2)}[name] or name == "llama" for f in found
    )
    smoothed = smoothing.smooth(model, [tokens()])
    assert error(model, smoothed) < 1e-4
    assert any(
        not torch.equal(a, b)
        for a, b in zip(model.parameters(), smoothed.parameters(), strict=True)
    )


def test_berts_norms_feed_the_residual_and_are_refused():
    with pytest.raises(ValueError, match="only linear layers read its norms"):
        smoothing.smooth(built(bert), [tokens()])


@pytest.mark.parametrize("name,build,count", MODELS)
def test_a_users_folder_is_quantized_saved_and_read_back(name, build, count, tmp_path):
    """save_pretrained -> from_pretrained -> quantize -> one file -> a model built from the configuration."""
    built(build).save_pretrained(tmp_path / "folder")
    model = type(built(build)).from_pretrained(tmp_path / "folder").eval()
    codes = gptq.quantize(model, [tokens(40, 1)], WeightConfig(4, 16))
    packed = weight_only.convert_weights(codes)
    size = weight_only.save(packed, tmp_path / "packed.safetensors")
    assert size < (tmp_path / "folder" / "model.safetensors").stat().st_size
    fresh = type(model)(transformers.AutoConfig.from_pretrained(tmp_path / "folder")).eval()
    again = weight_only.load(tmp_path / "packed.safetensors", fresh)
    assert torch.equal(again(tokens()).logits, packed(tokens()).logits)
    # The float model with rounded weights goes back into a folder that anyone can read.
    codes.model.save_pretrained(tmp_path / "rounded")
    other = type(model).from_pretrained(tmp_path / "rounded").eval()
    assert torch.equal(other(tokens()).logits, codes.model(tokens()).logits)


def test_a_packed_gpt2_writes_the_same_text():
    model = built(gpt2)
    codes = technique.quantize(model, WeightConfig(4, 16))
    packed = weight_only.convert_weights(codes)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    written = [m.generate(tokens(1)[:, :4], **options) for m in (codes.model, packed)]
    assert torch.equal(*written)
