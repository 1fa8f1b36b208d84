"""Text: tokens that every Python cuts alike, windows that hide what they ask for, files kept apart."""

import ast
import keyword
import tokenize
from io import StringIO

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compresslab import pretrained
from compresslab.data import keywords as k
from compresslab.data.text import MASK, SPECIAL, Sequences, TextSplit, vocabulary
from compresslab.training import evaluate

SOURCE = '''
def found(self, x=1.5):  # a comment with if and for
    """A docstring, not a keyword: while."""
    if x is None and not self.rows:
        return [r"raw \\" for" for _ in range(0x1f)]
'''


def test_tokens_are_those_of_pythons_own_tokenizer():
    kept = (tokenize.NAME, tokenize.OP)
    theirs = [
        t.string for t in tokenize.generate_tokens(StringIO(SOURCE).readline) if t.type in kept
    ]
    ours = [t for t in k.tokens_of(SOURCE) if not t.startswith("<") or t in ("<", "<=")]
    assert ours == theirs


def test_keywords_in_strings_and_comments_are_not_found():
    tokens = k.tokens_of(SOURCE)
    assert tokens.count("for") == 1
    assert tokens.count("if") == 1
    assert "while" not in tokens
    assert tokens.count("<string>") == 2
    assert tokens.count("<number>") == 2


@pytest.mark.parametrize(
    "source,expected",
    [
        ("1if a else 2", ["<number>", "if", "a", "else", "<number>"]),
        (r'"""a \""" for b""" if c', ["<string>", "if", "c"]),
        ("x = .5e-3 + 0xFFor y", ["x", "=", "<number>", "+", "<number>", "or", "y"]),
        ("a.b(1.5).real", ["a", ".", "b", "(", "<number>", ")", ".", "real"]),
    ],
)
def test_what_is_hard_to_cut(source, expected):
    assert k.tokens_of(source) == expected


def test_lines_know_their_depth():
    tokens = k.tokens_of("if a:\n    b\n\n\n\tc\nd")
    assert [t for t in tokens if t.startswith("<line")] == ["<line 1>", "<line 1>", "<line 0>"]


@given(st.text(max_size=200))
def test_any_text_has_tokens(source):
    assert all(isinstance(token, str) and token for token in k.tokens_of(source))


def test_the_classes_are_keywords_and_follow_the_special_words():
    words = k.words()
    assert len(words) == len(set(words)) == k.WORDS
    assert words[: len(SPECIAL)] == SPECIAL
    assert words[len(SPECIAL) : len(SPECIAL) + len(k.CLASSES)] == k.CLASSES
    assert all(keyword.iskeyword(c) for c in k.CLASSES)


@pytest.fixture(scope="module")
def data():
    return k.load(3000)


def test_a_window_hides_its_keyword_and_no_other(data):
    middle = data.train.x[:, k.BEFORE]
    assert (middle == SPECIAL.index(MASK)).all()
    assert ((data.train.x == SPECIAL.index(MASK)).sum(1) == 1).all()
    assert data.train.x.shape == (3000, k.BEFORE + 1 + k.AFTER)
    assert len(data.val) == 2000
    assert len(data.test) == 4000
    assert set(data.train.y.tolist()) == set(range(len(k.CLASSES)))


def test_the_hidden_keyword_is_the_one_of_the_file():
    path = next(p for p in k.files() if p.name == "textwrap.py")
    tokens = k.tokens_of(path.read_text(encoding="utf-8"))
    numbers = {word: i for i, word in enumerate(k.words())}
    rows = k._windows(k._encoded(path, numbers))
    expected = [t for t in tokens if t in k.CLASSES]
    assert [k.CLASSES[label] for label in rows[:, 0]] == expected
    tree = ast.parse(path.read_text(encoding="utf-8"))
    returns = sum(isinstance(node, ast.Return) for node in ast.walk(tree))
    assert expected.count("return") == returns


def test_no_file_is_in_two_parts_and_the_same_seed_gives_the_same(data):
    parts = [k.part_of(p) for p in k.files()]
    assert all(parts.count(p) > 10 for p in ("train", "val", "test"))
    again = k.load(3000)
    assert torch.equal(again.train.x, data.train.x)
    assert not torch.equal(k.load(3000, seed=1).train.x, data.train.x)


def test_text_is_readable_again(data):
    text = data.text(data.train.x[0])
    assert "<mask>" in text
    assert "<nothing>" not in text
    assert "3,000" in repr(data)


def test_a_vocabulary_is_sorted_by_frequency_then_alphabet():
    words = vocabulary([("b", 2), ("a", 2), ("c", 9), ("must", 0)], 7, ("must",))
    assert words == (*SPECIAL, "must", "c", "a", "b")
    with pytest.raises(ValueError, match="size must be at least 4"):
        vocabulary([], 3, ("must",))


@pytest.mark.parametrize(
    "x,y,text",
    [
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), "x must be int64"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), "x must be int64"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2), "y must be int64"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), r"shape \[2\]"),
    ],
)
def test_sequences_and_labels_that_do_not_belong_together_are_refused(x, y, text):
    with pytest.raises(ValueError, match=text):
        Sequences(x, y)
    with pytest.raises(ValueError, match="train_size must be at least 1"):
        k.load(0)


# ---- the checkpoint --------------------------------------------------------------------------------
def test_the_teacher_is_as_good_as_its_file_says(data):
    facts = pretrained.facts()
    reached = evaluate(pretrained.keyword_teacher(), data.val)
    # Another Python has a slightly different library.
    assert abs(reached - facts["validation accuracy, %"]) < 3
    assert evaluate(pretrained.keyword_encoder(), data.val) < 20
    assert pretrained.KEYWORDS.stat().st_size < 2_000_000


def test_a_teacher_can_be_made_again(tmp_path):
    path = tmp_path / "new" / "teacher.safetensors"
    made = pretrained.make_keyword_teacher(path, epochs=0.5, train_size=1000, seed=3)
    assert made == pretrained.facts(path)
    assert made["examples"] == 1000
    assert not pretrained.keyword_teacher(path).training
    with pytest.raises(FileNotFoundError, match="compresslab checkpoint keywords"):
        pretrained.keyword_teacher(tmp_path / "none")


def test_a_split_says_what_it_is(data):
    assert isinstance(data, TextSplit)
    assert data.length == 24
