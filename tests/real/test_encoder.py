"""The sentence encoder against Hugging Face's BERT, and what compression leaves of the real one."""

import pytest
import torch

import compresslab as cl
from compresslab.real.encoder import SentenceEncoder, load_bert_, minilm, tokenizer, tokens_of
from compresslab.real.packages import installed
from compresslab.runtime import files
from compresslab.runtime.export import quietly

transformers = pytest.importorskip("transformers")
needs_weights = pytest.mark.skipif(installed("minilm") is None, reason="compresslab real minilm")
SIZES = {"words": 60, "width": 32, "layers": 2, "heads": 4, "hidden": 64, "length": 24}


def theirs(**changes):
    torch.manual_seed(0)
    config = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 24,
        "layer_norm_eps": 1e-12,
    }
    return transformers.BertModel(transformers.BertConfig(**config | changes)).eval()


TOKENS = torch.arange(36).view(3, 12) * 7 % 60
MASK = (torch.arange(12) < torch.tensor([[12], [7], [1]])).long()


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
def test_states_are_those_of_hugging_faces_bert(masked):
    model, mask = theirs(), MASK if masked else None
    ours = load_bert_(SentenceEncoder(**SIZES), model.state_dict()).eval()
    wanted = model(TOKENS, attention_mask=mask).last_hidden_state
    seen = MASK.bool() if masked else torch.ones_like(MASK, dtype=torch.bool)
    found = ours.states(TOKENS, mask)
    torch.testing.assert_close(found[seen], wanted[seen], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_vector_is_the_mean_of_what_the_mask_shows_and_has_length_one():
    torch.manual_seed(0)
    ours = SentenceEncoder(**SIZES).eval()
    found, states = ours(TOKENS, MASK), ours.states(TOKENS, MASK)
    means = torch.stack([s[: int(m.sum())].mean(0) for s, m in zip(states, MASK, strict=True)])
    torch.testing.assert_close(found, means / means.norm(dim=1, keepdim=True))
    alone = ours(TOKENS[1:2, :7])
    torch.testing.assert_close(found[1:2], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "tokens,mask,words",
    [
        (torch.zeros(3, dtype=torch.int64), None, r"\[n, length\], got \[3\]"),
        (TOKENS, MASK[:, :3], r"\[n, length\]"),
        (torch.zeros(1, 25, dtype=torch.int64), None, "at most 24 in a row, got 25"),
    ],
)
def test_tokens_and_masks_of_another_shape_are_refused(tokens, mask, words):
    with pytest.raises(ValueError, match=words):
        SentenceEncoder(**SIZES)(tokens, mask)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 3}, {"intermediate_size": 32}])
def test_weights_of_another_bert_are_refused(changes):
    with pytest.raises(RuntimeError, match="SentenceEncoder"):
        load_bert_(SentenceEncoder(**SIZES), theirs(**changes).state_dict())


def test_a_broken_file_is_said(tmp_path):
    path = tmp_path / "k.safetensors"
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match="does not hold the weights of all-MiniLM-L6-v2"):
        minilm(path)


# ---- the real one --------------------------------------------------------------------------------
PAIRS = [
    ("A man is eating food.", "Someone has a meal."),
    ("The stock market fell sharply.", "Share prices dropped today."),
    ("A girl plays the violin.", "A child makes music on an instrument."),
    ("How do I bake bread?", "What is a recipe for a loaf?"),
]


@needs_weights
@torch.no_grad()
def test_sentences_that_mean_the_same_are_near_each_other():
    network, words = minilm(), tokenizer()
    first, second = (network(*tokens_of(side, words)) for side in zip(*PAIRS, strict=True))
    near = first @ second.T
    assert torch.equal(near.argmax(1), torch.arange(4))
    assert float(near.diagonal().min()) > 0.4


@needs_weights
@torch.no_grad()
def test_its_vectors_are_those_of_hugging_faces_bert():
    from safetensors.torch import load_file

    words = tokenizer()
    tokens, mask = tokens_of([s for pair in PAIRS for s in pair], words)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    model = theirs(**sizes, vocab_size=30_522, num_attention_heads=12, max_position_embeddings=512)
    model.load_state_dict(load_file(installed("minilm")), strict=False)
    states = model(tokens, attention_mask=mask).last_hidden_state
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(
        minilm()(tokens, mask), torch.nn.functional.normalize(means), atol=1e-5, rtol=1e-4
    )


@needs_weights
@torch.no_grad()
def test_4_bits_with_words_at_8_are_a_quarter_of_the_file_and_the_same_vectors():
    network, words = minilm(), tokenizer()
    tokens, mask = tokens_of([s for pair in PAIRS for s in pair], words)
    wanted = network(tokens, mask)
    small = cl.compress(network, [cl.Weights(4, group=32)], tokens)
    dynamic = cl.compress(network, [cl.Dynamic()], tokens)
    floats = files.size(network)
    assert files.size(small) < 0.23 * floats
    assert files.size(dynamic) < 0.29 * floats
    assert float((small(tokens, mask) * wanted).sum(1).min()) > 0.94
    assert float((dynamic(tokens, mask) * wanted).sum(1).min()) > 0.98


@needs_weights
@torch.no_grad()
def test_our_int8_vectors_are_nearer_to_the_floats_than_onnx_runtimes(tmp_path):
    """Both with dynamic int8 layers and the words at 8 bits; files of about one size."""
    onnxruntime = pytest.importorskip("onnxruntime")
    quantization = pytest.importorskip("onnxruntime.quantization")
    network, words = minilm(), tokenizer()
    tokens, mask = tokens_of([s for pair in PAIRS for s in pair], words)
    floats, integers = tmp_path / "floats.onnx", tmp_path / "int8.onnx"
    with quietly():
        torch.onnx.export(
            network,
            (tokens, mask),
            str(floats),
            input_names=["tokens", "mask"],
            external_data=False,
        )
        quantization.quantize_dynamic(floats, integers)
    session = onnxruntime.InferenceSession(integers, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"tokens": tokens.numpy(), "mask": mask.numpy()})[0]
    ours = cl.compress(network, [cl.Dynamic()], tokens)
    wanted = network(tokens, mask)
    nearness = [(wanted * v).sum(1).mean() for v in (ours(tokens, mask), torch.from_numpy(theirs))]
    assert 1 - float(nearness[0]) < 0.5 * (1 - float(nearness[1]))
    assert files.size(ours) < 1.05 * integers.stat().st_size


@pytest.mark.parametrize("sentences", [[], "", "a man eats"])
def test_no_sentences_and_a_single_text_are_refused(sentences):
    with pytest.raises(ValueError, match="sentences must be a list of at least one"):
        tokens_of(sentences, None)


def test_inspect_says_what_to_do_with_a_network_of_words():
    """It clamps a sum of its mask, integers that no graph of layers follows."""
    network = SentenceEncoder(50, 8, 1, 2, 8, 16).eval()
    seen = cl.inspect(
        network, torch.randint(50, (2, 5), generator=torch.Generator().manual_seed(0))
    )
    assert not seen.can("integers")
    assert (
        "int8 inputs by Dynamic() or packed weights by Weights()" in seen.obstacles["integers"][0]
    )
    assert seen.can("dynamic int8")
