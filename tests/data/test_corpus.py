"""Running text: tokens that give the text back, passages that follow each other, parts kept apart."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compresslab.data import corpus


@given(st.text(max_size=200))
def test_any_text_has_tokens_that_give_it_back(text):
    tokens = corpus.encode([text])
    assert corpus.decode(tokens) == text
    assert bool((tokens < corpus.WORDS).all())


def test_frequent_words_are_one_token_and_the_vocabulary_is_full():
    assert corpus.tokenizer().get_vocab_size() == corpus.WORDS
    for word in (" self", " return", " the", "import"):
        assert len(corpus.encode([word])) == 1


@given(st.integers(2, 60), st.integers(1, 9))
def test_labels_are_the_tokens_one_further_on(count, length):
    tokens = torch.arange(count)
    if (count - 1) // length < 1:
        with pytest.raises(ValueError, match="tokens must hold"):
            corpus.cut(tokens, length)
        return
    passages = corpus.cut(tokens, length)
    assert torch.equal(passages.y, passages.x + 1)
    assert torch.equal(passages.x.flatten(), tokens[: passages.tokens])
    assert count - 1 - passages.tokens < length


@pytest.mark.parametrize("name", ["python", "documentation"])
def test_parts_share_no_passage(name):
    parts = [corpus.load(name, part, 8_000) for part in corpus.PARTS]
    assert all(7_800 < p.tokens <= 8_000 for p in parts)
    rows = [{tuple(row) for row in p.x.tolist()} for p in parts]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]


def test_no_paragraph_of_the_documentation_is_in_two_parts():
    texts = ["\n\n".join(corpus.topics(part)) for part in corpus.PARTS]
    parts = [{p.strip() for p in text.split("\n\n") if p.strip()} for text in texts]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert len(parts[0]) > 500


def test_some_are_drawn_by_seed_and_none_twice():
    passages = corpus.cut(torch.arange(1000), 9)
    drawn = [passages.some(20, seed).x[:, 0].tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 20
    assert len(passages.some(5000)) == len(passages)


def test_shakespeare_comes_from_the_data_folder(tmp_path, monkeypatch):
    folder = tmp_path / "text"
    folder.mkdir()
    text = "".join(f"Line {i}: to be or not to be.\n" for i in range(1000))
    (folder / corpus.SHAKESPEARE).write_text(text, encoding="utf-8")
    monkeypatch.setenv("COMPRESSLAB_DATA", str(tmp_path))
    starts = [corpus.decode(corpus.load("shakespeare", p).x[0]) for p in corpus.PARTS]
    assert starts[0].startswith("Line 0: to be")
    assert starts[1] in text[len(text) * 8 // 10 :]
    assert starts[2] in text[len(text) * 9 // 10 :]
    monkeypatch.setenv("COMPRESSLAB_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("COMPRESSLAB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match=r"tinyshakespeare\.txt is not at hand"):
        corpus.load("shakespeare")


def test_unknown_names_parts_and_shapes_are_refused():
    with pytest.raises(ValueError, match="name must be one of python"):
        corpus.load("perl")
    with pytest.raises(ValueError, match="part must be one of train"):
        corpus.load("python", "all")
    good = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="y must have x's shape"):
        corpus.Passages(good, good[:1])
    with pytest.raises(ValueError, match="x must be int64"):
        corpus.Passages(good.float(), good)
