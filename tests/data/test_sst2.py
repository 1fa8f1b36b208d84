"""SST-2: sentences become tokens and labels, damaged files are named."""

import os
from pathlib import Path

import pytest

from compresslab.data import sst2

REAL = Path(os.environ.get("COMPRESSLAB_DATA") or Path(__file__).parents[3] / "shared" / "data")


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    whole = {
        "train": "a good film\t1\na bad , bad film\t0\n",
        "val": "good\t1\n",
        "test": "odd\t0\n",
    }
    for part, name in sst2.FILES.items():
        (folder / name).write_text(texts.get(part, whole[part]), encoding="utf-8")


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESSLAB_DATA", str(tmp_path))
    monkeypatch.setenv("COMPRESSLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_sentences_become_tokens_and_labels(here):
    write(here / "text")
    data = sst2.load()
    assert data.words[3:] == ("a", "bad", "film", ",", "good")
    assert data.text(data.train.x[1]) == "a bad , bad film"
    assert data.text(data.test.x[0]) == "<unknown>"
    assert data.train.y.tolist() == [1, 0]
    assert data.train.x.shape == (2, sst2.LENGTH)
    assert len(sst2.load(1).train) == 1


def test_a_long_sentence_is_cut(here):
    write(here, train="very " * 60 + "\t1\n")
    assert (sst2.load().train.x > 0).all()


@pytest.mark.parametrize("line", ["no label\n", "a film\t2\n", "\t1\n", "  \t0\n"])
def test_a_damaged_line_is_named(here, line):
    write(here, val="good\t1\n" + line)
    with pytest.raises(ValueError, match=r"sst2-dev\.tsv, line 2: expected a sentence"):
        sst2.load()


def test_empty_and_missing_files_are_named(here):
    with pytest.raises(FileNotFoundError, match=r"sst2-train\.tsv.* must lie in COMPRESSLAB_DATA"):
        sst2.load()
    write(here, test="")
    with pytest.raises(ValueError, match=r"sst2-test\.tsv: expected sentences, found none"):
        sst2.load()
    with pytest.raises(ValueError, match="train_size must be at least 1"):
        sst2.load(0)


@pytest.mark.skipif(not (REAL / "text").is_dir(), reason="no real SST-2 in COMPRESSLAB_DATA")
def test_the_real_one_has_its_known_counts(monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_DATA", str(REAL))
    data = sst2.load()
    assert [len(part) for part in (data.train, data.val, data.test)] == [6920, 872, 1821]
    assert 0.4 < float(data.train.y.double().mean()) < 0.6
