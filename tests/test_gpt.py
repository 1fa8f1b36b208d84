"""The language model: no look ahead, a cache that changes nothing, perplexity by its definition."""

import math

import pytest
import torch
from torch import nn

from compresslab import gpt, pretrained
from compresslab.data import corpus
from compresslab.data.corpus import Passages
from compresslab.training import fit, seed_everything


def model(length=12):
    seed_everything(0)
    made = gpt.GPT(40, length, width=16, layers=2, heads=2).eval()
    for p in made.parameters():
        if p.ndim == 2:
            p.data.mul_(5)
    return made


def tokens(n=3, length=12):
    return torch.randint(0, 40, (n, length), generator=torch.Generator().manual_seed(0))


def test_a_token_sees_only_those_before_it():
    network, x = model(), tokens()
    y = network(x)
    other = x.clone()
    other[:, 7] = (other[:, 7] + 1) % 40
    changed = network(other)
    assert torch.equal(y[:, :7], changed[:, :7])
    assert not torch.allclose(y[:, 7:], changed[:, 7:])


def test_attention_is_torchs():
    network, theirs = model(), nn.MultiheadAttention(16, 2, batch_first=True)
    ours = network.layers[0].attention
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(3, 12, 16)
    mask = torch.ones(12, 12, dtype=torch.bool).triu(1)
    assert torch.allclose(ours(x), theirs(x, x, x, attn_mask=mask)[0], atol=1e-5)


@pytest.mark.parametrize("parts", [[12], [5, 7], [1] * 12, [4, 1, 7]])
def test_a_cache_changes_nothing(parts):
    network, x = model(), tokens()
    caches = network.caches(3)
    got = torch.cat([network(part, caches) for part in x.split(parts, 1)], 1)
    assert torch.allclose(got, network(x), atol=1e-5)


def test_writing_takes_the_likeliest_token_each_time():
    network, prompt = model(), tokens(1, 3)[0]
    written = gpt.generate(network, prompt, 6)
    assert torch.equal(written[:3], prompt)
    for place in range(3, 9):
        assert int(written[place]) == int(network(written[None, :place])[0, -1].argmax())


def test_drawn_tokens_follow_the_seed_and_the_odds():
    network, prompt = model(), tokens(1, 3)[0]
    first = [gpt.generate(network, prompt, 8, 1.0, seed) for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    drawn = [int(gpt.generate(network, prompt, 1, 0.5, seed)[-1]) for seed in range(300)]
    odds = (network(prompt[None])[0, -1] / 0.5).softmax(0)
    top = int(odds.argmax())
    share, want = drawn.count(top) / 300, float(odds[top])
    assert abs(share - want) < 4 * math.sqrt(want * (1 - want) / 300) + 0.01


def test_an_even_guess_has_the_vocabulary_as_its_perplexity():
    network = model()
    network.norm.weight.data.zero_()
    x = tokens()
    assert abs(gpt.perplexity(network, Passages(x, x), 2) - 40) < 1e-3


def test_perplexity_is_the_geometric_mean_of_one_over_the_odds():
    network, x = model(), tokens()
    y = tokens(3).flip(0)
    odds = network(x).softmax(2).gather(2, y[..., None])[..., 0].double()
    want = float((1 / odds).log().mean().exp())
    assert abs(gpt.perplexity(network, Passages(x, y), 2) - want) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_perplexity_is_summed_finely_whatever_the_network_computes_in(dtype):
    network, x = model().to(dtype), tokens(40)
    y = x.flip(0)
    odds = network(x).double().softmax(2).gather(2, y[..., None])[..., 0]
    want = float((1 / odds).log().mean().exp())
    assert abs(gpt.perplexity(network, Passages(x, y), 40) / want - 1) < 1e-9


def test_it_learns_what_repeats():
    seed_everything(0)
    network = gpt.GPT(10, 8, width=16, layers=1, heads=2)
    x = (torch.arange(8)[None] + torch.arange(64)[:, None]) % 10
    data = Passages(x, (x + 1) % 10)
    options = {"optimizer": torch.optim.AdamW(network.parameters(), 0.01), "progress": False}
    fit(network, data, 20, 0.01, batch_size=16, loss=gpt.next_token_loss, **options)
    assert gpt.perplexity(network, data) < 1.2


def test_too_many_tokens_and_other_shapes_are_refused():
    network = model()
    with pytest.raises(ValueError, match="tokens must be at most 12 in a row, got 13"):
        network(tokens(1, 13))
    with pytest.raises(ValueError, match=r"tokens must be \[n, length\]"):
        network(tokens()[0])
    caches = network.caches(3)
    network(tokens(), caches)
    with pytest.raises(ValueError, match="at most 12 in a row, got 13"):
        network(tokens(3, 1), caches)
    for prompt, count, heat in (
        (tokens(1, 0)[0], 1, 0),
        (tokens()[0], 1, 0),
        (tokens()[0][:3], 1, -1),
    ):
        with pytest.raises(ValueError, match="prompt"):
            gpt.generate(network, prompt, count, heat)
    with pytest.raises(ValueError, match="at least one, got 0"):
        gpt.perplexity(network, Passages(tokens(0), tokens(0)))
    with pytest.raises(ValueError, match="multiple of 3 heads"):
        gpt.CausalAttention(16, 3)


# ---- the checkpoint ------------------------------------------------------------------------------
def test_the_checkpoint_is_small_and_reaches_what_it_says():
    assert pretrained.LANGUAGE.stat().st_size <= 2_000_000
    facts = pretrained.facts(pretrained.LANGUAGE)
    data = corpus.load("python", "val", 40_000)
    reached = gpt.perplexity(pretrained.language_model(), data)
    # A part of the validation files, of a library that differs a little from one Python to the next.
    assert abs(math.log(reached / facts["validation perplexity"])) < 0.25


@pytest.mark.slow
def test_its_command_makes_such_a_file(tmp_path):
    path = tmp_path / "gpt.safetensors"
    made = pretrained.make_language_model(path, epochs=0.3, tokens=30_000)
    assert made == pretrained.facts(path)
    assert made["validation perplexity"] < 1000
    data = corpus.load("python", "val", 30_000)
    reached = gpt.perplexity(pretrained.language_model(path), data)
    assert abs(reached - made["validation perplexity"]) < 0.1


def test_a_missing_checkpoint_names_its_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="compresslab checkpoint gpt"):
        pretrained.language_model(tmp_path / "gpt.safetensors")


def test_both_optimizers_follow_one_schedule():
    weight, bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2))
    first, second = torch.optim.SGD([weight], lr=0.1), torch.optim.SGD([bias], lr=0.05)
    also = pretrained.AlsoStep(second, first)

    class Run:
        optimizer = first

    first.param_groups[0]["lr"] = 0.02
    bias.grad = torch.ones(2)
    also.after_step(Run)
    assert torch.allclose(bias.detach(), torch.full((2,), 1 - 0.01))
    assert bias.grad is None
