"""Rotations compute the same, against matrices of SciPy and runs of the model; outliers are spread."""

import copy

import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compresslab.gpt import GPT
from compresslab.network.select import linear_layers, matrix
from compresslab.network.taps import tapped
from compresslab.real.llama import Llama
from compresslab.techniques import rotation
from compresslab.techniques.dynamic_inputs import round_inputs

TOKENS = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(0))


def gpt():
    torch.manual_seed(0)
    model = GPT(50, 16, width=24, layers=2, heads=4).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.3)  # gains, shifts and biases too
    return model


def llama(tied=True):
    torch.manual_seed(1)
    model = Llama(50, 16, width=24, layers=2, heads=4, kv_heads=2, hidden=40).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    if not tied:
        model.head.weight = nn.Parameter(torch.randn(50, 24))
    return model


MODELS = {"GPT": gpt, "Llama": llama, "Llama with a head": lambda: llama(False)}
every = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@pytest.mark.parametrize("n", [1, 2, 4, 12, 16, 20, 24, 40, 144, 240, 576, 1536])
def test_a_hadamard_matrix_has_entries_of_one_size_and_orthogonal_rows(n):
    matrix = rotation.hadamard(n).double()
    assert torch.allclose(matrix.abs(), torch.full((n, n), n**-0.5).double(), atol=1e-6)
    assert torch.allclose(matrix @ matrix.T, torch.eye(n).double(), atol=1e-5)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_for_powers_of_two_it_is_scipys(n):
    assert torch.allclose(
        rotation.hadamard(n), torch.tensor(scipy.linalg.hadamard(n) / n**0.5).float()
    )


@given(st.sampled_from([1, 2, 12, 24, 64, 80, 240]), st.integers(0, 4), st.integers(0, 99))
def test_the_fast_way_is_the_matrix(n, rows, seed):
    x = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(rotation.turned(x), x @ rotation.hadamard(n).T, atol=1e-4)


@pytest.mark.parametrize("n", [0, 3, 6, 28, 2.0, True, -4])
def test_an_order_that_nobody_built_is_refused(n):
    with pytest.raises(ValueError, match="n must be"):
        rotation.hadamard(n)


@every
def test_a_turned_model_computes_the_same_and_the_one_given_stays(make):
    model = make()
    before, state = model(TOKENS), copy.deepcopy(model.state_dict())
    turned = rotation.rotated(model, [TOKENS])
    assert torch.allclose(turned(TOKENS), before, atol=2e-3 * float(before.detach().std()))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())
    assert torch.equal(model(TOKENS), before)


@every
def test_its_stream_is_the_old_one_in_other_axes(make):
    """Behind plain norms: what a layer reads is what it read before the gain, turned."""
    model = make()
    plain = rotation.rotated(model, [TOKENS], torch.eye(24))
    turn = rotation.random_orthogonal(24, 3)
    turned = rotation.rotated(model, [TOKENS], turn)
    name = next(n for n in linear_layers(plain) if n.endswith(("qkv", "query")))
    seen = []
    for one in (plain, turned):
        with tapped({name: one.get_submodule(name)}, before=lambda _, __, x: seen.append(x[0])):
            one(TOKENS)
    assert torch.allclose(seen[0] @ turn, seen[1], atol=1e-3)


@every
def test_writing_goes_on_with_a_cache(make):
    turned = rotation.rotated(make(), [TOKENS])
    caches = turned.caches(3, 12)
    with torch.no_grad():
        parts = [turned(TOKENS[:, :5], caches), turned(TOKENS[:, 5:], caches)]
    assert torch.allclose(torch.cat(parts, 1), turned(TOKENS), atol=1e-3)


def test_a_lone_outlier_is_spread_evenly():
    x = torch.zeros(1, 64)
    x[0, 17] = 8
    assert torch.allclose(rotation.turned(x).abs(), torch.ones(1, 64), atol=1e-5)


def test_inputs_that_are_turned_while_it_runs_compute_the_same():
    model = gpt()
    names = [n for n in linear_layers(model) if n.endswith("feedforward.2")]
    turned = rotation.with_turned_inputs(model, names)
    assert torch.allclose(turned(TOKENS), model(TOKENS), atol=1e-3)
    with pytest.raises(ValueError, match="nothing"):
        rotation.with_turned_inputs(model, ["nothing"])


def test_what_something_else_reads_is_refused():
    class Adds(nn.Module):
        """A stream that is also read past its norm."""

        def __init__(self):
            super().__init__()
            self.words, self.norm = nn.Embedding(50, 24), nn.RMSNorm(24)
            self.layer, self.head = nn.Linear(24, 24), nn.Linear(24, 50)

        def forward(self, x):
            x = self.words(x)
            x = x + self.layer(self.norm(x))
            return self.head(self.norm(x)) + x[..., :1]

    with pytest.raises(ValueError, match="something beside the layers found"):
        rotation.rotated(Adds().eval(), [TOKENS])


@pytest.mark.parametrize(
    ("turn", "words"),
    [(torch.eye(23), r"must be \[24, 24\]"), (torch.ones(24, 24), "must be orthogonal")],
    ids=["another width", "not orthogonal"],
)
def test_a_matrix_that_is_no_rotation_is_refused(turn, words):
    with pytest.raises(ValueError, match=f"turn {words}"):
        rotation.rotated(gpt(), [TOKENS], turn)


def test_without_inputs_or_norms_it_says_so():
    with pytest.raises(ValueError, match="inputs must hold"):
        rotation.rotated(gpt(), [])
    with pytest.raises(ValueError, match="norm"):
        rotation.rotated(nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50)), [TOKENS])


# ---- inputs rounded as they come ---------------------------------------------------------------------
@pytest.mark.parametrize("sharing", ["token", "layer"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_a_layer_reads_is_on_a_symmetric_grid(bits, sharing):
    layer = nn.Linear(8, 3)
    x = torch.randn(5, 8)
    few = round_inputs(nn.Sequential(layer), bits, sharing)
    high = 2 ** (bits - 1) - 1
    scale = x.abs().amax(1, keepdim=True) / high if sharing == "token" else x.abs().max() / high
    expected = layer((x / scale).round().clamp(-high, high) * scale)
    assert torch.allclose(few(x), expected, atol=1e-6)
    assert torch.equal(matrix(few[0].layer), matrix(layer))


def test_layers_that_are_skipped_read_floats_and_zeros_stay_zeros():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    few = round_inputs(model, 4, skip=["1"])
    assert type(few[1]) is nn.Linear
    assert bool(few(torch.zeros(2, 4)).isfinite().all())
    for arguments, words in (
        ((9,), "bits"),
        ((4, "row"), "sharing"),
        ((4, "token", ["2"]), "skip"),
    ):
        with pytest.raises(ValueError, match=words):
            round_inputs(model, *arguments)


def test_a_token_of_zeros_stays_zeros_in_half_precision():
    few = round_inputs(nn.Sequential(nn.Linear(8, 8, bias=False)).half(), 8)
    found = few(torch.zeros(2, 8).half())
    assert found.dtype == torch.float16
    assert not found.any()


def test_torchs_own_encoder_layer_is_refused_by_name():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)).eval()
    for call in (
        lambda: round_inputs(model, 8),
        lambda: rotation.with_turned_inputs(model, ["0.linear1"]),
    ):
        with pytest.raises(ValueError, match="fast path"):
            call()


# ---- networks of others, and what is left as it was --------------------------------------------------
SMALL = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
THEIRS = {
    "GPT2": {"vocab_size": 50, "n_layer": 2, "n_head": 2, "n_embd": 16},
    "Llama": SMALL | {"intermediate_size": 24, "num_key_value_heads": 1},
    "Qwen2": SMALL | {"intermediate_size": 24, "num_key_value_heads": 1},
    "Gemma": SMALL | {"intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8},
    "GPTNeoX": SMALL | {"intermediate_size": 24},
    "OPT": SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 16},
}


def of_transformers(kind):
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    torch.manual_seed(0)
    name = {"GPT2": "GPT2LMHeadModel"}.get(kind, f"{kind}ForCausalLM")
    model = getattr(transformers, name)(
        getattr(transformers, f"{kind}Config")(**THEIRS[kind])
    ).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    return model


@pytest.mark.parametrize("kind", THEIRS)
def test_networks_of_transformers_are_turned(kind):
    model = of_transformers(kind)
    before = model(TOKENS).logits
    turned = rotation.rotated(model, [TOKENS])
    assert torch.allclose(turned(TOKENS).logits, before, atol=2e-3 * float(before.detach().std()))
    assert torch.equal(model(TOKENS).logits, before)


def test_mode_seed_and_what_is_frozen_stay_as_they_were():
    model = gpt()
    model.requires_grad_(False).train()
    state = torch.get_rng_state()
    turned = rotation.rotated(model, [TOKENS])
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert not any(m.training for m in turned.modules())
    assert not any(p.requires_grad for p in turned.parameters())


def test_a_head_of_its_own_is_kept():
    model = gpt()
    model.own_head()
    with torch.no_grad():
        model.head.weight += 1
    turned = rotation.rotated(model, [TOKENS])
    wanted = model(TOKENS).detach()
    assert torch.allclose(turned(TOKENS), wanted, atol=2e-3 * float(wanted.std()))


def test_half_precision_is_refused_by_name():
    with pytest.raises(ValueError, match="must be in float32"):
        rotation.rotated(gpt().bfloat16(), [TOKENS])


@pytest.mark.parametrize("n", [8, 12, 48])
def test_gradients_go_through_the_fast_transform(n):
    x = torch.randn(3, n, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(n, dtype=torch.float64)
    (rotation.turned(x) @ weight).sum().backward()
    expected = (weight @ rotation.hadamard(n).double()).expand(3, n)
    assert torch.allclose(x.grad, expected, atol=1e-5)
