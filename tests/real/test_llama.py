"""The decoder against Hugging Face's Llama, its file, its vocabulary, and what compression leaves of it."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

import compresslab as cl
from compresslab.gpt import generate
from compresslab.real.gguf import GgufError, read_gguf
from compresslab.real.llama import Llama, llama_from, rotate, rotations, smollm2, tokenizer_from
from compresslab.real.packages import installed
from compresslab.runtime import files

transformers = pytest.importorskip("transformers")
needs_weights = pytest.mark.skipif(installed("smollm2") is None, reason="compresslab real smollm2")
SIZES = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 64}


def theirs(tied):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
        rope_theta=100_000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config).eval()


def paired(weight, heads):
    """Rows i and i + d/2 of a head (Hugging Face) as 2i and 2i + 1 (GGUF)."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def as_gguf(model, path, kind=Type.F32, **changes):
    """A file of Hugging Face's model, as llama.cpp's converter arranges it."""
    about = {
        "context_length": 48,
        "embedding_length": 32,
        "block_count": 2,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "feed_forward_length": 64,
        "rope.freq_base": 100_000.0,
        "attention.layer_norm_rms_epsilon": 1e-5,
    } | changes
    writer = gguf.GGUFWriter(path, changes.get("architecture", "llama"))
    for key, value in about.items():
        writer.add_key_value(f"llama.{key}", value, gguf.GGUFValueType.get_type(value))
    writer.add_token_list([f"w{n}" for n in range(64)])
    for name, weight in model.state_dict().items():
        weight, name = weight.detach(), name.removeprefix("model.").removesuffix(".weight")
        if name == "lm_head" and model.config.tie_word_embeddings:
            continue
        if name.startswith("layers."):
            _, index, part = name.split(".", 2)
            heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(part)
            weight = paired(weight, heads) if heads else weight
            name = f"blk.{index}.{NAMES[part]}"
        name = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}.get(
            name, name
        )
        array = np.ascontiguousarray(weight.numpy())
        type_ = kind if array.ndim == 2 else Type.F32
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(array, type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_gguf(path)


TOKENS = torch.arange(40).view(2, 20) * 7 % 64


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_the_decoder_computes_what_hugging_faces_llama_does(tied, tmp_path):
    model = theirs(tied)
    ours = llama_from(as_gguf(model, tmp_path / "k.gguf"))
    torch.testing.assert_close(ours(TOKENS), model(TOKENS).logits, atol=1e-5, rtol=1e-4)
    assert (ours.head.weight is ours.words.weight) is tied


@torch.no_grad()
@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_1, Type.F16])
def test_a_quantized_file_is_read_as_what_its_codes_mean(kind, tmp_path):
    file = as_gguf(theirs(True), tmp_path / "k.gguf", kind)
    ours = llama_from(file)
    known = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type)
        for t in gguf.GGUFReader(file.path).tensors
    }
    assert np.array_equal(ours.words.weight.numpy(), known["token_embd.weight"])
    assert np.array_equal(
        ours.layers[1].feedforward.down.weight.numpy(), known["blk.1.ffn_down.weight"]
    )


@torch.no_grad()
def test_a_cache_continues_a_sequence_in_one_step_or_in_several():
    torch.manual_seed(1)
    model = Llama(64, 48, **SIZES).eval()
    whole, caches = model(TOKENS), model.caches(2, 20)
    parts = [model(TOKENS[:, a:b], caches) for a, b in ((0, 7), (7, 8), (8, 20))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_writing_takes_the_likeliest_token_each_time():
    torch.manual_seed(1)
    model = Llama(64, 48, **SIZES).eval()
    tokens = TOKENS[0, :5]
    for _ in range(6):
        tokens = torch.cat([tokens, model(tokens[None])[0, -1:].argmax(-1)])
    assert torch.equal(generate(model, TOKENS[0, :5], 6), tokens)


def test_rotations_are_complex_products():
    turns, x = rotations(3, 8, 6, 100.0), torch.randn(2, 5, 6)
    speeds = 100.0 ** (-torch.tensor([0.0, 2.0, 4.0]) / 6)
    angles = torch.polar(torch.ones(5, 3), torch.arange(3, 8)[:, None] * speeds)
    wanted = torch.view_as_complex(x.view(2, 5, 3, 2)) * angles
    torch.testing.assert_close(rotate(x, turns), torch.view_as_real(wanted).flatten(-2))


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"architecture": "gpt2"}, "must hold a llama, found 'gpt2'"),
        ({"block_count": 3}, "holds another network: layers.2"),
        ({"feed_forward_length": 96}, "must be"),
        ({"attention.head_count": 0}, "does not say its sizes"),
        ({"embedding_length": "wide"}, "does not say its sizes"),
        ({"embedding_length": 1 << 20}, "must be"),
        ({"block_count": 0}, "does not say its sizes"),
        ({"context_length": 0}, "positive integer, found 0"),
        ({"context_length": "48"}, "positive integer, found '48'"),
        ({"rope.freq_base": float("nan")}, "must be positive, found nan"),
        ({"rope.scaling.type": "linear"}, "rope.scaling.type must be 'none' or missing"),
        ({"rope.scaling.factor": 4.0}, "rope.scaling.factor must be 1.0 or missing"),
        ({"rope.dimension_count": 4}, "rope.dimension_count must be 8 or missing"),
        ({"logit_scale": 2.0}, "logit_scale must be 1.0"),
        ({"attention.scale": 0.5}, "attention.scale must be missing"),
        ({"expert_count": 4}, "expert_count must be 0"),
    ],
)
def test_files_of_other_networks_are_refused(changes, words, tmp_path):
    with pytest.raises(GgufError, match=words):
        llama_from(as_gguf(theirs(True), tmp_path / "k.gguf", **changes))


@pytest.mark.parametrize("shape", [(5,), (1, 1, 5), (1, 49)])
def test_tokens_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="tokens must be"):
        Llama(64, 48, **SIZES)(torch.zeros(shape, dtype=torch.int64))


def test_a_vocabulary_of_another_kind_is_refused(tmp_path):
    with pytest.raises(GgufError, match="vocabulary of SmolLM2"):
        tokenizer_from(as_gguf(theirs(True), tmp_path / "k.gguf"))


# ---- the real one --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def real():
    return smollm2(), tokenizer_from(read_gguf(installed("smollm2")))


TEXT = (
    "The capital of France is Paris. Water boils at 100 degrees Celsius. A week has seven days, and a year "
    "has twelve months. The sun rises in the east and sets in the west."
)


@needs_weights
def test_words_become_tokens_and_words_again(real):
    tokenizer = real[1]
    for text in (TEXT, "déjà vu 2026\n\t<|im_start|>user", "  two  spaces", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert tokenizer.encode("<|im_start|>").ids == [1]
    assert len(tokenizer.encode("2026").ids) == 4


@needs_weights
def test_it_knows_the_capital_of_france(real):
    model, tokenizer = real
    prompt = torch.tensor(tokenizer.encode("The capital of France is").ids)
    assert tokenizer.decode(generate(model, prompt, 1)[len(prompt) :].tolist()) == " Paris"


@needs_weights
@torch.no_grad()
def test_its_file_is_smaller_than_the_gguf_and_8_bits_lose_nothing(real, tmp_path):
    """The GGUF has 4 bits for layers and 8 for words, as we do; its blocks hold a minimum in 16 bits more."""
    model, tokenizer = real
    tokens = torch.tensor([tokenizer.encode(TEXT).ids])

    def loss(network):
        logits = network(tokens)[0, :-1]
        return float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:]))

    four = cl.compress(model, [cl.Weights(4, group=32)], tokens)
    assert files.size(four) < 0.95 * installed("smollm2").stat().st_size
    eight = cl.compress(model, [cl.Weights(8, group=32)], tokens)
    assert abs(loss(eight) - loss(model)) < 0.03
    assert loss(four) - loss(model) < 0.5
    cl.save(four, tmp_path / "k.safetensors")
    again = cl.load(tmp_path / "k.safetensors", like=model)
    assert torch.equal(again(tokens), four(tokens))
