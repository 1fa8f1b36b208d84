"""A memory of few bits: round trips against their formula, reading in steps and at once, files."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from compresslab.gpt import GPT, divergence, losses_read_in_steps, perplexity
from compresslab.real.llama import Llama
from compresslab.techniques import key_values as kv
from compresslab.writing import FileError

TOKENS = torch.randint(0, 40, (2, 20), generator=torch.Generator().manual_seed(0))


class Text:
    """Passages as `data.corpus` has them."""

    x, y = TOKENS[:, :-1], TOKENS[:, 1:]

    def __len__(self):
        return len(self.x)


def gpt():
    torch.manual_seed(0)
    model = GPT(40, 32, width=16, layers=2, heads=2).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    return model


def llama():
    torch.manual_seed(0)
    return Llama(40, 32, width=16, layers=2, heads=4, kv_heads=2, hidden=24).eval()


@given(st.integers(0, 99), st.integers(2, 8), st.sampled_from(kv.AXES), st.integers(1, 5))
def test_a_number_moves_by_half_a_step_and_the_rounding_of_the_ends(seed, bits, axis, tokens):
    x = torch.randn(2, 3, tokens, 4, generator=torch.Generator().manual_seed(seed))
    block = kv.QuantizedBlock(x, bits, axis)
    over = 2 if axis == "channel" else 3
    span = x.amax(over, keepdim=True) - x.amin(over, keepdim=True)
    slack = 0.5 * span / (2**bits - 1) + 2e-3 * x.abs().max() + 2e-3 * span
    assert bool(((block.restored() - x).abs() <= slack).all())
    ends = x.numel() // x.shape[over]
    assert block.nbytes == -(-x.numel() * bits // 8) + 4 * ends


def test_equal_numbers_and_large_ones_come_back():
    same = torch.full((1, 1, 4, 2), 3.0)
    assert torch.equal(kv.QuantizedBlock(same, 4, "channel").restored(), same)
    large = torch.tensor([0.0, 60000.0]).expand(1, 1, 3, 2)
    assert torch.allclose(kv.QuantizedBlock(large, 8, "token").restored(), large, rtol=1e-3)


@pytest.mark.parametrize("make", [gpt, llama], ids=["GPT", "Llama"])
def test_until_a_group_is_full_it_reads_as_with_floats(make):
    model = make()
    with torch.no_grad():
        parts = []
        caches = kv.quantized_caches(model, 2, group=32)
        for part in TOKENS.split(7, 1):
            parts.append(model(part, caches))
        assert torch.allclose(torch.cat(parts, 1), model(TOKENS), atol=1e-4)
    assert [c.filled for c in caches] == [20, 20]


@pytest.mark.parametrize("make", [gpt, llama], ids=["GPT", "Llama"])
def test_more_bits_are_nearer_to_floats(make):
    model = make()
    with torch.no_grad():
        wanted, error = model(TOKENS), {}
        for bits in (2, 4, 8):
            caches = kv.quantized_caches(model, bits, group=4)
            found = torch.cat([model(part, caches) for part in TOKENS.split(4, 1)], 1)
            error[bits] = float((found - wanted).square().mean())
    assert 0 < error[8] < 0.1 * error[4] < 0.1 * error[2]


def test_the_newest_tokens_are_floats_and_the_others_codes():
    caches = kv.quantized_caches(gpt(), 4, group=8)
    with torch.no_grad():
        gpt()(TOKENS, caches)
    assert [len(blocks) for blocks in caches[0].blocks] == [2, 2]
    assert [x.shape[2] for x in caches[0].latest] == [4, 4]
    floats = (
        2 * 2 * 2 * 4 * 8 * 2
    )  # keys and values, 2 texts, 2 heads, 4 tokens, 8 numbers, 2 bytes
    codes = 2 * 2 * (2 * 2 * 8 * 8 // 2) + 2 * 4 * 2 * 2 * 8 + 2 * 4 * 2 * 2 * 8
    assert caches[0].nbytes == floats + codes
    assert kv.nbytes(caches) == 2 * caches[0].nbytes


def test_floats_count_sixteen_bits_of_what_is_filled():
    model = gpt()
    caches = model.caches(2)
    with torch.no_grad():
        model(TOKENS, caches)
    assert kv.nbytes(caches) == 2 * 2 * (2 * 2 * 20 * 8) * 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 1}, "bits must be"),
        ({"bits": True}, "bits must be"),
        ({"group": 0}, "group must be"),
        ({"keys": "head"}, "keys must be"),
        ({"values": ""}, "values must be"),
    ],
    ids=str,
)
def test_other_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        kv.QuantizedCache(**options)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -1e6])
def test_what_float16_does_not_hold_is_refused(number):
    with pytest.raises(ValueError, match="finite and at most 65,504"):
        kv.QuantizedBlock(torch.full((1, 1, 2, 2), number), 4, "token")


# ---- files ---------------------------------------------------------------------------------------
def read_so_far(bits=4, group=8):
    model = gpt()
    caches = kv.quantized_caches(model, bits, group=group)
    with torch.no_grad():
        model(TOKENS[:, :-1], caches)
    return model, caches


@pytest.mark.parametrize(("bits", "group"), [(4, 8), (3, 5), (8, 32)])
def test_a_prompt_from_its_file_goes_on_as_it_would_have(tmp_path, bits, group):
    model, caches = read_so_far(bits, group)
    path = tmp_path / "prompt.safetensors"
    assert kv.save(caches, path) == path.stat().st_size
    again = kv.load(path)
    with torch.no_grad():
        found = [model(TOKENS[:, -1:], c) for c in (again, caches)]
    assert torch.equal(*found)


def test_nothing_read_is_not_written(tmp_path):
    for caches in ([], kv.quantized_caches(gpt()), gpt().caches()):
        with pytest.raises(ValueError, match="caches must be"):
            kv.save(caches, tmp_path / "no")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", [{"bits": 3}, {"group": 5}, {"keys": "token"}])
def test_layers_of_different_settings_are_not_written(tmp_path, other):
    model = gpt()
    caches = [kv.QuantizedCache(**({"bits": 4, "group": 8} | more)) for more in ({}, other)]
    with torch.no_grad():
        model(TOKENS, caches)
    with pytest.raises(ValueError, match="same settings"):
        kv.save(caches, tmp_path / "no")
    assert not list(tmp_path.iterdir())


def test_sizes_that_overflow_are_named(tmp_path):
    path = tmp_path / "prompt.safetensors"
    latest = torch.zeros(1, 1, 0, 2**60)
    none, ends = torch.zeros(0, dtype=torch.uint8), torch.zeros(1, 1, 16, 1).half()
    tensors = {f"0/{w}/latest": latest for w in range(2)}
    for what in range(2):
        tensors |= {f"0/{what}/0/codes": none, f"0/{what}/0/step": ends, f"0/{what}/0/lo": ends}
    about = {"format": kv.FORMAT, "keys": "token", "values": "token", "bits": "4", "group": "16"}
    save_file(
        {k: t.clone() for k, t in tensors.items()}, path, about | {"layers": "1", "filled": "16"}
    )
    with pytest.raises(FileError, match="prompt"):
        kv.load(path)


def test_a_broken_file_is_named(tmp_path):
    _, caches = read_so_far()
    path = tmp_path / "prompt.safetensors"
    kv.save(caches, path)
    tensors, whole = load_file(path), path.read_bytes()
    with pytest.raises(FileNotFoundError):
        kv.load(tmp_path / "none")
    path.write_bytes(whole[:-3])
    with pytest.raises(FileError, match="prompt"):
        kv.load(path)
    about = {"format": kv.FORMAT, "keys": "channel", "values": "token", "bits": "4", "group": "8"}
    about |= {"layers": "2", "filled": "19"}
    broken = {
        "another format": (tensors, about | {"format": "x"}),
        "no number": (tensors, about | {"bits": "four"}),
        "nine bits": (tensors, about | {"bits": "9"}),
        "more layers": (tensors, about | {"layers": "3"}),
        "fewer layers": (tensors, about | {"layers": "1"}),
        "other tokens": (tensors, about | {"filled": "27"}),
        "endless": (tensors, about | {"filled": "9" * 12}),
        "a head": (tensors, about | {"keys": "head"}),
        "short codes": (tensors | {"0/0/0/codes": tensors["0/0/0/codes"][:-1]}, about),
        "floats": (tensors | {"0/1/0/step": tensors["0/1/0/step"].float()}, about),
        "NaN": (tensors | {"1/0/1/lo": tensors["1/0/1/lo"] * np.nan}, about),
        "latest": (tensors | {"1/1/latest": tensors["1/1/latest"][:, :1]}, about),
    }
    for parts, metadata in broken.values():
        save_file({name: t.contiguous() for name, t in parts.items()}, path, metadata)
        with pytest.raises(FileError, match="no whole file of a prompt"):
            kv.load(path)


# ---- how far two models are apart --------------------------------------------------------------------
def test_divergence_is_torchs():
    one, other = gpt(), gpt()
    with torch.no_grad():
        other.words.weight += 0.3 * torch.randn(other.words.weight.shape)
        p, q = (m(Text.x).double().log_softmax(-1) for m in (one, other))
    each = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    far = divergence(other, one, Text(), 1)
    assert far.mean == pytest.approx(float(each.mean()), rel=1e-6)
    assert far.tail == pytest.approx(float(each.flatten().quantile(0.99)), rel=1e-6)
    assert far.changed == float((p.argmax(-1) != q.argmax(-1)).double().mean())
    assert divergence(one, one, Text()) == (type(far))(0.0, 0.0, 0.0)


def test_read_in_steps_the_loss_is_that_of_reading_at_once():
    model = gpt()
    for step, batch in ((1, 2), (6, 1), (19, 2), (40, 1)):
        loss = losses_read_in_steps(model, Text(), model.caches, step, batch)
        assert loss.shape == (19,)
        assert float(loss.mean().exp()) == pytest.approx(perplexity(model, Text()), rel=1e-4)


def test_no_passages_and_no_step_are_refused():
    class Nothing(Text):
        x, y = TOKENS[:0, :-1], TOKENS[:0, 1:]

    for call in (
        lambda: divergence(gpt(), gpt(), Nothing()),
        lambda: losses_read_in_steps(gpt(), Nothing(), gpt().caches),
        lambda: losses_read_in_steps(gpt(), Text(), gpt().caches, 0),
    ):
        with pytest.raises(ValueError, match="passages"):
            call()
