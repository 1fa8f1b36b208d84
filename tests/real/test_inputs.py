"""Photographs, sentences and text that need no download."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_images

from compresslab.data import corpus
from compresslab.real import inputs


def test_photographs_have_three_channels_from_minus_one_to_one_and_are_not_flat():
    found = inputs.photographs(12, "test", size=64)
    assert found.shape == (12, 3, 64, 64)
    assert found.dtype == torch.float32
    assert -1 <= float(found.min()) < float(found.max()) <= 1
    assert float(found.flatten(1).std(1).min()) > 0.01


def test_one_seed_gives_the_same_crops_and_another_gives_others():
    one, again, other = (inputs.photographs(6, "test", 32, seed=s) for s in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_calibration_and_test_come_from_different_halves(monkeypatch):
    """On photographs that are black on the left and white on the right."""
    photo = np.zeros((200, 300, 3), np.uint8)
    photo[:, 150:] = 255
    monkeypatch.setattr(inputs, "_whole", lambda: [photo, photo])
    assert bool((inputs.photographs(8, "calibration", 16) == -1).all())
    assert bool((inputs.photographs(8, "test", 16) == 1).all())


def test_a_crop_is_a_part_of_its_photograph(monkeypatch):
    """A photograph whose numbers say where they stand: a crop of it rises at the rate of its own size."""
    china = load_sample_images().images[0]
    assert china.shape == (427, 640, 3)
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 400, 3))
    monkeypatch.setattr(inputs, "_whole", lambda: [np.ascontiguousarray(ramp)])
    for crop in inputs.photographs(5, "test", 96):
        rows = (crop[0, :, 0] + 1) * 127.5
        assert 90 <= float(rows[-1] - rows[0]) <= 199
        assert bool((rows.diff() >= 0).all())


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((0, "test"), "count must be at least 1"),
        ((1, "test", 4), "size at least 8"),
        ((1, "train"), "half must be calibration or test, got 'train'"),
    ],
)
def test_photographs_refuse_what_cannot_be(arguments, words):
    with pytest.raises(ValueError, match=words):
        inputs.photographs(*arguments)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 500), st.integers(0, 10))
def test_a_sentence_stands_in_front_of_its_successor(count, seed):
    first, second = inputs.sentences(count, seed)
    assert 1 <= len(first) == len(second) <= count
    texts = [text for part in corpus.PARTS for text in inputs.text(part)]
    whole = " ".join(" ".join(texts).split())
    for one, other in list(zip(first, second, strict=True))[:20]:
        assert f"{one} {other}" in whole


def test_there_are_enough_sentences_for_the_lab():
    first, _ = inputs.sentences(144)
    assert len(first) == 144 == len(set(first))


def test_text_is_that_of_the_corpus_and_another_part_is_refused():
    assert inputs.text("test") == list(corpus.topics("test"))
    with pytest.raises(ValueError, match="part must be one of train, val, test, got 'dev'"):
        inputs.text("dev")
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        inputs.sentences(0)
