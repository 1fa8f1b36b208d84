"""Networks in half precision are counted, timed, tested and trained as they are."""

import copy

import pytest
import torch
from torch import nn

import compresslab as cl
from compresslab.data import Examples, load
from compresslab.gpt import GPT, generate
from compresslab.measure import count_layers, energy_microjoules, measure, race_networks
from compresslab.models import BiLSTM, Encoder, VGGLike
from compresslab.precision import as_taken
from compresslab.real.encoder import SentenceEncoder
from compresslab.real.llama import Llama
from compresslab.stages import Prune
from compresslab.training import evaluate, fit, logits

KINDS = [torch.bfloat16, torch.float16, torch.float64]
each = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture(scope="module")
def glyphs():
    return load("glyphs", train_size=400, seed=0)


@pytest.fixture(scope="module")
def network(glyphs):
    torch.manual_seed(0)
    network = VGGLike(glyphs, widths=(8, 8, 8))
    fit(network, glyphs.train, 1, progress=False)
    return network


@each
def test_answers_are_those_of_torch_on_images_of_that_format(network, glyphs, kind):
    cast = copy.deepcopy(network).to(kind)
    x = glyphs.test.x[:7]
    with torch.no_grad():
        wanted = cast(x.to(kind))
    found = logits(cast, x)
    assert found.dtype == kind
    assert torch.equal(found, wanted)
    assert x.dtype == torch.float32


@each
def test_a_cast_network_is_measured_with_its_own_bytes_and_bits(network, glyphs, kind):
    cast = copy.deepcopy(network).to(kind)
    bits = 8 * torch.empty(0, dtype=kind).element_size()
    row, floats = measure(cast, glyphs, batches=(1,)), measure(network, glyphs, batches=(1,))
    assert row.macs == floats.macs
    assert row.bops * 32**2 == floats.bops * bits**2
    assert row.bytes_disk < floats.bytes_disk if bits < 32 else row.bytes_disk > floats.bytes_disk
    assert row.accuracy == evaluate(cast, glyphs.test)
    assert row.latency[1].median > 0
    # The tensors themselves; a file has a head and the counters of its norms besides.
    assert row.bytes_memory == pytest.approx(floats.bytes_memory * bits / 32, rel=0.01)


def test_energy_of_half_precision_is_that_of_its_multiplier(network, glyphs):
    """Horowitz 2014: 1.1 + 0.4 pJ for a float16 multiplication and addition, 3.7 + 0.9 for float32."""
    half = count_layers(copy.deepcopy(network).half(), glyphs.shape)
    floats = count_layers(network, glyphs.shape)
    macs = sum(layer.macs for layer in floats)
    assert energy_microjoules(half, 0) == pytest.approx(1.5e-6 * macs)
    assert energy_microjoules(floats, 0) == pytest.approx(4.6e-6 * macs)


def test_casts_race_beside_the_floats(network, glyphs):
    casts = {str(k): copy.deepcopy(network).to(k) for k in (torch.float32, torch.bfloat16)}
    took = race_networks(casts, glyphs.test.x[:2], rounds=2)
    assert min(took.values()) > 0


def test_a_network_in_bfloat16_trains_as_it_is(glyphs):
    torch.manual_seed(1)
    network = VGGLike(glyphs, widths=(8, 8, 8)).bfloat16()
    run = fit(network, glyphs.train, 2, progress=False)
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert run.losses[-1] < run.losses[0]


@each
def test_inspect_counts_it_and_says_what_compress_says(network, glyphs, kind):
    cast = copy.deepcopy(network).to(kind)
    found = cl.inspect(cast, glyphs.test.x[:1])
    assert [layer.macs for layer in found.layers] == [
        layer.macs for layer in cl.inspect(network, glyphs.test.x[:1]).layers
    ]
    with pytest.raises(ValueError, match=r"must be in float32, .* network\.float\(\)") as error:
        cl.compress(cast, [Prune(0.5)], glyphs, epochs=1)
    assert all(why == (str(error.value),) for why in found.obstacles.values())
    assert set(found.obstacles) == set(cl.inspect(network, glyphs.test.x[:1]).obstacles)


def test_tokens_and_mixed_networks_get_what_they_are_given():
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    table = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)).bfloat16()
    assert as_taken(table, tokens) is tokens
    mixed = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).half())
    x = torch.ones(2, 3)
    assert as_taken(mixed, x) is x
    assert as_taken(nn.ReLU(), x) is x
    assert as_taken(nn.Linear(3, 3), x) is x


def test_labels_and_order_are_not_touched(network, glyphs):
    part = Examples(glyphs.test.x[:50], glyphs.test.y[:50])
    before = part.x.clone()
    evaluate(copy.deepcopy(network).half(), part)
    assert torch.equal(part.x, before)


def _language_models():
    torch.manual_seed(0)
    words = torch.randint(3, 40, (2, 12))
    return {
        "GPT": (GPT(40, 16, width=32, layers=2, heads=4), words),
        "Llama": (Llama(40, 16, 32, 2, 4, 2, 64), words),
        "SentenceEncoder": (SentenceEncoder(40, 32, 2, 4, 64, 16), words),
        "Encoder": (Encoder(40, 5, 12, width=32, layers=2, heads=4), words),
        "BiLSTM": (BiLSTM(40, 5, width=16, hidden=16), words),
    }


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", _language_models())
def test_networks_of_words_answer_in_any_format_as_in_floats(name, kind):
    network, words = _language_models()[name]
    network.eval()
    with torch.no_grad():
        wanted = network(words)
        found = copy.deepcopy(network).to(kind)(words)
    near = {torch.float16: 0.02, torch.bfloat16: 0.1, torch.float64: 1e-5}[kind]
    assert found.dtype == kind
    assert (found.double() - wanted).norm() < near * wanted.norm()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["GPT", "Llama"])
def test_a_language_model_writes_in_any_format_with_its_cache(name, kind):
    network, words = _language_models()[name]
    network = network.to(kind).eval()
    with torch.no_grad():
        caches = network.caches(2)
        first, then = network(words[:, :7], caches), network(words[:, 7:], caches)
        whole = network(words)
    assert caches[0].keys.dtype == kind
    near = {torch.float16: 0.01, torch.bfloat16: 0.08, torch.float64: 1e-12}[kind]
    assert (torch.cat([first, then], 1) - whole).norm() < near * whole.norm()
    assert len(generate(network, words[:1, :3].flatten(), 5)) >= 5
