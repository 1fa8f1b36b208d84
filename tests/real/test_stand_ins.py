"""Without the packages the architectures are the same, and everything runs."""

import pytest
import torch

from compresslab.real import stand_ins
from compresslab.real.packages import PACKAGES, installed


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(stand_ins, "installed", lambda _key: None)


@pytest.mark.parametrize(
    "key, millions", [("efficientnet", 4.65), ("minilm", 22.6), ("smollm2", 134.5)]
)
@torch.no_grad()
def test_a_stand_in_has_the_sizes_of_the_real_network(key, millions, nothing_installed):
    network = stand_ins.network(key)
    assert not network.training
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    if installed(key) is not None:
        shapes = {n: p.shape for n, p in stand_ins.network(key).named_parameters()}
        assert shapes == {n: p.shape for n, p in network.named_parameters()}


@torch.no_grad()
def test_tokens_are_drawn_where_there_is_no_vocabulary(nothing_installed):
    tokens, mask = stand_ins.sentence_tokens(["one", "two"])
    assert tokens.shape == mask.shape == (2, stand_ins.RANDOM_LENGTH)
    vectors = stand_ins.network("minilm")(tokens, mask)
    assert vectors.shape == (2, 384)
    passages = stand_ins.passages("test", 2, 16)
    assert passages.x.shape == (2, 16)
    assert torch.equal(passages.x[0, 1:], passages.y[0, :-1])


def test_what_is_missing_is_named(nothing_installed):
    assert stand_ins.missing() == list(PACKAGES)


@pytest.mark.skipif(installed("smollm2") is None, reason="compresslab real smollm2")
def test_passages_are_text_and_the_next_token_follows_each():
    found = stand_ins.passages("test", 3, 64, seed=1)
    assert found.x.shape == (3, 64)
    assert torch.equal(found.x[:, 1:], found.y[:, :-1])
    assert torch.equal(stand_ins.passages("test", 3, 64, seed=1).x, found.x)
    assert not torch.equal(stand_ins.passages("test", 3, 64, seed=2).x, found.x)


def test_an_unknown_network_is_refused(nothing_installed):
    with pytest.raises(
        ValueError, match="key must be one of efficientnet, minilm, smollm2, got 'resnet'"
    ):
        stand_ins.network("resnet")
